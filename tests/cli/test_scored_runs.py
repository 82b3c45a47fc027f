"""`score`, `report` and `compare` on runs of scenes, on runs that are not finished, and on folders that are damaged."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from samples import sample

from echo_audio.data.stock import make_stock
from echo_audio.evaluation.base import Sample
from echo_audio.evaluation.scenes import TEST_SEED, SceneItems

RIGHT, WRONG = (f"<think>hm</think><answer>{a}</answer>" for a in ("man", "Woman"))


def scenes(folder: Path, said: str, n: int = 3, **changes) -> Path:
    """A run on scenes as `eval scenes --out` leaves it: no configuration, a file for each way of playing."""
    items = SceneItems(make_stock([]), n, seed=TEST_SEED)
    folder.mkdir()
    about = {"n": n, "seed": TEST_SEED, "mode": "interleaved", "model": "tiny", "banks": [], **changes}
    (folder / "run.json").write_text(json.dumps(about))
    some = [sample(f"q{i}", said, groups={}, kind=("gap", "first")[i % 2], config="") for i in range(n)]
    some = [replace(one, key=items.key(i)) for i, one in enumerate(some)]
    (folder / "crop.jsonl").write_text("".join(one.to_line() + "\n" for one in some))
    (folder / "silenced.jsonl").write_text(some[0].to_line() + "\n")
    return folder


def run_folder(folder: Path, *samples: Sample, **about) -> Path:
    """A run on a benchmark."""
    folder.mkdir()
    values = {"benchmark": "mmau-mini", "n": len(samples), "macro": "task", "has_truth": True, "config": "c", "title": "T"}
    values |= about
    (folder / "run.json").write_text(json.dumps(values))
    (folder / "samples.jsonl").write_text("".join(one.to_line() + "\n" for one in samples))
    return folder


def test_runs_on_scenes_are_scored_shown_and_compared(run, tmp_path):
    one, two = scenes(tmp_path / "one", RIGHT), scenes(tmp_path / "two", WRONG)
    said = run("score", one)
    assert said.code == 0 and "mean of 2 by kind" in said.out and "100.00" in said.out, said.err
    said = run("report", one, two, "--beside", two)
    assert said.code == 0, said.err
    data = json.loads(re.search(r'id="data">(.*?)</script>', (one / "report.html").read_text(), re.DOTALL)[1])
    assert all(s["audio"].startswith("data:audio/flac") and s["other"]["official"] is False for s in data["samples"])
    said = run("compare", one, two, "--json", tmp_path / "c.json")
    assert said.code == 0 and json.loads((tmp_path / "c.json").read_text())["all"]["official"]["only_first"] == 3
    assert json.loads((tmp_path / "c.json").read_text())["by"]["kind"]["gap"]["official"]["n"] == 2
    said = run("compare", one, two, "--played", "silenced", "--json", tmp_path / "c.json")
    assert said.code == 0 and json.loads((tmp_path / "c.json").read_text())["n"] == 1
    assert run("compare", one, two, "--played", "swapped").code == 2
    other = scenes(tmp_path / "other", RIGHT, seed=1)
    for verb in (("compare", one, other), ("report", one, "--beside", other)):
        said = run(*verb)
        assert said.code == 2 and "different questions (seed differ)" in said.err


def test_what_is_not_asked_yet_is_said(run, tmp_path):
    turned = [sample("q0", RIGHT), sample("q0", WRONG, rotation=1), sample("q0", RIGHT, repeat=1)]
    folder = run_folder(tmp_path / "r", *turned, n=2, how={"repeats": 2, "rotations": 0})
    said = run("score", folder)
    assert "1 of 2 questions were not asked" in said.out and "5 repeats or turned choices were not asked" in said.out
    assert run("report", folder).code == 0
    page = (folder / "report.html").read_text()
    assert "NOT COMPLETE: 1 of 2" in page and "NOT COMPLETE: 5 repeats" in page


def test_a_run_without_a_sample_has_no_score(run, tmp_path):
    folder = run_folder(tmp_path / "r", n=7)
    said = run("score", folder)
    assert said.code == 0 and "no question was asked yet" in said.out and "7 of 7" in said.out
    scores = json.loads((folder / "scores.json").read_text())
    assert "NaN" not in (folder / "scores.json").read_text() and scores["scored"] is False
    assert run("report", folder).code == 0 and run("compare", folder, folder).code == 2


def test_the_answers_to_a_test_split_are_looked_at(run, tmp_path):
    said = [sample(f"q{i}", WRONG if i < 24 else "no idea", answer="") for i in range(30)]
    folder = run_folder(tmp_path / "r", *said, has_truth=False)
    out = " ".join(run("score", folder).out.split())
    assert "ODD: 6 of 30 answers are empty" in out and "24 of 24 answers have the same place: choice 2" in out
    assert "have the same text: Woman" in out and "given, sound: choice 2 24, none 6" in out and "official" not in out
    assert run("report", folder).code == 0
    page = (folder / "report.html").read_text()
    assert "ODD: 24 of 24" in page and '"official": null' in page and '"official": false' not in page


DAMAGE = {
    "no JSON": lambda line: "{",
    "not UTF-8": lambda line: b"\xff\xfe",
    "a text for a transcript": lambda line: json.dumps({**json.loads(line), "transcript": "x"}),
    "another transcript": lambda line: json.dumps({**json.loads(line), "transcript": {"question": 1}}),
    "a step that is none": lambda line: json.dumps({**json.loads(line), "duration_s": "long"}),
    "a time that is none": lambda line: json.dumps({**json.loads(line), "duration_s": float("nan")}),
    "an unknown verdict": lambda line: json.dumps({**json.loads(line), "verdict": "maybe"}),
    "a list": lambda line: "[1]",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("verb", ["score", "report"])
def test_a_damaged_line_is_one_sentence(run, tmp_path, verb, damage):
    folder = run_folder(tmp_path / "r", sample("q0", RIGHT))
    line = DAMAGE[damage]((folder / "samples.jsonl").read_text().strip())
    with (folder / "samples.jsonl").open("ab") as file:
        file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    said = run(verb, folder)
    assert said.code == 2 and len(said.err.splitlines()) < 8 and "Traceback" not in said.err


ABOUTS = ["[]", "{", '{"how": 3}', '{"n": "x"}', '{"how": {"sampling": 1}}', '{"remarks": 5}', '{"groups": []}']


@pytest.mark.parametrize("about", ABOUTS)
def test_a_damaged_description_is_one_sentence(run, tmp_path, about):
    folder = run_folder(tmp_path / "r", sample("q0", RIGHT))
    (folder / "run.json").write_text(about)
    for verb in (("score", folder), ("report", folder), ("compare", folder, folder)):
        said = run(*verb)
        assert said.code == 2 and "Traceback" not in said.err


def test_lines_of_another_configuration_are_refused(run, tmp_path):
    folder = run_folder(tmp_path / "r", sample("q0", RIGHT), sample("q1", RIGHT, config="d"))
    said = run("score", folder)
    assert said.code == 2 and "mixes two runs" in said.err


def test_shards_are_joined_in_any_order(run, tmp_path):
    some = [sample(f"q{i}", RIGHT if i % 3 else WRONG, began_s=float(i)) for i in range(9)]
    texts = []
    for order in (1, -1):
        folder = run_folder(tmp_path / f"r{order}", n=9)
        (folder / "samples.jsonl").unlink()
        for part in range(3):
            lines = [one.to_line() for one in some[part::3]] + ([some[0].to_line()] if part == 1 else [])  # one was asked twice
            (folder / f"samples-{part + 1}-of-3.jsonl").write_text("".join(line + "\n" for line in lines[::order]))
        assert run("score", folder).code == 0
        texts.append((folder / "scores.json").read_text())
    assert texts[0] == texts[1] and json.loads(texts[0])["official"]["n"] == 9


def test_the_rule_of_a_script_that_takes_the_choice_itself(run, tmp_path):
    """The order of words is nothing to MMAU's rule, and all to a script that compares choices."""
    said = "<think>x</think><answer>near to far</answer>"
    swap = sample("q0", said, choices=("far to near", "near to far"), answer="far to near")
    for rule, right in (("words", 1.0), ("choice", 0.0)):
        folder = run_folder(tmp_path / f"swap-{rule}", swap, rule=rule)
        assert run("score", folder).code == 0
        assert json.loads((folder / "scores.json").read_text())["official"]["value"] == right


