"""`echo-audio demo`: the shipped model about the shipped recordings, with the truth beside each answer."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

import echo_audio
from echo_audio.audio import load
from echo_audio.cli import live
from echo_audio.cli.arguments import Parser
from echo_audio.cli.console import console
from echo_audio.cli.session import TINY, Item, Listener, Manner, failed, is_right, loading, read_items
from echo_audio.errors import DataError
from echo_audio.transcript import Transcript

FOLDER = Path(echo_audio.__file__).parent / "demo"
"""Recordings made by us from procedural sounds (CC0-1.0), and their questions; `data/demo.py` writes them."""
QUESTIONS = "questions.jsonl"


def main(arguments: Sequence[str]) -> int:
    """Run the verb: 0, or 1 when a question got no answer. A wrong answer is said, and is no failure of the command."""
    args = _parser().parse_args(arguments)
    if args.write is not None:
        return _write(args.write)
    if not (FOLDER / QUESTIONS).is_file():
        raise DataError(f"the demo's recordings are not in {FOLDER}; make them: echo-audio demo --write {FOLDER}")
    items = read_items(FOLDER / QUESTIONS)
    began = time.monotonic()
    with loading(Manner(model=args.model)) as model:
        transcripts = asyncio.run(_watch_all(model, items))
    _say_how_it_went(transcripts, time.monotonic() - began)
    return int(any(map(failed, transcripts)))


def _parser() -> Parser:
    parser = Parser(
        prog="echo-audio demo",
        description="Ask the shipped model about the recordings that ship with it. They were made by Echo from synthetic "
        "sounds in variants that the model was not trained on; the truth is shown beside each answer.",
    )
    parser.add_argument("--model", default=TINY, metavar="M", help="another model: a folder or a hub id")
    parser.add_argument("--write", type=Path, metavar="DIR", help="only make the recordings anew, in DIR")
    return parser


def _write(folder: Path) -> int:
    from echo_audio.data.demo import write_demo

    try:
        rows = write_demo(folder)
    except OSError as error:
        raise DataError(f"cannot write to '{folder}': {error.strerror}; check the folder and its permissions") from None
    console().print(Text(f"{len(rows)} recordings and {QUESTIONS} are in {folder}."), soft_wrap=True)
    return 0


async def _watch_all(model: Listener, items: Sequence[Item]) -> list[Transcript]:
    transcripts = list[Transcript]()
    for item in items:
        recording = load(item.audio)
        opened = model.open(item, recording)
        transcripts.append(
            await live.watch(model.stream(opened, recording), opened, recording, item.audio.name)
        )
        console().print()
    return transcripts


def _say_how_it_went(transcripts: Sequence[Transcript], took_s: float) -> None:
    where = console()
    right = sum(is_right(transcript) is True for transcript in transcripts)
    all_right = right == len(transcripts)
    verdict = Text(f"{right} of {len(transcripts)} right", "bold green" if all_right else "bold yellow")
    where.print(verdict.append(f" in {took_s:.1f} s, loading included.", "not bold default"), soft_wrap=True)
    if not all_right:
        where.print(Text("The small model is not always right: its model card says how often.", "dim"), soft_wrap=True)
    example = f'{_command()} ask FILE "What is heard first?" --choice bell --choice knock'
    where.print(Text(f"Now your own: {example}", "dim"), soft_wrap=True)


def _command() -> str:
    """What to type to get this program: its name where the shell finds it, else its path."""
    if shutil.which("echo-audio"):
        return "echo-audio"
    script = Path(sys.argv[0]).absolute()
    return str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)
