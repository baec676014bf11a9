"""Runs the official CosyVoice3 networks on a checkpoint of ours, one request at a time, by its authors' code.

Reads a clone of the official repository (FunAudioLLM/CosyVoice, measured at commit ace7c47); none of its code is here.
It needs these packages beside ours:

    transformers==4.51.3 x-transformers==2.11.24 einops omegaconf scipy

With transformers since 4.53 it decodes wrongly: on a cached step it hands over a mask of length one. torchaudio and
Matcha-TTS's base class of the flow take no part in inference; empty stand-ins replace them.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.cosyvoice3_work import Networks, Size
from engines.cosyvoice3.directory import FLOW, HIFT, LLM, QWEN_CONFIG, ModelDirectory
from engines.cosyvoice3.flow import FlowRow


class _FlowBase(nn.Module):
    """The attributes of Matcha-TTS's base class."""

    def __init__(self, n_feats: int, cfm_params, n_spks: int = 1, spk_emb_dim: int = 128) -> None:
        super().__init__()
        self.n_feats, self.n_spks, self.spk_emb_dim = n_feats, n_spks, spk_emb_dim
        self.solver, self.sigma_min = cfm_params.solver, cfm_params.sigma_min


def importable(clone: Path) -> None:
    """Make `cosyvoice` importable from the clone, with stand-ins for modules that it only mentions."""
    if not (clone / "cosyvoice").is_dir():
        raise SystemExit(f"{clone} is no clone of the official repository (it has no folder cosyvoice)")
    sys.path.insert(0, str(clone))
    import_module("transformers")  # looks for torchaudio, and must not find what stands in for it
    empty = (
        "torchaudio",
        "torchaudio.compliance",
        "torchaudio.compliance.kaldi",
        "matcha",
        "matcha.models",
        "matcha.models.components",
        "matcha.models.components.flow_matching",
    )
    for name in empty:
        sys.modules.setdefault(name, types.ModuleType(name))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    setattr(sys.modules["matcha.models.components.flow_matching"], "BASECFM", _FlowBase)  # noqa: B010


def language_model(directory: ModelDirectory) -> nn.Module:
    """Build the official language model without its weights, in the sizes of a checkpoint."""
    from cosyvoice.llm.llm import CosyVoice3LM, Qwen2Encoder
    from cosyvoice.utils.common import ras_sampling
    from transformers import Qwen2Config, Qwen2ForCausalLM

    # The official constructor reads Qwen's published weights, which llm.pt replaces: only the sizes are needed.
    encoder = Qwen2Encoder.__new__(Qwen2Encoder)
    nn.Module.__init__(encoder)
    encoder.model = Qwen2ForCausalLM(Qwen2Config.from_json_file(directory / QWEN_CONFIG))
    lm = directory.numbers.llm
    sampling = functools.partial(ras_sampling, **asdict(lm.sampling))
    return CosyVoice3LM(lm.llm_input_size, lm.llm_output_size, lm.speech_token_size, encoder, sampling)


