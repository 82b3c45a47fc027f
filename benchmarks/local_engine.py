"""Transcripts a second on the local engine at the anchor's workload, and rollouts of the shipped small model.

    python benchmarks/local_engine.py [--rows 64 256] [--prompts 32] [--sides graphs eager plain]   7B shapes, one GPU
    python benchmarks/local_engine.py --rollouts [--prompts 16]     the shipped model: a GRPO step's transcripts of scenes
    python benchmarks/local_engine.py --tiny [--rollouts]           small, on the CPU, to see that it runs

The workload is that of `vllm_engine.py`: recordings of 10 s, prompts of some 330 tokens, three turns of 60 sampled tokens,
two re-listens of 3 s, 8 transcripts a prompt, so many rows at once. Weights are random. The sides, all in one process:

    graphs   as the engine runs: blocks of steps, each block a CUDA graph, Triton kernels, the host reads late
    eager    the same without graphs
    plain    with graphs, without Triton: attention by torch over the longest row's length
    before   one token at a time, read at once, without graphs and kernels: how the engine worked before

Each side runs twice; the second counts, the first pays for capturing. Of the measured run it prints where the GPU's time
went (by events around each piece: prefill and decode with their draws, the encoding of audio, and the rest, in which the
device waited for the host), the time of a decoding step, and the least it could take: the decoder's weights and the
rows' keys and values read once at the measured rate of a device copy. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from relisten import make_thinker
from vllm_engine import GROUP, QUESTION, TOKENS, TURNS, Context, noise, write_all

from echo_audio.data.stock import make_stock
from echo_audio.engines.local import LocalEngine
from echo_audio.engines.steps import Flight
from echo_audio.models.merged import merge_projections
from echo_audio.models.thinker import Thinker
from echo_audio.training.grpo_settings import PromptSettings, RolloutSettings
from echo_audio.training.prompts import DrawnRows, Place, Prompt, Prompts
from echo_audio.training.rollouts import RolloutLog, Sampler

TARGET_PER_S = 30.0
PROMPT_TOKENS = 48
"""Of the question, whatever the tokenizer makes of it."""

SIDES: dict[str, dict[str, Any]] = {
    "graphs": {},
    "eager": {"graphs": False},
    "plain": {"kernels": False},
    "before": {"graphs": False, "kernels": False, "block": 1, "ahead": False},
}


class Clock:
    """Time by kind of work: on a GPU between events in its stream, on a CPU of the wall."""

    def __init__(self, *, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.spans: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """What is launched inside is of this kind."""
        begin = self._mark()
        yield
        self.spans.append((kind, begin, self._mark()))

    def _mark(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> dict[str, float]:
        """Seconds by kind."""
        if self.on_gpu:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for kind, begin, end in self.spans:
            seconds = begin.elapsed_time(end) / 1e3 if self.on_gpu else end - begin
            found[kind] = found.get(kind, 0.0) + seconds
        self.spans.clear()
        return found


class Timed(LocalEngine):
    """The engine with a clock around its pieces."""

    def __init__(self, thinker: Thinker, **settings: Any) -> None:
        super().__init__(thinker, **settings)
        self.family = thinker.family  # as `vllm_engine.Context` wants it
        self.clock = Clock(on_gpu=thinker.device.type == "cuda")
        self.n_steps = self.n_positions = self.n_lanes = 0
        for name, owner in (("prefill", self._steps), ("tokens", self._clips)):
            setattr(owner, name, self._around("encode" if name == "tokens" else name, getattr(owner, name)))
        self._decode, self._steps.decode = self._steps.decode, self.decode  # type: ignore[method-assign]

    def _around(self, kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            with self.clock.span(kind):
                return work(*given)

        return timed

    def decode(self, jobs: Any, n_steps: int) -> Flight:
        """A block of steps."""
        self.n_steps += n_steps
        self.n_lanes += n_steps * len(jobs)
        self.n_positions += n_steps * sum(job.position + 1 + n_steps // 2 for job in jobs)
        with self.clock.span("decode"):
            return self._decode(jobs, n_steps)

    def reset(self) -> None:
        """Nothing measured so far counts."""
        self.clock.read()
        self.n_steps = self.n_positions = self.n_lanes = 0


def prepared(thinker: Thinker) -> Thinker:
    """Weights that are finite, whatever the library leaves uninitialised; and no end of a turn before its allowance."""
    with torch.no_grad():
        for name, weight in thinker.model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.02)
            else:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    thinker.allowed[list(thinker.family.ends)] = False
    return thinker


class ShortContext(Context):
    """The anchor's context with as many tokens of a question as its tokenizer would give."""

    def __init__(self, engine: Any, recording: Any) -> None:
        super().__init__(engine, recording)
        n = len(self.family.prompt_ids(QUESTION)) - PROMPT_TOKENS
        if n > 0:
            self.ids = self.ids[:-PROMPT_TOKENS - n] + self.ids[-PROMPT_TOKENS:]
        self.closing = self.closing[-12:]


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a device copy reads and writes."""
    n = 1 << (30 if device.type == "cuda" else 26)
    source, target = (torch.zeros(n, dtype=torch.uint8, device=device) for _ in range(2))
    best = np.inf
    for _ in range(5):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(5):
            target.copy_(source)
        synchronise(device)
        best = min(best, (time.perf_counter() - began) / 5)
    return 2 * n / best


def synchronise(device: torch.device) -> None:
    """Until the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def roofline(engine: Timed, rate: float) -> tuple[float, float]:
    """Seconds that reading the weights takes a step, and the keys and values of the rows on average."""
    thinker, cache = engine.thinker, engine._cache
    read = sum(w.numel() * w.itemsize for w in thinker.decoder.layers.parameters())
    read += thinker.model.lm_head.weight.numel() * thinker.dtype.itemsize
    of_position = 2 * len(cache.keys) * cache.shape[0] * cache.shape[1] * thinker.dtype.itemsize
    return read / rate, of_position * engine.n_positions / max(1, engine.n_steps) / rate


