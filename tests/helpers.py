"""What many tests share: small recordings, questions about them, and listening by script."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

import numpy as np

from echo_audio.audio import SAMPLE_RATE, Recording
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.scripted import Script, ScriptedEngine, ScriptedFamily
from echo_audio.listen import Event, Limits, Sampling, listen
from echo_audio.transcript import Mode, Played, Question, Transcript


@functools.lru_cache(maxsize=64)
def noise(duration_s: float, seed: int = 0) -> Recording:
    """White noise, another for each seed."""
    samples = np.random.default_rng(seed).standard_normal(round(duration_s * SAMPLE_RATE)) * 0.1
    return Recording(samples.astype(np.float32))


def ask(recording: Recording, text: str = "What is heard?") -> Question:
    """A question with two choices about a recording."""
    return Question(text, recording.id, recording.duration_s, ("a dog", "a bell"))


def opened(recording: Recording, mode: Mode = Mode.INTERLEAVED, played: Played = Played.CROP) -> Transcript:
    """A transcript at its start, with a short prompt."""
    return Transcript.open(ask(recording), "What is heard?", mode, played=played)


def play(
    turns: Sequence[Script],
    *,
    mode: Mode = Mode.INTERLEAVED,
    played: Played = Played.CROP,
    limits: Limits | None = None,
    sampling: Sampling | None = None,
    recording: Recording | None = None,
    other: Recording | None = None,
    events: list[Event] | None = None,
    engine: ScriptedEngine | None = None,
) -> Transcript:
    """The transcript of a script about a recording (10 s of noise unless given)."""
    about = recording or noise(10.0)
    encoder = TranscriptEncoder(ScriptedFamily(), about, other)
    on_event = None if events is None else events.append
    who = engine or ScriptedEngine(turns)
    return asyncio.run(listen(opened(about, mode, played), who, encoder, limits, sampling, on_event=on_event))


SAMPLE_TEXTS = (
    "<think>I listen to the bell <seg>1.2, 3.4</seg>. It is loud, louder than the dog <seg>0.5, 9.7</seg>, and ends at "
    "8.6</seg>; so (<seg>10.25, 11.0</seg>) it is the bell!</think>\n<answer>a bell</answer>",
    "You are a helpful assistant. What is heard? Answer with exactly one of these choices: a dog, a bell",
) * 20
"""What the tokenizers of small test models are fitted to."""
