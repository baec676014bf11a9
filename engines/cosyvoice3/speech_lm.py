"""The speech language model is Qwen2's body, fed with text and speech tokens, and a head for speech tokens.

A row reads `[sos][text][task][speech tokens of the prompt]` and continues with speech tokens, 25 for a second of
sound, until it picks any of the 200 control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.cosyvoice3 import weights
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.qwen import Qwen, QwenSize

CONTROLS = 200  #: number of control tokens, whose ids follow the speech tokens
#: the control tokens that open a row, that divide text from speech, and that stand where more text is wanted
_SOS, _TASK, _FILL = 0, 2, 3
_BODY, _TEXT_HEAD = "llm.model.model.", "llm.model.lm_head.weight"


class SpeechLm(nn.Module):
    """The model from token ids to logits.

    Attributes:
        speech_tokens: the number of ids that are sound (6561); the ids from there on end a row.
    """

    def __init__(self, size: QwenSize, speech_tokens: int) -> None:
        super().__init__()
        self.speech_tokens = speech_tokens
        self.body = Qwen(size)
        self.llm_decoder = nn.Linear(size.hidden, speech_tokens + CONTROLS, bias=False)
        self.speech_embedding = nn.Embedding(speech_tokens + CONTROLS, size.hidden)

    @property
    def device(self) -> torch.device:
        return self.llm_decoder.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.llm_decoder.weight.dtype

    @property
    def ids(self) -> int:
        """Number of speech and control tokens."""
        return self.speech_tokens + CONTROLS

    @property
    def fill_token(self) -> int:
        """The control token that a row picks where it wants more text (`interleaving`)."""
        return self.speech_tokens + _FILL

    @property
    def sos(self) -> int:
        """The id that opens a row, in the form of `embedded`."""
        return self.body.size.vocabulary + self.speech_tokens + _SOS

    @property
    def task(self) -> int:
        """The id that ends the text, in the form of `embedded`."""
        return self.body.size.vocabulary + self.speech_tokens + _TASK

    def text_ids(self, text: Sequence[int]) -> list[int]:
        """Return text ids in the form of `embedded`. Raises as `prompt_ids`."""
        if any(not 0 <= word < self.body.size.vocabulary for word in text):
            raise _outside()
        return list(text)

    def sound_ids(self, speech: Sequence[int]) -> list[int]:
        """Return speech and control tokens in the form of `embedded`. Raises as `prompt_ids`."""
        if any(not 0 <= token < self.ids for token in speech):
            raise _outside()
        return [self.body.size.vocabulary + token for token in speech]

    def prompt_ids(self, text: Sequence[int], speech: Sequence[int]) -> list[int]:
        """Return the prompt's ids in the form of `embedded`: speech and control ids are numbered after the text ids.

        Raises:
            IndexError: an id is outside the vocabularies. On a GPU it would make the whole process fail.
        """
        return [self.sos, *self.text_ids(text), self.task, *self.sound_ids(speech)]

    def embedded(self, ids: Tensor) -> Tensor:
        """Embed ids (n,) int64 in the form of `prompt_ids` as (n, hidden)."""
        words = self.body.size.vocabulary
        return torch.where(
            (ids < words)[:, None],
            self.body.embed_tokens(ids.clamp(0, words - 1)),
            self.speech_embedding((ids - words).clamp(0, self.ids - 1)),
        )

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Compute (n, speech tokens + 200) from (n, hidden), float32 whatever the model's dtype."""
        return self.llm_decoder(hidden).float().log_softmax(dim=-1)


def _outside() -> IndexError:
    return IndexError("a text id or speech token lies outside the checkpoint's vocabularies")


def stored(directory: ModelDirectory) -> weights.Stored[SpeechLm]:
    """Describe the network and its file in a directory. The checkpoint also holds Qwen's text head, unused here."""
    size, speech_tokens = QwenSize.of(directory.qwen), directory.numbers.llm.speech_token_size
    return weights.Stored(
        lambda: SpeechLm(size, speech_tokens),
        directory / directory.llm,
        rename=lambda key: key.replace(_BODY, "body.", 1),
        unused={_TEXT_HEAD: (size.vocabulary, size.hidden)},
    )


def load(directory: ModelDirectory, device: str = "cpu", dtype: torch.dtype = torch.float32) -> SpeechLm:
    """Load the language model of a directory. Raises WeightsError as `Stored.load` does."""
    return stored(directory).load().to(device, dtype)
