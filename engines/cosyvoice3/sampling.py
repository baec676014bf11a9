"""Picks a row's next speech token by repetition-aware sampling (S. Chen et al., VALL-E 2, 2024).

Each pick takes two numbers of the row's own generator, even if it does not need the second: one for the likeliest
tokens, one for the resampling. They are drawn on the CPU, where torch's generators give the same numbers on every
machine. So a seed gives the same tokens whatever other rows share the batch. From the same probabilities `Sampler` on
the host and `DeviceSampler` on the device pick the same token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cosyvoice3.numbers import Sampling

#: more than the tokens of any row: a count that no row reaches
NEVER = 1 << 30
GREEDY = Sampling(top_p=0.0, top_k=1, win_size=1, tau_r=float(NEVER))


class Sampler:
    """A sampler that picks the tokens of a row on the host.

    Args:
        settings: top-p, top-k, and the window and threshold of repetitions; None always picks the likeliest.
        speech_tokens: ids from here on are control tokens and end the row.
        seed: of the row's own generator.
        least: control tokens are not picked before this many tokens.
        parity: do as the official code does. It draws as `torch.multinomial` does, a number for each candidate. And
            for `least` it masks a single control token (6561) of the 200 and so never enforces it: the model's end of
            speech is another one (6562).

    Attributes:
        picked: all tokens it has said, control tokens included.
        on_host: True: it needs the probabilities itself. False: the device may pick for it, from `uniforms`.
    """

    def __init__(
        self, settings: Sampling | None, speech_tokens: int, seed: int = 0, least: int = 0, parity: bool = False
    ) -> None:
        self.settings = settings or GREEDY
        self.least = least
        self.on_host = parity
        self._speech_tokens = speech_tokens
        self._parity = parity
        self._generator = torch.Generator().manual_seed(seed)
        self.picked: list[int] = []

    def resume(self, said: Sequence[int]) -> None:
        """Continue after these tokens, as if it had picked them itself."""
        if self._parity:
            raise ValueError("a sampler that draws as the official code does can't go on in the middle")
        self.picked = list(said)
        self.uniforms(len(said))

    def uniforms(self, steps: int) -> Tensor:
        """Draw the next picks' numbers (steps, 2) float32 in 0 … 1; they are then used up."""
        return torch.rand(steps, 2, generator=self._generator)

    def pick(self, log_probabilities: np.ndarray, ends: bool = True) -> int:
        """Pick the next id.

        Args:
            log_probabilities: (n,) float32, the row's own; it is changed.
            ends: control tokens may be picked, after `least` tokens.
        """
        if not ends or len(self.picked) < self.least:
            first = self._speech_tokens
            log_probabilities[first : first + 1 if self._parity else None] = -np.inf
        token = self._pick(log_probabilities)
        self.picked.append(token)
        return token

    def _pick(self, log_probabilities: np.ndarray) -> int:
        settings = self.settings
        first, second = (None, None) if self._parity else self.uniforms(1)[0].tolist()
        probabilities = torch.softmax(torch.from_numpy(log_probabilities), dim=0).numpy()
        likely = _nucleus(probabilities, settings.top_p, settings.top_k)
        token = int(likely[self._draw(probabilities[likely], first)])
        said = self.picked[-settings.win_size :].count(token)
        if said < settings.win_size * settings.tau_r:
            return token
        # The token is a repetition: pick any other, in the full distribution's proportions.
        log_probabilities[token] = -np.inf
        return self._draw(torch.softmax(torch.from_numpy(log_probabilities), dim=0).numpy(), second)

    def _draw(self, weights: np.ndarray, uniform: float | None) -> int:
        if uniform is None:
            return int(torch.multinomial(torch.from_numpy(weights), 1, generator=self._generator))
        reached = weights.astype(np.float64).cumsum()
        return int((reached <= uniform * reached[-1]).sum())


