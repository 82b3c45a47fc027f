"""Scenes mixed where the model is: every sound rendered once into a table, every scene a few rows of numbers.

Rendering a scene takes a CPU core some 10 ms, of which nearly all goes into making its sounds anew. Training on
hundreds of thousands of scenes draws from a finite stock instead: the table holds each of its sounds in each length,
16 bits, end to end; a batch of scenes is put together from it on the GPU. The result is that of `render_int16` for
sounds of the table (`tests/training/test_mixing.py`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_audio.audio import SAMPLE_RATE
from echo_audio.data.clips import MAX_SHIFT, N_FILTERS, ClipBank
from echo_audio.data.render import BACKGROUNDS, PEAK, Stock, background_minute, background_start
from echo_audio.data.scene import Rhythm, Scene, Sound, Source, Split
from echo_audio.data.scenes import DRAWS
from echo_audio.data.sounds import LABELS, MAX_PULSES, MAX_SEMITONES, N_TIMBRES, PULSED, ProceduralBank, SampleCache
from echo_audio.errors import DataError

_TENTH = SAMPLE_RATE // 10
_UNIT = 4_000
"""A sample of 1.0 in the table: sounds have root mean square 1.0 and stay under 8.0."""

_FULL_SCALE = 32_768


# ---------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class _Entry:
    """A sound in all its lengths from `low` to `high` tenths, one after another from sample `base`."""

    sound: Sound
    low: int
    high: int
    base: int

    def at(self, tenths: int) -> int:
        """Where the rendering of that length begins."""
        return self.base + _TENTH * ((tenths * (tenths - 1) - self.low * (self.low - 1)) // 2)

    @property
    def end(self) -> int:
        """The first sample behind it."""
        return self.at(self.high + 1)


class SoundTable:
    """All training sounds of a stock.

    Args:
        stock: the sounds; where the table has no synthesis seed of its own for a sound, it gives another's.
        folder: of the file.
        n_variants: synthesis seeds of each procedural sound, at most those of the training split.
    """

    def __init__(self, stock: Stock, folder: Path, n_variants: int) -> None:
        self.folder, self.n_variants = folder, n_variants
        self._entries = {entry.sound: entry for entry in _entries(stock, n_variants)}
        self.n_samples = max(entry.end for entry in self._entries.values())

    @classmethod
    def build(cls, stock: Stock, folder: Path, n_variants: int, workers: int) -> SoundTable:
        """The table in that folder, rendered now unless the same one is there."""
        table = cls(stock, folder, n_variants)
        mark, path = folder / "table.json", folder / "table.i16"
        said = json.dumps({"format": 1, "draws": DRAWS, "sounds": _fingerprint(table._entries)})
        if mark.is_file() and mark.read_text(encoding="utf-8") == said and path.stat().st_size == 2 * table.n_samples:
            return table
        folder.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        np.memmap(part, np.int16, "w+", shape=(table.n_samples,)).flush()
        entries = list(table._entries.values())
        spawn = multiprocessing.get_context("spawn")  # a forked process with threads, as torch has them, may hang
        with ProcessPoolExecutor(max(1, workers), spawn, _open_part, (stock, part, table.n_samples)) as pool:
            for _ in pool.map(_render_entry, entries, chunksize=32):
                pass
        part.replace(path)
        mark.write_text(said, encoding="utf-8")
        return table

    def samples(self) -> Tensor:
        """The whole table, int16, mapped from its file."""
        return torch.from_file(str(self.folder / "table.i16"), shared=False, size=self.n_samples, dtype=torch.int16)

    def find(self, sound: Sound, n_samples: int) -> int:
        """Where a sound of that length begins.

        Raises:
            DataError: the table has no such sound.
        """
        if sound.source is Source.PROCEDURAL:
            sound = replace(sound, variant=sound.variant % self.n_variants)
        entry = self._entries.get(sound)
        if entry is None or not entry.low <= n_samples // _TENTH <= entry.high:
            raise DataError(f"the table has no {n_samples / SAMPLE_RATE:g} s of {sound}; build it from this stock")
        return entry.at(n_samples // _TENTH)


def _entries(stock: Stock, n_variants: int) -> Iterator[_Entry]:
    """Every training sound with its place in the table."""
    base = 0
    for sound in _sounds(stock, n_variants):
        low_s, high_s = stock.length_range_s(sound)
        entry = _Entry(sound, round(low_s * 10), round(high_s * 10), base)
        base = entry.end
        yield entry


def _sounds(stock: Stock, n_variants: int) -> Iterator[Sound]:
    for bank in stock.banks.values():
        if isinstance(bank, ProceduralBank):
            yield from _procedural(n_variants)
        elif isinstance(bank, ClipBank):
            for variant, clip in enumerate(bank.clips):
                if clip.split is Split.TRAIN:
                    for semitones in range(-MAX_SHIFT, MAX_SHIFT + 1):
                        for timbre in range(N_FILTERS):
                            yield Sound(clip.row.label, clip.row.source, variant, semitones, timbre)


def _procedural(n_variants: int) -> Iterator[Sound]:
    strokes = [(pulses, rhythm) for pulses in range(1, MAX_PULSES + 1) for rhythm in Rhythm]
    strokes = [(pulses, rhythm) for pulses, rhythm in strokes if pulses > 3 or rhythm is Rhythm.STEADY]
    for label in LABELS:
        for variant in range(n_variants):
            for semitones in range(-MAX_SEMITONES, MAX_SEMITONES + 1):
                for timbre in range(N_TIMBRES):
                    for pulses, rhythm in strokes if label in PULSED else [(0, Rhythm.STEADY)]:
                        yield Sound(label, Source.PROCEDURAL, variant, semitones, timbre, pulses, rhythm)


def _fingerprint(entries: Mapping[Sound, _Entry]) -> str:
    told = "\n".join(repr(entry) for entry in entries.values())
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


_PART: tuple[Stock, NDArray[np.int16]] | None = None


def _open_part(stock: Stock, path: Path, n_samples: int) -> None:
    """In a worker: the file to write to, and banks that keep nothing."""
    global _PART
    banks: dict[Source, Any] = dict(stock.banks)
    banks[Source.PROCEDURAL] = ProceduralBank(SampleCache(max_entries=1))
    _PART = Stock(banks), np.memmap(path, np.int16, "r+", shape=(n_samples,))


def _render_entry(entry: _Entry) -> None:
    assert _PART is not None
    stock, out = _PART
    for tenths in range(entry.low, entry.high + 1):
        samples = stock.samples(entry.sound, tenths * _TENTH)
        out[entry.at(tenths) : entry.at(tenths + 1)] = np.rint(np.clip(samples, -8.0, 8.0) * _UNIT)


# ---------------------------------------------------------------------------------------------- scenes as numbers


@dataclass(frozen=True, slots=True, eq=False)
class SceneMix:
    """A scene, ready to be mixed: all times in samples.

    Args:
        n_samples: length.
        background: index into BACKGROUNDS, start in its minute.
        background_gain: factor that brings it to its level.
        begins, lengths: of each event in the scene, (events,) int64.
        sources: where each event's sound begins in the table.
        gains: of each event, float32.
    """

    n_samples: int
    background: tuple[int, int]
    background_gain: float
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sources: NDArray[np.int64]
    gains: NDArray[np.float32]


def mix_of(scene: Scene, table: SoundTable) -> SceneMix:
    """What there is to mix.

    Raises:
        DataError: a sound that the table does not have.
    """
    n_samples, start = round(scene.duration_s * SAMPLE_RATE), background_start(scene.seed)
    power = _power(scene.background)
    level = np.sqrt((power[start + n_samples] - power[start]) / n_samples)
    begins = np.array([round(e.start_s * SAMPLE_RATE) for e in scene.events], np.int64)
    lengths = np.array([round(e.end_s * SAMPLE_RATE) for e in scene.events], np.int64) - begins
    return SceneMix(
        n_samples=n_samples,
        background=(BACKGROUNDS.index(scene.background), start),
        background_gain=float(10 ** (scene.background_db / 20) / max(level, 1e-12)),
        begins=begins,
        lengths=lengths,
        sources=np.array([table.find(e.sound, int(n)) for e, n in zip(scene.events, lengths, strict=True)], np.int64),
        gains=np.array([10 ** (e.level_db / 20) for e in scene.events], np.float32),
    )


@functools.lru_cache(maxsize=len(BACKGROUNDS))
def _power(kind: str) -> NDArray[np.float64]:
    """Sum of squares of a background's minute up to each sample."""
    return np.concatenate([[0.0], np.cumsum(background_minute(kind).astype(np.float64) ** 2)])


