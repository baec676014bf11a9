"""The examples in docstrings, run as Python's doctest runs them."""

import doctest
import importlib

import pytest

from cluster.ray_head import ROOT

ROOMS = "access bench cluster config deployments engines speech tracing voices watchdog webui".split()


def modules() -> list[str]:
    """Name the modules that have an example."""
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    parts = [file.relative_to(ROOT).with_suffix("").parts for file in files if "\n    >>> " in file.read_text()]
    return sorted(".".join(part for part in one if part != "__init__") for one in parts)


@pytest.mark.parametrize("name", modules())
def test_examples_do_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(name), report=True)
    assert results.attempted and not results.failed, f"{name}: {results}"


def test_the_tutorials_are_found():
    assert {"tracing", "tracing.sampling"} <= set(modules())
