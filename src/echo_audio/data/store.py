"""Rows and audio on disk: parquet shards, and FLAC files named by the hash of what they hold.

    manifest.json            what made it, and its schema version
    rows-00000.parquet ...   the rows, in order; a shard is written whole or not at all
    audio/ab/abcd....flac    one file for each recording, whatever number of rows ask about it

A store only grows. A writer that was killed goes on where the last whole shard ended.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from echo_audio.audio import Recording, encode_flac, load
from echo_audio.data.rows import Row
from echo_audio.errors import AudioError, DataError

SCHEMA_VERSION = 1
_HASH = re.compile(r"[0-9a-f]{32}")
_MAX_SHARD_BYTES = 2**30
_EVENTS = pa.list_(pa.struct([("label", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]))
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("audio_id", pa.string()),
        ("duration_s", pa.float64()),
        ("reasoning", pa.string()),
        ("events", _EVENTS),
        ("evidence", _EVENTS),
        ("audio_contribution", pa.float64()),
        ("provenance", pa.string()),  # JSON: its shape differs between sources
    ]
)


def audio_path(folder: Path, audio_id: str) -> Path:
    """Where a recording lies.

    Raises:
        DataError: the id is not a content hash (and might lead out of the folder).
    """
    if not _HASH.fullmatch(audio_id):
        raise DataError(f"{audio_id!r} is not the content hash of a recording; the store is damaged or not one of Echo's")
    return folder / "audio" / audio_id[:2] / f"{audio_id}.flac"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
    except OSError:  # a full disk: what was written of it goes
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def write_audio(folder: Path, recording: Recording) -> None:
    """Put a recording into the store; nothing happens when it is there."""
    path = audio_path(folder, recording.id)
    if not path.is_file():
        write_atomically(path, encode_flac(recording))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("rows-[0-9][0-9][0-9][0-9][0-9].parquet"))


def rows_in(folder: Path) -> int:
    """Number of rows in the whole shards of a folder; 0 where there is none.

    Raises:
        DataError: a shard is damaged.
    """
    return sum(_n_rows(path) for path in _shards(folder))


class StoreWriter:
    """Appends rows to a store, a shard at a time.

    Args:
        folder: made when it is missing.
        made_by: what makes the rows (settings, seeds); a store made by something else is refused.

    Raises:
        DataError: the folder holds another store.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / "manifest.json"
        mine = {"schema_version": SCHEMA_VERSION, "made_by": made_by}
        if manifest.is_file():
            known = _read_manifest(manifest)
            if {name: known.get(name) for name in mine} != mine:
                raise DataError(f"{folder} holds a store that was made by {known.get('made_by')}; give another folder")
        else:
            write_atomically(manifest, json.dumps(mine, indent=1).encode())
        self.n_rows = rows_in(folder)
        self.n_shards = len(_shards(folder))

    def append(self, rows: Sequence[Row]) -> None:
        """Write one shard; its audio must be in the store already."""
        values = [row.model_dump(mode="json") | {"provenance": json.dumps(row.provenance)} for row in rows]
        part = self.folder / f".rows-{self.n_shards:05d}.{os.getpid()}"
        pq.write_table(pa.Table.from_pylist(values, schema=_SCHEMA), part, compression="zstd")
        part.replace(self.folder / f"rows-{self.n_shards:05d}.parquet")
        self.n_shards += 1
        self.n_rows += len(rows)


class Store:
    """A store to read.

    Raises:
        DataError: not a store, or a shard is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "manifest.json").is_file():
            raise DataError(f"{folder} is not a store: it has no manifest.json; make one with `echo-audio data`")
        self.manifest = _read_manifest(self.folder / "manifest.json")
        self._table = _read_shards(self.folder)

    def __len__(self) -> int:
        """Number of rows."""
        return self._table.num_rows

    def row(self, index: int) -> Row:
        """Row `index`.

        Raises:
            DataError: the row does not hold together.
        """
        try:
            values = self._table.slice(index, 1).to_pylist()[0]
            return Row.model_validate(values | {"provenance": json.loads(values["provenance"])})
        except (ValidationError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"row {index} of {self.folder} is damaged ({error}); make the store again") from None

    def rows(self) -> Iterator[Row]:
        """All rows, in order."""
        return (self.row(index) for index in range(len(self)))

    def recording(self, row: Row) -> Recording:
        """The recording of a row.

        Raises:
            DataError: it is missing, does not decode, or is another recording than its name says.
        """
        path = audio_path(self.folder, row.audio_id)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"the audio of row {row.id} cannot be used: {path} is no file")
        try:
            recording = load(path, allow_silent=True)
        except AudioError as error:
            raise DataError(f"the audio of row {row.id} cannot be used: {error}") from None
        if recording.id != row.audio_id:
            raise DataError(f"{path} does not hold what its name says; it was changed after the store was made")
        return recording


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable as JSON ({error}); restore it or make the store again") from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path} is of another schema than {SCHEMA_VERSION}; make the store again with this version")
    return manifest


def _n_rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a shard that Echo wrote ({error}); delete it and all later shards, then go on") from None


def _read_shards(folder: Path) -> pa.Table:
    tables: list[pa.Table] = []
    for path in _shards(folder):
        if path.stat().st_size > _MAX_SHARD_BYTES:
            raise DataError(f"{path} is larger than 1 GiB; Echo never writes such a shard")
        try:
            table = pq.read_table(path)
            if "audio_contribution" not in table.column_names:  # of a store from before there was such a column
                table = table.append_column("audio_contribution", pa.nulls(len(table), pa.float64()))
            tables.append(table.select(_SCHEMA.names).cast(_SCHEMA))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DataError(
                f"{path} is not a shard that Echo wrote ({error}); delete it and all later shards, then make them again"
            ) from None
    return pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
