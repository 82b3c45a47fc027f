"""Where training rows come from: scenes drawn on the fly, or a store. Row `index` is always the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from echo_audio.audio import SAMPLE_RATE, Recording
from echo_audio.data.render import Stock, render_int16
from echo_audio.data.rows import Row
from echo_audio.data.scene import Scene, Split
from echo_audio.data.questions import KINDS
from echo_audio.data.questions.doubt import with_doubt, with_spoilt_audio
from echo_audio.data.scenes import KIND_NAMES, companions, default_weights, draw_row, plan
from echo_audio.data.transcripts import question_of, to_transcript
from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import DataError
from echo_audio.listen import Encoded
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.training.batch import Example, example_of
from echo_audio.training.settings import DataSettings
from echo_audio.transcript import Mode

_TOKENS_PER_S = 25


class Rows(Dataset[list[Example]]):
    """Rows as examples.

    Args:
        settings: what to train on.
        family: token rules of the model.
        answer_weight, segment_weight: weights of answer and times in the loss.
        labels: index of each label in the auxiliary loss; empty leaves it out.
    """

    def __init__(
        self,
        settings: DataSettings,
        family: Qwen25Omni,
        *,
        answer_weight: float = 1.0,
        segment_weight: float = 1.0,
        labels: Mapping[str, int] | None = None,
    ) -> None:
        self.settings, self.family = settings, family
        self.weights = {"answer_weight": answer_weight, "segment_weight": segment_weight}
        self.labels = dict(labels or {})

    def __len__(self) -> int:
        """Number of rows."""
        raise NotImplementedError

    def row(self, index: int) -> Row:
        """The row."""
        raise NotImplementedError

    def recording(self, index: int, row: Row) -> Recording:
        """Its audio."""
        raise NotImplementedError

    def companions(self, index: int, row: Row) -> tuple[Row, ...]:
        """Further rows about the same recording."""
        return ()

    def __getitem__(self, index: int) -> list[Example]:
        """The row, and its companions, as the model will see them."""
        row = self.row(index)
        recording = self.recording(index, row)
        return [self._example(index, one, recording) for one in (row, *self.companions(index, row))]

    def _example(self, index: int, row: Row, recording: Recording) -> Example:
        other = recording
        if "swap" in row.provenance.get("corrupt", {}).values():
            neighbour = (index + 1) % len(self)
            other = self.recording(neighbour, self.row(neighbour))
        encoded = self._encode(index, row, recording, other)
        frames = self._frames(row, encoded.clips[0].n_tokens) if self.labels else None
        return example_of(encoded, self.family.token_bytes, frames=frames, **self.weights)

    def length(self, index: int) -> int:
        """Tokens of the row and its companions when padded together, without making the audio."""
        row = self.row(index)
        blank = Recording(np.zeros(round(row.duration_s * SAMPLE_RATE), np.float32), "blank")
        rows = (row, *self.companions(index, row))
        return max(len(self._encode(index, one, blank, blank).ids) for one in rows) * len(rows)

    def _encode(self, index: int, row: Row, recording: Recording, other: Recording) -> Encoded:
        row = row.model_copy(update={"audio_id": recording.id, "duration_s": recording.duration_s})
        mode = self.mode(index, row)
        transcript = to_transcript(row, mode, self.family.prompt(question_of(row), mode))
        return TranscriptEncoder(self.family, recording, other).encode(transcript)

    def mode(self, index: int, row: Row) -> Mode:
        """The form of this row, drawn by its index."""
        names, shares = list(self.settings.modes), np.array(list(self.settings.modes.values()), float)
        if row.kind in _PERCEPTION:
            return Mode.GROUNDED
        rng = np.random.default_rng([self.settings.seed, index, 2])
        return names[int(rng.choice(len(names), p=shares / shares.sum()))]

    def _frames(self, row: Row, n_tokens: int) -> NDArray[np.uint8]:
        """Which labels sound in each audio token of 40 ms."""
        frames = np.zeros((n_tokens, len(self.labels)), np.uint8)
        for event in row.events:
            if event.label in self.labels:
                begin, end = round(event.start_s * _TOKENS_PER_S), round(event.end_s * _TOKENS_PER_S)
                frames[begin:end, self.labels[event.label]] = 1
        return frames


_PERCEPTION = frozenset(name for name, kind in KINDS.items() if kind.training_only)


class SceneRows(Rows):
    """Scenes drawn as they are needed: nothing is stored, and every row follows from (seed, index)."""

    def __init__(self, settings: DataSettings, family: Qwen25Omni, stock: Stock, **how: object) -> None:
        super().__init__(settings, family, **how)  # type: ignore[arg-type]
        self.stock = stock
        weights = default_weights(stock, Split.TRAIN) | settings.kinds
        self.kinds, self.durations_s = plan(settings.seed, settings.n_rows, Split.TRAIN, weights)

    def __len__(self) -> int:
        """Number of rows."""
        return self.settings.n_rows

    def row(self, index: int) -> Row:
        """Draw row `index`."""
        row = self._draw(index)[0]
        rng = np.random.default_rng([self.settings.seed, index, 3])
        if self.settings.doubt and row.kind not in _PERCEPTION and rng.random() < self.settings.doubt:
            spoil = with_doubt if rng.random() < 0.5 else with_spoilt_audio
            return spoil(row, rng) or row
        return row

    def companions(self, index: int, row: Row) -> tuple[Row, ...]:
        """Rows that list the scene and find one of its events, where the settings ask for them."""
        if not self.settings.companions or row.kind in _PERCEPTION:
            return ()
        return companions(row, self._draw(index)[1], self.stock)

    def recording(self, index: int, row: Row) -> Recording:
        """The scene's audio; its name is enough of an id here, so nothing is hashed."""
        name = f"scene-{self.settings.seed}-{index}"
        scene = self._draw(index)[1]
        samples = self._cached(name, scene) if self.settings.audio_cache else render_int16(scene, self.stock)
        return Recording(samples.astype(np.float32) / np.float32(32_768), name)

    def _draw(self, index: int) -> tuple[Row, Scene]:
        kind, duration_s = KIND_NAMES[self.kinds[index]], float(self.durations_s[index])
        return draw_row(self.settings.seed, index, Split.TRAIN, self.stock, kind=kind, duration_s=duration_s)

    def _cached(self, name: str, scene: Scene) -> NDArray[np.int16]:
        path = Path(self.settings.audio_cache) / f"{name}.i16"
        if path.exists():
            return np.fromfile(path, np.int16)
        samples = render_int16(scene, self.stock)
        part = path.with_suffix(f".{os.getpid()}")
        samples.tofile(part)
        part.replace(path)
        return samples


class StoreRows(Rows):
    """Rows of a store that have a reasoning."""

    def __init__(self, settings: DataSettings, family: Qwen25Omni, **how: object) -> None:
        super().__init__(settings, family, **how)  # type: ignore[arg-type]
        from echo_audio.data.store import Store  # here, so that drawing scenes needs no pyarrow

        self.store = Store(Path(settings.store))
        self.rows = [self.store.row(i) for i in range(len(self.store))]
        self.rows = [row for row in self.rows if row.reasoning is not None][: settings.n_rows]
        if not self.rows:
            raise DataError(f"no row of {settings.store} has a reasoning; supervised training needs written ones")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """Row `index` of those with a reasoning."""
        return self.rows[index]

    def recording(self, index: int, row: Row) -> Recording:
        """Its audio from the store."""
        return self.store.recording(row)


class _Lengths(Dataset[int]):
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return self.rows.length(index)


def lengths(rows: Rows, workers: int) -> NDArray[np.int64]:
    """Tokens of every row, counted by as many processes as the training will use."""
    loader = DataLoader(_Lengths(rows), batch_size=256, num_workers=workers, collate_fn=list)
    return np.fromiter((n for part in loader for n in part), np.int64, len(rows))
