"""From speech tokens to mel: conditional flow matching (Y. Lipman et al., 2023), causal, guided without a classifier.

A row is the reference clip and the speech to be made, in one sequence: the clip's mel is given, the rest grows out of
noise in ten Euler steps. The noise is the same for every request and every place, so a mel depends on nothing but its
own row. Rows of different length share a batch: padded at the right, with what pads them hidden from attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engines.cosyvoice3 import noise, weights
from engines.cosyvoice3.directory import FLOW, ModelDirectory
from engines.cosyvoice3.dit import Dit, seen
from engines.cosyvoice3.numbers import Flow as FlowSize
from engines.cosyvoice3.numbers import LookAhead as LookAheadSize

STEPS = 10


@dataclass(frozen=True)
class FlowRow:
    """One row: `tokens` (n,) to be sounded; of the reference clip `prompt_tokens` (p,), `prompt_mel` (m, 80) float32
    and `embedding` (192,) float32. m is 2p where the front end aligned them.

    Args:
        chunked: attention by chunks, so that what is made of a beginning stays as it is when more tokens come.
        final: False where more tokens will come: the last three are then only looked at, not sounded.
    """

    tokens: Tensor
    prompt_tokens: Tensor
    prompt_mel: Tensor
    embedding: Tensor
    chunked: bool = False
    final: bool = True


class LookAhead(nn.Module):
    """Two convolutions: each token sees three tokens ahead, and two back of what came of that."""

    def __init__(self, size: LookAheadSize) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(size.in_channels, size.channels, size.pre_lookahead_len + 1)
        self.conv2 = nn.Conv1d(size.channels, size.in_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, 80) -> the same; beyond the end lie zeros."""
        ahead = self.conv1.kernel_size[0] - 1
        y = F.leaky_relu(self.conv1(F.pad(x.transpose(1, 2), (0, ahead))))
        return self.conv2(F.pad(y, (2, 0))).transpose(1, 2) + x


class Decoder(nn.Module):
    """A name in the checkpoint between flow and estimator."""

    def __init__(self, size: FlowSize) -> None:
        super().__init__()
        self.estimator = Dit(size.decoder.estimator)


class Flow(nn.Module):
    def __init__(self, size: FlowSize) -> None:
        super().__init__()
        self.size = size
        self.guidance = size.decoder.cfm_params.content.inference_cfg_rate
        self.input_embedding = nn.Embedding(size.vocab_size, size.input_size)
        self.spk_embed_affine_layer = nn.Linear(size.spk_embed_dim, size.output_size)
        self.pre_lookahead_layer = LookAhead(size.pre_lookahead_layer)
        self.decoder = Decoder(size)

    @property
    def device(self) -> torch.device:
        return self.spk_embed_affine_layer.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.spk_embed_affine_layer.weight.dtype

    @property
    def look_ahead(self) -> int:
        """Tokens at the end of a row that are only looked at while more are to come."""
        return self.size.pre_lookahead_len

    def frames(self, row: FlowRow) -> int:
        """Mel frames of prompt and speech together: what a row costs."""
        tokens = len(row.prompt_tokens) + len(row.tokens)
        return self.size.token_mel_ratio * (tokens - (0 if row.final else self.look_ahead))

    @torch.inference_mode()
    def forward(self, rows: Sequence[FlowRow]) -> list[Tensor]:
        """The mel of each row's `tokens`, (80, 2n) float32, without the prompt's. Rows of any kind may be together.

        Raises:
            ValueError: prompt and speech together are longer than 300 s.
        """
        lengths = [self.frames(row) for row in rows]
        if max(lengths) > noise.MEL_FRAMES:
            raise ValueError(
                f"prompt and speech are {max(lengths) / 50:.0f} s together; the flow's noise is "
                f"{noise.MEL_FRAMES / 50:.0f} s long. Split the text."
            )
        mu, cond, speaker = self._conditions(rows, lengths)
        chunk = self.size.decoder.estimator.static_chunk_size
        chunks = [chunk if row.chunked else length for row, length in zip(rows, lengths, strict=True)]
        mask = seen(*(torch.tensor(each, device=self.device) for each in (lengths, chunks)))
        mel = self._solve(mu, cond, speaker, mask)
        return [
            mel[i, len(row.prompt_mel) : length].T.float()
            for i, (row, length) in enumerate(zip(rows, lengths, strict=True))
        ]

    def _conditions(self, rows: Sequence[FlowRow], lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """mu (n, frames, 80), cond (n, frames, 80), speaker (n, 80)."""
        tokens = [torch.cat((row.prompt_tokens, row.tokens)).to(self.device) for row in rows]
        # Padded after embedding: beyond a row's end its last tokens must see zeros, not a token.
        embedded = pad_sequence([self.input_embedding(ids.clamp(min=0)) for ids in tokens], batch_first=True)
        mu = self.pre_lookahead_layer(embedded).repeat_interleave(self.size.token_mel_ratio, dim=1)[:, : max(lengths)]
        cond = torch.zeros_like(mu)
        for i, row in enumerate(rows):
            cond[i, : len(row.prompt_mel)] = row.prompt_mel.to(cond)
        embeddings = torch.stack([row.embedding for row in rows]).to(mu)
        return mu, cond, self.spk_embed_affine_layer(F.normalize(embeddings, dim=1))

    def _solve(self, mu: Tensor, cond: Tensor, speaker: Tensor, mask: Tensor | None) -> Tensor:
        n, frames = mu.shape[:2]
        # What the steps add up is not rounded to half precision, whatever the network computes in.
        x = noise.flow(frames).T.to(mu.device, torch.promote_types(mu.dtype, torch.float32)).expand(n, -1, -1)
        # The second half of the batch is without conditions; guidance leads away from what it finds.
        mu, cond, speaker = (torch.cat((tensor, torch.zeros_like(tensor))) for tensor in (mu, cond, speaker))
        mask = torch.cat((mask, mask)) if mask is not None else None
        for time, step in _schedule():
            time = torch.tensor([time], device=x.device)
            velocity = self.decoder.estimator(torch.cat((x, x)).to(mu.dtype), mu, time, speaker, cond, mask)
            with_, without = velocity.to(x.dtype).chunk(2)
            x = x + step * ((1 + self.guidance) * with_ - self.guidance * without)
        return x


def _schedule() -> list[tuple[float, float]]:
    """Time and width of each Euler step, closer together at the start (cosine). Summed in float32, as in training."""
    times = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1) * 0.5 * math.pi)
    time, width, steps = times[0], times[1] - times[0], []
    for index in range(STEPS):
        steps.append((float(time), float(width)))
        time = time + width
        if index + 2 <= STEPS:
            width = times[index + 2] - time
    return steps


def stored(directory: ModelDirectory) -> weights.Stored:
    """Where a directory has it."""
    return weights.Stored(lambda: Flow(directory.numbers.flow), directory / FLOW)


def load(directory: ModelDirectory, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Flow:
    """The flow of a directory. Raises WeightsError as `Stored.load` does."""
    return stored(directory).load().to(device, dtype)
