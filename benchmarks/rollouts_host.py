"""What the host spends on each transcript of a GRPO step, with the device's work left out.

    python benchmarks/rollouts_host.py --record /tmp/step.jsonl                       once: the shipped model writes a step
    python benchmarks/rollouts_host.py --replay /tmp/step.jsonl [--before COMMIT]     what it costs the host to do it again
    python benchmarks/rollouts_host.py --replay /tmp/step.jsonl --profile             where, function by function

The step is that of configs/tiny-grpo.toml with 128 prompts. Its transcripts are dictated to the engine as it is on a GPU (blocks
of 8 steps, the host a tick behind), with a model that computes nothing: turns, segments, tokens and contexts are the shipped
model's, and what is measured is Python. A quarter of the group is recorded; the others write the same.

Times are of the processor, for all threads of the process, so that a busy machine does not matter; `wall` is the clock. Each
side runs in a process of its own; `--before` takes the sources of a commit. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from echo_audio.data.stock import make_stock
from echo_audio.engines.clips import ClipCache
from echo_audio.engines.local import LocalEngine
from echo_audio.engines.steps import Steps
from echo_audio.models import folders
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.models.thinker import Thinker
from echo_audio.training import grpo_metrics
from echo_audio.training.grpo_settings import PromptSettings, RewardSettings, RolloutSettings
from echo_audio.training.prompts import DrawnRows, Place, Prompt, Prompts
from echo_audio.training.rollouts import Key, RolloutLog, Sampler, rewarded
from echo_audio.training.update import learned
from echo_audio.transcript import Author, Written

PROMPTS, GROUP, RECORDED = 128, 8, 2
DATA = PromptSettings(seed=701, n_rows=20_000)
HOW = RolloutSettings(prompts=PROMPTS, group=GROUP, max_new_tokens=384, in_flight=PROMPTS * GROUP)
WIDTH = 16
"""Of the states that nobody computes."""

Dictation = dict[tuple[int, int], tuple[int, ...]]
"""For (seed, turn): the ids to write."""


class Idle:
    """A model that computes nothing: what the engine asks of a `Thinker`."""

    def __init__(self, family: Qwen25Omni) -> None:
        self.family = family
        self.device, self.dtype = torch.device("cpu"), torch.float32
        config = SimpleNamespace(hidden_size=WIDTH, num_attention_heads=1, num_hidden_layers=1, num_key_value_heads=1)
        self.decoder = SimpleNamespace(config=config, parameters=list)
        self.model = SimpleNamespace(parameters=list)
        self._logits = torch.zeros(1, len(family.token_bytes))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Of no meaning."""
        return torch.zeros(1, WIDTH).expand(len(ids), -1)

    def decode_rows(self, embeds: torch.Tensor, *_: Any) -> torch.Tensor:
        """The same."""
        return embeds

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """All alike."""
        return self._logits.expand(len(hidden), -1)


class HostSteps(Steps):
    """What the host does for a step on a GPU, and nothing else."""

    def refresh(self) -> None:
        """There are no positions to rotate by."""

    def _mask(self, places_JL: torch.Tensor, n_visible: int) -> None:  # type: ignore[override]
        """Nobody attends."""

    def _attend_many(self, *_: Any) -> None:  # type: ignore[override]
        """The same."""

    def _hear(self, embeds: torch.Tensor, *_: Any) -> torch.Tensor:
        return embeds

    def _step(self, n: int, *_: Any) -> None:
        forced = self._ints[:n].index_select(1, self._at + 3)[:, 0]
        self._ids[:, :n].index_copy_(0, self._at, forced[None])
        self._at.add_(1)


class NoClips(ClipCache):
    """Audio tokens that nobody encodes."""

    def _encode(self, clips: Any) -> None:
        for clip in clips:
            self._tokens[clip.id] = torch.zeros(1, WIDTH).expand(self.thinker.family.n_audio_tokens(clip.n_samples), -1)
            self.n_tokens += len(self._tokens[clip.id])


