"""Running many commands of `echo-audio` side by side: what needs what, how many at once, and what is done already.

In the folder of the plan, `jobs/KIND/NAME.log` is what a command said, `jobs/KIND/NAME.json` that it was done (the command,
how long it took, on which machine), and `.lock` is held while a command runs, so that nobody starts it twice.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echo_audio import locks
from echo_audio.errors import ConfigError
from echo_audio.evaluation.ablation import AtOnce, Job

ECHO = (sys.executable, "-m", "echo_audio")

_PATIENCE_S = 60.0
"""How long a command that was asked to stop may take to write its checkpoint."""
_LOOK_S = 0.2


@dataclass(slots=True)
class Running:
    """A command that runs.

    Args:
        share: of its GPU; of the machine, where there are not several.
        gpu: its number.
    """

    job: Job
    process: subprocess.Popen[bytes]
    share: float
    gpu: int = 0
    began_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class State:
    """How far all jobs are. A job is in exactly one of these."""

    waiting: list[Job]
    running: list[Running] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Jobs that need one that failed."""


Told = Callable[[State], None]


def shell(job: Job) -> str:
    """The command as one types it."""
    return shlex.join(("echo-audio", *job.command))


def record(out: Path, job: Job) -> Path:
    """Where it is written that a job is done."""
    return out / "jobs" / f"{job.name}.json"


def log_file(out: Path, job: Job) -> Path:
    """What a job says."""
    return out / "jobs" / f"{job.name}.log"


def read_record(out: Path, job: Job) -> dict[str, Any] | None:
    """What is known of a job that is done; None where it is not.

    Raises:
        ConfigError: another command was run under this name.
    """
    path = record(out, job)
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        command = known["command"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is damaged; delete it and its job is made sure of again") from None
    if command != shell(job):
        raise ConfigError(f"{out} holds {job.name} made by another command ({command}); give another `out`, or delete {path}")
    return known


class Runner:
    """Runs jobs.

    Args:
        out: where their logs and records are.
        at_once: how many of each kind fill a GPU. Where there are several, and CUDA_VISIBLE_DEVICES does not choose among
            them, each command gets one; where there is none or one, they share the machine.
        tell: called whenever something begins or ends, and every now and then.
        until: time.monotonic() at which running commands are asked to stop; None for never.
        program: what a job's command is given to.
    """

    def __init__(
        self, out: Path, at_once: AtOnce, tell: Told, until: float | None = None, program: Sequence[str] = ECHO
    ) -> None:
        self.out, self.at_once, self.tell, self.until, self.program = out, at_once, tell, until, program
        self.machine = machine()
        self.n_gpus = 1 if "CUDA_VISIBLE_DEVICES" in os.environ else max(1, len(self.machine["gpus"]))

    def run(self, jobs: Sequence[Job]) -> State:
        """All of them. A job that fails stops those that need it, and no other.

        Raises:
            KeyboardInterrupt: asked to stop, or out of time; the commands that ran were asked to stop too.
            ConfigError: another process works in this folder.
        """
        state = State([job for job in jobs if read_record(self.out, job) is None])
        state.done = [job.name for job in jobs if job not in state.waiting]
        with _locked(self.out) as lock, _terminating():
            try:
                while state.waiting or state.running:
                    if self.until is not None and time.monotonic() > self.until:
                        raise KeyboardInterrupt
                    self._begin(state, lock)
                    self.tell(state)
                    time.sleep(_LOOK_S)
                    self._reap(state)
            finally:
                self._stop(state)
        self.tell(state)
        return state

    def _begin(self, state: State, lock: int) -> None:
        """Start what may start, in the order of the plan, as long as there is room."""
        for job in list(state.waiting):
            if any(need in state.failed or need in state.skipped for need in job.needs):
                state.waiting.remove(job)
                state.skipped.append(job.name)
                continue
            place = self._place(job, state) if all(need in state.done for need in job.needs) else None
            if place is not None:
                state.waiting.remove(job)
                share, gpu = place
                state.running.append(Running(job, self._start(job, share, gpu, lock), share, gpu))

    def _place(self, job: Job, state: State) -> tuple[float, int] | None:
        """What share of which GPU a job gets: the emptiest one, if it has room. What is timed waits until nothing runs."""
        if job.kind == "latency":
            return None if state.running else (1.0, 0)
        if any(some.job.kind == "latency" for some in state.running):
            return None
        taken = [sum(some.share for some in state.running if some.gpu == gpu) for gpu in range(self.n_gpus)]
        gpu = min(range(self.n_gpus), key=taken.__getitem__)
        share = 1.0 / getattr(self.at_once, job.kind)
        return (share, gpu) if taken[gpu] + share <= 1.0 + 1e-9 else None

    def _start(self, job: Job, share: float, gpu: int, lock: int) -> subprocess.Popen[bytes]:
        """In a process group of its own, so that Ctrl-C comes to it once: from here."""
        log = log_file(self.out, job)
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = str(max(1, int(share * (os.cpu_count() or 1) / self.n_gpus)))
        only = {"CUDA_VISIBLE_DEVICES": str(gpu)} if self.n_gpus > 1 else {}
        with log.open("ab") as file:
            file.write(f"$ {shell(job)}\n".encode())
            file.flush()
            return subprocess.Popen(
                [*self.program, *job.command],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env={"OMP_NUM_THREADS": threads, **os.environ, **only}, pass_fds=(lock,),
            )  # fmt: skip

    def _reap(self, state: State) -> None:
        for some in list(state.running):
            code = some.process.poll()
            if code is None:
                continue
            state.running.remove(some)
            if code:
                state.failed.append(some.job.name)
                continue
            state.done.append(some.job.name)
            known = {"command": shell(some.job), "seconds": round(time.monotonic() - some.began_s, 1), **self.machine}
            path = record(self.out, some.job)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            part.replace(path)

    def _stop(self, state: State) -> None:
        """Ask what still runs to stop, and wait for it; what does not is ended."""
        for some in state.running:
            some.process.terminate()
        limit = time.monotonic() + _PATIENCE_S
        for some in state.running:
            try:
                some.process.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                some.process.kill()
                some.process.wait()


def last_words(path: Path, n_lines: int = 3) -> str:
    """The end of a log, for people."""
    try:
        raw = path.read_bytes()[-4000:]
    except OSError:
        return ""
    lines = [line.strip() for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    return "\n".join(lines[-n_lines:])


def machine() -> dict[str, Any]:
    """What the commands run on: processor cores, GPUs, versions."""
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        gpus = [line.strip() for line in said.stdout.splitlines() if line.strip()] if said.returncode == 0 else []
    return {"cores": os.cpu_count(), "gpus": gpus, "python": platform.python_version(), "system": platform.system()}


@contextmanager
def _locked(out: Path) -> Iterator[int]:
    """The folder's lock, as a file that commands inherit: it is free when the last of them has ended, however that was."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("ab") as file:
        if not locks.take(file.fileno()):
            raise ConfigError(f"commands of an earlier start still work in {out}; wait for them, or end them")
        yield file.fileno()


@contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C is."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
