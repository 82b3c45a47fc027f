"""Is the question valid, is the reasoning valid: two verdicts with their reasons, from a model."""

from __future__ import annotations

from dataclasses import dataclass

from echo_audio.data.eaqa.checks import Written, json_in
from echo_audio.data.eaqa.endpoint import ChatEndpoint
from echo_audio.data.eaqa.facts import Facts
from echo_audio.data.eaqa.plan import seed_of
from echo_audio.data.eaqa.prompts import Prompts
from echo_audio.errors import DataError

SCHEMA = {
    "type": "object",
    "properties": {
        "qa_reason": {"type": "string"},
        "qa_valid": {"type": "boolean"},
        "reasoning_reason": {"type": "string"},
        "reasoning_valid": {"type": "boolean"},
    },
    "required": ["qa_reason", "qa_valid", "reasoning_reason", "reasoning_valid"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said."""

    qa_valid: bool
    qa_reason: str
    reasoning_valid: bool
    reasoning_reason: str


def read_verdict(text: str) -> Verdict:
    """The two verdicts in a reply.

    Raises:
        DataError: keys are missing or hold something else.
    """
    value = json_in(text)
    valid, why = [value.get("qa_valid"), value.get("reasoning_valid")], [value.get("qa_reason"), value.get("reasoning_reason")]
    if not all(isinstance(v, bool) for v in valid) or not all(isinstance(w, str) for w in why):
        raise DataError("the judge's reply lacks a key")
    return Verdict(bool(valid[0]), str(why[0]).strip(), bool(valid[1]), str(why[1]).strip())


def example_text(written: Written) -> str:
    """A row as the judge reads it."""
    lines = [f"Question: {written.question}", "Choices:", *(f"- {choice}" for choice in written.choices)]
    lines += [f"Answer: {written.answer}", f"Reasoning: {written.reasoning or '(none)'}"]
    return "\n".join(lines)


def judge_prompt(prompts: Prompts, facts: Facts, written: Written) -> str:
    """What is asked about a row."""
    return prompts.fill("judge", facts=facts.told(), example=example_text(written))


@dataclass(frozen=True, slots=True)
class Judge:
    """Asks an endpoint for verdicts.

    Args:
        endpoint: who judges.
        prompts: in which words it is asked.
        tries: while its reply cannot be read.
        seed: of the run.
    """

    endpoint: ChatEndpoint
    prompts: Prompts
    tries: int
    seed: int

    async def verdict(self, facts: Facts, written: Written, row_id: str) -> Verdict | None:
        """The verdicts; None where no reply could be read.

        Raises:
            EngineError: the endpoint failed.
        """
        messages = [{"role": "user", "content": judge_prompt(self.prompts, facts, written)}]
        for attempt in range(self.tries):
            reply = await self.endpoint.chat("judge", messages, seed_of(self.seed, row_id, "judge", attempt), SCHEMA)
            try:
                return read_verdict(reply.text)
            except DataError:
                continue
        return None
