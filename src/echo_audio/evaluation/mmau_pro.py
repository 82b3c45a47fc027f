"""MMAU-Pro, its multiple-choice part with one recording: sonalkum/MMAUPro (HF gamma-lab-umd/MMAU-Pro, test.parquet).

Open questions and instructions to follow are judged by models there, and several recordings at once cannot be heard here:
such records are left out and counted. The official script maps any text to its nearest choice by an embedding model, a
choice to itself and nothing to some choice; here nothing is guessed.
It reads a parquet table: so the submission is one, of the part that can be asked.

`category`, `question`, `choices` and `answer` are what evaluate_mmau_pro_comprehensive.py reads (commit 960e93a); `id`, the
list `audio_path` ("data/NAME.wav"), `length_type` and `sub-cat` are what several public loaders of the table read. They count
5,305 rows: 215 without choices, 456 with more than one recording. The table itself was not seen.
"""

from __future__ import annotations

from echo_audio.evaluation.benchmark import Benchmark, Fields, Record, blank_is_none, listed, text_of
from echo_audio.scoring.answers import OfficialRule

_JUDGED = ("open", "instruction following")


def _paths(fields: Fields) -> list[str]:
    paths = fields.get("audio_path") or []
    return [paths] if isinstance(paths, str) else list(paths)


def keep(fields: Fields) -> str:
    """Why a record cannot be asked here; empty when it can."""
    if text_of(fields.get("category")).lower() in _JUDGED:
        return "judged by a model"
    if len(fields.get("choices") or ()) < 2:
        return "without choices"
    return "" if len(_paths(fields)) == 1 else "about several recordings"


def parse(fields: Fields) -> Record:
    """A record of the multiple-choice part."""
    (audio,) = _paths(fields)
    if fields["id"] is None:
        raise TypeError("the id is missing")
    return Record(
        key=str(fields["id"]),
        audio=audio,
        question=fields["question"],
        choices=listed(fields["choices"]),
        answer=blank_is_none(fields.get("answer")),
        groups={name: text_of(fields.get(name)) for name in ("category", "sub-cat", "length_type")},
        fields=fields,
    )


MMAU_PRO = Benchmark(
    name="mmau-pro",
    title="MMAU-Pro, multiple choice",
    files=("test.parquet", "mmau-pro.parquet"),
    parse=parse,
    versions={},
    groups={"category": (), "sub-cat": (), "length_type": ()},
    macro="category",
    prediction_key="model_output",
    keep=keep,
    rule=OfficialRule.CHOICE,
    submission="submission.parquet",
)
