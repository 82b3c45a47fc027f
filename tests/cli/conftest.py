"""The command line, run in this process against turns written by the test instead of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from echo_audio import cli
from echo_audio.audio import SAMPLE_RATE, Recording, encode_flac
from echo_audio.cli import session
from echo_audio.engines.scripted import Script, ScriptedEngine, ScriptedFamily
from echo_audio.listen import OnPiece, Request, Turn
from echo_audio.models import folders
from echo_audio.transcript import Mode, Question

REASONING = ("<think>I look for the bell <seg>1.2, 1.9</seg>", ", and it is bright.</think>\n<answer>a bell</answer>")


class Family(ScriptedFamily):
    """The scripted family with the plainest prompt."""

    def prompt(self, question: Question, mode: Mode) -> str:
        return f"{question.text} {' | '.join(question.choices)} {mode}"


@dataclass
class Engine:
    """Says the same turns to every transcript."""

    turns: Sequence[Script]
    sessions: dict[str, ScriptedEngine] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    closed: bool = False

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        self.requests.append(request)
        own = self.sessions.setdefault(request.session, ScriptedEngine(self.turns))
        return await own.generate(request, on_piece)

    def release(self, session: str) -> None:
        self.sessions.pop(session, None)

    def close(self) -> None:
        self.closed = True


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine every model name leads to; set its `turns`."""
    scripted = Engine(REASONING)
    monkeypatch.setattr(session, "load_engine", lambda _: (scripted, Family()))
    monkeypatch.setattr(folders, "resolve", Path)
    return scripted


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line without a terminal, 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")

    def run(*arguments: str | Path) -> Said:
        code = cli.run([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with door.flac (4 s) and bell.flac (3 s) in it."""
    for name, duration_s in (("door.flac", 4), ("bell.flac", 3)):
        samples = np.random.default_rng(duration_s).standard_normal(duration_s * SAMPLE_RATE) * 0.1
        (tmp_path / name).write_bytes(encode_flac(Recording(samples.astype(np.float32))))
    monkeypatch.chdir(tmp_path)
    return tmp_path
