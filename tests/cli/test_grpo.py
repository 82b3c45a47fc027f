"""`echo-audio grpo`: the smoke run as it ships, and what the terminal is told."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from echo_audio.cli import grpo
from echo_audio.cli.session import has_tiny
from echo_audio.models.thinker import Thinker
from echo_audio.training.grpo_settings import GrpoSettings

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not has_tiny(), reason="the shipped model is not here")
def test_the_smoke_run(run, tmp_path):
    said = run("grpo", CONFIGS / "smoke-grpo.toml", f"out={tmp_path / 'run'}")
    assert said.code == 0, said.err
    assert f"{tmp_path / 'run'}/report.html" in said.out
    assert said.err.count("reward ") == 3 and said.err.count("held-out ") == 2
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert all(line["gap_max"] < 1e-4 and line["grad_norm"] >= 0 for line in lines[1:])
    assert sum(line["segments"] for line in lines[1:]) > 0, "it listens again"
    for name in ("model", "best"):
        assert Thinker.load(tmp_path / "run" / name).family.end_of_turn
    for name in ("config.toml", "transcripts.jsonl", "report.html", "checkpoints/step-000003/state.json"):
        assert (tmp_path / "run" / name).is_file()
    assert "<mark>" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("name", ["smoke-grpo.toml", "echo-7b-grpo.toml", "tiny-grpo.toml"])
def test_published_settings_are_valid(run, name):
    said = run("grpo", CONFIGS / name, "--dry-run")
    assert said.code == 0
    assert GrpoSettings.parse(said.out) == GrpoSettings.parse((CONFIGS / name).read_text())


def test_the_papers_numbers():
    settings = GrpoSettings.parse((CONFIGS / "echo-7b-grpo.toml").read_text())
    assert (settings.rollout.group, settings.rollout.prompts, settings.train.mini_batch) == (8, 64, 32)
    assert (settings.train.learning_rate, settings.loss.kl_weight, settings.loss.entropy_weight) == (1e-6, 0.04, 0.0)
    assert settings.train.steps == 21_900 // 64 and settings.reward.preset == "paper"


def test_mistakes_are_told_in_one_line(run, tmp_path):
    said = run("grpo", CONFIGS / "smoke-grpo.toml", "train.lerning_rate=1")
    assert said.code == 2 and "train.learning_rate" in said.err
    assert run("grpo", tmp_path / "none.toml").code == 2


def test_a_folder_that_cannot_be_is_told_in_one_line(run, tmp_path):
    (tmp_path / "file").touch()
    for arguments in (
        ("grpo", CONFIGS / "smoke-grpo.toml", f"out={tmp_path / 'file'}"),
        ("sft", CONFIGS / "smoke-sft.toml", f"out={tmp_path / 'file'}"),
        ("data", "scenes", "--out", tmp_path / "file", "--n", "3"),
        ("data", "scenes", "--out", tmp_path / "file" / "more", "--n", "3"),
    ):
        said = run(*arguments)
        assert said.code == 2 and str(tmp_path / "file") in said.err and said.err.count("\n") == 1


def test_keys_of_another_verb_are_not_taken_for_near_ones(run, tmp_path):
    said = run("sft", CONFIGS / "smoke-grpo.toml")
    assert "unknown key 'rollout';" in said.err and "did you mean 'train.max_steps'" in said.err
    assert "required: config (see" in run("sft").err
    said = run("sft", CONFIGS / "smoke-sft.toml", f"out={tmp_path / 'run'}", 'data.banks=["clips/none.npz"]')
    assert "there is no bank of clips at clips/none.npz" in said.err and "echo-audio data bank" in said.err


def test_held_out_questions_are_not_those_of_training(run, tmp_path):
    said = run("grpo", CONFIGS / "smoke-grpo.toml", f"out={tmp_path / 'run'}", "eval.seed=11")
    assert said.code == 2 and "eval.seed" in said.err


def told(monkeypatch, *, terminal: bool, lines: list[dict]) -> str:
    where = Console(force_terminal=terminal, width=100, record=True, file=io.StringIO())
    monkeypatch.setattr(grpo, "console", lambda **_: where)
    with grpo._watching(GrpoSettings()) as watch:
        watch.sampled(0, 3, 8)
        for line in lines:
            watch.stepped(line)
    return where.export_text()


@pytest.mark.parametrize("terminal", [False, True])
def test_an_alarm_is_said_when_it_begins(monkeypatch, terminal):
    line = {"step": 1, "reward": 0.5, "alarms": []}
    rings = {"alarms": ["no variance: 90% of groups have equal rewards"]}
    text = told(monkeypatch, terminal=terminal, lines=[line, line | rings, line | rings, line, line | rings])
    assert text.count("Alarm, step 1: no variance") == 2
    assert "0.500" in text


def test_only_the_first_process_speaks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert told(monkeypatch, terminal=False, lines=[{"step": 1, "reward": 0.5}]) == ""
