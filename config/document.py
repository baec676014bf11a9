"""Writes docs/configuration.md from the settings models: every setting with its type, default and meaning.

    python -m config.document            # writes the file
    python -m config.document --check    # fails if the file is not current

The models are named as text and imported when the command runs, so that this room depends on no other.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

FILE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

<!-- Made by `python -m config.document` from the settings models. Do not edit it. -->

A Serve config file (`cluster/serve.cpu.yaml`) holds these settings. Unknown keys are errors that name the nearest known
key. `python -m cluster up --config FILE` starts the stack with your file.
"""
#: Each section: title, the place of the settings, the model.
SECTIONS = (
    ("The graph", "Place: `args` of the application `cosygraph`.", "deployments.settings:GraphConfig"),
    ("cosyvoice3-api, live", "Place: `user_config` of its deployment.", "deployments.settings:LiveApi"),
    (
        "Batching, live",
        "Place: `user_config` of embedding-service, tts-service and vocoder-service.",
        "deployments.settings:BatchSettings",
    ),
    ("The watchdog", "Place: `args` of the application `watchdog`.", "watchdog.settings:WatchdogSettings"),
    (
        "The scaling policy",
        "Place: `policy_kwargs` of the `autoscaling_policy` of the application `cosygraph` (docs/scaling.md).",
        "deployments.scaling.settings:ScalingSettings",
    ),
    ("The web page", "Place: `args` of the application `webui`.", "webui.deployment:WebUiConfig"),
    ("The key file", "Place: a YAML file, named by `access.keys_file`.", "access.keys:KeyFile"),
    (
        "The simulated engine",
        "Place: `engine_options` with `engine: simulated`. The options of other engines are in their docstrings\n"
        "(`engines/embedded/__init__.py`, `engines/cosyvoice3/__init__.py`).",
        "engines.simulated:Options",
    ),
)
_SIGNS = {Gt: "> {}", Ge: "≥ {}", Lt: "< {}", Le: "≤ {}", MinLen: "length ≥ {}", MaxLen: "length ≤ {}"}


def document() -> str:
    """The whole text of docs/configuration.md."""
    parts = [HEAD]
    shown: set[type[BaseModel]] = set()
    for title, place, name in SECTIONS:
        module, _, attribute = name.partition(":")
        model = getattr(import_module(module), attribute)
        parts.append(f"## {title}\n\n{place}\n")
        parts += _model(model, "", shown)
    return "\n".join(parts)


def _model(model: type[BaseModel], path: str, shown: set[type[BaseModel]]) -> Iterator[str]:
    """The table of a model, then those of the models inside it; each model once."""
    shown.add(model)
    inner = [(f"{path}{name}", found) for name, field in model.model_fields.items() for found in _models(field)]
    yield f"{cleandoc(model.__doc__ or '')}\n"
    yield "| setting | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        yield f"| `{path}{name}` | {_type(field)} | {_default(field)} | {meaning} |"
    yield ""
    for where, found in inner:
        if found not in shown:
            yield f"### `{where}`\n"
            yield from _model(found, f"{where}.", shown)
        else:
            yield f"`{where}` has the settings of {found.__name__}, above.\n"


def _models(field: FieldInfo) -> list[type[BaseModel]]:
    """The models in a field's type."""

    def inside(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for part in get_args(annotation):
            yield from inside(part)

    return list(inside(field.annotation))


def _type(field: FieldInfo) -> str:
    limits = [
        sign.format(_number(_value(rule)))
        for rule in _rules(field)
        for kind, sign in _SIGNS.items()
        if isinstance(rule, kind)
    ]
    return ", ".join([_named(field.annotation), *limits]).replace("|", "\\|")


def _rules(field: FieldInfo) -> list[Any]:
    """The limits of a field, also those inside `Annotated[…] | None`."""
    found = list(field.metadata)
    for part in get_args(field.annotation):
        if get_origin(part) is Annotated:
            for rule in part.__metadata__:
                found += rule.metadata if isinstance(rule, FieldInfo) else [rule]
    return found


def _value(limit: Any) -> float:
    """The value of a limit such as `Ge(1)`, whose only field has the limit's name."""
    [field] = fields(limit)
    value: float = getattr(limit, field.name)
    return value


def _number(value: float) -> str:
    return f"{value:,.10g}".replace(",", "_") if abs(value) >= 10_000 else f"{value:g}"


def _named(annotation: Any) -> str:
    """A type in words that people who write YAML know."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _named(args[0])
    if origin is Literal:
        return " or ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_named(arg) for arg in args if arg is not type(None))
    if origin is dict:
        return f"mapping of {_named(args[0])} to {_named(args[1])}"
    if origin in (tuple, frozenset, list):
        return f"list of {_named(args[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path", Any: "anything"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if value is None or value == "" or (isinstance(value, (tuple, frozenset, dict)) and not value):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, frozenset):
        return f"`[{', '.join(sorted(map(str, value)))}]`"
    if isinstance(value, (int, float)):
        return f"`{_number(value)}`"
    return f"`{value}`"


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or check it. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m config.document", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is not current")
    options = parser.parse_args(arguments)
    text = document()
    if not options.check:
        FILE.write_text(text, encoding="utf-8")
        return 0
    if FILE.is_file() and FILE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{FILE.name} is not current: run `python -m config.document`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
