"""AudioSet-Strong: ten-second clips with the times of every sound, from a TSV; audio as files or inside parquet.

    audioset_train_strong.tsv   segment_id, start_time_seconds, end_time_seconds, label (an id such as /m/07qrkrw)
    mid_to_display_name.tsv     from label ids to names; without header
    audio                       YTID_30000.wav, YTID.wav, YYTID.wav ... in any folder, or parquet files with embedded audio

A segment id is the video's id and the start of the clip in milliseconds. Times count from the start of the clip.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from echo_audio.audio import Recording
from echo_audio.data.rows import KnownEvent
from echo_audio.data.sources.base import AudioFolder, Labelled, Skipped, loader, read_text, seconds
from echo_audio.data.sources.embedded import Cell, EmbeddedAudio
from echo_audio.errors import DataError

_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")


class AudioSetStrong:
    """Clips of AudioSet with strong labels.

    Args:
        labels: the TSV.
        names: the TSV from label ids to names.
        audio: a folder of recordings, or of parquet files.

    Raises:
        DataError: a file is missing or of another shape.
    """

    def __init__(self, labels: Path, names: Path, audio: Path) -> None:
        self.names = _read_names(names)
        self.events, self.broken = _read_labels(labels)
        found = {label for events in self.events.values() for _, _, label in events}
        if found and not found & set(self.names):
            raise DataError(f"{names} names none of the labels of {labels}; give AudioSet's mid_to_display_name.tsv")
        self.parquet = EmbeddedAudio(audio) if audio.is_dir() and next(audio.rglob("*.parquet"), None) else None
        self.folder = AudioFolder(audio) if self.parquet is None else None

    def items(self) -> Iterator[Labelled | Skipped]:
        """Each labelled clip, in the order of its audio; then what is left of either."""
        for line in self.broken:
            yield Skipped("labels", f"a line of the label file is no event: {line}")
        used: set[str] = set()
        missing: list[str] = []
        for segment_id in sorted(self.events, key=self._place):
            found = self._find(segment_id)
            if found is None:
                missing.append(segment_id)
                continue
            used.add(found[0])
            yield from self._item(segment_id, found[1])
        yield from (Skipped(segment_id, "is labelled, but there is no audio of it") for segment_id in missing)
        left = sorted(self._unlabelled(used))
        if left:  # in one line: of the whole of AudioSet, only a twentieth has strong labels
            yield Skipped("audio", f"recordings have no labels: {len(left)}, {', '.join(left[:3])} among them")

    def _item(self, segment_id: str, load: Callable[[], Recording]) -> Iterator[Labelled | Skipped]:
        events: list[KnownEvent] = []
        for start_s, end_s, label in self.events[segment_id]:
            name = self.names.get(label)
            if name is None:
                yield Skipped(segment_id, f"label has no name: {label}")
            else:
                events.append(KnownEvent(label=name, start_s=start_s, end_s=end_s))
        origin = {"data": "AudioSet-Strong", "segment": segment_id}
        yield Labelled(segment_id, load, tuple(events), exhaustive=True, origin=origin)

    def _find(self, segment_id: str) -> tuple[str, Callable[[], Recording]] | None:
        """The audio of a segment, and the name that it has."""
        if self.parquet is not None:
            name = next((name for name in _candidates(segment_id) if name in self.parquet.cells), None)
            return None if name is None else (name, self.parquet.loader(self.parquet.cells[name]))
        assert self.folder is not None
        name = next((name for name in _candidates(segment_id) if name in self.folder.files), None)
        return None if name is None else (name, loader(self.folder.files[name]))

    def _unlabelled(self, used: set[str]) -> set[str]:
        """Names of audio that no segment is about."""
        if self.folder is not None:
            return self.folder.files.keys() - used
        assert self.parquet is not None
        cells = {self.parquet.cells[name] for name in used}
        first: dict[Cell, str] = {}
        for name, cell in self.parquet.cells.items():
            first.setdefault(cell, name)
        return {name for cell, name in first.items() if cell not in cells}

    def _place(self, segment_id: str) -> tuple[object, ...]:
        """Clips whose audio lies together come together."""
        if self.parquet is not None:
            cells = [self.parquet.cells[name] for name in _candidates(segment_id) if name in self.parquet.cells]
            cell = cells[0] if cells else None
            return (cell.file, cell.group, cell.row, segment_id) if cell else (math.inf, 0, 0, segment_id)
        return (segment_id,)


def _candidates(segment_id: str) -> Iterable[str]:
    """Names under which the audio of a segment is found in the wild, the most exact first."""
    video, _, start = segment_id.rpartition("_")
    yield segment_id
    yield f"Y{segment_id}"
    if video and start.isdecimal() and len(start) < 12:
        begin_s = int(start) / 1000
        spans = (f"{start}_{int(start) + 10_000}", f"{begin_s:.3f}", f"{begin_s:.3f}_{begin_s + 10:.3f}", f"{begin_s:g}")
        yield from (f"{video}_{span}" for span in spans)
        yield from (f"Y{video}_{span}" for span in spans)
        yield from (video, f"Y{video}")


def _read_names(path: Path) -> dict[str, str]:
    """Names by label id.

    Raises:
        DataError: no line has the two columns.
    """
    names: dict[str, str] = {}
    for line in read_text(path).split("\n"):
        label, tab, name = line.rstrip("\r").partition("\t")
        if tab and name.strip() and not name.strip().startswith("/"):
            names[label.strip()] = name.strip()
    if not names:
        raise DataError(f"{path} has no lines of a label id, a tab and a name; give AudioSet's mid_to_display_name.tsv")
    return names


def _read_labels(path: Path) -> tuple[dict[str, list[tuple[float, float, str]]], list[int]]:
    """Events by segment, and the numbers of the lines that hold none.

    Raises:
        DataError: the file has other columns.
    """
    lines = read_text(path).split("\n")
    head = tuple(lines[0].rstrip("\r").split("\t"))
    if not set(_COLUMNS) <= set(head):
        raise DataError(f"{path} has the columns {', '.join(head)[:200]}; AudioSet-Strong has {', '.join(_COLUMNS)}")
    places = [head.index(name) for name in _COLUMNS]
    events: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    broken: list[int] = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(cells) < len(head) or not cells[places[0]].strip():
            broken.append(number)
            continue
        segment_id, start, end, label = (cells[place].strip() for place in places)
        events[segment_id].append((seconds(start), seconds(end), label))
    return dict(events), broken
