"""Records what the official CosyVoice3 language model says of a text that is still coming (bi-streaming).

    python -m bench.cosyvoice3_bistream CLONE MODEL_DIR tests/unit/recordings/cosyvoice3_bistream.json

`CLONE` is the official repository, `MODEL_DIR` the tiny checkpoint that the tests compare with; the packages are those
of `bench.cosyvoice3_official`. Its `inference_bistream` is called with one text token after the other, as its front end
gives them. For each speech token the file says how many text tokens it had taken by then.

Random weights pick control tokens at random, on which the official code raises an error. So its sampler is wrapped: of
the 200 control tokens it may pick only the fill token while text comes, and only the end afterwards. `eager` multiplies
the fill token's weights, so that it is picked before it is due.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cosyvoice3_official import importable, language_model
from engines.cosyvoice3.directory import LLM, ModelDirectory

MOST = 60  #: tokens after which a case is broken off: random weights may never end
#: name: tokens of prefix, transcript and text, tokens of the clip, seed (None: greedy), factor of the fill token
CASES: dict[str, tuple[int, int, int, int, int | None, float]] = {
    "no clip": (6, 0, 18, 0, None, 1.0),
    "no clip, sampled": (6, 0, 23, 0, 7, 1.0),
    "no clip, three words": (6, 0, 3, 0, 1, 1.0),
    "zero-shot": (6, 9, 20, 38, None, 1.0),
    "zero-shot, sampled": (6, 9, 20, 38, 3, 1.0),
    "zero-shot, clip of whole blocks": (6, 12, 17, 45, 4, 1.0),
    "zero-shot, text ends before the clip": (6, 5, 6, 77, 5, 1.0),
    "zero-shot, long transcript": (6, 21, 9, 17, 6, 1.0),
    "eager": (6, 4, 21, 8, 8, 2.5),
    "eager, no clip": (6, 0, 24, 0, 11, 2.5),
}


def inputs(name: str, words: int, speech_tokens: int, end_of_prompt: int) -> tuple[list[int], list[int], list[int]]:
    """Return a case's text with its prefix and transcript first, its clip's tokens, and the lengths of the three."""
    prefix, transcript, text, clip, _, _ = CASES[name]
    dice = np.random.default_rng(list(CASES).index(name))
    ids = dice.integers(0, words, prefix + transcript + text).tolist()
    ids[prefix - 1] = end_of_prompt
    return ids, dice.integers(0, speech_tokens, clip).tolist(), [prefix, transcript, text]


def said(lm: Any, name: str, end_of_prompt: int) -> dict[str, Any]:
    """Run a case on the official model."""
    ids, clip, (prefix, transcript, _) = inputs(name, 150_000, lm.speech_token_size, end_of_prompt)
    *_, seed, factor = CASES[name]
    picked: list[int] = []
    taken = 0
    sampling, weight = lm.sampling, lm.llm_decoder.weight.data.clone()
    final = False

    def wrapped(scores: Tensor, before: list[int], top_k: int) -> int:
        kept = lm.eos_token if final else lm.fill_token
        value = scores[kept].clone()
        scores[lm.speech_token_size :] = -float("inf")
        scores[kept] = value
        return int(scores.argmax()) if seed is None else sampling(scores, before, top_k)

    def text() -> Iterator[Tensor]:
        nonlocal taken, final
        for token in ids[prefix + transcript :]:
            taken += 1
            yield torch.tensor([[token]])
        final = True

    def length(values: list[int]) -> tuple[Tensor, Tensor]:
        return torch.tensor([values], dtype=torch.int64), torch.tensor([len(values)], dtype=torch.int32)

    lm.sampling = wrapped
    lm.llm_decoder.weight.data[lm.fill_token] *= factor
    if seed is not None:
        torch.manual_seed(seed)
    takens: list[int] = []
    try:
        for token in lm.inference_bistream(text(), *length(ids[: prefix + transcript]), *length(clip), torch.zeros(0)):
            picked.append(int(token))
            takens.append(taken)
            if len(picked) == MOST:
                break
    finally:
        lm.sampling, lm.llm_decoder.weight.data = sampling, weight
    return {"tokens": picked, "taken": takens, "ended": len(picked) < MOST}


def main() -> None:
    """Run all cases and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    directory = ModelDirectory(arguments.model_dir)
    importable(arguments.clone)
    lm: Any = language_model(directory)
    lm.load_state_dict(torch.load(directory / LLM, map_location="cpu", weights_only=True))
    lm.eval()
    torch.set_num_threads(1)
    found = {name: said(lm, name, 151_646) for name in CASES}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in found.items())
    arguments.out.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
