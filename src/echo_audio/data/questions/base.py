"""What kinds of question share: the canvas that a scene is drawn on, and what a kind must give.

The law of every draw: first the scene and the choices, then which of the choices is asked for. Whatever can be read off
the scene without the question, or off the question without the scene, then says nothing about the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from echo_audio.data import wording
from echo_audio.data.scene import Event, Sound, Source, Split
from echo_audio.errors import DataError

T = TypeVar("T")

GAP = 2  # tenths of a second between neighbours
OVERLAP = -99  # as a fixed gap: the next one starts before this one ends
SAME_LABEL_GAP = 4  # and between two of the same label, so that they are heard as two
SAME_STROKES_GAP = 8  # and where these have strokes of their own: more than between two strokes of one
_ROOM = 8  # tenths an event needs at least: 0.6 s and a gap
_TRIES = 5


class NoRoomError(DataError):
    """The sounds drawn do not fit into the recording; the row maker draws again."""


class SoundBank(Protocol):
    """What drawing needs from a bank; `scene.Bank` and the labels that a split has."""

    def labels_for(self, split: Split) -> tuple[str, ...]:
        """Labels with variants in that split."""
        ...

    def draw(self, rng: np.random.Generator, label: str, split: Split) -> Sound:
        """A random sound of that label."""
        ...

    def length_range_s(self, sound: Sound) -> tuple[float, float]:
        """Shortest and longest natural length."""
        ...


@dataclass(frozen=True, slots=True)
class Palette:
    """The sounds that rows may use, by source.

    Args:
        banks: by source.
        labels: of the split, by source.
        pulsed: procedural labels made of strokes.
        tonal: procedural labels of one clear pitch.
    """

    banks: Mapping[Source, SoundBank]
    labels: Mapping[Source, tuple[str, ...]]
    split: Split
    pulsed: frozenset[str]
    tonal: frozenset[str]

    @property
    def digits(self) -> tuple[str, ...]:
        """Labels of spoken numbers."""
        return self.labels.get(Source.DIGIT, ())

    def of(self, *sources: Source) -> tuple[tuple[Source, str], ...]:
        """Every (source, label) of those sources."""
        return tuple((source, label) for source in sources for label in self.labels.get(source, ()))


@dataclass(frozen=True, slots=True)
class Asked:
    """A drawn question with its scene.

    Args:
        evidence: the event of each cited segment, in the order in which the reasoning cites them; a pause that is
            listened to counts as one, of a sound called silence.
        background_db: level of the background, None for the usual one.
    """

    events: tuple[Event, ...]
    question: str
    choices: tuple[str, ...]
    answer: str
    reasoning: str
    evidence: tuple[Event, ...]
    background_db: float | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of question.

    Args:
        draw: draws a scene and a question about it.
        weight: share of the rows, relative to other kinds.
        in_sound: the answer is only in the sound, not in names and times.
        training_only: teaches perception; has no choices and no place in a test.
        needs: sources of which at least one label must be there (and enough of them).
        asked: what the question itself asks about, which is no cue: "start", "length", "pause" after a choice, "count".
    """

    name: str
    draw: Callable[[Canvas], Asked]
    weight: float = 1.0
    in_sound: bool = False
    training_only: bool = False
    needs: tuple[Source, ...] = ()
    asked: frozenset[str] = frozenset()


