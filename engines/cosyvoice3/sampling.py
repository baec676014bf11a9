"""How one row picks its next speech token: repetition-aware sampling (S. Chen et al., VALL-E 2, 2024).

All state is the row's own (its random generator, what it has said), so a seed gives the same tokens whoever shares the
batch. Draws are made on the CPU: torch's generators promise the same numbers there on every machine.
"""

from __future__ import annotations

import numpy as np
import torch

from engines.cosyvoice3.numbers import Sampling


class Sampler:
    """Picks tokens for one row.

    Args:
        settings: top-p, top-k, and how far back a repetition is looked for; None always picks the likeliest.
        speech_tokens: ids from here on are control tokens and end the row.
        seed: of the row's own generator.
        least: control tokens are not picked before this many tokens.
        parity: do as the official code does, which for `least` masks one control token (6561) of the 200 and so never
            enforces it: the model's end of speech is another one (6562).
    """

    def __init__(
        self, settings: Sampling | None, speech_tokens: int, seed: int = 0, least: int = 0, parity: bool = False
    ) -> None:
        self._settings = settings
        self._speech_tokens = speech_tokens
        self._least = least
        self._parity = parity
        self._generator = torch.Generator().manual_seed(seed)
        self.picked: list[int] = []

    def pick(self, log_probabilities: np.ndarray) -> int:
        """The next id. `log_probabilities`: (n,) float32, the row's own, which is changed."""
        if len(self.picked) < self._least:
            first = self._speech_tokens
            log_probabilities[first : first + 1 if self._parity else None] = -np.inf
        token = self._pick(log_probabilities)
        self.picked.append(token)
        return token

    def _pick(self, log_probabilities: np.ndarray) -> int:
        settings = self._settings
        if settings is None:
            return int(log_probabilities.argmax())
        probabilities = torch.softmax(torch.from_numpy(log_probabilities), dim=0).numpy()
        likely = _nucleus(probabilities, settings.top_p, settings.top_k)
        token = int(likely[self._draw(probabilities[likely])])
        said = self.picked[-settings.win_size :].count(token)
        if said < settings.win_size * settings.tau_r:
            return token
        # Said a moment ago: anything but that, in the full distribution's proportions.
        log_probabilities[token] = -np.inf
        return self._draw(torch.softmax(torch.from_numpy(log_probabilities), dim=0).numpy())

    def _draw(self, weights: np.ndarray) -> int:
        return int(torch.multinomial(torch.from_numpy(weights), 1, generator=self._generator))


def _nucleus(probabilities: np.ndarray, top_p: float, top_k: int) -> np.ndarray:
    """The likeliest ids, at most `top_k`, until together they pass `top_p`; equal ones in order of their id."""
    top_k = min(top_k, len(probabilities))
    threshold = np.partition(probabilities, -top_k)[-top_k]
    candidates = np.flatnonzero(probabilities >= threshold)
    candidates = candidates[np.argsort(-probabilities[candidates], kind="stable")][:top_k]
    before = np.concatenate(([np.float32(0)], np.cumsum(probabilities[candidates])[:-1]))
    return candidates[before < top_p]


class SilenceLimit:
    """Shortens long silences: of a run of silent tokens only the first five are kept.

    The token ids are those of silence and breath in CosyVoice3's codebook (FunAudioLLM/CosyVoice).
    """

    SILENT = frozenset((1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323))
    MOST = 5

    def __init__(self) -> None:
        self._run = 0

    def keeps(self, token: int) -> bool:
        """Whether the next token of the row is to be heard."""
        self._run = self._run + 1 if token in self.SILENT else 0
        return self._run <= self.MOST
