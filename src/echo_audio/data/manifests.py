"""Manifests of recorded clips: which stretch of which file is which sound."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from echo_audio.audio import Segment
from echo_audio.data.scene import Source
from echo_audio.errors import DataError, SegmentError

_LONGEST_LABEL = 60
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One line of a manifest: a labelled stretch of a file.

    Args:
        path: relative to the folder of the bank, with forward slashes.
        label: what a listener calls it.
        start_s, end_s: the stretch of the file to use; all of it where None.
    """

    path: str
    label: str
    licence: str = ""
    source: Source = Source.CLIP
    speaker: str = ""
    start_s: float | None = None
    end_s: float | None = None


def read_manifest(path: Path) -> tuple[ClipRow, ...]:
    """The rows of a JSONL manifest: `path` or `file`, `label`, and optionally licence, start_s, end_s, speaker, source.

    Raises:
        DataError: unreadable, or a line that is not such a row; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the manifest {path}: {error}; give a JSONL file in UTF-8") from error
    rows = tuple(_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    if not rows:
        raise DataError(f"the manifest {path} lists no clips; write one JSON object with path and label a line")
    return rows


def fsdd_manifest(folder: Path) -> tuple[ClipRow, ...]:
    """Rows for a folder of Free Spoken Digit files named digit_speaker_index.flac, labelled "the number seven".

    Raises:
        DataError: no such file in the folder.
    """
    rows: list[ClipRow] = []
    for file in sorted(folder.glob("[0-9]_*_*.flac")):
        digit, speaker, _ = file.stem.split("_", 2)
        label = f"the number {_DIGITS[int(digit)]}"
        rows.append(ClipRow(file.name, label, "CC-BY-SA-4.0", Source.DIGIT, speaker))
    if not rows:
        raise DataError(f"{folder} holds no files like 7_george_0.flac; give the folder of the Free Spoken Digit Dataset")
    return tuple(rows)


def thin(rows: Iterable[ClipRow], per_speaker: int) -> tuple[ClipRow, ...]:
    """At most that many rows for each label and speaker, the first by path."""
    taken: dict[tuple[str, str], int] = {}
    kept: list[ClipRow] = []
    for row in sorted(rows, key=by_label_and_path):
        key = row.label, row.speaker
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= per_speaker:
            kept.append(row)
    return tuple(kept)


def _row(line: str, where: str) -> ClipRow:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON object ({error}); write one object a line") from error
    if not isinstance(fields, dict):
        raise DataError(f"{where}: not a JSON object; write one object a line")
    source = _text(fields, where, "source") or Source.CLIP
    if source not in (Source.CLIP, Source.DIGIT):
        raise DataError(f"{where}: source '{source}' is not known; write clip or digit")
    row = ClipRow(
        path=_text(fields, where, "path", "file"),
        label=_text(fields, where, "label"),
        licence=_text(fields, where, "licence", "license"),
        source=Source(source),
        speaker=_text(fields, where, "speaker"),
        start_s=_number(fields, where, "start_s"),
        end_s=_number(fields, where, "end_s"),
    )
    if len(row.label) > _LONGEST_LABEL or re.search(r"[<>{}]", row.label):
        raise DataError(
            f"{where}: the label must be a short name without < > {{ or }}, at most {_LONGEST_LABEL} letters, because it "
            "is written into questions and reasonings"
        )
    if not row.path or not row.label:
        raise DataError(f"{where}: a clip needs a path and a label, both text")
    if (row.start_s is None) != (row.end_s is None):
        raise DataError(f"{where}: give both start_s and end_s, or neither")
    if row.start_s is not None and row.end_s is not None:
        checked_segment(row.start_s, row.end_s, where)
    return row


def _text(fields: Mapping[str, object], where: str, *names: str) -> str:
    value = next((fields[name] for name in names if fields.get(name) is not None), "")
    if not isinstance(value, str) or len(value) > 1_000 or not value.isprintable():
        raise DataError(f"{where}: {names[0]} must be one line of text")
    return value.strip()


def _number(fields: Mapping[str, object], where: str, name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: {name} must be a number of seconds")
    try:
        return float(value)
    except OverflowError as error:
        raise DataError(f"{where}: {name} is too large for a number of seconds") from error


def checked_segment(start_s: float, end_s: float, where: str) -> Segment:
    """The segment, or a DataError that says where the numbers stand."""
    try:
        return Segment(start_s, end_s)
    except SegmentError as error:
        raise DataError(f"{where}: {error}") from error


def by_label_and_path(row: ClipRow) -> tuple[str, str, float]:
    """Sorting key of rows: the order of a bank's clips does not depend on the order of its manifest."""
    return row.label, row.path, row.start_s or 0.0
