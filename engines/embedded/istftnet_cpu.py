"""The iSTFTNet vocoder arranged for a CPU computes the numbers of `istftnet` two to three times as fast.

Nearly all of the vocoder's time goes into 48 pairs of "adaptive norm + snake" and convolution. They are arranged so:

- Tensors lie as (time, channels), the layout in which oneDNN convolves without reordering.
- The norm's scale and shift take in the snake's α, so that αx + sin²(αx) needs two passes; the division by α that is
  left is part of the next convolution's weights.
- These passes and the convolution run over a tile of at most 4,096 time steps, and then over the next one: the tile
  stays in the cache, and no second array of the whole utterance is needed.
- Each thread takes a part of the time through a whole block (`thread_team`); a norm's mean and variance are put
  together from those of the parts.
- Direct convolutions' tiles have few lengths, and the other layers padded lengths. oneDNN compiles and keeps a
  kernel for each shape that it meets: with whole utterances each new length cost time and memory.
- Convolutions may run in bfloat16. Norms, activations and the residual sum stay in float32.
- In float32, convolutions of kernel 7 and 11 run through short Fourier transforms (`spectral_convolution`).

docs/speed.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.blocks import STYLE, AdaptiveNorm, with_deltas
from engines.embedded.direct_convolution import DirectConvolution
from engines.embedded.istftnet import SAMPLES_PER_COLUMN, SnakeBlock, VocoderNetwork
from engines.embedded.norm_moments import Moments, Scaled, moments_of, together, with_norm, with_norms
from engines.embedded.spectral_convolution import SMALLEST_KERNEL, SpectralConvolution
from engines.embedded.thread_team import Meet, ThreadTeam
from engines.embedded.upsampling import Upsampling

#: columns on either side of a part that are computed too. Its sound depends on 14, but on the outer four by less than
#: 1e-5.
HALO = 10
_COLUMNS = 64  #: the layers between the blocks work on a multiple of this many columns; zeros fill the end


@dataclass(frozen=True)
class Sound:
    """One member on its way through the vocoder."""

    features: Tensor  #: (1, 512, C)
    source: Tensor  #: the excitation's spectrum (1, 22, 60 C + 1)
    style: Tensor  #: (128,), or (128 + D,) with a fitted voice's deltas
    #: What `known` has computed of all of it, and its parts need not compute again: the first upsampled features
    #: (10 C, 256), and what is made of the excitation, (10 C, 256) and (60 C + 1, 128).
    inputs: list[Tensor] = field(default_factory=list, compare=False, repr=False)

    @property
    def columns(self) -> int:
        return self.features.shape[-1]


class CpuVocoder:
    """A vocoder that is called like `VocoderNetwork`, takes over its weights, and computes one member at a time.

    Args:
        network: the plain network.
        bf16: convolve in bfloat16.
        threads: that compute a member.
    """

    def __init__(self, network: VocoderNetwork, bf16: bool, threads: int = 1) -> None:
        self.bf16 = bf16
        team = ThreadTeam(threads)
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._network = network
        noise_res, resblocks = list(network.noise_res), list(network.resblocks)
        in_order = [noise_res[0], *resblocks[:3], noise_res[1], *resblocks[3:]]
        made = [halves(cast(SnakeBlock, block), self._dtype) for block in in_order]
        self._blocks = [CpuBlock(of_block, team) for of_block in made]
        self._styles = StyleLayers([half.style for of_block in made for half in of_block])
        self._ups = [
            Upsampling(up, self._dtype, multiple)
            for up, multiple in zip(
                cast(Iterable[nn.ConvTranspose1d], network.ups), (_COLUMNS, 10 * _COLUMNS), strict=True
            )
        ]

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Have each kernel of the direct convolutions compiled, so that no request waits for it."""
        for block in self._blocks[1:4] + self._blocks[5:]:  # the two others have nothing that these don't
            block.warm_up()

    @torch.inference_mode()
    def __call__(
        self,
        features: Tensor,
        pitch: Tensor,
        style: Tensor,
        columns: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        deltas: Tensor | None = None,
    ) -> Tensor:
        """Compute (B, 300 C) as `VocoderNetwork.forward` does, with zeros after each member's end.

        Args:
            features: (B, 512, C).
            pitch: (B, C) in Hz.
            style: (B, 128) or (B, 256), acoustic half first.
            columns: as in `VocoderNetwork.forward`.
            seeds: as in `VocoderNetwork.forward`.
            deltas: as in `VocoderNetwork.forward`.
        """
        valid = [pitch.shape[1]] * len(pitch) if columns is None else columns.tolist()
        styles = with_deltas(style[:, :STYLE], deltas)
        waveforms = [
            self._one(features[i : i + 1, :, :n], pitch[i : i + 1, :n], styles[i], seed)[0]
            for i, (n, seed) in enumerate(zip(valid, seeds or [0] * len(pitch), strict=True))
        ]
        return nn.utils.rnn.pad_sequence(waveforms, batch_first=True)

    def _one(self, features: Tensor, pitch: Tensor, style: Tensor, seed: int) -> Tensor:
        return self.part(self.sound(features, pitch, style, seed), slice(0, pitch.shape[1]))[None]

    @torch.inference_mode()
    def sound(self, features: Tensor, pitch: Tensor, style: Tensor, seed: int = 0) -> Sound:
        """Prepare one member to be computed in parts, or whole: all that is cheap.

        Args:
            features: (1, 512, C).
            pitch: (1, C) in Hz.
            style: (128,), or (128 + D,) with a fitted voice's deltas.
            seed: for the noise in the excitation.
        """
        columns = pitch.shape[1]
        source = self._network.source_spectrum(pitch, torch.tensor([columns]), [seed])
        return Sound(features, source, style)

    def known(self, sound: Sound) -> list[Moments]:
        """Measure what is computed of a whole sound in little time: the inputs of the blocks, which it keeps.

        Returns:
            Those of the first upsampled features (256,), and of the two that are made of the excitation, (256,) and
            (128,). The latter two are the inputs of the 1st and the 25th norm.
        """
        everything = slice(0, sound.columns)
        sound.inputs[:] = [
            self._ups[0](sound.features[0].T)[: 10 * sound.columns],
            *(self._aside(sound, step, everything) for step in range(2)),
        ]
        return [moments_of(one) for one in sound.inputs]

    @torch.inference_mode()
    def part(
        self,
        sound: Sound,
        columns: slice,
        expected: Sequence[Moments] | None = None,
        measured: list[Moments] | None = None,
    ) -> Tensor:
        """Compute the waveform (300 c,) of c columns of a sound.

        Args:
            sound: of `sound`.
            columns: which ones; they have a start and a stop.
            expected: the moments of the 48 norms' inputs over the whole sound. Without them the part must be all of it.
            measured: takes the moments of the 48 norms' inputs.
        """
        # What lies beyond the window is taken for zeros. That reaches HALO columns into it, which are computed for
        # nothing; at the true ends there are zeros.
        window = slice(max(0, columns.start - HALO), min(sound.columns, columns.stop + HALO))
        size = window.stop - window.start
        x = sound.features[0, :, window].T
        styled = self._styles(sound.style)
        if expected is not None:
            styled = with_norms(styled, expected)

        def through(number: int, x: Tensor) -> Tensor:
            of_block = slice(6 * number, 6 * number + 6)
            return self._blocks[number](x, styled[of_block], normed=expected is not None, measured=measured)

        for step, each in enumerate((10, 60)):
            of_window = slice(each * window.start, each * window.stop + step)
            x = sound.inputs[0][of_window] if sound.inputs and step == 0 else self._ups[step](x)[: each * size]
            if step == 1:
                # An STFT of n hops has n + 1 columns: the first is a reflection, or lies in what is left out.
                x = torch.cat([x[1:2], x])
            aside = sound.inputs[1 + step][of_window] if sound.inputs else self._aside(sound, step, window)
            x = through(4 * step, aside).add_(x)
            total, *others = [through(number, x) for number in range(4 * step + 1, 4 * step + 4)]
            for other in others:
                total.add_(other)
            x = total.div_(3)
        last = self._network.conv_post(_filled_up(F.leaky_relu(x, 0.01).T[None], 60 * _COLUMNS))
        first = SAMPLES_PER_COLUMN * (columns.start - window.start)
        waveform = self._network.inverse(last[:, :, : len(x)])[0]
        return waveform[first : first + SAMPLES_PER_COLUMN * (columns.stop - columns.start)]

    def _aside(self, sound: Sound, step: int, window: slice) -> Tensor:
        """Compute what a step is given of the excitation in some columns: (10 c, 256), and (60 c + 1, 128)."""
        # Each layer's own padding would put the same zeros after the end.
        source = _filled_up(sound.source[:, :, 60 * window.start : 60 * window.stop + 1], 60 * _COLUMNS)
        steps = (window.stop - window.start) * (10, 60)[step] + step
        return self._network.noise_convs[step](source)[0, :, :steps].T.contiguous()


