"""An evaluation asks every question once, keeps every line, and can be scored again without a model."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from echo_audio import tags
from echo_audio.data.render import Stock, render
from echo_audio.data.scene import Source, Split
from echo_audio.data.scenes import draw_row, with_audio
from echo_audio.data.sounds import ProceduralBank
from echo_audio.engines.scripted import ScriptedEngine, ScriptedFamily
from echo_audio.errors import DataError, EngineError
from echo_audio.evaluation.base import Item, Sample
from echo_audio.evaluation.run import How, evaluate, read_samples
from echo_audio.evaluation.scenes import SceneItems, score, summary
from echo_audio.transcript import Mode, Played, Question

STOCK = Stock({Source.PROCEDURAL: ProceduralBank()})


class Family(ScriptedFamily):
    def prompt(self, question: Question, mode: Mode) -> str:
        return question.text


class Few:
    """Three questions; which items were made is remembered."""

    def __init__(self) -> None:
        self.rows = [draw_row(5, i, Split.TEST, STOCK, kind, 5.0)[0] for i, kind in enumerate(("after", "loudness", "count"))]
        self.scenes = [draw_row(5, i, Split.TEST, STOCK, kind, 5.0)[1] for i, kind in enumerate(("after", "loudness", "count"))]
        self.others: list[bool] = []

    def __len__(self) -> int:
        return 3

    def key(self, index: int) -> str:
        return self.rows[index].id

    def groups(self, index: int) -> dict[str, str]:
        return {}

    def item(self, index: int, with_other: bool = False) -> Item:
        self.others.append(with_other)
        recording = render(self.scenes[index], STOCK)
        return Item(with_audio(self.rows[index], recording.id), recording, recording if with_other else None)


def turns(items: Few, wrong: int | None = None) -> list[str]:
    """What a model says that knows everything, or gives one wrong answer."""
    out: list[str] = []
    for i, row in enumerate(items.rows):
        answer = next(c for c in row.choices if c != row.answer) if i == wrong else row.answer
        out += tags.split_at_segments(tags.compose(row.reasoning or "", answer))
    return out


def run(items: Few, script: list, how: How | None = None, **options) -> list[Sample]:
    return asyncio.run(evaluate(items, ScriptedEngine(script), Family(), how or How(), in_flight=1, **options))


def test_every_question_is_asked_and_judged() -> None:
    items = Few()
    samples = run(items, turns(items, wrong=1))
    assert [s.correct for s in samples] == [True, False, True]
    assert [s.key for s in samples] == [row.id for row in items.rows]
    assert all(s.well_formed and s.iou == 1.0 and s.n_heard == len(r.evidence) for s, r in zip(samples, items.rows, strict=True))
    assert not any(items.others), "the other recording is made only where it is played"


def test_a_swapped_pass_gets_another_recording() -> None:
    items = Few()
    run(items, turns(items), How(played=Played.SWAPPED))
    assert all(items.others)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    items, out = Few(), tmp_path / "crop.jsonl"
    first = turns(items)[: len(tags.split_at_segments(tags.compose(items.rows[0].reasoning or "", "x")))]
    with pytest.raises(EngineError):  # the script ends after the first question
        run(items, first, out=out, max_errors=0)
    assert len(out.read_text().splitlines()) == 1
    with out.open("a") as file:
        file.write('{"key": "torn')
    rest = turns(items)[len(first) :]
    samples = run(items, rest, out=out)
    assert all(s.correct for s in samples)
    kept = read_samples(out)
    assert len(out.read_text().splitlines()) == 3 and [kept[s.key] for s in samples] == samples


def test_an_engine_that_fails_is_counted_and_then_stops_the_run() -> None:
    items = Few()
    script: list = [EngineError("no memory"), EngineError("no memory"), *turns(items)[-5:]]
    with pytest.raises(EngineError, match="2 questions could not be asked"):
        run(items, script, max_errors=1)


def test_what_an_engine_failed_on_is_asked_again(tmp_path: Path) -> None:
    items, out = Few(), tmp_path / "crop.jsonl"
    said = turns(items)
    first = len(tags.split_at_segments(tags.compose(items.rows[0].reasoning or "", "x")))
    run(items, [EngineError("no memory"), *said[first:]], out=out)
    samples = run(items, said[:first], out=out)
    assert [s.correct for s in samples] == [True] * 3 and [read_samples(out)[s.key] for s in samples] == samples


def test_a_line_may_hold_what_python_takes_for_the_end_of_one(tmp_path: Path) -> None:
    items, out = Few(), tmp_path / "crop.jsonl"
    (sample, *_) = run(items, turns(items))
    out.write_text(replace(sample, given="a\u2028b\u0085c").to_line() + "\n", encoding="utf-8")
    assert read_samples(out)[sample.key].given == "a\u2028b\u0085c"


def test_a_damaged_line_is_named() -> None:
    with pytest.raises(DataError, match="delete the damaged line"):
        Sample.from_line('{"key": 1}')


def test_the_summary_has_every_published_key_with_its_interval() -> None:
    items = Few()
    truth, lost = run(items, turns(items)), run(items, turns(items, wrong=0), How(played=Played.SILENCED))
    out = summary(truth, {"silenced": lost})
    assert out["accuracy"]["value"] == 1.0 and out["silenced"]["value"] == pytest.approx(2 / 3, abs=1e-3)
    for name in ("accuracy", "well_formed", "mean_iou", "silenced"):
        assert out[name]["low"] <= out[name]["value"] <= out[name]["high"]
    assert set(out["by_type"]) == {"after", "loudness", "count"} and json.dumps(out)
    assert score(truth).n_heard.value == sum(len(row.evidence) for row in items.rows) / 3


def test_the_published_split_is_made_of_unseen_variants() -> None:
    items = SceneItems(STOCK, 40)
    for i in range(40):
        for event in items.row(i)[1].events:
            assert event.sound.variant >= 100
    assert sum(items.kinds().values()) == 40
