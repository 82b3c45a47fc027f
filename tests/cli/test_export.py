"""`echo-audio export`, from the command line."""

from __future__ import annotations

import pytest
from helpers import SAMPLE_TEXTS

from echo_audio.models import tiny


def test_export_verify_check(run, tmp_path):
    tiny.write_folder(tmp_path / "model", tiny.train_tokenizer(SAMPLE_TEXTS, 400), tiny.RANDOM)
    said = run("export", tmp_path / "model", tmp_path / "out", "--dtype", "bfloat16", "--verify", "--verify-tokens", "4")
    assert said.code == 0, said.err
    assert "Verified on" in said.out and "as in the base" in said.out
    said = run("export", "--check", tmp_path / "out")
    assert said.code == 0 and "as they were exported" in said.out
    (tmp_path / "out" / "config.json").write_text("{}")
    said = run("export", "--check", tmp_path / "out")
    assert said.code == 2 and "config.json has other bytes" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("one",), "needs a run and a new folder"),
        (("tiny", "out", "--take", "best"), "a model folder, not a run"),
        (("--check", "a", "b"), "takes one folder"),
        (("no/such/run", "out"), "no model folder"),
    ],
)
def test_mistakes_are_one_sentence(run, folder, words, says):
    said = run("export", *words)
    assert said.code == 2 and says in said.err
