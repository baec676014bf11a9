"""Is a model directory whole, and does it fit? Reads every file as the engine would, but computes nothing."""

from __future__ import annotations

from collections.abc import Callable

from engines.contract import WeightsError
from engines.cosyvoice3.directory import (
    CAMPPLUS,
    FILES,
    FLOW,
    HIFT,
    LLM,
    PUBLISHED,
    QWEN_CONFIG,
    SPEECH_TOKENIZER,
    VOCABULARY,
    YAML,
    ModelDirectory,
    megabytes,
)


def check(directory: ModelDirectory, say: Callable[[str], None] = print) -> bool:
    """Say for each file whether it is there and fits; True where all do."""
    say(f"model directory {directory.path}")
    missing = directory.missing()
    for file in FILES:
        here = directory.size(file.name)
        size = f"missing, about {megabytes(file.published_mb)}" if file in missing else megabytes(here / 1e6)
        say(f"  {file.name:32} {size:28} {file.use}")
    if missing:
        say(f"{len(missing)} of {len(FILES)} files are missing. {PUBLISHED}")
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
    say(
        "The directory is complete, and everything in it fits."
        if not problems
        else f"{problems} of these can't be used. {PUBLISHED}"
    )
    return not problems


def _readings(directory: ModelDirectory) -> dict[str, Callable[[], str]]:
    # Heavy imports only now: a missing file is reported without waiting for torch.
    from engines.cosyvoice3 import flow, hift, onnx, speech_lm
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

    def opens(kind) -> Callable[[], str]:
        return lambda: f"an ONNX model, {kind(directory).__class__.__name__}"

    return {
        YAML: numbers,
        QWEN_CONFIG: qwen,
        VOCABULARY: tokenizer,
        LLM: keys(speech_lm),
        FLOW: keys(flow),
        HIFT: keys(hift),
        SPEECH_TOKENIZER: opens(onnx.SpeechTokenizer),
        CAMPPLUS: opens(onnx.SpeakerEmbedder),
    }
