"""Drawing rows: a scene with exactly known times, a question about it, its answer and a true reasoning.

Row `index` of `seed` and split is always the same row, whatever was drawn before it. Its kind and its duration come
first, from hashes of their own: `plan` tells them for hundreds of thousands of rows without drawing any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from echo_audio.data.questions import KINDS, Asked, Canvas, Kind, NoRoomError, Palette
from echo_audio.data.questions.base import SoundBank
from echo_audio.data.questions.perception import list_of, locate_one
from echo_audio.data.rows import KnownEvent, Row
from echo_audio.data.scene import Event, Rhythm, Scene, Sound, Source, Split
from echo_audio.data.sounds import PULSED, TONAL
from echo_audio.errors import DataError

DRAWS = 4
"""Raised whenever a seed draws other rows than before. A store is continued by, and compared with, its own draws only."""

SHORTEST_S = 4.0
LONGEST_S = 30.0
BACKGROUNDS = ("white", "pink", "brown", "hum", "wind")
KIND_NAMES: tuple[str, ...] = tuple(KINDS)

_SALT = {Split.TRAIN: 0x7472_6169, Split.TEST: 0x7465_7374}
_ATTEMPTS = 40
_MASK = (1 << 64) - 1


class SoundStock(Protocol):
    """Where the sounds come from: banks by source, as in `render.Stock`."""

    @property
    def banks(self) -> Mapping[Source, SoundBank]:
        """The banks."""
        ...


def palette_of(stock: SoundStock, split: Split) -> Palette:
    """What a split may draw from a stock."""
    labels = {source: tuple(bank.labels_for(split)) for source, bank in stock.banks.items()}
    return Palette(stock.banks, labels, split, PULSED, TONAL)


def default_weights(stock: SoundStock, split: Split) -> dict[str, float]:
    """The share of each kind: only what the stock has sounds for, and in a test nothing that is for training only."""
    palette = palette_of(stock, split)
    return {
        kind.name: kind.weight
        for kind in KINDS.values()
        if not (kind.training_only and split is Split.TEST) and all(len(palette.of(source)) >= 4 for source in kind.needs)
    }


# ---------------------------------------------------------------------------------------------- the plan


def _uniform(seed: int, indices: NDArray[np.uint64], split: Split, stream: int) -> NDArray[np.float64]:
    """A hash of (seed, split, stream, index) as numbers in [0, 1): the finaliser of SplitMix64, twice."""
    start = np.uint64(
        (seed * 0x9E37_79B9_7F4A_7C15 + _SALT[split] * 0xD1B5_4A32_D192_ED03 + stream * 0x8CB9_2BA7_2F3D_8DD7) & _MASK
    )
    with np.errstate(over="ignore"):
        z = _mixed(_mixed(indices + start) + np.uint64(0x9E37_79B9_7F4A_7C15))
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))


def plan(
    seed: int, n: int, split: Split, weights: Mapping[str, float], start: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Kind (index into KIND_NAMES) and duration in seconds of the rows start to start + n; shapes (n,).

    Raises:
        DataError: a weight of a kind that there is not, or no weight above zero.
    """
    unknown = [name for name in weights if name not in KINDS]
    if unknown or not any(weight > 0 for weight in weights.values()):
        raise DataError(f"weights {dict(weights)} must name some of {', '.join(KIND_NAMES)}, one of them above zero")
    indices = np.arange(start, start + n, dtype=np.uint64)
    shares = np.cumsum([weights.get(name, 0.0) for name in KIND_NAMES])
    kinds = np.searchsorted(shares / shares[-1], _uniform(seed, indices, split, 1), side="right")
    return kinds, durations(seed, n, split, start)


def durations(seed: int, n: int, split: Split, start: int = 0) -> NDArray[np.float64]:
    """Durations in seconds on the 0.1 s grid, shape (n,): 4 to 30, as many from 4 to 8 as from 15 to 30."""
    share = _uniform(seed, np.arange(start, start + n, dtype=np.uint64), split, 2)
    return np.round(SHORTEST_S * (LONGEST_S / SHORTEST_S) ** share, 1)


# ---------------------------------------------------------------------------------------------- rows


def draw_row(
    seed: int, index: int, split: Split, stock: SoundStock, kind: str | None = None, duration_s: float | None = None
) -> tuple[Row, Scene]:
    """One row and its scene, the same for the same arguments. `audio_id` is empty until `with_audio`.

    Args:
        kind, duration_s: by default those of `plan` with the `default_weights` of the stock.

    Raises:
        DataError: a kind that there is not, a duration outside 4 to 30 s, or a stock that is too small for the kind.
    """
    if kind is None:
        kind = KIND_NAMES[int(plan(seed, 1, split, default_weights(stock, split), index)[0][0])]
    if kind not in KINDS:
        raise DataError(f"there is no kind of question '{kind}'; choose one of {', '.join(KIND_NAMES)}")
    if duration_s is None:
        duration_s = float(durations(seed, 1, split, index)[0])
    if not SHORTEST_S <= duration_s <= LONGEST_S:
        raise DataError(f"a scene lasts {SHORTEST_S:g} to {LONGEST_S:g} s, not {duration_s:g}")
    tenths = round(duration_s * 10)
    rng = np.random.default_rng([_SALT[split], seed & _MASK, index, KIND_NAMES.index(kind), tenths])
    asked = _drawn(rng, tenths, palette_of(stock, split), KINDS[kind])
    scene = _scene(rng, asked, tenths / 10)
    return _row(asked, scene, kind, {"source": "scenes", "seed": seed, "index": index, "split": split.value}), scene


