"""What a page knows of each sample: its recording, its waveform, its reasoning with the segments in it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from echo_audio import tags
from echo_audio.audio import encode_flac
from echo_audio.errors import AudioError, DataError
from echo_audio.evaluation.base import Items, Sample
from echo_audio.evaluation.benchmark import find_audio
from echo_audio.evaluation.listening import heard_segments
from echo_audio.evaluation.run import Hear
from echo_audio.evaluation.scores import transcript_of
from echo_audio.scoring.extraction import Step
from echo_audio.transcript import Mode, Played

Sounds = Callable[[Sample], Path | bytes | None]
"""Where the recording of a sample lies, or the bytes of a FLAC file of it; None where there is none."""

_KINDS = {".wav": "wav", ".mp3": "mpeg", ".ogg": "ogg", ".flac": "flac", ".m4a": "mp4"}


def files_in(folder: Path) -> Sounds:
    """The recordings of a benchmark's folder, by the paths that the samples have."""

    def file_of(sample: Sample) -> Path | None:
        try:
            return find_audio(folder, sample.audio["path"]) if isinstance(sample.audio.get("path"), str) else None
        except DataError:
            return None

    return file_of


def made_by(items: Items) -> Sounds:
    """The recordings of questions that are made, not read."""

    def bytes_of(sample: Sample) -> bytes | None:
        try:
            known = 0 <= sample.index < len(items) and items.key(sample.index) == sample.key
            return encode_flac(items.item(sample.index).recording) if known else None
        except (AudioError, DataError):
            return None

    return bytes_of


class Audio:
    """Recordings for the page: embedded while there is room, then linked."""

    def __init__(self, sounds: Sounds | None, room_bytes: int) -> None:
        self.sounds, self.room_bytes = sounds, room_bytes
        self.full = False

    def of(self, sample: Sample) -> str:
        """A data address, a file address, or nothing."""
        found = self.sounds(sample) if self.sounds is not None and not self.full else None
        try:
            if isinstance(found, Path):
                size = found.stat().st_size if found.is_file() else -1
                return "" if size < 0 else self._embedded(found, size) or found.as_uri()
            self.full = found is not None and len(found) > self.room_bytes  # what is made cannot be linked: make no more
            return "" if found is None or self.full else self._data("flac", found)
        except OSError:
            return ""

    def _embedded(self, path: Path, size: int) -> str:
        return self._data(_KINDS.get(path.suffix.lower(), "wav"), path.read_bytes()) if size <= self.room_bytes else ""

    def _data(self, kind: str, content: bytes) -> str:
        self.room_bytes -= len(content)
        return f"data:audio/{kind};base64,{base64.b64encode(content).decode()}"


def shown(sample: Sample, place: int, audio: Audio, other: Sample | None, has_truth: bool, hear: Sequence[str]) -> dict[str, Any]:
    """What the page knows of a sample."""
    question = sample.transcript.get("question", {})
    response = transcript_of(sample).response if sample.transcript else ""
    out = {
        "place": sample.index if sample.index >= 0 else place,
        "key": cut(sample.key),
        "status": str(sample.status),
        "detail": cut(sample.detail),
        "question": cut(question.get("text", "")),
        "choices": [cut(choice) for choice in question.get("choices", [])],
        "answer": sample.answer and cut(sample.answer),
        "choice": sample.choice and cut(sample.choice),
        "official": sample.official if has_truth else None,
        "strict": sample.correct,
        "step": sample.step,
        "parsed": bool(sample.step) and Step(sample.step).found,
        "groups": sample.groups,
        "duration_s": sample.duration_s,
        "stop": sample.transcript.get("stop"),
        "wave": sample.wave,
        "segments": [[s.start_s, s.end_s] for s in heard_segments(sample)],
        "response": response,
        "parts": parts(response, sample, hear[0]),
        "audio": audio.of(sample),
    }
    if other is not None:
        said = transcript_of(other).response if other.transcript else ""
        heard = [[s.start_s, s.end_s] for s in heard_segments(other)]
        verdict = other.official if has_truth else None
        choice = other.choice and cut(other.choice)
        out["other"] = {"choice": choice, "official": verdict, "segments": heard, "parts": parts(said, other, hear[-1])}
    return out


MOST_CHARACTERS = 4000
"""Of a question or a choice on the page: no browser lays out a line of millions."""


def cut(text: str) -> str:
    """A text that a page can show, and how much is left away."""
    left = len(text) - MOST_CHARACTERS
    return text if left <= 0 else f"{text[:MOST_CHARACTERS]} … ({left} characters more)"


Part = str | list[float | str]


def parts(response: str, sample: Sample, hear: str = "recording") -> list[Part]:
    """The response as texts and [start_s, end_s, played] where a segment is written; one that is no span stays text.

    `played` is what was played there (a `Played`), empty where it was refused; where a mode plays nothing, withheld.

    Args:
        hear: what stood in place of the recordings in this run (a `Hear`).
    """
    spans = [s for s in sample.transcript.get("spans", ()) if s.get("why") == "asked"]
    heard = [(s["segment"]["start_s"], s["segment"]["end_s"], s.get("played", Played.CROP)) for s in spans]
    unplayed = Played.WITHHELD if sample.transcript.get("mode") != Mode.INTERLEAVED else ""
    out: list[Part] = []
    at = 0
    for tag in tags.find_tags(response):
        if tag.times_s is not None and 0 <= tag.times_s[0] < tag.times_s[1]:
            start_s, end_s = tag.times_s
            end_s = min(end_s, sample.duration_s) if start_s < sample.duration_s else end_s
            played = str(heard.pop(0)[2] if heard and heard[0][:2] == (start_s, end_s) else unplayed)
            if hear == Hear.SILENCE and played == Played.CROP:
                played = str(Played.SILENCED)
            out += [response[at : tag.begin], [start_s, end_s, played]]
            at = tag.end
    return [*out, response[at:]]
