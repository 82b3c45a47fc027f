"""What an evaluation works on and what it leaves: items in, samples out. A sample is a transcript with its verdict."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from pydantic import TypeAdapter

from echo_audio.audio import Recording, Segment
from echo_audio.data.rows import Row
from echo_audio.errors import DataError
from echo_audio.scoring.answers import OfficialRule, Verdict
from echo_audio.transcript import Stop, Transcript


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its audio.

    Args:
        row: question, choices, truth, known events.
        recording: what it is about.
        other: another recording, where swapped listening wants one.
        groups: the benchmark's own groupings -> the question's group.
        audio: facts about the file: path, rate, channels.
        rule: how the benchmark's own script scores.
    """

    row: Row
    recording: Recording
    other: Recording | None = None
    groups: dict[str, str] = field(default_factory=dict)
    audio: dict[str, Any] = field(default_factory=dict)
    rule: OfficialRule = OfficialRule.WORDS


class Items(Protocol):
    """The questions of a benchmark, made when they are asked for, so that memory stays bounded."""

    def __len__(self) -> int:
        """Number of questions."""
        ...

    def key(self, index: int) -> str:
        """Name of question `index`, without touching its audio."""
        ...

    def groups(self, index: int) -> dict[str, str]:
        """The benchmark's own groupings -> the group of question `index`."""
        ...

    def item(self, index: int, with_other: bool = False) -> Item:
        """Question `index`, with another recording if that is wanted. Called from another thread.

        Raises:
            AudioError: its recording cannot be used.
        """
        ...


class Status(StrEnum):
    """What came of asking a question."""

    OK = "ok"
    MISSING_AUDIO = "missing_audio"
    BAD_AUDIO = "bad_audio"
    """There, but of no use: damaged, too long for the model, outside the folder."""
    BAD_QUESTION = "bad_question"
    """Its record in the question file is no question: a field is missing, or of another type."""
    ENGINE_ERROR = "engine_error"


Ask = tuple[str, int, int]
"""Key of a question, number of its repeat, turn of its choices."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a run: the verdict on one transcript, and what is counted.

    Args:
        key: names the question.
        kind: kind of question.
        duration_s: of the recording.
        verdict: of the strict rule.
        given: the text taken as the answer.
        well_formed: whether the response follows the whole grammar and ended itself.
        iou: mean over the row's evidence of the best intersection over union with a cited segment; None without
            evidence or without citing anything being asked for.
        n_heard: segments heard again.
        heard_s: seconds heard again.
        n_words: words of the reasoning.
        elapsed_s: from the first request to the end, waiting for the batch included.
        transcript: the whole transcript, as JSON values; empty where none was begun.
        status: what came of it; all but OK count as wrong, and are counted apart.
        detail: why it failed.
        official: verdict of the official rule on the extracted choice; None where the truth is not known.
        step: the `Step` of the extraction.
        choice: the extracted choice, verbatim.
        answer: the truth, None where it is not known.
        groups: the benchmark's own groupings -> the question's group.
        index: place in the benchmark.
        repeat, rotation: of a question asked several times, and with its choices turned by so many places.
        config: hash of all settings that shape an answer.
        n_choices: choices, equal ones counted once.
        n_shown: choices as shown.
        audio: path, rate_hz and n_channels of the file.
        wave: loudness of the recording over time, one character a bin (`loudness_of`).
        began_s: seconds since 1970 at which it was first asked.
        n_tokens: tokens the model sampled.
    """

    key: str
    kind: str
    duration_s: float
    verdict: Verdict
    given: str | None
    well_formed: bool
    iou: float | None
    n_heard: int
    heard_s: float
    n_words: int
    elapsed_s: float
    transcript: dict[str, Any]
    status: Status = Status.OK
    detail: str = ""
    official: bool | None = None
    step: str = ""
    choice: str | None = None
    answer: str | None = None
    groups: dict[str, str] = field(default_factory=dict)
    index: int = -1
    repeat: int = 0
    rotation: int = 0
    config: str = ""
    n_choices: int = 0
    n_shown: int = 0
    audio: dict[str, Any] = field(default_factory=dict)
    wave: str = ""
    began_s: float = 0.0
    n_tokens: int = 0

    @property
    def ask(self) -> Ask:
        """What makes two lines the same question, asked the same way."""
        return (self.key, self.repeat, self.rotation)

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.verdict is Verdict.CORRECT

    @property
    def failed(self) -> bool:
        """Whether the engine or the audio failed, which says nothing of the model: such a question is asked again."""
        return self.status is not Status.OK or self.transcript.get("stop") == Stop.ENGINE_ERROR.value

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Sample:
        """Read a line back.

        Raises:
            DataError: not a line of a run.
        """
        try:
            sample = _adapter().validate_json(line)
        except ValueError as error:
            said = " ".join(str(error).split())[:300]
            raise DataError(f"not a line of an evaluation run ({said}); delete the damaged line") from None
        if not math.isfinite(sample.duration_s + sample.heard_s + sample.elapsed_s + sample.began_s):
            raise DataError("not a line of an evaluation run (a time is not finite); delete the damaged line")
        return sample


@functools.cache
def _adapter() -> TypeAdapter[Sample]:
    return TypeAdapter(Sample)


def evidence_iou(row: Row, transcript: Transcript) -> float | None:
    """How well the cited segments cover the events the answer rests on: mean over events of the best IoU, 0 to 1."""
    if not row.evidence:
        return None
    cited = transcript.cited
    events = [Segment(e.start_s, e.end_s) for e in row.evidence]
    return sum(max((event.iou(segment) for segment in cited), default=0.0) for event in events) / len(events)


LOUDNESS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Digits of `loudness_of`, from silence to the loudest bin."""


def loudness_of(recording: Recording, n_bins: int = 160) -> str:
    """Peak level over time, one character of `LOUDNESS` a bin, relative to the loudest: a waveform small enough to keep."""
    edges = np.linspace(0, recording.n_samples, min(n_bins, recording.n_samples) + 1).astype(int)
    peaks = np.maximum.reduceat(np.abs(recording.samples), edges[:-1])
    top = float(peaks.max())
    scaled = peaks / top * (len(LOUDNESS) - 1) if top > 0 else peaks
    return "".join(LOUDNESS[round(float(level))] for level in scaled)
