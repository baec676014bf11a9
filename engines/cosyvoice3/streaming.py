"""Makes speech in chunks while the language model still decodes, by aligned chunks of tokens.

It gives out audio as soon as later tokens can't change it. All runs in one process, for one request: the stages, which
do this for many (`ticket.py`, `vocoder.py`), must sound like it. `chunks.py` plans the ends of the chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engines.cosyvoice3.chunks import ChunkPlan
from engines.cosyvoice3.flow import Flow, FlowRow
from engines.cosyvoice3.hift import Hift
from engines.cosyvoice3.noise import Excitation


class SpeechStream:
    """The stream of a request, from tokens, as they are said, to audio.

    Args:
        voice: the clip's part of a row; its `tokens` are ignored.
        parity: let the last chunk's frames see each other and everything before them, as the official code does.
            They are then computed otherwise than the chunks before them.
    """

    def __init__(self, flow: Flow, hift: Hift, noise: Excitation, voice: FlowRow, parity: bool = False) -> None:
        self._flow, self._hift, self._noise = flow, hift, noise
        self._voice = voice
        self._parity = parity
        self._plan = ChunkPlan(len(voice.prompt_tokens), flow.look_ahead)
        self._tokens: list[int] = []
        self._mel = torch.zeros(80, 0)
        self._given = 0  # samples given out so far

    def add(self, tokens: Sequence[int]) -> list[Tensor]:
        """Add tokens; returns the chunks (samples,) that they complete, mostly none."""
        self._tokens += tokens
        chunks = []
        while len(self._tokens) >= self._plan.wanted:
            chunks.append(self._chunk(self._tokens[: self._plan.wanted], chunked=True, final=False))
            self._plan.advance()
        return chunks

    def finish(self) -> Tensor:
        """Return the rest (samples,) after the last token was added. Raises ValueError if there was no token."""
        if not self._tokens:
            raise ValueError("a stream of no tokens has no sound")
        return self._chunk(self._tokens, chunked=not self._parity, final=True)

    def _chunk(self, tokens: list[int], chunked: bool, final: bool) -> Tensor:
        row = replace(self._voice, tokens=torch.tensor(tokens, dtype=torch.int64), chunked=chunked, final=final)
        (mel,) = self._flow([row])
        self._mel = torch.cat((self._mel.to(mel), mel[:, self._mel.shape[1] :]), dim=1)
        # Compute from the beginning each time: pitch and source sum up over the whole. The beginning stays the same.
        audio = self._hift([self._mel], self._noise, final)[0][self._given :]
        self._given += len(audio)
        return audio
