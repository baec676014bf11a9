"""Qwen2's text tokenizer with CosyVoice3's own tokens is a byte-level BPE over `vocab.json` and `merges.txt`.

The checkpoint's added tokens are not in those files. Their ids follow from their order: Qwen's three come first, then
CosyVoice3's (FunAudioLLM/CosyVoice, `CosyVoice3Tokenizer`), each with the next id after the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from engines.contract import WeightsError
from engines.cosyvoice3.added_tokens import END_OF_PROMPT, added_tokens
from engines.cosyvoice3.directory import MERGES, VOCABULARY, ModelDirectory

_BYTES = 256  #: tokens of one byte, which no merge makes
#: Qwen2's pieces of a text before BPE: contractions, words, single digits, runs of signs, line ends, spaces.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


class TextTokenizer:
    """The tokenizer from text to ids. It is thread-safe.

    Raises:
        WeightsError: a file is missing or damaged.
    """

    def __init__(self, directory: ModelDirectory) -> None:
        vocabulary, merges = _vocabulary(directory / VOCABULARY), _merges(directory / MERGES)
        try:
            model = models.BPE(vocabulary, merges)
        except Exception as error:  # the library raises nothing narrower
            raise WeightsError(
                f"{directory / MERGES} and {directory / VOCABULARY} do not go together. Fetch both again."
            ) from error
        if len(vocabulary) != _BYTES + len(merges):
            raise WeightsError(
                f"{directory / VOCABULARY} has {len(vocabulary)} words, and {directory / MERGES} {len(merges)} pairs; "
                f"the words must be {_BYTES} bytes and one for each pair. One of the two is cut off: fetch both again."
            )
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.NFC()
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._tokenizer.decoder = decoders.ByteLevel()
        self._tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added_tokens()])

    @cached_property
    def end_of_prompt(self) -> int:
        """The id that ends an instruction; 151646 in the official checkpoint."""
        token = self._tokenizer.token_to_id(END_OF_PROMPT)
        assert token is not None, "it is among the added tokens"
        return token

    def __len__(self) -> int:
        """Return the number of ids, one more than the largest."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _vocabulary(path: Path) -> dict[str, int]:
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} can't be read as JSON. Fetch the file again.") from error
    if not isinstance(vocabulary, dict) or sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise WeightsError(f"{path} is no vocabulary: its ids must be 0, 1, 2 … without a gap. Fetch the file again.")
    return vocabulary


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} can't be read. Fetch the file again.") from error
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise WeightsError(f"{path} is no list of pairs. Fetch the file again.")
    return [(first, second) for first, second in pairs]
