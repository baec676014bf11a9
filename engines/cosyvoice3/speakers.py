"""Reads `spk2info.pt`, the voices registered with the official code (`add_zero_shot_spk`, `save_spkinfo`).

For each name the file holds the official front end's result for a clip and its transcript, which has a Voice's content.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from engines.contract import Voice, WeightsError
from engines.cosyvoice3.added_tokens import END_OF_PROMPT
from engines.cosyvoice3.directory import SPEAKERS, ModelDirectory
from engines.cosyvoice3.tokenizer import TextTokenizer

_BANDS = 80


def read(directory: ModelDirectory) -> dict[str, Voice]:
    """Read the registered voices of a directory by their names; none if it has no such file.

    A voice with a transcript continues its clip, like the voice of a request with a transcript.

    Raises:
        WeightsError: the file is damaged, or holds something else. The message names the voice and its fault. A voice
            that has only an embedding belongs to an older model, and can't be used with this one.
    """
    path = directory / SPEAKERS
    if not directory.size(SPEAKERS):
        return {}
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} can't be read ({type(error).__name__}). Register its voices again, or remove the file: the "
            "engine needs none."
        ) from error
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path} holds no voices by name. Remove the file: the engine needs none.")
    tokenizer = TextTokenizer(directory)
    return {str(name): _voice(f"{path}, voice {name!r}", entry, directory, tokenizer) for name, entry in found.items()}


def _voice(where: str, entry: Any, directory: ModelDirectory, tokenizer: TextTokenizer) -> Voice:
    sizes = directory.numbers
    ratio, size = sizes.token_mel_ratio, sizes.flow.spk_embed_dim
    tokens = _array(where, entry, "flow_prompt_speech_token", np.int32).reshape(-1)
    mel = _array(where, entry, "prompt_speech_feat", np.float32).reshape(-1, _BANDS)
    embedding = _array(where, entry, "flow_embedding", np.float32).reshape(-1)
    count = min(len(tokens), len(mel) // ratio)
    if not count or len(embedding) != size or tokens.min() < 0 or tokens.max() >= sizes.llm.speech_token_size:
        raise WeightsError(
            f"{where} has {len(tokens)} speech tokens, {len(mel)} mel frames and an embedding of {len(embedding)} "
            f"numbers, which do not fit this model ({size} numbers). Register the voice again."
        )
    arrays = {
        "speech_tokens": tokens[:count],
        "prompt_mel": np.ascontiguousarray(mel[: ratio * count]),
        "embedding": embedding,
    }
    if said := _transcript(where, entry, tokenizer):
        arrays["transcript"] = np.frombuffer(said.encode(), np.uint8)
    return Voice(arrays)


def _transcript(where: str, entry: Mapping[str, Any], tokenizer: TextTokenizer) -> str:
    """Return the clip's transcript. The official code stores it with the prefix that precedes it in a prompt."""
    if "prompt_text" not in entry:
        return ""
    ids = _array(where, entry, "prompt_text", np.int64).reshape(-1)
    if len(ids) and not (0 <= ids.min() and ids.max() < len(tokenizer)):
        raise WeightsError(f"{where} has a transcript in the tokens of another model. Register the voice again.")
    return tokenizer.text(ids.tolist()).rpartition(END_OF_PROMPT)[2].strip()


def _array(where: str, entry: Any, key: str, dtype: type) -> np.ndarray:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if not isinstance(value, torch.Tensor) or not bool(torch.isfinite(value).all()):
        raise WeightsError(
            f"{where} has no {key}, or no finite numbers in it. Register the voice again, with this model and a clip."
        )
    return value.numpy().astype(dtype)
