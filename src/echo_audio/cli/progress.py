"""Progress of long work on stderr: how much, how fast, and when it ends. A line a minute where stderr is no terminal."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from echo_audio.cli.console import console

LINE_S = 60.0
"""Between two lines in a log."""


class Step(Protocol):
    """Told of items that are done."""

    def __call__(self, n: int, /, *, before: bool = False) -> None:
        """`n` more are done; `before` this run, so that they say nothing about its rate."""
        ...


class _Rate(ProgressColumn):
    """Items a second over the whole run, and the time of day at which the last will be done.

    Over the whole run, because batches end together: between two of them nothing happens, and then much at once.
    """

    def render(self, task: Task) -> Text:
        """The rate of this run, whatever was done before it."""
        done = task.completed - task.fields["before"]
        if not done or not task.elapsed:
            return Text("")
        speed = done / task.elapsed
        rate = f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"
        if not task.remaining:
            return Text(rate)
        end = datetime.datetime.now() + datetime.timedelta(seconds=task.remaining / speed)
        day = "" if end.date() == datetime.date.today() else f"{end:%a} "
        return Text(f"{rate}, ends {day}{end:%H:%M:%S}")


@contextmanager
def progress(what: str, total: int, *, done: int = 0) -> Iterator[tuple[Step, Console]]:
    """A bar, and the console that may be written to while it is shown.

    Args:
        what: a word before the bar.
        total: items in all.
        done: of these, before this run.
    """
    where = console(to_stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), _Rate())
    with Progress(
        *columns,
        console=where,
        disable=not where.is_terminal,
        transient=True,
        redirect_stdout=False,  # results go to stdout, also while a bar is shown
        redirect_stderr=False,
    ) as bars:
        task = bars.add_task(what, total=total, completed=done, before=done)
        told_s = time.monotonic()

        def step(n: int, /, *, before: bool = False) -> None:
            nonlocal told_s
            if before:
                bars.update(task, advance=n, before=bars.tasks[0].fields["before"] + n)
            else:
                bars.advance(task, n)
            if not where.is_terminal and time.monotonic() - told_s > LINE_S:
                told_s = time.monotonic()
                bar = bars.tasks[0]
                where.print(Text(f"{what} {bar.completed:.0f} of {total}, {_Rate().render(bar)}"), soft_wrap=True)

        yield step, where