@functools.cache
def silence() -> SceneMix:
    """A scene without any sound, 30 s long."""
    none = np.zeros(0, np.int64)
    return SceneMix(30 * SAMPLE_RATE, (0, 0), 0.0, none, none, none, none.astype(np.float32))


def collate_mixes(mixes: Sequence[SceneMix]) -> dict[str, Any]:
    """Some scenes as one: times count from the start of a line of the longest, one line a scene."""
    longest = max(mix.n_samples for mix in mixes)
    lines = np.repeat(np.arange(len(mixes)) * longest, [len(mix.begins) for mix in mixes])
    return {
        "mix_longest": longest,
        "mix_n": torch.tensor([mix.n_samples for mix in mixes]),
        "mix_background": torch.tensor([mix.background for mix in mixes]),
        "mix_background_gain": torch.tensor([mix.background_gain for mix in mixes]),
        "mix_begins": torch.from_numpy(np.concatenate([mix.begins for mix in mixes]) + lines),
        "mix_lengths": torch.from_numpy(np.concatenate([mix.lengths for mix in mixes])),
        "mix_sources": torch.from_numpy(np.concatenate([mix.sources for mix in mixes])),
        "mix_gains": torch.from_numpy(np.concatenate([mix.gains for mix in mixes])),
        "mix_total": int(sum(int(mix.lengths.sum()) for mix in mixes)),
    }


