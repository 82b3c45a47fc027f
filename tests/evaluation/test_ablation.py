"""The plan of an ablation, the numbers of its page, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from echo_audio.errors import ConfigError
from echo_audio.evaluation.ablation import Plan, jobs
from echo_audio.evaluation.ablation_page import page
from echo_audio.evaluation.ablation_results import gather
from echo_audio.evaluation.base import Sample
from echo_audio.scoring.answers import Verdict
from echo_audio.transcript import Played

CONFIGS = Path(__file__).parents[2] / "configs"

PLAN = """
out = "OUT"
seeds = [1, 2]
pairs = [["B", "D"], ["D:silenced", "D"], ["B", "once"]]
gains = [["B", "D"]]
seconds.grpo = 30
overrides.grpo = ["data.seed=70{seed}"]
eval.latency_n = 2
[[models]]
name = "sft"
verb = "sft"
config = "s.toml"
overrides = ["data.modes={grounded=1.0}"]
[[models]]
name = "rl"
verb = "grpo"
config = "g.toml"
start = "sft"
[[models]]
name = "rl-one"
verb = "grpo"
config = "g.toml"
start = "sft"
seeds = [2]
[[rows]]
name = "B"
model = "sft"
mode = "grounded"
latency = true
[[rows]]
name = "D"
model = "rl"
take = "best"
played = ["crop", "silenced"]
[[rows]]
name = "once"
model = "rl-one"
part = "rewards"
[[rows]]
name = "shipped"
model = "tiny"
"""


def plan_in(out: Path | str, *overrides: str) -> Plan:
    return Plan.parse(PLAN.replace("OUT", str(out)), overrides)


def test_the_commands_and_what_they_need():
    made = {job.name: job for job in jobs(plan_in("o"))}
    assert list(made) == [
        "models/sft-1", "models/sft-2", "models/rl-1", "models/rl-2", "models/rl-one-2",
        "rows/B-1", "rows/B-2", "rows/D-1", "rows/D-2", "rows/once-2", "rows/shipped-0", "latency/B-1",
    ]  # fmt: skip
    assert made["models/sft-1"].command == (
        "sft", "s.toml", "name=sft-1", "out=o/models/sft-1", "model.source=tiny", "train.seed=1", "data.modes={grounded=1.0}",
    )  # fmt: skip
    assert made["models/rl-2"].command == (
        "grpo", "g.toml", "name=rl-2", "out=o/models/rl-2", "model.source=o/models/sft-2/model", "train.seed=2",
        "train.max_seconds=30", "data.seed=702",
    )  # fmt: skip
    assert made["models/rl-2"].needs == ("models/sft-2",)
    assert made["rows/D-1"].command[:4] == ("eval", "scenes", "--model", "o/models/rl-1/best")
    assert made["rows/D-1"].command[-4:] == ("--played", "crop", "--played", "silenced")
    assert made["rows/shipped-0"].needs == () and "tiny" in made["rows/shipped-0"].command
    assert made["latency/B-1"].kind == "latency" and "1" in made["latency/B-1"].command


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ('pairs=[["B", "E"]]', "a pair names 'E'"),
        ('pairs=[["B:silenced", "D"]]', "a pair names 'B:silenced'"),
        ("at_once.sft=0", "at_once.sft"),
        ("second.sft=1", "seconds"),
        ("rows=[]", "rows"),
        ('rows=[{name="../x", model="sft"}]', "pattern"),
        ('rows=[{name="x", model="sft"}, {name="x", model="rl"}]', "two rows called 'x'"),
        ('models=[{name="a", verb="sft", config="c", start="b"}, {name="b", verb="sft", config="c"}]', "must stand before"),
    ],
)
def test_a_wrong_plan_is_refused(override, says):
    with pytest.raises(ConfigError, match=says):
        plan_in("o", override)


def test_what_a_model_says_of_itself_wins():
    common = 'overrides.sft=["train.steps=9", "data.modes={conditioned=1.0}"]'
    command = next(job for job in jobs(plan_in("x", common)) if job.name == "models/sft-1").command
    assert command.index("data.modes={conditioned=1.0}") < command.index("data.modes={grounded=1.0}")


def test_all_models_can_start_elsewhere():
    plan = plan_in("o", "start=runs/weak", 'rows=[{name="0", model="start"}]', "pairs=[]", "gains=[]")
    made = {job.name: job for job in jobs(plan)}
    assert "model.source=runs/weak" in made["models/sft-1"].command
    assert "model.source=o/models/sft-1/model" in made["models/rl-1"].command
    assert "runs/weak" in made["rows/0-0"].command


def test_a_seed_that_the_start_does_not_have():
    first = '{name="a", verb="sft", config="c", seeds=[1, 2]}'
    second = '{name="b", verb="grpo", config="c", start="a", seeds=[3]}'
    plan = plan_in("o", f"models=[{first}, {second}]", 'rows=[{name="x", model="b"}]', "pairs=[]", "gains=[]")
    with pytest.raises(ConfigError, match="seed 3 is wanted of the model a, which has 1, 2"):
        jobs(plan)


@pytest.mark.parametrize("name", ["ablation", "smoke-ablation", "grpo-search", "grpo-kinds"])
def test_the_published_plans(name):
    plan = Plan.parse((CONFIGS / f"{name}.toml").read_text())
    assert all((CONFIGS.parent / job.command[1]).is_file() for job in jobs(plan) if job.kind in ("sft", "grpo"))
    assert Plan.parse(plan.to_toml()) == plan


# ------------------------------------------------------------------------------------------------ results


def sample(key: str, kind: str, correct: bool) -> Sample:
    spans = [
        {"text": "say <seg>0.1, 0.2</seg>", "author": "prompt"},
        {"text": "<seg>1.0, 2.0</seg> so", "author": "model"},
        {"segment": {}, "why": "asked"},
    ]
    verdict = Verdict.CORRECT if correct else Verdict.INCORRECT
    return Sample(
        key=key, kind=kind, duration_s=5.0, verdict=verdict, given="x", well_formed=True, iou=0.5, n_heard=2, heard_s=1.5,
        n_words=10, elapsed_s=0.25, n_tokens=20, transcript={"spans": spans},
    )  # fmt: skip


def write(folder: Path, played: str, right: str, kinds: str) -> None:
    """One letter a question: its kind, and 1 for a right answer."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [sample(f"q{i}", kind, r == "1").to_line() for i, (r, kind) in enumerate(zip(right, kinds, strict=True))]
    (folder / f"{played}.jsonl").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def found(tmp_path):
    plan = plan_in(tmp_path)
    kinds = "aaabbb"
    for seed, before, after in ((1, "100110", "111110"), (2, "100100", "111100")):
        write(tmp_path / f"rows/B-{seed}", "crop", before, kinds)
        write(tmp_path / f"rows/D-{seed}", "crop", after, kinds)
        write(tmp_path / f"rows/D-{seed}", "silenced", "000000", kinds)
    write(tmp_path / "rows/once-2", "crop", "111111", kinds)
    write(tmp_path / "latency/B-1", "crop", "11", "ab")
    lines = [{"step": 0, "eval/score": 0.5}, *({"step": i, "loss": 1.0, "reward": i / 10, "elapsed_s": i} for i in range(1, 13))]
    (tmp_path / "models/rl-1").mkdir(parents=True)
    (tmp_path / "models/rl-1/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = [job.name for job in jobs(plan) if job.name not in ("models/rl-2", "rows/shipped-0")]
    made = {name: {"seconds": 3.0, "cores": 2, "gpus": []} for name in names}
    return plan, gather(plan, made)


def test_a_row_by_seed_and_over_seeds(found):
    row = found[1].rows["B"]
    assert row.by_seed() == {1: 0.5, 2: pytest.approx(1 / 3)}
    accuracy = row.accuracy()
    assert (accuracy.value, accuracy.n) == (pytest.approx(5 / 12), 6), "six questions, not twelve answers"
    assert row.mean(lambda a: a.n_cited) == 1.0, "the prompt's own example is not cited"
    assert row.latency_s == (0.25, 0.25)


def test_pairs_take_the_seeds_that_both_have(found):
    _, results = found
    gain = results.compare("B", "D")
    assert (gain.value, gain.n) == (pytest.approx(2 / 6), 6)
    assert results.compare("B", "D", "a").value == pytest.approx(2 / 3) and results.compare("B", "D", "b").value == 0.0
    assert results.compare("D:silenced", "D").value == pytest.approx(0.75)
    assert results.compare("B", "once").value == pytest.approx(1 - 1 / 3), "of seed 2 alone"
    assert results.compare("B", "shipped") is None and results.compare("B:silenced", "D") is None


def test_the_page_holds_what_is_there_and_names_what_is_not(found):
    plan, results = found
    text = page(plan, results, "echo-audio ablation x.toml", [("rows/B-1", "echo-audio eval b"), ("rows/shipped-0", "none")])
    assert "| B |  | grounded | 41.7 (" in text and "50.0, 33.3" in text
    assert "D minus B | +33.3 (" in text and "D minus D:silenced | +75.0" in text
    assert "| D | 75.0 | 0.0: -75.0 (" in text
    assert "| a | 3 | 33 | 100 | +66.7" in text
    assert "| once |" in text.partition("## What each reward does")[2]
    assert "| rl-1 | 12 | 12 | 0.300 to 1.000 |" in text
    assert "echo-audio eval b  # 3 s" in text and "Not done: rows/shipped-0." in text
    assert text.count("\n| ---") == 0 and "nan" not in text
    assert found[1].to_json()["rows"]["D"][str(Played.SILENCED)]["value"] == 0.0


def test_of_a_row_that_was_not_finished_stands_what_all_were_asked(found, tmp_path):
    plan, results = found
    plan = plan.model_copy(update={"eval": plan.eval.model_copy(update={"n": 6})})
    write(tmp_path / "rows/D-2", "silenced", "00", "aa")
    write(tmp_path / "rows/B-2", "crop", "100", "aaa")
    known = gather(plan, {name: record for name, record in results.made.items() if name not in ("rows/D-2", "rows/B-2")})
    assert known.rows["D"].by_seed() == {1: pytest.approx(5 / 6), 2: pytest.approx(4 / 6)}
    assert known.rows["D"].by_seed(Played.SILENCED) == {1: 0.0} and known.rows["D"].accuracy(Played.SILENCED).n == 6
    assert known.compare("D:silenced", "D").value == pytest.approx(5 / 6), "of seed 1 alone"
    assert known.rows["B"].by_seed() == {1: 0.5}, "three of six questions are no row"
    assert "| D | 75.0 | 0.0: -83.3 (" in page(plan, known, "x", [])
