"""Kokoro-82M's acoustic half makes features, pitch and durations from phonemes and a style, in padded batches.

Structure after StyleTTS 2 (arXiv:2306.07691) as Kokoro-82M configures it: an ALBERT (arXiv:1909.11942) reads the
phonemes for prosody, a duration predictor stretches them to frames, two heads draw pitch and energy, and a decoder
joins them with the convolutional text encoder's view of the same phonemes. A frame is 600 samples at 24 kHz; the
decoder's last block doubles that to 80 feature columns a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded import packed_network, quantized
from engines.embedded.blocks import (
    STYLE,
    BidirectionalLSTM,
    ResidualBlock,
    give_slots,
    masked,
    padding_mask,
    side_by_side,
    with_deltas,
)
from engines.embedded.packed_layers import Precision

SYMBOLS = 178  #: size of the phoneme vocabulary
MAX_TOKENS = 510  #: phonemes in one utterance; with the two boundary zeros the positions that were trained
VOICED_HZ = 40.0  #: the pitch head draws unvoiced frames near zero
HEARD = 2.5  #: below the energy head's loud frames, in its unit; of 1.5, 2.5 and 3.5 it left the least error of pitch


class Albert(nn.Module):
    """The reader of the phonemes, (B, T) ids -> (B, T, 768): twelve passes through the same transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(SYMBOLS, 128)
        self.positions = nn.Embedding(MAX_TOKENS + 2, 128)
        self.types = nn.Embedding(2, 128)
        self.embedding_norm = nn.LayerNorm(128, 1e-12)
        self.widen = nn.Linear(128, 768)
        self.query, self.key, self.value, self.dense = (nn.Linear(768, 768) for _ in range(4))
        self.projections: nn.Module | None = None  #: query, key and value as one layer
        self.attention_norm = nn.LayerNorm(768, 1e-12)
        self.inner = nn.Linear(768, 2048)
        self.outer = nn.Linear(2048, 768)
        self.output_norm = nn.LayerNorm(768, 1e-12)

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        batch, length = ids.shape
        x = self.words(ids) + self.types.weight[0] + self.positions.weight[:length]
        x = self.widen(self.embedding_norm(x))
        attended = None if mask is None else mask[:, None].bool()

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, length, 12, 64).transpose(1, 2)

        for _ in range(12):
            query, key, value = (heads(projected) for projected in self._projected(x))
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attended)
            x = self.attention_norm(x + self.dense(mixed.transpose(1, 2).reshape(batch, length, 768)))
            x = self.output_norm(x + self.outer(F.gelu(self.inner(x), approximate="tanh")))
        return x

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.projections is None:
            return self.query(x), self.key(x), self.value(x)
        return self.projections(x).chunk(3, -1)

    def join_projections(self) -> None:
        """Make one layer of query, key and value: one product takes less time to begin than three."""
        layers = [self.query, self.key, self.value]
        joined = nn.Linear(768, 3 * 768).requires_grad_(False)
        joined.weight.copy_(torch.cat([layer.weight for layer in layers]))
        joined.bias.copy_(torch.cat([layer.bias for layer in layers]))
        self.projections = joined
        del self.query, self.key, self.value


class AdaptiveLayerNorm(nn.Module):
    """Layer norm over 512 channels, with scale and shift from the style. x (B, T, 512), style (B, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(STYLE, 2 * 512)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.fc(style)[:, None].chunk(2, dim=-1)
        return (1 + scale) * F.layer_norm(x, (512,)) + shift


class TextEncoder(nn.Module):
    """The encoder of the phonemes' sound, without prosody: (B, T) ids -> (B, T, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, 512)
        self.convs = nn.ModuleList(nn.Conv1d(512, 512, 5, padding=2) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(512) for _ in range(3))
        self.lstm = BidirectionalLSTM(512)

    def forward(self, ids: Tensor, lengths: Tensor | None, mask: Tensor | None) -> Tensor:
        x = masked(self.symbols(ids).transpose(1, 2), mask)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x).transpose(1, 2)).transpose(1, 2)
            x = masked(F.leaky_relu(x, 0.2), mask)
        return self.lstm(x.transpose(1, 2), lengths)


