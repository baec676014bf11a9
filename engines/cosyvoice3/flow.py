"""Makes mel from speech tokens by causal conditional flow matching (Y. Lipman et al., 2023), classifier-free guided.

A row is the reference clip and the speech to be made, in one sequence. The clip's mel is given; the rest grows out of
noise in ten Euler steps. The noise is the same for every request and every place, so a mel depends only on its own row.
Rows of different length share a batch: they are padded at the right, and the padding is hidden from attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cosyvoice3 import noise, weights
from engines.cosyvoice3.capture import Graphs
from engines.cosyvoice3.directory import FLOW, ModelDirectory
from engines.cosyvoice3.dit import Dit, Visible, packs, visible
from engines.cosyvoice3.finite import check_finite
from engines.cosyvoice3.flow_batches import bucket
from engines.cosyvoice3.launcher import Launcher, Pending
from engines.cosyvoice3.numbers import Flow as FlowSize
from engines.cosyvoice3.numbers import LookAhead as LookAheadSize

STEPS = 10
Seen = Literal["all", "rows", "chunks"]


@dataclass(frozen=True)
class FlowRow:
    """The input of a row: the tokens to be sounded, and the arrays of the reference clip.

    Args:
        tokens: (n,), to be sounded.
        prompt_tokens: (p,), the clip's.
        prompt_mel: (m, 80) float32, the clip's; m is 2p if the front end aligned them.
        embedding: (192,) float32, the speaker's.
        chunked: attend by chunks, so that the mel of a beginning stays the same when more tokens come.
        final: False: more tokens will come, so the last three are only looked at and not sounded.
    """

    tokens: Tensor
    prompt_tokens: Tensor
    prompt_mel: Tensor
    embedding: Tensor
    chunked: bool = False
    final: bool = True


class Integration(NamedTuple):
    """The state of a batch between two Euler steps, on the device. A step changes `mel` and `done` in place.

    Attributes:
        mel: (n, frames, 80), from noise to mel; at least float32.
        done: (1,) int64, the number of steps so far.
        mu, cond: (2n, frames, 80), the tokens' mean and the clip's mel, for the rows with and then without conditions.
        speaker: (2n, 80).
        attending: the frames that each frame attends to.
    """

    mel: Tensor
    done: Tensor
    mu: Tensor
    cond: Tensor
    speaker: Tensor
    attending: Visible


class LookAhead(nn.Module):
    """Two convolutions: the first sees three tokens ahead, the second two of the first's results back."""

    def __init__(self, size: LookAheadSize) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(size.in_channels, size.channels, size.pre_lookahead_len + 1)
        self.conv2 = nn.Conv1d(size.channels, size.in_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, tokens, 80); the shape stays, and zeros lie beyond the end."""
        ahead = self.conv1.kernel_size[0] - 1
        y = F.leaky_relu(self.conv1(F.pad(x.transpose(1, 2), (0, ahead))))
        return self.conv2(F.pad(y, (2, 0))).transpose(1, 2) + x


class Decoder(nn.Module):
    """A module that only adds the name between flow and estimator in the checkpoint's keys."""

    def __init__(self, size: FlowSize) -> None:
        super().__init__()
        self.estimator = Dit(size.decoder.estimator)


