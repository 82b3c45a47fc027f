"""Triton kernels for single positions of many rows: rotate and store, and attention over rows of any lengths.

What they compute is said by `rotate_and_store` and `attend_single` in `rows.py`. Attention reads what a row really holds,
whatever the capacity; where rows are few, each is cut into parts that are computed side by side and then joined.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import subprocess

import torch
import triton
import triton.language as tl
from torch import Tensor

from echo_audio.models.rows import Aim

_PROGRAMS = 512
"""So many pieces of work keep a large GPU's memory busy."""


def trial(n_heads: int, n_kv_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> str:
    """Why the kernels do not run here, or nothing if they do."""
    if width < 16 or width & (width - 1):
        return f"heads are {width} wide"
    query, key = (torch.zeros((1, n, width), dtype=dtype, device=device) for n in (n_heads, n_kv_heads))
    keys = torch.zeros((1, 16, n_kv_heads, width), dtype=dtype, device=device)
    zero = torch.zeros(1, dtype=torch.long, device=device)
    aim = Aim(zero, zero, key[:, 0], key[:, 0])
    try:
        attend_single(rotate_and_store(query, key, key, aim, keys, keys.clone()), keys, keys, zero, zero)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # no compiler, no driver that Triton knows
        return " ".join(str(error).split())[:200]
    return ""


def n_parts(n_rows: int, n_kv_heads: int) -> int:
    """Into how many parts a row is cut."""
    return max(1, min(16, triton.next_power_of_2(_PROGRAMS // max(1, n_rows * n_kv_heads))))


def rotate_and_store(query: Tensor, key: Tensor, value: Tensor, aim: Aim, keys: Tensor, values: Tensor) -> Tensor:
    """See `rows.rotate_and_store`."""
    n, n_heads, width = query.shape
    n_kv = key.shape[1]
    out = query.new_empty(query.shape)
    group = n_heads // n_kv
    _rotate_and_store[(n, n_kv)](
        query, key, value, out, keys, values, aim.slots_N, aim.positions_N, aim.cosines_ND, aim.sines_ND,
        query.stride(0), key.stride(0), value.stride(0), keys.shape[1],
        KV_HEADS=n_kv, GROUP=group, GROUP_PAD=triton.next_power_of_2(group), WIDTH=width, num_warps=1,
    )  # fmt: skip
    return out


def attend_single(query: Tensor, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
    """Attention of one position a row over its row, itself included; see `rows.attend_single`.

    Args:
        query: rotated (rows, heads, width), contiguous.
        keys: (slots, capacity, kv_heads, width).
        values: the same.
        slots: the row of each query, int64.
        positions: of each query in its row, int64.
    """
    n, n_heads, width = query.shape
    capacity, n_kv = keys.shape[1:3]
    parts, group = n_parts(n, n_kv), n_heads // n_kv
    out = torch.empty_like(query)
    joined = parts == 1
    partial = out if joined else query.new_empty((n, n_heads, parts, width), dtype=torch.float32)
    marks = out if joined else query.new_empty((n, n_heads, parts, 2), dtype=torch.float32)
    exact = query.dtype == torch.float32
    _attend[(n, n_kv, parts)](
        query, keys, values, slots, positions, partial, marks, capacity, width**-0.5 * 1.4426950408889634,
        KV_HEADS=n_kv, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)), WIDTH=width,
        BLOCK=32 if exact else 64, PARTS=parts, PRECISION="ieee" if exact else "tf32", num_warps=4, num_stages=2 if exact else 3,
    )  # fmt: skip
    if not joined:
        _join[(n, n_heads)](partial, marks, out, WIDTH=width, PARTS=parts, num_warps=1)
    return out


def add_norm(hidden: Tensor, more: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `rows.Parts.add_norm`."""
    n, width = hidden.shape
    added, normed = torch.empty_like(hidden), torch.empty_like(hidden)
    _add_norm[(n,)](hidden, more, weight, added, normed, eps, WIDTH=width, PAD=triton.next_power_of_2(width), num_warps=8)
    return added, normed


def gate(gates: Tensor, values: Tensor) -> Tensor:
    """See `rows.Parts.gate`."""
    n, width = gates.shape
    out = gates.new_empty(gates.shape)
    _gate[(n, triton.cdiv(width, 2048))](gates, values, out, width, gates.stride(0), values.stride(0), BLOCK=2048, num_warps=8)
    return out


@triton.jit
def _add_norm(hidden, more, weight, added, normed, eps, WIDTH: tl.constexpr, PAD: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, PAD)
    inside = i < WIDTH
    old = tl.load(hidden + n * WIDTH + i, mask=inside, other=0.0).to(tl.float32)
    new = tl.load(more + n * WIDTH + i, mask=inside, other=0.0).to(tl.float32)
    kept = (old + new).to(added.dtype.element_ty)
    tl.store(added + n * WIDTH + i, kept, mask=inside)
    value = kept.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, 0) / WIDTH + eps)
    factor = tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + n * WIDTH + i, (value * scale * factor).to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _gate(gates, values, out, width, gate_stride, value_stride, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate_ = tl.load(gates + n * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(values + n * value_stride + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + n * width + at, (gate_ / (1.0 + tl.exp(-gate_)) * value).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_and_store(
    query, key, value, out, keys, values, slots, positions, cosines, sines,
    query_stride, key_stride, value_stride, capacity,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    d = tl.arange(0, half)
    cos = tl.load(cosines + n * WIDTH + d).to(tl.float32)
    sin = tl.load(sines + n * WIDTH + d).to(tl.float32)
    to = (tl.load(slots + n) * capacity + tl.load(positions + n)) * (KV_HEADS * WIDTH) + head * WIDTH
    a = tl.load(key + n * key_stride + head * WIDTH + d).to(tl.float32)
    b = tl.load(key + n * key_stride + head * WIDTH + half + d).to(tl.float32)
    tl.store(keys + to + d, (a * cos - b * sin).to(keys.dtype.element_ty))
    tl.store(keys + to + half + d, (b * cos + a * sin).to(keys.dtype.element_ty))
    whole = tl.arange(0, WIDTH)
    tl.store(values + to + whole, tl.load(value + n * value_stride + head * WIDTH + whole))
    g = tl.arange(0, GROUP_PAD)
    inside = (g < GROUP)[:, None]
    spread = (head * GROUP + g)[:, None] * WIDTH + d[None, :]
    first = tl.load(query + n * query_stride + spread, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(query + n * query_stride + spread + half, mask=inside, other=0.0).to(tl.float32)
    at = out + n * (KV_HEADS * GROUP * WIDTH) + spread
    tl.store(at, (first * cos[None, :] - second * sin[None, :]).to(out.dtype.element_ty), mask=inside)
    tl.store(at + half, (second * cos[None, :] + first * sin[None, :]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _attend(
    query, keys, values, slots, positions, partial, marks, capacity, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part = tl.program_id(2)
    length = (tl.load(positions + n) + 1).to(tl.int32)
    share = tl.cdiv(tl.cdiv(length, BLOCK), PARTS) * BLOCK
    begin = part * share
    end = tl.minimum(length, begin + share)
    g = tl.arange(0, GROUP_PAD)
    d = tl.arange(0, WIDTH)
    inside = (g < GROUP)[:, None]
    heads = n * (KV_HEADS * GROUP) + head * GROUP + g
    asked = tl.load(query + heads[:, None] * WIDTH + d[None, :], mask=inside, other=0.0)
    base = tl.load(slots + n) * capacity * (KV_HEADS * WIDTH) + head * WIDTH
    most = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    mixed = tl.zeros([GROUP_PAD, WIDTH], tl.float32)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        seen = at < end
        key = tl.load(keys + base + at[None, :] * (KV_HEADS * WIDTH) + d[:, None], mask=seen[None, :], other=0.0)
        value = tl.load(values + base + at[:, None] * (KV_HEADS * WIDTH) + d[None, :], mask=seen[:, None], other=0.0)
        score = tl.dot(asked, key, input_precision=PRECISION) * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        shrink = tl.exp2(most - higher)
        weight = tl.exp2(score - higher[:, None])
        mixed = mixed * shrink[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
        total = total * shrink + tl.sum(weight, 1)
        most = higher
    if PARTS == 1:
        to = partial + heads[:, None] * WIDTH + d[None, :]
        tl.store(to, (mixed / total[:, None]).to(partial.dtype.element_ty), mask=inside)
    else:
        to = partial + (heads[:, None] * PARTS + part) * WIDTH + d[None, :]
        tl.store(to, mixed, mask=inside)
        tl.store(marks + (heads * PARTS + part) * 2, most, mask=g < GROUP)
        tl.store(marks + (heads * PARTS + part) * 2 + 1, total, mask=g < GROUP)


@triton.jit
def _join(partial, marks, out, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    p = tl.arange(0, PARTS)
    d = tl.arange(0, WIDTH)
    most = tl.load(marks + (head * PARTS + p) * 2)
    total = tl.load(marks + (head * PARTS + p) * 2 + 1)
    weight = tl.exp2(most - tl.max(most, 0))  # a part without positions has -inf: nothing
    mixed = tl.load(partial + (head * PARTS + p)[:, None] * WIDTH + d[None, :])
    joined = tl.sum(mixed * weight[:, None], 0) / tl.sum(total * weight, 0)
    tl.store(out + head * WIDTH + d, joined.to(out.dtype.element_ty))
