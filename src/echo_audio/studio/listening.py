"""From a request to its events: one engine, one gate, any number of clients."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from echo_audio.audio import Recording
from echo_audio.encoding import PromptingFamily, TranscriptEncoder
from echo_audio.errors import RequestError, TranscriptError
from echo_audio.listen import Engine, Finished, Limits, Wrote, stream
from echo_audio.studio.asked import Ask
from echo_audio.studio.gate import Gate, Ticket
from echo_audio.studio.house import House
from echo_audio.studio.metrics import Metrics
from echo_audio.studio.story import Story, Told, opening
from echo_audio.studio.uploads import Uploads
from echo_audio.transcript import Question, Transcript

Tell = Callable[[Told], None]


@dataclass(frozen=True, slots=True)
class Opened:
    """A question that can be asked: everything about it has been checked."""

    id: str
    ask: Ask
    transcript: Transcript
    encoder: TranscriptEncoder
    limits: Limits
    n_prompt: int


class Studio:
    """One engine and those who ask it.

    Args:
        engine: where tokens come from.
        family: its tokens and prompt.
        model: what the model is called.
        house: the limits.
    """

    def __init__(self, engine: Engine, family: PromptingFamily, model: str, house: House) -> None:
        self._engine, self._family = engine, family
        self.model, self.house = model, house
        self.longest_s = min(house.max_duration_s, family.longest_clip_samples() / 16_000)
        self.gate = Gate(house.at_once, house.waiting)
        self.uploads = Uploads(house, self.longest_s)
        self.metrics = Metrics(
            lambda: self.gate.n_running, lambda: self.gate.n_waiting, lambda: self.uploads.n_kept_bytes
        )
        self.began_s = time.time()

    def open(self, ask: Ask, recording: Recording, other: Recording | None, name: str = "") -> Opened:
        """Check a question against its recording.

        Raises:
            RequestError: it contradicts itself, asks for more than the house gives, or the model cannot hear it.
        """
        ask.check()
        limits = ask.limits(self.house)
        how = {"model": self.model, "temperature": ask.temperature, "top_p": ask.top_p, "seed": ask.seed}
        meta = ({"audio": name} if name else {}) | how
        question = Question(ask.question, recording.id, recording.duration_s, ask.choices, None, meta)
        transcript = Transcript.open(question, self._family.prompt(question, ask.mode), ask.mode, played=ask.played)
        encoder = TranscriptEncoder(self._family, recording, other)
        try:
            n_prompt = len(encoder.encode(transcript).ids)
        except TranscriptError as error:
            raise RequestError(str(error), 400, "bad_audio") from None
        return Opened(f"echo-{uuid.uuid4().hex}", ask, transcript, encoder, limits, n_prompt)

    async def run(self, opened: Opened, ticket: Ticket, tell: Tell) -> Transcript:
        """Listen to the end, telling what happens; the ticket is used up. Cancelling it frees the place.

        Raises:
            RequestError: 503 no place in time, 504 it took too long.
        """
        ask, asked_s = opened.ask, time.monotonic()
        how = {"seed": ask.seed, "temperature": ask.temperature, "top_p": ask.top_p}
        tell(opening(opened.transcript, id=opened.id, model=self.model, **how))
        try:
            if ticket.position or self.gate.n_running >= self.gate.at_once:
                tell(Told("queued", {"before": ticket.position}))
            await self._with_place(ticket)
        except TimeoutError:
            raise RequestError(f"there was no place in {self.house.wait_s:g} s; ask again later", 503, "busy", 30) from None
        finally:
            ticket.drop()
        began_s = time.monotonic()
        self.metrics.wait_s.observe(began_s - asked_s)
        try:
            async with asyncio.timeout(self.house.listen_s):
                transcript = await self._listen(opened, tell, began_s)
        except TimeoutError:
            why = f"the reasoning took longer than {self.house.listen_s:g} s and was stopped; ask for fewer tokens"
            raise RequestError(why, 504, "too_long") from None
        except asyncio.CancelledError:
            self.metrics.gone.inc()
            raise
        finally:
            ticket.leave()
        self.metrics.count(transcript, time.monotonic() - began_s)
        return transcript

    async def _with_place(self, ticket: Ticket) -> None:
        async with asyncio.timeout(self.house.wait_s):
            await ticket.enter()

    async def _listen(self, opened: Opened, tell: Tell, began_s: float) -> Transcript:
        story, transcript = Story(opened.transcript.question.duration_s), opened.transcript
        events = stream(transcript, self._engine, opened.encoder, opened.limits, opened.ask.sampling())
        silent = True
        async with aclosing(events):  # pyright: ignore[reportArgumentType] - an AsyncIterator that is a generator
            async for event in events:
                if silent and isinstance(event, Wrote):
                    self.metrics.first_s.observe(time.monotonic() - began_s)
                    silent = False
                if isinstance(event, Finished):
                    transcript = event.transcript
                for told in story.tell(event):
                    tell(_with_transcript(told, transcript) if opened.ask.with_transcript else told)
        return transcript


def _with_transcript(told: Told, transcript: Transcript) -> Told:
    """The last event with the whole transcript in it; others as they are."""
    if told.name != "finished":
        return told
    return Told("finished", told.data | {"transcript": json.loads(transcript.to_json())})
