"""A run of the data engine: recordings in flight at once, outcomes in the journal, stores at the end."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echo_audio import locks
from echo_audio.data.eaqa.balance import balances
from echo_audio.data.eaqa.finish import settled, write_stores
from echo_audio.data.eaqa.journal import Journal, Outcome, Route
from echo_audio.data.eaqa.make import Maker, Task
from echo_audio.data.eaqa.plan import BLOCK, seed_of
from echo_audio.data.eaqa.settings import EaqaSettings, identity
from echo_audio.data.sources.base import Labelled, Skipped, Source, in_whole_characters
from echo_audio.data.store import write_atomically
from echo_audio.errors import ConfigError, DataError, EngineError


@dataclass(frozen=True, slots=True)
class Entry:
    """What a source gave, with its place in the run."""

    source: str
    place: int
    item: Labelled | Skipped


def entries(sources: Mapping[str, Source], settings: EaqaSettings) -> list[Entry]:
    """All that the sources give, in order; each source up to its `n`. A second one of the same id is skipped.

    Raises:
        DataError: a source cannot be read at all.
    """
    found: list[Entry] = []
    for name, source in sources.items():
        most = settings.sources[name].n or None
        seen: set[str] = set()
        skips: Counter[str] = Counter()
        n_items = 0
        for item in map(in_whole_characters, source.items()):
            if isinstance(item, Labelled) and item.id in seen:
                item = Skipped(item.id, "id occurs twice in its source")
            if isinstance(item, Skipped):
                skips[item.id] += 1
                item = Skipped(f"{item.id}/skipped-{skips[item.id]}", item.reason)
            else:
                seen.add(item.id)
                n_items += 1
            found.append(Entry(name, len(found), item))
            if n_items == most:
                break
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The run folder, for this process alone.

    Raises:
        ConfigError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not locks.take(handle):
            raise ConfigError(f"another process is making {folder}; wait for it, or give another out=DIR")
        for left in (folder / "audio").rglob(".*.flac.*"):  # half a file of a process that was killed
            left.unlink()
        yield
    finally:
        os.close(handle)


def claim(folder: Path, settings: EaqaSettings) -> None:
    """Write the settings beside the run, or see that it is the run that was begun there.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    path = folder / "config.toml"
    if path.is_file():
        there = identity(EaqaSettings.parse(path.read_text(encoding="utf-8")))
        mine = identity(settings)
        different = sorted(key for key in {*there, *mine} if there.get(key) != mine.get(key))
        if different:
            raise ConfigError(f"{folder} holds a run with other settings ({', '.join(different)}); give another out=DIR")
    write_atomically(path, settings.to_toml().encode())


@dataclass(slots=True)
class Done:
    """How a run ended.

    Args:
        failed: of recordings that an endpoint failed, why; the same command tries them again.
        stopped: why the run stopped early; empty where it did not.
    """

    failed: list[str] = field(default_factory=list)
    stopped: str = ""


