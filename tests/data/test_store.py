"""Stores: written whole, continued exactly, and never trusted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from echo_audio.data.generate import generate_scenes
from echo_audio.data.scene import Split
from echo_audio.data.store import Store, StoreWriter, audio_path
from echo_audio.data.validate import check_row, validate
from echo_audio.errors import DataError

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
    assert made_by == {"scenes": {"seed": 7, "split": Split.TRAIN.value, "banks": []}}
    assert StoreWriter(folder, made_by).n_rows == N
