"""The frame of a published benchmark: a question file that is pinned by its hash, and audio found by the file's own paths.

A benchmark is one value of `Benchmark` in a file of its own (mmau.py, mmar.py, mmsu.py, mmau_pro.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from echo_audio.errors import DataError
from echo_audio.scoring.answers import OfficialRule

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One question, as its file has it.

    Args:
        key: unique in its file.
        audio: the file's own path of the recording, relative to the folder.
        choices: as they stand there, equal ones too.
        answer: the truth; None where the file gives none.
        groups: name of a grouping -> this question's group.
        fields: the record itself, untouched, in its order.
        trouble: why it cannot be asked; empty for a question.
    """

    key: str
    audio: str
    question: str
    choices: tuple[str, ...]
    answer: str | None
    groups: dict[str, str]
    fields: Fields
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is particular to one benchmark.

    Args:
        name: as on the command line.
        title: for people.
        files: names of its question file, the preferred one first.
        parse: fields of a record -> Record. Raises KeyError or TypeError where they are not such a record.
        versions: sha256 of a question file -> version for people; the current one first.
        groups: its own groupings -> groups in the order of the official table (empty: as they come).
        macro: the grouping whose groups are averaged for the macro number.
        prediction_key: what its current official script reads.
        prediction: fields of a record, the given choice -> the text that script wants there.
        n_published: questions of the published file; None where more than one size is about.
        keep: which records can be asked; the others are counted by the reason it returns ("" keeps one).
        rule: how its own script scores.
        submission: name of the file to hand in.
    """

    name: str
    title: str
    files: tuple[str, ...]
    parse: Callable[[Fields], Record]
    versions: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]]
    macro: str
    prediction_key: str
    n_published: int | None = None
    keep: Callable[[Fields], str] = lambda _: ""
    rule: OfficialRule = OfficialRule.WORDS
    submission: str = "submission.json"
    prediction: Callable[[Fields, str], str] = lambda _, choice: choice


@dataclass(frozen=True, slots=True)
class Loaded:
    """A question file that was read.

    Args:
        folder: where the audio lies, by the records' own paths.
        path, sha256: of the question file.
        version: the published version; "unknown" for another hash.
        records: in the order of the file, those that can be asked.
        counted: what was found in the file, by name: left out, without truth, truth outside the choices, ...
    """

    benchmark: Benchmark
    folder: Path
    path: Path
    sha256: str
    version: str
    records: tuple[Record, ...]
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def has_truth(self) -> bool:
        """Whether any question has a known answer; else nothing may be scored."""
        return any(record.answer is not None for record in self.records)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the scores must know, a sentence each; loud things first."""
        out: list[str] = []
        if self.version == "unknown":
            out.append(f"UNKNOWN VERSION: {self.path.name} (sha256 {self.sha256}) is none of the published files known here")
        elif self.version != (current := next(iter(self.benchmark.versions.values()))):
            out.append(f"OLDER VERSION: this is {self.version}; the file that replaced it is {current}, and scores differ")
        n = self.benchmark.n_published
        if n is not None and n != len(self.records):
            out.append(f"{len(self.records)} questions, where the published file has {n}")
        out += [f"{name}: {count}" for name, count in self.counted.items() if count]
        return out


def load_benchmark(benchmark: Benchmark, folder: Path, questions: Path | None = None) -> Loaded:
    """Read the question file of a benchmark.

    Args:
        folder: holds the question file and, at the paths it names, the audio.
        questions: the question file, where it lies elsewhere or has another name.

    A record that is no question is kept with its `trouble`: it is not asked, counts as wrong, and is told of. Of records with
    one id the later ones get another key.

    Raises:
        DataError: no such file, or most of its records are not of this benchmark.
    """
    path = questions if questions is not None else find_questions(benchmark, folder)
    raw = _bytes(path)
    sha256 = hashlib.sha256(raw).hexdigest()
    records: list[Record] = []
    left_out: Counter[str] = Counter()
    for place, fields in enumerate(read_records(path, raw), 1):
        try:
            why = benchmark.keep(fields)
            if not why:
                records.append(_checked(benchmark.parse(fields)))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            records.append(_no_question(benchmark, fields, place, error))
        else:
            left_out[f"left out: {why}"] += bool(why)
    if not records:
        raise DataError(f"{path} holds no question of {benchmark.title}; check that it is the right file")
    broken = [record for record in records if record.trouble]
    if 2 * len(broken) > len(records):
        raise DataError(f"{path} is not the question file of {benchmark.title}: {broken[0].trouble}; give the right one")
    records, n_double = _distinct(records)
    version = benchmark.versions.get(sha256, "unknown")
    counted = {"ids that are there twice": n_double, "records that are no question": len(broken), **left_out, **_count(records)}
    return Loaded(benchmark, folder, path, sha256, version, tuple(records), counted)


def _no_question(benchmark: Benchmark, fields: Fields, place: int, error: Exception) -> Record:
    """What stands for a record that is no question, so that it stays in every denominator and in the submission."""
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    name = fields.get("id")
    key = name if isinstance(name, str) and name and name.isprintable() else f"record {place}"
    groups = {group: text_of(fields.get(group)) for group in benchmark.groups}
    return Record(key, "", "", (), None, groups, fields, f"record {place} is not a question of {benchmark.title} ({what[:200]})")


