"""Checks that a model directory is whole and fits. It reads every file in full, and runs only the two ONNX models."""

from __future__ import annotations

from collections.abc import Callable

from engines.contract import WeightsError
from engines.cosyvoice3.directory import (
    CAMPPLUS,
    FLOW,
    HIFT,
    LLM_RL,
    PUBLISHED,
    QWEN_CONFIG,
    SPEAKERS,
    SPEECH_TOKENIZER,
    VOCABULARY,
    YAML,
    ModelDirectory,
    megabytes,
)


def check(directory: ModelDirectory, say: Callable[[str], None] = print) -> bool:
    """Report for each file if it exists and fits; returns True if all do."""
    say(f"model directory {directory.path}")
    missing = directory.missing()
    for file in directory.files:
        here = directory.size(file.name)
        size = f"missing, about {megabytes(file.published_mb)}" if file in missing else megabytes(here / 1e6)
        say(f"  {file.name:32} {size:28} {file.use}")
    if missing:
        say(f"{len(missing)} of {len(directory.files)} files are missing. {PUBLISHED}")
        return False
    return _fits(directory, say)


def _fits(directory: ModelDirectory, say: Callable[[str], None]) -> bool:
    problems = 0
    for name, reading in _readings(directory).items():
        try:
            say(f"  {name:32} {reading()}")
        except WeightsError as error:
            say(f"  {name:32} {error}")
            problems += 1
        except Exception as error:  # a damaged file may make a library raise anything; the next file is still read
            say(f"  {name:32} can't be used ({type(error).__name__}: {error}). Fetch the file again.")
            problems += 1
    say(
        "The directory is complete, and everything in it fits."
        if not problems
        else f"{problems} of these can't be used. {PUBLISHED}"
    )
    return not problems


def _readings(directory: ModelDirectory) -> dict[str, Callable[[], str]]:
    # The heavy imports come late, so that a missing file is reported without waiting for torch.
    import numpy as np

    from engines.cosyvoice3 import flow, hift, onnx, speakers, speech_lm
    from engines.cosyvoice3.qwen import QwenSize
    from engines.cosyvoice3.tokenizer import TextTokenizer

    def numbers() -> str:
        return f"speech tokens {directory.numbers.llm.speech_token_size}, {directory.numbers.sample_rate} Hz"

    def qwen() -> str:
        size = QwenSize.of(directory.qwen)
        return f"{size.layers} layers of {size.hidden}"

    def tokenizer() -> str:
        read, known = TextTokenizer(directory), QwenSize.of(directory.qwen).vocabulary
        if len(read) > known:
            raise WeightsError(
                f"the tokenizer has {len(read)} tokens and the language model knows {known}. Are all "
                "files of one and the same release?"
            )
        return f"{len(read)} tokens, end of prompt {read.end_of_prompt}"

    def keys(module) -> Callable[[], str]:
        return lambda: f"{module.stored(directory).check()} keys, each as expected"

    def speech_tokenizer() -> str:
        made = onnx.SpeechTokenizer(directory)(np.random.default_rng(0).standard_normal((128, 100), np.float32) / 4)
        if len(made) != 25 or not ((0 <= made) & (made < directory.numbers.llm.speech_token_size)).all():
            raise WeightsError(
                f"{directory / SPEECH_TOKENIZER} makes {len(made)} tokens of a second, up to {made.max(initial=0)}, "
                f"and should make 25 below {directory.numbers.llm.speech_token_size}. Fetch the file again."
            )
        return "an ONNX model; a second of noise has 25 speech tokens"

    def embedder() -> str:
        made = onnx.SpeakerEmbedder(directory)(np.random.default_rng(0).standard_normal((100, 80), np.float32))
        wanted = directory.numbers.flow.spk_embed_dim
        if made.shape != (wanted,) or not np.isfinite(made).all():
            raise WeightsError(
                f"{directory / CAMPPLUS} makes {made.size} numbers of a second, {np.isfinite(made).sum()} of them "
                f"finite, and should make {wanted}. Fetch the file again."
            )
        return f"an ONNX model; a second of noise has an embedding of {wanted} numbers"

    def registered() -> str:
        found = speakers.read(directory)
        return f"{len(found)} voices: {', '.join(found)}" if found else "no voices"

    readings = {
        YAML: numbers,
        QWEN_CONFIG: qwen,
        VOCABULARY: tokenizer,
        directory.llm: keys(speech_lm),
        FLOW: keys(flow),
        HIFT: keys(hift),
        SPEECH_TOKENIZER: speech_tokenizer,
        CAMPPLUS: embedder,
    }
    if directory.llm != LLM_RL and directory.size(LLM_RL):
        other = ModelDirectory(directory.path, LLM_RL)
        readings[LLM_RL] = lambda: f"{speech_lm.stored(other).check()} keys, each as expected (llm_weights: {LLM_RL})"
    if directory.size(SPEAKERS):
        readings[SPEAKERS] = registered
    return readings
