"""The CosyVoice3 engine is an independent implementation that runs official Fun-CosyVoice3-0.5B checkpoints.

    engine: cosyvoice3
    engine_options: {model_dir: /models/Fun-CosyVoice3-0.5B}

A request takes this way through the modules:

    reference clip ─► resample.py, features.py ─► voice.py (onnx.py) ─► tokens, mel, embedding ┐
    text ─► text.py, spelling.py ─► prompts.py ─► tokenizer.py ─► plan.py ─────────────────────┴► decoder.py (batch.py,
    qwen.py, sampling.py) ─► flow.py (dit.py) ─► hift.py (excitation.py, convolutions.py) ─► audio

The ingress imports only this module. It loads neither torch nor weights until a loader is called.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from engines.contract import Capabilities, Reference, Utterance, Voice, WeightsError
from engines.cosyvoice3 import text
from engines.cosyvoice3.directory import LLM, PUBLISHED, ModelDirectory
from engines.cosyvoice3.prompts import SPOKEN, instruction
from speech.errors import InvalidInput

_DTYPES = ("float32", "bfloat16", "float16")
NOTICE = "Clones the voice of the reference clip. Only use recordings of people who have agreed to it."


class CosyVoice3Engine:
    """Fun-CosyVoice3 as an `engines.contract.Engine`.

    Args:
        model_dir: the official model directory; every replica must find it under this path.
        dtype: type of the language model and the flow. "auto" is bfloat16 on a GPU and float32 on a CPU. The vocoder is
            always float32, and its pitch float64.
        lm_rows: rows of the language model's cache: the most that decode together. Each part of a text takes a row
            (`text.parts` makes parts of up to 80 characters or tokens, after numbers were spelled out), and waits if
            none is free. `max_batch_size` of tts-service may lower the number at run time.
        lm_positions: cache positions of a row. The cache is rows * positions * 12,288 bytes in bfloat16 at full size
            (302 MB for the defaults); it is allocated when the model is loaded, and never grows.
        flow_rows: the most rows in a batch of the flow. "auto" is 16 on a GPU and 1 on a CPU. There a batch takes as
            long as its rows one after the other (four of 250 frames: 16.2 s against 15.0 s), and delays all others.
        llm_weights: the file with the language model's weights. `llm.rl.pt`, published beside `llm.pt`, was trained
            further with reinforcement learning; its published error rates are lower.
        vocoder_tf32: let a GPU round the factors of the vocoder's products to 10 bits of fraction, for speed. If
            False, the vocoder is float32 throughout.
        recording_s: the longest time in seconds in which a replica on a GPU records the shapes of its batches when it
            is loaded. It is ready only afterwards. Batches of a shape that is not recorded are slower.
        live_clip: of a text that is still coming, let the language model read the clip's transcript and speech tokens
            too, as zero-shot does. It then says nothing before it has 5 text tokens for each 15 tokens of the clip:
            85 for a clip of 10 s, those of the transcript included. Without it, live text is said as if there were no
            transcript; the flow gives it the clip's voice all the same.
        greedy: always take the likeliest token, whatever the seed: for comparing implementations, not for listening.
        parity: reproduce errors of the official code (FunAudioLLM/CosyVoice, commit ace7c47), to compare with
            it. It does not enforce the least length of speech, because it masks the wrong control token
            (sampling.py). It counts the prefix as text in cross-lingual mode (plan.py). It computes a stream's last
            chunk with attention over everything, unlike the chunks before it (ticket.py). Four more concern live
            text (interleaving.py).

    Raises:
        WeightsError: no directory is named, or it or a file in it is missing. The message names it and its publisher.
    """

    def __init__(
        self,
        model_dir: str = "",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        lm_rows: int = 8,
        lm_positions: int = 3072,
        flow_rows: int | Literal["auto"] = "auto",
        llm_weights: str = LLM,
        vocoder_tf32: bool = False,
        recording_s: float = 120.0,
        live_clip: bool = False,
        greedy: bool = False,
        parity: bool = False,
    ) -> None:
        if dtype != "auto" and dtype not in _DTYPES:
            raise ValueError(f"dtype is {dtype!r}; it must be auto, {', '.join(_DTYPES)}")
        for name, value in (
            ("lm_rows", lm_rows),
            ("lm_positions", lm_positions),
            ("flow_rows", flow_rows),
        ):
            if not (value == "auto" and name == "flow_rows" or isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} is {value!r}; it must be at least 1")
        if isinstance(recording_s, bool) or not isinstance(recording_s, int | float) or not recording_s > 0:
            raise ValueError(f"recording_s is {recording_s!r}; it must be a number of seconds above 0")
        if not model_dir:
            raise WeightsError(f"The engine cosyvoice3 needs model_dir, the folder with its weights. {PUBLISHED}")
        self._directory = ModelDirectory(model_dir, llm_weights)
        self._directory.require()
        self._dtype = dtype
        self._flow_rows = flow_rows
        self._vocoder_tf32 = vocoder_tf32
        self._recording_s = recording_s
        self._decoding: dict[str, Any] = {
            "rows": lm_rows,
            "positions": lm_positions,
            "greedy": greedy,
            "parity": parity,
            "live_clip": live_clip,
        }
        self.capabilities = Capabilities(
            name="fun-cosyvoice3-0.5b",
            version=f"1-{self._directory.fingerprint()}",
            sample_rate=24_000,
            dialects=SPOKEN,
            modes=frozenset({"fast", "instruct"}),
            reference_rates=(16_000, 24_000),
            reference_seconds=(3.0, 30.0),
            streaming=True,
            live_text=not parity,  # whose draws can't be taken up in the middle
            notice=NOTICE,
        )

    def check(self, utterance: Utterance) -> None:
        """Refuse an utterance that this engine can't speak.

        Raises:
            UnsupportedDialect: the engine can't speak the dialect.
            InvalidInput: it has no such mode, the instruction is missing, or the text can't be read.
        """
        instruction(utterance)
        if utterance.mode not in self.capabilities.modes:
            raise InvalidInput(
                "This mode is not known to the engine that runs here; it has fast and instruct.",
                param="mode",
                code="mode_unknown",
            )
        if utterance.mode == "instruct" and not (utterance.style_instruction or "").strip():
            raise InvalidInput(
                "mode=instruct needs a style_instruction, for example '请非常开心地说一句话。'; without "
                "one, use mode=fast.",
                param="style_instruction",
                code="instruction_missing",
            )
        text.check(utterance.text)

    def prepare(self, samples: np.ndarray, rate: int, transcript: str | None = None) -> Reference:
        from engines.cosyvoice3.voice import reference

        return reference(samples, rate, transcript)

    def registered_voices(self) -> dict[str, Voice]:
        """Return the voices of `spk2info.pt` by name, in the speaker encoder's form; none without that file.

        Raises:
            WeightsError: the file is damaged, or a voice in it belongs to another model.
        """
        from engines.cosyvoice3 import speakers

        return speakers.read(self._directory)

    def load_speaker_encoder(self, device: str = "cpu", threads: int = 1):
        from engines.cosyvoice3.voice import CosyVoice3SpeakerEncoder

        return CosyVoice3SpeakerEncoder(self._directory, device, threads)

    def load_acoustic_model(self, device: str = "cpu", threads: int = 1):
        import torch

        from engines.cosyvoice3 import acoustic
        from engines.cosyvoice3.flow_batches import Limits

        name = self._dtype if self._dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
        rows = self._flow_rows if self._flow_rows != "auto" else 1 if device.startswith("cpu") else Limits.rows
        return acoustic.load(
            self._directory,
            device,
            threads,
            getattr(torch, name),
            limits=Limits(rows=rows),
            recording_s=self._recording_s,
            **self._decoding,
        )

    def load_vocoder(self, device: str = "cpu", threads: int = 1):
        from engines.cosyvoice3.vocoder import CosyVoice3Vocoder

        return CosyVoice3Vocoder(
            self._directory, device, threads, tf32=self._vocoder_tf32, recording_s=self._recording_s
        )
