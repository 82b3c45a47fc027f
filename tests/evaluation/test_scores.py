"""Scores by hand: denominators, micro and macro, repeats, turned choices, listening, two runs, and pages of hostile data."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from samples import ABOUT, failed, old_line, sample

from echo_audio.audio import Segment
from echo_audio.errors import DataError
from echo_audio.evaluation.base import Sample, Status, loudness_of
from echo_audio.evaluation.listening import coverage, histogram, overlap, where
from echo_audio.evaluation.report import report
from echo_audio.evaluation.report_samples import parts
from echo_audio.evaluation.scenes import score
from echo_audio.evaluation.scores import compare, length_bucket, scored_again, summarise
from echo_audio.evaluation.speed import Slots
from echo_audio.evaluation.statistics import macro
from echo_audio.scoring.extraction import extract_upstream

RIGHT, LETTER, WRONG, NONE = (f"<think>hm</think><answer>{a}</answer>" for a in ("man", "A", "Woman", "no idea"))
FOUR = [sample("q0", RIGHT), sample("q1", LETTER), sample("q2", NONE), failed("q3", Status.MISSING_AUDIO, "music")]


def test_what_was_not_read_or_not_asked_is_wrong_over_all():
    got = summarise(FOUR, ABOUT)
    assert (got["n"], got["answered"], got["unparsed"], got["missing_audio"], got["missing"]) == (4, 2, 1, 1, 0)
    assert got["official"]["value"] == 0.5 and got["official"]["n"] == 4
    assert got["strict"]["value"] == 0.25, "a letter is not the choice, word for word"
    assert got["steps"] == {"exact": 1, "letter": 1, "unparsed": 1} and got["rules_disagree"] == 1
    assert got["macro"]["official"]["value"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-4) and got["macro"]["over"] == "task"
    assert got["by"]["task"]["music"]["official"]["n"] == 1
    assert got["chance"] == {"uniform": 0.1875, "always_first": 0.75}, "what was not asked is wrong here too"
    assert got["distribution"] == {"choice 1": 2, "none": 2}
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    json.dumps(summarise([FOUR[3]], ABOUT), allow_nan=False)


def test_a_run_that_is_not_complete_says_so():
    assert summarise(FOUR[:2], ABOUT)["missing"] == 2


def test_without_truth_there_is_no_score():
    got = summarise([replace(s, official=None, answer=None) for s in FOUR], {**ABOUT, "has_truth": False})
    assert got["scored"] is False and "official" not in got and got["distribution"]["choice 1"] == 2


def test_upstream_extraction_credits_failures_with_the_first_choice():
    again = scored_again(FOUR, ABOUT, extract_upstream)
    assert [s.official for s in again] == [True, True, True, False], "the letter and the nonsense both become choice 1"
    assert summarise(again, ABOUT)["answered"] == 1
    assert scored_again(again, ABOUT)[2].official is False


def test_repeats_by_hand():
    said = {0: (RIGHT, RIGHT, WRONG), 1: (WRONG, RIGHT, WRONG), 2: (NONE, RIGHT, NONE)}
    some = [replace(sample(f"q{q}", text), repeat=r) for q, texts in said.items() for r, text in enumerate(texts)]
    got = summarise(some, ABOUT)["repeats"]
    assert got["k"] == 3 and got["avg"]["value"] == pytest.approx(4 / 9, abs=1e-4)
    assert got["majority"]["value"] == pytest.approx(2 / 3, abs=1e-4) and got["pass"]["value"] == 1.0
    assert summarise(some, ABOUT)["official"]["n"] == 3, "the headline rests on the first repeat"


def test_turned_choices_by_hand():
    said = {0: (RIGHT,) * 4, 1: (RIGHT, WRONG, WRONG, WRONG)}
    some = [replace(sample(f"q{q}", text), rotation=r) for q, texts in said.items() for r, text in enumerate(texts)]
    got = summarise(some, ABOUT)["rotations"]
    assert got["average_accuracy"]["value"] == 0.625 and got["all_rotations_correct"]["value"] == 0.5


def test_macro_is_the_mean_of_rates_and_its_interval_holds_it():
    got = macro([[True] * 90 + [False] * 10, [False] * 5 + [True] * 5, []])
    assert got.value == pytest.approx(0.7) and got.low < 0.7 < got.high and got.n == 110
    assert 0.1 < got.high - got.low < 0.4, "the small group makes it wide"


def test_listening_by_hand():
    one, two = Segment(0.0, 2.0), Segment(1.0, 3.0)
    some = [sample("q0", RIGHT, heard=(one, two)), sample("q1", WRONG, heard=(one,)), sample("q2", RIGHT)]
    assert coverage([one, two], 10.0) == pytest.approx(0.3) and overlap([one, two]) == pytest.approx(0.25)
    assert where(some)[:4] == [2.0, 3.0, 1.0, 0.0] and sum(where(some)) == 6.0
    got = summarise(some, ABOUT)["listening"]
    assert got["segments_per_answer"]["value"] == 1.0 and got["seconds_per_segment"]["value"] == 2.0
    assert got["with_at_least"] == {"1": 0.6667, "2": 0.3333, "3": 0.0}
    assert [got["accuracy_by_segments"][n]["value"] for n in "012"] == [1.0, 0.0, 1.0]
    assert got["accuracy_with"]["value"] == 0.5 and got["accuracy_without"]["value"] == 1.0
    assert histogram([0.0, 0.05, 0.999, 1.0])[::9] == [2, 2]


def test_two_runs_are_paired_by_question():
    other = [sample("q0", RIGHT), sample("q1", RIGHT), sample("q2", RIGHT), sample("q9", RIGHT)]
    got = compare(FOUR, other)
    assert (got["n"], got["only_in_one"]) == (3, 2)
    assert got["all"]["official"]["only_second"] == 1 and got["all"]["strict"]["only_second"] == 2
    assert got["by"]["task"]["sound"]["official"]["n"] == 3
    with pytest.raises(DataError, match="share no question"):
        compare(FOUR[:1], other[3:])


def test_lines_of_older_runs_are_still_read():
    old = Sample.from_line(old_line(FOUR[0]))
    assert old.status is Status.OK and old.correct and old.official is None and old.groups == {}
    assert scored_again([replace(old, answer="Man")], ABOUT)[0].official is True


@pytest.mark.parametrize("duration_s", [0.5, 3.99, 4.0, 30.0, 30.1, 31.0, 4000.0])
def test_every_length_has_a_bucket(duration_s):
    one = replace(FOUR[0], duration_s=duration_s)
    assert len(score([one]).by_length) == 1
    assert length_bucket(one) != "not asked"


def test_loudness_is_one_digit_a_bin():
    from helpers import noise

    got = loudness_of(noise(1.0))
    assert len(got) == 160 and "z" in got and "0" not in got


def test_how_full_the_batch_was(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("echo_audio.evaluation.speed.time.monotonic", lambda: now[0])
    slots = Slots(4, began_s=0.0, _last_s=0.0)
    with slots.taken():
        now[0] = 3.0
        with slots.taken(), slots.taken():
            now[0] = 4.0
    got = slots.speed(2, 8.0, 100)
    assert (got.wall_s, got.half_empty, got.filled) == (4.0, 0.75, 0.375)
    assert got.to_json()["real_time_factor"] == 2.0


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>{{data}}$\\frac{"


def test_nothing_of_a_data_file_becomes_markup():
    one = sample("q0", f"<think>{EVIL}</think><answer>{EVIL}</answer>", task=EVIL, choices=(EVIL, "b"), answer=EVIL)
    two = replace(sample("q1", WRONG, task="$x"), detail=EVIL)
    page = report({**ABOUT, "title": EVIL, "remarks": [EVIL], "model": EVIL, "n": 2}, [one, two], ({"model": EVIL}, [one, two]))
    assert page.count("<script") == 2 and "<img" not in page and page.count("</script>") == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["samples"][0]["answer"] == EVIL and EVIL in data["samples"][0]["response"]
    assert data["samples"][0]["other"]["official"] is True


def test_the_page_has_the_segments_where_they_were_written():
    one = sample("q0", RIGHT, heard=(Segment(1.0, 2.0),))
    data = json.loads(re.search(r'id="data">(.*?)</script>', report(ABOUT, [one]), re.DOTALL)[1])
    assert data["samples"][0]["parts"] == ["", [1.0, 2.0, "crop"], RIGHT] and data["samples"][0]["audio"] == ""


def test_a_page_shows_the_beginning_of_a_text_without_end():
    long = "word " * 1_000_000
    one = sample("q0", RIGHT, choices=("Man", long), answer=long)
    page = report(ABOUT, [one])
    assert len(page) < 500_000 and "4996000 characters more" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["samples"][0]
    assert data["answer"] == data["choices"][1] and len(data["answer"]) < 4100


def test_the_page_says_what_was_played_for_each_segment():
    one = sample("q0", RIGHT, heard=(Segment(1.0, 2.0), Segment(3.0, 99.0)))
    said = "<think><seg>1.0, 2.0</seg><seg>1.0, 2.0</seg><seg>3.0, 99.0</seg><seg>50, 60</seg></think>"
    spans = one.transcript["spans"]
    spans[-2]["segment"]["end_s"] = 10.0  # clamped
    told = [part for part in parts(said, one) if not isinstance(part, str)]
    assert told == [[1.0, 2.0, "crop"], [1.0, 2.0, ""], [3.0, 10.0, "crop"], [50.0, 60.0, ""]], "a repeat was refused"
    assert [part[2] for part in parts(said, one, "silence") if not isinstance(part, str)] == ["silenced", "", "silenced", ""]
    for span in spans:
        span["played"] = "withheld"
    assert [part[2] for part in parts(said, one) if not isinstance(part, str)] == ["withheld", "", "withheld", ""]
    one.transcript.update(mode="grounded", spans=[])
    assert {part[2] for part in parts(said, one) if not isinstance(part, str)} == {"withheld"}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["this run", "the other run"]),
        ({"how": {"hear": "silence"}}, ["this run (hears recording)", "the other run (hears silence)"]),
        ({"model": "big"}, ["this run (tiny)", "the other run (big)"]),
    ],
)
def test_two_runs_are_called_by_what_differs(changes, names):
    about = {**ABOUT, "model": "tiny", "how": {"hear": "recording"}}
    page = report(about, [FOUR[0]], ({**about, **changes}, [FOUR[0]]))
    assert json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["names"] == names
