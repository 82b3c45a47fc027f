"""Every row of a store against its own grader and its audio, without a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from echo_audio import tags
from echo_audio.audio import Recording
from echo_audio.data.render import Stock, render
from echo_audio.data.rows import Row
from echo_audio.data.scene import Split
from echo_audio.data.scenes import draw_row, with_audio
from echo_audio.data.store import Store
from echo_audio.errors import DataError
from echo_audio.scoring.answers import strict_score

_TOLERANCE_S = 0.01
_TOLERANCE = 2 / 32_768  # of a sample: the same sums may be rounded otherwise on another machine


@dataclass(frozen=True, slots=True)
class Report:
    """What is wrong with a store.

    Args:
        n_rows: rows checked.
        problems: for each kind of problem the ids of its rows.
    """

    n_rows: int
    problems: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def validate(store: Store, on_row: Callable[[], None] = lambda: None, stock: Stock | None = None) -> Report:
    """Check every row of a store; nothing a row holds raises.

    Args:
        on_row: called after each row.
        stock: that of `generate.stock_of`: every scene is also drawn and rendered again and compared, which finds whatever
            was changed, a wrong answer as well.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for index in range(len(store)):
        try:
            row = store.row(index)
        except DataError:
            problems["row is damaged"].append(str(index))
            on_row()
            continue
        if row.id in seen:
            problems["id is not unique"].append(row.id)
        seen.add(row.id)
        try:
            recording = store.recording(row)
        except DataError:
            problems["audio is missing or damaged"].append(row.id)
            recording = None
        for problem in check_row(row, recording):
            problems[problem].append(row.id)
        for problem in _redrawn(row, recording, stock) if stock is not None else ():
            problems[problem].append(row.id)
        on_row()
    return Report(len(store), dict(problems))


def _redrawn(row: Row, recording: Recording | None, stock: Stock) -> Iterator[str]:
    """What differs from the row and the audio that its seed draws."""
    origin = row.provenance
    try:
        drawn, scene = draw_row(int(origin["seed"]), int(origin["index"]), Split(origin["split"]), stock)
    except (DataError, KeyError, TypeError, ValueError, OverflowError):
        yield "its seed draws no row"
        return
    if with_audio(drawn, row.audio_id) != row:
        yield "row is not what its seed draws"
    elif recording is not None:
        samples = render(scene, stock).samples
        if samples.shape != recording.samples.shape or np.abs(samples - recording.samples).max() > _TOLERANCE:
            yield "audio is not that of its scene"


def check_row(row: Row, recording: Recording | None = None) -> Iterator[str]:
    """What is wrong with one row, in words."""
    if row.choices:
        if not 2 <= len(row.choices) <= 10 or len(set(row.choices)) != len(row.choices):
            yield "choices are not 2 to 10 different texts"
        if row.choices.count(row.answer) != 1:
            yield "answer is not exactly one of the choices"
    if not row.question.strip() or not row.answer.strip():
        yield "question or answer is empty"
    if recording is not None and abs(recording.duration_s - row.duration_s) > _TOLERANCE_S:
        yield "duration is not that of the audio"
    if any(not 0 <= e.start_s < e.end_s <= row.duration_s + _TOLERANCE_S for e in (*row.events, *row.evidence)):
        yield "an event lies outside the recording"
    if row.reasoning is not None:
        yield from _check_reasoning(row, row.reasoning)


def _check_reasoning(row: Row, reasoning: str) -> Iterator[str]:
    response = tags.compose(reasoning, row.answer)
    if tags.check(response):
        yield "tags are not well formed"
    if not strict_score(response, row.answer, row.choices).correct:
        yield "its own grader does not accept the answer"
    times = [tag.times_s for tag in tags.find_tags(reasoning)]
    if any(t is None or not 0 <= t[0] < t[1] <= row.duration_s + _TOLERANCE_S for t in times):
        yield "a segment lies outside the recording"
    spans = [(event.start_s, event.end_s) for event in row.evidence]
    if "doubt" not in row.provenance and [t for t in times if t] != spans:
        yield "segments are not those of the evidence"
