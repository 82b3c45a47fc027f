"""Transcripts a second on vLLM: Echo's engine against waves of raw requests, in the same process, at the anchor's workload.

    python benchmarks/vllm_engine.py FOLDER [--sides engine waves text] [--runner 1] [--rounds 2] [--dissect]
        [--profile FOLDER]

FOLDER: config and tokenizer in the published layout (weights are made up: load_format="dummy"). The workload: recordings of
10 s, prompts of some 330 tokens, three turns of 60 sampled tokens, two re-listens of 3 s, 8 transcripts a prompt. A random
model never asks for a segment, so after each turn of 60 tokens a fixed one is appended, for both sides alike.

    engine   `VllmEngine`: every transcript by its own clock; ids expanded, log-mel by us, known audio named by its hash
    tokens   the same, every token sent and read here instead of whole turns (`engines/vllm_turns.py`)
    waiting  the same as engine, but vLLM's own way to join audio with text, which waits for the GPU (`engines/vllm_hearing.py`)
    launched the same as engine, the audio tower's layers launched kernel by kernel (`engines/tower_graphs.py`)
    copied   the same as engine, clips joined by vLLM in fresh host memory, not in memory pinned once (`engines/staging.py`)
    counted  the same as engine, the positions of a prompt made and sent when it comes
    rowwise  the same as engine, a request's row set up by vLLM, with launches of its own
    before   without these three
    unseeded the same as engine, draws left to vLLM's one generator, so that they do not follow from a seed
    waves    all transcripts turn by turn; every turn hands all raw audio to vLLM's own front end again; nothing of vLLM replaced
    text     the ceiling: 256 sequences of 180 tokens without audio

--runner says which of vLLM's model runners works (2: VLLM_USE_V2_MODEL_RUNNER=1); one run has one.

All run on the same AsyncLLM with prefix caching on; recordings differ between the sides, so that none finds the
other's audio in a cache. The last line is one JSON object: transcripts_per_s of each, ratio of engine to waves, share of
the text-only ceiling.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable, Coroutine
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from vllm_gaps import Watch, shares

from echo_audio.audio import SAMPLE_RATE, Recording
from echo_audio.engines.vllm import VllmEngine
from echo_audio.engines.vllm_hearing import PARTS
from echo_audio.listen import Clip, Encoded, Request, Sampling

GROUP, TOKENS, TURNS = 8, 60, 3
QUESTION = (
    "What is the second sound after the dog stops barking, and how long does it last relative to the clip? Choose the answer "
    "from ['a car horn', 'rain', 'speech', 'a door']. Think step-by-step. Refer to the specific audio segments while thinking, "
    "and indicate the corresponding timestamps. Answer in the format of <think>...</think><answer>...</answer>."
)
SEGMENT_S = (1.0, 4.0)
TARGET_PER_S, TARGET_RATIO = 90.0, 5.0


def noise(seed: int, seconds: float = 10.0) -> Recording:
    """A recording of its own for every seed."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE)) * 0.1
    return Recording(samples.astype(np.float32))


class Context:
    """A transcript's ids and clips while it grows."""

    def __init__(self, engine: VllmEngine, recording: Recording) -> None:
        self.family, self.recording = engine.family, recording
        begin, end = (round(second * SAMPLE_RATE) for second in SEGMENT_S)
        self.segment = Recording(recording.samples[begin:end].copy())
        self.ids: list[int] = list(self.family.head_ids())
        self.clips: list[Clip] = []
        self.hear(recording)
        self.ids += self.family.prompt_ids(QUESTION)
        self.closing = self.family.text_ids("<seg>1.0, 4.0</seg>")

    def twin(self) -> Context:
        """Another transcript of the same prompt."""
        made = copy(self)
        made.ids, made.clips = list(self.ids), list(self.clips)
        return made

    def hear(self, clip: Recording) -> None:
        """Append a clip."""
        n_tokens = self.family.n_audio_tokens(clip.n_samples)
        self.clips.append(Clip(len(self.ids) + 1, n_tokens, clip))
        self.ids += self.family.audio_ids(n_tokens)

    def write(self, ids: list[int], *, more: bool) -> None:
        """Append a turn, and the segment it did not ask for."""
        self.ids += ids
        if more:
            self.ids += self.closing
            self.hear(self.segment)

    @property
    def encoded(self) -> Encoded:
        """As an engine wants it."""
        n = len(self.ids)
        return Encoded(tuple(self.ids), (False,) * n, (0.0,) * n, tuple(self.clips))


def by_engine(engine: VllmEngine, seeds: range, *, seeded: bool = True) -> Coroutine[Any, Any, int]:
    """Every transcript by its own clock; tokens sampled. The recordings are there before the clock starts."""
    engine.seeded = seeded
    prompts = [Context(engine, recording) for recording in map(noise, seeds)]
    return write_all(engine, [prompt.twin() for prompt in prompts for _ in range(GROUP)])


