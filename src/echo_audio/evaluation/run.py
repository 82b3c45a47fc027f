"""An evaluation run: many transcripts in flight, one line of JSON each, resumable at the line."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from echo_audio.data.transcripts import question_of
from echo_audio.encoding import PromptingFamily, TranscriptEncoder
from echo_audio.errors import EngineError
from echo_audio.evaluation.base import Item, Items, Sample, evidence_iou
from echo_audio.listen import Engine, Limits, Sampling, listen
from echo_audio.scoring.answers import strict_score
from echo_audio.transcript import Mode, Played, Stop, Transcript


@dataclass(frozen=True, slots=True)
class How:
    """How the questions are asked.

    Args:
        mode: how the model listens.
        played: what is played for the segments it asks for.
        limits, sampling: of the loop.
    """

    mode: Mode = Mode.INTERLEAVED
    played: Played = Played.CROP
    limits: Limits = field(default_factory=lambda: Limits(max_new_tokens=512))
    sampling: Sampling = field(default_factory=Sampling)


async def evaluate(
    items: Items,
    engine: Engine,
    family: PromptingFamily,
    how: How,
    *,
    out: Path | None = None,
    in_flight: int = 64,
    max_errors: int = 10,
    on_sample: Callable[[Sample], None] | None = None,
) -> list[Sample]:
    """Ask every question that is not answered yet.

    Args:
        out: samples are appended here, flushed one by one; those already there are kept and not asked again,
            unless the engine had failed: the newest line of a question counts.
        in_flight: transcripts at once.
        max_errors: engine failures after which the run stops.
        on_sample: told of each new sample.

    Returns:
        All samples, in the order of the items.

    Raises:
        EngineError: more than `max_errors` transcripts ended in an engine failure.
    """
    done = {key: s for key, s in read_samples(out).items() if not s.failed} if out is not None else {}
    gate, errors = asyncio.Semaphore(in_flight), 0
    samples: dict[int, Sample] = {}

    async def one(index: int) -> None:
        nonlocal errors
        async with gate:
            item = items.item(index, with_other=how.played is Played.SWAPPED)
            if item.row.id in done:
                samples[index] = done[item.row.id]
                return
            began = time.monotonic()
            transcript = await ask(item, engine, family, how)
            if transcript.stop is Stop.ENGINE_ERROR:
                errors += 1
                if errors > max_errors:
                    raise EngineError(f"{errors} transcripts failed; the last: {transcript.notes[-1].detail}")
            sample = judge(item, transcript, time.monotonic() - began)
            samples[index] = sample
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(sample.to_line() + "\n")
            if on_sample is not None:
                on_sample(sample)

    async with asyncio.TaskGroup() as group:
        for index in range(len(items)):
            group.create_task(one(index))
    return [samples[index] for index in range(len(items))]


async def ask(item: Item, engine: Engine, family: PromptingFamily, how: How) -> Transcript:
    """One transcript."""
    question = question_of(item.row)
    opened = Transcript.open(question, family.prompt(question, how.mode), how.mode, played=how.played)
    encoder = TranscriptEncoder(family, item.recording, item.other)
    return await listen(opened, engine, encoder, how.limits, how.sampling)


def judge(item: Item, transcript: Transcript, elapsed_s: float) -> Sample:
    """The verdict on a transcript."""
    row = item.row
    score = strict_score(transcript.response, row.answer, row.choices)
    return Sample(
        key=row.id,
        kind=row.kind,
        duration_s=row.duration_s,
        verdict=score.verdict,
        given=score.given,
        well_formed=transcript.well_formed,
        iou=evidence_iou(row, transcript) if transcript.mode is not Mode.CONDITIONED else None,
        n_heard=len(transcript.asked),
        heard_s=round(transcript.heard_s, 3),
        n_words=len(transcript.response.split()),
        elapsed_s=round(elapsed_s, 3),
        transcript=json.loads(transcript.to_json()),
    )


def read_samples(path: Path) -> dict[str, Sample]:
    """The samples of a run by key. A torn last line (the run was killed while writing it) is cut off."""
    if not path.is_file():
        return {}
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        path.write_bytes(whole)
    samples = (Sample.from_line(line) for line in whole.decode("utf-8").split("\n") if line)
    return {sample.key: sample for sample in samples}