def _nucleus(probabilities: np.ndarray, top_p: float, top_k: int) -> np.ndarray:
    """Return the likeliest ids, at most `top_k`, until their sum passes `top_p`; equal ones in the order of ids."""
    top_k = min(top_k, len(probabilities))
    threshold = np.partition(probabilities, -top_k)[-top_k]
    candidates = np.flatnonzero(probabilities >= threshold)
    candidates = candidates[np.argsort(-probabilities[candidates], kind="stable")][:top_k]
    before = np.concatenate(([0.0], np.cumsum(probabilities[candidates], dtype=np.float64)[:-1]))
    return candidates[(before < top_p) | (before == 0)]


class DeviceSampler(nn.Module):
    """A sampler that picks tokens for several rows on the device, as each row's `Sampler` would.

    Args:
        ids: the number of tokens in the vocabulary.
        speech_tokens: ids from here on are control tokens.
        top_k: the largest top-k that a row's settings may have.
    """

    _ids: Tensor
    _ranks: Tensor
    _controls: Tensor

    def __init__(self, ids: int, speech_tokens: int, top_k: int, device: torch.device | str) -> None:
        super().__init__()
        self.top_k = top_k
        self._bits = max(1, (ids - 1).bit_length())
        self.register_buffer("_ids", torch.arange(ids, device=device))
        self.register_buffer("_ranks", torch.arange(top_k, device=device))
        self.register_buffer("_controls", self._ids >= speech_tokens)

    def forward(
        self,
        log_probabilities: Tensor,
        uniforms: Tensor,
        enough: Tensor,
        recent: Tensor,
        top_p: Tensor,
        top_k: Tensor,
        repeats: Tensor,
    ) -> Tensor:
        """Pick the next ids (n,) int64, -1 for rows whose probabilities are not finite.

        Args:
            log_probabilities: (n, ids) float32.
            uniforms: (n, 2) float32.
            enough: (n,) bool, True: the row is long enough for control tokens to be picked.
            recent: (n, window) int64, the last tokens that count as repetitions; -1 for none.
            top_p: (n,) float64.
            top_k: (n,) int64.
            repeats: (n,) int64, the number of occurrences among the recent tokens from which a token is banned.
        """
        log_probabilities = log_probabilities.masked_fill(self._controls & ~enough[:, None], float("-inf"))
        probabilities = log_probabilities.softmax(dim=-1)
        # The bits of positive floats have the order of the numbers; with the id appended no two are equal.
        last = (1 << self._bits) - 1
        keys = (probabilities.view(torch.int32).to(torch.int64) << self._bits) | (last - self._ids)
        best = keys.topk(self.top_k, dim=-1).values
        likely = last - (best & last)
        weights = probabilities.gather(1, likely).double()
        before = F.pad(weights.cumsum(dim=-1)[:, :-1], (1, 0))
        kept = ((before < top_p[:, None]) | (before == 0)) & (self._ranks < top_k[:, None])
        place = _drawn(torch.where(kept, weights, 0.0), uniforms[:, :1]).clamp(max=self.top_k - 1)
        token = likely.gather(1, place)
        banned = log_probabilities.masked_fill(self._ids == token, float("-inf")).softmax(dim=-1).double()
        other = _drawn(banned, uniforms[:, 1:])
        repeated = (recent == token).sum(dim=1) >= repeats
        picked = torch.where(repeated, other[:, 0], token[:, 0])
        return torch.where(probabilities[:, 0].isnan(), -1, picked)


def _drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """Find the place (n, 1) in each row of `weights` (n, m) float64 that `uniform` (n, 1) in 0 … 1 selects."""
    reached = weights.cumsum(dim=-1)
    return (reached <= uniform.double() * reached[:, -1:]).sum(dim=1, keepdim=True)


def repeats(settings: Sampling) -> int:
    """Return the number of recent occurrences that is too many: the smallest count not below `win_size * tau_r`."""
    return min(NEVER, int(np.ceil(settings.win_size * settings.tau_r)))


class SilenceLimit:
    """A filter for long silences: it keeps only the first five of a run of silent tokens.

    The token ids are those of silence and breath in CosyVoice3's codebook (FunAudioLLM/CosyVoice).
    """

    SILENT = frozenset((1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323))
    MOST = 5

    def __init__(self) -> None:
        self._run = 0

    def keeps(self, token: int) -> bool:
        """Tell if the row's next token is kept."""
        self._run = self._run + 1 if token in self.SILENT else 0
        return self._run <= self.MOST
