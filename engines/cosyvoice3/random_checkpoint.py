"""Makes a checkpoint of random weights in the official layout, for tests without weights, and for measuring speed.

Its speech is noise, but every file, key and shape is as in a real one. The two ONNX models are stand-ins with the
official signatures: a few operations make an embedding and speech tokens that depend on the clip.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from engines.cosyvoice3 import flow, hift, speech_lm
from engines.cosyvoice3.directory import (
    CAMPPLUS,
    FLOW,
    HIFT,
    LLM,
    MERGES,
    QWEN,
    QWEN_CONFIG,
    SPEECH_TOKENIZER,
    VOCABULARY,
    YAML,
    ModelDirectory,
)
from engines.cosyvoice3.weights import NormedConv1d, Stored

_OPSET, _FORMAT = 17, 9
_PITCH_HZ = 150.0


@dataclass(frozen=True)
class Sizes:
    """The sizes that differ between a tiny checkpoint and the official one."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    look_ahead: int  #: channels
    dim: int
    depth: int
    dit_heads: int
    base: int  #: channels of the vocoder
    pitch: int  #: channels of its pitch predictor


TINY = Sizes(640, 32, 64, 2, 4, 2, 64, 64, 2, 4, 32, 16)
FULL = Sizes(151_936, 896, 4_864, 24, 14, 2, 1_024, 1_024, 22, 16, 512, 512)


def make(folder: Path, sizes: Sizes = TINY, seed: int = 0) -> ModelDirectory:
    """Write a checkpoint into `folder`. Raises FileExistsError if the folder is not empty."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    directory = describe(folder, sizes)
    _write_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in ((LLM, speech_lm), (FLOW, flow), (HIFT, hift)):
            torch.save(_state(name, module.stored(directory).build()), folder / name)
    _write_onnx(folder, np.random.default_rng(seed))
    return directory


def describe(folder: Path, sizes: Sizes = TINY) -> ModelDirectory:
    """Write the files with the sizes, and no weights: enough for networks whose weights are `drawn`."""
    (folder / QWEN).mkdir(parents=True)
    (folder / YAML).write_text(_yaml(sizes), encoding="utf-8")
    (folder / QWEN_CONFIG).write_text(json.dumps(_qwen(sizes), indent=2), encoding="utf-8")
    return ModelDirectory(folder)


N = TypeVar("N", bound=nn.Module)


def drawn(stored: Stored[N], device: str = "cpu", seed: int = 0) -> N:
    """Make the network with random weights, drawn on its device: on a GPU a full one takes about a second.

    It is as `Stored.load` gives it, and as `make` would have written it; the numbers depend on the device.
    """
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []), torch.device(device):
        torch.manual_seed(seed)
        network = stored.build()
    for key, value in network.named_buffers():
        if key.endswith("rotary_embed.inv_freq"):
            value.copy_(_frequencies(len(value)))
    for name, module in network.named_modules():
        if name == "f0_predictor.classifier":
            nn.init.constant_(module.bias, _PITCH_HZ)
        for key, parameter in module.named_parameters(prefix=name, recurse=False):
            if key.startswith(stored.double):
                parameter.data = parameter.data.double()
    return network.eval().requires_grad_(False)


def _frequencies(half: int) -> Tensor:
    return 1 / 10_000 ** (torch.arange(half) / half)


def _state(name: str, network: nn.Module) -> dict[str, Tensor]:
    """Return the network's weights under the official names."""
    state = network.state_dict()
    if name == LLM:
        named = {key.replace("body.", "llm.model.model.", 1): value for key, value in state.items()}
        return named | {"llm.model.lm_head.weight": state["body.embed_tokens.weight"]}
    if name == FLOW:
        key = "decoder.estimator.rotary_embed.inv_freq"
        return state | {key: _frequencies(len(state[key]))}
    for key, module in network.named_modules():
        if isinstance(module, NormedConv1d):
            weight = state.pop(f"{key}.weight")
            length = weight.flatten(1).norm(dim=1)[:, None, None]
            state[f"{key}.parametrizations.weight.original0"] = length
            state[f"{key}.parametrizations.weight.original1"] = weight
    # A random predictor gives about 0 Hz, and a voice without pitch would leave half the vocoder untested.
    state["f0_predictor.classifier.bias"] = torch.full_like(state["f0_predictor.classifier.bias"], _PITCH_HZ)
    return state