async def write_all(engine: Any, contexts: list[Context]) -> int:
    """The transcripts of these contexts on any engine, all at once; tokens sampled."""

    async def one(context: Context, number: int) -> int:
        tokens, session = 0, uuid.uuid4().hex
        for turn in range(TURNS):
            sampling = Sampling(1.0, seed=number)
            asked = Request(context.encoded, ("</seg>",), TOKENS, sampling, turn, session)
            written = await engine.generate(asked)
            tokens += len(written.ids)
            context.write(list(written.ids), more=turn < TURNS - 1)
        engine.release(session)
        return tokens

    return sum(await asyncio.gather(*(one(context, i % GROUP) for i, context in enumerate(contexts))))


def exactly(engine: VllmEngine, n_tokens: int, **more: Any) -> Any:
    """Settings of a raw request for so many tokens."""
    settings = {
        "temperature": 1.0, "max_tokens": n_tokens, "min_tokens": n_tokens, "ignore_eos": True, "detokenize": False,
        "output_kind": engine.library.final_only,
    }  # fmt: skip
    return engine.library.sampling_params(**settings | more)


def by_waves(engine: VllmEngine, seeds: range) -> Coroutine[Any, Any, int]:
    """Turn by turn, raw audio handed over again each time; placeholders are vLLM's to expand."""
    family = engine.family
    audio = family.audio_ids(1)
    head = [*family.head_ids(), *audio, *family.prompt_ids(QUESTION)]
    closing = [*family.text_ids("<seg>1.0, 4.0</seg>"), *audio]
    return all_waves(engine, [(list(head), [each.samples]) for each in map(noise, seeds) for _ in range(GROUP)], closing)


async def all_waves(engine: VllmEngine, states: list[tuple[list[int], list[Any]]], closing: list[int]) -> int:
    """The turns of these contexts (ids and clips), one turn of all after the other; tokens sampled."""
    params, tokens = exactly(engine, TOKENS), 0

    async def one(ids: list[int], clips: list[Any]) -> list[int]:
        prompt = {"prompt_token_ids": ids, "multi_modal_data": {"audio": [(clip, SAMPLE_RATE) for clip in clips]}}
        return [list(out.outputs[0].token_ids) async for out in engine.llm.generate(prompt, params, uuid.uuid4().hex)][-1]

    for turn in range(TURNS):
        written = await asyncio.gather(*(one(ids, clips) for ids, clips in states))
        tokens += sum(map(len, written))
        more = turn < TURNS - 1
        states = [
            (ids + new + closing * more, clips + [clips[0][SAMPLE_RATE : 4 * SAMPLE_RATE]] * more)
            for (ids, clips), new in zip(states, written, strict=True)
        ]
    return tokens


DISSECTED: dict[str, dict[str, Any]] = {
    "text+logprobs": {"logprobs": 0, "flat_logprobs": True},
    "text+seeds": {"seed": 1},
    "text+stops": {"stop": ["</seg>"], "detokenize": True},
    "text+all": {"logprobs": 0, "flat_logprobs": True, "seed": 1, "stop": ["</seg>"], "detokenize": True},
}
"""What each thing that listening asks of vLLM costs, on the ceiling's workload."""


async def by_text(engine: VllmEngine, number: int, **more: Any) -> int:
    """The ceiling; `number` keeps runs out of each other's prefix cache."""
    params = exactly(engine, TOKENS * TURNS, **more)
    head = [1000 + number, *list(engine.family.prompt_ids(QUESTION))[:20]]

    async def one(row: int) -> int:
        prompt = engine.library.tokens_input([*head, 1000 + row])
        return [len(out.outputs[0].token_ids) async for out in engine.llm.generate(prompt, params, uuid.uuid4().hex)][-1]

    return sum(await asyncio.gather(*(one(row) for row in range(256))))


BY_ENGINE = ("engine", "tokens", "waiting", "launched", "copied", "counted", "rowwise", "before", "unseeded")
SIDES = (*BY_ENGINE, "waves", "text")
WITHOUT: dict[str, set[str]] = {
    "waiting": {"join"}, "launched": {"graphs"}, "copied": {"upload"}, "counted": {"positions"}, "rowwise": {"rows"},
    "before": {"upload", "positions", "rows"}, "waves": set(PARTS),
}  # fmt: skip
"""Which parts of `vllm_hearing` a side is without."""


Run = Callable[[int], Coroutine[Any, Any, int]]
"""One run of a side; the argument tells its recordings from those of any other run."""


def sides_of(engine: VllmEngine, n: int, given: argparse.Namespace) -> dict[str, tuple[Run, int]]:
    """What is run, and how many transcripts each is. "engine" is always among them."""

    def seeds(number: int) -> range:
        return range(number * 1_000, number * 1_000 + n)

    def engines(name: str) -> Run:
        return lambda number: by_engine(engine, seeds(number), seeded=name != "unseeded")

    def text(**more: Any) -> Run:
        return lambda number: by_text(engine, number, **more)

    found: dict[str, tuple[Run, int]] = {name: (engines(name), n * GROUP) for name in BY_ENGINE}
    found["waves"] = (lambda number: by_waves(engine, seeds(number)), n * GROUP)
    found["text"] = (text(), 256)
    found = {name: side for name, side in found.items() if name in {"engine", *given.sides}}
    if given.no_waves:
        found.pop("waves", None)
    if given.dissect:
        found |= {name: (text(**more), 256) for name, more in DISSECTED.items()}
    return found