class Flow(nn.Module):
    """The flow model, from speech tokens and a reference clip to mel.

    `forward` takes rows and gives their mels. Its computation is two functions of fixed shapes: `begin`, and `turn` for
    each Euler step. On a CPU they are called directly, in the exact shapes of the rows. On a GPU both are captured as
    CUDA graphs for each bucket of rows and frames (`flow_batches.bucket`), so that the host launches only a few
    operations a batch. A graph of all ten steps would take ten times as long to record.
    """

    def __init__(self, size: FlowSize) -> None:
        super().__init__()
        self.size = size
        self.guidance = size.decoder.cfm_params.content.inference_cfg_rate
        self.input_embedding = nn.Embedding(size.vocab_size, size.input_size)
        self.spk_embed_affine_layer = nn.Linear(size.spk_embed_dim, size.output_size)
        self.pre_lookahead_layer = LookAhead(size.pre_lookahead_layer)
        self.decoder = Decoder(size)
        # Tables for all batches: `prepare` makes them on the device, and they stay there.
        self._noise: Tensor
        self._modulations: Tensor
        self._rope: Tensor
        self.register_buffer("_noise", None, persistent=False)
        self.register_buffer("_modulations", None, persistent=False)
        self.register_buffer("_rope", None, persistent=False)
        self._prepared: tuple[torch.device, torch.dtype] | None = None
        self._launcher: Launcher | None = None
        self._express: Launcher | None = None
        self._widths: Tensor
        self.register_buffer("_widths", None, persistent=False)
        self._packs = False

    @property
    def device(self) -> torch.device:
        return self.spk_embed_affine_layer.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.spk_embed_affine_layer.weight.dtype

    @property
    def look_ahead(self) -> int:
        """Tokens at the end of a row that are not sounded while more are to come."""
        return self.size.pre_lookahead_len

    def frames(self, row: FlowRow) -> int:
        """Return the cost of a row: mel frames of prompt and speech together."""
        tokens = len(row.prompt_tokens) + len(row.tokens)
        return self.size.token_mel_ratio * (tokens - (0 if row.final else self.look_ahead))

    @torch.inference_mode()
    def prepare(self, launcher: Launcher | None = None) -> Launcher:
        """Make the tables for all batches: noise, positions, and the network's vectors for the ten times.

        Does nothing if they exist for this device and dtype.

        Args:
            launcher: starts batches; None makes one for the device.

        Returns:
            The launcher of later batches that are not urgent.
        """
        if self._launcher is not None and self._prepared == (self.device, self.dtype):
            return self._launcher
        estimator = self.decoder.estimator
        # The sum of the steps is not rounded to half precision, whatever the network computes in.
        exact = torch.promote_types(self.dtype, torch.float32)
        self._noise = noise.flow(noise.MEL_FRAMES).T.contiguous().to(self.device, exact)
        self._rope = estimator.rotary_embed(noise.MEL_FRAMES).to(exact)
        if self.dtype in (torch.bfloat16, torch.float16):
            estimator.fuse()
        # The time is given twice, as for the two rows of guidance: a matrix product rounds one row and two rows
        # differently, and the official code has two.
        self._packs = packs(self.device, self.dtype, self.size.decoder.estimator.dim_head)
        times = _schedule()
        self._widths = torch.tensor([width for _, width in times], dtype=exact).to(self.device)
        self._modulations = torch.stack(
            [
                estimator.modulations(torch.full((2,), time, device=self.device))[:, :1].to(self.dtype)
                for time, _ in times
            ]
        )
        self._launcher = self._express = launcher or Launcher(self.device)
        if self.device.type == "cuda" and launcher is None:
            self._express = Launcher(self.device, Graphs(self.device, priority=-1))
        self._launcher.synchronize()
        self._prepared = self.device, self.dtype
        return self._launcher

    @property
    def launchers(self) -> list[Launcher]:
        """The launchers of batches: the usual one, and the one for urgent batches if it is another."""
        self.prepare()
        return [each for each in dict.fromkeys((self._launcher, self._express)) if each is not None]

    def forward(self, rows: Sequence[FlowRow], urgent: bool = False) -> list[Tensor]:
        """Make the mel of each row's `tokens`, (80, 2n) float32 on the host, without the prompt's. Any rows may mix.

        Args:
            rows: the batch.
            urgent: see `launch`.

        Raises:
            ValueError: prompt and speech together are longer than 300 s.
            NotFinite: the network gave NaN or infinity for a row.
        """
        return self.launch(rows, urgent).result()

    @torch.inference_mode()
    def launch(self, rows: Sequence[FlowRow], urgent: bool = False) -> Pending[list[Tensor]]:
        """Start a batch. On a GPU it runs on a stream of its own, beside whatever else the device does.

        Args:
            rows: the batch.
            urgent: True: run on a GPU on another stream, whose kernels go before those of the usual one. Only one
                thread may launch urgent batches, and only one the others.

        Returns:
            A `Pending` whose `result()` is that of `forward`.

        Raises:
            ValueError: as `forward`.
        """
        lengths = [self.frames(row) for row in rows]
        if max(lengths) > noise.MEL_FRAMES:
            raise ValueError(
                f"prompt and speech are {max(lengths) / 50:.0f} s together; the flow's noise is "
                f"{noise.MEL_FRAMES / 50:.0f} s long. Split the text."
            )
        launcher = self.prepare()
        if urgent and self._express is not None:
            launcher = self._express
        inputs, seen = self._gathered(rows, lengths)
        spans = [(len(row.prompt_mel), length) for row, length in zip(rows, lengths, strict=True)]

        def split(mel: Tensor) -> list[Tensor]:
            made = [mel[index, start:end].T.float().contiguous() for index, (start, end) in enumerate(spans)]
            for each in made:
                check_finite(each, "the flow's mel", "flow.pt")
            return made

        begin = partial(self.begin, seen=seen)
        return launcher.launch(("solve", seen), begin, inputs, split, again=self.turn, times=STEPS)

    @torch.inference_mode()
    def warm_up(
        self, shapes: Sequence[tuple[int, int]], chunked: Sequence[bool] = (False,), urgent: bool = False
    ) -> None:
        """Capture the buckets of the given shapes in advance, so that no request waits for it. Does nothing on a CPU.

        Args:
            shapes: (rows, frames) of batches.
            chunked: False for whole rows, True for streams' chunks, or both.
            urgent: see `launch`.
        """
        if not self.prepare().bucketed:
            return
        for count, frames in shapes:
            for kind in chunked:
                half = frames // (2 * self.size.token_mel_ratio)
                self([dummy(half, frames // self.size.token_mel_ratio - half, kind)] * count, urgent)

    def _gathered(self, rows: Sequence[FlowRow], lengths: list[int]) -> tuple[list[Tensor], Seen]:
        """Collect the input of `begin` for these rows, on the host."""
        launcher = self.prepare()
        ratio, chunk = self.size.token_mel_ratio, self.size.decoder.estimator.static_chunk_size
        counts = [len(row.prompt_tokens) + len(row.tokens) for row in rows]
        n, frames, most = len(rows), max(lengths), max(counts)
        if launcher.bucketed:
            n, frames = bucket(n, frames)
            frames = min(frames, noise.MEL_FRAMES)
            most = frames // ratio + self.look_ahead
        # Rows that fill the bucket up have one token and no prompt.
        tokens = launcher.buffer((n, most), torch.int64)
        cond = launcher.buffer((n, frames, self.size.output_size), torch.float32)
        speaker = launcher.buffer((n, self.size.spk_embed_dim), torch.float32)
        sizes = launcher.buffer((3, n), torch.int64)
        sizes[0], sizes[1], sizes[2] = 1, ratio, frames
        for i, row in enumerate(rows):
            tokens[i, : len(row.prompt_tokens)] = row.prompt_tokens
            tokens[i, len(row.prompt_tokens) : counts[i]] = row.tokens
            cond[i, : len(row.prompt_mel)] = row.prompt_mel
            speaker[i] = row.embedding
            sizes[0, i], sizes[1, i] = counts[i], lengths[i]
            if row.chunked:
                sizes[2, i] = chunk
        inputs = [tokens, cond, speaker, sizes]
        # A row within its first chunk sees all of it in either way; but then each bucket has one graph for chunks.
        if any(
            row.chunked and (launcher.bucketed or length > chunk) for row, length in zip(rows, lengths, strict=True)
        ):
            return inputs, "chunks"
        return inputs, "rows" if launcher.bucketed or min(lengths) < frames else "all"

    def begin(self, tokens: Tensor, cond: Tensor, speaker: Tensor, sizes: Tensor, seen: Seen) -> Integration:
        """Make the state before the first step, in fixed shapes, without reading any value on the host.

        Args:
            tokens: (n, t) int64, of prompt and speech, padded at the right with any ids.
            cond: (n, frames, 80) float32, the prompts' mels, then zeros.
            speaker: (n, 192) float32.
            sizes: (3, n) int64: each row's tokens, frames, and frames of a chunk.
            seen: the frames that a frame sees: "all" others (no row is padded), all of its row ("rows"), or its row up
                to the end of its chunk ("chunks").
        """
        counts, lengths, chunks = sizes.unbind()
        n, frames = cond.shape[:2]
        # Zeros are set after the embedding: beyond a row's end its last tokens must see zeros, not a token.
        own = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
        embedded = self.input_embedding(tokens.clamp(min=0)) * own[..., None]
        mu = self.pre_lookahead_layer(embedded)
        mu = mu[:, :, None].expand(-1, -1, self.size.token_mel_ratio, -1).flatten(1, 2)[:, :frames]
        speaker = self.spk_embed_affine_layer(F.normalize(speaker.to(mu.dtype), dim=1))
        # The second half of the batch has no conditions; guidance leads away from its result.
        mu, cond, speaker = (torch.cat((each, torch.zeros_like(each))) for each in (mu, cond.to(mu.dtype), speaker))
        return Integration(
            self._noise[:frames].repeat(n, 1, 1),
            torch.zeros(1, dtype=torch.int64, device=mu.device),
            mu,
            cond,
            speaker,
            self._visible(lengths, chunks, frames, seen),
        )

    def _visible(self, lengths: Tensor, chunks: Tensor, frames: int, seen: Seen) -> Visible:
        if seen == "all":
            return Visible()
        lengths, chunks = torch.cat((lengths, lengths)), torch.cat((chunks, chunks))
        if seen == "chunks":
            return visible(lengths, chunks, frames, self.dtype)
        return visible(lengths, None, frames, self.dtype, self._packs)

    def turn(self, state: Integration) -> None:
        """Take an Euler step from the noise towards the mel, in place."""
        mel, done, mu, cond, speaker, attending = state
        modulations = self._modulations.index_select(0, done)[0]
        velocity = self.decoder.estimator.velocity(
            torch.cat((mel, mel)).to(mu.dtype), mu, modulations, speaker, cond, self._rope[: mel.shape[1]], attending
        )
        with_, without = velocity.to(mel.dtype).chunk(2)
        width = self._widths.index_select(0, done)
        mel.add_(width * ((1 + self.guidance) * with_ - self.guidance * without))
        done.add_(1)


def dummy(prompt: int, tokens: int, chunked: bool = False) -> FlowRow:
    """Make a row of `tokens` times token 0 after a silent clip of `prompt` tokens, for warm-up and measurement."""
    return FlowRow(
        torch.zeros(tokens, dtype=torch.int64),
        torch.zeros(prompt, dtype=torch.int64),
        torch.zeros(2 * prompt, 80),
        torch.ones(192),
        chunked,
    )


def _schedule() -> list[tuple[float, float]]:
    """List each Euler step's time and width, closer together at the start (cosine); float32 sums, as in training."""
    times = 1 - torch.cos(torch.linspace(0, 1, STEPS + 1) * 0.5 * math.pi)
    time, width, steps = times[0], times[1] - times[0], []
    for index in range(STEPS):
        steps.append((float(time), float(width)))
        time = time + width
        if index + 2 <= STEPS:
            width = times[index + 2] - time
    return steps


def stored(directory: ModelDirectory) -> weights.Stored:
    """Describe the network and its file in a directory."""
    return weights.Stored(lambda: Flow(directory.numbers.flow), directory / FLOW)


def load(directory: ModelDirectory, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Flow:
    """Load the flow of a directory. Raises WeightsError as `Stored.load` does."""
    return cast(Flow, stored(directory).load()).to(device, dtype)