def measured(engine: Timed, run: Callable[[int], int], n_transcripts: int, rate: float) -> dict[str, Any]:
    """Two runs; the second counts."""
    device = engine.thinker.device
    for number in range(2):
        engine.reset()
        before = engine.counters
        synchronise(device)
        began = time.perf_counter()
        tokens = run(number)
        synchronise(device)
        seconds = time.perf_counter() - began
        if number == 0:
            first_s = seconds
    spent, now = engine.clock.read(), engine.counters
    weights_s, kv_s = roofline(engine, rate)
    return {
        "transcripts_per_s": n_transcripts / seconds, "tokens_per_s": tokens / seconds,
        "seconds": seconds, "first_run_s": first_s,
        "steps": engine.n_steps, "rows_per_step": engine.n_lanes / engine.n_steps,
        "step_ms": 1e3 * spent["decode"] / engine.n_steps,
        "roofline_ms": {"weights": 1e3 * weights_s, "keys_and_values": 1e3 * kv_s},
        "shares": {kind: spent.get(kind, 0.0) / seconds for kind in ("prefill", "encode", "decode")},
        "waiting_share": 1 - sum(spent.values()) / seconds,
        "prefilled": now.prefilled - before.prefilled, "copied": now.copied - before.copied,
        "clips_encoded": now.clips_encoded - before.clips_encoded, "discarded": now.discarded - before.discarded,
        "graphs": engine._steps.graphs.n_captured, "kernels": engine._steps.kernels is not None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
    }  # fmt: skip


def profiled(engine: Timed, run: Callable[[int], int]) -> list[dict[str, Any]]:
    """The GPU's kernels of one more run, by the time they take together, most first."""
    from torch.profiler import ProfilerActivity, profile

    engine.reset()
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        run(0)
        synchronise(engine.thinker.device)
    found = [
        {"kernel": event.key, "ms": event.self_device_time_total / 1e3, "calls": event.count}
        for event in watched.key_averages() if event.self_device_time_total > 0
    ]  # fmt: skip
    found.sort(key=lambda line: -line["ms"])
    total = sum(line["ms"] for line in found)
    print(f"kernels: {total:.0f} ms in all, {engine.n_steps} steps")
    for line in found[:25]:
        print(f"  {line['ms']:9.1f} ms  {line['ms'] / total:5.1%}  {line['calls']:>7}  {line['kernel'][:110]}", flush=True)
    return found[:25]


HEAD = "side    rows  transcripts/s  tokens/s  step, ms  least, ms  rows/step  prefill  encode  decode  waiting  first run, s  GB"


def shown(name: str, rows: int, found: dict[str, Any]) -> str:
    """A line of the table."""
    least = sum(found["roofline_ms"].values())
    shares = "  ".join(f"{found['shares'][kind]:6.0%}" for kind in ("prefill", "encode", "decode"))
    return (
        f"{name:<7} {rows:>4}  {found['transcripts_per_s']:13.2f}  {found['tokens_per_s']:8.0f}  {found['step_ms']:8.2f}  "
        f"{least:9.2f}  {found['rows_per_step']:9.1f}  {shares}  {found['waiting_share']:7.0%}  {found['first_run_s']:12.1f}  "
        f"{found['peak_gb'] or 0:.1f}"
    )


