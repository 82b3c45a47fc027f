"""Stores: written whole, continued exactly, and never trusted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from echo_audio.audio import Recording, encode_flac
from echo_audio.cli.data import main as data
from echo_audio.data.generate import generate_scenes, stock_of
from echo_audio.data.rows import Row
from echo_audio.data.scene import Split
from echo_audio.data.scenes import DRAWS
from echo_audio.data.store import Store, StoreWriter, audio_path
from echo_audio.data.validate import check_row, validate
from echo_audio.errors import ConfigError, DataError

N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    assert generate_scenes(path, N, 7, workers=1) == N
    return path


def test_rows_and_audio_come_back(folder):
    store = Store(folder)
    assert len(store) == N
    for row in store.rows():
        recording = store.recording(row)
        assert recording.id == row.audio_id and recording.duration_s == pytest.approx(row.duration_s)
        assert row.provenance["seed"] == 7
    assert validate(store).ok


def test_workers_change_nothing_and_a_second_call_adds_only_what_is_missing(folder, tmp_path):
    assert generate_scenes(tmp_path / "t", 10, 7, workers=2) == 10
    assert generate_scenes(tmp_path / "t", N, 7, workers=2) == N - 10
    assert [*Store(tmp_path / "t").rows()] == [*Store(folder).rows()]
    assert generate_scenes(tmp_path / "t", N, 7, workers=1) == 0


def test_another_seed_is_refused(folder):
    with pytest.raises(DataError, match="another folder"):
        generate_scenes(folder, N, 8, workers=1)


def test_a_killed_writer_loses_nothing_and_doubles_nothing(folder, tmp_path):
    code = (
        "import echo_audio.data.generate as g, sys; from pathlib import Path; g.SHARD_ROWS = 4\n"
        "if __name__ == '__main__': g.generate_scenes(Path(sys.argv[1]), 24, 7, workers=1)"
    )
    script = tmp_path / "make.py"
    script.write_text(code)
    out = tmp_path / "killed"
    for wait_s in (2.5, 3.0):
        process = subprocess.Popen([sys.executable, str(script), str(out)])
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, str(script), str(out)], check=True)
    assert [*Store(out).rows()] == [*Store(folder).rows()]
    assert validate(Store(out)).ok


def test_damage_is_told(folder, tmp_path):
    generate_scenes(tmp_path / "d", 3, 7, workers=1)
    store = Store(tmp_path / "d")
    first, second, _ = store.rows()
    audio_path(store.folder, first.audio_id).unlink()
    audio_path(store.folder, second.audio_id).write_bytes(b"no audio")
    assert validate(store).problems == {"audio is missing or damaged": [first.id, second.id]}
    (store.folder / "rows-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a shard"):
        Store(store.folder)
    (store.folder / "manifest.json").write_text("[")
    with pytest.raises(DataError, match="manifest"):
        Store(store.folder)
    with pytest.raises(DataError, match="no manifest"):
        Store(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 32, "0" * 31, "0" * 33])
def test_an_audio_id_leads_nowhere_else(tmp_path, name):
    with pytest.raises(DataError, match="content hash"):
        audio_path(tmp_path, name)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answer": "nothing of it"}, "answer is not exactly one of the choices"),
        ({"choices": ("a",)}, "choices are not 2 to 10 different texts"),
        ({"choices": ("a", "a"), "answer": "a"}, "choices are not 2 to 10 different texts"),
        ({"reasoning": "look <seg>1.0, 99.0</seg>."}, "a segment lies outside the recording"),
        ({"reasoning": "look <seg>1.2.3</seg>."}, "tags are not well formed"),
        ({"reasoning": "</think>"}, "tags are not well formed"),
        ({"duration_s": 1.0}, "an event lies outside the recording"),
        ({"question": " "}, "question or answer is empty"),
    ],
)
def test_each_problem_of_a_row_is_found(folder, change, problem):
    row = next(row for row in Store(folder).rows() if row.choices)
    assert not [*check_row(row)]
    assert problem in [*check_row(row.model_copy(update=change))]


def test_the_manifest_says_what_made_it(folder):
    made_by = json.loads((folder / "manifest.json").read_text())["made_by"]
    assert made_by == {"scenes": {"seed": 7, "split": Split.TRAIN.value, "banks": [], "draws": DRAWS}}
    assert StoreWriter(folder, made_by).n_rows == N


# ---------------------------------------------------------------------------------------------- every kind of damage


def damaged(folder, out, change):
    """A copy of the store of which the first row with choices was changed, and that row."""
    store, writer = Store(folder), StoreWriter(out, Store(folder).manifest["made_by"])
    rows = [*store.rows()]
    at = next(i for i, row in enumerate(rows) if row.choices)
    (out / "audio").symlink_to(folder / "audio")
    rows[at] = rows[at].model_copy(update=change(rows[at]))
    writer.append(rows)
    return Store(out), rows[at]


def wrong_answer(row: Row):
    return {"answer": next(choice for choice in row.choices if choice != row.answer)}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (wrong_answer, "row is not what its seed draws"),
        (lambda row: {"answer": "nothing of it"}, "answer is not exactly one of the choices"),
        (lambda row: {"id": "scenes-train-7-23"}, "id is not unique"),
        (lambda row: {"evidence": row.evidence[::-1] + row.evidence[:1]}, "segments are not those of the evidence"),
        (lambda row: {"reasoning": row.reasoning.replace("<seg>", "<seg>9")}, "a segment lies outside the recording"),
        (lambda row: {"reasoning": row.reasoning.replace("</seg>", "", 1)}, "tags are not well formed"),
        (lambda row: {"reasoning": row.reasoning + "</think>"}, "tags are not well formed"),
        (lambda row: {"reasoning": "It is clear."}, "segments are not those of the evidence"),
        (lambda row: {"audio_id": "0" * 32}, "audio is missing or damaged"),
        (lambda row: {"audio_id": "../../etc/passwd"}, "audio is missing or damaged"),
        (lambda row: {"duration_s": row.duration_s + 1}, "duration is not that of the audio"),
        (lambda row: {"provenance": {"source": "scenes", "seed": "x"}}, "its seed draws no row"),
        (lambda row: {"provenance": {**row.provenance, "index": 10**30}}, "its seed draws no row"),
    ],
)
def test_validate_finds_a_changed_row_and_no_other(folder, tmp_path, change, problem):
    store, row = damaged(folder, tmp_path / "d", change)
    report = validate(store, stock=stock_of(store))
    assert report.problems[problem] == [row.id]
    assert {i for ids in report.problems.values() for i in ids} == {row.id}


@pytest.mark.parametrize("how", ["cut", "empty", "missing", "another", "silent", "text"])
def test_validate_finds_damaged_audio(folder, tmp_path, how):
    generate_scenes(tmp_path / "d", 4, 7, workers=1)
    store = Store(tmp_path / "d")
    first, second, *_ = store.rows()
    path = audio_path(store.folder, first.audio_id)
    whole = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(whole[: len(whole) * 2 // 3])
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "another":
            path.write_bytes(audio_path(store.folder, second.audio_id).read_bytes())
        case "silent":
            path.write_bytes(encode_flac(Recording(np.zeros(16_000, np.float32))))
        case _:
            path.write_bytes(b"no audio")
    assert validate(store, stock=stock_of(store)).problems == {"audio is missing or damaged": [first.id]}
    assert data(["validate", str(store.folder)]) == 1


def test_audio_of_another_scene_under_its_own_name_is_found(folder, tmp_path):
    from echo_audio.data.store import write_audio

    noise = np.random.default_rng(0).normal(0, 0.1, round(16_000 * next(Store(folder).rows()).duration_s))
    other = Recording((np.rint(noise * 32_768) / 32_768 + 0.0).astype(np.float32))
    generate_scenes(tmp_path / "d", 1, 7, workers=1)
    write_audio(tmp_path / "d", other)
    (row,) = Store(tmp_path / "d").rows()
    made_by = Store(tmp_path / "d").manifest["made_by"]
    (tmp_path / "d" / "rows-00000.parquet").unlink()
    StoreWriter(tmp_path / "d", made_by).append([row.model_copy(update={"audio_id": other.id})])
    store = Store(tmp_path / "d")
    assert validate(store).ok
    assert validate(store, stock=stock_of(store)).problems == {"audio is not that of its scene": [row.id]}


def test_a_damaged_shard_stops_a_writer_with_a_reason(tmp_path):
    generate_scenes(tmp_path / "d", 2, 7, workers=1)
    (tmp_path / "d" / "rows-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="later shards"):
        generate_scenes(tmp_path / "d", 4, 7, workers=1)


def test_scenes_of_other_banks_or_another_version_are_not_drawn_again(folder, tmp_path):
    bank = tmp_path / "b.npz"
    bank.write_bytes(b"x")
    with pytest.raises(DataError, match="--bank"):
        stock_of(Store(folder), [bank])
    StoreWriter(tmp_path / "old", {"scenes": {"seed": 7, "split": "train", "banks": [], "draws": DRAWS - 1}})
    with pytest.raises(DataError, match="another version"):
        stock_of(Store(tmp_path / "old"))
    StoreWriter(tmp_path / "other", {"annotations": 1})
    with pytest.raises(DataError, match="no scenes"):
        stock_of(Store(tmp_path / "other"))


def test_ctrl_c_stops_soon_and_the_store_goes_on(tmp_path):
    out = tmp_path / "c"
    command = [sys.executable, "-m", "echo_audio", "data", "scenes", "--out", str(out), "--n", "100000", "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    for _ in range(200):
        time.sleep(0.1)
        if len([*out.glob("audio/*/*.flac")]) > 20:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130 and "continued" in said and "Traceback" not in said, said
    assert generate_scenes(out, max(1, len(Store(out))), 7, workers=1) <= 1


@pytest.mark.parametrize("arguments", [["--n", "0"], ["--n", "x"], ["--workers", "-1"], ["--workers", "0"]])
def test_numbers_that_make_no_sense_are_refused(tmp_path, arguments):
    with pytest.raises(ConfigError, match=rf"{arguments[0]}: '{arguments[1]}' is not a whole number of at least 1"):
        data(["scenes", "--out", str(tmp_path / "n"), *arguments])
    assert not (tmp_path / "n").exists()
