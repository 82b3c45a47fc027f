"""`echo-audio demo`, and the recordings that ship with it."""

from __future__ import annotations

import json

import pytest

from echo_audio.audio import load
from echo_audio.cli import demo
from echo_audio.cli.session import has_tiny, read_items
from echo_audio.data.demo import LICENCE


def test_four_or_five_recordings_with_truths_and_a_licence():
    items = read_items(demo.FOLDER / demo.QUESTIONS)
    assert {item.audio.name for item in items} == {path.name for path in demo.FOLDER.glob("*.flac")}
    assert 4 <= len(items) <= 5
    for item in items:
        assert item.answer in item.choices
        assert item.meta["licence"] == LICENCE
        assert load(item.audio).id == item.meta["audio_id"]
    assert LICENCE in (demo.FOLDER / "README.md").read_text(encoding="utf-8")


def test_it_shows_each_with_its_truth_and_counts(run, engine):
    engine.turns = ("<think>x</think>\n<answer>engine</answer>",)
    said = run("demo")
    assert said.code == 0
    assert said.out.count("Answer: engine") == 4
    assert "wrong, the truth is: " in said.out
    assert "of 4 right in " in said.out
    assert "ask FILE" in said.out


def test_no_answer_is_exit_code_one(run, engine):
    engine.turns = ("hm",)
    assert run("demo").code == 1


def test_recordings_that_are_gone_are_made_anew(run, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    said = run("demo")
    assert (said.code, said.out) == (2, "")
    assert f"echo-audio demo --write {tmp_path}" in said.err
    assert run("demo", "--write", tmp_path).code == 0
    rows = [json.loads(line) for line in (tmp_path / demo.QUESTIONS).read_text().splitlines()]
    assert [load(tmp_path / row["audio"]).id for row in rows] == [row["audio_id"] for row in rows]
    assert run("demo").code == 0


@pytest.mark.slow
@pytest.mark.skipif(not has_tiny(), reason="the shipped model is not here")
def test_the_shipped_model_answers_all_of_them_and_listens_again(run):
    said = run("demo")
    assert said.code == 0, said.out
    assert "No answer" not in said.out
    assert "♪" in said.out
