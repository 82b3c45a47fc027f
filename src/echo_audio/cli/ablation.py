"""`echo-audio ablation PLAN key=value ...`: train all models of a plan, score all its rows, write the page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from echo_audio.cli.arguments import Parser, number
from echo_audio.cli.console import console
from echo_audio.cli.jobs import Runner, State, Told, last_words, log_file, read_record, shell
from echo_audio.errors import ConfigError

if TYPE_CHECKING:
    from echo_audio.evaluation.ablation import Job, Plan

_EVERY_S = 30.0


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    args = _parser().parse_intermixed_args(arguments)
    try:
        text = args.plan.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{args.plan} cannot be read ({error.strerror}); the published ones are in configs/") from None
    from echo_audio.evaluation.ablation import Plan, jobs

    plan = Plan.parse(text, args.override)
    todo = jobs(plan)
    if args.only:
        todo = _chosen(todo, args.only)
    if args.dry_run:
        for job in todo:
            console().print(Text(shell(job)), soft_wrap=True)
        return 0
    out = Path(plan.out)
    command = " ".join(("echo-audio ablation", str(args.plan), *args.override))
    try:
        failed = False if args.table else _run(plan, todo, args.stop_after)
    except KeyboardInterrupt:
        _write(plan, command, None)  # what is there can be read in its folder; a page that was finished once stays
        raise
    page = _write(plan, command, args.results)
    console().print(Text(f"The results are in {page}, all that they rest on in {out}."), soft_wrap=True)
    return int(failed)


def _parser() -> Parser:
    parser = Parser(
        prog="echo-audio ablation",
        description="Train the models of a plan, score its rows, and write a page with the table, its intervals and tests. "
        "When the same command is started again, what is done is not done again and what was interrupted goes on.",
    )
    parser.add_argument("plan", type=Path, help="a TOML file, e.g. configs/ablation.toml")
    parser.add_argument("override", nargs="*", help="settings on top of it: seeds=[1] seconds.grpo=200 out=runs/mine")
    parser.add_argument("--results", type=Path, metavar="FILE", help="where the page goes (default OUT/results.md)")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this model or row, and what it needs")
    parser.add_argument("--table", action="store_true", help="run nothing; write the page from what is there")
    parser.add_argument(
        "--stop-after", type=number(0, open_low=True), metavar="S", help="stop in time on a lent machine, ready to go on"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    return parser


def _chosen(todo: Sequence[Job], names: Sequence[str]) -> list[Job]:
    """The jobs of these models and rows, and what they need."""
    known = {job.folder.name.rpartition("-")[0] for job in todo}
    for name in names:
        if name not in known:
            raise ConfigError(f"the plan has no model and no row {name!r}; it has {', '.join(sorted(known))}")
    wanted = {job.name for job in todo if job.folder.name.rpartition("-")[0] in names}
    for job in reversed(todo):
        if job.name in wanted:
            wanted.update(job.needs)
    return [job for job in todo if job.name in wanted]


def _run(plan: Plan, todo: Sequence[Job], stop_after_s: float | None) -> bool:
    """Run what is left; whether something failed."""
    from echo_audio.evaluation.export import write_whole

    until = None if stop_after_s is None else time.monotonic() + stop_after_s
    out = Path(plan.out)
    write_whole(out / "plan.toml", plan.to_toml())
    try:
        with _watching(plan, todo) as tell:
            state = Runner(out, plan.at_once, tell, until).run(todo)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Start the same command again and it goes on.") from None
    where = console(to_stderr=True)
    for job in todo:
        if job.name in state.failed:
            said = last_words(log_file(out, job))
            where.print(Text(f"{job.name} failed; the end of {log_file(out, job)}:\n{said}", "red"), soft_wrap=True)
    if state.skipped:
        where.print(Text(f"Not begun, because they need it: {', '.join(state.skipped)}.", "red"), soft_wrap=True)
    return bool(state.failed)


@contextmanager
def _watching(plan: Plan, todo: Sequence[Job]) -> Iterator[Told]:
    """A table of what runs on a terminal; elsewhere a line whenever something ends, and every half minute."""
    where = console(to_stderr=True)
    out, began_s = Path(plan.out), time.monotonic()
    if where.is_terminal:
        with Live(console=where, auto_refresh=False, transient=True) as live:
            yield lambda state: live.update(_table(plan, state, len(todo), out, began_s), refresh=True)
        return
    last: tuple[int, float] = (-1, 0.0)

    def tell(state: State) -> None:
        nonlocal last
        ended = len(state.done) + len(state.failed)
        if ended == last[0] and time.monotonic() < last[1] + _EVERY_S:
            return
        last = (ended, time.monotonic())
        names = " ".join(some.job.name for some in state.running)
        where.print(Text(f"{time.monotonic() - began_s:5.0f} s  {_counts(state, len(todo))}  {names}"), soft_wrap=True)

    yield tell


def _counts(state: State, total: int) -> str:
    failed = f", {len(state.failed)} failed" if state.failed else ""
    return f"{len(state.done)} of {total} done{failed}, {len(state.running)} running"


def _table(plan: Plan, state: State, total: int, out: Path, began_s: float) -> Table:
    now = time.monotonic()
    title = f"{plan.name}: {_counts(state, total)}, {now - began_s:.0f} s"
    table = Table("what runs", "for", "last word", title=title, title_justify="left")
    for some in state.running:
        said = last_words(log_file(out, some.job), 1)
        table.add_row(some.job.name, f"{now - some.began_s:.0f} s", Text(said, overflow="ellipsis", no_wrap=True))
    return table


def _write(plan: Plan, command: str, results: Path | None) -> Path:
    """The page and its numbers, from the run folders alone."""
    from echo_audio.evaluation.ablation import jobs
    from echo_audio.evaluation.ablation_page import page
    from echo_audio.evaluation.ablation_results import gather
    from echo_audio.evaluation.export import write_whole

    out = Path(plan.out)
    todo = jobs(plan)
    made = {job.name: known for job in todo if (known := read_record(out, job)) is not None}
    found = gather(plan, made)
    path = results or out / "results.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(plan, found, command, [(job.name, shell(job)) for job in todo]))
    write_whole(path.with_suffix(".json"), json.dumps(found.to_json(), indent=1) + "\n")
    return path
