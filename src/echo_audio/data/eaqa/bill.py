"""What a run will cost, told before, and what it cost, told after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from echo_audio.data.eaqa.calls import Calls
from echo_audio.data.eaqa.checks import Written
from echo_audio.data.eaqa.facts import ANNOTATIONS, Facts
from echo_audio.data.eaqa.judge import judge_prompt
from echo_audio.data.eaqa.prompts import Prompts
from echo_audio.data.eaqa.settings import EaqaSettings, EndpointSettings
from echo_audio.data.eaqa.write import write_prompt

_OUT = {"description": 110, "speech": 50, "music": 50, "write": 330, "judge": 110, "guess": 15}
"""Tokens of one reply, about."""
_TRIES = 1.2
"""Requests for one text or row, about: some are refused by the checks and asked again."""
_CHARACTERS = 4.0
"""Characters of a token, about."""

_EXAMPLE = Written("q" * 70, ("c" * 15,) * 4, "c" * 15, "r" * 600)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an estimate or a bill.

    Args:
        stage: "description", "write", "judge", ...
        model: who is asked.
        calls, tokens_in, tokens_out: of the stage.
        price: in the currency of the settings.
    """

    stage: str
    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    price: float


def endpoints(settings: EaqaSettings) -> dict[str, EndpointSettings]:
    """Whom each stage asks, of those that ask an endpoint."""
    found: dict[str, EndpointSettings] = {}
    if settings.annotate.by == "endpoint":
        found |= dict.fromkeys(ANNOTATIONS, settings.annotate.endpoint)
    found |= {"write": settings.write.endpoint, "judge": settings.judge.endpoint}
    if settings.guess.by == "endpoint":
        found["guess"] = settings.guess.endpoint
    return found


def bill(calls: Calls, settings: EaqaSettings) -> list[Line]:
    """What was asked so far, and what it cost; what came from the cache cost nothing."""
    asked = endpoints(settings)
    lines: list[Line] = []
    for (stage, model), (n, n_in, n_out) in sorted(calls.spent.items()):
        endpoint = asked.get(stage)
        lines.append(Line(stage, model, n, n_in, n_out, _price(endpoint, n_in, n_out) if endpoint else 0.0))
    return lines


def total(lines: Sequence[Line]) -> float:
    """The price of all lines."""
    return sum(line.price for line in lines)


def _price(endpoint: EndpointSettings, n_in: float, n_out: float) -> float:
    return (n_in * endpoint.price_in + n_out * endpoint.price_out) / 1e6


def estimate(
    settings: EaqaSettings, prompts: Prompts, some: Sequence[Facts], n_recordings: int, n_rows: int
) -> list[Line]:
    """What a run will cost, about: from the prompts that some of its recordings would get.

    Args:
        some: what is known of these recordings before anybody is asked.
        n_recordings, n_rows: of the whole run.
    """
    duration_s = _mean([facts.duration_s for facts in some])
    more = {"description": "d" * 400, "speech": "s" * 100} if settings.annotate.by != "none" else {}
    told = [Facts(f.duration_s, f.events, {**f.texts, **more}) for f in some]
    kind = next(iter(prompts.kinds))
    lengths = {
        "write": _mean([len(write_prompt(prompts, kind, facts, settings.write.most_choices)) for facts in told]),
        "judge": _mean([len(judge_prompt(prompts, facts, _EXAMPLE)) for facts in told]),
        "guess": float(len(prompts.texts["guess"]) + 140),
    }
    lines: list[Line] = []
    for stage, endpoint in endpoints(settings).items():
        if stage in ANNOTATIONS:
            n = n_recordings * _TRIES
            each = len(prompts.texts[stage]) / _CHARACTERS + duration_s * endpoint.audio_tokens_per_s
        else:
            n = n_rows * {"write": _TRIES, "guess": float(settings.guess.samples)}.get(stage, 1.0)
            each = lengths[stage] / _CHARACTERS
        n_in, n_out = n * each, n * (_OUT[stage] + endpoint.thinking_tokens)
        lines.append(Line(stage, endpoint.model, round(n), round(n_in), round(n_out), _price(endpoint, n_in, n_out)))
    return lines


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def as_json(lines: Sequence[Line]) -> list[Mapping[str, object]]:
    """Lines for a file."""
    return [{name: getattr(line, name) for name in Line.__slots__} for line in lines]
