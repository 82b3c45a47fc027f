"""An evaluation run: many transcripts in flight, one line of JSON each, resumable at the line.

Audio is decoded in threads, ahead of the engine, so that its batch does not wait for a disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from echo_audio.audio import Recording
from echo_audio.data.transcripts import question_of
from echo_audio.encoding import PromptingFamily, TranscriptEncoder
from echo_audio.errors import (
    AudioError,
    DataError,
    EngineError,
    MissingAudioError,
    MissingExtraError,
    QuestionError,
    SegmentError,
    TranscriptError,
)
from echo_audio.evaluation.base import Ask, Item, Items, Sample, Status, evidence_iou, loudness_of
from echo_audio.evaluation.files import appending, newest, read_lines
from echo_audio.evaluation.speed import Slots
from echo_audio.listen import Engine, Limits, Sampling, listen
from echo_audio.scoring.answers import OfficialRule, Verdict, strict_score
from echo_audio.scoring.extraction import Extraction, extract
from echo_audio.transcript import Mode, Played, Stop, Transcript


class Hear(StrEnum):
    """What stands in place of the recording: the truth, or a baseline."""

    RECORDING = "recording"
    NOTHING = "nothing"
    """No audio at all, nor where a segment is asked for."""
    SILENCE = "silence"
    """Digital silence as long as the recording."""


@dataclass(frozen=True, slots=True)
class How:
    """How the questions are asked.

    Args:
        mode: how the model listens.
        played: what is played for the segments it asks for.
        limits, sampling: of the loop; a repeat has the seed of its question and number, drawn from the one here.
        hear: what stands in place of the recording.
        repeats: how often each question is asked.
        rotations: turns of the choices that are asked; 0 is all of them (as many as there are choices).
    """

    mode: Mode = Mode.INTERLEAVED
    played: Played = Played.CROP
    limits: Limits = field(default_factory=lambda: Limits(max_new_tokens=512))
    sampling: Sampling = field(default_factory=Sampling)
    hear: Hear = Hear.RECORDING
    repeats: int = 1
    rotations: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """Which part of a run this process does, and how hard it tries.

    Args:
        shard: number of this part from 1, and number of parts; a question belongs to one by its place.
        in_flight: transcripts at once, the slots of the batch.
        ahead: recordings decoded before they are needed.
        n_decoders: threads that decode.
        max_errors: questions that could not be asked, after which the run stops.
        retries: how often an engine failure is tried again at once.
        config: hash of the settings, kept on each line.
    """

    shard: tuple[int, int] = (1, 1)
    in_flight: int = 64
    ahead: int = 8
    n_decoders: int = 1
    max_errors: int = 10
    retries: int = 0
    config: str = ""


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
    work: Work | None = None,
    slots: Slots | None = None,
    elsewhere: Sequence[Sample] = (),
) -> list[Sample]:
    """Ask every question that is not answered yet.

    Args:
        out: samples are appended here, flushed one by one; those already there are kept and not asked again,
            unless the engine or the audio had failed: the newest line of a question counts.
        in_flight: transcripts at once.
        max_errors: questions that could not be asked, after which the run stops.
        on_sample: told of each new sample.
        work: shard, retries and threads; overrides the two before it.
        slots: told how many transcripts are in flight.
        elsewhere: samples that other processes left in other files: those questions are not asked again either.

    Returns:
        All samples, in the order of the items, repeats and turns of the choices.

    Raises:
        EngineError: more than `max_errors` questions could not be asked.
        DataError: another process writes to `out`.
    """
    work = work or Work(in_flight=in_flight, max_errors=max_errors)
    asks = [(index, repeat) for index in range(work.shard[0] - 1, len(items), work.shard[1]) for repeat in range(how.repeats)]
    with appending(out) as keep, ThreadPoolExecutor(work.n_decoders, "echo-decode") as pool:
        there = [*elsewhere, *(read_lines(out) if out is not None else ())]
        known = {ask: s for ask, s in newest(there).items() if not s.failed}
        run = _Run(items, engine, family, how, work, known, keep, on_sample, slots or Slots(work.in_flight), pool)
        try:
            async with asyncio.TaskGroup() as group:
                queue = iter(asks)
                for _ in range(min(work.in_flight + work.ahead, len(asks))):
                    group.create_task(run.work_off(queue))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return [run.samples[ask] for ask in sorted(run.samples, key=lambda ask: (run.places[ask[0]], *ask[1:]))]


class _Run:
    """What stays the same while a run goes on, and what has come out of it."""

    def __init__(
        self,
        items: Items,
        engine: Engine,
        family: PromptingFamily,
        how: How,
        work: Work,
        known: dict[Ask, Sample],
        keep: Callable[[Sample], None],
        on_sample: Callable[[Sample], None] | None,
        slots: Slots,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.items, self.engine, self.family, self.how, self.work = items, engine, family, how, work
        self.known, self.keep, self.on_sample, self.slots, self.pool = known, keep, on_sample, slots, pool
        self.gate = asyncio.Semaphore(work.in_flight)
        self.samples: dict[Ask, Sample] = {}
        self.places: dict[str, int] = {}
        self.n_errors = 0

    async def work_off(self, queue: Iterator[tuple[int, int]]) -> None:
        """Take questions until there are none; while one waits for a slot its recording is decoded already."""
        for index, repeat in queue:
            await self.one(index, repeat)

    async def one(self, index: int, repeat: int) -> None:
        key = self.items.key(index)
        self.places[key] = index
        if self._is_known(key, repeat):
            return
        try:
            loop = asyncio.get_running_loop()
            swapped = self.how.played is Played.SWAPPED
            item = await loop.run_in_executor(self.pool, self.items.item, index, swapped)
        except (AudioError, DataError, MissingExtraError) as error:
            self._add(replace(_unheard(key, error), groups=self.items.groups(index)), index, repeat, 0)
            return
        for rotation in range(self.how.rotations or len(item.row.choices) or 1):
            if (key, repeat, rotation) in self.known:
                self.samples[key, repeat, rotation] = self.known[key, repeat, rotation]
                continue
            async with self.gate:
                self._add(await self.ask(item, repeat, rotation), index, repeat, rotation)

    def _is_known(self, key: str, repeat: int) -> bool:
        """Whether every turn of a question is answered; then its audio is not touched."""
        first = self.known.get((key, repeat, 0))
        n = self.how.rotations or (first.n_shown if first else 0)
        asks: list[Ask] = [(key, repeat, rotation) for rotation in range(n)]
        if not asks or not all(ask in self.known for ask in asks):
            return False
        self.samples.update({ask: self.known[ask] for ask in asks})
        return True

    async def ask(self, item: Item, repeat: int, rotation: int) -> Sample:
        """One question, tried again when the engine fails."""
        began, began_s = time.monotonic(), time.time()
        turned = _turned(item, rotation)
        how = replace(self.how, sampling=_seeded(self.how.sampling, item.row.id, repeat)) if repeat else self.how
        with self.slots.taken():
            for left in range(self.work.retries, -1, -1):
                try:
                    transcript = await ask(turned, self.engine, self.family, how)
                except (TranscriptError, SegmentError) as error:
                    return replace(_unheard(item.row.id, error), groups=item.groups, audio=item.audio)
                if transcript.stop is not Stop.ENGINE_ERROR or not left:
                    break
        sample = judge(turned, transcript, time.monotonic() - began)
        return replace(sample, began_s=round(began_s, 3))

    def _add(self, sample: Sample, index: int, repeat: int, rotation: int) -> None:
        sample = replace(sample, index=index, repeat=repeat, rotation=rotation, config=self.work.config)
        self.n_errors += sample.failed
        if self.n_errors > self.work.max_errors:  # what comes in after it is dropped too, and asked again
            raise EngineError(
                f"{self.n_errors} questions could not be asked, more than --max-errors {self.work.max_errors}; the last, "
                f"{sample.key}: {sample.detail}"
            )
        self.samples[sample.ask] = sample
        self.keep(sample)
        if self.on_sample is not None:
            self.on_sample(sample)


def _seeded(sampling: Sampling, key: str, repeat: int) -> Sampling:
    """Another seed for each question and repeat, the same in every run; the first repeat has the seed as given."""
    digest = hashlib.blake2b(f"{sampling.seed} {key} {repeat}".encode(), digest_size=7).digest()
    return replace(sampling, seed=int.from_bytes(digest, "big"))


def _turned(item: Item, rotation: int) -> Item:
    """The same question with its choices turned by so many places."""
    choices = item.row.choices
    row = item.row.model_copy(update={"choices": (*choices[rotation:], *choices[:rotation])}) if rotation else item.row
    return replace(item, row=row)


def heard_recording(item: Item, hear: Hear) -> Recording:
    """What is played as an item's recording: itself, or silence of its length."""
    return Recording(np.zeros(item.recording.n_samples, np.float32)) if hear is Hear.SILENCE else item.recording


