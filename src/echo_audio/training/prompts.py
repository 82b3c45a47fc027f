"""What is asked in a GRPO run: which row at which place of which step, and its recording.

Everything follows from the seed and the place, so a run that is resumed asks the same, on any number of processes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from echo_audio.audio import Recording
from echo_audio.data.questions import KINDS
from echo_audio.data.render import Stock, render
from echo_audio.data.rows import Row
from echo_audio.data.scene import Split
from echo_audio.data.scenes import with_audio
from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import DataError
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.training.grpo_settings import PromptSettings
from echo_audio.training.settings import DataSettings, TrainSettings
from echo_audio.training.sources import Form, SceneRows


@dataclass(frozen=True, slots=True)
class Place:
    """Where a prompt stands: one of the prompts of a step, and the how-manieth try of it.

    Args:
        step: from 0.
        slot: from 0, below `rollout.prompts`.
        attempt: 0, and one more whenever its group had no variance and was replaced.
    """

    step: int
    slot: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question with its recording, at its place."""

    place: Place
    row: Row
    recording: Recording
    _encoders: list[TranscriptEncoder] = field(default_factory=list, init=False, repr=False, compare=False)

    def encoder(self, family: Qwen25Omni) -> TranscriptEncoder:
        """The one encoder of a group: its prompt is tokenized once, a segment cut and hashed once, whoever asks for it."""
        if not self._encoders or self._encoders[0].family is not family:
            self._encoders[:] = [TranscriptEncoder(family, self.recording)]
        return self._encoders[0]


class Rows(Protocol):
    """Rows to choose prompts from."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def row(self, index: int) -> tuple[Row, Recording]:
        """A row with its recording."""
        ...


class DrawnRows:
    """Scenes of the training split, drawn and rendered when they are asked for.

    The kinds that only supervised training has (list all, find one) are not asked unless they are named: their answers are
    free texts, and one letter off they earn as little as a wrong choice.
    """

    def __init__(self, settings: PromptSettings, family: Qwen25Omni, stock: Stock) -> None:
        unnamed = {name: 0.0 for name, kind in KINDS.items() if settings.only or kind.training_only}
        shared = settings.model_dump(include={"seed", "n_rows", "banks", "recorded", "longest_s"})
        data = DataSettings.model_validate(shared | {"kinds": unnamed | settings.kinds})
        self.scenes, self.stock = SceneRows(Form(family, data, TrainSettings()), stock), stock

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.scenes)

    def row(self, index: int) -> tuple[Row, Recording]:
        """A row with its recording."""
        row, scene = self.scenes.draw(index)
        recording = render(scene, self.stock)
        return with_audio(row, recording.id), recording


class StoredRows:
    """Rows of a store, with or without a reasoning.

    Raises:
        DataError: the store is empty, or holds rows of the test split.
    """

    def __init__(self, settings: PromptSettings) -> None:
        from echo_audio.data.store import Store  # here, so that drawing scenes needs no pyarrow

        self.store = Store(Path(settings.store))
        self.n = min(len(self.store), settings.n_rows)
        if not self.n:
            raise DataError(f"{settings.store} holds no rows; make some with `echo-audio data scenes`")
        self._train_only(self.store.row(0))

    def __len__(self) -> int:
        """Number of rows."""
        return self.n

    def row(self, index: int) -> tuple[Row, Recording]:
        """A row with its recording."""
        row = self.store.row(index)
        self._train_only(row)
        return row, self.store.recording(row)

    @staticmethod
    def _train_only(row: Row) -> None:
        if row.provenance.get("split") == Split.TEST.value:
            raise DataError(f"row {row.id} is of the test split; train on a store made with --split train")


class Prompts:
    """The prompts of a run.

    Args:
        rows: to choose from.
        seed: of the order.
        per_step: prompts of one step.
    """

    def __init__(self, rows: Rows, seed: int, per_step: int) -> None:
        self.rows, self.seed, self.per_step = rows, seed, per_step
        self._ahead: dict[Place, Future[Prompt]] = {}
        self._thread = ThreadPoolExecutor(1, "echo-prompts")

    def index(self, place: Place) -> int:
        """Which row: each pass over the rows takes every one once; those that replace others are drawn freely."""
        n = len(self.rows)
        if place.attempt:
            return int(np.random.default_rng([self.seed, 11, place.step, place.slot, place.attempt]).integers(n))
        epoch, at = divmod(place.step * self.per_step + place.slot, n)
        return int(_order(self.seed, epoch, n)[at])

    def at(self, place: Place) -> Prompt:
        """The prompt of a place."""
        made = self._ahead.pop(place, None)
        return self._make(place) if made is None else made.result()

    def prepare(self, places: Iterable[Place]) -> None:
        """Make prompts that are asked for next, in a thread, while the device learns; those prepared before are forgotten."""
        self.close()
        self._ahead = {place: self._thread.submit(self._make, place) for place in places}

    def close(self) -> None:
        """Make no more prompts ahead."""
        for made in self._ahead.values():
            made.cancel()
        self._ahead.clear()

    def _make(self, place: Place) -> Prompt:
        return Prompt(place, *self.rows.row(self.index(place)))


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 10, epoch]).permutation(n)
