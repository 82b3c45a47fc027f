"""The bar: its rate is that of this run, whatever was done before, and however unevenly results come."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.progress import Progress

from echo_audio.cli import progress as progress_module
from echo_audio.cli.progress import _Rate, progress


@pytest.mark.parametrize(
    ("before", "completed", "took_s", "says"),
    [(0, 20, 10.0, "2.0/s, ends "), (60, 80, 10.0, "2.0/s, ends "), (0, 1, 10.0, "10.0 s each, ends "), (60, 60, 10.0, "")],
)
def test_rate_and_end(before, completed, took_s, says):
    clock = iter([0.0])
    bars = Progress(get_time=lambda: next(clock, took_s), console=Console(quiet=True))
    bars.add_task("x", total=100, completed=completed, before=before)
    text = _Rate().render(bars.tasks[0]).plain
    assert text.startswith(says)
    assert bool(text) == bool(says)


def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with progress("asking", 100, done=60) as (step, _):
        for now[0] in (20.0, 40.0, 61.0, 80.0):
            step(2)
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("asking 66 of 100, ") and ", ends " in err


def test_without_a_terminal_nothing_is_drawn(capsys):
    with progress("asking", 3) as (step, _):
        step(1)
        step(1, before=True)
    assert capsys.readouterr() == ("", "")
