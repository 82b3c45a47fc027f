"""Recordings inside parquet files, as hubs publish data sets: a column with the bytes of a file and its name."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from echo_audio.audio import Recording, load
from echo_audio.errors import AudioError, DataError

_ID_COLUMNS = ("segment_id", "video_id", "audio_id", "ytid", "id", "file_name", "filename")
_KEPT_GROUPS = 2
"""Row groups held in memory: recordings are asked for in the order of the files."""
_MOST_GROUP_BYTES = 2**31


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """Where a recording lies."""

    file: int
    group: int
    row: int


class EmbeddedAudio:
    """Audio in the parquet files of a folder; only names are read until a recording is asked for.

    Args:
        folder: that holds them, in any depth.

    Raises:
        DataError: there are none, or one has no audio column or no names.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.rglob("*.parquet"))
        self.cells: dict[str, Cell] = {}
        self._groups: OrderedDict[tuple[int, int], list[Any]] = OrderedDict()
        self._lock = threading.Lock()
        if not self.paths:
            raise DataError(f"{folder} holds no parquet files; correct the path")
        for number, path in enumerate(self.paths):
            self._index(number, path)

    def _index(self, number: int, path: Path) -> None:
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if "audio" not in names:
                    raise DataError(f"{path} has no column `audio`; its columns are {', '.join(names)}")
                columns = [name for name in _ID_COLUMNS if name in names]
                for group in range(file.num_row_groups):
                    wanted = columns or ["audio.path"]
                    rows = file.read_row_group(group, columns=wanted).to_pylist()
                    for place, row in enumerate(rows):
                        for name in _names(row):
                            self.cells.setdefault(name, Cell(number, group, place))
        except DataError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: values that Python cannot hold
            raise DataError(f"{path} cannot be read as parquet ({error}); delete it or get it again") from None

    def loader(self, cell: Cell) -> Callable[[], Recording]:
        """What decodes the recording when it is asked to."""
        return lambda: self._load(cell)

    def _load(self, cell: Cell) -> Recording:
        """Decode a recording.

        Raises:
            AudioError: it cannot be used.
        """
        with self._lock:
            audio = self._group(cell.file, cell.group)[cell.row]
        content = audio.get("bytes") if isinstance(audio, dict) else audio
        if not isinstance(content, bytes) or not content:
            raise AudioError(f"row {cell.row} of {self.paths[cell.file].name} holds no audio")
        return load(content)

    def _group(self, file: int, group: int) -> list[Any]:
        key = (file, group)
        if key not in self._groups:
            path = self.paths[file]
            try:
                with pq.ParquetFile(path) as opened:
                    if opened.metadata.row_group(group).total_byte_size > _MOST_GROUP_BYTES:
                        raise AudioError(f"a row group of {path.name} is larger than 2 GiB; write it with smaller ones")
                    self._groups[key] = opened.read_row_group(group, columns=["audio"]).column("audio").to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise AudioError(f"{path.name} cannot be read ({error})") from None
            while len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def _names(row: dict[str, Any]) -> list[str]:
    """What a row may be called: its ids, and the name of its file without suffix."""
    names: list[str] = []
    for value in row.values():
        text = value.get("path") if isinstance(value, dict) else value
        if isinstance(text, str | int):
            names.append(PurePosixPath(str(text)).stem if "." in str(text) else str(text))
    return names
