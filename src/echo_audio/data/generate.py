"""Scenes into a store, on all cores. The same arguments give the same store, however often it was interrupted."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from echo_audio.data.render import Stock, render
from echo_audio.data.rows import Row
from echo_audio.data.scene import Split
from echo_audio.data.scenes import DRAWS, draw_row, with_audio
from echo_audio.data.stock import make_stock
from echo_audio.data.store import Store, StoreWriter, write_audio
from echo_audio.errors import DataError

SHARD_ROWS = 256
"""Rows of a shard: what is lost at most when a run is killed."""


def generate_scenes(
    out: Path,
    n: int,
    seed: int,
    *,
    split: Split = Split.TRAIN,
    banks: Sequence[str | Path] = (),
    workers: int | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> int:
    """Fill a store up to n rows.

    Args:
        out: folder of the store; one begun by the same arguments is continued.
        banks: packed banks of recorded sounds.
        workers: processes; None takes every core.
        on_rows: told how many rows were added.

    Returns:
        Rows that were made now.

    Raises:
        DataError: the folder holds another store, or a bank does not load.
    """
    if n < 1:
        raise DataError(f"n is {n}; make at least one row")
    paths = tuple(str(Path(bank).resolve()) for bank in banks)
    make_stock(paths)  # a bank that does not load is told here, not by a worker
    made_by = {"scenes": {"seed": seed, "split": split.value, "banks": _digests(paths), "draws": DRAWS}}
    writer = StoreWriter(out, made_by)
    begin = writer.n_rows
    spans = [(a, min(a + SHARD_ROWS, n)) for a in range(begin, n, SHARD_ROWS)]
    context = multiprocessing.get_context("spawn")
    n_workers = workers or os.cpu_count() or 1
    if spans:
        with ProcessPoolExecutor(min(n_workers, n - begin), mp_context=context, initializer=_leave_ctrl_c) as pool:
            try:
                parts = [(str(out), seed, split, paths, i) for a, b in spans for i in range(a, b)]
                made = pool.map(_make, parts, chunksize=8)
                for a, b in spans:
                    rows: list[Row] = []
                    for _ in range(a, b):
                        rows.append(next(made))
                        on_rows(1)
                    writer.append(rows)
            except BaseException:  # Ctrl-C among them: what is queued would still be made before the pool lets go
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return max(0, n - begin)


def _digests(paths: Sequence[str]) -> list[str]:
    """Name and content hash of each bank: another bank under the same name draws other rows."""
    return [f"{Path(p).name} {hashlib.blake2b(Path(p).read_bytes(), digest_size=8).hexdigest()}" for p in paths]


def stock_of(store: Store, banks: Sequence[str | Path] = ()) -> Stock:
    """The sounds that the rows of a store were drawn from.

    Raises:
        DataError: the store holds no scenes, needs other banks, or was drawn by another version.
    """
    made_by = store.manifest.get("made_by")
    scenes = made_by.get("scenes") if isinstance(made_by, dict) else None
    if not isinstance(scenes, dict):
        raise DataError(f"{store.folder} holds no scenes, so there is nothing to draw again")
    if scenes.get("draws") != DRAWS:
        raise DataError(f"{store.folder} was drawn by another version of Echo; only that one can draw its rows again")
    wanted, given = scenes.get("banks"), _digests([str(bank) for bank in banks])
    if wanted != given:
        raise DataError(f"{store.folder} was drawn with the banks {wanted}, not {given}; give them with --bank, in that order")
    return make_stock(banks)


def _leave_ctrl_c() -> None:
    """In a worker: the parent alone is told of Ctrl-C and stops the workers between two rows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@cache
def _stock(paths: tuple[str, ...]) -> Stock:
    return make_stock(paths)


def _make(part: tuple[str, int, Split, tuple[str, ...], int]) -> Row:
    """One row, its audio written."""
    out, seed, split, paths, index = part
    stock = _stock(paths)
    row, scene = draw_row(seed, index, split, stock)
    recording = render(scene, stock)
    write_audio(Path(out), recording)
    return with_audio(row, recording.id)
