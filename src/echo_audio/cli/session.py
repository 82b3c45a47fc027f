"""From arguments to a listening: load a model, open transcripts, run them."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from echo_audio.audio import Recording, load
from echo_audio.cli.arguments import nearest, number, one_of, whole
from echo_audio.cli.console import console, readable, shown
from echo_audio.cli.engines import ClosingEngine, EngineName, add_engine, open_engine
from echo_audio.encoding import PromptingFamily, TranscriptEncoder
from echo_audio.errors import ConfigError, DataError, ModelError
from echo_audio.listen import Engine, Event, Limits, Sampling, listen, stream
from echo_audio.models import folders
from echo_audio.scoring.answers import check_choices, strict_choice, strict_score
from echo_audio.transcript import Mode, Played, Question, Stop, Transcript

TINY = folders.TINY
MAX_AT_ONCE = 64
"""Transcripts in flight at once; the engine batches them."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one file, before the file was opened.

    Args:
        place: which of the files, or which line of the question file, from 1.
    """

    audio: Path
    text: str
    choices: tuple[str, ...] = ()
    answer: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    place: int = 1

    @property
    def name(self) -> str:
        """The file as it was given, as text that can be written anywhere."""
        return readable(str(self.audio))


@dataclass(frozen=True, slots=True)
class Manner:
    """How to listen.

    Args:
        other: what is played where `played` is SWAPPED.
        at_once: transcripts in flight at once; the engine batches them.
    """

    model: str = TINY
    engine: EngineName = EngineName.LOCAL
    device: str | None = None
    mode: Mode = Mode.INTERLEAVED
    played: Played = Played.CROP
    other: Recording | None = None
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    at_once: int = MAX_AT_ONCE


def add_manner(parser: ArgumentParser) -> None:
    """The arguments that `manner_of` reads."""
    add = parser.add_argument_group("the model, and how it listens").add_argument
    add("--model", default=TINY, metavar="M", help="a folder, a hub id, or 'tiny': the one that ships (default)")
    add_engine(add)
    how = "interleaved (default): hears each segment it writes; grounded: writes them only; conditioned: none"
    add("--mode", type=one_of(Mode), default=Mode.INTERLEAVED, metavar="MODE", help=how)
    what = (
        "what is played for a segment: crop (the truth, default), or to see whether hearing matters: withheld, silenced, "
        "swapped (with --swap-with)"
    )
    add("--played", type=one_of(Played), default=Played.CROP, metavar="WHAT", help=what)
    add("--swap-with", type=Path, metavar="FILE", help="the recording that --played swapped plays instead")
    add("--max-relistens", type=whole(0), default=8, metavar="N", help="segments it may hear again (default 8)")
    add("--max-new-tokens", type=whole(1), default=4096, metavar="N", help="tokens of one reasoning (default 4096)")
    add("--temperature", type=number(0), default=0.0, metavar="T", help="0 (default) is greedy")
    likeliest = number(0, 1, open_low=True)
    add("--top-p", type=likeliest, default=1.0, metavar="P", help="draw from the likeliest tokens of this total (default 1)")
    add("--seed", type=whole(0), default=0, metavar="S", help="same seed, same reasoning (default 0)")


def manner_of(args: Namespace) -> Manner:
    """What the arguments say.

    Raises:
        ConfigError: they contradict each other.
    """
    if args.played is not Played.CROP and args.mode is not Mode.INTERLEAVED:
        raise ConfigError(f"--played {args.played} changes what is heard again; in mode {args.mode} nothing is")
    if (args.swap_with is None) == (args.played is Played.SWAPPED):
        raise ConfigError("--played swapped and --swap-with FILE belong together: give both")
    limits = Limits(
        max_turns=max(16, 2 * args.max_relistens),
        max_relistens=args.max_relistens,
        max_new_tokens=args.max_new_tokens,
        max_turn_tokens=min(2048, args.max_new_tokens),
    )
    return Manner(
        model=args.model,
        engine=args.engine,
        device=args.device,
        mode=args.mode,
        played=args.played,
        other=load(args.swap_with) if args.swap_with is not None else None,
        limits=limits,
        sampling=Sampling(args.temperature, args.top_p, args.seed),
    )


@dataclass(frozen=True, slots=True)
class Listener:
    """A loaded model that listens in one manner."""

    engine: Engine
    family: PromptingFamily
    manner: Manner

    def open(self, item: Item, recording: Recording) -> Transcript:
        """The transcript of an item at its start; the settings that shape it travel in the question's meta.

        Raises:
            TranscriptError: the model cannot hear a recording of this length.
        """
        manner = self.manner
        how = {
            "audio": item.name,
            "model": readable(manner.model),
            "temperature": manner.sampling.temperature,
            "top_p": manner.sampling.top_p,
            "seed": manner.sampling.seed,
        }
        question = Question(
            item.text, recording.id, recording.duration_s, item.choices, item.answer, {**item.meta, **how}
        )
        prompt = self.family.prompt(question, manner.mode)
        opened = Transcript.open(question, prompt, manner.mode, played=manner.played)
        self._encoder(recording).encode(opened)  # complains now, before anything is shown
        return opened

    def stream(self, transcript: Transcript, recording: Recording) -> AsyncIterator[Event]:
        """Listen, as events."""
        return stream(transcript, self.engine, self._encoder(recording), self.manner.limits, self.manner.sampling)

    async def listen(self, transcript: Transcript, recording: Recording) -> Transcript:
        """Listen to the end."""
        return await listen(transcript, self.engine, self._encoder(recording), self.manner.limits, self.manner.sampling)

    def _encoder(self, recording: Recording) -> TranscriptEncoder:
        return TranscriptEncoder(self.family, recording, self.manner.other)


@contextmanager
def loading(manner: Manner) -> Iterator[Listener]:
    """Load the model, saying so on a terminal, and let go of it at the end.

    Raises:
        ModelError: there is none, or it is not of the family.
    """
    if manner.model == TINY and not has_tiny():
        raise ModelError(
            "this checkout has no shipped model (src/echo_audio/models/tiny); give another with --model, or train it: "
            "echo-audio sft configs/tiny-base.toml, then configs/tiny.toml"
        )
    with console(to_stderr=True).status(f"loading {shown(manner.model)} ..."):
        engine, family = load_engine(manner)
    try:
        yield Listener(engine, family, manner)
    finally:
        engine.close()


def load_engine(manner: Manner) -> tuple[ClosingEngine, PromptingFamily]:
    """The engine of a manner; errors of `open_engine`."""
    return open_engine(manner.engine, manner.model, manner.device, manner.at_once)


def has_tiny() -> bool:
    """Whether the small model is there."""
    return (folders.tiny_folder() / "model.safetensors").is_file()


@contextmanager
def saving(path: Path | None) -> Iterator[Callable[[Transcript], None]]:
    """Append transcripts to a JSONL file, each flushed at once; without a path they are dropped.

    Raises:
        DataError: the file cannot be written, or what is there does not end with a whole line.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        if not _ends_with_a_line(path):
            raise DataError(
                f"'{path}' ends within a line: a run was stopped there, or it is no JSONL file; "
                "--resume goes on after its last whole line, or give another file to --save"
            )
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write '{path}': {error.strerror}; check the folder and its permissions") from None

    def save(transcript: Transcript) -> None:
        file.write(transcript.to_json() + "\n")
        file.flush()

    with file:
        yield save


