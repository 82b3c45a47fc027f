"""MusicBench: clips of music with captions, beats, key, tempo and the times of their chords; JSON lines and a folder of audio.

Each line: location, main_caption, alt_caption, beats, bpm, chords, chords_time, key. Chords become events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from echo_audio.data.rows import KnownEvent
from echo_audio.data.sources.base import AudioFolder, Labelled, Skipped, loader, read_entries, seconds
from echo_audio.errors import DataError

_LAST_CHORD_S = 10.0
"""Clips last ten seconds; what their last chord lasts is not told."""


class MusicBench:
    """Clips of music.

    Args:
        labels: MusicBench_train.json or a part of it.
        audio: the folder of recordings.

    Raises:
        DataError: a file is missing or holds something else.
    """

    def __init__(self, labels: Path, audio: Path) -> None:
        self.entries, self.folder = read_entries(labels), AudioFolder(audio)
        known = [entry for entry in self.entries if isinstance(entry, dict) and "location" in entry and "main_caption" in entry]
        if not known:
            raise DataError(f"{labels} holds no entries with location and main_caption; give MusicBench's JSON file")

    def items(self) -> Iterator[Labelled | Skipped]:
        """Each clip."""
        for number, entry in enumerate(self.entries, 1):
            location = entry.get("location") if isinstance(entry, dict) else None
            if not isinstance(location, str) or not location:
                yield Skipped(f"entry-{number}", "entry has no location")
                continue
            name = PurePosixPath(location).stem
            path = self.folder.files.get(name)
            if path is None:
                yield Skipped(name, "is described, but there is no audio of it")
                continue
            origin = {"data": "MusicBench", "location": location}
            yield Labelled(name, loader(path), tuple(_chords(entry)), texts=_texts(entry), origin=origin)


def _listed(value: Any) -> list[Any]:
    """A list, also where it was written as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value.replace("'", '"'))
        except (ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []


def _chords(entry: Mapping[str, Any]) -> Iterator[KnownEvent]:
    """Each chord, until the next one begins; the last as far as clips go."""
    names, times = _listed(entry.get("chords")), [seconds(t) for t in _listed(entry.get("chords_time"))]
    for i, (name, start_s) in enumerate(zip(names, times, strict=False)):
        if isinstance(name, str) and name not in ("", "N"):
            end_s = times[i + 1] if i + 1 < len(times) else max(_LAST_CHORD_S, start_s)
            yield KnownEvent(label=f"{name} chord", start_s=start_s, end_s=end_s)


def _texts(entry: Mapping[str, Any]) -> dict[str, str]:
    found = {"caption": str(entry.get("main_caption") or "").strip()}
    key = _listed(entry.get("key"))
    if key and all(isinstance(part, str) for part in key):
        found["key"] = " ".join(key)
    tempo = seconds(entry.get("bpm"))
    if tempo > 0:
        found["tempo"] = f"{tempo:.0f} beats a minute"
    return {name: text for name, text in found.items() if text}
