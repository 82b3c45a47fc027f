"""What comes of a run: its page, its balance, and the rows for other trainers."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_engine import make, settings_of

from echo_audio.audio import Recording
from echo_audio.cli.session import read_items
from echo_audio.data.eaqa.balance import balances
from echo_audio.data.eaqa.bill import Line, estimate, total
from echo_audio.data.eaqa.facts import Facts, text_problem
from echo_audio.data.eaqa.journal import Outcome, Route
from echo_audio.data.eaqa.prompts import load_prompts
from echo_audio.data.eaqa.report import report
from echo_audio.data.eaqa.settings import EaqaSettings
from echo_audio.data.export import AUDIO, Audio, Format, export
from echo_audio.data.rows import KnownEvent, Row
from echo_audio.data.store import Store, StoreWriter, write_audio
from echo_audio.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), settings_of(16))


def page_of(made, outcomes=None) -> str:
    lines = [Line("write", "a <b>model</b>", 3, 100, 50, 1.25)]
    return report(made.folder, settings_of(16), load_prompts().kinds, outcomes or made.outcomes, lines)


def data_of(page: str) -> dict:
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])


def test_the_page_tells_mix_reasons_cost_and_samples_that_play(made):
    page = page_of(made)
    assert "a &lt;b&gt;model&lt;/b&gt;" in page and "1.25" in page and "wanted %" in page
    samples = data_of(page)["samples"]
    assert len(samples) == 16 and all(s["audio"].startswith("data:audio/flac") for s in samples if s["question"])
    sft = next(s for s in samples if s["route"] == "sft")
    spans = [part for part in sft["parts"] if not isinstance(part, str)]
    assert spans and all(0 <= a < b <= sft["duration_s"] for a, b in spans)
    assert any(name == "Judge, question" for name, _ in sft["notes"])


def test_what_a_row_holds_cannot_end_the_pages_script(made):
    evil = "</script><script>alert(1)</script>"
    row = next(o.row for o in made.outcomes if o.route is Route.SFT)
    outcome = Outcome(evil, (0, 0), Route.SFT, (evil,), evil, row.model_copy(update={"question": evil}))
    page = page_of(made, [outcome])
    assert evil not in page and data_of(page)["samples"][0]["question"] == evil


def test_answers_that_can_be_told_by_place_or_length_are_named():
    def row(i: int, answer: str, choices: tuple[str, ...]) -> Row:
        return Row(id=str(i), kind="x", question="q?", choices=choices, answer=answer, audio_id="0" * 32, duration_s=1)

    fair = [row(i, "ab"[i % 2], ("a", "b")) for i in range(60)]
    assert [list(b.remarks()) for b in balances(fair)] == [[]]
    first = [row(i, "aaa", ("aaa", "b", "c")) for i in range(60)]
    remarks = [remark for b in balances(first) for remark in b.remarks()]
    assert any("place 1" in r for r in remarks) and any("longest choice" in r for r in remarks)


def test_an_estimate_grows_with_rows_and_prices():
    values = {"sources": {"a": {"kind": "folder"}}, "write": {"endpoint": {"price_out": 10.0, "thinking_tokens": 1000}}}
    settings = EaqaSettings.model_validate(values)
    some = [Facts(10.0, (KnownEvent(label="bell", start_s=1, end_s=2),))]
    one, two = (estimate(settings, load_prompts(), some, n, n) for n in (1000, 2000))
    assert total(one) == pytest.approx(1000 * 1.2 * 1330 * 10 / 1e6) and total(two) == pytest.approx(2 * total(one))
    assert {line.stage for line in one} == {"write", "judge"}


EVENTS = [KnownEvent(label="Male speech, man speaking", start_s=0, end_s=1), KnownEvent(label="Bark (dog)", start_s=1, end_s=2)]
TEXT = "A man speaks in a room while a dog barks twice near the microphone."


@pytest.mark.parametrize(
    ("name", "text", "whole", "problem"),
    [
        ("description", TEXT, True, ""),
        ("description", TEXT[:-1], True, "description is cut off"),
        ("description", TEXT, False, "description is cut off"),
        ("speech", "No speech.", True, "speech denies what is labelled"),
        ("music", "No music.", True, ""),
        ("description", "The recording is silent from its start to its end.", True, "description denies what is labelled"),
        ("description", "A man speaks, and there is no bark at all.", True, "description denies what is labelled"),
        ("description", "bark bark bark bark bark bark bark.", True, "description repeats itself"),
        ("description", "Aaaaaaaaaaaaaaaaaaaaa.", True, "description repeats one character"),
        ("description", "<think>I listen.</think> It is a dog.", True, "description holds tags"),
    ],
)
def test_texts_about_a_recording_are_checked(name, text, whole, problem):
    assert text_problem(name, text, whole, EVENTS, exhaustive=True) == problem


def test_speech_that_is_not_labelled_is_refused_where_everything_is_labelled():
    text = "One woman speaks calmly in English."
    assert text_problem("speech", text, True, EVENTS[1:], exhaustive=True) and not text_problem("speech", text, True, [], True)
    assert not text_problem("speech", text, True, EVENTS[1:], exhaustive=False)


# ---------------------------------------------------------------------------------------------- export


def prompt(question) -> str:
    return f"{question.text} {'/'.join(question.choices)}"


def test_ms_swift_rows_are_messages_that_end_in_the_reasoning(made, tmp_path):
    store = Store(made.folder / "stores" / "sft")
    assert export(store, tmp_path / "a.jsonl", Format.MS_SWIFT, prompt) == len(store)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    row = store.row(0)
    user, assistant = lines[0]["messages"]
    assert user == {"role": "user", "content": f"{AUDIO}{row.question} {'/'.join(row.choices)}"}
    assert assistant["content"] == f"<think>{row.reasoning}</think>\n<answer>{row.answer}</answer>"
    assert lines[0]["audios"][0].startswith("/") and Counter(user["content"])["<"] == 1


@pytest.mark.parametrize("audio", list(Audio))
def test_verl_rows_hold_the_truth_and_the_recording(made, tmp_path, audio):
    store = Store(made.folder / "stores" / "sft")
    assert export(store, tmp_path / "a.parquet", Format.VERL, prompt, audio) == len(store)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    row = store.row(1)
    assert rows[1]["reward_model"] == {"style": "rule", "ground_truth": row.answer}
    assert rows[1]["extra_info"]["id"] == row.id and rows[1]["extra_info"]["choices"] == list(row.choices)
    held = rows[1]["audios"][0]
    assert held.endswith(f"{row.audio_id}.flac") if audio is Audio.PATHS else np.allclose(held, store.recording(row).samples)


def test_questions_are_those_that_ask_reads(made, tmp_path):
    store = Store(made.folder / "stores" / "rl")
    assert export(store, tmp_path / "q.jsonl", Format.QUESTIONS, prompt) == len(store)
    items = read_items(tmp_path / "q.jsonl")
    assert [(i.text, i.choices, i.answer) for i in items] == [(r.question, r.choices, r.answer) for r in store.rows()]
    assert all(item.audio.is_file() for item in items)


def test_what_cannot_be_exported_is_said_and_leaves_no_file(made, tmp_path):
    store, rl = (Store(made.folder / "stores" / route) for route in ("sft", "rl"))
    with pytest.raises(DataError, match=r"end in \.jsonl"):
        export(store, tmp_path / "a.json", Format.MS_SWIFT, prompt)
    with pytest.raises(ConfigError, match="by their files"):
        export(store, tmp_path / "a.jsonl", Format.MS_SWIFT, prompt, Audio.SAMPLES)
    with pytest.raises(DataError, match="nothing to imitate"):
        export(rl, tmp_path / "a.jsonl", Format.MS_SWIFT, prompt)
    recording = Recording(np.linspace(-1, 1, 16_000).round(2).astype(np.float32))
    odd = Row(id="1", kind="x", question="What is <audio>?", answer="a", audio_id=recording.id, duration_s=1.0)
    writer = StoreWriter(tmp_path / "odd", {})
    writer.append([odd])
    with pytest.raises(DataError, match="is missing"):
        export(Store(tmp_path / "odd"), tmp_path / "a.parquet", Format.VERL, prompt)
    write_audio(tmp_path / "odd", recording)
    with pytest.raises(DataError, match="stands for a recording"):
        export(Store(tmp_path / "odd"), tmp_path / "a.parquet", Format.VERL, prompt)
    assert [path.name for path in tmp_path.iterdir()] == ["odd"]
