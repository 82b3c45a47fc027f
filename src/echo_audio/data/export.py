"""Rows for other trainers: ms-swift's JSON lines and verl's parquet, with the prompts that Echo itself uses."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from echo_audio import tags
from echo_audio.audio import Samples
from echo_audio.data.rows import Row
from echo_audio.data.store import Store, audio_path
from echo_audio.data.transcripts import question_of
from echo_audio.errors import ConfigError, DataError
from echo_audio.transcript import Question

AUDIO = "<audio>"
"""Where both libraries put a recording into a text."""

Prompt = Callable[[Question], str]
"""The text of a question as a model family asks it."""


class Format(StrEnum):
    """Whose rows."""

    MS_SWIFT = "ms-swift"
    """JSON lines with `messages` and `audios`; rows with a reasoning end in it, for `swift sft`."""
    VERL = "verl"
    """Parquet with `prompt`, `audios`, `reward_model`; for verl's RLHFDataset."""
    QUESTIONS = "questions"
    """JSON lines that `echo-audio ask --questions` asks."""


class Audio(StrEnum):
    """How a row holds its recording."""

    PATHS = "paths"
    """The path of the store's own file."""
    SAMPLES = "samples"
    """Its samples at 16 kHz. verl 0.9 hands what it finds to the processor as it is, and that decodes no files."""


def export(
    store: Store, out: Path, to: Format, prompt: Prompt, audio: Audio | None = None, on_row: Callable[[], None] = lambda: None
) -> int:
    """Write all rows of a store to a file, whole or not at all; returns their number.

    Args:
        store: a store; ms-swift takes only rows with a reasoning.
        out: `.jsonl` or `.parquet`.
        prompt: what is asked for in a question.
        audio: samples for verl, else paths, unless said otherwise.

    Raises:
        ConfigError: only verl takes samples.
        DataError: the file's name ends otherwise, a recording is missing, or no row can be used.
    """
    suffix = ".parquet" if to is Format.VERL else ".jsonl"
    audio = audio or (Audio.SAMPLES if to is Format.VERL else Audio.PATHS)
    if out.suffix != suffix:
        raise DataError(f"{out} should end in {suffix}: that is how {to} reads it")
    if to is not Format.VERL and audio is Audio.SAMPLES:
        raise ConfigError(f"{to} names recordings by their files; leave --audio samples out")
    values = _values(store, to, prompt, audio, on_row)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        n = _write_parquet(part, values, audio) if to is Format.VERL else _write_lines(part, values)
        if not n:
            raise DataError(f"no row of {store.folder} has a reasoning, so there is nothing to imitate; export it to verl")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return n


def _values(
    store: Store, to: Format, prompt: Prompt, audio: Audio, on_row: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(store.rows()):
        path = audio_path(store.folder.resolve(), row.audio_id)
        if not path.is_file():
            raise DataError(f"the audio of row {row.id} is missing: {path}; echo-audio data validate lists all such rows")
        text = _text(prompt(question_of(row)), row)
        if to is Format.VERL:
            yield _verl(row, index, text, store.recording(row).samples if audio is Audio.SAMPLES else str(path))
        elif to is Format.QUESTIONS:
            told = {"question": row.question, "choices": list(row.choices), "answer": row.answer, "kind": row.kind, "row": row.id}
            yield {"audio": str(path), **told}
        elif row.reasoning is not None:
            yield _swift(row, text, str(path))
        on_row()


def _text(prompt: str, row: Row) -> str:
    """The user's text.

    Raises:
        DataError: it holds the mark of a recording; the libraries would look for a second one.
    """
    if AUDIO in prompt or (row.reasoning and AUDIO in row.reasoning):
        raise DataError(f"row {row.id} holds the text {AUDIO}, which stands for a recording; take it out")
    return AUDIO + prompt


def _swift(row: Row, text: str, audio: str) -> dict[str, Any]:
    response = tags.compose(row.reasoning or "", row.answer)
    return {
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": response}],
        "audios": [audio],
    }


def _verl(row: Row, index: int, text: str, audio: str | Samples) -> dict[str, Any]:
    spans = [{"label": e.label, "start_s": e.start_s, "end_s": e.end_s} for e in row.evidence]
    return {
        "data_source": "echo-eaqa",
        "prompt": [{"role": "user", "content": text}],
        "audios": [audio],
        "ability": row.kind,
        "reward_model": {"style": "rule", "ground_truth": row.answer},
        "extra_info": {
            "index": index,
            "id": row.id,
            "choices": list(row.choices),
            "duration_s": row.duration_s,
            "evidence": spans,
            "audio_contribution": row.audio_contribution,
        },
    }


_EVIDENCE = pa.list_(pa.struct([("label", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]))
_EXTRA = pa.struct(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("duration_s", pa.float64()),
        ("evidence", _EVIDENCE),
        ("audio_contribution", pa.float64()),
    ]
)
_GROUP = 64
"""Rows written at once: samples are large."""


def _schema(audio: Audio) -> pa.Schema:
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            ("audios", pa.list_(pa.string() if audio is Audio.PATHS else pa.list_(pa.float32()))),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", _EXTRA),
        ]
    )


def _write_lines(path: Path, values: Iterable[dict[str, Any]]) -> int:
    n = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
            n += 1
    return n


def _write_parquet(path: Path, values: Iterable[dict[str, Any]], audio: Audio) -> int:
    n, schema, waiting = 0, _schema(audio), iter(values)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while some := list(itertools.islice(waiting, _GROUP)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            n += len(some)
    return n
