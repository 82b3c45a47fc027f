"""From arguments to a listening: load a model, open transcripts, run them. Here a concrete engine is named."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echo_audio.audio import Recording, load
from echo_audio.cli.console import console
from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import ConfigError, DataError, ModelError
from echo_audio.listen import Event, Limits, Sampling, listen, stream
from echo_audio.models import folders
from echo_audio.scoring.answers import strict_choice, strict_score
from echo_audio.transcript import Mode, Played, Question, Stop, Transcript

if TYPE_CHECKING:
    from echo_audio.engines.local import LocalEngine

TINY = folders.TINY
MAX_AT_ONCE = 64
"""Transcripts in flight at once; the engine batches them."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one file, before the file was opened."""

    audio: Path
    text: str
    choices: tuple[str, ...] = ()
    answer: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manner:
    """How to listen.

    Args:
        other: what is played where `played` is SWAPPED.
    """

    model: str = TINY
    device: str | None = None
    mode: Mode = Mode.INTERLEAVED
    played: Played = Played.CROP
    other: Recording | None = None
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)


def add_manner(parser: ArgumentParser) -> None:
    """The arguments that `manner_of` reads."""
    model = parser.add_argument_group("the model, and how it listens")
    model.add_argument("--model", default=TINY, metavar="M", help="a folder, a hub id, or 'tiny': the one that ships (default)")
    model.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    model.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.INTERLEAVED, metavar="MODE",
                       help="interleaved (default): hears each segment it writes; grounded: writes them only; conditioned: none")  # fmt: skip
    model.add_argument("--played", type=Played, choices=list(Played), default=Played.CROP, metavar="WHAT",
                       help="what is played for a segment: crop (the truth, default), or to see whether hearing matters: "
                            "withheld, silenced, swapped (with --swap-with)")  # fmt: skip
    model.add_argument("--swap-with", type=Path, metavar="FILE", help="the recording that --played swapped plays instead")
    model.add_argument("--max-relistens", type=int, default=8, metavar="N", help="segments it may hear again (default 8)")
    model.add_argument("--max-new-tokens", type=int, default=4096, metavar="N", help="tokens of one reasoning (default 4096)")
    model.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (default) is greedy")
    model.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest tokens of this total")
    model.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same reasoning (default 0)")


