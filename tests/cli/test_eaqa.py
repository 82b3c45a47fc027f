"""`echo-audio data eaqa` as a person starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from echo_audio.data.eaqa.test_server import Behaviour, Fault, serving

CONFIG = Path(__file__).parents[2] / "configs" / "smoke-eaqa.toml"
FEW = ("sources.scenes.n=5", "sources.scenes.longest_s=6.0")


def test_the_smoke_config_makes_rows_that_are_valid_and_tells_what_it_did(run, tmp_path):
    done = run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path / 'rows'}")
    assert done.code == 0, done.err
    assert "The estimate" in done.out and "The bill" in done.out and " sft, " in done.out
    told = json.loads((tmp_path / "rows" / "summary.json").read_text())
    assert sum(told["routes"].values()) == 5 and {line["stage"] for line in told["bill"]} >= {"write", "judge", "description"}
    assert run("data", "validate", tmp_path / "rows" / "stores" / "sft").code == 0
    again = run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path / 'rows'}")
    assert again.code == 0 and "The estimate" not in again.out, "nothing is left to be paid for"


def test_the_estimate_asks_nobody_and_writes_nothing(run, tmp_path):
    wanted = ("write.endpoint.url=https://nowhere.invalid/v1", "write.endpoint.price_out=1000", f"out={tmp_path / 'rows'}")
    done = run("data", "eaqa", CONFIG, "--estimate", *FEW, *wanted)
    assert done.code == 0 and not (tmp_path / "rows").exists()
    price = float(next(line for line in done.out.splitlines() if " all " in line).split("│")[-2])
    assert 1.0 < price < 5.0, "6 requests of 330 tokens at 0.001 each"


def test_a_key_that_is_missing_and_a_url_with_a_secret_are_named(run, tmp_path, monkeypatch):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    done = run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path}", "write.endpoint.key_env=TEACHER_KEY")
    assert done.code == 2 and "TEACHER_KEY is empty" in done.err
    done = run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path / 'b'}", "write.endpoint.url=https://me:secret@host/v1")
    assert done.code == 2 and "secret" not in done.err + done.out and not (tmp_path / "b").exists()


def test_the_key_reaches_the_endpoint_and_nothing_else(run, tmp_path, monkeypatch):
    key = "sk-" + "very-secret"
    monkeypatch.setenv("TEACHER_KEY", key)
    with serving(Behaviour({Fault.MISTAKE: 0.2}, key=key)) as server:
        mine = [f"{who}.endpoint.{what}" for who in ("write", "judge") for what in (f"url={server.url}", "key_env=TEACHER_KEY")]
        done = run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path}", "annotate.by=none", "guess.by=none", *mine)
        assert done.code == 0, done.err
        server.behaviour.key = "changed"
        refused = run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path / 'b'}", "annotate.by=none", "guess.by=none", *mine)
    assert refused.code == 2 and "TEACHER_KEY" in refused.err and "[key]" in refused.err
    assert key not in done.out + done.err + refused.out + refused.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path for path in files if key.encode() in path.read_bytes()]


@pytest.mark.parametrize("override", ["write.mix={song=1.0}", "sources.scenes.n=0", "sources.scenes.kind=tape"])
def test_what_cannot_be_is_said_before_anything_is_asked(run, tmp_path, override):
    done = run("data", "eaqa", CONFIG, f"out={tmp_path / 'rows'}", override)
    assert done.code == 2 and done.err.count("\n") == 1


def test_a_run_has_a_page_and_its_rows_can_be_exported(run, tmp_path):
    assert run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path}").code == 0
    done = run("data", "report", tmp_path, "--samples", "3", "--embed-mb", "0")
    assert done.code == 0 and "5 rows" in done.out
    assert "file://" in (tmp_path / "report.html").read_text()
    assert run("data", "export", tmp_path / "stores" / "sft", "--to", "ms-swift", "--out", tmp_path / "rows.jsonl").code == 0
    line = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert "<seg>start, end</seg>" in line["messages"][0]["content"]
    missing = run("data", "report", tmp_path / "stores")
    assert missing.code == 2 and "no run of" in missing.err and not list((tmp_path / "stores").glob("*.jsonl.*"))


def test_our_engines_can_describe_and_guess_and_are_asked_once(run, tmp_path, engine):
    engine.turns = ("Two short sounds follow one another in a quiet room, and the second of them is louder.",)
    mine = ("annotate.by=engine", "guess.by=engine", "guess.samples=2", f"out={tmp_path}")
    done = run("data", "eaqa", CONFIG, *FEW, *mine)
    assert done.code == 0, done.err
    rows = [json.loads(line)["row"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row and row["audio_contribution"] is not None]
    assert kept and all(row["audio_contribution"] == 1.0 for row in kept), "no guess was one of the choices"
    assert all(row["provenance"]["texts"]["description"].startswith("Two short sounds") for row in kept)
    silent = [r for r in engine.requests if not r.encoded.clips[0].recording.samples.any()]
    assert len(silent) == 2 * len(kept), "the guesser hears silence"
    n_asked = len(engine.requests)
    (tmp_path / "journal.jsonl").unlink()
    assert run("data", "eaqa", CONFIG, *FEW, *mine).code == 0 and len(engine.requests) == n_asked and engine.closed


def test_questions_of_tests_are_dropped(run, tmp_path):
    assert run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path / 'a'}").code == 0
    lines = [json.loads(line) for line in (tmp_path / "a" / "journal.jsonl").read_text().splitlines()]
    row = next(line["row"] for line in lines if line["route"] == "sft")
    known = tmp_path / "mmau.json"
    known.write_text(json.dumps([{"question": row["question"], "choices": row["choices"], "answer": row["answer"]}]))
    assert run("data", "eaqa", CONFIG, *FEW, f"out={tmp_path / 'b'}", f'checks.known=["{known}"]').code == 0
    dropped = [json.loads(line) for line in (tmp_path / "b" / "stores" / "dropped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in dropped if line["reasons"] == ["asks what a test asks"]] == [row["id"]]
