"""The language model's body is Qwen2 (Qwen2 technical report, 2024), for decoding rows at different positions.

A row's keys and values lie in its own stripe of a cache that is allocated once, from position 0 without gaps. So a
row's result does not depend on its neighbours' lengths, and rows may come and go between any two steps. Reading a
prompt and decoding are functions of fixed shapes, as `capture.py` requires.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.contract import WeightsError
from engines.cosyvoice3 import kernels

_ALIGNED = 64  #: slots of a row are a multiple of this, which suits attention's kernels as a mask's width


@dataclass(frozen=True)
class QwenSize:
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    theta: float

    @classmethod
    def of(cls, config: dict) -> QwenSize:
        """Read the sizes from Hugging Face's `config.json`, of transformers 4 or 5.

        Raises:
            WeightsError: a number is missing or impossible, or the model is another one; the message names the key.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if (
            config.get("model_type") != "qwen2"
            or config.get("hidden_act") != "silu"
            or not isinstance(rope, dict)
            or rope.get("rope_type", rope.get("type", "default")) != "default"
        ):
            raise WeightsError("CosyVoice-BlankEN/config.json describes no plain Qwen2 model. Fetch the official one.")
        hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
        kv_heads = _number(config, "num_key_value_heads")
        if heads % kv_heads or not config.get("head_dim") and hidden % heads:
            raise WeightsError(
                f"CosyVoice-BlankEN/config.json has {hidden} numbers, {heads} heads and {kv_heads} heads of keys, "
                "which do not divide each other. Fetch the official one."
            )
        return cls(
            _number(config, "vocab_size"),
            hidden,
            _number(config, "intermediate_size"),
            _number(config, "num_hidden_layers"),
            heads,
            kv_heads,
            _number(config, "head_dim") if config.get("head_dim") else hidden // heads,
            _number(config, "rms_norm_eps", float),
            _number(rope if "rope_theta" in rope else config, "rope_theta", float),
        )


def _number(config: dict, key: str, kind: type = int) -> Any:
    if key not in config:
        raise WeightsError(f"CosyVoice-BlankEN/config.json lacks {key!r}. Fetch the official one.")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int) or value <= 0:
        raise WeightsError(
            f"CosyVoice-BlankEN/config.json: {key} is {value!r}, and must be a number greater than 0. Fetch the "
            "official one."
        )
    return kind(value)


