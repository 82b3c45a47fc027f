"""`echo-audio ablation`: commands side by side, what is done stays done, and a whole small plan."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from echo_audio.cli import jobs
from echo_audio.cli.jobs import Runner, State
from echo_audio.cli.session import has_tiny
from echo_audio.errors import ConfigError
from echo_audio.evaluation.ablation import AtOnce, Job

CONFIGS = Path(__file__).parents[2] / "configs"

SCRIPT = """
import os, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
def write(word):
    with log.open("a") as file:
        file.write(f"{word} {sys.argv[2]}\\n")
def stopped(*_):
    write("stopped")
    sys.exit(3)
signal.signal(signal.SIGTERM, stopped)
write("begin" + os.environ.get("CUDA_VISIBLE_DEVICES", ""))
time.sleep(float(sys.argv[3]))
write("end")
print("my last word", flush=True)
sys.exit(int(sys.argv[4]))
"""


class Case:
    """Jobs that write into one file when they begin and end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"

    def job(self, name: str, kind: str = "sft", needs: tuple[str, ...] = (), takes_s: float = 0.3, code: int = 0) -> Job:
        return Job(f"models/{name}", kind, (str(self.log), name, str(takes_s), str(code)), self.folder / name, needs)

    def run(self, *todo: Job, until: float | None = None, **at_once: int) -> State:
        program = (sys.executable, "-c", SCRIPT)
        return Runner(self.folder / "out", AtOnce(**at_once), lambda _: None, until, program).run(todo)

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.is_file() else []


@pytest.fixture
def case(tmp_path) -> Case:
    return Case(tmp_path)


def test_what_needs_another_waits_for_it(case):
    state = case.run(case.job("a"), case.job("b", "grpo", ("models/a",)), case.job("c"), sft=2, grpo=2)
    assert set(state.done) == {"models/a", "models/b", "models/c"} and not state.failed
    assert case.said.index("begin b") > case.said.index("end a")
    assert case.said.index("begin c") < case.said.index("end a"), "two at once"
    known = json.loads((case.folder / "out/jobs/models/a.json").read_text())
    assert known["seconds"] > 0.2 and known["command"].startswith("echo-audio ") and known["cores"] == os.cpu_count()


def test_kinds_share_the_machine(case):
    case.run(case.job("a", takes_s=0.5), case.job("b", "grpo"), case.job("c", "grpo"), case.job("d", "latency"), sft=2, grpo=2)
    assert case.said.index("begin b") < case.said.index("end a"), "half a machine was free"
    assert case.said.index("begin c") > min(case.said.index("end a"), case.said.index("end b"))
    assert case.said[-2:] == ["begin d", "end d"], "what is timed runs alone"


def test_several_gpus_are_filled_one_by_one(case, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(jobs, "machine", lambda: {"gpus": ["one", "two"]})
    case.run(*(case.job(name, takes_s=0.6) for name in "abc"), case.job("d", "latency"), sft=1)
    begun = [line for line in case.said if line.startswith("begin")]
    assert sorted(begun[:2]) == ["begin0 a", "begin1 b"] and begun[2][-1] == "c" and case.said[-2:] == ["begin0 d", "end d"]
    assert case.said.index(begun[2]) > min(case.said.index("end a"), case.said.index("end b"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    case.log.unlink()
    case.run(case.job("e"), sft=1)
    assert case.said[0] == "begin1 e", "who chooses GPUs is not overruled"


def test_what_is_done_is_not_done_again(case):
    case.run(case.job("a"))
    state = case.run(case.job("a"), case.job("b", needs=("models/a",)))
    assert case.said == ["begin a", "end a", "begin b", "end b"] and len(state.done) == 2
    with pytest.raises(ConfigError, match="made by another command"):
        case.run(case.job("a", takes_s=0.1))
    (case.folder / "out/jobs/models/a.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        case.run(case.job("a"))


def test_a_failure_stops_only_what_needs_it(case):
    state = case.run(case.job("a", code=1), case.job("b", needs=("models/a",)), case.job("c", needs=("models/b",)), case.job("d"))
    assert (state.failed, state.skipped, state.done) == (["models/a"], ["models/b", "models/c"], ["models/d"])
    assert jobs.last_words(jobs.log_file(case.folder / "out", case.job("a")), 1) == "my last word"
    assert case.run(case.job("d")).done == ["models/d"]


def test_in_time_on_a_lent_machine(case):
    with pytest.raises(KeyboardInterrupt):
        case.run(case.job("a", takes_s=30), case.job("b", takes_s=30), until=time.monotonic() + 1.0, sft=2)
    assert sorted(case.said) == ["begin a", "begin b", "stopped a", "stopped b"]
    assert not list((case.folder / "out/jobs").rglob("*.json"))


def test_a_stop_from_outside_is_passed_on(case):
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(KeyboardInterrupt):
        case.run(case.job("a", takes_s=30))
    assert case.said == ["begin a", "stopped a"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_do_not_work_in_one_folder(case):
    case.folder.joinpath("out").mkdir()
    with jobs._locked(case.folder / "out"), pytest.raises(ConfigError, match="still work"):
        case.run(case.job("a"))


def test_the_commands_are_shown_without_running_them(run, tmp_path):
    said = run("ablation", CONFIGS / "ablation.toml", "seeds=[1]", f"out={tmp_path / 'o'}", "--dry-run", "--only", "E")
    lines = said.out.splitlines()
    assert [line.split()[1] for line in lines] == ["sft", "grpo", "eval", "eval"] and not (tmp_path / "o").exists()
    assert "train.max_seconds=60" in run("ablation", CONFIGS / "ablation.toml", "seconds.sft=60", "--dry-run").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["none.toml"], "cannot be read"), ([CONFIGS / "ablation.toml", "--only", "F"], "no model and no row 'F'"),
     ([CONFIGS / "ablation.toml", "sedes=[1]"], "did you mean 'seeds'")],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(run, arguments, says):
    said = run("ablation", *arguments, "--dry-run")
    assert said.code == 2 and says in said.err and said.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not has_tiny(), reason="the shipped model is not here")
def test_a_whole_small_plan(run, tmp_path):
    """Stopped on the way and started again: the page is made, and what was done is not done again."""
    plan, out = CONFIGS / "smoke-ablation.toml", f"out={tmp_path / 'o'}"
    stopped = run("ablation", plan, out, "--stop-after", "20")
    assert stopped.code == 130 and "it goes on" in stopped.err
    assert "Not done: " in (tmp_path / "o" / "results.md").read_text()  # what there is can be read already
    said = run("ablation", plan, out, "--results", tmp_path / "page.md")
    assert said.code == 0, said.err
    text = (tmp_path / "page.md").read_text()
    for words in ("| B | grounded | grounded |", "D minus C |", "## Does it use what it hears", "| D-1 | ", "| grounded-1 | "):
        assert words in text
    assert "Not done" not in text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "o/jobs").rglob("*.log")}
    assert run("ablation", plan, out).code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "o/jobs").rglob("*.log")} == before
