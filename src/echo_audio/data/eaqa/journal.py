"""What became of each row: one line of `journal.jsonl`, written when it is known. All else of a run follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from echo_audio.data.eaqa.calls import JsonLines
from echo_audio.data.rows import Row
from echo_audio.errors import DataError


class Route(StrEnum):
    """Where a row goes."""

    SFT = "sft"
    """Question and reasoning are valid."""
    RL = "rl"
    """Only the question is; the reasoning is left out."""
    DROPPED = "dropped"
    """A question was asked and is not valid."""
    SKIPPED = "skipped"
    """No question was asked: the recording or its labels cannot be used."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row.

    Args:
        id: unique in the run: source, recording, number of the question.
        place: the order of rows: number of the recording, number of the question.
        route: where it goes.
        reasons: why not further: why it is dropped or skipped, or why its reasoning is left out.
        kind: of question.
        row: of SFT and RL rows; of dropped ones where there was one.
        notes: what was refused on the way, by stage.
    """

    id: str
    place: tuple[int, int]
    route: Route
    reasons: tuple[str, ...] = ()
    kind: str = ""
    row: Row | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a line."""
        return {
            "id": self.id,
            "place": list(self.place),
            "route": str(self.route),
            "reasons": list(self.reasons),
            "kind": self.kind,
            "row": None if self.row is None else self.row.model_dump(mode="json"),
            "notes": dict(self.notes),
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Outcome:
        """From a line.

        Raises:
            DataError: the line was not written by this version, or changed.
        """
        try:
            first, second = line["place"]
            row = None if line["row"] is None else Row.model_validate(line["row"])
            route, reasons = Route(line["route"]), tuple(map(str, line["reasons"]))
            return cls(str(line["id"]), (int(first), int(second)), route, reasons, str(line["kind"]), row, dict(line["notes"]))
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise DataError(f"a line of journal.jsonl is damaged ({error}); delete that line and start the run again") from None


class Journal:
    """The outcomes of a run.

    Args:
        path: `journal.jsonl` of the run.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)
        self.outcomes: dict[str, Outcome] = {}
        for line in self._lines.lines():
            outcome = Outcome.from_json(line)
            self.outcomes.setdefault(outcome.id, outcome)

    def __contains__(self, row_id: str) -> bool:
        """Whether it is known what became of a row."""
        return row_id in self.outcomes

    def add(self, outcome: Outcome) -> None:
        """Write an outcome; one that is known is left as it is."""
        if outcome.id not in self.outcomes:
            self._lines.append(outcome.to_json())
            self.outcomes[outcome.id] = outcome

    def in_order(self) -> list[Outcome]:
        """All outcomes in the order of the source, however they came about."""
        return sorted(self.outcomes.values(), key=lambda o: (o.place, o.id))

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()
