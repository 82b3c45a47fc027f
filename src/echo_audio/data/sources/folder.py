"""A plain folder: recordings, each with labels beside it (Audacity's label track, or JSON), or one JSON file for all.

door.flac  door.txt     Audacity: start, end and label, with tabs between; lines with a backslash are its frequency ranges
door.flac  door.json    {"events": [{"label": "door", "start_s": 0.5, "end_s": 1.2}], "texts": {"caption": "..."}}
labels = "all.json"     {"door.flac": {"events": [...]}, ...}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echo_audio.data.rows import KnownEvent
from echo_audio.data.sources.base import AUDIO_SUFFIXES, Labelled, Skipped, loader, read_text, seconds
from echo_audio.errors import DataError


class Folder:
    """Recordings of a folder.

    Args:
        audio: the folder.
        labels: one JSON file for all; None where each recording has its own file.

    Raises:
        DataError: not a folder, or the label file does not read.
    """

    def __init__(self, audio: Path, labels: Path | None = None) -> None:
        if not audio.is_dir():
            raise DataError(f"{audio} is no folder of recordings; correct the path")
        self.audio, self.labels = audio, None if labels is None else _read_object(labels)

    def items(self) -> Iterator[Labelled | Skipped]:
        """Each recording, by name."""
        used: set[str] = set()
        for path in sorted(path for path in self.audio.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()):
            name = path.relative_to(self.audio).as_posix()
            used |= {name, path.name, path.stem}
            try:
                told = self._told(path, name)
            except DataError as error:
                yield Skipped(name, f"labels cannot be read: {error}")
                continue
            if told is None:
                yield Skipped(name, "has no labels")
            else:
                events, texts = told
                yield Labelled(name, loader(path), tuple(events), texts=texts, origin={"data": "folder", "file": name})
        for name in self.labels or ():
            if name not in used:
                yield Skipped(name, "is labelled, but there is no audio of it")

    def _told(self, path: Path, name: str) -> tuple[list[KnownEvent], dict[str, str]] | None:
        if self.labels is not None:
            found = next((self.labels[key] for key in (name, path.name, path.stem) if key in self.labels), None)
            return None if found is None else _from_json(found, name)
        if path.with_suffix(".json").is_file():
            return _from_json(_read_object(path.with_suffix(".json")), name)
        if path.with_suffix(".txt").is_file():
            return _from_audacity(read_text(path.with_suffix(".txt")), name), {}
        return None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} is no JSON ({error}); correct it") from None
    if not isinstance(value, dict):
        raise DataError(f'{path.name} holds no JSON object; write {{"events": [...]}}')
    return value


def _from_json(value: Any, name: str) -> tuple[list[KnownEvent], dict[str, str]]:
    events = value.get("events") if isinstance(value, Mapping) else value
    if not isinstance(events, list):
        raise DataError(f'the labels of {name} are no list of events; write {{"events": [...]}}')
    texts = value.get("texts", {}) if isinstance(value, Mapping) else {}
    if not isinstance(texts, Mapping):
        raise DataError(f"the texts of {name} are no object")
    return [_event(event, name) for event in events], {str(k): str(v) for k, v in texts.items()}


def _event(event: Any, name: str) -> KnownEvent:
    label = event.get("label") if isinstance(event, Mapping) else None
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"an event of {name} has no label")
    start, end = event.get("start_s", event.get("start")), event.get("end_s", event.get("end"))
    return KnownEvent(label=" ".join(label.split()), start_s=seconds(start), end_s=seconds(end))


def _from_audacity(text: str, name: str) -> list[KnownEvent]:
    """The events of a label track; a point label has no length and is left out later."""
    events: list[KnownEvent] = []
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.rstrip("\r").split("\t")
        if not line.strip() or line.startswith("\\"):
            continue
        label = " ".join(" ".join(cells[2:]).split())
        if len(cells) < 3 or not label:
            raise DataError(f"line {number} of the labels of {name} is not start, end and label with tabs between")
        start_s, end_s = (seconds(cell.strip().replace(",", ".")) for cell in cells[:2])
        events.append(KnownEvent(label=label, start_s=start_s, end_s=end_s))
    return events
