"""A step of supervised training at the shapes of Qwen2.5-Omni-7B's thinker: adapters on one GPU, 10 s clips, random weights.

    python benchmarks/sft_7b.py [--steps 8] [--batch-tokens 8192] [--rank 16] [--no-checkpointing] [--compile]
    python benchmarks/sft_7b.py --tiny       the test model on the CPU in seconds, to see that it runs

Rows are as long as the paper's (prompt, 10 s of audio, a reasoning; 2,048 tokens at most), of similar length in a batch, as
the trainer cuts them. It measures the machine's own rate with a bfloat16 product of two 8192 x 8192 matrices in the same
process. The last line is one JSON object:

    tokens_per_s     real tokens, padding not counted
    share            multiplications that the step needs (two for each weight and token forward; two more backward, through
                     frozen weights to their inputs; attention and logits included) over the time and the measured rate
    hardware_share   the same with those that recomputed activations add
    padding_share    of the positions computed
    peak_gb          memory allocated at most
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from relisten import make_thinker
from torch import Tensor
from torch.optim import AdamW

from echo_audio.audio import SAMPLE_RATE
from echo_audio.models.qwen2_5_omni import n_audio_tokens
from echo_audio.models.thinker import Thinker
from echo_audio.training import adapters
from echo_audio.training.batch import Example, Stored, collate
from echo_audio.training.model import SftModel
from echo_audio.training.sft import recompute_activations

LONGEST, PROMPT, TARGET = 2048, 90, 0.45
"""Tokens of a row and of its question, as in the paper's settings; the target of the share."""


def make_rows(thinker: Thinker, n: int, clip_s: float, longest: int, seed: int = 0) -> list[Example]:
    """Rows with reasonings of a median of 350 tokens, sorted by length."""
    rng = np.random.default_rng(seed)
    n_audio = n_audio_tokens(round(clip_s * SAMPLE_RATE))
    lengths = np.clip(rng.lognormal(np.log(350 * longest / LONGEST), 0.5, n), 20, longest - PROMPT - n_audio - 2).astype(int)
    return [make_row(thinker, rng, int(length), n_audio, clip_s) for length in np.sort(lengths)]


def make_row(thinker: Thinker, rng: np.random.Generator, length: int, n_audio: int, clip_s: float) -> Example:
    """Noise for audio, and any ids for words."""
    words = rng.integers(0, 256, PROMPT + length)
    audio = np.array(thinker.family.audio_ids(n_audio))
    ids = np.concatenate([words[:10], audio, words[10:]])
    sampled = np.arange(len(ids)) >= len(ids) - length
    clip = (rng.standard_normal(round(clip_s * SAMPLE_RATE)) * 3000).astype(np.int16)
    no_marks, ones = np.zeros((0, 4), np.int64), np.ones(len(ids), np.float32)
    return Example(ids, sampled, ones, np.zeros(len(ids), bool), (11,), (n_audio,), Stored((clip,)), no_marks)


def cut(rows: list[Example], batch_tokens: int) -> list[list[Example]]:
    """Batches of neighbours, each of so many positions at most."""
    batches: list[list[Example]] = [[]]
    for row in rows:
        if batches[-1] and len(row.ids) * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


@dataclass
class Work:
    """Multiply-adds, counted twice as is usual: forward, and backward to the inputs of frozen weights."""

    forward: float = 0.0
    backward: float = 0.0
    recomputed: float = 0.0