def companions(row: Row, scene: Scene, stock: SoundStock) -> tuple[Row, ...]:
    """Perception rows about the scene of another row: list it, and find one event. For training only.

    None for a scene with an event that is too faint to be heard in the whole recording.
    """
    if row.kind == "faint":
        return ()
    origin = {name: row.provenance[name] for name in ("source", "seed", "index", "split")}
    split = Split(origin["split"])
    tenths = round(scene.duration_s * 10)
    rng = np.random.default_rng([_SALT[split], origin["seed"] & _MASK, origin["index"], 997])
    canvas = Canvas(rng, tenths, palette_of(stock, split))
    told = (("list", list_of), ("locate", locate_one))
    rows = (_row(ask(canvas, list(scene.events)), scene, kind, origin) for kind, ask in told)
    return tuple(made.model_copy(update={"id": f"{row.id}-{made.kind}"}) for made in rows)


def _drawn(rng: np.random.Generator, tenths: int, palette: Palette, kind: Kind) -> Asked:
    """The first draw that fits."""
    last: NoRoomError | None = None
    for attempt in range(_ATTEMPTS):
        canvas = Canvas(rng, tenths, palette)
        if attempt >= 10:
            canvas.sources = tuple(source for source, labels in palette.labels.items() if labels)
        try:
            return kind.draw(canvas)
        except NoRoomError as error:
            last = error
    raise DataError(f"no '{kind.name}' question fits into {tenths / 10:g} s with this stock: {last}") from last


def _scene(rng: np.random.Generator, asked: Asked, duration_s: float) -> Scene:
    usual_db = min(event.level_db for event in asked.events) - float(rng.uniform(14.0, 33.0))
    return Scene(
        duration_s=duration_s,
        events=asked.events,
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        background_db=round(usual_db if asked.background_db is None else asked.background_db, 1),
        seed=int(rng.integers(2**31)),
    )


def _known(event: Event) -> KnownEvent:
    return KnownEvent(label=event.label, start_s=event.start_s, end_s=event.end_s)


def _row(asked: Asked, scene: Scene, kind: str, origin: dict[str, Any]) -> Row:
    return Row(
        id=f"scenes-{origin['split']}-{origin['seed']}-{origin['index']}",
        kind=kind,
        question=asked.question,
        choices=asked.choices,
        answer=asked.answer,
        audio_id="",
        duration_s=scene.duration_s,
        reasoning=asked.reasoning,
        events=tuple(_known(event) for event in scene.events),
        evidence=tuple(_known(event) for event in asked.evidence),
        provenance={**origin, "scene": scene_to_json(scene)},
    )


def with_audio(row: Row, recording_id: str) -> Row:
    """The row with the id of its rendered recording."""
    return row.model_copy(update={"audio_id": recording_id})


# ---------------------------------------------------------------------------------------------- scenes as JSON


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """The scene as plain values for `Row.provenance`."""
    return {
        "duration_s": scene.duration_s,
        "background": scene.background,
        "background_db": scene.background_db,
        "seed": scene.seed,
        "events": [_event_to_json(event) for event in scene.events],
    }


def _event_to_json(event: Event) -> dict[str, Any]:
    sound = event.sound
    return {
        "label": sound.label,
        "source": sound.source.value,
        "variant": sound.variant,
        "semitones": sound.semitones,
        "timbre": sound.timbre,
        "pulses": sound.pulses,
        "rhythm": sound.rhythm.value,
        "start_s": event.start_s,
        "end_s": event.end_s,
        "level_db": event.level_db,
    }


def scene_from_json(values: Mapping[str, Any]) -> Scene:
    """The inverse of `scene_to_json`.

    Raises:
        DataError: a field is missing or has a value that no scene has.
    """
    try:
        return Scene(
            duration_s=float(values["duration_s"]),
            events=tuple(_event_from_json(event) for event in values["events"]),
            background=str(values["background"]),
            background_db=float(values["background_db"]),
            seed=int(values["seed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a scene ({error!r}); give what scene_to_json wrote") from error


def _event_from_json(values: Mapping[str, Any]) -> Event:
    sound = Sound(
        label=str(values["label"]),
        source=Source(values["source"]),
        variant=int(values["variant"]),
        semitones=int(values["semitones"]),
        timbre=int(values["timbre"]),
        pulses=int(values["pulses"]),
        rhythm=Rhythm(values["rhythm"]),
    )
    return Event(sound, float(values["start_s"]), float(values["end_s"]), float(values["level_db"]))
