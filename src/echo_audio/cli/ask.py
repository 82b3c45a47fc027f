"""`echo-audio ask`: one question about one recording, watched; or many, counted."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from echo_audio.audio import load
from echo_audio.cli import live, many
from echo_audio.cli.arguments import Parser
from echo_audio.cli.console import console, json_line, readable
from echo_audio.cli.session import (
    TINY,
    Item,
    Manner,
    add_manner,
    as_json,
    failed,
    loading,
    manner_of,
    read_items,
    saving,
)
from echo_audio.errors import ConfigError
from echo_audio.scoring.answers import check_choices

_EXAMPLES = """examples:
  echo-audio ask door.flac "What is heard after the bell?" --choice "a dog" --choice "a door"
  echo-audio ask *.wav "What is heard first?" --json > answers.jsonl
  echo-audio ask --questions questions.jsonl --save transcripts.jsonl

questions.jsonl holds one object a line: {"audio": "door.flac", "question": "...", "choices": ["...", "..."], "answer": "..."}
(choices and answer may be left out; audio is looked for beside the file)."""

TINY_KNOWS = (
    "The shipped tiny model was trained on synthetic scenes: bells, knocks, beeps and the like, some recorded sounds, and "
    "spoken digits. About other sounds it guesses; --model Qwen/Qwen2.5-Omni-7B knows more."
)


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    args = _parser().parse_intermixed_args(arguments)
    items = _items(args)
    manner = manner_of(args)
    if args.resume and args.save is None:
        raise ConfigError("--resume goes on after the transcripts of --save; give --save FILE.jsonl too")
    _check_save(args.save, [*{item.audio for item in items}, *([args.questions] if args.questions else [])])
    if len(items) == 1 and not args.resume and args.questions is None:
        return _ask_one(items[0], manner, as_object=args.json, save=args.save)
    if not args.json:
        _say_what_is_known(manner)
    return many.ask(items, manner, as_objects=args.json, save=args.save, resume=args.resume)


def _say_what_is_known(manner: Manner) -> None:
    """To people only: a log or a program has no use for it."""
    where = console(to_stderr=True)
    if manner.model == TINY and where.is_terminal:
        where.print(Text(TINY_KNOWS, "dim"))


def _check_save(save: Path | None, inputs: Sequence[Path]) -> None:
    """Refuse to append transcripts to what is being asked about.

    Raises:
        ConfigError: it is one of the inputs.
    """
    if save is not None and save.is_file() and any(path.is_file() and path.samefile(save) for path in inputs):
        raise ConfigError(f"--save {save} is one of the files asked about; give a file of its own")


def _parser() -> Parser:
    parser = Parser(
        prog="echo-audio ask",
        usage='echo-audio ask FILE... "QUESTION" [--choice TEXT ...] [options]\n'
        "       echo-audio ask --questions FILE.jsonl [options]",
        description="Ask about recordings. The model writes its reasoning, and hears each segment it cites again.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="FILE... QUESTION", help="one or more audio files, then the question")
    parser.add_argument("--choice", action="append", default=[], metavar="TEXT", help="an answer to choose from; repeat it")
    parser.add_argument("--questions", type=Path, metavar="FILE", help="a JSONL file of questions, instead of FILE and QUESTION")
    parser.add_argument("--json", action="store_true", help="print JSON instead: an object, or one a line for many")
    parser.add_argument("--save", type=Path, metavar="FILE", help="append each transcript to this JSONL file")
    parser.add_argument("--resume", action="store_true", help="with --save: leave out what that file already answers")
    add_manner(parser)
    return parser


def _items(args: argparse.Namespace) -> list[Item]:
    """What is asked about which files.

    Raises:
        ConfigError: no question, or no file.
    """
    choices = tuple(map(readable, args.choice))
    if args.questions is not None:
        if args.words or choices:
            raise ConfigError("with --questions everything stands in that file; leave out FILE, QUESTION and --choice")
        return read_items(args.questions)
    if len(args.words) < 2:
        raise ConfigError('ask needs a file and a question: echo-audio ask FILE "QUESTION"')
    *files, question = args.words
    if not question.strip():
        raise ConfigError('the question is empty; ask something: echo-audio ask FILE "What is heard?"')
    if Path(question).is_file():
        raise ConfigError(f"the question comes last, but '{question}' is a file; put the question behind the files")
    check_choices(choices, None, "--choice")
    return [Item(Path(file), readable(question), choices, place=place) for place, file in enumerate(files, 1)]


def _ask_one(item: Item, manner: Manner, *, as_object: bool, save: Path | None) -> int:
    recording = load(item.audio)
    if not as_object:
        _say_what_is_known(manner)
    with saving(save) as saved, loading(manner) as model:
        transcript = model.open(item, recording)
        began = time.monotonic()
        if as_object:
            transcript = asyncio.run(model.listen(transcript, recording))
            sys.stdout.write(json_line(as_json(item, transcript, time.monotonic() - began)))
        else:
            transcript = asyncio.run(live.watch(model.stream(transcript, recording), transcript, recording, Path(item.name).name))
        saved(transcript)
    return int(failed(transcript))
