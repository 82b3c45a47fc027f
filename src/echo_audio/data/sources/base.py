"""What a source of labelled recordings gives to the data engine: recordings with what is known about them, or skips."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from echo_audio.audio import Recording, load
from echo_audio.data.rows import KnownEvent
from echo_audio.errors import DataError

AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".webm")
_PAST_END_S = 0.1
"""Labels are rounded: an event may end this much behind the recording, and is cut there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that the source itself asks."""

    question: str
    choices: tuple[str, ...]
    answer: str
    kind: str = "asked"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A recording and what its source vouches for.

    Args:
        id: unique in its source.
        load: decodes the recording; raises an AudioError where it cannot be used.
        events: labelled spans in seconds, unchecked; names that a listener would use.
        texts: what the source says in words ("caption", "key").
        asked: a question of the source's own; then none is written.
        exhaustive: whether everything that is heard is labelled.
        origin: how to find it again, for the provenance of its rows.
    """

    id: str
    load: Callable[[], Recording]
    events: tuple[KnownEvent, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    asked: Asked | None = None
    exhaustive: bool = False
    origin: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something of a source that cannot be used; counted and listed, never fatal.

    Args:
        reason: why; what differs from case to case comes after a colon, for they are counted by what stands before it.
    """

    id: str
    reason: str


def in_whole_characters(item: Labelled | Skipped) -> Labelled | Skipped:
    """The item; skipped where it holds half a character, as JSON may spell it and a file's name may hold: no store can."""
    told = (item.id, item.reason) if isinstance(item, Skipped) else _told(item)
    try:
        json.dumps(told, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        reason = item.reason if isinstance(item, Skipped) else "holds half a character"
        return Skipped(_spelled(item.id), _spelled(reason))
    return item


def _told(item: Labelled) -> tuple[object, ...]:
    asked = item.asked
    said = () if asked is None else (asked.question, asked.choices, asked.answer, asked.kind)
    return item.id, [event.label for event in item.events], dict(item.texts), said, dict(item.origin)


def _spelled(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class Source(Protocol):
    """Labelled recordings, always in the same order."""

    def items(self) -> Iterator[Labelled | Skipped]:
        """Each recording, or why it is left out."""
        ...


def usable_events(events: Iterable[KnownEvent], duration_s: float) -> tuple[tuple[KnownEvent, ...], list[str]]:
    """The events that lie inside a recording, by start, and why each other one does not.

    An event that runs over the end by up to 0.1 s is cut there.
    """
    kept: list[KnownEvent] = []
    wrong: list[str] = []
    for event in events:
        span = f"{event.label} {event.start_s:g} to {event.end_s:g} s"
        if not (math.isfinite(event.start_s) and math.isfinite(event.end_s)) or event.start_s < 0:
            wrong.append(f"event times are no span: {span}")
        elif event.end_s <= event.start_s:
            wrong.append(f"event has no length: {span}")
        elif event.end_s > duration_s + _PAST_END_S or event.start_s >= duration_s:
            wrong.append(f"event lies outside the recording of {duration_s:.2f} s: {span}")
        else:
            kept.append(event.model_copy(update={"end_s": min(event.end_s, duration_s)}))
    return tuple(sorted(kept, key=lambda e: (e.start_s, e.end_s, e.label))), wrong


class AudioFolder:
    """Audio files of a folder and the folders in it, found by their names without suffix.

    Raises:
        DataError: not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of recordings; correct the path")
        self.files: dict[str, Path] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():  # a pipe would be waited for
                self.files.setdefault(path.stem, path)

    def find(self, names: Iterable[str]) -> Path | None:
        """The file of the first of these names that there is."""
        return next((self.files[name] for name in names if name in self.files), None)


def loader(path: Path) -> Callable[[], Recording]:
    """What decodes the file when it is asked to."""
    return lambda: load(path)


MOST_LABEL_BYTES = 2**30
"""Of a label file."""


def read_text(path: Path) -> str:
    """The text of a label file.

    Raises:
        DataError: it is missing, larger than 1 GiB, or no UTF-8 text.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path} is no file; correct the path")
        if path.stat().st_size > MOST_LABEL_BYTES:
            raise DataError(f"{path} is larger than 1 GiB; no label file is")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); correct the path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as text ({error}); save it as UTF-8") from None


def read_entries(path: Path) -> list[Any]:
    """The entries of a JSON list or of JSON lines.

    Raises:
        DataError: it is neither.
    """
    text = read_text(path)
    try:
        entries = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON list and no JSON lines ({error}); correct the path") from None
    return list(entries)


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]  # splitlines() would cut at more than "\n"


def seconds(value: object) -> float:
    """A time; NaN where it is none."""
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return math.nan