def manner_of(args: Namespace) -> Manner:
    """What the arguments say.

    Raises:
        ConfigError: they contradict each other, or a number is out of range.
    """
    if args.played is not Played.CROP and args.mode is not Mode.INTERLEAVED:
        raise ConfigError(f"--played {args.played} changes what is heard again; in mode {args.mode} nothing is")
    if (args.swap_with is None) == (args.played is Played.SWAPPED):
        raise ConfigError("--played swapped and --swap-with FILE belong together: give both")
    if args.temperature < 0 or not 0 < args.top_p <= 1:
        raise ConfigError("--temperature must not be negative, and --top-p lies above 0 and at most at 1")
    if args.max_relistens < 0:
        raise ConfigError("--max-relistens must not be negative")
    limits = Limits(
        max_turns=max(16, 2 * args.max_relistens),
        max_relistens=args.max_relistens,
        max_new_tokens=args.max_new_tokens,
        max_turn_tokens=min(2048, args.max_new_tokens) if args.max_new_tokens > 0 else args.max_new_tokens,
    )
    return Manner(
        model=args.model,
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

    engine: LocalEngine
    manner: Manner

    def open(self, item: Item, recording: Recording) -> Transcript:
        """The transcript of an item at its start; the settings that shape it travel in the question's meta."""
        manner = self.manner
        how = {
            "audio": str(item.audio),
            "model": manner.model,
            "temperature": manner.sampling.temperature,
            "top_p": manner.sampling.top_p,
            "seed": manner.sampling.seed,
        }
        question = Question(
            item.text, recording.id, recording.duration_s, item.choices, item.answer, {**item.meta, **how}
        )
        prompt = self.engine.thinker.family.prompt(question, manner.mode)
        return Transcript.open(question, prompt, manner.mode, played=manner.played)

    def stream(self, transcript: Transcript, recording: Recording) -> AsyncIterator[Event]:
        """Listen, as events."""
        return stream(transcript, self.engine, self._encoder(recording), self.manner.limits, self.manner.sampling)

    async def listen(self, transcript: Transcript, recording: Recording) -> Transcript:
        """Listen to the end."""
        return await listen(transcript, self.engine, self._encoder(recording), self.manner.limits, self.manner.sampling)

    def _encoder(self, recording: Recording) -> TranscriptEncoder:
        return TranscriptEncoder(self.engine.thinker.family, recording, self.manner.other)


@contextmanager
def loading(manner: Manner) -> Iterator[Listener]:
    """Load the model, saying so on a terminal, and let go of it at the end.

    Raises:
        ModelError: there is none, or it is not of the family.
    """
    if manner.model == TINY and not has_tiny():
        raise ModelError(
            "this checkout has no shipped model (src/echo_audio/models/tiny); give another with --model, or train it: "
            "echo-audio sft configs/tiny-base.toml, then configs/tiny-interleaved.toml"
        )
    with console(to_stderr=True).status(f"loading {manner.model} ..."):
        from echo_audio.engines.local import LocalEngine  # brings torch and transformers: some seconds

        engine = LocalEngine.load(manner.model, device=manner.device, max_rows=MAX_AT_ONCE)
    try:
        yield Listener(engine, manner)
    finally:
        engine.close()


def has_tiny() -> bool:
    """Whether the small model is there."""
    return (folders.tiny_folder() / "model.safetensors").is_file()


@contextmanager
def saving(path: Path | None) -> Iterator[Callable[[Transcript], None]]:
    """Append transcripts to a JSONL file, each flushed at once; without a path they are dropped.

    Raises:
        DataError: the file cannot be written.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write '{path}': {error.strerror}; check the folder and its permissions") from None

    def save(transcript: Transcript) -> None:
        file.write(transcript.to_json() + "\n")
        file.flush()

    with file:
        yield save


def read_items(path: Path) -> list[Item]:
    """The questions of a JSONL file: `audio` (relative to that file), `question`, and optionally `choices`, `answer`.

    Whatever else a line holds goes into the question's meta.

    Raises:
        DataError: unreadable, or a line that is not such a question; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the questions in '{path}': {error}; give a JSONL file in UTF-8") from None
    items = [_item(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise DataError(f"'{path}' holds no questions; write one JSON object with audio and question a line")
    return items


def _item(line: str, path: Path, number: int) -> Item:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON ({error}); write one object a line") from None
    if not isinstance(fields, dict):
        raise DataError(f"{path}:{number}: not a JSON object; write one object a line")
    audio, text = fields.pop("audio", None), fields.pop("question", None)
    choices, answer = fields.pop("choices", None) or [], fields.pop("answer", None)
    if not (isinstance(audio, str) and audio and isinstance(text, str) and text):
        raise DataError(f"{path}:{number}: a question needs `audio` and `question`, both text")
    if not (isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)):
        raise DataError(f"{path}:{number}: `choices` must be a list of texts")
    if not (answer is None or isinstance(answer, str)):
        raise DataError(f"{path}:{number}: `answer` must be a text")
    check_choices(tuple(choices), answer, f"{path}:{number}")
    return Item(path.parent / audio, text, tuple(choices), answer, fields)


def check_choices(choices: tuple[str, ...], answer: str | None, where: str) -> None:
    """Refuse choices that cannot be told apart, and a truth that is none of them.

    Raises:
        DataError: names the trouble.
    """
    if len(choices) == 1:
        raise DataError(f"{where}: one choice is no choice; give two or more, or none for a free answer")
    for choice in choices:
        if strict_choice(choice, choices) != choice:
            raise DataError(f"{where}: the choice {choice!r} is empty or there twice; make the choices different")
    if choices and answer is not None and answer not in choices:
        raise DataError(f"{where}: the answer {answer!r} is none of the choices")


def as_json(item: Item, transcript: Transcript, took_s: float) -> dict[str, Any]:
    """What `--json` tells about one question."""
    heard = {h.segment for h in transcript.asked}
    given = transcript.answer
    return {
        "audio": str(item.audio),
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