class Official:
    """The three official networks with a checkpoint's weights, float32 on the CPU.

    Args:
        clone: of the official repository.
        directory: the checkpoint; its networks may have any size.
    """

    def __init__(self, clone: Path, directory: ModelDirectory) -> None:
        importable(clone)
        self._numbers = directory.numbers
        self.lm = self._loaded(language_model(directory), directory / LLM)
        self.flow = self._loaded(self._build_flow(), directory / FLOW)
        self.hift = self._loaded(self._build_hift(), directory / HIFT)

    @staticmethod
    def _loaded(network: Any, path: Path) -> Any:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        return network.eval()

    def _build_flow(self) -> Any:
        from cosyvoice.flow.DiT.dit import DiT
        from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
        from cosyvoice.flow.flow_matching import CausalConditionalCFM
        from cosyvoice.transformer.upsample_encoder import PreLookaheadLayer
        from omegaconf import DictConfig

        flow = self._numbers.flow
        ahead = flow.pre_lookahead_layer
        ahead = PreLookaheadLayer(ahead.in_channels, ahead.channels, ahead.pre_lookahead_len)
        # From here to the vocoder's noise no other code may draw: both noises come from the seed that is set in here.
        settings = DictConfig(
            {
                "sigma_min": 1e-6,
                "training_cfg_rate": 0.2,
                "reg_loss_type": "l1",
                **asdict(flow.decoder.cfm_params.content),
            }
        )
        estimator = DiT(**asdict(flow.decoder.estimator), out_channels=flow.output_size)
        decoder = CausalConditionalCFM(
            3 * flow.output_size, settings, spk_emb_dim=flow.output_size, estimator=estimator
        )
        return CausalMaskedDiffWithDiT(
            input_size=flow.input_size,
            output_size=flow.output_size,
            spk_embed_dim=flow.spk_embed_dim,
            vocab_size=flow.vocab_size,
            input_frame_rate=flow.input_frame_rate,
            token_mel_ratio=flow.token_mel_ratio,
            pre_lookahead_len=flow.pre_lookahead_len,
            pre_lookahead_layer=ahead,
            decoder=decoder,
        )

    def _build_hift(self) -> Any:
        from cosyvoice.hifigan.f0_predictor import CausalConvRNNF0Predictor
        from cosyvoice.hifigan.generator import CausalHiFTGenerator

        numbers = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self._numbers.hift).items()
        }
        return CausalHiFTGenerator(
            **numbers | {"f0_predictor": CausalConvRNNF0Predictor(**asdict(self._numbers.hift.f0_predictor))}
        )

    @torch.inference_mode()
    def tokens(self, text: list[int], prompt_tokens: list[int], count: int) -> list[int]:
        """Sample exactly `count` speech tokens with torch's own generator, in the official code's decoding loop.

        Its `min_len` bans one control token of 200, so that random weights would end anywhere. So the loop gets a
        sampler that bans them all, as ours does for `least`.
        """
        lm, sampling = self.lm, self.lm.sampling

        def without_controls(scores: Tensor, said: list[int], top_k: int) -> int:
            scores[lm.speech_token_size :] = -float("inf")
            return sampling(scores, said, top_k)

        ids = torch.tensor([text]), torch.tensor([prompt_tokens], dtype=torch.int64)
        sos, task = (lm.speech_embedding.weight[control].reshape(1, 1, -1) for control in (lm.sos, lm.task_id))
        embedded = torch.cat((sos, lm.llm.model.model.embed_tokens(ids[0]), task, lm.speech_embedding(ids[1])), dim=1)
        lm.sampling = without_controls
        try:
            return list(lm.inference_wrapper(embedded, 25, count, count, ""))
        finally:
            lm.sampling = sampling

    def mel(self, row: FlowRow) -> Tensor:
        """Make the mel (80, 2n) of the row's tokens."""

        def one(value: Tensor) -> tuple[Tensor, Tensor]:
            return value[None], torch.tensor([len(value)])

        mel, _ = self.flow.inference(
            *one(row.tokens),
            *one(row.prompt_tokens),
            *one(row.prompt_mel),
            row.embedding[None],
            streaming=False,
            finalize=True,
        )
        return mel[0]

    def audio(self, mel: Tensor) -> Tensor:
        """Make the audio (480 * n,) of a mel (80, n)."""
        return self.hift.inference(mel[None])[0][0]


def _lm_decode(official: Official, networks: Networks, size: Size) -> dict:
    start = networks.now()
    job = networks.job(size, 0)
    said = official.tokens(list(job.text), list(job.prompt_tokens), size.tokens)
    seconds = networks.now() - start
    return {"tokens_per_second": len(said) / seconds, "requests_per_second": 1 / seconds}


def _generate_mel(official: Official, networks: Networks, size: Size) -> dict:
    """Measure both flows on the same tokens, and the distance between their mels."""
    job, start = networks.job(size, 0), networks.now()
    row = networks.row(official.tokens(list(job.text), list(job.prompt_tokens), size.tokens), size, 0)
    decoded = networks.now()
    mel = official.mel(row)
    end = networks.now()
    apart = float((mel - networks.flow([row])[0]).abs().max())
    return {
        "requests_per_second": 1 / (end - start),
        "lm_ms": 1000 * (decoded - start),
        "flow_ms": 1000 * (end - decoded),
        "rtf": (end - start) / size.seconds,
        "apart": apart,
    }


def _vocode(official: Official, networks: Networks, size: Size) -> dict:
    frames = networks.numbers.token_mel_ratio * size.tokens
    mel = torch.randn(80, frames, generator=torch.Generator().manual_seed(0))
    official.audio(mel[:, :100])
    start = networks.now()
    audio = official.audio(mel)
    seconds = networks.now() - start
    apart = float((audio - networks.hift([mel], networks.excitation)[0]).abs().max())
    return {"requests_per_second": 1 / seconds, "rtf": seconds / size.seconds, "apart": apart}


#: the parts that can be measured, one request at a time
PARTS: dict[str, Callable[[Official, Networks, Size], dict]] = {
    "LM_DECODE": _lm_decode,
    "GENERATE_MEL": _generate_mel,
    "VOCODE_WAV": _vocode,
}
