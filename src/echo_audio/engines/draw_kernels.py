"""Triton kernels that draw: from the logits as the model gives them to an id a row, in two launches.

What they compute is said by `choose` and `logprobs_of` in `sampling.py`, without top-p: inverse-transform sampling in index
order, and only an id with mass is taken. The first surveys each stretch of the vocabulary (its largest value, its masses), the
second finds the stretch in which the random number falls, and the id in it. The vocabulary is read once, and nothing of its
size is written.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Buffers:
    """What a decoding step reads of how to draw, and where it puts what it drew.

    Args:
        numbers: (lanes, columns), int64: the first column is the row, from column `forced` on what is dictated, by step.
        fractions: (lanes, columns): the first column is the temperature, from column `chance` on random numbers, by step.
        at: the number of the step, (1,), int64.
        last_ids: the id drawn last, by row.
        ids: (steps, lanes), int64.
        logprobs: (steps, lanes).
        forced: a column of `numbers`.
        chance: a column of `fractions`.
    """

    numbers: Tensor
    fractions: Tensor
    at: Tensor
    last_ids: Tensor
    ids: Tensor
    logprobs: Tensor
    forced: int
    chance: int


def draw(logits_BV: Tensor, allowed_V: Tensor, there: Buffers) -> None:
    """Draw one id a lane and put it and its log-probability into the buffers.

    Args:
        logits_BV: in the model's number format, contiguous.
        allowed_V: which ids may be drawn.
    """
    n, size = logits_BV.shape
    block = min(4096, triton.next_power_of_2(size))
    parts = triton.cdiv(size, block)
    marks = torch.empty((n, parts, 4), dtype=torch.float32, device=logits_BV.device)
    allowed = allowed_V.view(torch.uint8)
    columns = there.numbers.stride(0), there.fractions.stride(0)
    _survey[(n, parts)](logits_BV, allowed, there.fractions, marks, size, columns[1], PARTS=parts, BLOCK=block, num_warps=8)
    _pick[(n,)](
        logits_BV, allowed, there.numbers, there.fractions, there.at, marks, there.last_ids, there.ids, there.logprobs,
        size, *columns, there.ids.stride(0), FORCED=there.forced, CHANCE=there.chance,
        PARTS=parts, PARTS_PAD=max(16, triton.next_power_of_2(parts)), BLOCK=block, num_warps=8,
    )  # fmt: skip


@triton.jit
def _survey(logits, allowed, fractions, marks, size, fraction_columns, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    i = tl.arange(0, BLOCK)
    at = part * BLOCK + i
    may = tl.load(allowed + at, mask=at < size, other=0) != 0
    value = tl.load(logits + row * size + at, mask=may, other=float("-inf")).to(tl.float32)
    top = tl.max(value, 0)
    first = tl.min(tl.where(value == top, at, size), 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    temperature = tl.maximum(tl.load(fractions + row * fraction_columns), 1e-4)
    to = marks + (row * PARTS + part) * 4
    tl.store(to, top)
    tl.store(to + 1, first.to(tl.float32))  # below 2**24: exact
    tl.store(to + 2, tl.sum(tl.exp(value - base), 0))
    tl.store(to + 3, tl.sum(tl.exp((value - base) / temperature), 0))


@triton.jit
def _pick(
    logits, allowed, numbers, fractions, step, marks, last_ids, ids, logprobs,
    size, number_columns, fraction_columns, lanes,
    FORCED: tl.constexpr, CHANCE: tl.constexpr, PARTS: tl.constexpr, PARTS_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    now = tl.load(step)
    temperature = tl.load(fractions + row * fraction_columns)
    chance = tl.load(fractions + row * fraction_columns + CHANCE + now)
    heat = tl.maximum(temperature, 1e-4)
    p = tl.arange(0, PARTS_PAD)
    there = p < PARTS
    mark = marks + (row * PARTS + p) * 4
    top = tl.load(mark, mask=there, other=float("-inf"))
    first = tl.load(mark + 1, mask=there, other=0.0)
    plain = tl.load(mark + 2, mask=there, other=0.0)
    warm = tl.load(mark + 3, mask=there, other=0.0)
    highest = tl.max(top, 0)
    empty = top == float("-inf")
    likeliest = tl.min(tl.where((top == highest) & there, first, 1e9), 0).to(tl.int64)
    total = tl.sum(plain * tl.where(empty, 0.0, tl.exp(top - highest)), 0)
    mass = warm * tl.where(empty, 0.0, tl.exp((top - highest) / heat))
    reached = tl.cumsum(mass, 0)
    target = chance * tl.max(tl.where(mass > 0, reached, 0.0), 0)
    part = tl.min(tl.where((reached > target) & (mass > 0), p, PARTS_PAD), 0)  # never counted: see `_first_beyond`
    part = tl.minimum(part, tl.max(tl.where(mass > 0, p, 0), 0))
    before = tl.sum(tl.where(p == part - 1, reached, 0.0), 0)
    rest = tl.maximum(target - before, 0.0)
    i = tl.arange(0, BLOCK)
    at = part * BLOCK + i
    may = tl.load(allowed + at, mask=at < size, other=0) != 0
    value = tl.load(logits + row * size + at, mask=may, other=float("-inf")).to(tl.float32)
    inner = tl.exp((value - highest) / heat)
    found = tl.min(tl.where((tl.cumsum(inner, 0) > rest) & (inner > 0), i, BLOCK), 0)
    drawn = part * BLOCK + tl.minimum(found, tl.max(tl.where(inner > 0, i, 0), 0))
    chosen = tl.where(temperature > 0, drawn.to(tl.int64), likeliest)
    forced = tl.load(numbers + row * number_columns + FORCED + now)
    chosen = tl.where(forced >= 0, forced, chosen)
    chosen = tl.minimum(chosen, size - 1)  # where nothing is finite
    may_be = tl.load(allowed + chosen) != 0  # what may not be drawn has no probability, whoever dictated it
    logprob = tl.load(logits + row * size + chosen, mask=may_be, other=float("-inf")).to(tl.float32) - highest - tl.log(total)
    tl.store(last_ids + tl.load(numbers + row * number_columns), chosen)
    tl.store(ids + now * lanes + row, chosen)
    tl.store(logprobs + now * lanes + row, logprob)
