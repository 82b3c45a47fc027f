"""Many questions in one go: all in flight at once, a bad file reported and the others answered, resumable."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from echo_audio.audio import load
from echo_audio.cli.console import console, json_line, shown
from echo_audio.cli.live import answer_line
from echo_audio.cli.progress import Step, progress
from echo_audio.cli.session import (
    MAX_AT_ONCE,
    Item,
    Listener,
    Manner,
    as_json,
    failed,
    is_right,
    loading,
    saving,
)
from echo_audio.errors import DataError, EchoError, TranscriptError
from echo_audio.transcript import Stop, Transcript

Save = Callable[[Transcript], None]


@dataclass(slots=True)
class Tally:
    """What came out so far."""

    total: int
    skipped: int = 0
    answered: int = 0
    failed: int = 0
    right: int = 0
    with_truth: int = 0
    began: float = field(default_factory=time.monotonic)

    def count(self, transcript: Transcript) -> None:
        """Add a finished transcript."""
        bad = failed(transcript)
        self.failed += bad
        self.answered += not bad
        verdict = is_right(transcript)
        self.with_truth += verdict is not None
        self.right += verdict is True

    def line(self) -> str:
        """For people."""
        took_s = time.monotonic() - self.began
        n = self.answered + self.failed
        parts = [f"{self.answered} of {self.total - self.skipped} answered in {took_s:.1f} s"]
        parts += [f"{n / took_s:.1f} a second"] if n > 1 and took_s > 0 else []
        parts += [f"{self.skipped} were answered before"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.right} of {self.with_truth} right"] if self.with_truth else []
        return ", ".join(parts)


def ask(items: list[Item], manner: Manner, *, as_objects: bool, save: Path | None, resume: bool) -> int:
    """Answer every item; prints each result when it is there, in no fixed order.

    Raises:
        KeyboardInterrupt: stopped; its text says how to go on.
    """
    known = _answered(save) if resume and save is not None else set[str]()
    tally = Tally(len(items))
    try:
        with saving(save) as keep, loading(manner) as model, progress("asking", len(items)) as (step, bar_console):
            show = _Show(as_objects, bar_console)
            tally.began = time.monotonic()
            asyncio.run(_all(items, model, known, tally, keep, show, step))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{tally.line()}. {_how_to_resume(save)}") from None
    console(to_stderr=True).print(Text(tally.line(), "dim"))
    return int(tally.failed > 0)


def _how_to_resume(save: Path | None) -> str:
    if save is None:
        return "Nothing was kept; with --save FILE.jsonl a later run can go on with --resume."
    return f"The answers are in {save}; the same command with --resume goes on after them."


async def _all(
    items: list[Item], model: Listener, known: set[str], tally: Tally, keep: Save, show: _Show, step: Step
) -> None:
    """A fixed number of workers, so that few recordings are in memory at once."""
    queue = iter(items)

    async def work() -> None:
        for item in queue:
            skipped = not await _one(item, model, known, tally, keep, show)
            step(1, before=skipped)

    await asyncio.gather(*(work() for _ in range(min(MAX_AT_ONCE, len(items)))))


async def _one(item: Item, model: Listener, known: set[str], tally: Tally, keep: Save, show: _Show) -> bool:
    """Answer one item, unless it is known; whether it was asked."""
    began = time.monotonic()
    try:
        recording = await asyncio.to_thread(load, item.audio)
        opened = model.open(item, recording)
        if _key(opened) in known:
            tally.skipped += 1
            return False
        transcript = await model.listen(opened, recording)
    except EchoError as error:
        tally.failed += 1
        show.trouble(item, str(error))
        return True
    tally.count(transcript)
    keep(transcript)
    show.result(item, transcript, time.monotonic() - began)
    return True


def _key(transcript: Transcript) -> str:
    """What makes two runs of a question the same: the question with its settings, the mode, what is played."""
    return f"{transcript.question!r} {transcript.mode} {transcript.played}"


def _answered(path: Path) -> set[str]:
    """Keys of the transcripts in a file that need not be made again. A last line that broke off is taken away.

    Raises:
        DataError: the file holds something else than transcripts.
    """
    if not path.is_file():
        return set()
    whole, end, rest = path.read_bytes().rpartition(b"\n")
    transcripts = list[Transcript]()
    for number, line in enumerate(whole.split(b"\n"), 1):
        if line.strip():
            try:
                transcripts.append(Transcript.from_json(line))
            except TranscriptError:
                cure = "give --save the file of an earlier run, or a new one"
                raise DataError(f"{path}:{number} is not a transcript that Echo wrote; {cure}") from None
    if rest and not end:
        raise DataError(f"'{path}' holds no transcripts; give --save the file of an earlier run, or a new one")
    if rest:
        os.truncate(path, len(whole) + len(end))
    return {_key(t) for t in transcripts if t.stop is not Stop.ENGINE_ERROR}


@dataclass(slots=True)
class _Show:
    """Prints results: JSON lines for machines, a line or two for people."""

    as_objects: bool
    beside_the_bar: Console

    def result(self, item: Item, transcript: Transcript, took_s: float) -> None:
        """An answered item."""
        if self.as_objects:
            return self._object(as_json(item, transcript, took_s))
        name = Text.assemble((shown(item.name), "bold"), "  ", shown(item.text), "  ")
        return self._line(name.append_text(answer_line(transcript)))

    def trouble(self, item: Item, message: str) -> None:
        """An item that could not be asked."""
        if self.as_objects:
            return self._object({"place": item.place, "audio": item.name, "question": item.text, "error": message})
        return self._line(Text.assemble((shown(item.name), "bold"), "  ", ("failed: ", "red"), shown(message)))

    def _object(self, value: object) -> None:
        self._line(Text(json_line(value).rstrip("\n")))

    def _line(self, line: Text) -> None:
        """Through the bar's console when both are one terminal, so that they do not write into each other."""
        both = self.beside_the_bar.is_terminal and sys.stdout.isatty()
        if both or not self.as_objects:
            (self.beside_the_bar if both else console()).print(line, soft_wrap=True)
        else:
            sys.stdout.write(f"{line.plain}\n")  # rich would show a tab or a control character differently
        sys.stdout.flush()
