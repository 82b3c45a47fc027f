"""`echo-audio demo`: the shipped model about the shipped recordings, with the truth beside each answer."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

import echo_audio
from echo_audio.audio import load
from echo_audio.cli import live
from echo_audio.cli.console import console
from echo_audio.cli.session import TINY, Item, Listener, Manner, is_right, loading, read_items

FOLDER = Path(echo_audio.__file__).parent / "demo"
"""Recordings made by us from procedural sounds (CC0-1.0), and questions.jsonl; `data/demo.py` writes them."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb. A wrong answer is said, and is no failure of the command."""
    parser = argparse.ArgumentParser(
        prog="echo-audio demo",
        description="Ask the shipped model about the recordings that ship with it. They were made by Echo from synthetic "
        "sounds in variants that the model was not trained on; the truth is shown beside each answer.",
    )
    parser.add_argument("--model", default=TINY, metavar="M", help="another model: a folder or a hub id")
    args = parser.parse_args(arguments)
    items = read_items(FOLDER / "questions.jsonl")
    began = time.monotonic()
    with loading(Manner(model=args.model)) as model:
        right = asyncio.run(_watch_all(model, items))
    return _summary(right, len(items), time.monotonic() - began)


async def _watch_all(model: Listener, items: Sequence[Item]) -> int:
    right = 0
    for item in items:
        recording = load(item.audio)
        opened = model.open(item, recording)
        transcript = await live.watch(model.stream(opened, recording), opened, recording, item.audio.name)
        right += is_right(transcript) is True
        console().print()
    return right


def _summary(right: int, total: int, took_s: float) -> int:
    where = console()
    style = "bold green" if right == total else "bold red"
    where.print(Text.assemble((f"{right} of {total} right", style), f" in {took_s:.1f} s, loading included."), soft_wrap=True)
    last = (
        'Now your own: echo-audio ask FILE "QUESTION" --choice A --choice B'
        if right == total
        else "The small model is not always right: its model card says how often."
    )
    where.print(Text(last, "dim"), soft_wrap=True)
    return 0
