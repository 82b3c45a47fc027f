"""Does a question need its audio? It is answered without, several times, the choices in another order each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from echo_audio.data.eaqa.checks import json_in
from echo_audio.data.eaqa.endpoint import ChatEndpoint
from echo_audio.data.eaqa.plan import seed_of
from echo_audio.data.eaqa.prompts import Prompts
from echo_audio.data.rows import Row
from echo_audio.errors import DataError
from echo_audio.scoring.answers import strict_choice

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}


class Guesser(Protocol):
    """What answers a question without hearing the recording."""

    @property
    def name(self) -> str:
        """Of the model, for the provenance of rows."""
        ...

    async def guess(self, row: Row, choices: Sequence[str], seed: int) -> str:
        """Its answer, in its own words; empty where it gave none.

        Raises:
            EngineError: it failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class EndpointGuesser:
    """A text endpoint that is shown the question only."""

    endpoint: ChatEndpoint
    prompts: Prompts

    @property
    def name(self) -> str:
        """Of the model."""
        return self.endpoint.settings.model

    def prompt(self, question: str, choices: Sequence[str]) -> str:
        """What is asked."""
        return self.prompts.fill("guess", question=question, choices="\n".join(f"- {choice}" for choice in choices))

    async def guess(self, row: Row, choices: Sequence[str], seed: int) -> str:
        """Its answer.

        Raises:
            EngineError: the endpoint failed at every try.
        """
        messages = [{"role": "user", "content": self.prompt(row.question, choices)}]
        reply = await self.endpoint.chat("guess", messages, seed, SCHEMA)
        try:
            return str(json_in(reply.text).get("answer", ""))
        except DataError:
            return reply.text


async def right_without_audio(guesser: Guesser, row: Row, samples: int, seed: int) -> int:
    """How many of so many guesses are right, by the strict rule.

    Raises:
        EngineError: the guesser failed.
    """
    n_right = 0
    for sample in range(samples):
        turn = sample % max(1, len(row.choices))
        choices = (*row.choices[turn:], *row.choices[:turn])
        answer = await guesser.guess(row, choices, seed_of(seed, row.id, "guess", sample))
        n_right += bool(answer) and strict_choice(answer, row.choices) == row.answer
    return n_right
