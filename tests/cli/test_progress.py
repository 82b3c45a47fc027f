"""The bar: its rate is that of this run, whatever was done before, and however unevenly results come."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.progress import Progress

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


def test_without_a_terminal_nothing_is_drawn(capsys):
    with progress("asking", 3) as (step, _):
        step(1)
        step(1, before=True)
    assert capsys.readouterr() == ("", "")
