"""The device's side of rows that decode together: cache, state, and two functions of fixed shapes on them.

A step reads each row's last token and writes its next one in the same place, so that the next step needs nothing from
the host. Every change by the host between two steps (a row joins, moves, or is set aside) is a copy on the same stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.cosyvoice3.qwen import KvCache
from engines.cosyvoice3.sampling import DeviceSampler, Sampler, repeats
from engines.cosyvoice3.speech_lm import SpeechLm

_TOKEN, _POSITION, _COUNT, _LEAST, _TOP_K, _REPEATS, _RECENT = range(7)  # columns of the state; the window is the rest


class Batch(nn.Module):
    """The state of up to `rows` rows, and the functions on it. Rows 0 … n - 1 decode; a row after them may read.

    Args:
        lm: the language model. Its weights are fused here.
        rows: the most rows.
        positions: the most positions of a row.
        window: how many recent tokens count as repetitions, in all rows.
        top_k: the largest top-k that a row's settings may have.

    Attributes:
        state: (rows, 6 + window) int64, changed by a step.
    """

    state: Tensor
    top_p: Tensor
    uniforms: Tensor
    _firsts: Tensor

    def __init__(self, lm: SpeechLm, rows: int, positions: int, window: int = 10, top_k: int = 25) -> None:
        super().__init__()
        self.lm, self.rows, self.positions, self.window = lm, rows, positions, window
        lm.body.fuse()
        device = lm.device
        self.cache = KvCache(lm.body.size, rows, positions, device, lm.dtype)
        self.sampler = DeviceSampler(lm.ids, lm.speech_tokens, top_k, device)
        state = torch.zeros(rows, _RECENT + window, dtype=torch.int64, device=device)
        state[:, _POSITION] = self.cache.spill
        self.register_buffer("state", state)
        self.register_buffer("top_p", torch.ones(rows, dtype=torch.float64, device=device))
        # A row's random numbers, a pair for each of its steps.
        self.register_buffer("uniforms", torch.zeros(rows * positions, 2, device=device))
        self.register_buffer("_firsts", torch.arange(rows, device=device) * positions)

    def step(self, n: int, span: int) -> tuple[Tensor, Tensor]:
        """Compute a token for each of the first n rows.

        Args:
            n: the rows that decode.
            span: more than the position of any row that decodes.

        Returns:
            The tokens (n,) int64, -1 for a row whose probabilities are not finite, and the log-probabilities
            (n, ids) float32 that they were picked from.
        """
        state = self.state[:n]
        token, at, count = state[:, _TOKEN], state[:, _POSITION], state[:, _COUNT]
        embedded = self.lm.embedded(token + self.lm.body.size.vocabulary)
        hidden = self.lm.body.step(embedded, at, span, self.cache)
        log_probabilities = self.lm.log_probabilities(hidden)
        picked = self.sampler(
            log_probabilities,
            self.uniforms.index_select(0, self._firsts[:n] + count.clamp(max=self.positions - 1)),
            count >= state[:, _LEAST],
            state[:, _RECENT:],
            self.top_p[:n],
            state[:, _TOP_K],
            state[:, _REPEATS],
        )
        moved = torch.stack((picked, (at + 1).clamp(max=self.cache.spill), count + 1), dim=1)
        state.copy_(torch.cat((moved, state[:, _LEAST:_RECENT], state[:, _RECENT + 1 :], picked[:, None]), dim=1))
        return picked, log_probabilities

    def read(self, given: Tensor, span: int) -> None:
        """Read a stretch of a row's prompt into the cache.

        Args:
            given: (3 + n,) int64: the row, the position of the first id, the number of ids, and n ids as `prompt_ids`
                makes them, padded with any values.
            span: at least position and count together.
        """
        embedded = self.lm.embedded(given[3:])
        self.lm.body.prefill(embedded, given[0], given[1], given[2], span, self.cache)

    def seat(self, row: int, token: int, position: int, least: int, sampler: Sampler, uniforms: Tensor | None) -> None:
        """Let a row decode from the next step on.

        Args:
            row: the row's place.
            token: the token that it reads first, a speech or control token; a text id is its distance below the end
                of the text ids, and so negative.
            position: the position of that token.
            least: the number of tokens before which it picks no control token.
            sampler: the row's own.
            uniforms: (m, 2), the random numbers of its picks; None if it picks on the host.
        """
        said, settings = sampler.picked, sampler.settings
        recent = ([-1] * self.window + list(said))[-self.window :]
        state = [token, position, len(said), least, settings.top_k, repeats(settings), *recent]
        if uniforms is not None:
            first = row * self.positions + len(said)
            self._upload(self.uniforms[first : first + len(uniforms)], uniforms)
        self._upload(self.top_p[row], torch.tensor(settings.top_p, dtype=torch.float64))
        self._upload(self.state[row], torch.tensor(state))

    def turn(self, row: int, token: int, position: int, least: int, said: int) -> None:
        """Let a row go on with another token than the one that it picked last.

        Args:
            row, token, position, least: as for `seat`.
            said: the token that counts as picked in its place.
        """
        self._upload(self.state[row, :_COUNT], torch.tensor([token, position]))
        self._upload(self.state[row, _LEAST], torch.tensor(least))
        self._upload(self.state[row, -1], torch.tensor(said))

    def _upload(self, target: Tensor, value: Tensor) -> None:
        """Copy `value` to `target` without a wait, from pinned memory that is not reused before the copy is done."""
        target.copy_(value.pin_memory() if target.is_cuda else value, non_blocking=True)

    def say(self, tokens: Tensor) -> None:
        """Replace the last tokens of the first rows by these (n,), which the host picked."""
        n = len(tokens)
        self.state[:n, _TOKEN].copy_(tokens)
        self.state[:n, -1].copy_(tokens)

    def move(self, source: int, target: int, length: int) -> None:
        """Move a row with `length` positions to another place."""
        self.cache.move(source, target, length)
        self.state[target].copy_(self.state[source])
        self.top_p[target].copy_(self.top_p[source])
        first, other = target * self.positions, source * self.positions
        self.uniforms[first : first + self.positions].copy_(self.uniforms[other : other + self.positions])

    def set_aside(self, row: int) -> None:
        """Let later steps write this row's results to a place that is never read."""
        self.state[row, _POSITION].fill_(self.cache.spill)