class CpuBlock:
    """A SnakeBlock in six halves, computed by a team: each thread takes a part of the time through all of them.

    Args:
        halves: of the block, as `halves` returns them.
        team: whose threads compute; no other block's at the same time.
    """

    def __init__(self, halves: Sequence[Half], team: ThreadTeam) -> None:
        self._convolutions = [_fastest(half) for half in halves]
        self._least = max(convolution.shortest_part for convolution in self._convolutions)
        self._team = team
        self._dtype = halves[0].weight.dtype

    def warm_up(self) -> None:
        """Compute a tile of each length with each direct convolution."""
        for convolution in self._convolutions:
            if isinstance(convolution, DirectConvolution):
                convolution.warm_up()

    def __call__(
        self, x: Tensor, styled: Sequence[Scaled], normed: bool = False, measured: list[Moments] | None = None
    ) -> Tensor:
        """Compute a new (T, C) float32 from x (T, C) float32.

        Args:
            x: the input, all of it or a part.
            styled: what the halves' `StyleLayer`s make of a style.
            normed: the norms are taken into `styled`: x may be a part. Otherwise they are those of x itself.
            measured: takes the moments of the six norms' inputs, where they are measured.
        """
        parts = _parts(len(x), self._team.size, self._least)
        moments: list[list[Moments | None]] = [[None] * len(parts) for _ in styled]
        x = x.clone()
        between = torch.empty(len(x), x.shape[1], dtype=self._dtype)

        def work(number: int, meet: Meet) -> None:
            # A half reads a little of its neighbours' parts, and its norm is over all of them: so all parts of its
            # input have to be there. No part writes what another may still be reading: that was read before they met.
            part = parts[number]
            for index, (convolution, scaled) in enumerate(zip(self._convolutions, styled, strict=True)):
                source = x if index % 2 == 0 else between
                if not normed:
                    moments[index][number] = moments_of(source[part])
                meet()
                if not normed:
                    scaled = with_norm(scaled, together(cast(list[Moments], moments[index])))
                start = part.start
                for size in convolution.tiles(part.stop - part.start):
                    end = min(start + size, part.stop)
                    tile = torch.empty(size + 2 * convolution.halo, source.shape[1], dtype=self._dtype)
                    _activate(source, start - convolution.halo, end + convolution.halo, scaled, tile)
                    made = convolution.inner(tile)[: end - start]
                    if index % 2 == 0:
                        between[start:end] = made
                    else:
                        x[start:end].add_(made)
                    start = end

        self._team.run(len(parts), work)
        if measured is not None:
            measured += [together(cast(list[Moments], of_parts)) for of_parts in moments]
        return x


