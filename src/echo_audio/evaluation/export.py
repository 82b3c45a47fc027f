"""Submission files: every record as it was, in its order, with the answer under every name an official script reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from echo_audio.errors import DataError
from echo_audio.evaluation.benchmark import Benchmark, Fields, Record, text_of
from echo_audio.evaluation.files import write_whole
from echo_audio.scoring.answers import official_match

KEYS = ("model_output", "model_prediction", "answer_prediction")
"""MMAU's script reads the first (its README and EvalAI the second), MMAR's the third (before 2026-02-16 the second)."""
THINKING = "thinking_prediction"
"""What MMAR-Rubrics reads beside the answer."""


def submission(
    records: Sequence[Record], answers: Mapping[str, str], thoughts: Mapping[str, str], benchmark: Benchmark
) -> list[Fields]:
    """The records with their answers, all of them: what was not answered gets an empty text, never a guess.

    Args:
        answers: key of a record -> the choice that was given, verbatim.
        thoughts: key of a record -> the reasoning.
    """
    out: list[Fields] = []
    for record in records:
        answer = answers.get(record.key, "")
        ours = {**dict.fromkeys(KEYS, answer), THINKING: thoughts.get(record.key, "")}
        ours[benchmark.prediction_key] = benchmark.prediction(record.fields, answer)
        out.append({**{k: v for k, v in record.fields.items() if k not in ours}, **ours})
    return out


def validate(rows: Sequence[Fields], records: Sequence[Record], benchmark: Benchmark) -> None:
    """Refuse what an official script would misread without saying so.

    Raises:
        DataError: names what is wrong.
    """
    ours = {*KEYS, THINKING, benchmark.prediction_key}
    wrong: list[str] = []
    if len(rows) != len(records):
        wrong.append(f"{len(rows)} records, where the question file has {len(records)}")
    for place, (row, record) in enumerate(zip(rows, records, strict=False), 1):
        if not all(_same(row.get(name), value) for name, value in record.fields.items() if name not in ours):
            wrong.append(f"record {place} is not the question file's, or not in its place")
        missing = sorted(name for name in ours if not isinstance(row.get(name), str))
        if missing:
            wrong.append(f"record {place} has no text under {missing[0]!r}")
        elif row[benchmark.prediction_key] != benchmark.prediction(record.fields, row[KEYS[0]]):
            wrong.append(f"record {place} has another answer under {benchmark.prediction_key!r}")
        if row.get(KEYS[0]) and row[KEYS[0]] not in record.choices:
            wrong.append(f"record {place}: the answer is none of its choices")
    if wrong:
        raise DataError(f"the submission would be misread: {'; '.join(wrong[:5])} ({len(wrong)} problems)")


def _same(one: object, other: object) -> bool:
    return one == other or repr(one) == repr(other)  # NaN equals nothing, not even itself


def write_submission(path: Path, rows: Sequence[Fields], questions: Path | None = None) -> None:
    """Write a JSON list, JSON lines without blank ones, or a parquet table, by the suffix; it appears whole or not at all.

    Args:
        questions: the question file; where it is a table, its columns keep their types.

    Raises:
        DataError: it cannot be written.
    """
    if path.suffix == ".parquet":
        write_whole(path, _table(rows, questions))
        return
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=_escaped(row)) + "\n" for row in rows)
    else:
        text = json.dumps(rows, indent=2, ensure_ascii=any(map(_escaped, rows))) + "\n"
    write_whole(path, text)


def _escaped(row: Fields) -> bool:
    """Whether a record holds half a character, which a file in UTF-8 can only hold as it did before: escaped."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _table(rows: Sequence[Fields], questions: Path | None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    try:
        schema = None
        if questions is not None and questions.suffix == ".parquet":
            known = pq.read_schema(questions).remove_metadata()
            ours = [name for name in rows[0] if name not in known.names]
            kept = [column for column in known if column.name not in (*KEYS, THINKING)]
            ours += [column.name for column in known if column.name in (*KEYS, THINKING)]
            schema = pa.schema([*kept, *(pa.field(name, pa.string()) for name in ours)])
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"the submission is no table of the question file's columns ({error}); take the published file") from None
    return buffer.getvalue().to_pybytes()


def as_official_script(rows: Sequence[Fields], key: str, groups: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(right, asked) in all and by group, counted the way `evaluation.py` of MMAU and MMAR does over a submission.

    Like there, a record without the key is skipped.
    """
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for row in rows:
        if key not in row:
            continue
        names = ["total", *(f"{group}={text_of(row.get(group))}" for group in groups if group in row)]
        match = official_match(row[key], row["answer"], row["choices"])
        asked.update(names)
        right.update({name: int(match) for name in names})
    return {name: (right[name], n) for name, n in asked.items()}


