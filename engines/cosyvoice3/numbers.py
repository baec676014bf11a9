"""Reads `cosyvoice3.yaml` as numbers, the sizes of the networks and the settings of sampling, and never as classes.

The file is HyperPyYAML, which on loading would import and call everything that its tags name (`!new:cosyvoice.llm…`).
Here a tag is only a label in front of a mapping, so a model directory can't run code. Keys for training alone are
ignored. Keys that this implementation supports in one form only (the solver, the time schedule) must have that form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from engines.contract import WeightsError

FILE = "cosyvoice3.yaml"
_REFERENCE = re.compile(r"<(\w+)>")


@dataclass(frozen=True)
class Sampling:
    """The settings of repetition-aware sampling (S. Chen et al., VALL-E 2, 2024, section 4.2.1)."""

    top_p: float
    top_k: int
    win_size: int
    tau_r: float


@dataclass(frozen=True)
class SpeechLm:
    llm_input_size: int
    llm_output_size: int
    speech_token_size: int  #: ids below are sound, ids from here on (200 of them) are control tokens
    sampling: Sampling


@dataclass(frozen=True)
class LookAhead:
    in_channels: int
    channels: int
    pre_lookahead_len: int  #: tokens


@dataclass(frozen=True)
class Dit:
    dim: int
    depth: int
    heads: int
    dim_head: int
    ff_mult: float
    mel_dim: int
    mu_dim: int
    spk_dim: int
    static_chunk_size: int  #: mel frames one chunk of streaming attention covers
    num_decoding_left_chunks: Literal[-1]


@dataclass(frozen=True)
class CfmParams:
    solver: Literal["euler"]
    t_scheduler: Literal["cosine"]
    inference_cfg_rate: float


@dataclass(frozen=True)
class _CfmContent:
    content: CfmParams


@dataclass(frozen=True)
class Cfm:
    cfm_params: _CfmContent
    estimator: Dit


@dataclass(frozen=True)
class Flow:
    input_size: int
    output_size: int
    spk_embed_dim: int
    vocab_size: int
    input_frame_rate: int
    token_mel_ratio: int
    pre_lookahead_len: int
    pre_lookahead_layer: LookAhead
    decoder: Cfm


@dataclass(frozen=True)
class Istft:
    n_fft: int
    hop_len: int


@dataclass(frozen=True)
class F0Predictor:
    num_class: Literal[1]
    in_channels: int
    cond_channels: int


@dataclass(frozen=True)
class Hift:
    in_channels: int
    base_channels: int
    nb_harmonics: int
    sampling_rate: int
    nsf_alpha: float
    nsf_sigma: float
    nsf_voiced_threshold: float
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    istft_params: Istft
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    source_resblock_kernel_sizes: tuple[int, ...]
    source_resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    lrelu_slope: float
    audio_limit: float
    conv_pre_look_right: int
    f0_predictor: F0Predictor


@dataclass(frozen=True)
class Numbers:
    """All numbers of the file that inference needs."""

    sample_rate: Literal[24000]
    token_frame_rate: Literal[25]
    token_mel_ratio: Literal[2]
    chunk_size: int  #: speech tokens
    llm: SpeechLm
    flow: Flow
    hift: Hift


def read(path: Path) -> Numbers:
    """Read the numbers in the file at `path`.

    Raises:
        WeightsError: the file can't be read, is not YAML, or lacks a number; the message names file and key.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"{path} can't be read as YAML ({type(error).__name__}). Fetch the file again.") from error
    if not isinstance(tree, dict):
        raise WeightsError(f"{path} holds no settings. Fetch the file again.")
    try:
        return _made(Numbers, _resolved(tree, tree), "")
    except _Unfit as error:
        raise WeightsError(f"{path}: {error}. This engine reads checkpoints of Fun-CosyVoice3; is this one?") from error


class _Unfit(ValueError):
    """The error of a key that is missing, or has a value that this engine can't run."""


def _made(kind: Any, value: Any, key: str) -> Any:
    """Convert `value` to `kind`: one of the classes above, a tuple of numbers, a literal or a number.

    Keys that no class has belong to training, or are labels, and are ignored.

    Raises:
        _Unfit: the value can't be converted; the error names the key.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise _Unfit(f"the key {key} must be a mapping, and is {value!r}" if key else "there are no settings")
        kinds, made = get_type_hints(kind), {}
        for each in fields(kind):
            inner = f"{key}.{each.name}" if key else each.name
            if each.name not in value:
                raise _Unfit(f"the key {inner} is required, and missing")
            made[each.name] = _made(kinds[each.name], value[each.name], inner)
        return kind(**made)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _Unfit(f"the key {key} must be a list, and is {value!r}")
        return tuple(_made(get_args(kind)[0], item, f"{key}.{index}") for index, item in enumerate(value))
    if get_origin(kind) is Literal:
        (only,) = get_args(kind)
        if isinstance(value, bool) or value != only:
            raise _Unfit(f"the key {key} is {value!r}, and this engine can only run {only!r}")
        return only
    wanted = (int, float) if kind is float else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise _Unfit(f"the key {key} must be {'a' if kind is float else 'a whole'} number, and is {value!r}")
    if kind is int and value < 1:
        raise _Unfit(f"the key {key} must be at least 1, and is {value!r}")
    return kind(value)


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that ignores every tag."""


class _Reference(str):
    """A product of top-level numbers by their names: `<chunk_size> * <token_mel_ratio>`."""


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    value = loader.construct_scalar(node)
    return _Reference(value) if suffix.startswith("ref") else value


_Loader.add_multi_constructor("!", _untagged)


def _resolved(value: Any, names: dict) -> Any:
    if isinstance(value, _Reference):
        return _product(value, names)
    if isinstance(value, dict):
        return {key: _resolved(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, names) for item in value]
    return value


def _product(reference: _Reference, names: dict) -> Any:
    """Resolve a reference; None if it names anything but numbers and strings (training's object graph)."""
    values = [names.get(name) for name in _REFERENCE.findall(reference)]
    if len(values) == 1:
        return values[0] if isinstance(values[0], int | float | str) else None
    product: int | float = 1
    for value in values:
        if not isinstance(value, int | float):
            return None
        product *= value
    return product