class KvCache(nn.Module):
    """The keys and values of up to `rows` rows of up to `positions` tokens each, allocated here and never again.

    Each row has a stripe of its own, from position 0 without gaps. After it lies another slot, `spill`: padded rows and
    tokens write there, and it is never read.

    Attributes:
        store: (layers, rows * slots, 2 * kv_heads * head_dim): for each slot the heads' keys, then their values.
        slots: number of a row's slots: `positions` and the spill, rounded up.
        starts: (rows,) int64, the first slot of each row.
    """

    store: Tensor
    starts: Tensor
    places: Tensor
    rope: Tensor

    def __init__(
        self, size: QwenSize, rows: int, positions: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.rows, self.positions = rows, positions
        self.slots = -(-(positions + 1) // _ALIGNED) * _ALIGNED
        self.spill = self.slots - 1
        self._heads = 2, size.kv_heads, size.head_dim
        shape = size.layers, rows * self.slots, 2 * size.kv_heads * size.head_dim
        self.register_buffer("store", torch.zeros(shape, device=device, dtype=dtype))
        self.register_buffer("starts", torch.arange(rows, device=device) * self.slots)
        self.register_buffer("places", torch.arange(self.slots, device=device))
        self.register_buffer("rope", _rope(size, self.slots).to(device))

    @property
    def bytes(self) -> int:
        return self.store.numel() * self.store.element_size()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` positions over another row, to close a gap."""
        start, end = source * self.slots, target * self.slots
        self.store[:, end : end + length] = self.store[:, start : start + length]

    def rows_of(self, layer: int, n: int, span: int) -> tuple[Tensor, Tensor]:
        """Return keys and values (n, kv_heads, span, head_dim) of the first n rows, as views."""
        rows = self.store[layer].view(self.rows, self.slots, *self._heads)[:n, :span]
        return rows[:, :, 0].transpose(1, 2), rows[:, :, 1].transpose(1, 2)

    def row_of(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (1, kv_heads, span, head_dim) at `slots` (span,), as copies."""
        row = self.store[layer].index_select(0, slots).view(1, -1, *self._heads)
        return row[:, :, 0].transpose(1, 2), row[:, :, 1].transpose(1, 2)

    def turns(self, positions: Tensor, dtype: torch.dtype, heads: int) -> tuple[Tensor, Tensor]:
        """Make factors (n, heads + kv_heads * 2, head_dim) that rotate queries and keys and leave values unchanged."""
        cos, sin = self.rope.index_select(0, positions).to(dtype).unsqueeze(2).unbind(1)
        turned, kept = heads + self._heads[1], self._heads[1]
        return (
            torch.cat((cos.expand(-1, turned, -1), torch.ones_like(cos).expand(-1, kept, -1)), dim=1),
            torch.cat((sin.expand(-1, turned, -1), torch.zeros_like(sin).expand(-1, kept, -1)), dim=1),
        )


class Attention(nn.Module):
    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = size.heads, size.kv_heads, size.head_dim
        self.q_proj = nn.Linear(size.hidden, size.heads * size.head_dim)
        self.k_proj = nn.Linear(size.hidden, size.kv_heads * size.head_dim)
        self.v_proj = nn.Linear(size.hidden, size.kv_heads * size.head_dim)
        self.o_proj = nn.Linear(size.heads * size.head_dim, size.hidden, bias=False)
        self._weight = self._bias = torch.empty(0)

    def fuse(self) -> None:
        projections = self.q_proj, self.k_proj, self.v_proj
        self._weight, self._bias = _fused(projections, "weight"), _fused(projections, "bias")

    def unturned(self, x: Tensor) -> Tensor:
        """Project as `projected` does, but without rotation."""
        return F.linear(x, self._weight, self._bias).unflatten(-1, (-1, self.head_dim))

    def projected(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """Project (n, hidden) to queries, keys and values (n, heads + 2 * kv_heads, head_dim), rotated by position."""
        heads = self.unturned(x)
        return torch.addcmul(heads * turns[0], heads.roll(self.head_dim // 2, dims=-1), turns[1])


class Mlp(nn.Module):
    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.up_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.down_proj = nn.Linear(size.intermediate, size.hidden, bias=False)
        self._weight = torch.empty(0)

    def fuse(self) -> None:
        self._weight = _fused((self.gate_proj, self.up_proj), "weight")

    def forward(self, x: Tensor) -> Tensor:
        """Compute the input of `down_proj`."""
        both = F.linear(x, self._weight)
        if kernels.usable(x.device, 64):
            return kernels.silu_mul(both)
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up


class Layer(nn.Module):
    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(size), Mlp(size)
        self.input_layernorm = nn.RMSNorm(size.hidden, size.epsilon)
        self.post_attention_layernorm = nn.RMSNorm(size.hidden, size.epsilon)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add attention's result (n, heads * head_dim), and then the perceptron's, to `x` (n, hidden) in place."""
        x.addmm_(attended, self.self_attn.o_proj.weight.T)
        return x.addmm_(self.mlp(self.post_attention_layernorm(x)), self.mlp.down_proj.weight.T)


class Qwen(nn.Module):
    """Qwen2 from embeddings to hidden states. It has no head for the vocabulary, because only speech tokens are made.

    Call `fuse` before the first use, and after the last move to another device or type.
    """

    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.size = size
        self.embed_tokens = nn.Embedding(size.vocabulary, size.hidden)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.hidden, size.epsilon)

    @property
    def _layers(self) -> Sequence[Layer]:
        """The layers with their type, which a ModuleList does not give."""
        return cast(Sequence[Layer], self.layers)

    def fuse(self) -> None:
        """Join the weights of projections that read the same input, so that a single product computes them."""
        for layer in self._layers:
            layer.self_attn.fuse()
            layer.mlp.fuse()

    def prefill(self, x: Tensor, row: Tensor, start: Tensor, length: Tensor, span: int, cache: KvCache) -> None:
        """Read a stretch of a row's prompt into the cache.

        Args:
            x: embeddings (n, hidden), changed; those from `length` on pad the stretch.
            row: () int64, the cache's row.
            start: () int64, the position of the first; those before it are in the cache.
            length: () int64, at most n.
            span: at least start + length.
            cache: the cache.
        """
        n, attention = len(x), self._layers[0].self_attn
        own = cache.places[:n]
        at = (start + own).clamp(max=cache.spill)
        first = row * cache.slots
        written = first + torch.where(own < length, at, cache.spill)
        read = first + cache.places[:span]
        turns = cache.turns(at, x.dtype, attention.heads)
        # The heads that share a key count as several queries, so that no key is copied for them.
        shared = attention.heads // attention.kv_heads
        mask = _mask(cache.places[:span] <= at[:, None], x.dtype)[:, None].expand(-1, shared, -1).flatten(0, 1)
        for index, layer in enumerate(self._layers):
            heads = layer.self_attn.projected(layer.input_layernorm(x), turns)
            cache.store[index].index_copy_(0, written, heads[:, attention.heads :].flatten(1))
            keys, values = cache.row_of(index, read)
            q = heads[:, : attention.heads].unflatten(1, (attention.kv_heads, shared)).transpose(0, 1)
            out = F.scaled_dot_product_attention(q.flatten(1, 2)[None], keys, values, attn_mask=mask)
            out = out[0].unflatten(1, (n, shared)).transpose(0, 1).flatten(1)
            x = layer.finish(x, out)

    def step(self, x: Tensor, at: Tensor, span: int, cache: KvCache) -> Tensor:
        """Compute a token for each of the cache's first n rows.

        Args:
            x: embeddings (n, hidden), changed.
            at: (n,) int64, the position of each row's token; the spill for a row that pads the batch.
            span: more than the largest of those positions.
            cache: the cache.

        Returns:
            Hidden states (n, hidden).
        """
        n, attention = len(x), self._layers[0].self_attn
        if kernels.usable(x.device, attention.head_dim):
            return self._step_in_kernels(x, at, cache)
        mask = _mask(cache.places[:span] <= at[:, None], x.dtype)[:, None, None]
        turns = cache.turns(at, x.dtype, attention.heads)
        written = cache.starts[:n] + at
        for index, layer in enumerate(self._layers):
            heads = layer.self_attn.projected(layer.input_layernorm(x), turns)
            cache.store[index].index_copy_(0, written, heads[:, attention.heads :].flatten(1))
            keys, values = cache.rows_of(index, n, span)
            # With a single query a row, the heads that share a key count as several queries: no key is copied for them.
            q = heads[:, : attention.heads].unflatten(1, (attention.kv_heads, -1))
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = layer.finish(x, out.flatten(1))
        return self.norm(x)

    def _step_in_kernels(self, x: Tensor, at: Tensor, cache: KvCache) -> Tensor:
        """Compute as `step` does, but each row reads its own positions instead of a span."""
        starts = cache.starts[: len(x)]
        for index, layer in enumerate(self._layers):
            own = layer.self_attn
            heads = own.unturned(layer.input_layernorm(x))
            out = kernels.attend(heads, cache.rope, at, cache.store[index], starts, cache.spill, own.kv_heads)
            x = layer.finish(x, out)
        return self.norm(x)


def _rope(size: QwenSize, positions: int) -> Tensor:
    """Compute cosines and signed sines (positions, 2, head_dim) of rotary positions (J. Su et al., RoFormer, 2021).

    They rotate halves, not pairs: the first half of a head takes the second's sines with a minus. They are float32,
    whatever the model computes in: rounded frequencies would be two thirds of a radian off at position 1500.
    """
    frequencies = 1 / size.theta ** (torch.arange(0, size.head_dim, 2).float() / size.head_dim)
    angles = torch.arange(positions).float()[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)), dim=1)


def _mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Make a mask to add to scores, once for all layers; a boolean mask would be converted to it in each."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))


def _fused(projections: Sequence[nn.Linear], name: str) -> Tensor:
    """Join the projections' parameters of that name into a tensor; their own become views of it, to save memory."""
    parameters = [getattr(projection, name) for projection in projections]
    fused = torch.cat([parameter.detach() for parameter in parameters])
    for projection, piece in zip(projections, fused.split([len(each) for each in parameters]), strict=True):
        setattr(projection, name, nn.Parameter(piece, requires_grad=False))
    return fused
