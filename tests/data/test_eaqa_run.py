"""Whole runs of the data engine against the test endpoint: routes, resumption, faults, a full disk, secrecy."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from data_engine import contents, make, settings_of

from echo_audio.data.eaqa.calls import JsonLines
from echo_audio.data.eaqa.journal import Journal, Outcome, Route
from echo_audio.data.eaqa.plan import Mix
from echo_audio.data.eaqa.prompts import load_prompts
from echo_audio.data.eaqa.run import claim, locked
from echo_audio.data.eaqa.settings import identity
from echo_audio.data.eaqa.test_server import Behaviour, Fault
from echo_audio.data.store import Store
from echo_audio.data.validate import validate
from echo_audio.errors import ConfigError

KEY = "sk-secret-" + "4711"
MISTAKES = {Fault.MISTAKE: 0.3}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return make(tmp_path_factory.mktemp("unbroken"), settings_of(24), Behaviour(MISTAKES))


def test_every_recording_ends_in_one_store_or_with_a_reason(unbroken):
    assert sum(unbroken.routes.values()) == 24 and unbroken.routes["sft"] >= 12
    assert all(o.reasons for o in unbroken.outcomes if o.route is not Route.SFT)
    held = contents(unbroken.folder)
    assert [len(held[route]) for route in ("sft", "rl", "dropped")] == [unbroken.routes[r] for r in ("sft", "rl", "dropped")]
    assert all(row["reasoning"] for row in held["sft"]) and not any(row["reasoning"] for row in held["rl"])
    assert all(0 <= row["audio_contribution"] <= 1 for row in held["sft"])
    told = json.loads(held["sft"][0]["provenance"])
    assert told["origin"]["source"] == "scenes" and told["models"]["write"] == "rules" and told["judge"]["qa_reason"]
    assert set(told["prompts"]) >= {"write", "judge", "description"} and "description" in told["texts"]


@pytest.mark.parametrize("route", ["sft", "rl"])
def test_the_stores_are_valid(unbroken, route):
    report = validate(Store(unbroken.folder / "stores" / route))
    assert report.problems == {} and report.n_rows == unbroken.routes[route]


def test_a_second_run_asks_nobody_and_changes_nothing(unbroken):
    before = contents(unbroken.folder)
    again = make(unbroken.folder, settings_of(24), Behaviour(MISTAKES))
    assert not again.server.counts and contents(unbroken.folder) == before


def test_a_run_whose_files_were_cut_anywhere_ends_as_the_unbroken_one(unbroken, tmp_path):
    shutil.copytree(unbroken.folder / "audio", tmp_path / "audio")
    for name in ("calls.jsonl", "journal.jsonl"):
        whole = (unbroken.folder / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    make(tmp_path, settings_of(24), Behaviour(MISTAKES))
    assert contents(tmp_path) == contents(unbroken.folder)
    ids = [json.loads(line)["id"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 24


TRANSPORT = {Fault.BUSY: 0.12, Fault.DOWN: 0.12, Fault.HALF: 0.12, Fault.BROKEN: 0.12, Fault.SLOW: 0.05}


def test_an_endpoint_with_faults_gives_the_same_rows_in_the_end(unbroken, tmp_path):
    made = make(tmp_path, settings_of(24), Behaviour(TRANSPORT | MISTAKES, slow_s=3.0))
    assert {str(fault) for fault in TRANSPORT} <= set(made.server.counts)
    assert not made.done.failed and contents(tmp_path) == contents(unbroken.folder)


def test_replies_that_break_off_or_are_in_another_language_are_refused_and_asked_again(tmp_path):
    made = make(tmp_path, settings_of(12), Behaviour({Fault.GARBLED: 0.2, Fault.LANGUAGE: 0.3}))
    refused = Counter(why for o in made.outcomes for why in o.notes.get("refused", ()))
    assert refused["reasoning is not English"] and refused["reply is no JSON"]
    assert made.routes["sft"] > made.routes["dropped"]
    assert not any("Geräusch" in row["reasoning"] for row in contents(tmp_path)["sft"])


def test_an_endpoint_that_fails_for_good_stops_the_run_and_a_later_one_goes_on(unbroken, tmp_path):
    endpoint = {"wait_s": 0.0, "tries": 1}
    dead = settings_of(24, stop_after=5, in_flight=2, write={"endpoint": endpoint}, judge={"endpoint": {"tries": 1}})
    made = make(tmp_path, dead, Behaviour({Fault.DOWN: 1.0}))
    assert 5 <= len(made.done.failed) <= 7 and "in a row failed" in made.done.stopped
    assert sum(made.routes.values()) == 0, "nothing is known of a recording that failed"
    make(tmp_path, settings_of(24), Behaviour(MISTAKES))
    assert contents(tmp_path) == contents(unbroken.folder)


def test_a_budget_stops_the_run(tmp_path):
    priced = {"endpoint": {"price_in": 1e6, "price_out": 1e6}}
    settings = settings_of(12, budget=1.0, in_flight=1, write=priced)
    from echo_audio.data.eaqa.bill import bill, total
    from echo_audio.data.eaqa.calls import Calls

    made = make(tmp_path, settings, spent=lambda calls: total(bill(calls, settings)))
    assert "budget" in made.done.stopped and 1 <= sum(made.routes.values()) < 12
    calls = Calls(tmp_path / "calls.jsonl")
    assert total(bill(calls, settings)) >= 1.0
    calls.close()


def test_the_key_is_in_no_file_of_a_run(tmp_path):
    with pytest.raises(ConfigError) as refused:
        make(tmp_path, settings_of(2), Behaviour(key="another"), key=KEY)
    assert KEY not in str(refused.value)
    make(tmp_path, settings_of(3), Behaviour({Fault.DOWN: 0.3}, key=KEY), key=KEY)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize("full_after", [0, 3, 17, 40])
def test_a_full_disk_loses_and_doubles_nothing(unbroken, tmp_path, monkeypatch, full_after):
    left, append = [full_after], JsonLines.append

    def full(self: JsonLines, value: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, value)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "append", full)
        with pytest.raises(OSError, match="No space"):
            make(tmp_path, settings_of(24), Behaviour(MISTAKES))
    make(tmp_path, settings_of(24), Behaviour(MISTAKES))
    assert contents(tmp_path) == contents(unbroken.folder)


def test_a_disk_that_is_full_while_the_stores_are_written_leaves_the_old_ones(unbroken, tmp_path, monkeypatch):
    made = make(tmp_path, settings_of(4), Behaviour(MISTAKES))
    before = contents(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path, settings_of(8), Behaviour(MISTAKES))
    monkeypatch.undo()
    assert contents(tmp_path) == before and not list(tmp_path.glob(".stores*")) and made.routes["sft"]


def test_a_run_folder_is_for_one_run_and_one_process(tmp_path):
    claim(tmp_path, settings_of(4))
    claim(tmp_path, settings_of(4, in_flight=2, budget=3.0))
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        claim(tmp_path, settings_of(4, seed=2))
    with locked(tmp_path), pytest.raises(ConfigError, match="another process"), locked(tmp_path):
        pass
    assert "write.endpoint.model" in identity(settings_of(1)) and "write.endpoint.url" not in identity(settings_of(1))


def test_kinds_are_dealt_to_the_wanted_mix_and_steered_by_what_was_kept():
    kinds = load_prompts().kinds
    mix, counts = Mix(kinds, {"order": 3, "gap": 1}), Counter[str]()
    for i in range(80):
        mix.deal(5, counts, 1, i)
    assert counts == {"order": 60, "gap": 20}
    after = Counter(kind for i in range(40) for kind in mix.deal(5, Counter(order=60), 1, i))
    assert after == {"gap": 40}, "what is kept too seldom is asked for more"
    assert Mix(kinds, {}).deal(0, Counter(), 1, 1) == [] and set(Mix(kinds, {}).deal(1, Counter(), 2, 1)) == {"count", "place"}
    with pytest.raises(ConfigError, match=r"write\.mix names song"):
        Mix(kinds, {"song": 1})


def test_a_damaged_line_of_the_journal_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add(Outcome("a/1/0", (0, 0), Route.SKIPPED, ("why",)))
    journal.add(Outcome("a/1/0", (0, 0), Route.SFT))
    assert [o.route for o in journal.in_order()] == [Route.SKIPPED]
    journal.close()
    path.write_text(path.read_text().replace("skipped", "elsewhere"))
    with pytest.raises(ValueError, match="damaged"):
        Journal(path)


def test_files_of_a_run_do_not_outgrow_the_folder(unbroken: object, tmp_path: Path):
    made = make(tmp_path, settings_of(3))
    links = {path.stat().st_ino for path in (tmp_path / "stores").rglob("*.flac")}
    assert links <= {path.stat().st_ino for path in (tmp_path / "audio").rglob("*.flac")} and made.routes
