"""Question, choices, answer and reasoning from a writer, asked again while a check without a model finds fault."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from echo_audio.data.eaqa.checks import SCHEMA, Written, question_problems, read_written, reasoning_problems
from echo_audio.data.eaqa.endpoint import ChatEndpoint
from echo_audio.data.eaqa.facts import Facts
from echo_audio.data.eaqa.plan import seed_of
from echo_audio.data.eaqa.prompts import Prompts
from echo_audio.data.eaqa.settings import CheckSettings, WriteSettings
from echo_audio.errors import DataError


@dataclass(frozen=True, slots=True)
class Draft:
    """What came of all tries.

    Args:
        written: the row; without its reasoning where none passed; None where no question did.
        problems: of the last try: of the question where `written` is None, else of the reasoning.
        refused: of all tries, one text each.
        tries: how many.
    """

    written: Written | None
    problems: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    tries: int = 1


@dataclass(slots=True)
class _Best:
    """The best so far: any row with a good question."""

    written: Written | None = None
    problems: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    refused: list[str] = field(default_factory=list)


def write_prompt(prompts: Prompts, kind: str, facts: Facts, n_choices: int) -> str:
    """What is asked for a row of this kind."""
    about = prompts.kinds[kind].about
    return prompts.fill("write", kind=kind, about=about, n_choices=str(n_choices), facts=facts.told())


@dataclass(frozen=True, slots=True)
class Writer:
    """Asks an endpoint for rows.

    Args:
        endpoint: who writes.
        prompts: in which words it is asked.
        settings, limits: of the run.
        seed: of the run.
    """

    endpoint: ChatEndpoint
    prompts: Prompts
    settings: WriteSettings
    limits: CheckSettings
    seed: int

    async def draft(self, kind: str, facts: Facts, row_id: str) -> Draft:
        """A row.

        Raises:
            EngineError: the endpoint failed.
        """
        rng = np.random.default_rng(seed_of(self.seed, row_id, "choices"))
        most = self.settings.most_choices
        best, asked = _Best(), write_prompt(self.prompts, kind, facts, int(rng.integers(min(3, most), most + 1)))
        for attempt in range(self.settings.tries):
            messages = [{"role": "user", "content": asked + _remarks(best.refused)}]
            reply = await self.endpoint.chat("write", messages, seed_of(self.seed, row_id, "write", attempt), SCHEMA)
            try:
                if not reply.whole:
                    raise DataError("reply is cut off")
                written = read_written(reply.text)
            except DataError as error:
                best.refused.append(str(error))
                best.wrong = (str(error),)
                continue
            wrong = tuple(dict.fromkeys(question_problems(written)))
            faults = tuple(dict.fromkeys(reasoning_problems(written, facts.events, facts.duration_s, self.limits)))
            if not wrong and not faults:
                return Draft(self._mixed(written, row_id), (), tuple(best.refused), attempt + 1)
            best.refused += [*wrong, *faults]
            best.wrong = wrong
            if not wrong:
                best.written, best.problems = replace(written, reasoning=None), faults
        if best.written is None:
            return Draft(None, best.wrong, tuple(best.refused), self.settings.tries)
        return Draft(self._mixed(best.written, row_id), best.problems, tuple(best.refused), self.settings.tries)

    def _mixed(self, written: Written, row_id: str) -> Written:
        """With the choices in an order that tells nothing."""
        order = np.random.default_rng(seed_of(self.seed, row_id, "order")).permutation(len(written.choices))
        return replace(written, choices=tuple(written.choices[int(i)] for i in order))


def _remarks(refused: list[str]) -> str:
    """What was wrong before, for the next try."""
    if not refused:
        return ""
    return "\n\nAn earlier try was refused: " + "; ".join(dict.fromkeys(refused)) + ". Do not make this mistake again."
