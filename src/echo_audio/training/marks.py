"""What the auxiliary loss asks each audio token: which sound, how loud, and of procedural sounds also pitch, tone, strokes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from echo_audio.audio import SAMPLE_RATE
from echo_audio.data.scene import Event, Rhythm, Source
from echo_audio.data.sounds import MAX_PULSES, MAX_SEMITONES, N_TIMBRES
from echo_audio.data.wording import N_LOUDNESS_LEVELS, loudness_level

_SAMPLES_PER_TOKEN = SAMPLE_RATE // 25

Mark = tuple[int, int, int, int]


class Columns:
    """The columns: labels first, then the qualities.

    Args:
        labels: of the stock.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = {label: i for i, label in enumerate(labels)}
        self._pitch = len(labels) + MAX_SEMITONES
        self._timbre = self._pitch + MAX_SEMITONES + 1
        self._loudness = self._timbre + N_TIMBRES
        self._pulses = self._loudness + N_LOUDNESS_LEVELS - 1
        self._rhythm = self._pulses + MAX_PULSES + 1
        self.n = self._rhythm + len(Rhythm)

    def of(self, event: Event) -> tuple[int, ...]:
        """The columns that are true where the event sounds."""
        columns = (self._labels[event.label], self._loudness + loudness_level(event.level_db) - 1)
        if event.sound.source is not Source.PROCEDURAL:
            return columns
        columns = (*columns, self._pitch + event.sound.semitones, self._timbre + event.sound.timbre)
        if not event.sound.pulses:
            return columns
        return (*columns, self._pulses + event.sound.pulses, self._rhythm + list(Rhythm).index(event.sound.rhythm))

    def marks(self, clip: int, start: int, n_tokens: int, events: Sequence[Event]) -> Iterator[Mark]:
        """Clip number, first token, token behind the last, and column, for every event heard in a clip.

        Args:
            start: first sample of the clip in the scene.
        """
        for event in events:
            begin = round((event.start_s * SAMPLE_RATE - start) / _SAMPLES_PER_TOKEN)
            end = round((event.end_s * SAMPLE_RATE - start) / _SAMPLES_PER_TOKEN)
            begin, end = max(begin, 0), min(end, n_tokens)
            if begin < end:
                for column in self.of(event):
                    yield clip, begin, end, column
