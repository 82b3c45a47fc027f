"""MMSU: 5,000 spoken-language questions with four choices each, dingdongwang/MMSU (HF ddwang2000/MMSU).

Its own script scores letters and drops what it cannot read from the denominator. The submission holds the letter of the
choice under `response`, or nothing, which that script counts as wrong: so its number over that file is the official one here.

Field names are those that its mmsu_inference.py writes (commit 217d1d3); that every line of it becomes a question here was
not seen on the data themselves. Choices that are not there are null, in any of the four places; several public loaders turn
them into texts first, for some are numbers. Paths begin with a slash ("/audio/NAME.wav") and mean the data folder.
"""

from __future__ import annotations

from typing import Any

from echo_audio.evaluation.benchmark import Benchmark, Fields, Record, blank_is_none, text_of
from echo_audio.scoring.answers import OfficialRule

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


def parse(fields: Fields) -> Record:
    """A record: choices in four fields, the truth as a choice's text or as its letter."""
    choices = tuple(_text(fields[name]) for name in _CHOICES if fields.get(name) not in (None, ""))
    answer = blank_is_none(fields.get("answer_gt"))
    answer = None if answer is None else _text(answer)
    if answer is not None and answer not in choices and answer.strip().upper() in tuple("ABCD"):
        answer = blank_is_none(_text(fields[f"choice_{answer.strip().lower()}"]))
    return Record(
        key=_text(fields["id"]) if "id" in fields else fields["audio_path"],
        audio=fields["audio_path"].lstrip("/"),
        question=fields["question"],
        choices=choices,
        answer=answer,
        groups={name: text_of(fields.get(name)) for name in ("category", "sub-category", "task_name")},
        fields=fields,
    )


def _text(value: Any) -> Any:
    """Numbers as texts; other things stay what they are, and are refused."""
    return str(value) if isinstance(value, int | float) else value


def letter(fields: Fields, choice: str) -> str:
    """The letter of a choice by the field it stands in; nothing where none was given."""
    return next((name[-1].upper() for name in _CHOICES if choice and _text(fields.get(name)) == choice), "")


MMSU = Benchmark(
    name="mmsu",
    title="MMSU",
    files=("mmsu.jsonl", "question/mmsu.jsonl", "mmsu.json"),
    parse=parse,
    versions={},
    groups={"category": (), "sub-category": (), "task_name": ()},
    macro="task_name",
    prediction_key="response",
    n_published=5000,
    rule=OfficialRule.CHOICE,
    submission="submission.jsonl",
    prediction=letter,
)
