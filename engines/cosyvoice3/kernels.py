"""Triton kernels compute, on a GPU, the decoding step's attention and activation, the flow's norms and rotation.

On an H200 (profiles of 2026-11-28) a decoding step of 16 rows spent 1.2 of its 2.5 ms in torch's attention, which takes
50 µs for a single query a row; the kernel takes 9 µs. In the flow a gated sum and the norm after it took 25 µs of the
270 µs of half a block, and the rotation 12. The kernels compute the same as the torch operations in qwen.py and dit.py,
which every other device uses; the tests compare them through Triton's interpreter.

Triton comes with torch's CUDA packages. It compiles with the system's C compiler; if there is none, `usable` returns
False and the torch operations stay.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch's CPU packages bring none
    triton = None

_log = logging.getLogger(__name__)
_BLOCK = 64  #: cache positions that a program reads at once

if triton is not None:

    @triton.jit
    def _attend_kernel(
        heads,  # (n, (q_heads + 2 * kv_heads) * DIM): queries, keys, values of the new tokens, not rotated
        rope,  # (slots, 2, DIM) float32
        at,  # (n,) int64
        at_stride,
        store,  # (rows * slots, 2 * kv_heads * DIM)
        starts,  # (n,) int64
        out,  # (n, q_heads * DIM)
        spill,
        scale,
        KV_HEADS: tl.constexpr,
        SHARED: tl.constexpr,
        QUERIES: tl.constexpr,
        DIM: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row, kv_head = tl.program_id(0), tl.program_id(1)
        position = tl.load(at + row * at_stride)
        seen = tl.where(position < spill, position, 0).to(tl.int32)  # a row that pads the batch reads nothing
        dims = tl.arange(0, DIM)
        swapped = (dims + DIM // 2) % DIM
        cos = tl.load(rope + position * 2 * DIM + dims)
        sin = tl.load(rope + position * 2 * DIM + DIM + dims)

        query = tl.arange(0, QUERIES)
        real = query[:, None] < SHARED
        width: tl.constexpr = (KV_HEADS * SHARED + 2 * KV_HEADS) * DIM
        own = heads + row * width
        first = own + (kv_head * SHARED + query[:, None]) * DIM
        q = tl.load(first + dims[None, :], mask=real, other=0.0).to(tl.float32) * cos[None, :]
        q += tl.load(first + swapped[None, :], mask=real, other=0.0).to(tl.float32) * sin[None, :]
        dtype = store.dtype.element_ty
        q = q.to(dtype)

        key = own + (KV_HEADS * SHARED + kv_head) * DIM
        k = (tl.load(key + dims).to(tl.float32) * cos + tl.load(key + swapped).to(tl.float32) * sin).to(dtype)
        v = tl.load(own + (KV_HEADS * SHARED + KV_HEADS + kv_head) * DIM + dims).to(dtype)
        slot: tl.constexpr = 2 * KV_HEADS * DIM
        stripe = store + tl.load(starts + row) * slot + kv_head * DIM
        tl.store(stripe + position * slot + dims, k)
        tl.store(stripe + position * slot + KV_HEADS * DIM + dims, v)

        # The sum of the softmax starts with the new token, and is rescaled whenever a larger score comes.
        largest = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], axis=1) * scale
        total = tl.full((QUERIES,), 1.0, tl.float32)
        mixed = tl.zeros((QUERIES, DIM), tl.float32) + v.to(tl.float32)[None, :]
        for start in range(0, seen, BLOCK):
            places = start + tl.arange(0, BLOCK)
            there = places < seen
            rows = stripe + places[:, None] * slot + dims[None, :]
            keys = tl.load(rows, mask=there[:, None], other=0.0)
            scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale
            scores = tl.where(there[None, :], scores, float("-inf"))
            now = tl.maximum(largest, tl.max(scores, axis=1))
            kept = tl.exp(largest - now)
            weights = tl.exp(scores - now[:, None])
            values = tl.load(rows + KV_HEADS * DIM, mask=there[:, None], other=0.0)
            mixed = mixed * kept[:, None] + tl.dot(weights.to(dtype), values, input_precision="ieee")
            total = total * kept + tl.sum(weights, axis=1)
            largest = now
        target = out + row * KV_HEADS * SHARED * DIM + (kv_head * SHARED + query[:, None]) * DIM + dims[None, :]
        tl.store(target, (mixed / total[:, None]).to(dtype), mask=real)

    @triton.jit
    def _silu_mul_kernel(gate_up, out, width, BLOCK: tl.constexpr):
        row = tl.program_id(0)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        there = at < width
        gate = tl.load(gate_up + row * 2 * width + at, mask=there).to(tl.float32)
        up = tl.load(gate_up + row * 2 * width + width + at, mask=there).to(tl.float32)
        tl.store(out + row * width + at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=there)

    @triton.jit
    def _gated_norm_kernel(x, gate, more, scale, shift, summed, normed, dim, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, BLOCK)
        there = at < dim
        dtype = summed.dtype.element_ty
        gates = tl.load(gate + at, mask=there, other=0.0).to(tl.float32)
        more_row = tl.load(more + row * dim + at, mask=there, other=0.0).to(tl.float32)
        total = tl.load(x + row * dim + at, mask=there, other=0.0).to(tl.float32) + gates * more_row
        total = total.to(dtype)
        tl.store(summed + row * dim + at, total, mask=there)
        total = total.to(tl.float32)
        mean = tl.sum(total, axis=0) / dim
        apart = tl.where(there, total - mean, 0.0)
        apart *= tl.rsqrt(tl.sum(apart * apart, axis=0) / dim + 1e-6)
        scales = tl.load(scale + at, mask=there, other=0.0).to(tl.float32)
        shifts = tl.load(shift + at, mask=there, other=0.0).to(tl.float32)
        tl.store(normed + row * dim + at, (apart * scales + shifts).to(dtype), mask=there)

    @triton.jit
    def _rotate_kernel(qkv, rope, frames, width, PAIRS: tl.constexpr):
        token = tl.program_id(0).to(tl.int64)
        pair = tl.arange(0, PAIRS)
        cos = tl.load(rope + (token % frames) * 2 * PAIRS + 2 * pair)
        sin = tl.load(rope + (token % frames) * 2 * PAIRS + 2 * pair + 1)
        for which in tl.static_range(2):  # queries, keys; values stay
            first = qkv + (token * 3 + which) * width + 2 * pair
            one = tl.load(first).to(tl.float32)
            other = tl.load(first + 1).to(tl.float32)
            tl.store(first, (one * cos - other * sin).to(qkv.dtype.element_ty))
            tl.store(first + 1, (other * cos + one * sin).to(qkv.dtype.element_ty))


def attend(heads: Tensor, rope: Tensor, at: Tensor, store: Tensor, starts: Tensor, spill: int, kv_heads: int) -> Tensor:
    """Rotate each row's new query, key and value, write the latter two into the cache, and attend.

    Args:
        heads: (n, q_heads + 2 * kv_heads, dim): queries, then keys, then values, as projected.
        rope: (slots, 2, dim) float32: the cosines and the signed sines of each position.
        at: (n,) int64, the position of each row's token; `spill` for a row that pads the batch.
        store: (rows * slots, 2 * kv_heads * dim), one layer of the cache; changed.
        starts: (n,) int64, the first slot of each row.
        spill: the slot that no row uses.

    Returns:
        (n, q_heads * dim).
    """
    n, count, dim = heads.shape
    q_heads = count - 2 * kv_heads
    shared = q_heads // kv_heads
    out = torch.empty((n, q_heads * dim), dtype=heads.dtype, device=heads.device)
    _attend_kernel[(n, kv_heads)](
        heads,
        rope,
        at,
        at.stride(0),
        store,
        starts,
        out,
        spill,
        dim**-0.5,
        KV_HEADS=kv_heads,
        SHARED=shared,
        QUERIES=max(16, triton.next_power_of_2(shared)),
        DIM=dim,
        BLOCK=_BLOCK,
        num_warps=4,
    )
    return out


def silu_mul(gate_up: Tensor) -> Tensor:
    """Compute silu(gate) * up, (n, width), from (n, 2 * width) with the gates first."""
    n, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((n, width), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul_kernel[(n, triton.cdiv(width, 1024))](gate_up, out, width, BLOCK=1024)
    return out


def gated_norm(x: Tensor, gate: Tensor, more: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a gated sum, and its layer norm, scaled and shifted, in one pass over memory.

    Args:
        x, more: (…, dim), contiguous.
        gate, scale, shift: dim numbers each.

    Returns:
        x + gate * more, and layer_norm of it (epsilon 1e-6) * scale + shift; both like `x`.
    """
    more = more.contiguous()
    summed, normed = torch.empty_like(x), torch.empty_like(x)
    dim = x.shape[-1]
    _gated_norm_kernel[(x.numel() // dim,)](
        x, gate, more, scale, shift, summed, normed, dim, BLOCK=triton.next_power_of_2(dim), num_warps=4
    )
    return summed, normed


def rotate(qkv: Tensor, rope: Tensor) -> None:
    """Rotate the first numbers of queries and keys in neighbouring pairs, in place.

    Args:
        qkv: (n, frames, 3, width), contiguous: queries, keys, values.
        rope: (frames, pairs, 2) float32, contiguous: cosines and sines; `pairs` a power of two.
    """
    n, frames, _, width = qkv.shape
    _rotate_kernel[(n * frames,)](qkv, rope, frames, width, PAIRS=rope.shape[1], num_warps=1)


@lru_cache
def usable(device: torch.device, dim: int) -> bool:
    """Tell if the kernels compile and run on this device with heads of `dim` numbers, a power of two from 16 on."""
    if triton is None or device.type != "cuda" or dim < 16 or dim & (dim - 1):
        return False
    if os.environ.get("COSYGRAPH_NO_TRITON") == "1":
        return False
    try:
        return all(_agree(device, dim, dtype) for dtype in (torch.float32, torch.bfloat16))
    except Exception as error:  # no compiler, a driver that Triton doesn't know …
        _log.warning("Triton's kernels can't be used here (%s); decoding takes about twice as long", error)
        return False


def _agree(device: torch.device, dim: int, dtype: torch.dtype = torch.float32) -> bool:
    """Compare each kernel's result with torch's on a few numbers; returns True if all agree."""
    heads = torch.randn(1, 4, dim, device=device).to(dtype)  # two queries, a key, a value
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    still = torch.stack((torch.ones(2, dim), torch.zeros(2, dim)), dim=1).to(device)
    attended = attend(heads, still, zero, torch.zeros(2, 2 * dim, device=device, dtype=dtype), zero, 1, 1)
    gate, up = heads.view(1, -1).chunk(2, dim=-1)
    summed, normed = gated_norm(heads[:, 0], gate[0, :dim], heads[:, 1], up[0, :dim], up[0, dim:])
    turned, quarter = heads[:, None, :3].clone(), torch.tensor([0.0, 1.0], device=device).repeat(1, dim // 2, 1)
    expected = turned.unflatten(-1, (-1, 2)).flip(-1) * torch.tensor([-1.0, 1.0], device=device, dtype=dtype)
    expected = torch.cat((expected.flatten(-2)[:, :, :2], turned[:, :, 2:]), dim=2)
    rotate(turned, quarter)
    pairs = (
        (attended[0], heads[0, 3].repeat(2)),  # it sees its own value alone
        (silu_mul(heads.view(1, -1)), torch.nn.functional.silu(gate) * up),
        (summed, heads[:, 0] + gate[:, :dim] * heads[:, 1]),
        (normed, torch.nn.functional.layer_norm(summed, (dim,), eps=1e-6) * up[0, :dim] + up[0, dim:]),
        (turned, expected),
    )
    near = 1e-4 if dtype == torch.float32 else 0.1
    return all(torch.allclose(one.float(), other.float(), atol=near, rtol=near) for one, other in pairs)
