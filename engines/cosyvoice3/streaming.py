"""Speech in chunks, while the language model still speaks: mel by aligned chunks of tokens, audio as far as it is sure.

Everything in one process, for one request: what the stages do for many (`ticket.py`, `vocoder.py`) must sound like it.
Where the chunks end is `chunks.py`.
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
    """One request's stream: tokens in as they are said, audio out.

    Args:
        voice: the clip's part of a row; its `tokens` are not looked at.
        parity: let the last chunk's frames see each other and everything before them, as the official code does.
            What they grow out of then differs from what the chunks before them were made with.
    """

    def __init__(self, flow: Flow, hift: Hift, noise: Excitation, voice: FlowRow, parity: bool = False) -> None:
        self._flow, self._hift, self._noise = flow, hift, noise
        self._voice = voice
        self._parity = parity
        self._plan = ChunkPlan(len(voice.prompt_tokens), flow.look_ahead)
        self._tokens: list[int] = []
        self._mel = torch.zeros(80, 0)
        self._given = 0  # samples given out

    def add(self, tokens: Sequence[int]) -> list[Tensor]:
        """Tokens just said -> the chunks (samples,) that they complete; none of them yet, mostly."""
        self._tokens += tokens
        chunks = []
        while len(self._tokens) >= self._plan.wanted:
            chunks.append(self._chunk(self._tokens[: self._plan.wanted], chunked=True, final=False))
            self._plan.advance()
        return chunks

    def finish(self) -> Tensor:
        """The rest (samples,), once the last token was added. ValueError where none ever was."""
        if not self._tokens:
            raise ValueError("a stream of no tokens has no sound")
        return self._chunk(self._tokens, chunked=not self._parity, final=True)

    def _chunk(self, tokens: list[int], chunked: bool, final: bool) -> Tensor:
        row = replace(self._voice, tokens=torch.tensor(tokens, dtype=torch.int64), chunked=chunked, final=final)
        (mel,) = self._flow([row])
        self._mel = torch.cat((self._mel.to(mel), mel[:, self._mel.shape[1] :]), dim=1)
        # From the beginning each time: pitch and source sum up over the whole, and the beginning comes out the same.
        audio = self._hift([self._mel], self._noise, final)[0][self._given :]
        self._given += len(audio)
        return audio
