"""`cosyvoice3.yaml` read as numbers: the sizes of the networks and the settings of sampling, never a class.

The file is HyperPyYAML, which on loading would import and call whatever its tags name (`!new:cosyvoice.llm…`). Here a
tag is only a label in front of a mapping, so a model directory can't run code. What training alone needs is ignored;
what this implementation supports in one form only (the solver, the time schedule) is checked to be that form.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engines.contract import WeightsError

FILE = "cosyvoice3.yaml"
_REFERENCE = re.compile(r"<(\w+)>")


class _Numbers(BaseModel):
    """Unknown keys are training's, or labels; a missing or wrong one of ours is an error."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Sampling(_Numbers):
    """Repetition-aware sampling (S. Chen et al., VALL-E 2, 2024, section 4.2.1)."""

    top_p: float
    top_k: int
    win_size: int
    tau_r: float


class SpeechLm(_Numbers):
    llm_input_size: int
    llm_output_size: int
    speech_token_size: int  #: ids below are sound, ids from here on (200 of them) are control tokens
    sampling: Sampling


class LookAhead(_Numbers):
    in_channels: int
    channels: int
    pre_lookahead_len: int  #: tokens


class Dit(_Numbers):
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


class CfmParams(_Numbers):
    solver: Literal["euler"]
    t_scheduler: Literal["cosine"]
    inference_cfg_rate: float


class _CfmContent(_Numbers):
    content: CfmParams


class Cfm(_Numbers):
    cfm_params: _CfmContent
    estimator: Dit


class Flow(_Numbers):
    input_size: int
    output_size: int
    spk_embed_dim: int
    vocab_size: int
    input_frame_rate: int
    token_mel_ratio: int
    pre_lookahead_len: int
    pre_lookahead_layer: LookAhead
    decoder: Cfm


class Istft(_Numbers):
    n_fft: int
    hop_len: int


class F0Predictor(_Numbers):
    num_class: Literal[1]
    in_channels: int
    cond_channels: int


class Hift(_Numbers):
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


class Numbers(_Numbers):
    """Everything of the file that inference needs."""

    sample_rate: Literal[24000]
    token_frame_rate: Literal[25]
    token_mel_ratio: Literal[2]
    chunk_size: int  #: speech tokens
    llm: SpeechLm
    flow: Flow
    hift: Hift


def read(path: Path) -> Numbers:
    """The numbers in the file at `path`.

    Raises:
        WeightsError: the file can't be read, is no YAML, or lacks a number; the message names file and key.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"{path} can't be read as YAML ({type(error).__name__}). Fetch the file again.") from error
    if not isinstance(tree, dict):
        raise WeightsError(f"{path} holds no settings. Fetch the file again.")
    try:
        return Numbers(**_resolved(tree, tree))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            f"{path}: the key {key} is not what this engine can run: {first['msg']}. It reads "
            "checkpoints of Fun-CosyVoice3; is this one?"
        ) from error


class _Loader(yaml.SafeLoader):
    """Safe YAML in which every tag is ignored."""


class _Reference(str):
    """`<chunk_size> * <token_mel_ratio>`: names of top-level numbers, multiplied."""


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
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
    """What a reference stands for; None for one to anything but numbers and strings (training's object graph)."""
    values = [names.get(name) for name in _REFERENCE.findall(reference)]
    if len(values) == 1:
        return values[0] if isinstance(values[0], int | float | str) else None
    product = 1
    for value in values:
        if not isinstance(value, int | float):
            return None
        product *= value
    return product