def work_of(thinker: Thinker, batch: list[Example], *, checkpointing: bool) -> Work:
    """What the real tokens of a batch need; adapters, log-mel and norms are left out."""
    text = thinker.decoder.config
    matrices = [(name, weight.numel()) for name, weight in thinker.decoder.named_parameters() if weight.dim() == 2]
    layers = sum(size for name, size in matrices if "embed" not in name and "lora" not in name)
    tower = sum(w.numel() for n, w in thinker.audio_tower.named_parameters() if w.dim() == 2 and "embed" not in n)
    lengths = [len(row.ids) for row in batch]
    decoder = 2.0 * layers * sum(lengths) + 2.0 * text.num_hidden_layers * text.hidden_size * sum(n * n for n in lengths)
    logits = 2.0 * text.hidden_size * text.vocab_size * sum(int(row.sampled.sum()) for row in batch)
    audio = 2.0 * tower * 2 * sum(sum(row.n_tokens) for row in batch)  # two positions in the tower for each audio token
    return Work(decoder + logits + audio, decoder + logits, decoder * checkpointing)


def matrix_rate(device: torch.device, size: int, repeats: int = 20) -> float:
    """Multiply-adds a second, counted twice, of a bfloat16 product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    wait(device)
    return 2.0 * size**3 * repeats / (time.perf_counter() - began)


def wait(device: torch.device) -> None:
    """Until the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors on the device."""
    return {name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for name, value in batch.items()}


def step(model: SftModel, optimiser: AdamW, batch: dict[str, Any], device: torch.device) -> Tensor:
    """Forward, backward, update; nothing waits for the GPU."""
    with torch.autocast(device.type, torch.bfloat16):
        loss = model(**moved(batch, device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.detach()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement."""
    device = torch.device("cpu" if given.tiny else "cuda")
    rate = matrix_rate(device, 256 if given.tiny else 8192)
    thinker = make_thinker("small" if given.tiny else "7b", str(device), torch.float32 if given.tiny else torch.bfloat16)
    adapters.attach(thinker, given.rank, 2.0 * given.rank)
    adapters.widen(thinker)
    model = SftModel(thinker, freeze_audio=True)
    if given.checkpointing:
        recompute_activations(thinker)
    if given.compile:
        model.compile_layers()
    rows = make_rows(thinker, 4 if given.tiny else given.rows, 2.0 if given.tiny else 10.0, 256 if given.tiny else LONGEST)
    batches = cut(rows, given.batch_tokens)
    np.random.default_rng(1).shuffle(batches)  # type: ignore[arg-type]
    optimiser = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    collated = [collate(batch) for batch in batches]
    for batch in collated[: given.warm]:
        step(model, optimiser, batch, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wait(device)
    began = time.perf_counter()
    used = [i % len(batches) for i in range(given.steps)]
    losses = [step(model, optimiser, collated[i], device) for i in used]
    wait(device)
    elapsed_s = time.perf_counter() - began
    works = [work_of(thinker, batches[i], checkpointing=given.checkpointing) for i in used]
    real, padded = sum(collated[i]["n_real"] for i in used), sum(collated[i]["ids"].numel() for i in used)
    needed = sum(work.forward + work.backward for work in works)
    return {
        "benchmark": "sft_7b", "tokens_per_s": real / elapsed_s, "share": needed / elapsed_s / rate, "target": TARGET,
        "hardware_share": (needed + sum(work.recomputed for work in works)) / elapsed_s / rate,
        "matrix_tflops": rate / 1e12, "padding_share": 1 - real / padded, "step_s": elapsed_s / given.steps,
        "rows_per_step": sum(collated[i]["n_rows"] for i in used) / given.steps, "loss": float(losses[-1]),
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None, "torch": torch.__version__,
        "settings": vars(given),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes on the CPU")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warm", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--rows", type=int, default=160, help="rows to cut batches from")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny runs on the CPU")
    found = measure(given)
    print(f"matrix product        {found['matrix_tflops']:8.1f} TFLOP/s")
    print(f"tokens a second       {found['tokens_per_s']:8.0f}   ({found['step_s']:.2f} s a step)")
    print(f"share of the product  {found['share']:8.1%}   (target {TARGET:.0%}; {found['hardware_share']:.1%} with recomputing)")
    print(f"padding               {found['padding_share']:8.1%}")
    print(f"memory, at most       {found['peak_gb'] or 0:8.1f} GB")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
