"""Where training rows come from: scenes drawn on the fly, or a store. Row `index` is always the same."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echo_audio.audio import SAMPLE_RATE, Recording
from echo_audio.data.misheard import first_hearing
from echo_audio.data.questions import KINDS
from echo_audio.data.questions.doubt import with_doubt, with_spoilt_audio
from echo_audio.data.render import Stock, render
from echo_audio.data.rows import Row
from echo_audio.data.scene import Scene, Source, Split
from echo_audio.data.scenes import KIND_NAMES, companions, default_weights, draw_row, plan
from echo_audio.data.transcripts import question_of, to_transcript
from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import DataError
from echo_audio.listen import Encoded
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.training.batch import Cut, Example, Mixed, example_of
from echo_audio.training.marks import Columns, Mark
from echo_audio.training.mixing import SoundTable, mix_of
from echo_audio.training.settings import DataSettings, TrainSettings
from echo_audio.transcript import Heard, Mode, Played, Transcript

_PERCEPTION = frozenset(name for name, kind in KINDS.items() if kind.training_only)


@dataclass(frozen=True)
class Form:
    """How a row becomes an example.

    Args:
        family: token rules of the model.
        data, train: the settings of the run.
        words: what finds words that weigh more than others, and how much.
    """

    family: Qwen25Omni
    data: DataSettings
    train: TrainSettings
    words: tuple[tuple[re.Pattern[bytes], float], ...] = ()

    def mode(self, index: int, row: Row) -> Mode:
        """The form of this row, drawn by its index; companions, which teach perception, hear the recording once."""
        if row.kind in _PERCEPTION and self.data.companions:
            return Mode.GROUNDED
        modes = self.data.modes
        rng = np.random.default_rng([self.data.seed, index, 2])
        shares = np.array(list(modes.values()), float)
        return list(modes)[int(rng.choice(len(shares), p=shares / shares.sum()))]

    def transcript(self, row: Row, mode: Mode) -> Transcript:
        """The row's written reasoning, as the model is to write it."""
        return to_transcript(row, mode, self.family.prompt(question_of(row), mode))

    def example(self, encoded: Encoded, audio: Mixed | None = None, marks: tuple[Mark, ...] = ()) -> Example:
        """With the weights of the run."""
        return example_of(
            encoded,
            self.family.token_bytes,
            answer_weight=self.train.answer_weight,
            segment_weight=self.train.segment_weight,
            words=self.words,
            audio=audio,
            marks=marks,
        )


class SceneRows:
    """Scenes drawn as they are needed: nothing is stored, and every row follows from (seed, index).

    Args:
        form: how rows become examples.
        stock: the sounds.
        table: the same sounds rendered beforehand; without it, each scene is rendered here.
        columns: of the auxiliary loss; None leaves it out.
    """

    def __init__(
        self, form: Form, stock: Stock, table: SoundTable | None = None, columns: Columns | None = None
    ) -> None:
        self.form, self.stock, self.table, self.columns = form, stock, table, columns
        self.procedural = Stock({Source.PROCEDURAL: stock.banks[Source.PROCEDURAL]})
        data = form.data
        weights = default_weights(stock, Split.TRAIN) | data.kinds
        self.kinds, durations_s = plan(data.seed, data.n_rows, Split.TRAIN, weights)
        self.durations_s = _shortened(durations_s, data.longest_s)
        self.n_first = min(data.short_first, data.n_rows)
        self.durations_s[: self.n_first] = _shortened(durations_s[: self.n_first], data.short_s)

    def __len__(self) -> int:
        """Number of scenes."""
        return self.form.data.n_rows

    def draw(self, index: int) -> tuple[Row, Scene]:
        """Row and scene `index`; some rows are made to doubt."""
        data = self.form.data
        kind, duration_s = KIND_NAMES[self.kinds[index]], float(self.durations_s[index])
        rng = np.random.default_rng([data.seed, index, 3])
        plain = rng.random() >= data.recorded and Source.DIGIT not in KINDS[kind].needs
        stock = self.procedural if plain else self.stock
        row, scene = draw_row(data.seed, index, Split.TRAIN, stock, kind=kind, duration_s=duration_s)
        if row.kind in _PERCEPTION:
            return row, scene
        chance = rng.random()
        if chance < data.doubt:
            row = with_doubt(row, rng) or row
        elif chance < data.doubt + data.spoilt:
            row = with_spoilt_audio(row, rng) or row
        return row, scene

    def examples(self, index: int) -> list[Example]:
        """The row, and its companions, as the model will see them."""
        row, scene = self.draw(index)
        rows = [row]
        if self.form.data.companions and row.kind not in _PERCEPTION:
            rows += companions(row, scene, self.stock)
        make = self._rendered if self.table is None else self._mixed
        return list(make(index, rows, scene))

    def _rendered(self, index: int, rows: list[Row], scene: Scene) -> Iterator[Example]:
        """With samples made here."""
        recording = render(scene, self.stock)
        for row in rows:
            mode = self.form.mode(index, row)
            transcript = self.form.transcript(row.model_copy(update={"audio_id": recording.id}), mode)
            other = render(self._neighbour(index), self.stock) if _swaps(transcript) else None
            encoded = TranscriptEncoder(self.form.family, recording, other).encode(transcript)
            first = self._first(index, row, mode, scene)
            if first is not scene:
                whole = replace(encoded.clips[0], recording=render(first, self.stock))
                encoded = replace(encoded, clips=(whole, *encoded.clips[1:]))
            yield self.form.example(encoded, marks=self._marks(transcript, encoded, scene, first))

    def _mixed(self, index: int, rows: list[Row], scene: Scene) -> Iterator[Example]:
        """With scenes to be mixed where the model is; encoding needs only how long everything is."""
        assert self.table is not None
        blank = _blank(round(scene.duration_s * SAMPLE_RATE))
        mix = mix_of(scene, self.table)
        for row in rows:
            mode = self.form.mode(index, row)
            transcript = self.form.transcript(row.model_copy(update={"audio_id": blank.id}), mode)
            mixes = (mix, mix_of(self._neighbour(index), self.table)) if _swaps(transcript) else (mix,)
            encoded = TranscriptEncoder(self.form.family, blank, blank).encode(transcript)
            cuts = _cuts(transcript, encoded, mixes[-1].n_samples)
            first = self._first(index, row, mode, scene)
            if first is not scene:
                cuts = (replace(cuts[0], scene=len(mixes)), *cuts[1:])
                mixes = (*mixes, mix_of(first, self.table))
            yield self.form.example(encoded, Mixed(mixes, cuts), self._marks(transcript, encoded, scene, first))

    def _first(self, index: int, row: Row, mode: Mode, scene: Scene) -> Scene:
        """What the recording holds when it is heard at first: the scene itself, or another where it is misheard."""
        rng = np.random.default_rng([self.form.data.seed, index, 4])
        if mode is not Mode.INTERLEAVED or rng.random() >= self.form.data.misheard:
            return scene
        return first_hearing(row, scene, self.stock, rng) or scene

    def _neighbour(self, index: int) -> Scene:
        """Another scene, to be played where a segment is swapped."""
        return self.draw((index + 1) % len(self))[1]

    def _marks(self, transcript: Transcript, encoded: Encoded, scene: Scene, first: Scene) -> tuple[Mark, ...]:
        """What sounds in each clip that plays this scene; the first clip is the whole recording as it is heard at first."""
        if self.columns is None:
            return ()
        marks: list[Mark] = []
        for i, (heard, clip) in enumerate(zip(_heard(transcript), encoded.clips, strict=True)):
            if heard.played is Played.CROP:
                start = round(heard.segment.start_s * SAMPLE_RATE)
                marks += self.columns.marks(i, start, clip.n_tokens, (scene if i else first).events)
        return tuple(marks)