class Dictated(LocalEngine):
    """The engine as it is on a GPU, writing what is dictated."""

    def __init__(self, family: Qwen25Omni, dictation: Dictation, max_rows: int) -> None:
        idle: Any = Idle(family)
        super().__init__(idle, max_rows=max_rows, block=8, ahead=True)
        self.dictation, self.end = dictation, family.end_of_turn
        self._cache.copy_prefix = lambda *_: None  # type: ignore[method-assign]
        self._steps = HostSteps(idle, self._cache, max_rows, 8, self._dictate, graphs=False, kernels=False, fill_up=True)
        self._clips = NoClips(idle, 200_000)
        self.cpu_s = 0.0

    def _dictate(self, job: Any, number: int) -> int:
        dictated = self.dictation[job.request.sampling.seed, job.request.turn]
        return dictated[number] if number < len(dictated) else self.end

    def _tick(self) -> None:
        super()._tick()
        self.cpu_s = time.thread_time()


def record(path: Path) -> None:
    """Let the shipped model write the transcripts of a step, `RECORDED` of each prompt."""
    thinker = Thinker.load("tiny")
    prompts = drawn(thinker.family)
    engine = LocalEngine(thinker, max_rows=64)
    settings = HOW.model_copy(update={"group": RECORDED, "in_flight": 64})
    log = RolloutLog(path)
    Sampler(engine, thinker, settings, 1).sample(
        [prompts.at(Place(0, slot)) for slot in range(PROMPTS)], log,
        lambda: print(f"\r{len(log.done)} of {PROMPTS * RECORDED}", end="", file=sys.stderr, flush=True),
    )  # fmt: skip
    engine.close()


def drawn(family: Qwen25Omni) -> Prompts:
    """The prompts of the run."""
    return Prompts(DrawnRows(DATA, family, make_stock()), DATA.seed, PROMPTS)


def dictation_of(sampler: Sampler, prompts: Sequence[Prompt], recorded: RolloutLog, family: Qwen25Omni) -> Dictation:
    """What each turn of each transcript writes; where a tag had been overshot, it is written as it was repaired."""
    found: Dictation = {}
    for prompt in prompts:
        for number in range(GROUP):
            turns = list[tuple[int, ...]]()
            for span in recorded.done[Key(prompt.place.slot, 0, number % RECORDED)].spans:
                if isinstance(span, Written) and span.author is Author.MODEL:
                    turns.append(span.ids or ())
                elif isinstance(span, Written) and span.author is Author.HARNESS:
                    turns[-1] += family.text_ids(span.text)
            seed = sampler._seed(prompt.place, number)
            found |= {(seed, turn): ids for turn, ids in enumerate(turns)}
    return found


class Costs:
    """Seconds by phase: of the processor and of the clock."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.wall_s: dict[str, float] = {}

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """What runs inside is of this phase."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        yield
        self.cpu_s[phase] = time.process_time() - cpu_s
        self.wall_s[phase] = time.perf_counter() - wall_s


def replay(path: Path, *, profile: bool) -> dict[str, Any]:
    """One step without a device: milliseconds of each transcript, by phase."""
    torch.set_num_threads(1)
    family, recorded, costs = Qwen25Omni.load(folders.resolve("tiny")), RolloutLog(path), Costs()
    rows, thinker = drawn(family), SimpleNamespace(family=family)
    rows.at(Place(1, 0))  # what is made once is made now
    with costs.of("prompts"):
        prompts = [rows.at(Place(0, slot)) for slot in range(PROMPTS)]
    sampler: Any = Sampler(None, thinker, HOW, 1)  # type: ignore[arg-type]
    engine = sampler.engine = Dictated(family, dictation_of(sampler, prompts, recorded, family), HOW.in_flight)
    with tempfile.TemporaryDirectory() as folder, costs.of("rollout"), profiled(profile, "rollout"):
        log = RolloutLog(Path(folder) / "step.jsonl")
        sampler.sample(prompts, log)
    check(log, recorded)
    reward = RewardSettings().reward
    with costs.of("reward"), profiled(profile, "reward"):
        rollouts = [rewarded(p, key, log.done[key], reward, family) for p in prompts for key in keys(p)]
    with costs.of("learned"), profiled(profile, "learned"):
        items = [learned(rollout, 1.0, family.token_bytes) for rollout in rollouts]
    with costs.of("metrics"), profiled(profile, "metrics"):
        grpo_metrics.rollout_sums(rollouts)
        grpo_metrics.heard_by_prompt(rollouts)
    engine.close()
    n = len(rollouts)
    spans = [len(r.transcript.asked) for r in rollouts]
    return {
        "transcripts": n,
        "tokens": sum(r.transcript.n_sampled for r in rollouts) / n,
        "turns": sum(r.transcript.n_turns for r in rollouts) / n,
        "heard": sum(spans) / n,
        "context": sum(len(item.example.ids) for item in items) / n,
        "ticks": engine.counters.ticks,
        "cpu_ms": {phase: 1e3 * s / n for phase, s in costs.cpu_s.items()},
        "wall_ms": {phase: 1e3 * s / n for phase, s in costs.wall_s.items()},
        "engine_thread_ms": 1e3 * engine.cpu_s / n,
    }