def test_a_line_is_read_back_as_it_was_written():
    one = sample("q0", RIGHT)
    assert asdict(Sample.from_line(one.to_line())) == asdict(one)


def test_a_pass_over_scenes_tells_its_speed_and_leaves_json(run, engine, tmp_path):
    options = ["--n", 2, "--model", "x", "--played", "silenced", "--json", tmp_path / "s.json", "--out", tmp_path / "run"]
    said = run("eval", "scenes", *options)
    assert said.code == 0 and "2 asked in" in said.err and "fewer than half of the 32 slots" in " ".join(said.err.split())
    text = (tmp_path / "s.json").read_text()
    assert "NaN" not in text and json.loads(text)["silenced"]["n"] == 2 and "accuracy" not in json.loads(text)
    asked = len(engine.requests)
    assert run("eval", "scenes", *options).code == 0 and len(engine.requests) == asked
    assert run("score", tmp_path / "run").code == 2, "there is no pass with the true audio"


def test_folders_that_cannot_be_made_are_one_sentence(run, engine, tmp_path):
    (tmp_path / "file").write_text("x")
    for verb in (
        ("eval", "scenes", "--n", 1, "--model", "x", "--out", tmp_path / "file"),
        ("eval", "scenes", "--n", 1, "--model", "x", "--played", "crop", "--json", tmp_path / "file" / "s.json"),
        ("score", run_folder(tmp_path / "r", sample("q0", RIGHT)), "--json", tmp_path / "file" / "s.json"),
    ):
        said = run(*verb)
        assert said.code == 2 and len(said.err.strip().splitlines()[-1:]) == 1 and "file" in said.err, said.err
