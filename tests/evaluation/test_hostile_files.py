"""Question files that lie, break off or are of another kind: a sentence, or the trouble of one record, and the others go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from echo_audio.audio import SAMPLE_RATE, Recording, save_wav
from echo_audio.errors import AudioError, DataError, QuestionError
from echo_audio.evaluation import benchmark as benchmark_module
from echo_audio.evaluation.benchmark import find_audio, load_benchmark
from echo_audio.evaluation.export import submission, validate, write_submission
from echo_audio.evaluation.items import BenchmarkItems
from echo_audio.evaluation.known import BENCHMARKS

MINI = BENCHMARKS["mmau-mini"]


def row(number: int = 1, **changes) -> dict:
    return {
        "id": f"q{number}", "audio_id": f"./a/{number}.wav", "question": "Who?", "choices": ["Man", "Woman"], "answer": "Man",
        "task": "sound", "difficulty": "easy", "sub-category": "y", "category": "Reasoning", **changes,
    }  # fmt: skip


def mini(folder: Path, *rows: object):
    (folder / "mmau-test-mini.json").write_text(json.dumps(rows), encoding="utf-8")
    return load_benchmark(MINI, folder)


NO_QUESTION = [
    {"choices": ["one"]}, {"choices": [str(i) for i in range(27)]}, {"choices": None}, {"choices": '["Man", "Woman"]'},
    {"choices": {"A": "Man"}}, {"choices": ["Man", 2]}, {"id": 7}, {"id": ""}, {"question": None}, {"question": float("nan")},
    {"answer": ["Man"]}, {"answer": 2}, {"audio_id": ["a.wav"]}, {"audio_id": ""}, {"question": "half \ud800"},
    {"choices": ["Man", "\udfff"]},
]  # fmt: skip


@pytest.mark.parametrize("changes", NO_QUESTION)
def test_a_record_that_is_no_question_is_counted_and_stays_in_the_submission(tmp_path, changes):
    got = mini(tmp_path, row(1), row(2, **changes), row(3))
    assert [bool(r.trouble) for r in got.records] == [False, True, False] and "record 2" in got.records[1].trouble
    assert got.counted["records that are no question"] == 1 and "records that are no question: 1" in got.remarks
    items = BenchmarkItems(got)
    with pytest.raises(QuestionError, match="record 2"):
        items.item(1)
    rows = submission(got.records, {"q1": "Man"}, {}, MINI)
    validate(rows, got.records, MINI)
    write_submission(tmp_path / "s.json", rows)
    read = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert [r["model_output"] for r in read] == ["Man", "", ""]
    assert repr(read[1]["question"]) == repr(row(2, **changes)["question"])


def test_a_file_of_another_benchmark_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="is not the question file of MMAU test-mini: record 1"):
        mini(tmp_path, {"a": 1}, {"b": 2}, row(3))


def test_ids_that_are_there_twice_are_told_apart(tmp_path):
    got = mini(tmp_path, row(1), row(1), row(2, id="q1 (2)"), row(3))
    assert [r.key for r in got.records] == ["q1", "q1 (3)", "q1 (2)", "q3"] and got.counted["ids that are there twice"] == 1
    assert [r["id"] for r in submission(got.records, {}, {}, MINI)] == ["q1", "q1", "q1 (2)", "q3"]


DEEP = json.loads("[" * 700 + "]" * 700)
EXTRA = [{"category": DEEP}, {"url": float("nan")}, {"url": "half \ud800"}, {"url": "x" * 1_000_000}, {"category": {"a": [None]}}]


@pytest.mark.parametrize("extra", EXTRA)
def test_other_fields_may_hold_anything_and_come_back_as_they_were(tmp_path, extra):
    got = mini(tmp_path, row(1, **extra))
    rows = submission(got.records, {"q1": "Woman"}, {"q1": "hm"}, MINI)
    validate(rows, got.records, MINI)
    write_submission(tmp_path / "s.json", rows)
    assert repr(json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))[0] | extra).startswith(repr(row(1, **extra))[:-1])


@pytest.mark.parametrize("text", ["", "{", "[1]", "[]", "null", "[" * 100_000, '[{"a": ' + "9" * 5000 + "}]", "\ufeff[]"])
def test_what_is_no_list_of_records_is_one_sentence(tmp_path, text):
    (tmp_path / "mmau-test-mini.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        load_benchmark(MINI, tmp_path)


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"PAR1", b"", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_bytes_that_are_no_table_are_one_sentence(tmp_path, raw):
    (tmp_path / "test.parquet").write_bytes(raw)
    with pytest.raises(DataError, match="parquet"):
        load_benchmark(BENCHMARKS["mmau-pro"], tmp_path)


@pytest.mark.parametrize("kind", ["nanoseconds", "no text", "no day"])
def test_tables_with_values_that_python_cannot_hold_are_one_sentence(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ends = pa.array([0, 1], pa.int32()).buffers()[1]
    values = {
        "nanoseconds": pa.array([1], pa.timestamp("ns")),
        "no text": pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff")]),
        "no day": pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
    }
    pq.write_table(pa.table({"id": ["a"], "more": values[kind]}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="is not a parquet table"):
        load_benchmark(BENCHMARKS["mmau-pro"], tmp_path)


def test_a_question_without_an_id_is_none(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = ["a", None, "b"]
    rest = {"audio_path": [["data/a.wav"]] * 3, "question": ["q"] * 3, "choices": [["x", "y"]] * 3, "answer": ["x"] * 3}
    pq.write_table(pa.table({"id": ids} | rest), tmp_path / "test.parquet")
    got = load_benchmark(BENCHMARKS["mmau-pro"], tmp_path)
    assert [record.key for record in got.records] == ["a", "record 2", "b"] and got.records[1].trouble


def test_a_question_file_has_a_size(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["x" * 200_000] * 100}), tmp_path / "test.parquet")  # 20 MB in some hundred bytes
    (tmp_path / "mmau-test-mini.json").write_text("[" + " " * 2_000_000)
    monkeypatch.setattr(benchmark_module, "MAX_BYTES", 1 << 20)
    for name, said in (("mmau-pro", "unpacks to more than 1 MiB"), ("mmau-mini", "has more than 1 MiB")):
        with pytest.raises(DataError, match=said):
            load_benchmark(BENCHMARKS[name], tmp_path)
    with pytest.raises(DataError, match="is no file"):
        load_benchmark(MINI, tmp_path, tmp_path)


def test_paths_that_no_file_can_have(tmp_path):
    (tmp_path / "round").symlink_to("round")
    for path in ("round", "half \ud800.wav"):
        with pytest.raises(DataError, match="none that a file can have"):
            find_audio(tmp_path, path)
    items = BenchmarkItems(mini(tmp_path, row(1, audio_id="./round"), row(2, audio_id="x" * 5000), row(3)))
    assert len(items.missing()) == 3
    with pytest.raises(AudioError):
        items.item(1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "1.wav")
    items = BenchmarkItems(mini(tmp_path, row(1)))
    assert items.missing() == ["./a/1.wav"]
    with pytest.raises(AudioError, match="is no file"):
        items.item(0)


def test_the_other_recording_is_one_of_a_question(tmp_path):
    (tmp_path / "a").mkdir()
    for i in (1, 3):
        save_wav(Recording(np.full(SAMPLE_RATE, 0.1 * i, np.float32)), tmp_path / "a" / f"{i}.wav")
    items = BenchmarkItems(mini(tmp_path, row(1), row(2, choices=None), row(3)))
    other = items.item(0, with_other=True).other
    assert other is not None and other.samples[0] == pytest.approx(0.3, abs=1e-3)