def anchor(given: argparse.Namespace) -> tuple[Thinker, Callable[[Timed, int], int], int]:
    """The model, the anchor's workload, and its transcripts."""
    device = "cpu" if given.tiny else "cuda"
    torch.backends.cuda.enable_cudnn_sdp(False)  # as `Thinker.load` does
    thinker = prepared(make_thinker("small" if given.tiny else "7b", device, torch.float32 if given.tiny else torch.bfloat16))
    if not given.unmerged:
        merge_projections(thinker.decoder)  # as `LocalEngine.load` does
    n = given.prompts or (2 if given.tiny else 32)
    recordings = {seed: noise(seed) for number in range(2) for seed in seeds(number, n)}

    def run(engine: Timed, number: int) -> int:
        contexts = [ShortContext(engine, recordings[seed]) for seed in seeds(number, n) for _ in range(GROUP)]
        return asyncio.run(write_all(engine, list(contexts)))

    return thinker, run, n * GROUP


def seeds(number: int, n: int) -> range:
    """Of the recordings of a run."""
    return range(10_000 * (number + 1), 10_000 * (number + 1) + n)


def rollouts(given: argparse.Namespace) -> tuple[Thinker, Callable[[Timed, int], int], int]:
    """The shipped model in float32, as a trainer shares it; a step's prompts; and its transcripts."""
    thinker = Thinker.load("tiny", device="cpu" if given.tiny else "cuda")
    n = given.prompts or (2 if given.tiny else 16)
    drawn = DrawnRows(PromptSettings(longest_s=8.0 if given.tiny else 30.0), thinker.family, make_stock())
    prompts: dict[int, list[Prompt]] = {}
    for number in range(2):
        rows = Prompts(drawn, 0, n)
        prompts[number] = [rows.at(Place(number, slot)) for slot in range(n)]
    settings = RolloutSettings(prompts=n, group=GROUP, max_new_tokens=256 if given.tiny else 2048)

    def run(engine: Timed, number: int) -> int:
        engine.forget()  # as after an update of the weights
        before = engine.counters.decoded
        with tempfile.TemporaryDirectory() as folder:
            Sampler(engine, thinker, settings, seed=0).sample(prompts[number], RolloutLog(Path(folder) / "step.jsonl"))
        return engine.counters.decoded - before

    return thinker, run, n * GROUP


def main() -> None:
    """Measure and print."""
    given = parse()
    began = time.perf_counter()
    thinker, run, n = (rollouts if given.rollouts else anchor)(given)
    rate = bandwidth(thinker.device)
    print(f"loaded in {time.perf_counter() - began:.0f} s; a device copy moves {rate / 1e12:.2f} TB/s; {n} transcripts")
    print(HEAD, flush=True)
    found: dict[str, dict[str, Any]] = {}
    for rows in given.rows:
        for name in given.sides:
            settings = SIDES[name] | ({"block": given.block} if given.block and name != "before" else {})
            engine = Timed(thinker, max_rows=rows, **settings)
            found[f"{name}-{rows}"] = side = measured(engine, lambda number, engine=engine: run(engine, number), n, rate)
            print(shown(name, rows, side), flush=True)
            if given.profile and name == "graphs":
                side["kernels_by_time"] = profiled(engine, lambda number, engine=engine: run(engine, number))
            engine.close()
            del engine
            gc.collect()
            if thinker.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    best = max(side["transcripts_per_s"] for side in found.values())
    print(json.dumps({
        "benchmark": "local_engine", "mode": "rollouts" if given.rollouts else "anchor", "sides": found, "best_per_s": best,
        "target": TARGET_PER_S, "target_met": best >= TARGET_PER_S, "copy_tb_per_s": rate / 1e12,
        "tokens_per_transcript": None if given.rollouts else TOKENS * TURNS,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None, "torch": torch.__version__,
        "settings": vars(given),
    }))  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", action="store_true", help="scenes questions to the shipped model instead of the anchor")
    parser.add_argument("--tiny", action="store_true", help="small, on the CPU")
    parser.add_argument("--prompts", type=int, default=0, help="32; 16 with --rollouts; 2 with --tiny")
    parser.add_argument("--rows", type=int, nargs="+", default=None, help="transcripts at once: 64 256; 64 with --rollouts")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=None)
    parser.add_argument("--block", type=int, default=0, help="steps between two looks of the host; the engine's own unless given")
    parser.add_argument("--unmerged", action="store_true", help="each projection by itself, as in training")
    parser.add_argument("--profile", action="store_true", help="one more run of `graphs`: its kernels by time; on a GPU")
    given = parser.parse_args()
    given.rows = given.rows or ([64] if given.rollouts else [8] if given.tiny else [64, 256])
    given.sides = given.sides or (["graphs", "eager", "before"] if given.rollouts else ["graphs", "eager", "plain", "before"])
    if given.tiny and given.profile:
        parser.error("--profile needs a GPU")
    if not given.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny runs on the CPU")
    return given


if __name__ == "__main__":
    main()