def _qwen(sizes: Sizes) -> dict:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": None,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
    }


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of all bytes, with merges for "the" and the first byte pairs of common Chinese."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "t"), ("ä", "½"), ("å", "¥")]
    words = [*letters, *("".join(pair) for pair in merges)]
    (folder / VOCABULARY).write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / MERGES).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_onnx(folder: Path, random: np.random.Generator) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def write(name: str, nodes: list, inputs: list, output, constants: dict[str, np.ndarray]) -> None:
        graph = helper.make_graph(
            nodes,
            "stand-in",
            inputs,
            [output],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_FORMAT)
        onnx.checker.check_model(model)
        onnx.save(model, str(folder / name))

    real, whole = TensorProto.FLOAT, TensorProto.INT32
    write(
        CAMPPLUS,
        [
            helper.make_node("Abs", ["input"], ["level"]),
            helper.make_node("ReduceMean", ["level"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["output"]),
        ],
        [helper.make_tensor_value_info("input", real, ["B", "T", 80])],
        helper.make_tensor_value_info("output", real, ["B", 192]),
        {"weight": random.standard_normal((80, 192)).astype(np.float32)},
    )
    # Every fourth frame is weighed and scaled up so that neighbouring tokens differ, and limited to 0 … 6560. The
    # length takes part in name only, because an unused input would be dropped.
    write(
        SPEECH_TOKENIZER,
        [
            helper.make_node("Conv", ["feats", "weight"], ["sum"], strides=[4], kernel_shape=[4]),
            helper.make_node("Abs", ["sum"], ["level"]),
            helper.make_node("Mod", ["level", "size"], ["cut"], fmod=1),
            helper.make_node("Cast", ["cut"], ["ids"], to=whole),
            helper.make_node("Squeeze", ["ids", "axis"], ["tokens"]),
            helper.make_node("Sub", ["feats_length", "feats_length"], ["nothing"]),
            helper.make_node("Add", ["tokens", "nothing"], ["indices"]),
        ],
        [
            helper.make_tensor_value_info("feats", real, [1, 128, "T"]),
            helper.make_tensor_value_info("feats_length", whole, [1]),
        ],
        helper.make_tensor_value_info("indices", whole, [1, "t"]),
        {
            "weight": (1000 * random.standard_normal((1, 128, 4))).astype(np.float32),
            "size": np.array(6561, np.float32),
            "axis": np.array([1], np.int64),
        },
    )


def _yaml(sizes: Sizes) -> str:
    """Write the official file's keys and tags, without its training part."""
    return f"""\
__set_seed1: !apply:random.seed [1986]
sample_rate: 24000
llm_input_size: {sizes.hidden}
llm_output_size: {sizes.hidden}
spk_embed_dim: 192
qwen_pretrain_path: ''
token_frame_rate: 25
token_mel_ratio: 2
chunk_size: 25
num_decoding_left_chunks: -1
llm: !new:cosyvoice.llm.llm.CosyVoice3LM
    llm_input_size: !ref <llm_input_size>
    llm_output_size: !ref <llm_output_size>
    speech_token_size: 6561
    llm: !new:cosyvoice.llm.llm.Qwen2Encoder
        pretrain_path: !ref <qwen_pretrain_path>
    sampling: !name:cosyvoice.utils.common.ras_sampling {{top_p: 0.8, top_k: 25, win_size: 10, tau_r: 0.1}}
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithDiT
    input_size: 80
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    vocab_size: 6561
    input_frame_rate: !ref <token_frame_rate>
    token_mel_ratio: !ref <token_mel_ratio>
    pre_lookahead_len: 3
    pre_lookahead_layer: !new:cosyvoice.transformer.upsample_encoder.PreLookaheadLayer
        in_channels: 80
        channels: {sizes.look_ahead}
        pre_lookahead_len: 3
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
        cfm_params: !new:omegaconf.DictConfig
            content: {{solver: 'euler', t_scheduler: 'cosine', inference_cfg_rate: 0.7}}
        estimator: !new:cosyvoice.flow.DiT.dit.DiT
            dim: {sizes.dim}
            depth: {sizes.depth}
            heads: {sizes.dit_heads}
            dim_head: {sizes.dim // sizes.dit_heads}
            ff_mult: 2
            mel_dim: 80
            mu_dim: 80
            spk_dim: 80
            static_chunk_size: !ref <chunk_size> * <token_mel_ratio>
            num_decoding_left_chunks: !ref <num_decoding_left_chunks>
hift: !new:cosyvoice.hifigan.generator.CausalHiFTGenerator
    in_channels: 80
    base_channels: {sizes.base}
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 5, 3]
    upsample_kernel_sizes: [16, 11, 7]
    istft_params: {{n_fft: 16, hop_len: 4}}
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    conv_pre_look_right: 4
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: {sizes.pitch}
"""