@dataclass(frozen=True)
class StyleLayer:
    """An adaptive norm's scale and shift from the style, times the snake's α."""

    weight: Tensor  #: (2C, 128)
    bias: Tensor  #: (2C,)
    alpha: Tensor  #: (2C,) α twice, for scale and shift
    slot: slice  #: its deltas in a row of style and deltas

    def __call__(self, style: Tensor) -> Scaled:
        """Compute scale and shift (C,) from a style (128,) or from a style and all deltas (128 + D,)."""
        both = torch.addmv(self.bias, self.weight, style[:STYLE])
        if len(style) > STYLE:
            both = torch.addcmul(both, style[self.slot], self.alpha)
        scale, shift = both.chunk(2)
        return scale, shift


class StyleLayers:
    """Many style layers at once: one product where there would be dozens of small ones, which take longer to begin."""

    def __init__(self, layers: Sequence[StyleLayer]) -> None:
        self._sizes = [len(layer.bias) // 2 for layer in layers for _ in range(2)]
        self._weight, self._bias, self._alpha = (
            torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias", "alpha")
        )
        self._slots = torch.cat([torch.arange(layer.slot.start, layer.slot.stop) for layer in layers])

    def __call__(self, style: Tensor) -> list[Scaled]:
        """Compute what each layer computes of a style."""
        both = torch.addmv(self._bias, self._weight, style[:STYLE])
        if len(style) > STYLE:
            both.addcmul_(style[self._slots], self._alpha)
        pairs = both.split(self._sizes)
        return list(zip(pairs[::2], pairs[1::2], strict=True))


@dataclass(frozen=True)
class Half:
    """An adaptive norm, snake and convolution, with α and its inverse moved into the weights around the activation."""

    style: StyleLayer
    weight: Tensor  #: (C, C, 1, kernel), channels last
    bias: Tensor  #: (C,)
    dilation: int

    @classmethod
    def of(cls, norm: AdaptiveNorm, alpha: Tensor, conv: nn.Conv1d, dtype: torch.dtype) -> Half:
        assert conv.bias is not None and norm.slot is not None
        alpha = alpha.detach().flatten()
        bias = norm.fc.bias.detach() + torch.cat([torch.ones_like(alpha), torch.zeros_like(alpha)])
        weight = (conv.weight.detach() / alpha[:, None]).to(dtype)[:, :, None]
        twice = alpha.repeat(2)
        return cls(
            StyleLayer(norm.fc.weight.detach() * twice[:, None], bias * twice, twice, norm.slot),
            weight.contiguous(memory_format=torch.channels_last),
            conv.bias.detach().to(dtype),
            conv.dilation[0],
        )


def _fastest(half: Half) -> DirectConvolution | SpectralConvolution:
    """Return a half's convolution as a CPU computes it fastest."""
    if half.weight.dtype == torch.float32 and half.weight.shape[-1] >= SMALLEST_KERNEL:
        return SpectralConvolution(half.weight[:, :, 0], half.bias, half.dilation)
    return DirectConvolution(half.weight, half.bias, half.dilation)


def _activate(x: Tensor, start: int, end: int, scaled: Scaled, activated: Tensor) -> None:
    """Write norm and snake of the steps from `start` to `end` of x (T, C) into `activated`.

    Zeros stand for the steps before x's first and after its last, and after `end`.
    """
    scale, shift = scaled
    first, last = max(start, 0), min(end, len(x))
    h = torch.addcmul(shift, x[first:last].float(), scale)
    waves = torch.sin(h)
    activated[first - start : last - start] = h.addcmul_(waves, waves)
    if start < first:
        activated[: first - start] = 0
    if last - start < len(activated):
        activated[last - start :] = 0


def halves(block: SnakeBlock, dtype: torch.dtype) -> list[Half]:
    """Return the six halves of a block, in the order of their computation."""
    return [
        Half.of(cast(AdaptiveNorm, norms[i]), alphas[i], cast(nn.Conv1d, convs[i]), dtype)
        for i in range(3)
        for norms, alphas, convs in (
            (block.adain1, block.alpha1, block.convs1),
            (block.adain2, block.alpha2, block.convs2),
        )
    ]


def _parts(steps: int, most: int, least: int) -> list[slice]:
    """Cut steps into at most `most` parts of nearly the same size, each a multiple of `least` but for the last."""
    count = min(most, max(1, steps // least))
    cuts = [round(steps * number / count / least) * least for number in range(count)] + [steps]
    return [slice(start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]


def _filled_up(x: Tensor, multiple: int) -> Tensor:
    """Pad x (1, C, T) with zeros at the end, up to a multiple of `multiple` steps."""
    return F.pad(x, (0, -x.shape[-1] % multiple))
