"""`eval attention` on a run of the shipped model, and its part of the report."""

from __future__ import annotations

import json

import pytest

from echo_audio import cli
from echo_audio.evaluation.report import report
from echo_audio.models import folders


@pytest.mark.skipif(not (folders.tiny_folder() / "model.safetensors").is_file(), reason="the shipped model is not here")
def test_attention_of_a_run_of_scenes(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.run(["eval", "scenes", "--n", "2", "--played", "crop", "--out", str(out), "--device", "cpu"]) == 0
    assert cli.run(["eval", "attention", str(out), "--device", "cpu", "--json", str(tmp_path / "a.json")]) == 0
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers == json.loads((out / "attention.json").read_text())
    assert numbers["n"] == 2 and 0 < numbers["first"]["value"] < 1 and len(numbers["by_tenth"]["first"]) == 10
    assert "attention on audio, 2 transcripts" in capsys.readouterr().out
    page = report({"has_truth": False}, [], attention=numbers)
    assert "Attention on audio" in page and f"{100 * numbers['first']['value']:.2f}" in page
    about = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(about | {"weights": "another"}))
    assert cli.run(["eval", "attention", str(out), "--device", "cpu"]) == 2
    assert "is not the model of this run" in capsys.readouterr().err
