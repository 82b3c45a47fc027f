"""The real question file and the shipped model, end to end, on sounds made for the first questions."""

from __future__ import annotations

import json

import pytest
from made_sounds import make_sounds

from echo_audio import cli
from echo_audio.models import folders


@pytest.mark.skipif(not (folders.tiny_folder() / "model.safetensors").is_file(), reason="the shipped model is not here")
def test_three_questions_of_mmar(question_files, tmp_path, capsys):
    questions = question_files / "MMAR-meta.jsonl"
    make_sounds("mmar", questions, tmp_path, 3)
    files = ["--data", tmp_path, "--questions", questions, "--out", tmp_path / "run"]
    command = ["eval", "mmar", *files, "--n", 3, "--device", "cpu", "--max-new-tokens", 24]
    assert cli.run(list(map(str, command))) == 0
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["version"] == "mmar@3bce090a" and scores["official"]["n"] == 3 and not scores["missing"]
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    assert cli.run(list(map(str, command))) == 0
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
    assert "3 questions, tiny" in capsys.readouterr().out
