"""Speech in chunks, while the language model still speaks: mel by aligned chunks of tokens, audio as far as it is sure.

The first chunk is 25 tokens (a second) long, and each next one twice as long as the one before, up to 100. It is filled
up so that it ends where a chunk of the attention ends, counted from the clip's beginning: aligned, a chunk's mel
stays what it is when more tokens come. All of this is one stream's own; the official code keeps the length of the next
chunk for all requests, so that after the first stream every other waits four times as long for its first sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engines.cosyvoice3.flow import Flow, FlowRow
from engines.cosyvoice3.hift import Hift
from engines.cosyvoice3.noise import Excitation

_GROWTH, _LONGEST = 2, 4  #: of a chunk: from one to the next, and at most, in first chunks


class SpeechStream:
    """One request's stream: tokens in as they are said, audio out.

    Args:
        voice: the clip's part of a row; its `tokens` are not looked at.
        chunk: tokens of the first chunk; what the flow's attention was trained on.
        parity: let the last chunk's frames see each other and everything before them, as the official code does.
            What they grow out of then differs from what the chunks before them were made with.
    """

    def __init__(self, flow: Flow, hift: Hift, noise: Excitation, voice: FlowRow, chunk: int = 25,
                 parity: bool = False) -> None:
        self._flow, self._hift, self._noise = flow, hift, noise
        self._voice = voice
        self._parity = parity
        self._most = chunk * _LONGEST
        self._hop = chunk
        self._fill = -len(voice.prompt_tokens) % chunk  # of the first chunk, for its end to be aligned
        self._tokens: list[int] = []
        self._mel: list[Tensor] = []
        self._sounded = 0  # tokens whose mel is made
        self._given = 0  # samples given out

    @property
    def wanted(self) -> int:
        """Tokens in all that the next chunk needs, with those that are only looked ahead at."""
        return self._sounded + self._hop + self._fill + self._flow.size.pre_lookahead_len

    def add(self, tokens: Sequence[int]) -> list[Tensor]:
        """Tokens just said -> the chunks (samples,) that they complete; none of them yet, mostly."""
        self._tokens += tokens
        chunks = []
        while len(self._tokens) >= self.wanted:
            chunks.append(self._chunk(self._tokens[:self.wanted], self._hop + self._fill))
            self._hop, self._fill = min(self._most, self._hop * _GROWTH), 0
        return chunks

    def finish(self) -> Tensor:
        """The rest (samples,), once the last token was added. ValueError where none ever was."""
        if not self._tokens:
            raise ValueError("a stream of no tokens has no sound")
        return self._sound(self._made(self._tokens, chunked=not self._parity, final=True), final=True)

    def _chunk(self, tokens: list[int], hop: int) -> Tensor:
        mel = self._made(tokens, chunked=True, final=False)
        self._sounded += hop
        return self._sound(mel, final=False)

    def _made(self, tokens: list[int], chunked: bool, final: bool) -> Tensor:
        """The mel of those tokens that have none yet."""
        row = replace(self._voice, tokens=torch.tensor(tokens, dtype=torch.int64))
        return self._flow([row], chunked=chunked, final=final)[0][:, self._flow.size.token_mel_ratio * self._sounded:]

    def _sound(self, mel: Tensor, final: bool) -> Tensor:
        self._mel.append(mel)
        # From the beginning each time: pitch and source sum up over the whole, and the beginning comes out the same.
        audio = self._hift([torch.cat(self._mel, dim=1)], self._noise, final)[0][self._given:]
        self._given += len(audio)
        return audio
