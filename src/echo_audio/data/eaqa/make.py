"""From one recording to the outcomes of its rows: annotate, write, check, judge, guess, route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from echo_audio.audio import Recording, encode_flac, load
from echo_audio.data.eaqa.annotate import Annotator
from echo_audio.data.eaqa.checks import Written, evidence_of, question_problems
from echo_audio.data.eaqa.facts import Facts
from echo_audio.data.eaqa.guess import Guesser, right_without_audio
from echo_audio.data.eaqa.journal import Journal, Outcome, Route
from echo_audio.data.eaqa.judge import Judge, Verdict
from echo_audio.data.eaqa.plan import Mix, seed_of
from echo_audio.data.eaqa.settings import EaqaSettings
from echo_audio.data.eaqa.similar import NearDuplicates
from echo_audio.data.eaqa.write import Draft, Writer
from echo_audio.data.rows import Row
from echo_audio.data.sources.base import Labelled, usable_events
from echo_audio.data.store import write_audio
from echo_audio.errors import AudioError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Tools:
    """Everybody who takes part in a run.

    Args:
        known: questions of tests.
    """

    mix: Mix
    writer: Writer
    judge: Judge
    annotator: Annotator | None = None
    guesser: Guesser | None = None
    known: NearDuplicates | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A recording and what is to be asked about it.

    Args:
        source: its name in the settings.
        place: number of the recording in the run.
        kinds: of question, one for each row.
    """

    source: str
    place: int
    item: Labelled
    kinds: tuple[str, ...]

    def row_id(self, number: int) -> str:
        """Of its row `number`."""
        return f"{self.source}/{self.item.id}/{number}"


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording that was opened."""

    recording: Recording
    facts: Facts
    notes: dict[str, Any]


class Maker:
    """Makes rows.

    Args:
        folder: of the run.
        settings, tools: of the run.
        journal: rows in it are not made again.
    """

    def __init__(self, folder: Path, settings: EaqaSettings, tools: Tools, journal: Journal) -> None:
        self.folder, self.settings, self.tools, self.journal = folder, settings, tools, journal

    async def outcomes(self, task: Task) -> AsyncIterator[Outcome]:
        """What becomes of each row of a recording that is not in the journal yet.

        Raises:
            EngineError: an endpoint or engine failed; what was not yielded can be made another time.
        """
        wanted = [i for i in range(max(1, len(task.kinds))) if task.row_id(i) not in self.journal]
        if not wanted:
            return
        try:
            recording = await asyncio.to_thread(self._opened, task.item)
        except (AudioError, MissingExtraError) as error:
            for number in wanted:
                yield self._skipped(task, number, f"recording cannot be used: {error}")
            return
        heard = await self._heard(task.item, recording)
        for number in wanted:
            if task.item.asked is not None:
                yield await self._asked(task, number, heard)
            else:
                yield await self._made(task, number, heard)

    def _opened(self, item: Labelled) -> Recording:
        longest_s = self.settings.longest_s
        recording = item.load()
        if recording.duration_s > longest_s:
            raise AudioError(f"lasts {recording.duration_s:.1f} s, longer than longest_s = {longest_s:g}")
        recording = load(encode_flac(recording), allow_silent=True)  # what is stored has the id of what was heard
        write_audio(self.folder, recording)
        return recording

    async def _heard(self, item: Labelled, recording: Recording) -> Heard:
        events, wrong = usable_events(item.events, recording.duration_s)
        notes: dict[str, Any] = {"events": wrong} if wrong else {}
        texts = dict(item.texts)
        if self.tools.annotator is not None:
            more, refused = await self.tools.annotator.texts(recording, events, item.exhaustive)
            texts |= more
            notes |= {"texts": refused} if refused else {}
        return Heard(recording, Facts(recording.duration_s, events, texts), notes)

    def _skipped(self, task: Task, number: int, reason: str) -> Outcome:
        return Outcome(task.row_id(number), (task.place, number), Route.SKIPPED, (reason,))

    async def _made(self, task: Task, number: int, heard: Heard) -> Outcome:
        """A row that is written."""
        row_id, n_events = task.row_id(number), len(heard.facts.events)
        kinds = [task.kinds[number]] if number < len(task.kinds) else []
        kinds += self.tools.mix.others(kinds[0] if kinds else "", n_events, seed_of(self.settings.seed, row_id, "kind"))
        possible = [kind for kind in kinds if self.tools.mix.kinds[kind].events <= n_events]
        if not possible:
            return self._skipped(task, number, f"too few events for any kind of question: {n_events}")
        draft = await self.tools.writer.draft(possible[0], heard.facts, row_id)
        return await self._routed(task, number, heard, possible[0], draft)

    async def _asked(self, task: Task, number: int, heard: Heard) -> Outcome:
        """A row whose question the source asks itself."""
        asked = task.item.asked
        assert asked is not None
        written = Written(asked.question, asked.choices, asked.answer)
        wrong = tuple(question_problems(written))
        draft = Draft(None if wrong else written, wrong or ("the source gives no reasoning",), wrong)
        return await self._routed(task, number, heard, asked.kind, draft)

    async def _routed(self, task: Task, number: int, heard: Heard, kind: str, draft: Draft) -> Outcome:
        notes = heard.notes | ({"refused": list(draft.refused)} if draft.refused else {})
        base = Outcome(task.row_id(number), (task.place, number), Route.DROPPED, draft.problems, kind, notes=notes)
        if draft.written is None:
            return base
        row = self._row(task, number, heard, kind, draft.written)
        known = self.tools.known
        if known is not None and known.holds(" ".join([row.question, *row.choices])):
            return replace(base, reasons=("asks what a test asks",), row=row)
        judged = heard.facts.events or heard.facts.texts
        verdict = await self.tools.judge.verdict(heard.facts, draft.written, row.id) if judged else None
        if judged and verdict is None:
            return replace(base, reasons=("the judge gave no verdict",), row=row)
        if verdict is not None:
            row = _with(row, {"judge": _said(verdict)})
            if not verdict.qa_valid:
                return replace(base, reasons=("the judge refuses the question",), row=row)
        row = await self._guessed(row)
        least = self.settings.guess.least_contribution
        if row.audio_contribution is not None and row.audio_contribution < least:
            return replace(base, reasons=("is answered without the audio",), row=row)
        if row.reasoning is not None and verdict is not None and verdict.reasoning_valid:
            return replace(base, route=Route.SFT, reasons=(), row=row)
        reasons = draft.problems or ("the judge refuses the reasoning",)
        return replace(base, route=Route.RL, reasons=reasons, row=row.model_copy(update={"reasoning": None, "evidence": ()}))

    async def _guessed(self, row: Row) -> Row:
        guesser, samples = self.tools.guesser, self.settings.guess.samples
        if guesser is None or not row.choices:
            return row
        n_right = await right_without_audio(guesser, row, samples, self.settings.seed)
        told = {"guess": {"model": guesser.name, "samples": samples, "right": n_right}}
        return _with(row.model_copy(update={"audio_contribution": 1 - n_right / samples}), told)

    def _row(self, task: Task, number: int, heard: Heard, kind: str, written: Written) -> Row:
        tools, facts = self.tools, heard.facts
        models = {"write": tools.writer.endpoint.settings.model, "judge": tools.judge.endpoint.settings.model}
        if tools.annotator is not None:
            models["annotate"] = tools.annotator.describer.name
        origin = {"source": task.source, "id": task.item.id, **task.item.origin}
        return Row(
            id=task.row_id(number),
            kind=kind,
            question=written.question,
            choices=written.choices,
            answer=written.answer,
            audio_id=heard.recording.id,
            duration_s=heard.recording.duration_s,
            reasoning=written.reasoning,
            events=facts.events,
            evidence=evidence_of(written.reasoning or "", facts.events),
            provenance={
                "origin": origin,
                "models": models,
                "prompts": dict(tools.writer.prompts.hashes),
                "seed": self.settings.seed,
                "texts": dict(facts.texts),
            },
        )


def _with(row: Row, more: dict[str, Any]) -> Row:
    return row.model_copy(update={"provenance": row.provenance | more})


def _said(verdict: Verdict) -> dict[str, Any]:
    return {
        "qa_valid": verdict.qa_valid,
        "qa_reason": verdict.qa_reason,
        "reasoning_valid": verdict.reasoning_valid,
        "reasoning_reason": verdict.reasoning_reason,
    }