class Run:
    """Works through the recordings.

    Args:
        found: of `entries`.
        maker: makes the rows.
        on_rows: told of rows done; `before` for those that are in the journal already.
        spent: what the calls cost so far.
    """

    def __init__(
        self,
        found: list[Entry],
        maker: Maker,
        on_rows: Callable[..., None] = lambda n, before=False: None,
        spent: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.found, self.maker, self.on_rows, self.spent = found, maker, on_rows, spent
        self.settings, self.journal = maker.settings, maker.journal
        self.done = Done()
        self._room = asyncio.Semaphore(self.settings.in_flight)
        self._in_a_row = 0
        self._planned: list[Counter[str]] = []
        self._kept: list[Counter[str]] = []

    def rows_of(self, entry: Entry) -> int:
        """How many rows an entry gives, at most."""
        asked = isinstance(entry.item, Skipped) or entry.item.asked is not None
        return 1 if asked else self.settings.write.questions

    @property
    def n_rows(self) -> int:
        """Rows of the whole run, at most."""
        return sum(map(self.rows_of, self.found))

    async def work(self) -> Done:
        """Until everything is done or something is in the way.

        Raises:
            ConfigError: an endpoint refuses the key, the model or the request.
            OSError: the disk is full.
        """
        blocks = [self.found[i : i + BLOCK] for i in range(0, len(self.found), BLOCK)]
        tasks: list[list[asyncio.Task[None]]] = []
        try:
            for number, block in enumerate(blocks):
                if number >= 2:
                    await self._all(tasks[number - 2])
                    self._kept.append(self._counted(blocks[number - 2]))
                if self.done.stopped:
                    break
                tasks.append([asyncio.create_task(self._one(task)) for task in self._dealt(block)])
            for left in tasks:
                await self._all(left)
        finally:
            running = [task for block in tasks for task in block if not task.done()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return self.done

    @staticmethod
    async def _all(tasks: list[asyncio.Task[None]]) -> None:
        """All of them; the first error is raised at once."""
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()

    def _counted(self, block: list[Entry]) -> Counter[str]:
        """Rows of a block that were kept, by kind."""
        ids = [f"{entry.source}/{entry.item.id}/{i}" for entry in block for i in range(self.rows_of(entry))]
        known = [self.journal.outcomes[row_id] for row_id in ids if row_id in self.journal]
        return Counter(o.kind for o in known if o.route in (Route.SFT, Route.RL))

    def _dealt(self, block: list[Entry]) -> Iterator[Task]:
        """The tasks of a block, each with its kinds of question; what a source skipped goes to the journal at once."""
        mix, counts = self.maker.tools.mix, sum(self._kept, Counter[str]())
        counts += self._planned[-1] if self._planned else Counter[str]()
        before = counts.copy()
        for entry in block:
            item = entry.item
            if isinstance(item, Skipped):
                row_id = f"{entry.source}/{item.id}"
                self.on_rows(1, before=row_id in self.journal)
                self.journal.add(Outcome(row_id, (entry.place, 0), Route.SKIPPED, (item.reason,)))
                continue
            kinds: list[str] = []
            if item.asked is None:
                seed = seed_of(self.settings.seed, entry.source, item.id, "kinds")
                kinds = mix.deal(len(item.events), counts, self.rows_of(entry), seed)
            yield Task(entry.source, entry.place, item, tuple(kinds))
        self._planned.append(counts - before)

    async def _one(self, task: Task) -> None:
        """One recording, when there is room."""
        n_rows = max(1, len(task.kinds))
        known = sum(task.row_id(i) in self.journal for i in range(n_rows))
        self.on_rows(known, before=True)
        if known == n_rows:
            return
        async with self._room:
            if self.settings.budget and self.spent() >= self.settings.budget:
                self.done.stopped = self.done.stopped or f"the budget of {self.settings.budget:g} is spent"
            if self.done.stopped:
                return
            try:
                async for outcome in self.maker.outcomes(task):
                    self.journal.add(outcome)
                    self.on_rows(1)
                    self._in_a_row = 0
            except EngineError as error:
                self._failed(task, error)

    def _failed(self, task: Task, error: EngineError) -> None:
        self.done.failed.append(f"{task.source}/{task.item.id}: {error}")
        self._in_a_row += 1
        if self._in_a_row >= self.settings.stop_after:
            self.done.stopped = self.done.stopped or f"{self._in_a_row} recordings in a row failed; the last: {error}"


def finish(folder: Path, settings: EaqaSettings, journal: Journal, prompts: Mapping[str, str]) -> list[Outcome]:
    """Make the stores anew; returns the settled outcomes.

    Raises:
        DataError: the journal names a recording that is not there.
    """
    outcomes = settled(journal.in_order(), settings.checks)
    made_by: dict[str, Any] = {"settings": identity(settings), "prompts": dict(prompts)}
    try:
        write_stores(folder, outcomes, made_by)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing from {folder}; delete {folder} and make it again") from None
    return outcomes


def classes(reasons: Iterable[str]) -> list[str]:
    """Reasons without what differs from case to case."""
    return [reason.partition(":")[0] for reason in reasons]


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Rows by route and by reason."""
    routes = Counter(str(outcome.route) for outcome in outcomes)
    kept = [o.row for o in outcomes if o.route in (Route.SFT, Route.RL) and o.row is not None]
    why = Counter((str(o.route), reason) for o in outcomes for reason in classes(o.reasons[:1]))
    return {
        "routes": {str(route): routes[str(route)] for route in Route},
        "reasons": [{"route": route, "reason": reason, "n": n} for (route, reason), n in why.most_common()],
        "remarks": [remark for balance in balances(kept) for remark in balance.remarks()],
    }
