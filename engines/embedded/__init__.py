"""The embedded engine: Kokoro-82M, steered toward a reference voice by a d-vector. Weights from Python packages.

A request takes this way through the modules:

    reference clip ─► speaker.py ─► d-vector, pitch ─► mapper.py ─► style ┐
    text ─► text/ ─► phonemes ─────────────────────────────────────────────┴► acoustic.py ─► vocoder.py ─► finish.py

The ingress imports only this module. It loads neither torch nor weights until a loader is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from engines.contract import Capabilities, Reference, Utterance, Voice, WeightsError
from engines.embedded import mix, style, text
from engines.embedded.mapper import DATA
from speech.audio import resampled
from speech.dialects import DIALECTS
from speech.errors import InvalidInput, UnsupportedDialect
from speech.words import GRANULARITIES

#: dialects that its text front ends read; the languages are Kokoro's own
SPOKEN = ("en-US", "en-GB", "zh-CN", "ja-JP")
NOTICE = (
    "Steers a stock voice toward the reference clip (timbre, pitch) within the space that Kokoro-82M's 54 voices "
    "span. A stored voice is also fitted to its speaker's timbre. By a speaker model that the fit does not follow, "
    "that takes it from 0.6 to 0.8 of the way from a stranger to another recording of the speaker. Accent, rhythm and "
    "emotion are not taken over. It is no true clone: the result resembles the speaker, but is not to be taken for "
    "them."
)


def _version() -> str:
    """Return the version. It changes with the mapper: a stored voice's offset is valid only for its own mapper."""
    checksum = DATA.with_name(f"{DATA.name}.sha256")
    if not checksum.is_file():
        raise WeightsError(
            f"The voice mapper's checksum {checksum} is missing. Restore it from the repository: "
            "git checkout engines/embedded"
        )
    return f"2-{checksum.read_text()[:8]}"


#: oneDNN compiles a kernel for each shape that it meets, and keeps this many. It makes 195 for the acoustic
#: model's tiles, for which 256 places were too few, and 90 for the vocoder's; other layers take some.
PROCESS_SETTINGS = {
    "GENERATE_MEL": {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"},
    "VOCODE_WAV": {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"},
}


class EmbeddedEngine:
    """Kokoro-82M as an `engines.contract.Engine`.

    Args:
        bf16: compute the vocoder's convolutions and the acoustic model's products in bfloat16, on a CPU. "auto" does so
            if the CPU is faster at it: the vocoder with AVX512-BF16 or AMX, the acoustic model with AMX. There is no
            audible difference.
        int8: compute the acoustic model's products in 8-bit integers, on a CPU. "auto" does so if the CPU has VNNI and
            they are not in bfloat16. The melody differs a little.
    """

    def __init__(self, bf16: bool | Literal["auto"] = "auto", int8: bool | Literal["auto"] = "auto") -> None:
        for name, option in (("bf16", bf16), ("int8", int8)):
            if option not in (True, False, "auto"):
                raise ValueError(f"{name} is {option!r}; it must be true, false or 'auto'")
        self._bf16, self._int8 = bf16, int8
        self.process_settings = PROCESS_SETTINGS
        self.capabilities = Capabilities(
            name="embedded-kokoro-82m",
            version=_version(),
            sample_rate=24000,
            dialects=frozenset(SPOKEN),
            modes=frozenset({"fast", "instruct"}),
            reference_rates=(16000,),
            reference_seconds=(3.0, 15.0),
            notice=NOTICE,
            fits_voices=True,
            mixes_voices=True,
            timestamps=GRANULARITIES,
        )

    def check(self, utterance: Utterance) -> None:
        """Refuse an utterance that this engine can't speak.

        A long text is checked as a whole, so that an error in a later piece is found before the first one is spoken.

        Raises:
            UnsupportedDialect: the engine can't speak the dialect.
            InvalidInput: it has no such mode, or can't follow the instruction, or can't read the text.
        """
        dialect = DIALECTS.find(utterance.dialect)
        if dialect.code not in self.capabilities.dialects:
            raise UnsupportedDialect(
                f"{dialect.english_name} ({dialect.code}) can't be spoken by the engine that runs "
                f"here. It speaks {', '.join(SPOKEN)}.",
                param="dialect",
            )
        if utterance.mode not in self.capabilities.modes:
            raise InvalidInput(
                "This mode is not known to the engine that runs here; it has fast and instruct.",
                param="mode",
                code="mode_unknown",
            )
        if utterance.mode == "instruct":
            style.interpret(utterance.style_instruction or "")
        text.check(utterance.text, dialect.language)

    def prepare(self, samples: np.ndarray, rate: int, transcript: str | None = None) -> Reference:
        return Reference(resampled(samples, rate, self.capabilities.reference_rates), transcript=transcript)

    def mix(self, voices: Sequence[Voice], weights: Sequence[float]) -> Voice:
        """Return the weighted mean of voices: see `engines.embedded.mix`."""
        return mix.mix(voices, weights)

    def load_speaker_encoder(self, device: str = "cpu", threads: int = 1):
        from engines.embedded.speaker import SpeakerEncoder

        return SpeakerEncoder(device, threads)

    def load_acoustic_model(self, device: str = "cpu", threads: int = 1):
        from engines.embedded.packed_network import fastest
        from engines.embedded.stages import EmbeddedAcousticModel

        return EmbeddedAcousticModel(device, threads, fastest(self._bf16, self._int8))

    def load_vocoder(self, device: str = "cpu", threads: int = 1):
        from engines.embedded.stages import EmbeddedVocoder

        return EmbeddedVocoder(device, threads, self._bf16)

    def load_voice_fitter(self, device: str = "cpu", threads: int = 1):
        from engines.embedded.fitting import VoiceFitter

        return VoiceFitter(device, threads)
