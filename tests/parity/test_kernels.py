"""The Triton kernels against the plain torch that says what they compute; on a GPU."""

from __future__ import annotations

import pytest
import torch

from echo_audio.engines.sampling import Draw, choose, logprobs_of
from echo_audio.models import rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; run on a GPU: pytest -m gpu"),
]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@DTYPES
@pytest.mark.parametrize(("n", "heads", "kv_heads", "width"), [(5, 28, 4, 128), (3, 6, 2, 64), (200, 28, 4, 128), (1, 4, 2, 16)])
def test_rotating_storing_and_attention(dtype: torch.dtype, n: int, heads: int, kv_heads: int, width: int) -> None:
    row_kernels = pytest.importorskip("echo_audio.models.row_kernels")
    torch.manual_seed(0)
    there = {"dtype": dtype, "device": "cuda"}
    keys, values = (torch.randn(n + 1, 512, kv_heads, width, **there) for _ in range(2))
    query, key, value = (torch.randn(n, h, width, **there) for h in (heads, kv_heads, kv_heads))
    slots, places = torch.randperm(n + 1, device="cuda")[:n], torch.randint(0, 511, (n,), device="cuda")
    places[0] = 0
    angles = torch.randn(512, width // 2, device="cuda").repeat(1, 2)
    aim = rows.Aim(slots, places, angles.cos().to(dtype)[places], angles.sin().to(dtype)[places])
    again = keys.clone(), values.clone()
    expected = rows.rotate_and_store(query, key, value, aim, keys, values)
    found = row_kernels.rotate_and_store(query, key, value, aim, *again)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for ours, theirs in ((found, expected), (again[0], keys), (again[1], values)):
        assert float((ours - theirs).abs().max()) < tolerance
    mask = (torch.arange(511, device="cuda") <= places[:, None])[:, None, None]
    mixed = rows.attend_single(expected, keys, values, slots, mask)
    assert float((row_kernels.attend_single(expected, keys, values, slots, places) - mixed).abs().max()) < tolerance


@DTYPES
@pytest.mark.parametrize("width", [64, 384, 3584])
def test_sums_norms_and_gates(dtype: torch.dtype, width: int) -> None:
    row_kernels = pytest.importorskip("echo_audio.models.row_kernels")
    torch.manual_seed(0)
    hidden, more = (torch.randn(70, width, dtype=dtype, device="cuda") for _ in range(2))
    weight = torch.randn(width, dtype=dtype, device="cuda")
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    ours, theirs = row_kernels.add_norm(hidden, more, weight, 1e-6), rows.Plain.add_norm(hidden, more, weight, 1e-6)
    assert torch.equal(ours[0], theirs[0])
    assert float((ours[1] - theirs[1]).abs().max()) < tolerance
    assert float((row_kernels.gate(hidden, more) - rows.Plain.gate(hidden, more)).abs().max()) < tolerance


@pytest.mark.parametrize("size", [1024, 152_064])
def test_what_is_ruled_out_is_not_drawn_where_sums_are_rounded(size: int) -> None:
    """One id has nearly all, and random numbers are so near 1 that only rounding decides among the others."""
    draw_kernels = pytest.importorskip("echo_audio.engines.draw_kernels")
    torch.manual_seed(0)
    n, n_steps, there = 256, 16, {"dtype": torch.long, "device": "cuda"}
    logits = torch.randn(n, size, device="cuda") - 14.0
    logits[torch.arange(n), torch.randint(0, 20, (n,))] = 4.0
    allowed = torch.arange(size, device="cuda") % 3 != 1
    allowed[:20] = True
    masked = logits.masked_fill(~allowed, -torch.inf)
    numbers, fractions = torch.full((n, 3 + n_steps), -1, device="cuda"), torch.ones(n, 2 + n_steps, device="cuda")
    numbers[:, 0] = torch.arange(n, device="cuda")
    fractions[:, 2:] -= torch.randint(2, 64, (n, n_steps), device="cuda") * 2.0**-24
    at, last = torch.zeros(1, **there), torch.zeros(n, **there)
    ids, logprobs = torch.zeros((n_steps, n), **there), torch.zeros((n_steps, n), device="cuda")
    for step in range(n_steps):
        draw_kernels.draw(logits, allowed, draw_kernels.Buffers(numbers, fractions, at, last, ids, logprobs, 3, 2))
        ones = torch.ones(n, device="cuda")
        assert bool(allowed[choose(masked, Draw(ones, fractions[:, 2 + step], ones))].all())
        at += 1
    assert bool(allowed[ids].all()) and bool(logprobs.isfinite().all())


@DTYPES
@pytest.mark.parametrize("size", [50, 1024, 152_064])
def test_drawing(dtype: torch.dtype, size: int) -> None:
    """Where rounding moves a boundary, the random number must lie at it."""
    draw_kernels = pytest.importorskip("echo_audio.engines.draw_kernels")
    torch.manual_seed(0)
    n, n_steps = 96, 4
    logits = (torch.randn(n, size, device="cuda") * 3).to(dtype)
    allowed = torch.rand(size, device="cuda") < 0.7
    allowed[7] = True
    numbers = torch.full((n, 3 + n_steps), -1, device="cuda")
    numbers[:, 0] = torch.randperm(n, device="cuda")
    numbers[5, 3:] = 7
    allowed[9], numbers[6, 3:] = False, 9
    fractions = torch.rand((n, 2 + n_steps), device="cuda")
    fractions[:, 0] = torch.tensor([0.0, 0.7, 1.0, 1.5], device="cuda").repeat(n // 4)
    at, last = torch.zeros(1, dtype=torch.long, device="cuda"), torch.zeros(n, dtype=torch.long, device="cuda")
    ids, logprobs = torch.zeros((n_steps, n), dtype=torch.long, device="cuda"), torch.zeros((n_steps, n), device="cuda")
    masked = logits.float().masked_fill(~allowed, -torch.inf)
    for step in range(n_steps):
        draw_kernels.draw(logits, allowed, draw_kernels.Buffers(numbers, fractions, at, last, ids, logprobs, 3, 2))
        chance = fractions[:, 2 + step]
        expected = choose(masked, Draw(fractions[:, 0], chance, torch.ones(n, device="cuda")))
        expected = torch.where(numbers[:, 3 + step] >= 0, numbers[:, 3 + step], expected)
        found = ids[step]
        assert torch.equal(last[numbers[:, 0]], found)
        dictated = numbers[:, 3 + step] == 9
        assert bool((allowed[found] | dictated).all()) and bool(logprobs[step, dictated].isneginf().all())
        assert float((logprobs[step] - logprobs_of(masked, found))[~dictated].abs().max()) < 1e-4
        mass = (masked.double() / fractions[:, :1].clamp(min=1e-4)).softmax(-1).cumsum(-1)
        for row in (found != expected).nonzero()[:, 0].tolist():
            below = mass[row, found[row] - 1] if found[row] else 0.0
            assert below - 1e-4 < chance[row] < mass[row, found[row]] + 1e-4
        at += 1
    assert float((ids[:, 0] == masked[0].argmax()).float().min()) == 1.0