class Mixer:
    """Mixes scenes on a device that holds the table and the backgrounds."""

    def __init__(self, table: SoundTable, device: torch.device) -> None:
        self.table = table.samples().to(device)
        minutes = np.stack([background_minute(kind) for kind in BACKGROUNDS])
        self.minutes = torch.from_numpy(minutes).to(device).flatten()
        self.n_minute = minutes.shape[1]

    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """The scenes of `collate_mixes`: (scenes, longest) float32 on the 16-bit grid, zero behind each end."""
        longest, device = batch["mix_longest"], self.table.device
        reach = torch.arange(longest, device=device)
        kind, start = batch["mix_background"].T
        mixed = self.minutes[(kind * self.n_minute + start)[:, None] + reach]
        mixed *= batch["mix_background_gain"][:, None]
        self._add_events(mixed, batch)
        mixed *= reach < batch["mix_n"][:, None]
        peak = mixed.abs().amax(1, keepdim=True).clamp_(min=1e-9)
        mixed *= _FULL_SCALE * (PEAK / peak).clamp_(max=1.0)
        return mixed.round_().div_(_FULL_SCALE)

    def _add_events(self, mixed: Tensor, batch: Mapping[str, Any]) -> None:
        lengths, total = batch["mix_lengths"], batch["mix_total"]
        event = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=total)
        offset = torch.arange(total, device=lengths.device) - (lengths.cumsum(0) - lengths)[event]
        sound = self.table[batch["mix_sources"][event] + offset].float()
        sound *= (batch["mix_gains"] / _UNIT)[event]
        mixed.view(-1).index_add_(0, batch["mix_begins"][event] + offset, sound)
