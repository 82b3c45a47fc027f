"""What an evaluation works on and what it leaves: items in, samples out. A sample is a transcript with its verdict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from echo_audio.audio import Recording, Segment
from echo_audio.data.rows import Row
from echo_audio.errors import DataError
from echo_audio.scoring.answers import Verdict
from echo_audio.transcript import Stop, Transcript


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its audio.

    Args:
        row: question, choices, truth, known events.
        recording: what it is about.
        other: another recording, where swapped listening wants one.
    """

    row: Row
    recording: Recording
    other: Recording | None = None


class Items(Protocol):
    """The questions of a benchmark, made when they are asked for, so that memory stays bounded."""

    def __len__(self) -> int:
        """Number of questions."""
        ...

    def item(self, index: int, with_other: bool = False) -> Item:
        """Question `index`, with another recording if that is wanted."""
        ...


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
        transcript: the whole transcript, as JSON values.
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

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.verdict is Verdict.CORRECT

    @property
    def failed(self) -> bool:
        """Whether the engine failed, which says nothing of the model."""
        return self.transcript.get("stop") == Stop.ENGINE_ERROR.value

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
            values = json.loads(line)
            return cls(**(values | {"verdict": Verdict(values["verdict"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"not a line of an evaluation run ({error}); delete the damaged line") from None


def evidence_iou(row: Row, transcript: Transcript) -> float | None:
    """How well the cited segments cover the events the answer rests on: mean over events of the best IoU, 0 to 1."""
    if not row.evidence:
        return None
    cited = transcript.cited
    events = [Segment(e.start_s, e.end_s) for e in row.evidence]
    return sum(max((event.iou(segment) for segment in cited), default=0.0) for event in events) / len(events)
