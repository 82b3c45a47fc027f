"""Transcripts that were written down: by `ask --save`, an evaluation, or reinforcement learning. Read, filtered, told again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echo_audio.errors import DataError, TranscriptError
from echo_audio.scoring.answers import strict_score
from echo_audio.studio.story import Told, opening, replay
from echo_audio.transcript import Transcript

MOST_VALUES = 60
"""A filter with more values than this helps nobody."""
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept in memory of one saved transcript.

    Args:
        path, offset, length: where its line is, in bytes.
        question, answer: for the list.
        verdict: right, wrong, no answer, or unknown where the truth is not.
        facts: filter -> value.
        about: what else the list says of it.
        text: what a search looks at, in lower case.
    """

    path: Path
    offset: int
    length: int
    question: str
    answer: str | None
    verdict: str
    facts: Mapping[str, str]
    about: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A saved transcript, whole.

    Args:
        line: the object it stood in.
    """

    entry: Entry
    transcript: Transcript
    line: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What to call its recording."""
        audio = self.line.get("audio")
        path = audio.get("path") if isinstance(audio, dict) else self.transcript.question.meta.get("audio")
        return Path(str(path)).name if path else str(self.transcript.question.meta.get("row", "recording"))

    def events(self) -> list[Told]:
        """What happened, as if it happened now."""
        meta = self.transcript.question.meta
        how = {name: meta[name] for name in ("model", "seed", "temperature", "top_p") if name in meta}
        return [opening(self.transcript, **how), *replay(self.transcript)]


@dataclass
class Saved:
    """All transcripts of some files and run folders.

    Args:
        paths: JSONL files, or folders of runs.

    Raises:
        DataError: nothing there, or no transcript in it.
    """

    paths: Sequence[Path]
    entries: list[Entry] = field(default_factory=list)
    n_strange: int = 0

    def __post_init__(self) -> None:
        for path in self.paths:
            files = _files(path)
            for file in files:
                self._read(file, _label(file, path, len(files) > 1, len(self.paths) > 1))
        if not self.entries:
            shown = ", ".join(map(str, self.paths))
            raise DataError(f"there is no transcript in {shown}; give a file of ask --save, or the folder of a run")

    def _read(self, path: Path, label: str) -> None:
        offset = 0
        try:
            with path.open("rb") as file:
                for raw in iter(lambda: file.readline(_LONGEST_LINE), b""):
                    entry = _entry(path, offset, raw, label) if raw.endswith(b"\n") else None  # a torn last line is nobody's
                    self.n_strange += entry is None and bool(raw.strip())
                    self.entries += [entry] if entry is not None else []
                    offset += len(raw)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; check the path") from None

    def filters(self) -> dict[str, list[tuple[str, int]]]:
        """Filter -> its values with their numbers; those that tell transcripts apart."""
        counts: dict[str, Counter[str]] = {}
        for entry in self.entries:
            for name, value in entry.facts.items():
                counts.setdefault(name, Counter())[value] += 1
        useful = {name: values for name, values in counts.items() if 1 < len(values) <= MOST_VALUES}
        return {name: sorted(values.items(), key=lambda item: _natural(item[0])) for name, values in useful.items()}

    def find(self, text: str, wanted: Mapping[str, str]) -> list[int]:
        """Numbers of the transcripts with all these facts, and all these words somewhere in them."""
        words = text.lower().split()
        return [
            number
            for number, entry in enumerate(self.entries)
            if all(entry.facts.get(name) == value for name, value in wanted.items()) and all(word in entry.text for word in words)
        ]

    def open(self, number: int) -> Opened:
        """A transcript.

        Raises:
            DataError: its file has changed.
        """
        entry = self.entries[number]
        try:
            with entry.path.open("rb") as file:
                file.seek(entry.offset)
                line, transcript = _parsed(file.read(entry.length))
        except (OSError, ValueError, TranscriptError):
            raise DataError(f"{entry.path} has changed; start echo-audio view again") from None
        return Opened(entry, transcript, line)


def _files(path: Path) -> list[Path]:
    """The files of transcripts in a folder, or the file itself.

    Raises:
        DataError: there is none.
    """
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path} does not exist; give a file of transcripts, or the folder of a run")
        return [path]
    for pattern in ("samples*.jsonl", "crop.jsonl", "transcripts.jsonl", "rollouts/**/*.jsonl", "*.jsonl"):
        found = sorted(path.glob(pattern))
        if pattern == "crop.jsonl" and found:
            counterfactuals = (path / f"{played}.jsonl" for played in ("silenced", "swapped", "withheld"))
            found += [file for file in counterfactuals if file.is_file()]
        if found:
            return found
    raise DataError(f"{path} holds no file of transcripts (samples.jsonl, transcripts.jsonl); give the folder of a run")


def _label(file: Path, path: Path, several_files: bool, several_paths: bool) -> str:
    """What tells its transcripts from those of the others; "" where there are none."""
    parts = [path.name or str(path)] if several_paths else []
    parts += [str(file.relative_to(path).with_suffix(""))] if several_files else []
    return "/".join(parts)


def _parsed(raw: bytes) -> tuple[dict[str, Any], Transcript]:
    line = json.loads(raw)
    if not isinstance(line, dict):
        raise TranscriptError("not an object")
    inner = line if "spans" in line else line.get("transcript")
    return line, Transcript.from_json(raw if inner is line else json.dumps(inner))


def _entry(path: Path, offset: int, raw: bytes, label: str) -> Entry | None:
    """What a line holds; None where that is no transcript."""
    try:
        line, transcript = _parsed(raw)
    except (ValueError, RecursionError, TranscriptError):
        return None
    question, response = transcript.question, transcript.response
    verdict = _verdict(transcript)
    facts = dict(_facts(line, transcript)) | {"verdict": verdict} | ({"from": label} if label else {})
    numbers = (("reward", "reward {:.2f}"), ("advantage", "advantage {:+.2f}"), ("step", "step {}"))
    about = [text.format(line[name]) for name, text in numbers if isinstance(line.get(name), int | float)]
    n = len(transcript.asked)
    about += [f"{n} segment{'' if n == 1 else 's'}", *([label] if label else [])]
    text = f"{question.text}\n{response}".lower()
    return Entry(path, offset, len(raw), question.text, transcript.answer, verdict, facts, tuple(about), text)


def _verdict(transcript: Transcript) -> str:
    if not transcript.answer:
        return "no answer"
    truth, choices = transcript.question.answer, transcript.question.choices
    if truth is None:
        return "unknown"
    return "right" if strict_score(transcript.response, truth, choices).correct else "wrong"


def _facts(line: Mapping[str, Any], transcript: Transcript) -> Iterator[tuple[str, str]]:
    """What can be filtered by."""
    yield "mode", transcript.mode.value
    yield "played", transcript.played.value
    yield "stop", str(transcript.stop and transcript.stop.value)
    n = len(transcript.asked)
    yield "segments", str(n) if n < 6 else "6 or more"
    kind = line.get("kind") or transcript.question.meta.get("kind")
    if isinstance(kind, str):
        yield "kind", kind
    for name in ("step", "slot", "rotation", "repeat"):
        if isinstance(line.get(name), int):
            yield name, str(line[name])
    if isinstance(line.get("advantage"), int | float):
        yield "advantage", "above the group" if line["advantage"] > 0 else "below the group" if line["advantage"] < 0 else "even"
    groups = line.get("groups")
    for name, group in groups.items() if isinstance(groups, dict) else ():
        yield str(name), str(group)


def _natural(value: str) -> tuple[float, str]:
    """Numbers by size, then words."""
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value