def _shortened(durations_s: NDArray[np.float64], longest_s: float) -> NDArray[np.float64]:
    """Durations from 4 s up to `longest_s`, in the same proportions."""
    shortest_s, most_s = 4.0, 30.0
    share = np.log(durations_s / shortest_s) / np.log(most_s / shortest_s)
    return np.round(shortest_s * (longest_s / shortest_s) ** share, 1)


@functools.lru_cache(maxsize=512)
def _blank(n_samples: int) -> Recording:
    return Recording(np.zeros(n_samples, np.float32), "blank")


def _heard(transcript: Transcript) -> list[Heard]:
    return [span for span in transcript.spans if isinstance(span, Heard) and span.played is not Played.WITHHELD]


def _swaps(transcript: Transcript) -> bool:
    return any(heard.played is Played.SWAPPED for heard in _heard(transcript))


def _cuts(transcript: Transcript, encoded: Encoded, n_other: int) -> tuple[Cut, ...]:
    """Where each clip is cut from: scene 0 is the transcript's, scene 1 what is played where it is swapped."""
    cuts: list[Cut] = []
    for heard, clip in zip(_heard(transcript), encoded.clips, strict=True):
        start, n = round(heard.segment.start_s * SAMPLE_RATE), clip.recording.n_samples
        if heard.played is Played.SWAPPED:
            cuts.append(Cut(1, start % max(1, n_other - n + 1), n))
        else:
            cuts.append(Cut(None, 0, n) if heard.played is Played.SILENCED else Cut(0, start, n))
    return tuple(cuts)


class StoreRows:
    """Rows of a store that have a reasoning.

    Args:
        form: how rows become examples.

    Raises:
        DataError: none of the rows has a reasoning.
    """

    def __init__(self, form: Form) -> None:
        from echo_audio.data.store import Store  # here, so that drawing scenes needs no pyarrow

        self.form, self.store = form, Store(Path(form.data.store))
        rows = (self.store.row(i) for i in range(len(self.store)))
        self.rows = [row for row in rows if row.reasoning is not None][: form.data.n_rows]
        if not self.rows:
            raise DataError(f"no row of {form.data.store} has a reasoning; supervised training needs written ones")
        self.durations_s = np.array([row.duration_s for row in self.rows])
        self.n_first = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def examples(self, index: int) -> list[Example]:
        """Row `index` of those with a reasoning."""
        row = self.rows[index]
        recording = self.store.recording(row)
        transcript = self.form.transcript(row, self.form.mode(index, row))
        other = self.store.recording(self.rows[(index + 1) % len(self)]) if _swaps(transcript) else None
        return [self.form.example(TranscriptEncoder(self.form.family, recording, other).encode(transcript))]
