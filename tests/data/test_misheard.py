"""The first hearing of a training row may differ from the second one, but only where the reasoning listens again first."""

from __future__ import annotations

import numpy as np
import pytest

from echo_audio.data.misheard import first_hearing
from echo_audio.data.scene import Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.stock import make_stock
from echo_audio.data.wording import the
from echo_audio.tags import find_tags

STOCK = make_stock([])


def _drawn(kind: str, index: int):
    row, scene = draw_row(11, index, Split.TRAIN, STOCK, kind)
    return row, scene, first_hearing(row, scene, STOCK, np.random.default_rng(index))


@pytest.mark.parametrize("kind", ["after", "before", "between", "at_time", "together"])
def test_only_what_is_named_after_its_segment_is_another_sound(kind: str) -> None:
    changed = 0
    for index in range(30):
        row, scene, first = _drawn(kind, index)
        assert row.reasoning is not None
        if first is None:
            continue
        starts = {event.start_s: tag for tag, event in zip(find_tags(row.reasoning), row.evidence, strict=True)}
        for true, heard in zip(scene.events, first.events, strict=True):
            assert (true.start_s, true.end_s, true.level_db) == (heard.start_s, heard.end_s, heard.level_db)
            if true != heard:
                changed += 1
                assert heard.label not in {event.label for event in scene.events}
                said = (row.question + row.reasoning[: starts[true.start_s].begin]).lower()
                assert the(true.label) not in said
    assert changed >= 20


@pytest.mark.parametrize("kind", ["loudness", "timbre", "pitch", "pulses", "rhythm"])
def test_what_is_judged_by_ear_keeps_its_name_and_its_time(kind: str) -> None:
    changed = 0
    for index in range(20):
        row, scene, first = _drawn(kind, index)
        if first is None:
            continue
        cited = {event.start_s for event in row.evidence}
        for true, heard in zip(scene.events, first.events, strict=True):
            assert (true.label, true.start_s, true.end_s) == (heard.label, heard.start_s, heard.end_s)
            assert true == heard or true.start_s in cited
            changed += true != heard
            low_s, high_s = STOCK.length_range_s(heard.sound)
            assert low_s - 1e-6 <= heard.end_s - heard.start_s <= high_s + 1e-6
    assert changed >= 20


@pytest.mark.parametrize("kind", ["faint", "list", "first"])
def test_rows_that_name_everything_first_are_left_alone(kind: str) -> None:
    assert all(_drawn(kind, index)[2] is None for index in range(10))
