"""The language model's body: Qwen2 (Qwen2 technical report, 2024), for decoding rows that are at different places.

A row's keys and values lie in its own stripe of a cache that is allocated once, from position 0 without gaps. So a
row's result does not depend on its neighbours' lengths, and rows may come and go between any two steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.contract import WeightsError

#: A step reads the cache up to the longest row, rounded up to this: fewer shapes for kernels to be chosen for.
_SPAN_STEP = 64


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
        """From Hugging Face's `config.json`. WeightsError where a number is missing or the model is another one."""
        try:
            if config["model_type"] != "qwen2" or config["hidden_act"] != "silu" or config.get("rope_scaling"):
                raise WeightsError(
                    "CosyVoice-BlankEN/config.json describes no plain Qwen2 model. Fetch the official one."
                )
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            return cls(
                config["vocab_size"],
                hidden,
                config["intermediate_size"],
                config["num_hidden_layers"],
                heads,
                config["num_key_value_heads"],
                config.get("head_dim") or hidden // heads,
                config["rms_norm_eps"],
                config["rope_theta"],
            )
        except KeyError as error:
            raise WeightsError(f"CosyVoice-BlankEN/config.json lacks {error}. Fetch the official one.") from error


class KvCache:
    """Keys and values of up to `rows` rows of up to `positions` tokens each.

    Attributes:
        keys, values: (layers, rows, kv_heads, positions, head_dim), allocated here and never again.
    """

    def __init__(self, size: QwenSize, rows: int, positions: int, device: str, dtype: torch.dtype) -> None:
        shape = size.layers, rows, size.kv_heads, positions, size.head_dim
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.rows, self.positions = rows, positions

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` positions over another row: how a hole is closed."""
        for store in (self.keys, self.values):
            store[:, target, :, :length] = store[:, source, :, :length]


class Attention(nn.Module):
    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.kv_heads, self.head_dim = size.kv_heads, size.head_dim
        self.q_proj = nn.Linear(size.hidden, size.heads * size.head_dim)
        self.k_proj = nn.Linear(size.hidden, size.kv_heads * size.head_dim)
        self.v_proj = nn.Linear(size.hidden, size.kv_heads * size.head_dim)
        self.o_proj = nn.Linear(size.heads * size.head_dim, size.hidden, bias=False)

    def _projected(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return _rotated(q, rope), _rotated(k, rope), v

    def prefill(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._projected(x, rope)
        # What pads a row stands behind it, where no causal query of the row itself looks.
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2)), k, v

    def step(
        self, x: Tensor, rope: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, at: Tensor, span: int, mask: Tensor
    ) -> Tensor:
        """x (n, 1, hidden); keys, values: one layer of the cache, written at position `at` of the first n rows."""
        q, k, v = self._projected(x, rope)
        n = len(x)
        rows = torch.arange(n, device=x.device)
        keys[rows, :, at], values[rows, :, at] = k[:, :, 0], v[:, :, 0]
        # With one query a row, the heads that share a key are just so many queries: no key is copied for them.
        q = q.reshape(n, self.kv_heads, -1, self.head_dim)
        out = F.scaled_dot_product_attention(q, keys[:n, :, :span], values[:n, :, :span], attn_mask=mask)
        return self.o_proj(out.reshape(n, 1, -1))


class Mlp(nn.Module):
    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.up_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.down_proj = nn.Linear(size.intermediate, size.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(size), Mlp(size)
        self.input_layernorm = nn.RMSNorm(size.hidden, size.epsilon)
        self.post_attention_layernorm = nn.RMSNorm(size.hidden, size.epsilon)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen(nn.Module):
    """Embeddings in, hidden states out; the vocabulary's head is left out, because only speech tokens are made."""

    def __init__(self, size: QwenSize) -> None:
        super().__init__()
        self.size = size
        self.embed_tokens = nn.Embedding(size.vocabulary, size.hidden)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.hidden, size.epsilon)

    def prefill(self, x: Tensor, lengths: Tensor, cache: KvCache, first_row: int) -> Tensor:
        """Read whole rows into the cache.

        Args:
            x: embeddings (n, length, hidden), padded at the right with anything.
            lengths: (n,) int64.
            first_row: the rows go to the cache's rows `first_row` … `first_row + n - 1`.

        Returns:
            The hidden state of each row's last token (n, hidden).
        """
        n, length = x.shape[:2]
        rope = self._rope(torch.arange(length, device=x.device), x.dtype)
        for index, layer in enumerate(self.layers):
            attended, k, v = layer.self_attn.prefill(layer.input_layernorm(x), rope)
            cache.keys[index, first_row : first_row + n, :, :length] = k
            cache.values[index, first_row : first_row + n, :, :length] = v
            x = layer.finish(x, attended)
        last = x[torch.arange(n, device=x.device), lengths.to(x.device) - 1]
        return self.norm(last)

    def step(self, x: Tensor, at: Tensor, longest: int, cache: KvCache) -> Tensor:
        """One token for each of the cache's first n rows.

        Args:
            x: embeddings (n, hidden).
            at: (n,) int64, the position of each row's token.
            longest: the largest of `at`, known without asking the device.

        Returns:
            Hidden states (n, hidden).
        """
        span = min(cache.positions, -(-(longest + 1) // _SPAN_STEP) * _SPAN_STEP)
        mask = (torch.arange(span, device=x.device) <= at[:, None])[:, None, None]
        cos, sin = self._rope(at, x.dtype)
        rope = cos[:, None, None], sin[:, None, None]
        x = x[:, None]
        for index, layer in enumerate(self.layers):
            attended = layer.self_attn.step(
                layer.input_layernorm(x), rope, cache.keys[index], cache.values[index], at, span, mask
            )
            x = layer.finish(x, attended)
        return self.norm(x[:, 0])

    def _rope(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines (…, head_dim) of rotary positions (J. Su et al., RoFormer, 2021); halves, not pairs."""
        dim = self.size.head_dim
        frequencies = 1 / self.size.theta ** (torch.arange(0, dim, 2, device=positions.device).float() / dim)
        angles = positions[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotated(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * rope[0] + torch.cat((-second, first), dim=-1) * rope[1]
