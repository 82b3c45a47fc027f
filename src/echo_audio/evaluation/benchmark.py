"""The frame of a published benchmark: a question file that is pinned by its hash, and audio found by the file's own paths.

A benchmark is one value of `Benchmark` in a file of its own (mmau.py, mmar.py, mmsu.py, mmau_pro.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from echo_audio.errors import DataError

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
    """

    key: str
    audio: str
    question: str
    choices: tuple[str, ...]
    answer: str | None
    groups: dict[str, str]
    fields: Fields


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is particular to one benchmark.

    Args:
        name: as on the command line.
        title: for people.
        files: names of its question file, the preferred one first.
        parse: fields of a record -> Record. Raises KeyError or TypeError where they are not such a record.
        versions: sha256 of a question file -> version for people.
        groups: its own groupings -> groups in the order of the official table (empty: as they come).
        macro: the grouping whose groups are averaged for the macro number.
        prediction_key: what its current official script reads.
        prediction: fields of a record, the given choice -> the text that script wants there.
        n_published: questions of the published file; None where more than one size is about.
        keep: which records can be asked; the others are counted by the reason it returns ("" keeps one).
        official: whether its official score is the shared word rule (`official_match`).
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
    official: bool = True
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

    Raises:
        DataError: no such file, not of this benchmark, or two records with one key.
    """
    path = questions if questions is not None else find_questions(benchmark, folder)
    raw = _bytes(path)
    sha256 = hashlib.sha256(raw).hexdigest()
    records: list[Record] = []
    left_out: Counter[str] = Counter()
    for place, fields in enumerate(read_records(path, raw), 1):
        why = benchmark.keep(fields)
        if why:
            left_out[f"left out: {why}"] += 1
            continue
        try:
            records.append(_checked(benchmark.parse(fields)))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, record {place}: not a question of {benchmark.title} ({error!r}); check the file") from None
    if not records:
        raise DataError(f"{path} holds no question of {benchmark.title}; check that it is the right file")
    double = [key for key, count in Counter(r.key for r in records).items() if count > 1]
    if double:
        raise DataError(f"{path}: {len(double)} ids are there twice ({double[0]!r}, ...); take the published file")
    version = benchmark.versions.get(sha256, "unknown")
    return Loaded(benchmark, folder, path, sha256, version, tuple(records), {**left_out, **_count(records)})


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


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from None


def read_records(path: Path, raw: bytes) -> list[Fields]:
    """The records of a JSON list, of JSON lines (cut at line feeds only), or of a parquet table.

    Raises:
        DataError: none of these.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        text = raw.decode("utf-8-sig")
        values = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); download it again") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{path} does not hold a list of records; check that it is the question file")
    return values


def _parquet(path: Path) -> list[Fields]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet table ({error}); download it again") from None


def _checked(record: Record) -> Record:
    texts = (record.key, record.audio, record.question, *record.choices, *record.groups.values())
    if not all(isinstance(text, str) for text in texts) or not record.key or not record.audio:
        raise TypeError("a text is missing, or something else than a text")
    if not isinstance(record.answer, str | None):
        raise TypeError("the answer is no text")
    if not 2 <= len(record.choices) <= 26:
        raise ValueError(f"{len(record.choices)} choices")
    return record


def _count(records: Sequence[Record]) -> dict[str, int]:
    """What is odd about the data and must be known when a score is read."""
    known = [record for record in records if record.answer is not None]
    return {
        "without a known answer": len(records) - len(known),
        "known answer not among the choices": sum(r.answer not in r.choices for r in known),
        "with equal choices": sum(len(set(r.choices)) < len(r.choices) for r in records),
        "not with 4 choices": sum(len(r.choices) != 4 for r in records),
    }


def text_of(value: Any) -> str:
    """A field of a record as a text: lists joined, nothing for null. `category` is a list in 13 records of MMAU-mini."""
    if value is None:
        return "none"
    return ", ".join(map(text_of, value)) if isinstance(value, list) else str(value)


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
    root = folder.resolve()
    found = (root / pure).resolve()
    if not found.is_relative_to(root):
        raise DataError(f"the audio path {path!r} is a link out of the data folder; put the file itself there")
    return found
