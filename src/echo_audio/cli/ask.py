"""`echo-audio ask`: one question about one recording, watched; or many, counted."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from echo_audio.audio import load
from echo_audio.cli import live, many
from echo_audio.cli.console import console
from echo_audio.cli.session import (
    TINY, Item, Manner, add_manner, as_json, check_choices, failed, loading, manner_of, read_items, saving,
)  # fmt: skip
from echo_audio.errors import ConfigError

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
    if manner.model == TINY:
        console(to_stderr=True).print(Text(TINY_KNOWS, "dim"))
    if len(items) == 1 and not args.resume and args.questions is None:
        return _ask_one(items[0], manner, as_object=args.json, save=args.save)
    return many.ask(items, manner, as_objects=args.json, save=args.save, resume=args.resume)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    choices = tuple(args.choice)
    if args.questions is not None:
        if args.words or choices:
            raise ConfigError("with --questions everything stands in that file; leave out FILE, QUESTION and --choice")
        return read_items(args.questions)
    if len(args.words) < 2:
        raise ConfigError('ask needs a file and a question: echo-audio ask FILE "QUESTION"')
    *files, question = args.words
    if Path(question).is_file():
        raise ConfigError(f"the question comes last, but '{question}' is a file; put the question behind the files")
    check_choices(choices, None, "--choice")
    return [Item(Path(file), question, choices) for file in files]


def _ask_one(item: Item, manner: Manner, *, as_object: bool, save: Path | None) -> int:
    recording = load(item.audio)
    with saving(save) as saved, loading(manner) as model:
        transcript = model.open(item, recording)
        began = time.monotonic()
        if as_object:
            transcript = asyncio.run(model.listen(transcript, recording))
            sys.stdout.write(json.dumps(as_json(item, transcript, time.monotonic() - began), ensure_ascii=False) + "\n")
        else:
            transcript = asyncio.run(live.watch(model.stream(transcript, recording), transcript, recording, item.audio.name))
        saved(transcript)
    return int(failed(transcript))
