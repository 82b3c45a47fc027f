"""Loaders: counts of the published files, odd records, hostile paths; submissions as the official scripts read them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from echo_audio.errors import DataError
from echo_audio.evaluation.benchmark import find_audio, load_benchmark
from echo_audio.evaluation.export import KEYS, as_official_script, submission, validate, write_submission
from echo_audio.evaluation.known import BENCHMARKS

MINI, TEST, MMAR = BENCHMARKS["mmau-mini"], BENCHMARKS["mmau"], BENCHMARKS["mmar"]


def row(number: int = 1, **changes) -> dict:
    return {
        "audio_id": f"./test-mini-audios/{number}.wav", "id": f"q{number}", "question": "Who?", "choices": ["Man", "Woman"],
        "answer": "Man", "dataset": "x", "task": "sound", "split": "test-mini", "category": ["Reasoning"],
        "sub-category": "y", "difficulty": "easy", **changes,
    }  # fmt: skip


def mini(folder: Path, *rows: dict):
    (folder / "mmau-test-mini.json").write_text(json.dumps(rows), encoding="utf-8")
    return load_benchmark(MINI, folder)


def test_mmau_mini_as_published(question_files):
    got = load_benchmark(MINI, question_files)
    assert got.version == "mmau-v05.15.25@110127f5" and len(got.records) == 1000
    counts = Counter((r.groups["task"], r.groups["difficulty"]) for r in got.records)
    assert [counts["sound", d] for d in ("easy", "medium", "hard")] == [21, 237, 75]
    assert [counts["music", d] for d in ("easy", "medium", "hard")] == [122, 168, 44]
    assert [counts["speech", d] for d in ("easy", "medium", "hard")] == [81, 135, 117]
    assert len({r.groups["sub-category"] for r in got.records}) == 27
    assert Counter(r.groups["category"] for r in got.records) == {"Reasoning": 677, "Information Extraction": 323}
    assert got.counted["with equal choices"] == 27 and got.counted["not with 4 choices"] == 52
    assert not got.counted["known answer not among the choices"] and got.has_truth


def test_mmar_as_published(question_files):
    got = load_benchmark(MMAR, question_files)
    assert got.version == "mmar@3bce090a"
    assert Counter(r.groups["modality"] for r in got.records) == {
        "speech": 294, "mix-sound-speech": 218, "music": 206, "sound": 165, "mix-music-speech": 82,
        "mix-sound-music-speech": 24, "mix-sound-music": 11,
    }  # fmt: skip
    layers = Counter(r.groups["category"] for r in got.records)
    assert [layers[layer] for layer in MMAR.groups["category"]] == [43, 404, 412, 141]
    assert sum(r.audio != f"./audio/{r.key}.wav" for r in got.records) == 46
    assert Counter(r.groups["language"] for r in got.records)["none"] == 320


@pytest.mark.parametrize("name", ["mmau-mini", "mmar"])
def test_what_the_facts_say_of_constant_answers_comes_out_of_the_exported_file(question_files, tmp_path, name):
    """Always the first choice scores 39.80 and 28.00 %, the truth 100 %, counted over the written file."""
    benchmark = BENCHMARKS[name]
    got = load_benchmark(benchmark, question_files)
    for answers, percent in (
        ({r.key: r.answer or "" for r in got.records}, 100.0),
        ({r.key: r.choices[0] for r in got.records}, {"mmau-mini": 39.8, "mmar": 28.0}[name]),
        ({}, 0.0),
    ):
        path = tmp_path / benchmark.submission
        rows = submission(got.records, answers, {}, got.benchmark)
        validate(rows, got.records, benchmark)
        write_submission(path, rows)
        text = path.read_text(encoding="utf-8")
        read = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text[:-1].split("\n")]
        assert [list(r)[: len(f.fields)] for r, f in zip(read, got.records, strict=True)] == [list(f.fields) for f in got.records]
        right, asked = as_official_script(read, benchmark.prediction_key, tuple(benchmark.groups))["total"]
        assert (round(100 * right / asked, 2), asked) == (percent, 1000)


def test_the_old_list_of_mmar_is_read_and_its_hash_is_loud(tmp_path, question_files):
    lines = (question_files / "MMAR-meta.jsonl").read_text(encoding="utf-8").split("\n")[:3]
    (tmp_path / "MMAR-meta.json").write_text(f"[{','.join(lines)}]", encoding="utf-8")
    got = load_benchmark(MMAR, tmp_path)
    assert len(got.records) == 3 and got.version == "unknown"
    assert got.remarks[0].startswith("UNKNOWN VERSION") and got.sha256 in got.remarks[0]
    assert "3 questions, where the published file has 1000" in got.remarks


def test_odd_records_are_taken_and_counted(tmp_path):
    double, many = row(2, choices=["Man", "Man", "Woman"]), row(3, choices=list("abcdefgh"), answer="")
    got = mini(tmp_path, row(1, answer="Child"), double, many)
    assert [r.answer for r in got.records] == ["Child", "Man", None]
    assert got.records[0].groups["category"] == "Reasoning"
    assert got.counted["known answer not among the choices"] == got.counted["with equal choices"] == 1
    assert got.counted["without a known answer"] == 1


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no mmau-test-mini\.json"):
        load_benchmark(MINI, tmp_path)
    for text in ("{", '{"a": 1}', "[1]", "[]"):
        (tmp_path / "mmau-test-mini.json").write_text(text)
        with pytest.raises(DataError):
            load_benchmark(MINI, tmp_path)


def test_a_blanked_test_split_has_no_truth(tmp_path):
    (tmp_path / "mmau-test.json").write_text(json.dumps([row(1, answer=""), row(2, answer="")]))
    assert not load_benchmark(TEST, tmp_path).has_truth


HOSTILE = ["/etc/passwd", "../x.wav", "a/../../x.wav", "..\\x.wav", "C:\\x.wav", "", "a\0.wav", "out/x.wav"]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused(tmp_path, path):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.wav").write_bytes(b"x")
    (folder / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="data folder"):
        find_audio(folder, path)


def test_a_path_is_found_below_the_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "audio").symlink_to(tmp_path / "real")  # a link that stays inside is nobody's harm
    assert find_audio(tmp_path, "./audio/x..y.wav") == tmp_path.resolve() / "real" / "x..y.wav"


def test_a_submission_that_would_be_misread_is_refused(tmp_path):
    got = mini(tmp_path, row(1), row(2))
    good = submission(got.records, {"q1": "Man"}, {"q1": "hm"}, MINI)
    validate(good, got.records, MINI)
    assert [good[0][key] for key in KEYS] == ["Man"] * 3 and good[1]["model_output"] == ""
    for bad in (
        good[:1], good[::-1], [good[0] | {"model_output": "Dog"}, good[1]], [good[0] | {"model_prediction": None}, good[1]],
        [{k: v for k, v in good[0].items() if k != "answer_prediction"}, good[1]], [good[0] | {"question": "?"}, good[1]],
    ):  # fmt: skip
        with pytest.raises(DataError, match="misread"):
            validate(bad, got.records, MINI)


def test_the_frame_holds_mmsu_and_mmau_pro(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    asked = {"audio_path": "a/1.wav", "question": "Who?", "choice_a": "x", "choice_b": "y", "choice_c": "z", "choice_d": "w"}
    numbers = {"choice_a": 1, "choice_b": None, "choice_c": None, "choice_d": 2}
    lines = [{"id": "1", **asked, "answer_gt": "y"}, {"id": "2", **asked, "answer_gt": "C"}]
    lines.append({"id": "3", **asked, **numbers, "audio_path": "/audio/3.wav", "answer_gt": 2})
    (tmp_path / "question").mkdir()
    (tmp_path / "question" / "mmsu.jsonl").write_text("\n".join(map(json.dumps, lines)))
    mmsu = load_benchmark(BENCHMARKS["mmsu"], tmp_path)
    assert [r.answer for r in mmsu.records] == ["y", "z", "2"] and mmsu.records[2].choices == ("1", "2")
    assert find_audio(tmp_path, mmsu.records[2].audio) == tmp_path.resolve() / "audio" / "3.wav"
    assert submission(mmsu.records, {"3": "2"}, {}, mmsu.benchmark)[2]["response"] == "D"
    common = {"question": "Who?", "answer": "x", "length_type": "short"}
    pro = [
        {"id": "1", "audio_path": ["a.wav"], "choices": ["x", "y"], "category": "music", **common},
        {"id": "2", "audio_path": ["a.wav", "b.wav"], "choices": ["x", "y"], "category": "multi", **common},
        {"id": "3", "audio_path": ["a.wav"], "choices": None, "category": "open", **common},
    ]
    pq.write_table(pa.Table.from_pylist(pro), tmp_path / "test.parquet")
    got = load_benchmark(BENCHMARKS["mmau-pro"], tmp_path)
    assert [r.key for r in got.records] == ["1"]
    assert got.counted["left out: about several recordings"] == got.counted["left out: judged by a model"] == 1


def test_the_submission_of_mmsu_has_the_letters_its_script_reads(tmp_path):
    """mmsu_evaluation.py compares the choice behind the first letter of `response` with `answer_gt`."""
    sparse = {"audio_path": "1.wav", "question": "Who?", "choice_a": None, "choice_b": "male", "choice_c": None}
    sparse["choice_d"] = "female"
    full = {"audio_path": "2.wav", "question": "Who?", "choice_a": "x", "choice_b": "y", "choice_c": "z", "choice_d": "w"}
    asked = (("1", sparse, "female"), ("2", full, "y"), ("3", full, "D"))
    lines = [{"id": name, **fields, "answer_gt": answer} for name, fields, answer in asked]
    (tmp_path / "mmsu.jsonl").write_text("\n".join(map(json.dumps, lines)))
    got = load_benchmark(BENCHMARKS["mmsu"], tmp_path)
    assert got.records[0].choices == ("male", "female") and got.records[2].answer == "w"
    rows = submission(got.records, {"1": "female", "2": "x"}, {}, got.benchmark)
    validate(rows, got.records, got.benchmark)
    assert [row["response"] for row in rows] == ["D", "A", ""] and [row["model_output"] for row in rows] == ["female", "x", ""]
    right = [row["response"] and row[f"choice_{row['response'].lower()}"] == row["answer_gt"] for row in rows]
    assert right == [True, False, ""]
    with pytest.raises(DataError, match="response"):
        validate([rows[0] | {"response": "B"}, *rows[1:]], got.records, got.benchmark)


def test_the_submission_of_mmau_pro_is_a_table_with_its_column(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"id": "1", "audio_path": ["a.wav"], "question": "Who?", "choices": ["x", "y"], "answer": "x", "category": "music"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "test.parquet")
    got = load_benchmark(BENCHMARKS["mmau-pro"], tmp_path)
    rows = submission(got.records, {"1": "y"}, {}, got.benchmark)
    validate(rows, got.records, got.benchmark)
    write_submission(tmp_path / got.benchmark.submission, rows)
    (back,) = pq.read_table(tmp_path / "submission.parquet").to_pylist()
    assert back["model_output"] == "y" and {name: back[name] for name in row} == row


def test_the_columns_of_a_table_keep_their_types(tmp_path):
    """Columns as the published table has them: lists, nulls in the first row, a struct, a map."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = pa.list_(pa.string())
    columns = {
        "id": pa.string(), "audio_path": strings, "question": pa.large_string(), "choices": strings, "answer": pa.string(),
        "category": pa.string(), "perceptual_skills": strings, "sub-cat": pa.string(), "length_type": pa.string(),
        "kwargs": pa.struct({"N": pa.int64(), "keyword": pa.string()}), "more": pa.map_(pa.string(), pa.int32()),
    }  # fmt: skip
    common = {"audio_path": ["data/a.wav"], "question": "Who?", "choices": ["x", "y"], "answer": "x", "category": "music"}
    rows = [{"id": "1", **common}, {"id": "2", **common, "sub-cat": "s", "kwargs": {"N": 2, "keyword": "k"}, "more": [("a", 1)]}]
    rows.append({"id": "3", **common, "category": "open", "choices": []})
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))
    pq.write_table(table, tmp_path / "test.parquet")
    got = load_benchmark(BENCHMARKS["mmau-pro"], tmp_path)
    assert [r.key for r in got.records] == ["1", "2"]
    out = submission(got.records, {"2": "y"}, {}, got.benchmark)
    validate(out, got.records, got.benchmark)
    write_submission(tmp_path / "s.parquet", out, got.path)
    back = pq.read_table(tmp_path / "s.parquet")
    assert back.select(list(columns)).equals(table.slice(0, 2)) and back["model_output"].to_pylist() == ["", "y"]