class CurveHead(nn.Module):
    """A head that draws a curve over time, pitch in Hz or energy: prosody features (B, 512, T) -> (B, 1, 2T)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ResidualBlock(512, 512), ResidualBlock(512, 256, upsample=True), ResidualBlock(256, 256)]
        )
        self.projection = nn.Conv1d(256, 1, 1)

    def forward(self, x: Tensor, style: Tensor, mask: Tensor | None, mask_after: Tensor | None) -> Tensor:
        x = self.blocks[0](x, style, mask)
        x = self.blocks[1](x, style, mask, mask_after)
        x = self.blocks[2](x, style, mask_after)
        return masked(self.projection(x), mask_after)


class ProsodyPredictor(nn.Module):
    """The network that predicts each phoneme's duration, and then the curves of pitch and energy over the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(BidirectionalLSTM(512 + STYLE) for _ in range(3))
        self.norms = nn.ModuleList(AdaptiveLayerNorm() for _ in range(3))
        self.duration_lstm = BidirectionalLSTM(512 + STYLE)
        self.duration = nn.Linear(512, 50)
        self.curve_lstm = BidirectionalLSTM(512 + STYLE)
        self.pitch = CurveHead()
        self.energy = CurveHead()

    def durations(
        self, x: Tensor, style: Tensor, speed: Tensor, lengths: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Predict how many frames each phoneme lasts.

        Args:
            x: (B, T, 512).
            style: the prosodic style (B, 128).
            speed: (B,).
            lengths: (B,) phonemes of each member, or None.
            mask: (B, 1, T), or None.

        Returns:
            Features (B, T, 640), and frames of each phoneme (B, T).
        """
        mask = None if mask is None else mask.transpose(1, 2)
        styles = style[:, None].expand(-1, x.shape[1], -1)
        x = masked(torch.cat([x, styles], -1), mask)
        for lstm, norm in zip(self.lstms, self.norms, strict=True):
            x = masked(torch.cat([norm(lstm(x, lengths), style), styles], -1), mask)
        frames = torch.sigmoid(self.duration(self.duration_lstm(x, lengths))).sum(-1).round().clamp(min=1)
        frames = _at_speed(masked(frames, None if mask is None else mask[..., 0]), speed)
        return x, masked(frames, None if mask is None else mask[..., 0]).long()

    def curves(
        self, x: Tensor, style: Tensor, lengths: Tensor | None, mask: Tensor | None, mask_after: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw pitch and energy, each (B, 1, 2 * frames), from x (B, frames, 640)."""
        shared = self.curve_lstm(x, lengths).transpose(1, 2)
        return self.pitch(shared, style, mask, mask_after), self.energy(shared, style, mask, mask_after)


class Decoder(nn.Module):
    """The decoder of phoneme features, pitch and energy to the vocoder's features (B, 512, 2 * frames)."""

    def __init__(self) -> None:
        super().__init__()
        self.pitch = nn.Conv1d(1, 1, 3, 2, 1)
        self.energy = nn.Conv1d(1, 1, 3, 2, 1)
        self.shortcut = nn.Conv1d(512, 64, 1)
        self.encode = ResidualBlock(512 + 2, 1024)
        width = 1024 + 64 + 2
        self.decode = nn.ModuleList(
            [*(ResidualBlock(width, 1024) for _ in range(3)), ResidualBlock(width, 512, upsample=True)]
        )
        self.deltas = give_slots(self)  #: numbers that a fitted voice adds to its style layers: 18,964

    def forward(
        self, text: Tensor, pitch: Tensor, energy: Tensor, style: Tensor, mask: Tensor | None, mask_after: Tensor | None
    ) -> Tensor:
        pitch, energy = masked(self.pitch(pitch), mask), masked(self.energy(energy), mask)
        aside = side_by_side([masked(self.shortcut(text), mask), pitch, energy])
        x = self.encode(side_by_side([text, pitch, energy]), style, mask)
        for block in self.decode:
            x = block(side_by_side([x, aside]), style, mask, mask_after)
        return x


@dataclass(frozen=True)
class Prosody:
    """The decoder's input as a padded batch: what is said when, at which pitch, how loud."""

    text: Tensor  #: (B, 512, longest) phoneme features, each repeated over its frames
    pitch: Tensor  #: (B, 1, 2 * longest), Hz, near zero where unvoiced
    energy: Tensor  #: (B, 1, 2 * longest)
    frames: Tensor  #: (B,) frames of 600 samples
    durations: Tensor  #: (B, T) frames of each phoneme, zero in the padding
    mask: Tensor | None  #: (B, 1, longest)


@dataclass(frozen=True)
class AcousticOutput:
    """A padded batch: member i is valid in `features[i, :, :2n]`, `pitch[i, :2n]` with n = `frames[i]`."""

    features: Tensor  #: (B, 512, 2 * longest)
    pitch: Tensor  #: (B, 2 * longest), Hz, near zero where unvoiced
    frames: Tensor  #: (B,) frames of 600 samples
    durations: Tensor  #: (B, T) frames of each phoneme, zero in the padding


class AcousticNetwork(nn.Module):
    precision: Precision = "float32"  #: of its products

    def __init__(self) -> None:
        super().__init__()
        self.albert = Albert()
        self.narrow = nn.Linear(768, 512)
        self.text_encoder = TextEncoder()
        self.predictor = ProsodyPredictor()
        self.decoder = Decoder()

    @torch.inference_mode()
    def forward(
        self,
        ids: Tensor,
        lengths: Tensor,
        style: Tensor,
        speed: Tensor | float = 1.0,
        log_pitch: Tensor | None = None,
        deltas: Tensor | None = None,
    ) -> AcousticOutput:
        """Compute the features of a padded batch.

        Args:
            ids: (B, T) phoneme ids, each member framed by boundary zeros and padded with zeros (`pad` makes it).
            lengths: (B,) ids of each member, boundaries included, at most 512.
            style: (B, 256), acoustic half first.
            speed: (B,) or one number; 2 is twice as fast.
            log_pitch: (B,) natural logarithm of a median pitch in Hz. Each member's voiced frames are moved to it;
                None leaves the pitch as predicted.
            deltas: (B, `decoder.deltas`) those of fitted voices, zeros for the others; None if there are none.
        """
        acoustic, prosodic = style.split(STYLE, dim=1)
        prosody = self.prosody(ids, lengths, prosodic, speed, log_pitch)
        mask_after = None if prosody.mask is None else prosody.mask.repeat_interleave(2, dim=-1)
        features = self.decoder(
            prosody.text, prosody.pitch, prosody.energy, with_deltas(acoustic, deltas), prosody.mask, mask_after
        )
        return AcousticOutput(features, prosody.pitch[:, 0], prosody.frames, prosody.durations)

    def prosody(
        self,
        ids: Tensor,
        lengths: Tensor,
        style: Tensor,
        speed: Tensor | float = 1.0,
        log_pitch: Tensor | None = None,
    ) -> Prosody:
        """Compute all that precedes the decoder. `style` is the prosody half (B, 128), the rest as in `forward`."""
        speed = torch.as_tensor(speed, dtype=style.dtype, device=style.device).expand(len(ids))
        mask = padding_mask(lengths, ids.shape[1])
        padded = None if mask is None else lengths
        read = self.narrow(self.albert(ids, mask))
        read, durations = self.predictor.durations(read, style, speed, padded, mask)
        text = self.text_encoder(ids, padded, mask)

        frames = durations.sum(1)
        longest = int(frames.max())
        frame_mask = padding_mask(frames, longest)
        half_frame_mask = None if frame_mask is None else frame_mask.repeat_interleave(2, dim=-1)
        padded = None if frame_mask is None else frames
        which = _phoneme_of_frame(durations, longest)[:, :, None]
        prosody = masked(_stretch(read, which), frame_mask)
        pitch, energy = self.predictor.curves(prosody.transpose(1, 2), style, padded, frame_mask, half_frame_mask)
        if log_pitch is not None:
            pitch = _move_pitch(pitch, energy, 2 * frames, log_pitch)
        return Prosody(masked(_stretch(text, which), frame_mask), pitch, energy, frames, durations, frame_mask)


def _at_speed(frames: Tensor, speed: Tensor) -> Tensor:
    """Divide frames of each phoneme (B, T) by the speed (B,), to whole frames, at least one for each phoneme.

    What is lost or gained by rounding is made up for at the next phonemes, so that the whole has the length asked for.
    """
    ends = (frames.cumsum(1) / speed[:, None]).round()
    place = torch.arange(1, frames.shape[1] + 1, dtype=ends.dtype, device=ends.device)
    ends = (ends - place).clamp(min=0).cummax(1).values + place  # each end lies after the one before
    return torch.diff(ends, prepend=torch.zeros_like(ends[:, :1]))


def _phoneme_of_frame(durations: Tensor, longest: int) -> Tensor:
    """Find the phoneme that each frame belongs to: frames of each phoneme (B, T) -> indices (B, longest)."""
    ends = durations.cumsum(1)
    frame = torch.arange(longest, device=durations.device).expand(len(durations), longest).contiguous()
    return torch.searchsorted(ends, frame, right=True).clamp(max=durations.shape[1] - 1)


def _stretch(x: Tensor, which: Tensor) -> Tensor:
    """Repeat phoneme features over their frames: (B, T, C) -> (B, C, frames)."""
    return torch.gather(x, 1, which.expand(-1, -1, x.shape[-1])).transpose(1, 2)


def _move_pitch(pitch: Tensor, energy: Tensor, lengths: Tensor, log_pitch: Tensor) -> Tensor:
    """Scale each member's voiced pitch so that the median of what is heard becomes the requested one.

    pitch.py measures the reference so: in loud frames alone, without those half an octave off. Soft ends of words lie
    low, and with them in the median the speech came out 1.5 semitones higher than asked (12 sentences; 0.1 since).
    """
    moved = []
    for curve, loud, length, target in zip(pitch[:, 0], energy[:, 0], lengths.tolist(), log_pitch, strict=True):
        valid, loudness = curve[:length], loud[:length]
        voiced = valid > VOICED_HZ
        heard = valid[voiced & (loudness > torch.quantile(loudness, 0.95) - HEARD)]
        if not len(heard):
            heard = valid[voiced]
        if len(heard):
            heard = heard[(heard / heard.median()).log().abs() < 0.5]
        factor = torch.exp(target) / heard.median() if len(heard) else torch.ones_like(target)
        moved.append(torch.where(curve > VOICED_HZ, curve * factor, curve))
    return torch.stack(moved)[:, None]


def pad(sequences: list[list[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Frame each member's phoneme ids by boundaries and pad them: returns ids (B, T) and lengths (B,)."""
    framed = [torch.tensor([0, *sequence, 0]) for sequence in sequences]
    lengths = torch.tensor([len(one) for one in framed])
    return nn.utils.rnn.pad_sequence(framed, batch_first=True).to(device), lengths.to(device)


_ALBERT = "encoder.bert.encoder.albert_layer_groups.0.albert_layers.0."
_SOURCES = {
    "albert.words": "encoder.bert.embeddings.word_embeddings",
    "albert.positions": "encoder.bert.embeddings.position_embeddings",
    "albert.types": "encoder.bert.embeddings.token_type_embeddings",
    "albert.embedding_norm": "encoder.bert.embeddings.LayerNorm",
    "albert.widen": "encoder.bert.encoder.embedding_hidden_mapping_in",
    **{f"albert.{name}": f"{_ALBERT}attention.{name}" for name in ("query", "key", "value", "dense")},
    "albert.attention_norm": _ALBERT + "attention.LayerNorm",
    "albert.inner": _ALBERT + "ffn",
    "albert.outer": _ALBERT + "ffn_output",
    "albert.output_norm": _ALBERT + "full_layer_layer_norm",
    "narrow": "encoder.bert_encoder",
    "text_encoder.symbols": "encoder.text_encoder.embedding",
    **{f"text_encoder.convs.{i}": f"encoder.text_encoder.cnn.{i}.0" for i in range(3)},
    **{f"text_encoder.norms.{i}": f"encoder.text_encoder.cnn.{i}.1" for i in range(3)},
    "text_encoder.lstm": "encoder.text_encoder.lstm",
    **{f"predictor.lstms.{i}": f"encoder.predictor.text_encoder.lstms.{2 * i}" for i in range(3)},
    **{f"predictor.norms.{i}": f"encoder.predictor.text_encoder.lstms.{2 * i + 1}" for i in range(3)},
    "predictor.duration_lstm": "encoder.predictor.lstm",
    "predictor.duration": "encoder.predictor.duration_proj.linear_layer",
    "predictor.curve_lstm": "encoder.predictor.shared",
    "predictor.pitch.blocks": "encoder.predictor.F0",
    "predictor.pitch.projection": "encoder.predictor.F0_proj",
    "predictor.energy.blocks": "encoder.predictor.N",
    "predictor.energy.projection": "encoder.predictor.N_proj",
    "decoder.pitch": "decoder.decoder.F0_conv",
    "decoder.energy": "decoder.decoder.N_conv",
    "decoder.shortcut": "decoder.decoder.asr_res.0",
    "decoder.encode": "decoder.decoder.encode",
    "decoder.decode": "decoder.decoder.decode",
}


def load(device: torch.device | str = "cpu", precision: Precision = "float32") -> AcousticNetwork:
    """Load the network with Kokoro's weights.

    Args:
        device: `cpu`, or anything else torch knows.
        precision: of a CPU's products. A GPU stays in float32. Only a network in float32 has a gradient.

    Raises:
        WeightsError: the weights are missing or damaged.
    """
    sources = {f"{ours}.": f"{theirs}." for ours, theirs in _SOURCES.items()}
    network = quantized.fill(AcousticNetwork(), sources)
    if torch.device(device).type == "cpu" and precision != "float32":
        network.precision = precision
        network.albert.join_projections()
        packed_network.put_into(network, precision)
        packed_network.warm_up(network)
    return network.to(device)
