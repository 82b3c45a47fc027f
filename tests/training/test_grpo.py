"""GRPO runs: they learn, stop at what is not finite, and go on exactly where they were."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from grpo_helpers import SHORT, lines_of, short, small, untimed
from safetensors.torch import load_file

from echo_audio.errors import ConfigError, TrainingError
from echo_audio.models.thinker import Thinker
from echo_audio.scoring import rewards
from echo_audio.training import grpo, update
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.rollouts import RolloutLog


@pytest.fixture(autouse=True)
def _easy(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(rewards.REWARDS, SHORT, short)


@pytest.fixture
def settings(folder, tmp_path) -> GrpoSettings:
    return small(folder, tmp_path / "run")


def elsewhere(settings: GrpoSettings, name: str) -> GrpoSettings:
    return settings.model_copy(update={"out": f"{settings.out}-{name}"})


def same_weights(first: str, second: str) -> bool:
    a, b = (load_file(Path(out) / "checkpoints/step-000004/training.safetensors") for out in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_what_it_should(settings):
    folder = grpo.train(settings)
    out = Path(settings.out)
    assert Thinker.load(folder).family.end_of_turn
    assert GrpoSettings.parse((out / "config.toml").read_text()) == settings
    lines = lines_of(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1].keys() >= {
        "reward", f"reward/{SHORT}", "reward_deviation", "accuracy", "parse_rate", "segments", "heard_s", "overlap", "repeats",
        "same_segment", "flat_groups", "flat_share", "kl", "entropy", "clipped_low", "clipped_high", "gap", "gap_max",
        "tokens_per_s", "rollout_s", "reward_s", "logprobs_s", "update_s", "sync_s", "loss", "grad_norm", "alarms",
    }  # fmt: skip
    assert all(line["gap_max"] < 1e-4 for line in lines)
    assert lines[0]["kl"] == 0.0 < lines[-1]["kl"]
    page = (out / "report.html").read_text()
    assert "<svg" in page and page.count("<h3>") == len(lines_of(out, "transcripts.jsonl"))
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000003", "step-000004"]
    assert not list((out / "rollouts").iterdir())


@pytest.mark.slow
def test_learning_raises_what_is_rewarded(settings):
    easy = small(
        settings.model.source, settings.out, "rollout.exact=false", "rollout.prompts=3", "rollout.group=8", "train.steps=16",
        "rollout.max_new_tokens=40", "train.learning_rate=5e-3", "loss.kl_weight=0.0", "train.batch_tokens=8192",
        "train.save_every=100",
    )  # fmt: skip
    grpo.train(easy)
    earned = [line["reward"] for line in lines_of(settings.out)]
    assert sum(earned[-3:]) / 3 > sum(earned[:3]) / 3 + 0.15


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [1, 3])
def test_a_run_killed_between_steps_goes_on_exactly(settings, monkeypatch, save_every):
    several = (f"train.save_every={save_every}", "train.mini_batch=1", "train.epochs=2")
    settings = small(settings.model.source, settings.out, *several)
    grpo.train(settings)
    assert any(line["reward_deviation"] > 0 for line in lines_of(settings.out)[:2]), "the test needs something to learn"
    killed = elsewhere(settings, "killed")
    step = grpo.GrpoRun.step

    def dies(self):
        if self.position.steps == 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(grpo.GrpoRun, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        grpo.train(killed)
    monkeypatch.undo()
    monkeypatch.setitem(rewards.REWARDS, SHORT, short)
    grpo.train(killed)
    assert untimed(lines_of(killed.out)) == untimed(lines_of(settings.out))
    assert lines_of(killed.out, "transcripts.jsonl") == lines_of(settings.out, "transcripts.jsonl")
    assert same_weights(killed.out, settings.out)
    if save_every == 3:
        assert lines_of(killed.out)[0]["reused_rollouts"] == 4, "what was sampled is not sampled again"
        assert lines_of(killed.out)[0]["tokens_per_s"] == 0


@pytest.mark.slow
def test_a_run_killed_while_it_samples_goes_on_exactly(settings, monkeypatch):
    grpo.train(settings)
    killed = elsewhere(settings, "killed")
    keep, n = RolloutLog.keep, [0]

    def dies(self, key, transcript):
        n[0] += 1
        if n[0] == 7:  # the third of four transcripts of the second step
            self.write()
            with self.path.open("a") as file:
                file.write('{"slot": 1, "attempt": 0, "numb')
            raise KeyboardInterrupt
        return keep(self, key, transcript)

    monkeypatch.setattr(RolloutLog, "keep", dies)
    with pytest.raises(KeyboardInterrupt):
        grpo.train(killed)
    monkeypatch.setattr(RolloutLog, "keep", keep)
    grpo.train(killed)
    assert [line["reused_rollouts"] for line in lines_of(killed.out)] == [0, 2, 0, 0]
    assert untimed(lines_of(killed.out)) == untimed(lines_of(settings.out))
    assert same_weights(killed.out, settings.out)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_run_and_leaves_evidence(settings, monkeypatch, broken):
    loss = update.policy_loss

    def breaks(tokens, size, how):
        value, seen = loss(tokens, size, how)
        return (value * broken if tokens.reference is not None and float(seen.kl) > 0 else value), seen  # from the second step on

    monkeypatch.setattr(update, "policy_loss", breaks)
    with pytest.raises(TrainingError, match="evidence"):
        grpo.train(settings)
    out = Path(settings.out)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000001"]
    assert not (out / "model").exists()
    evidence = lines_of(out, "evidence/000001-0.jsonl")
    assert len(evidence) == len(lines_of(out, "rollouts/000001-0.jsonl")) == 4
    assert all({"advantage", "engine", "reference"} <= line.keys() for line in evidence)
    monkeypatch.setattr(update, "policy_loss", loss)
    grpo.train(settings)
    assert [line["step"] for line in lines_of(out)] == [1, 2, 3, 4]


def test_weights_that_are_not_finite_are_not_saved(settings, monkeypatch):
    step = torch.optim.AdamW.step

    def overflows(self, *args, **kwargs):
        step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].view(-1)[0] = float("nan")

    monkeypatch.setattr(torch.optim.AdamW, "step", overflows)
    with pytest.raises(TrainingError, match="not finite after step 1"):
        grpo.train(settings)
    assert not list(Path(settings.out).glob("checkpoints/*"))


def test_without_kl_there_is_no_reference(settings, monkeypatch):
    monkeypatch.setattr(grpo, "Reference", lambda *_: pytest.fail("a reference was made"))
    grpo.train(small(settings.model.source, settings.out, "loss.kl_weight=0", "train.steps=1"))
    assert lines_of(settings.out)[0]["kl"] == 0.0


@pytest.mark.slow
def test_adapters_learn_and_are_merged(settings):
    learns = ("model.lora_rank=4", "train.learning_rate=1e-2", "train.steps=2", "rollout.group=8", "rollout.max_new_tokens=60")
    settings = small(settings.model.source, settings.out, *learns)
    before = Thinker.load(settings.model.source).state_dict()
    after = Thinker.load(grpo.train(settings)).state_dict()
    changed = {name for name in before if not torch.allclose(before[name].bfloat16().float(), after[name])}
    assert changed and all("proj" in name and "audio_tower" not in name for name in changed)
    kept = load_file(Path(settings.out) / "checkpoints/step-000002/training.safetensors")
    assert all("lora_" in name for name in kept)
    first, second = lines_of(settings.out)
    assert first["kl"] == 0.0 < first["grad_norm"]
    assert second["kl"] > 0


def test_a_copy_samples_where_the_number_format_differs(settings):
    settings = small(settings.model.source, settings.out, "rollout.dtype=bfloat16", "train.steps=3")
    run = grpo.GrpoRun(settings, grpo.Crew(), None, grpo.Watch())
    try:
        run.sampling.sync()
        run.out.mkdir()
        run.step()
        theirs = run.sampling.engine.thinker.decoder.layers[0].mlp.up_proj.weight
        mine = run.policy.thinker.decoder.layers[0].mlp.up_proj.weight
        assert theirs.dtype == torch.bfloat16 and torch.equal(theirs, mine.bfloat16())
    finally:
        run.close()
    assert 1e-4 < lines_of(settings.out)[0]["gap_max"] < 0.2


def test_groups_without_variance_are_counted_and_replaced(settings, monkeypatch):
    seen: list[int] = []

    def rare(sample) -> float:
        seen.append(1)
        return float(len(seen) > 4 and len(seen) % 2)  # the first groups earn nothing at all

    monkeypatch.setitem(rewards.REWARDS, SHORT, rare)
    settings = small(settings.model.source, settings.out, "rollout.resample=1", "train.steps=1")
    grpo.train(settings)
    (line,) = lines_of(settings.out)
    assert (line["replaced_groups"], line["flat_groups"], line["flat_share"], line["rollouts"]) == (2, 0, 0.5, 4)


def test_the_best_model_is_kept(settings):
    scores = iter([0.3, 0.5, 0.4])
    settings = small(settings.model.source, settings.out, "eval.every=2")
    told: list[dict] = []
    grpo.train(settings, evaluate=lambda engine, family: {"score": next(scores)}, watch=grpo.Watch(stepped=told.append))
    lines = lines_of(settings.out)
    assert lines == told
    assert [(line["step"], line["eval/score"]) for line in lines if "eval/score" in line] == [(0, 0.3), (2, 0.5), (4, 0.4)]
    assert lines_of(settings.out, "best/best.json") == [{"step": 2, "score": 0.5}]
    assert Thinker.load(Path(settings.out) / "best").family.end_of_turn


def test_a_run_ends_in_time_with_its_model(settings, monkeypatch):
    """The step that reaches the limit is the last: it is evaluated, kept and written, and the cosine has come down."""
    clock = iter(range(0, 100_000))
    monkeypatch.setattr(grpo, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    timed = small(
        settings.model.source, settings.out, "train.steps=1000", "train.max_seconds=60", "train.save_every=500",
        "eval.every=500", "train.decay=cosine",
    )  # fmt: skip
    folder = grpo.train(timed, evaluate=lambda engine, family: {"score": 0.5})
    lines = lines_of(settings.out)
    assert 2 < len(lines) < 10 and lines[-1]["elapsed_s"] >= 60 >= lines[-2]["elapsed_s"]
    assert [line["step"] for line in lines if "eval/score" in line] == [0, lines[-1]["step"]]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.5 * rates[0]
    assert Thinker.load(folder).family.end_of_turn
    assert grpo.train(timed) == folder and lines_of(settings.out) == lines, "started again it is over already"


def test_another_run_is_not_overwritten(settings):
    grpo.train(small(settings.model.source, settings.out, "train.steps=1"))
    with pytest.raises(TrainingError, match="other settings"):
        grpo.train(small(settings.model.source, settings.out, "train.steps=2"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rollout.grup=4", "rollout.group"),
        ("loss.klweight=0.1", "loss.kl_weight"),
        ("reward.weights={acuracy=1.0}", "accuracy"),
        ("train.mini_batch=3", "multiple"),
        ("rollout.group=1", "rollout.group"),
    ],
)
def test_a_wrong_setting_is_named(override, says):
    with pytest.raises(ConfigError, match=says):
        GrpoSettings.parse("", ["rollout.prompts=8", override])


def test_settings_are_read_back_as_they_were_written(settings):
    assert GrpoSettings.parse(settings.to_toml()) == settings