def _distinct(records: Sequence[Record]) -> tuple[list[Record], int]:
    """The records with keys of their own, and how many had to get another."""
    out: list[Record] = []
    taken = {record.key for record in records}
    seen: set[str] = set()
    for record in records:
        key, number = record.key, 2
        while key in seen or (key != record.key and key in taken):
            key, number = f"{record.key} ({number})", number + 1
        seen.add(key)
        out.append(record if key == record.key else replace(record, key=key))
    return out, sum(one.key != other.key for one, other in zip(records, out, strict=True))


def find_questions(benchmark: Benchmark, folder: Path) -> Path:
    """The question file in the folder.

    Raises:
        DataError: it is not there.
    """
    for name in benchmark.files:
        if (folder / name).is_file():
            return folder / name
    names = " or ".join(benchmark.files)
    raise DataError(f"{folder} has no {names}; put the question file of {benchmark.title} there, or give it with --questions")


MAX_BYTES = 256 << 20
"""Of a question file; the published ones have some MB."""


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise DataError(f"{path} is no file; give the question file itself")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from None
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path} has more than {MAX_BYTES >> 20} MiB; a question file holds no audio: give the one that names it")
    return raw


def read_records(path: Path, raw: bytes) -> list[Fields]:
    """The records of a JSON list, of JSON lines (cut at line feeds only), or of a parquet table.

    Raises:
        DataError: none of these.
    """
    if path.suffix == ".parquet":
        return _parquet(path, raw)
    try:
        text = raw.decode("utf-8-sig")
        values = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); download it again") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{path} does not hold a list of records; check that it is the question file")
    return values


def _parquet(path: Path, raw: bytes) -> list[Fields]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        n_bytes = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        rows: list[Fields] = []
        read_bytes = 0
        for batch in file.iter_batches(batch_size=16) if n_bytes <= MAX_BYTES else ():  # few: one text can stand in every row
            read_bytes += batch.nbytes
            if read_bytes > MAX_BYTES:
                break
            rows += batch.to_pylist()
        if max(n_bytes, read_bytes) > MAX_BYTES:
            raise DataError(f"{path} unpacks to more than {MAX_BYTES >> 20} MiB; give the table that names the audio")
        return rows
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: values that Python cannot hold
        raise DataError(f"{path} is not a parquet table ({error}); download it again") from None


def _checked(record: Record) -> Record:
    texts = (record.key, record.audio, record.question, *record.choices, *record.groups.values())
    if not all(isinstance(text, str) for text in texts) or not record.key or not record.audio:
        raise TypeError("a text is missing, or something else than a text")
    if not isinstance(record.answer, str | None):
        raise TypeError("the answer is no text")
    if not 2 <= len(record.choices) <= 26:
        raise ValueError(f"{len(record.choices)} choices")
    "".join((*texts, record.answer or "")).encode("utf-8")  # raises at half a character, which JSON can hold
    return record


def listed(value: Any) -> tuple[Any, ...]:
    """The choices of a record, which must be a list: a text would fall into its letters.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, list):
        raise TypeError("the choices are no list")
    return tuple(value)


def _count(records: Sequence[Record]) -> dict[str, int]:
    """What is odd about the data and must be known when a score is read."""
    records = [record for record in records if not record.trouble]
    known = [record for record in records if record.answer is not None]
    return {
        "without a known answer": len(records) - len(known),
        "known answer not among the choices": sum(r.answer not in r.choices for r in known),
        "with equal choices": sum(len(set(r.choices)) < len(r.choices) for r in records),
        "not with 4 choices": sum(len(r.choices) != 4 for r in records),
    }


def text_of(value: Any) -> str:
    """A field of a record as a short text: lists joined, nothing for null. `category` is a list in 13 records of MMAU-mini."""
    if value is None:
        return "none"
    try:
        text = ", ".join(map(text_of, value)) if isinstance(value, list) else str(value)
    except RecursionError:
        text = "nested too deep"
    return text[:200].encode("utf-8", "replace").decode("utf-8")


def blank_is_none(answer: Any) -> Any:
    """The truth, or None where it was blanked, as in MMAU's test split."""
    return None if answer is None or answer == "" else answer


def find_audio(folder: Path, path: str) -> Path:
    """Where a recording lies, by the path its record names; the file need not be there.

    Raises:
        DataError: the path is absolute, climbs out of the folder, or leads out of it by a symbolic link.
    """
    pure = PurePosixPath(path.replace("\\", "/"))
    drive = len(path) > 1 and path[1] == ":"
    if pure.is_absolute() or drive or ".." in pure.parts or "\0" in path or not pure.parts:
        raise DataError(f"the audio path {path!r} leads out of the data folder; a question file may not name such a path")
    try:
        root = folder.resolve()
        found = (root / pure).resolve()
    except (OSError, RuntimeError, ValueError):  # a name no file can have; links in a circle
        raise DataError(f"the audio path {path[:200]!r} is none that a file can have; check the question file") from None
    if not found.is_relative_to(root):
        raise DataError(
            f"the audio path {path!r} is a link out of the data folder; put the file itself there, or give "
            "the folder that it leads to with --data, and the question file with --questions"
        )
    return found
