"""`eval BENCHMARK`, `score`, `report`, `compare` against written turns: files, resume, shards, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from echo_audio.audio import SAMPLE_RATE, Recording, save_wav
from echo_audio.evaluation import items as items_module
from echo_audio.evaluation.export import as_official_script
from echo_audio.models import folders

ANSWERS = ("a bell", "a dog", "a bell", "a cow", "a bell")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five questions of MMAU-mini's form, each with its own sound; the scripted model says "a bell" to all."""
    folder = tmp_path / "data"
    (folder / "test-mini-audios").mkdir(parents=True)
    rows = []
    for i, answer in enumerate(ANSWERS):
        samples = np.random.default_rng(i).standard_normal(2 * SAMPLE_RATE + i) * 0.1
        save_wav(Recording(samples.astype(np.float32)), folder / "test-mini-audios" / f"{i}.wav")
        rows.append({
            "id": f"q{i}", "audio_id": f"./test-mini-audios/{i}.wav", "question": "What?",
            "choices": ["a dog", "a bell", "a cow"], "answer": answer,
            "dataset": "x", "task": ("sound", "music")[i % 2], "split": "test-mini", "category": "Reasoning",
            "sub-category": "y", "difficulty": "easy",
        })  # fmt: skip
    (folder / "mmau-test-mini.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def evaluate(run, engine, data, tmp_path):
    def evaluate(*options, out="run", name="mmau-mini"):
        return run("eval", name, "--data", data, "--out", tmp_path / out, "--model", "x", *options)

    return evaluate


def lines(folder: Path, name="samples.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().split("\n") if line]


def test_a_run_leaves_scores_samples_and_a_submission(evaluate, tmp_path):
    said = evaluate("--json", tmp_path / "scores.json")
    assert said.code == 0, said.err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["official"]["value"] == scores["strict"]["value"] == 0.6 and scores["macro"]["official"]["value"] == 0.5
    assert scores["version"] == "unknown" and "UNKNOWN VERSION" in said.out and "UNKNOWN VERSION" in said.err
    assert "fewer than half of the 32 slots" in " ".join(said.err.split())
    kept = lines(tmp_path / "run")
    assert [s["index"] for s in sorted(kept, key=lambda s: s["index"])] == list(range(5))
    assert all(s["n_heard"] == 1 and s["step"] == "exact" and s["audio"]["rate_hz"] == 16000 for s in kept)
    rows = json.loads((tmp_path / "run" / "submission.json").read_text())
    assert as_official_script(rows, "model_output", ("task",))["total"] == (3, 5)


def test_a_resumed_run_decodes_and_asks_only_what_is_left(evaluate, engine, tmp_path, monkeypatch):
    assert evaluate().code == 0
    path = tmp_path / "run" / "samples.jsonl"
    whole = path.read_bytes()
    keep = whole.split(b"\n")[:3]
    path.write_bytes(b"\n".join([*keep, whole.split(b"\n")[3][:40]]))  # killed within its fourth line
    loaded, asked = [], len(engine.requests)
    load = items_module.load
    monkeypatch.setattr(items_module, "load", lambda path, **options: loaded.append(path) or load(path, **options))
    assert evaluate().code == 0
    assert len(loaded) == 2 and len(engine.requests) == asked + 4
    again = path.read_bytes().split(b"\n")
    assert again[:3] == keep and sorted(json.loads(line)["key"] for line in again[:-1]) == [f"q{i}" for i in range(5)]


def test_parts_make_the_same_run_as_one(evaluate, tmp_path):
    assert evaluate(out="whole").code == 0
    assert evaluate("--shard", "2/2", out="parts").code == 1, "not complete yet"
    assert not (tmp_path / "parts" / "submission.json").exists()
    assert evaluate("--shard", "1/2", out="parts").code == 0
    files = [json.loads((tmp_path / name / "scores.json").read_text()) for name in ("whole", "parts")]
    assert files[0] == files[1]
    assert len(lines(tmp_path / "parts", "samples-1-of-2.jsonl")) == 3
    assert len({(tmp_path / n / "submission.json").read_bytes() for n in ("whole", "parts")}) == 1


def test_a_run_that_was_begun_whole_goes_on_in_parts(evaluate, engine, tmp_path):
    assert evaluate().code == 0
    path = tmp_path / "run" / "samples.jsonl"
    whole, scores = path.read_text().splitlines(), (tmp_path / "run" / "scores.json").read_text()
    path.write_text("".join(line + "\n" for line in whole if json.loads(line)["index"] in (0, 3)))
    asked = len(engine.requests)
    assert evaluate("--shard", "1/2").code == 1 and evaluate("--shard", "2/2").code == 0
    assert len(engine.requests) == asked + 3 * 2, "two turns for each of the three that were not there"
    assert (tmp_path / "run" / "scores.json").read_text() == scores


def test_what_the_model_cannot_hear_is_not_decoded(evaluate, data, tmp_path):
    save_wav(Recording(np.full(301 * SAMPLE_RATE, 0.1, np.float32)), data / "test-mini-audios" / "0.wav")
    assert evaluate().code == 1
    first = next(s for s in lines(tmp_path / "run") if s["key"] == "q0")
    assert first["status"] == "bad_audio" and "301.0 s, over the limit of 300 s" in first["detail"]


def test_another_setting_does_not_mix_into_a_run(evaluate):
    assert evaluate("--n", 2).code == 0
    said = evaluate("--n", 2, "--hear", "silence")
    assert said.code == 2 and "a run with another how" in said.err


def test_bad_audio_is_the_status_of_one_sample(evaluate, data, tmp_path):
    (data / "test-mini-audios" / "0.wav").write_bytes(b"RIFF, but not really")
    (data / "test-mini-audios" / "1.wav").unlink()
    said = evaluate()
    assert said.code == 1 and "1 missing audio, 1 bad audio" in " ".join(said.out.split())
    status = {s["key"]: s["status"] for s in lines(tmp_path / "run")}
    assert status == {"q0": "bad_audio", "q1": "missing_audio", "q2": "ok", "q3": "ok", "q4": "ok"}
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["official"]["value"] == 0.4 and scores["official"]["n"] == 5
    assert scores["by"]["task"]["music"]["official"]["n"] == 2


def test_records_that_are_no_question_are_counted_and_the_others_asked(evaluate, data, tmp_path):
    rows = json.loads((data / "mmau-test-mini.json").read_text())
    rows[1]["choices"], rows[2]["id"] = "a dog", "q0"
    (data / "mmau-test-mini.json").write_text(json.dumps(rows))
    said = evaluate()
    assert said.code == 1 and "1 bad question" in " ".join(said.out.split()), said.err
    assert "records that are no question: 1" in said.out and "ids that are there twice: 1" in said.out
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["official"]["value"] == 0.6 and scores["official"]["n"] == 5
    said = evaluate("--max-errors", 0, out="other")
    assert said.code == 2 and "1 records are no question" in said.err and "--max-errors 1" in said.err


def test_too_much_that_is_missing_ends_it_before_anything_is_asked(evaluate, data, engine):
    for path in (data / "test-mini-audios").iterdir():
        path.unlink()
    said = evaluate("--max-errors", 4)
    assert said.code == 2 and "5 of 5 recordings are missing (./test-mini-audios/0.wav is not in" in said.err
    assert not engine.requests
    (data / "test-mini-audios").rmdir()
    (data / "test-mini-audios").symlink_to(data.parent)
    said = evaluate("--max-errors", 4)
    assert said.code == 2 and "a link out of the data folder" in said.err and "--questions" in said.err


def test_a_path_out_of_the_folder_is_never_opened(evaluate, data, tmp_path):
    rows = json.loads((data / "mmau-test-mini.json").read_text())
    save_wav(Recording(np.full(SAMPLE_RATE, 0.1, np.float32)), tmp_path / "secret.wav")
    rows[0]["audio_id"] = "../secret.wav"
    (data / "mmau-test-mini.json").write_text(json.dumps(rows))
    assert evaluate().code == 1
    first = next(s for s in lines(tmp_path / "run") if s["key"] == "q0")
    assert first["status"] == "bad_audio" and "leads out of the data folder" in first["detail"] and not first["transcript"]


@pytest.mark.parametrize("hear", ["nothing", "silence"])
def test_baselines_hear_nothing(evaluate, engine, hear):
    assert evaluate("--hear", hear, "--n", 1).code == 0
    clips = [clip for request in engine.requests for clip in request.encoded.clips]
    assert not any(np.abs(clip.recording.samples).max() for clip in clips)
    assert bool(clips) is (hear == "silence")


def test_repeats_have_seeds_of_their_own_and_turns_their_order(evaluate, engine, tmp_path):
    assert evaluate("--repeats", 2).code == 2, "greedy repeats are the same answer"
    assert evaluate("--repeats", 2, "--temperature", 1, "--n", 2).code == 0
    assert len({request.sampling.seed for request in engine.requests}) == 3, "the first repeats share the seed given"
    assert evaluate("--rotate", "--n", 2, out="turned").code == 0
    shown = {tuple(s["transcript"]["question"]["choices"]) for s in lines(tmp_path / "turned")}
    assert len(shown) == 3
    assert evaluate("--rotate", "--n", 2, out="turned").code == 0
    assert len(lines(tmp_path / "turned")) == 6


def test_a_test_split_without_truth_is_not_scored(evaluate, data, tmp_path):
    rows = json.loads((data / "mmau-test-mini.json").read_text())
    (data / "mmau-test.json").write_text(json.dumps([row | {"answer": ""} for row in rows]))
    said = evaluate(name="mmau")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert said.code == 0 and not scores["scored"] and "official" not in scores
    assert {row["model_output"] for row in json.loads((tmp_path / "run" / "submission.json").read_text())} == {"a bell"}


def test_score_report_and_compare_need_no_model(evaluate, run, tmp_path):
    assert evaluate().code == 0 and evaluate("--hear", "silence", out="silent").code == 0
    before = (tmp_path / "run" / "scores.json").read_bytes()
    said = run("score", tmp_path / "run")
    assert said.code == 0 and "0 of 5 verdicts differ" in said.err
    assert (tmp_path / "run" / "scores.json").read_bytes() == before
    said = run("score", tmp_path / "run", "--extraction", "upstream")
    assert "UPSTREAM EXTRACTION" in said.out and (tmp_path / "run" / "scores-upstream.json").is_file()
    said = run("report", tmp_path / "run", "--beside", tmp_path / "silent", "--embed-mb", 0.2)
    assert said.code == 0, said.err
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:audio/wav;base64,") == 3 and page.count('"audio": "file://') == 2
    said = run("compare", tmp_path / "run", tmp_path / "silent", "--json", tmp_path / "pair.json")
    assert said.code == 0 and json.loads((tmp_path / "pair.json").read_text())["all"]["official"]["p_value"] == 1.0


def test_a_second_writer_is_refused(evaluate, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    assert evaluate("--n", 1).code == 0
    with (tmp_path / "run" / "samples.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = evaluate("--n", 1)
    assert said.code == 2 and "another process is writing" in said.err


def test_the_commit_of_a_hub_model_is_part_of_the_configuration(evaluate, tmp_path, monkeypatch):
    """The same hub id at another commit is another model, and does not mix into the run."""
    cache = tmp_path / "models--us--model" / "snapshots"
    configs = []
    for commit in ("aaa", "bbb"):
        (cache / commit).mkdir(parents=True)
        (cache / commit / "model.safetensors").write_text(commit)
        monkeypatch.setattr(folders, "resolve", lambda _, commit=commit: cache / commit)
        assert evaluate("--model", "us/model", out=commit).code == 0
        about = json.loads((tmp_path / commit / "run.json").read_text())
        assert (about["model"], about["revision"]) == ("us/model", commit)
        configs.append(about["config"])
    assert configs[0] != configs[1]