async def ask(item: Item, engine: Engine, family: PromptingFamily, how: How) -> Transcript:
    """One transcript.

    Raises:
        TranscriptError: the model cannot hear a recording of this length.
    """
    question = question_of(item.row)
    recording, other, played = heard_recording(item, how.hear), item.other, how.played
    question = replace(question, recording_id=recording.id)
    if how.hear is Hear.NOTHING:
        played = Played.WITHHELD
    if not question.answer:
        question = replace(question, answer=None)
    prompt = family.prompt(question, how.mode)
    opened = Transcript.open(question, prompt, how.mode, played=played, with_audio=how.hear is not Hear.NOTHING)
    return await listen(opened, engine, TranscriptEncoder(family, recording, other), how.limits, how.sampling)


def judge(item: Item, transcript: Transcript, elapsed_s: float) -> Sample:
    """The verdict on a transcript, by both rules."""
    row = item.row
    failed = transcript.stop is Stop.ENGINE_ERROR
    sample = Sample(
        key=row.id,
        kind=row.kind,
        duration_s=row.duration_s,
        verdict=Verdict.UNPARSED,
        given=None,
        well_formed=transcript.well_formed,
        iou=evidence_iou(row, transcript) if transcript.mode is not Mode.CONDITIONED else None,
        n_heard=len(transcript.asked),
        heard_s=round(transcript.heard_s, 3),
        n_words=len(transcript.response.split()),
        elapsed_s=round(elapsed_s, 3),
        transcript=json.loads(transcript.to_json()),
        status=Status.ENGINE_ERROR if failed else Status.OK,
        detail=transcript.notes[-1].detail if failed and transcript.notes else "",
        answer=row.answer or None,
        groups=item.groups,
        n_choices=len(set(row.choices)),
        n_shown=len(row.choices),
        audio=item.audio,
        wave=loudness_of(item.recording),
        n_tokens=transcript.n_sampled,
    )
    return rejudged(sample, transcript.response, row.choices, rule=item.rule)