class Canvas:
    """Random choices and a recording of fixed length to lay events on; times are whole tenths of a second inside."""

    def __init__(self, rng: np.random.Generator, tenths: int, palette: Palette) -> None:
        self.rng, self.tenths, self.palette = rng, tenths, palette
        self._pool: list[float] = []
        self.sources = self._sources()
        self.base_db = round(self.uniform(-34.0, -21.0), 1)

    # ------------------------------------------------------------------------------------------ random choices

    def random(self) -> float:
        """Uniform in [0, 1)."""
        if not self._pool:
            self._pool = self.rng.random(128).tolist()
        return self._pool.pop()

    def uniform(self, low: float, high: float) -> float:
        """Uniform between two numbers."""
        return low + (high - low) * self.random()

    def integer(self, low: int, high: int) -> int:
        """Uniform whole number, both ends included."""
        return low + int((high - low + 1) * self.random())

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(len(options) * self.random())]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = int((i + 1) * self.random())
            out[i], out[j] = out[j], out[i]
        return out

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """k different items in random order."""
        if k > len(items):
            raise NoRoomError(f"{k} different things are needed where there are only {len(items)}; give a larger stock")
        pool = list(items)
        out: list[T] = []
        for _ in range(k):
            out.append(pool.pop(int(len(pool) * self.random())))
        return out

    def say(self, templates: Sequence[str], **fields: object) -> str:
        """One of the templates, filled in."""
        return self.pick(templates).format(**fields)

    # ------------------------------------------------------------------------------------------ sounds

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return self.tenths / 10

    @property
    def room(self) -> int:
        """How many short events fit."""
        return (self.tenths + GAP) // _ROOM

    def size(self, least: int, most: int = 9) -> int:
        """A number of events that grows with the recording, from `least` to `most`."""
        grown = 3.0 + 5.0 * np.log(self.tenths / 40) / np.log(7.5) + self.uniform(-1.2, 1.5)
        return max(least, min(most, round(float(grown)), self.room))

    def _sources(self) -> tuple[Source, ...]:
        """Which stocks this scene mixes: one, or all of them."""
        there = [source for source, labels in self.palette.labels.items() if labels]
        big = [source for source in there if len(self.palette.labels[source]) >= 10 and source is not Source.DIGIT]
        if len(there) > 1 and big and self.chance(0.6):
            return (self.pick(big),)
        return tuple(there)

    def sounds(self, k: int, among: Sequence[tuple[Source, str]] | None = None, without: Sequence[str] = ()) -> list[Sound]:
        """k sounds of different labels that are short enough for the recording."""
        options = among if among is not None else self.palette.of(*self.sources)
        if without:
            options = [option for option in options if option[1] not in without]
        if among is None and len(options) < k:
            options = [option for option in self.palette.of(*self.palette.labels) if option[1] not in without]
        return self._short(options, k)

    def _short(self, options: Sequence[tuple[Source, str]], k: int) -> list[Sound]:
        """k sounds of the options; those too long for the recording come in only where there are not enough others."""
        taken: list[Sound] = []
        spare: list[tuple[float, Sound]] = []
        for source, label in self.sample(options, len(options)):
            if len(taken) == k:
                return taken
            sound = self.sound(source, label)
            shortest_s = self.palette.banks[source].length_range_s(sound)[0]
            if shortest_s <= self.cap_s:
                taken.append(sound)
            else:
                spare.append((shortest_s, sound))
        missing = k - len(taken)
        if missing > len(spare):
            raise NoRoomError(f"{k} different sounds are needed where there are only {len(options)}; give a larger stock")
        return self.shuffled([*taken, *(sound for _, sound in sorted(spare, key=lambda s: s[0])[:missing])])

    @property
    def cap_s(self) -> float:
        """How short a sound should be able to be, so that many fit."""
        return max(0.6, self.duration_s / 10)

    def sound(self, source: Source, label: str) -> Sound:
        """A sound of that label, short enough for the recording where there is one."""
        best: tuple[float, Sound] | None = None
        for _ in range(_TRIES):
            sound = self.palette.banks[source].draw(self.rng, label, self.palette.split)
            if sound.pulses > 3:
                sound = replace(sound, pulses=1 + sound.pulses % 3)
            shortest_s = self.palette.banks[source].length_range_s(sound)[0]
            if shortest_s <= self.cap_s:
                return sound
            if best is None or shortest_s < best[0]:
                best = (shortest_s, sound)
        assert best is not None
        return best[1]

    def procedural(self, labels: frozenset[str] | None = None, continuous: bool = False) -> list[tuple[Source, str]]:
        """The procedural labels, all or some."""
        options = self.palette.of(Source.PROCEDURAL)
        return [
            (source, label)
            for source, label in options
            if (labels is None or label in labels) and not (continuous and label in self.palette.pulsed)
        ]

    def repeatable(self) -> list[tuple[Source, str]]:
        """Labels that can be counted: what has strokes of its own is left out where anything else is there."""
        steady = self.procedural(continuous=True) if Source.PROCEDURAL in self.sources else []
        digits = list(self.palette.of(Source.DIGIT)) if Source.DIGIT in self.sources else []
        return steady + digits or list(self.palette.of(*self.sources))

    def lengths(self, sound: Sound) -> tuple[int, int]:
        """Shortest and longest natural length in tenths."""
        low_s, high_s = self.palette.banks[sound.source].length_range_s(sound)
        return round(low_s * 10), round(high_s * 10)

    # ------------------------------------------------------------------------------------------ laying out

    def line(
        self,
        sounds: Sequence[Sound],
        lengths: Mapping[int, int] | None = None,
        fixed: Mapping[int, int] | None = None,
        levels: Mapping[int, float] | None = None,
        least: int | None = None,
    ) -> list[Event]:
        """The sounds one after the other with random silences.

        Args:
            lengths: of some sounds (by index), in tenths; the others get random ones.
            fixed: exact gap after some sounds, in tenths; negative or OVERLAP where the next one overlaps.
            levels: of some sounds, in dB; the others get random ones.
            least: of every gap, in tenths; by default more between two of the same label, which then tells of them.

        Raises:
            NoRoomError: they do not fit.
        """
        fixed, levels = fixed or {}, levels or {}
        apart = [self._least_gap(sounds, i) if least is None else least for i in range(len(sounds) - 1)]
        got = self._fit(sounds, lengths or {}, self._gaps(apart, fixed))
        fixed = {i: -self.shared(got[i], got[i + 1]) if gap == OVERLAP else gap for i, gap in fixed.items()}
        gaps = self._gaps(apart, fixed)
        left = self.tenths - sum(got) - sum(gaps)
        free = [-1, *(i for i in range(len(gaps)) if i not in fixed), len(gaps)]
        cuts = sorted(int((left + 1) * self.random()) for _ in range(len(free) - 1))
        extra = dict(zip(free, [b - a for a, b in zip([0, *cuts], [*cuts, left], strict=True)], strict=True))
        events: list[Event] = []
        at = extra[-1]
        for i, (sound, length) in enumerate(zip(sounds, got, strict=True)):
            events.append(Event(sound, at / 10, (at + length) / 10, levels.get(i, self.level())))
            at += length + (gaps[i] if i < len(gaps) else 0) + extra.get(i, 0)
        return events

    @staticmethod
    def _gaps(apart: Sequence[int], fixed: Mapping[int, int]) -> list[int]:
        """The least gap after each sound; none where an overlap is not known yet."""
        return [(0 if fixed[i] == OVERLAP else fixed[i]) if i in fixed else gap for i, gap in enumerate(apart)]

    def _least_gap(self, sounds: Sequence[Sound], i: int) -> int:
        if sounds[i].label != sounds[i + 1].label:
            return GAP
        return SAME_STROKES_GAP if sounds[i].label in self.palette.pulsed else SAME_LABEL_GAP

    def _fit(self, sounds: Sequence[Sound], lengths: Mapping[int, int], gaps: Sequence[int]) -> list[int]:
        """Lengths in tenths: the given ones, and random ones that leave about a third of the rest silent."""
        ranges = [(lengths[i],) * 2 if i in lengths else self.lengths(s) for i, s in enumerate(sounds)]
        least = sum(low for low, _ in ranges)
        slack = self.tenths - least - sum(gaps)
        if slack < 0:
            raise NoRoomError(f"{len(sounds)} sounds need more than {self.duration_s:g} s")
        wish = [(high - low + 1) * self.random() for low, high in ranges]
        wish = [min(w, high - low) for w, (low, high) in zip(wish, ranges, strict=True)]
        scale = min(1.0, 0.65 * slack / max(sum(wish), 1e-9))
        return [low + int(w * scale) for w, (low, _) in zip(wish, ranges, strict=True)]

    def shared(self, first: int, second: int) -> int:
        """Tenths of a second that two overlapping sounds share; the second one starts and ends later."""
        top = max(1, min(first, second) - 1)
        return self.integer(min(2, top), top)

    def level(self) -> float:
        """A level within 9 dB around the scene's."""
        return round(self.base_db + self.uniform(-4.5, 4.5), 1)

    # ------------------------------------------------------------------------------------------ telling

    def opening(self, goal: str, probability: float = 0.85) -> str:
        """A first sentence that states the goal ("find ..."), or nothing."""
        return self.say(wording.OPENINGS, goal=goal) if self.chance(probability) else ""

    def heard(self, event: Event) -> str:
        """A true clause about how an event sounds."""
        return self.say(
            wording.HEARD,
            the=wording.the(event.label),
            length=wording.length_word(event),
            place=wording.place(event, self.duration_s),
        )

    def look(
        self,
        event: Event,
        name: str,
        heard: str | None = None,
        templates: Sequence[str] = wording.LOOKS,
        **fields: object,
    ) -> str:
        """A sentence that names an event ({n}), cites it ({s}), and says what is heard there ({h})."""
        h = heard if heard is not None else self.heard(event)
        capitals = {"N": wording.capital(name), "H": wording.capital(h)}
        return self.say(templates, n=name, s=wording.tag(event), h=h, **capitals, **fields)

    def against(self, heard: str, reference: str, verdict: str) -> str:
        """A clause with what is heard, set against a value from before, and judged at once."""
        return self.say(wording.VERDICTS, h=heard, r=reference, w=verdict)

    def conclusion(self, answer: str) -> str:
        """A last sentence with the answer."""
        return self.say(wording.CONCLUSIONS, a=answer)


def told(*sentences: str) -> str:
    """The sentences that are there, as one text."""
    return " ".join(sentence for sentence in sentences if sentence)
