"""What a request asks for: the question, and the options of `echo-audio ask` as fields."""

from __future__ import annotations

import asyncio
import difflib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from echo_audio.errors import DataError, RequestError
from echo_audio.listen import Limits, Sampling
from echo_audio.scoring.answers import check_choices
from echo_audio.studio.house import House
from echo_audio.transcript import Mode, Played

Model = TypeVar("Model", bound=BaseModel)

Choice = Annotated[str, Field(min_length=1, max_length=1000)]


class Manner(BaseModel):
    """How to listen.

    Args:
        choices: texts to choose the answer from; none for a free answer.
        mode: interleaved hears each segment it writes, grounded only writes them, conditioned writes none.
        played: what is played for a segment; all but `crop` are counterfactuals.
        swap_with: the recording that `swapped` plays: base64, a data: URL, or the id of an uploaded file.
        max_relistens, max_relisten_s: segments, and seconds, that may be heard again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    choices: tuple[Choice, ...] = Field(default=(), max_length=64)
    mode: Mode = Mode.INTERLEAVED
    played: Played = Played.CROP
    swap_with: str | None = None
    max_relistens: int = Field(default=8, ge=0)
    max_relisten_s: float = Field(default=120.0, ge=0)


class Ask(Manner):
    """The body of `/v1/listen`.

    Args:
        question: what is asked.
        audio: the recording: base64, a data: URL, or the id of an uploaded file.
        seed, temperature, top_p: how tokens are drawn; the same seed gives the same reasoning, temperature 0 is greedy.
        max_new_tokens: of the whole reasoning.
        with_transcript: whether the last event carries the whole transcript, ids and log-probabilities included.
    """

    question: str = Field(min_length=1, max_length=8000)
    audio: str = Field(default="", repr=False)
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    temperature: float = Field(default=0.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    with_transcript: bool = False

    @field_validator("question")
    @classmethod
    def _asks_something(cls, question: str) -> str:
        if not question.strip():
            raise ValueError("it is empty; ask something")
        return question

    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.temperature, self.top_p, self.seed)

    def limits(self, house: House) -> Limits:
        """The budgets.

        Raises:
            RequestError: more is asked for than the house gives.
        """
        n_tokens = house.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        wanted = {"max_new_tokens": n_tokens, "max_relistens": self.max_relistens, "max_relisten_s": self.max_relisten_s}
        for name, value in wanted.items():
            if value > getattr(house, name):
                raise RequestError(f"{name} is {value:g}, and this server gives {getattr(house, name):g} at most")
        return Limits(
            max_turns=max(16, 2 * self.max_relistens),
            max_relistens=self.max_relistens,
            max_relisten_s=self.max_relisten_s,
            max_new_tokens=n_tokens,
            max_turn_tokens=min(2048, n_tokens),
        )

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            RequestError: says what.
        """
        if self.played is not Played.CROP and self.mode is not Mode.INTERLEAVED:
            raise RequestError(f"played={self.played} changes what is heard again; in mode {self.mode} nothing is")
        if bool(self.swap_with) != (self.played is Played.SWAPPED):
            raise RequestError("played=swapped and swap_with belong together: give both")
        try:
            check_choices(self.choices, None, "choices")
        except DataError as error:
            raise RequestError(str(error)) from None


def read(kind: type[Model], values: bytes | dict[str, Any]) -> Model:
    """A request's fields, from JSON or from a form.

    Raises:
        RequestError: names the first field that is wrong, in one sentence.
    """
    try:
        return kind.model_validate_json(values) if isinstance(values, bytes) else kind.model_validate(values)
    except ValidationError as error:
        raise RequestError(_explain(kind, error)) from None


async def read_json(kind: type[Model], content: bytes) -> Model:
    """`read`, beside the event loop where that would take long.

    Raises:
        RequestError: as `read`.
    """
    return read(kind, content) if len(content) < _LONG else await asyncio.to_thread(read, kind, content)


_LONG = 1 << 20


def _explain(kind: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, problem["loc"]))[:100]
    if problem["type"] == "json_invalid":
        return f"the body is not JSON ({problem['msg'].removeprefix('Invalid JSON: ')}); send one JSON object"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where.rpartition(".")[2], _names(kind), n=1, cutoff=0.5)
        return f"unknown field {where!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    said = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    got = repr(problem["input"])
    shown = "" if problem["type"] == "missing" else f" (got {got if len(got) <= 60 else got[:57] + '...'})"
    return f"{where or 'the body'}: {said[:1].lower()}{said[1:]}{shown}".encode("utf-8", "replace").decode()


def _names(kind: type[BaseModel]) -> list[str]:
    """The fields of a model and of those inside it."""
    names = list(kind.model_fields)
    for info in kind.model_fields.values():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            names += _names(info.annotation)
    return names