def keys(prompt: Prompt) -> list[Key]:
    """Of a group."""
    return [Key(prompt.place.slot, 0, number) for number in range(GROUP)]


def check(log: RolloutLog, recorded: RolloutLog) -> None:
    """What was replayed says what was recorded."""
    for key, transcript in log.done.items():
        known = recorded.done[Key(key.slot, 0, key.number % RECORDED)]
        if (transcript.response, transcript.asked, transcript.stop) != (known.response, known.asked, known.stop):
            raise SystemExit(f"{key} was replayed as another transcript:\n{transcript.response}\n{known.response}")


@contextmanager
def profiled(wanted: bool, phase: str) -> Iterator[None]:
    """Tell where the time goes, in all threads."""
    if not wanted:
        yield
        return
    profiles: list[cProfile.Profile] = []
    run = threading.Thread.run

    def traced(self: threading.Thread) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()
        try:
            run(self)
        finally:
            profiles[-1].disable()

    threading.Thread.run = traced  # type: ignore[method-assign]
    own = cProfile.Profile(time.thread_time)
    own.enable()
    yield
    own.disable()
    threading.Thread.run = run  # type: ignore[method-assign]
    for name, each in (("main", own), *(("engine", p) for p in profiles)):
        print(f"==== {phase}, {name} thread")
        pstats.Stats(each).sort_stats("tottime").print_stats(28)


def side(source: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Replay with the sources of a folder, in a process of its own."""
    command = [sys.executable, __file__, "--replay", str(given.replay), "--alone"]
    told = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(source)}, check=True, capture_output=True, text=True)
    return json.loads(told.stdout.splitlines()[-1])


def main() -> None:
    """Record, or replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--before", help="a commit whose sources are measured beside these")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--alone", action="store_true", help="this process measures, and prints its JSON only")
    given = parser.parse_args()
    if given.record:
        record(given.record)
        return
    if given.alone or given.profile:
        print(json.dumps(replay(given.replay, profile=given.profile)))
        return
    root, found = Path(__file__).resolve().parents[1], dict[str, Any]()
    if given.before:
        with tempfile.TemporaryDirectory() as folder:
            packed = subprocess.run(["git", "archive", given.before, "src"], cwd=root, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
            found[given.before] = side(Path(folder) / "src", given)
    found["now"] = side(root / "src", given)
    phases = list(found["now"]["cpu_ms"])
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; ms of a processor for each transcript")
    print(f"| side | {' | '.join(phases)} | all | of rollout: engine's thread | wall of rollout | ticks |")
    print("|---" * (len(phases) + 5) + "|")
    for name, one in found.items():
        cpu_ms = one["cpu_ms"]
        numbers = [*cpu_ms.values(), sum(cpu_ms.values()), one["engine_thread_ms"], one["wall_ms"]["rollout"]]
        print(f"| {name} | {' | '.join(f'{n:.2f}' for n in numbers)} | {one['ticks']} |")
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps({"benchmark": "rollouts_host", "sides": found, **versions}))


if __name__ == "__main__":
    main()