def _ends_with_a_line(path: Path) -> bool:
    """Whether appending begins a new line."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def read_items(path: Path) -> list[Item]:
    """The questions of a JSONL file: `audio` (relative to that file), `question`, and optionally `choices`, `answer`.

    Whatever else a line holds goes into the question's meta.

    Raises:
        DataError: unreadable, or lines that are not such questions; names them.
    """
    try:
        # Only "\n" ends a line of JSONL: splitlines() would also cut at characters that may stand inside a JSON text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read the questions in '{path}': {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not text in UTF-8; --questions takes a JSONL file, sounds are named in it") from None
    items, wrong = list[Item](), list[str]()
    for place, line in enumerate(lines, 1):
        if line.strip():
            try:
                items.append(_item(line, path, place))
            except DataError as error:
                wrong.append(str(error))
    if wrong:
        more = f"\n  and {len(wrong) - _SHOWN_AT_MOST} more lines" if len(wrong) > _SHOWN_AT_MOST else ""
        raise DataError("\n  ".join(wrong[:_SHOWN_AT_MOST]) + more)
    if not items:
        raise DataError(f"'{path}' holds no questions; write one JSON object with audio and question a line")
    return items


_SHOWN_AT_MOST = 5
_KEYS = ("audio", "question", "choices", "answer")


def _item(line: str, path: Path, place: int) -> Item:
    where = f"{readable(str(path))}:{place}"
    fields = _fields(line, where)
    misspelt = [(key, near) for key in fields if key not in _KEYS and (near := nearest(key, set(_KEYS) - set(fields)))]
    if misspelt:
        raise DataError(f"{where}: unknown key {misspelt[0][0]!r}{misspelt[0][1]}")
    audio, text = fields.pop("audio", None), fields.pop("question", None)
    choices, answer = fields.pop("choices", None) or [], fields.pop("answer", None)
    if not (isinstance(audio, str) and audio and isinstance(text, str) and text.strip()):
        raise DataError(f"{where}: a question needs `audio` and `question`, both text")
    if not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
        raise DataError(f"{where}: `choices` must be a list of texts")
    if not (answer is None or isinstance(answer, str)):
        raise DataError(f"{where}: `answer` must be a text")
    check_choices(tuple(choices), answer, where)
    return Item(path.parent / audio, text, tuple(choices), answer, fields, place)


def _fields(line: str, where: str) -> dict[str, Any]:
    """The object of a line; nothing in it that could not be written again."""

    def refuse(constant: str) -> NoReturn:
        raise DataError(f"{where}: {constant} is not JSON; write null or leave the key out")

    try:
        fields = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(fields, dict):
        raise DataError(f"{where}: not a JSON object; write one object a line")
    if readable(whole_text := json.dumps(fields, ensure_ascii=False)) != whole_text:
        raise DataError(f"{where}: holds half of a character (a lone surrogate); write the whole one")
    return fields


def as_json(item: Item, transcript: Transcript, took_s: float) -> dict[str, Any]:
    """What `--json` tells about one question."""
    heard = {h.segment for h in transcript.asked}
    given = transcript.answer
    return {
        "place": item.place,
        "audio": item.name,
        "question": item.text,
        "choices": list(item.choices),
        "answer": given,
        "choice": strict_choice(given, item.choices) if given else None,
        "truth": item.answer,
        "right": is_right(transcript),
        "stop": transcript.stop,
        "segments": [{"start_s": s.start_s, "end_s": s.end_s, "heard": s in heard} for s in transcript.cited],
        "response": transcript.response,
        "took_s": round(took_s, 3),
        "transcript": json.loads(transcript.to_json()),
    }


def is_right(transcript: Transcript) -> bool | None:
    """Whether the answer is the truth by the strict rule; None where the truth is not known."""
    question = transcript.question
    if question.answer is None:
        return None
    return strict_score(transcript.response, question.answer, question.choices).correct


def failed(transcript: Transcript) -> bool:
    """Whether there is no answer."""
    return not transcript.answer or transcript.stop is Stop.ENGINE_ERROR
