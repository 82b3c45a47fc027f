"""`echo-audio data eaqa CONFIG key=value ...`: from labelled recordings to rows for SFT and RL. The composition of a run."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from echo_audio.cli.arguments import Parser, number, whole
from echo_audio.cli.console import console
from echo_audio.cli.progress import Step, progress
from echo_audio.errors import ConfigError, DataError

if TYPE_CHECKING:
    from echo_audio.cli.eaqa_engines import OwnEngine
    from echo_audio.data.eaqa.annotate import Describer
    from echo_audio.data.eaqa.bill import Line
    from echo_audio.data.eaqa.calls import Calls
    from echo_audio.data.eaqa.endpoint import ChatEndpoint
    from echo_audio.data.eaqa.facts import Facts
    from echo_audio.data.eaqa.guess import Guesser
    from echo_audio.data.eaqa.make import Tools
    from echo_audio.data.eaqa.prompts import Prompts
    from echo_audio.data.eaqa.run import Done, Entry
    from echo_audio.data.eaqa.settings import EaqaSettings, EndpointSettings

_LOOKED_AT = 16
"""Recordings that are opened for the estimate."""


def main(arguments: Sequence[str]) -> int:
    """Run `data eaqa`: 0 done, 1 when something failed or a budget was spent."""
    parser = Parser(
        prog="echo-audio data eaqa",
        description="Make rows for SFT and RL from labelled recordings: an endpoint writes, another judges. A run that was "
        "stopped goes on when the same command is started again, and asks nothing twice.",
    )
    parser.add_argument("config", type=Path, help="a TOML file, e.g. configs/smoke-eaqa.toml")
    parser.add_argument("override", nargs="*", help="settings on top of it: out=runs/mine write.endpoint.model=...")
    parser.add_argument("--estimate", action="store_true", help="say what it would cost, ask nobody, and stop")
    return _eaqa(parser.parse_intermixed_args(arguments))


def add_verbs(verbs: argparse._SubParsersAction[Parser]) -> None:
    """`data eaqa`, which `main` reads, and `data test-endpoint`."""
    verbs.add_parser("eaqa", help="questions, answers and reasonings about labelled recordings, from an endpoint")
    page = verbs.add_parser("report", help="a run of `data eaqa` as a page: mix, lengths, reasons, cost, samples that play")
    page.add_argument("run_folder", type=Path, metavar="RUN")
    page.add_argument("--samples", type=whole(0), default=200, metavar="N", help="rows shown (default 200)")
    page.add_argument("--embed-mb", type=number(0), default=20.0, metavar="MB", help="audio put into the page (default 20)")
    page.set_defaults(run=_report)
    serve = verbs.add_parser("test-endpoint", help="a chat endpoint with rules instead of a model, on this machine")
    serve.add_argument("--port", type=int, default=8377, help="default 8377")
    serve.add_argument(
        "--fault", action="append", default=[], metavar="WHAT=SHARE",
        help="slow, busy, down, half, broken, garbled, language or mistake, e.g. busy=0.1",
    )  # fmt: skip
    serve.set_defaults(run=_test_endpoint)


def _eaqa(args: argparse.Namespace) -> int:
    from echo_audio.data.eaqa.run import claim, locked
    from echo_audio.data.eaqa.settings import EaqaSettings

    try:
        text = args.config.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{args.config} cannot be read ({error.strerror}); the published ones are in configs/") from None
    settings = EaqaSettings.parse(text, args.override)
    folder = Path(settings.out)
    if args.estimate:
        return _estimate(settings)
    _check_urls(settings)
    with locked(folder):
        claim(folder, settings)
        try:
            return _make(folder, settings)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Start the same command again: {folder} goes on where it stopped.") from None


def _check_urls(settings: EaqaSettings) -> None:
    """Before anything is written: a url must hold no secret."""
    from echo_audio.data.eaqa.bill import endpoints
    from echo_audio.data.eaqa.endpoint import check_url
    from echo_audio.data.eaqa.settings import TEST_URL

    for endpoint in endpoints(settings).values():
        if endpoint.url != TEST_URL:
            check_url(endpoint.url)


@dataclass
class _Company:
    """Everybody who takes part in a run, and what they need.

    Args:
        settings, prompts, calls: of the run.
        stack: closes what was opened.
        asked: endpoints by their settings.
        engines: own ones, by model.
    """

    settings: EaqaSettings
    prompts: Prompts
    calls: Calls
    stack: ExitStack
    asked: list[ChatEndpoint]
    engines: dict[tuple[str, int], OwnEngine]
    test_url: str = ""

    def endpoint(self, settings: EndpointSettings) -> ChatEndpoint:
        """A client; its key is read from the environment.

        Raises:
            ConfigError: the variable that should hold the key is not set.
        """
        from echo_audio.data.eaqa.endpoint import ChatEndpoint
        from echo_audio.data.eaqa.settings import TEST_URL

        key = os.environ.get(settings.key_env, "") if settings.key_env else ""
        if settings.key_env and not key.strip():
            raise ConfigError(f"the environment variable {settings.key_env} is empty; put the key for {settings.model} there")
        url = settings.url
        if url == TEST_URL:
            url = self.test_url = self.test_url or self._served()
        made = ChatEndpoint(settings, self.calls, url, key.strip())
        self.asked.append(made)
        return made

    def _served(self) -> str:
        from echo_audio.data.eaqa.test_server import Behaviour, Fault, serving

        return self.stack.enter_context(serving(Behaviour({Fault.MISTAKE: 0.25}))).url

    def engine(self, model: str, engine_name: str, max_new_tokens: int) -> OwnEngine:
        """One of our engines, loaded once."""
        from echo_audio.cli.eaqa_engines import OwnEngine

        if (model, max_new_tokens) not in self.engines:
            with console(to_stderr=True).status(f"loading {model} ..."):
                own = OwnEngine.load(model, engine_name, self.calls, max_new_tokens, self.settings.in_flight)
            self.stack.callback(own.engine.close)
            self.engines[model, max_new_tokens] = own
        return self.engines[model, max_new_tokens]

    def tools(self) -> Tools:
        """The tools of the run."""
        from echo_audio.data.eaqa.annotate import Annotator, EndpointDescriber
        from echo_audio.data.eaqa.guess import EndpointGuesser
        from echo_audio.data.eaqa.judge import Judge
        from echo_audio.data.eaqa.make import Tools
        from echo_audio.data.eaqa.plan import Mix
        from echo_audio.data.eaqa.similar import NearDuplicates, known_questions
        from echo_audio.data.eaqa.write import Writer

        s, annotator, describer, guesser, known = self.settings, None, None, None, None
        if s.checks.known:
            known = NearDuplicates(s.checks.known_similarity)
            for question in known_questions(s.checks.known):
                known.add(question)
        writer = Writer(self.endpoint(s.write.endpoint), self.prompts, s.write, s.checks, s.seed)
        judge = Judge(self.endpoint(s.judge.endpoint), self.prompts, s.judge.tries, s.seed)
        if s.annotate.by == "endpoint":
            describer: Describer | None = EndpointDescriber(self.endpoint(s.annotate.endpoint))
        elif s.annotate.by == "engine":
            describer = self.engine(s.annotate.model, s.annotate.engine, s.annotate.max_new_tokens)
        if describer is not None:
            annotator = Annotator(describer, self.prompts, s.annotate.tries, s.seed)
        if s.guess.by == "endpoint":
            guesser: Guesser | None = EndpointGuesser(self.endpoint(s.guess.endpoint), self.prompts)
        elif s.guess.by == "engine":
            guesser = self.engine(s.guess.model, s.guess.engine, s.guess.max_new_tokens)
        return Tools(Mix(self.prompts.kinds, s.write.mix), writer, judge, annotator, guesser, known)


@contextmanager
def _company(settings: EaqaSettings, calls: Calls) -> Iterator[_Company]:
    from echo_audio.data.eaqa.prompts import load_prompts

    with ExitStack() as stack:
        yield _Company(settings, load_prompts(settings.prompts), calls, stack, [], {})


def _entries(settings: EaqaSettings) -> list[Entry]:
    from echo_audio.data.eaqa.run import entries
    from echo_audio.data.sources.kinds import open_source

    with console(to_stderr=True).status("reading the sources ..."):
        return entries({name: open_source(name, source) for name, source in settings.sources.items()}, settings)


def _make(folder: Path, settings: EaqaSettings) -> int:
    from echo_audio.data.eaqa.bill import bill, total
    from echo_audio.data.eaqa.calls import Calls
    from echo_audio.data.eaqa.journal import Journal
    from echo_audio.data.eaqa.make import Maker
    from echo_audio.data.eaqa.run import Run, finish, summary

    found = _entries(settings)
    calls, journal = Calls(folder / "calls.jsonl"), Journal(folder / "journal.jsonl")
    try:
        with _company(settings, calls) as company:
            tools = company.tools()
            where = console()
            if not journal.outcomes:
                _show_lines(where, "The estimate", _estimated(settings, company.prompts, found))
            maker = Maker(folder, settings, tools, journal)
            spent = lambda: total(bill(calls, settings))  # noqa: E731
            run = Run(found, maker, spent=spent)
            with progress("rows", run.n_rows) as (step, _):
                done = asyncio.run(_worked(run, company, step))
        with console(to_stderr=True).status("writing the stores ..."):
            outcomes = finish(folder, settings, journal, company.prompts.hashes)
        told = summary(outcomes) | {"failed": done.failed, "bill": _bill_json(calls, settings)}
        from echo_audio.data.store import write_atomically

        write_atomically(folder / "summary.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
        _show_end(where, folder, told, done)
        _show_lines(where, "The bill", bill(calls, settings))
    finally:
        calls.close()
        journal.close()
    return int(bool(done.failed or done.stopped))


async def _worked(run: object, company: _Company, step: Step) -> Done:
    from echo_audio.data.eaqa.run import Run

    assert isinstance(run, Run)
    run.on_rows = lambda n, before=False: step(n, before=before)
    try:
        return await run.work()
    finally:
        for endpoint in company.asked:
            await endpoint.close()


# ---------------------------------------------------------------------------------------------- cost


def _facts_of(found: Sequence[Entry]) -> list[Facts]:
    """What is known of some recordings, spread over all, before anybody is asked."""
    from echo_audio.data.eaqa.facts import Facts
    from echo_audio.data.sources.base import Labelled, usable_events
    from echo_audio.errors import AudioError

    items = [entry.item for entry in found if isinstance(entry.item, Labelled)]
    some = [items[i * len(items) // _LOOKED_AT] for i in range(_LOOKED_AT)] if len(items) > _LOOKED_AT else items
    known: list[Facts] = []
    for item in some:
        try:
            duration_s = item.load().duration_s
        except AudioError:
            continue
        known.append(Facts(duration_s, usable_events(item.events, duration_s)[0], item.texts))
    return known


def _estimated(settings: EaqaSettings, prompts: Prompts, found: Sequence[Entry]) -> list[Line]:
    from echo_audio.data.eaqa.bill import estimate
    from echo_audio.data.sources.base import Labelled

    items = [entry.item for entry in found if isinstance(entry.item, Labelled)]
    n_rows = sum(1 if item.asked else settings.write.questions for item in items)
    return estimate(settings, prompts, _facts_of(found), len(items), n_rows)


def _estimate(settings: EaqaSettings) -> int:
    """Nothing is asked and nothing is written."""
    from echo_audio.data.eaqa.prompts import load_prompts

    found = _entries(settings)
    lines = _estimated(settings, load_prompts(settings.prompts), found)
    _show_lines(console(), f"The estimate, {len(found)} recordings", lines)
    return 0


def _bill_json(calls: Calls, settings: EaqaSettings) -> list[object]:
    from echo_audio.data.eaqa.bill import as_json, bill

    return list(as_json(bill(calls, settings)))


def _show_lines(where: Console, title: str, lines: Sequence[Line]) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("stage", "model", "requests", "tokens in", "tokens out", "price"):
        table.add_column(name, justify="left" if name in ("stage", "model") else "right")
    for line in lines:
        table.add_row(
            line.stage, line.model, f"{line.calls:,}", f"{line.tokens_in:,}", f"{line.tokens_out:,}", f"{line.price:,.2f}"
        )
    table.add_row("all", "", "", "", "", f"{sum(line.price for line in lines):,.2f}")
    where.print(table)


def _show_end(where: Console, folder: Path, told: dict[str, Any], done: Done) -> None:
    counts = ", ".join(f"{n} {route}" for route, n in told["routes"].items())
    where.print(Text(f"{counts}. Rows are in {folder}/stores; look at them: echo-audio data report {folder}"), soft_wrap=True)
    for reason in told["reasons"][:12]:
        where.print(Text(f"{reason['n']:8} {reason['route']}: {reason['reason']}"), soft_wrap=True)
    for remark in told["remarks"]:
        where.print(Text(f"Out of balance: {remark}", "yellow"), soft_wrap=True)
    if done.failed:
        where.print(Text(f"{len(done.failed)} recordings failed, the first: {done.failed[0]}", "yellow"), soft_wrap=True)
    if done.stopped:
        where.print(Text(f"Stopped early: {done.stopped}", "yellow"), soft_wrap=True)
    if done.failed or done.stopped:
        where.print(Text("Start the same command again: what is there is kept, the rest is tried."), soft_wrap=True)


def _report(args: argparse.Namespace) -> int:
    from echo_audio.data.eaqa.bill import bill
    from echo_audio.data.eaqa.calls import Calls
    from echo_audio.data.eaqa.finish import settled
    from echo_audio.data.eaqa.journal import Journal
    from echo_audio.data.eaqa.prompts import load_prompts
    from echo_audio.data.eaqa.report import report
    from echo_audio.data.eaqa.settings import EaqaSettings
    from echo_audio.data.store import write_atomically

    folder: Path = args.run_folder
    try:
        settings = EaqaSettings.parse((folder / "config.toml").read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{folder} is no run of `data eaqa`: it has no config.toml") from None
    with closing(Calls(folder / "calls.jsonl")) as calls, closing(Journal(folder / "journal.jsonl")) as journal:
        outcomes, lines = settled(journal.in_order(), settings.checks), bill(calls, settings)
    kinds = load_prompts(settings.prompts).kinds
    page = report(folder, settings, kinds, outcomes, lines, n_samples=args.samples, embed_mb=args.embed_mb).encode()
    write_atomically(folder / "report.html", page)
    console().print(Text(f"{folder / 'report.html'}: {len(outcomes)} rows, {len(page) / 1e6:.1f} MB"), soft_wrap=True)
    return 0


# ---------------------------------------------------------------------------------------------- the test endpoint


def _test_endpoint(args: argparse.Namespace) -> int:
    import time

    from echo_audio.data.eaqa.test_server import Behaviour, Fault, serving

    shares: dict[Fault, float] = {}
    for told in args.fault:
        name, _, share = told.partition("=")
        try:
            shares[Fault(name)] = number(0, 1)(share)
        except (ValueError, argparse.ArgumentTypeError):
            cure = f"write one of {', '.join(Fault)} with a share from 0 to 1, as in busy=0.1"
            raise ConfigError(f"--fault {told}: {cure}") from None
    with serving(Behaviour(shares), args.port) as server:
        console().print(Text(f"{server.url} answers by rules; Ctrl-C ends it."), soft_wrap=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0