def measure(engine: VllmEngine, sides: dict[str, tuple[Run, int]], rounds: int) -> dict[str, float]:
    """Transcripts a second of each side: all sides one after another, so many times."""
    on_loop, whole = engine._call, engine.whole  # pyright: ignore[reportPrivateUsage]
    seconds, number = dict.fromkeys(sides, 0.0), 2
    for _ in range(rounds):
        for name, (run, n_transcripts) in sides.items():
            engine.whole, number = name != "tokens" and whole, number + 1
            parts = [part for part in PARTS if part not in WITHOUT.get(name, ())]
            on_loop(engine.llm.collective_rpc("echo_hear", args=(parts,)))
            work = run(number)
            began = time.perf_counter()
            tokens = asyncio.run(work) if name in BY_ENGINE else on_loop(work)
            took = time.perf_counter() - began
            seconds[name] += took
            rates = f"{n_transcripts / took:8.2f} transcripts/s  {tokens / took:8.0f} tokens/s"
            print(f"{name:<8} {rates}  {took:6.2f} s", flush=True)
    engine.whole = whole
    on_loop(engine.llm.collective_rpc("echo_hear"))
    return {name: rounds * n_transcripts / seconds[name] for name, (_, n_transcripts) in sides.items()}


def profile(engine: VllmEngine, folder: Path, n_prompts: int) -> None:
    """Profile two more runs of the engine's side: both processes by function, then the GPU by kernel."""
    folder.mkdir(parents=True, exist_ok=True)
    on_loop = engine._call  # pyright: ignore[reportPrivateUsage]
    for what, seed in (("python", 130_000), ("gpu", 140_000)):
        on_loop(engine.llm.collective_rpc("echo_profile", args=(str(folder), what)))
        work = by_engine(engine, range(seed, seed + n_prompts))
        watch = Watch()
        began = time.perf_counter()
        asyncio.run(work)
        print(f"profile of {what}: {time.perf_counter() - began:.2f} s", flush=True)
        looks = watch.stop()
        (folder / f"front-{what}.txt").write_text("\n".join(shares("echo-vllm", looks) + shares("MainThread", looks)))
        on_loop(engine.llm.collective_rpc("echo_profile_end"))


def main() -> None:
    """Measure and print."""
    given = parse()
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(given.runner - 1)
    began = time.perf_counter()
    engine = VllmEngine.load(
        given.folder, max_positions=4096, max_rows=given.rows, workers=given.workers,
        **({"load_format": "dummy", "worker_extension_cls": "vllm_profile.Profiled"} | json.loads(given.options)),
    )  # fmt: skip
    print(f"loaded in {time.perf_counter() - began:.0f} s", flush=True)
    n = given.prompts
    engine._call(by_waves(engine, range(1, 2)))  # pyright: ignore[reportPrivateUsage]
    asyncio.run(by_engine(engine, range(1_000, 1_000 + n)))  # warm: as many rows as are measured
    sent = engine.clips_sent
    asyncio.run(by_engine(engine, range(2_000, 2_000 + n)))
    sent = engine.clips_sent - sent
    found = measure(engine, sides_of(engine, n, given), given.rounds)
    if given.profile:
        profile(engine, given.profile, n)
    print(f"clips sent by the engine: {sent} (of {n * 2} different ones)")
    ratio = found["engine"] / found["waves"] if "waves" in found else None
    share = found["engine"] / found["text"] if "text" in found else None
    result = {
        "benchmark": "vllm_engine", "transcripts_per_s": found, "ratio": ratio, "share_of_text": share, "whole": engine.whole,
        "targets": {"transcripts_per_s": TARGET_PER_S, "ratio": TARGET_RATIO},
        "target_met": found["engine"] >= TARGET_PER_S and (ratio or 0) >= TARGET_RATIO, "clips_sent": sent,
        "settings": {name: str(value) for name, value in vars(given).items()},
    }  # fmt: skip
    engine.close()
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sides", nargs="+", default=[side for side in SIDES if side != "unseeded"], choices=SIDES)
    parser.add_argument("--rounds", type=int, default=2, help="how often each side is measured; the mean is told")
    parser.add_argument("--no-waves", action="store_true", help="leave the slow side out")
    parser.add_argument("--runner", type=int, default=2, choices=(1, 2), help="which of vLLM's model runners")
    parser.add_argument("--dissect", action="store_true", help="the ceiling's workload with each thing that listening asks for")
    parser.add_argument("--profile", type=Path, help="folder for profiles of the engine's side, made in two runs more")
    parser.add_argument("--options", default="{}", help="more of vLLM's arguments, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
