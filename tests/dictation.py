"""Listening by the local engine with dictated tokens: a random model writes no tags.

Every piece of the engine but the draw runs as it is, so turns end at `</seg>`, overshoot it, and go on from the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from helpers import ask, noise

from echo_audio.audio import Recording
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.local import LocalEngine
from echo_audio.listen import Encoded, Limits, Sampling, listen
from echo_audio.models.thinker import Thinker
from echo_audio.transcript import Mode, Played, Transcript

DURATIONS_S = (2.0, 5.3, 0.7, 3.7, 9.96, 4.01)
RECORDINGS = tuple(noise(seconds, seed) for seed, seconds in enumerate(DURATIONS_S))
FREE = Limits(max_new_tokens=24, max_turns=9, force_answer=False)
RELISTENING = Limits(max_new_tokens=500, max_turn_tokens=120, max_turns=4, force_answer=False)
TOLERANCE = 1e-4

Dictation = dict[tuple[int, int], tuple[int, ...]]
"""For (seed, turn): the ids to write at its beginning."""


class Dictated(LocalEngine):
    """Writes what is dictated for a turn, then draws freely. Log-probabilities are the model's own throughout."""

    def __init__(self, thinker: Thinker, dictation: Dictation, **settings: Any) -> None:
        super().__init__(thinker, **settings)
        self.dictation = dictation

    def _dictate(self, job: Any, number: int) -> int:
        dictated = self.dictation.get((job.request.sampling.seed, job.request.turn), ())
        return dictated[number] if number < len(dictated) else -1


def start(thinker: Thinker, recording: Recording, played: Played = Played.CROP) -> Transcript:
    question = ask(recording)
    prompt = thinker.family.prompt(question, Mode.INTERLEAVED)
    return Transcript.open(question, prompt, Mode.INTERLEAVED, played=played)


async def hear(
    engine: LocalEngine,
    recording: Recording,
    sampling: Sampling | None = None,
    limits: Limits = FREE,
    played: Played = Played.CROP,
) -> tuple[Transcript, Encoded]:
    """One transcript and its encoding."""
    encoder = TranscriptEncoder(engine.thinker.family, recording, RECORDINGS[1])
    begun = start(engine.thinker, recording, played)
    transcript = await listen(begun, engine, encoder, limits, sampling or Sampling(1.0, 1.0, 0))
    return transcript, encoder.encode(transcript)


async def hear_all(
    engine: LocalEngine, how: Sequence[tuple[int, Sampling]], limits: Limits = FREE
) -> list[tuple[Transcript, Encoded]]:
    return list(await asyncio.gather(*(hear(engine, RECORDINGS[i], sampling, limits) for i, sampling in how)))


def off_by(thinker: Thinker, encoded: Encoded) -> float:
    """Largest difference between the collected log-probabilities and those of one full forward."""
    sampled = np.array(encoded.sampled)
    assert sampled.any()
    with torch.inference_mode():
        full = thinker.score(encoded).cpu().numpy()
    return float(np.abs(full - np.array(encoded.logprobs))[sampled].max())


def dictate(thinker: Thinker, seeds: Sequence[int]) -> Dictation:
    """Three turns that end in `</seg>`, some overshooting, at other points and with other spans for each seed."""
    marks = ("", ".", "", ",", "", ";")
    text: Dictation = {}
    for seed in seeds:
        for turn in range(3):
            begin = 0.05 * (seed % 4) + 0.1 * turn
            words = ("<think>" if turn == 0 else "") + "I listen to the bell" * (1 + seed % 3)
            tag = f"{words} <seg>{begin:.2f}, {begin + 0.25 + 0.1 * turn:.2f}</seg>{marks[(seed + 2 * turn) % 6]}"
            text[seed, turn] = thinker.family.text_ids(tag)
    return text
