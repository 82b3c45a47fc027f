"""Texts about a recording from an audio model: a description, the speech, the music; checked, and asked for again."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from echo_audio.audio import SAMPLE_RATE, Recording
from echo_audio.data.eaqa.calls import Reply
from echo_audio.data.eaqa.endpoint import ChatEndpoint
from echo_audio.data.eaqa.facts import ANNOTATIONS, says_nothing, text_problem
from echo_audio.data.eaqa.plan import seed_of
from echo_audio.data.eaqa.prompts import Prompts
from echo_audio.data.rows import KnownEvent


class Describer(Protocol):
    """What tells in words what a recording holds: a remote audio model, or one of our engines."""

    @property
    def name(self) -> str:
        """Of the model, for the provenance of rows."""
        ...

    async def describe(self, stage: str, prompt: str, recording: Recording, seed: int) -> Reply:
        """The model's text about the recording.

        Raises:
            EngineError: it failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class EndpointDescriber:
    """A chat endpoint that takes audio (`input_audio`, as WAV)."""

    endpoint: ChatEndpoint

    @property
    def name(self) -> str:
        """Of the model."""
        return self.endpoint.settings.model

    async def describe(self, stage: str, prompt: str, recording: Recording, seed: int) -> Reply:
        """The model's text.

        Raises:
            EngineError: the endpoint failed at every try.
        """
        data = base64.b64encode(wav_bytes(recording)).decode()
        heard = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        messages = [{"role": "user", "content": [heard, {"type": "text", "text": prompt}]}]
        return await self.endpoint.chat(stage, messages, seed, name=recording.id)


def wav_bytes(recording: Recording) -> bytes:
    """A recording as a WAV file of 16-bit samples."""
    samples = np.clip(np.round(recording.samples * 32_767), -32_768, 32_767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(samples.tobytes())
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Annotator:
    """Asks for each text until one passes its checks; one that never does is left out.

    Args:
        describer: whom.
        prompts: with which words.
        tries: of one text.
        seed: of the run.
    """

    describer: Describer
    prompts: Prompts
    tries: int
    seed: int

    async def texts(
        self, recording: Recording, events: Sequence[KnownEvent], exhaustive: bool
    ) -> tuple[Mapping[str, str], list[str]]:
        """The texts by name, without those that say there is nothing; and what was wrong with each that was refused.

        Raises:
            EngineError: the describer failed.
        """
        kept: dict[str, str] = {}
        refused: list[str] = []
        for name in ANNOTATIONS:
            for attempt in range(self.tries):
                seed = seed_of(self.seed, recording.id, name, attempt)
                reply = await self.describer.describe(name, self.prompts.texts[name], recording, seed)
                text = reply.text.strip()
                problem = text_problem(name, text, reply.whole, events, exhaustive)
                if not problem:
                    if not says_nothing(name, text):
                        kept[name] = text
                    break
                refused.append(problem)
        return kept, refused
