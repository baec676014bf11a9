"""Counts the work and the text before the first sound of a text that is said while it comes, and of one that isn't.

    python -m bench.cosyvoice3_live MODEL_DIR

The model directory may hold random weights: the counts depend on the tokenizer and the layout alone. For each text:

- `words`: words that must have come before the first chunk can be made: said while it comes; waited for to the end of
  its first clause, or of its first sentence.
- `steps`: steps of the language model before that chunk.
- `calls`, `ids again`: for a text of which each call got one more word: the calls, and the ids that they read a second
  time because the calls before them had read them, per token said.

The clip is 10 s long, as in the other benchmarks.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from engines.contract import MelChunk, Reach, Said, TextWanted, Utterance, Voice
from engines.cosyvoice3 import acoustic
from engines.cosyvoice3.acoustic import CosyVoice3AcousticModel
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.ticket import Ticket

CLIP = 250
TEXTS = {
    "long clause": "The committee that was set up last autumn to look into the matter has not yet published anything "
    "at all, and nobody in the ministry seems to know when it will.",
    "short clauses": "Well, I see, that is what you meant, and I agree with most of it, as far as I can tell you.",
    "no comma": "You can find the keys in the second drawer from the top if you look behind the old photographs.",
}


def voice() -> Voice:
    """Return a voice of random arrays."""
    dice = np.random.default_rng(0)
    return Voice(
        {
            "speech_tokens": dice.integers(0, 6561, CLIP).astype(np.int32),
            "prompt_mel": dice.standard_normal((2 * CLIP, 80)).astype(np.float32),
            "embedding": dice.standard_normal(192).astype(np.float32),
        }
    )


def first(model: CosyVoice3AcousticModel, utterance: Utterance) -> tuple[int | None, Any]:
    """Say an utterance up to its first chunk; returns the steps before it, or None and the end without one."""
    ticket = model.submit(utterance, voice(), stream=True)
    for steps in range(1, 10_000):
        for each, result in model.step():
            if each is ticket:
                model.cancel(each)
                return (steps, result) if isinstance(result, MelChunk) else (None, result)
    raise RuntimeError("no chunk came")


def words_needed(model: CosyVoice3AcousticModel, text: str) -> tuple[int, int]:
    """Return the words of a text that is still coming before its first chunk, and the steps."""
    words = text.split(" ")
    for count in range(1, len(words)):
        so_far = Utterance(" ".join(words[:count]) + " ", "en-US", live=True, open=True)
        steps, _ = first(model, so_far)
        if steps is not None:
            return count, steps
    return len(words), first(model, Utterance(text, "en-US", live=True))[0] or 0


def waited(model: CosyVoice3AcousticModel, text: str, end: str) -> tuple[int, int]:
    """Return the words up to the first clause's or sentence's end, and the steps before its first chunk."""
    match = re.search(end, text)
    piece = text[: match.end()] if match else text
    return len(piece.split()), first(model, Utterance(piece, "en-US"))[0] or 0


def again(model: CosyVoice3AcousticModel, text: str) -> tuple[int, float]:
    """Say a text word by word; returns the calls that went on, and the ids read again for each token said."""
    words, calls, ids = text.split(" "), 0, 0
    said: Said = ()
    beyond: Reach | None = None
    for count in range(1, len(words)):
        so_far = Utterance(" ".join(words[:count]) + " ", "en-US", live=True, open=True)
        ticket = model.submit(so_far, voice(), True, said, beyond)
        assert isinstance(ticket, Ticket), "all texts can be said"
        row = ticket.parts[0].row
        if said and said[0] and not row._over:
            ids += len(row._ids)
            calls += 1
        ended = False
        while not ended:
            for each, result in model.step():
                if each is ticket and isinstance(result, TextWanted):
                    said, ended = result.said, True
                elif isinstance(result, MelChunk):
                    beyond = result.reaches
    return calls, ids / max(1, sum(map(len, said)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model_dir", type=Path)
    model = acoustic.load(ModelDirectory(parser.parse_args().model_dir), rows=2, positions=3000)
    print("| text | while it comes: words, steps | by clause | by sentence | calls, ids again |\n|---|---|---|---|---|")
    for name, text in TEXTS.items():
        live, clause, sentence = (
            words_needed(model, text),
            waited(model, text, r"[,.]"),
            waited(model, text, r"\."),
        )
        calls, ids = again(model, text)
        cells = ", ".join(map(str, live)), ", ".join(map(str, clause)), ", ".join(map(str, sentence))
        print(f"| {name}, {len(text.split())} words | {' | '.join(cells)} | {calls}, {ids:.1f} |")


if __name__ == "__main__":
    main()