Extractor = Callable[[str, Sequence[str]], Extraction]


def rejudged(
    sample: Sample,
    response: str,
    choices: Sequence[str],
    extractor: Extractor = extract,
    rule: OfficialRule = OfficialRule.WORDS,
) -> Sample:
    """The sample with extraction and verdicts made anew from the response."""
    read = extractor(response, choices)
    strict = strict_score(response, sample.answer or "", choices)
    truth = sample.answer
    return replace(
        sample,
        verdict=strict.verdict,
        given=read.given,
        step=str(read.step),
        choice=read.choice,
        official=None if truth is None else rule.match(read.choice or "", truth, choices or (truth,)),
    )


def _unheard(key: str, error: Exception) -> Sample:
    """The sample of a question that could not be asked."""
    kinds = ((MissingAudioError, Status.MISSING_AUDIO), (QuestionError, Status.BAD_QUESTION))
    status = next((status for kind, status in kinds if isinstance(error, kind)), Status.BAD_AUDIO)
    return Sample(
        key=key, kind="", duration_s=0.0, verdict=Verdict.UNPARSED, given=None, well_formed=False, iou=None, n_heard=0,
        heard_s=0.0, n_words=0, elapsed_s=0.0, transcript={}, status=status, detail=str(error), official=False,
        step="no_answer", began_s=round(time.time(), 3),
    )  # fmt: skip


def read_samples(path: Path) -> dict[str, Sample]:
    """The samples of one file by key, the newest of each. A torn last line is not there."""
    return {sample.key: sample for sample in newest(read_lines(path)).values()}
