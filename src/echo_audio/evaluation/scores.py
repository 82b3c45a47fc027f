"""From the samples of a run to its scores: two rules, micro and macro, by every group, with intervals. No model needed."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from echo_audio.errors import DataError, TranscriptError
from echo_audio.evaluation import statistics
from echo_audio.evaluation.base import Sample, Status
from echo_audio.evaluation.listening import listening
from echo_audio.evaluation.run import Extractor, rejudged
from echo_audio.scoring.answers import OfficialRule, Verdict
from echo_audio.scoring.extraction import Step, extract
from echo_audio.transcript import Stop, Transcript

LENGTHS_S = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Ends of the buckets of recording length."""

Rule = Callable[[Sample], bool]
RULES: dict[str, Rule] = {"official": lambda s: s.official is True, "strict": lambda s: s.verdict is Verdict.CORRECT}


def scored_again(samples: Sequence[Sample], about: Mapping[str, Any], extractor: Extractor = extract) -> list[Sample]:
    """The samples with extraction and verdicts made anew from their transcripts.

    Raises:
        TranscriptError: one of them is damaged.
    """
    rule = rule_of(about)
    out: list[Sample] = []
    for sample in samples:
        if sample.transcript:
            transcript = transcript_of(sample)
            checked = replace(sample, transcript=json.loads(transcript.to_json()))  # numbers written as texts are numbers now
            sample = rejudged(checked, transcript.response, transcript.question.choices, extractor, rule)
        out.append(sample)
    return out


def rule_of(about: Mapping[str, Any]) -> OfficialRule:
    """The official rule of a run; runs from before there were several have the first."""
    return OfficialRule.CHOICE if about.get("rule") == OfficialRule.CHOICE else OfficialRule.WORDS


def transcript_of(sample: Sample) -> Transcript:
    """The transcript of a sample.

    Raises:
        TranscriptError: the sample has none, or a damaged one.
    """
    try:
        return Transcript.from_json(json.dumps(sample.transcript))
    except TranscriptError as error:
        said = " ".join(str(error).split())[:200]
        raise TranscriptError(f"the line of {sample.key!r} holds no transcript ({said} ...); delete that line") from None


def summarise(samples: Sequence[Sample], about: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a run, as JSON values.

    What could not be read or asked counts as wrong; what was not asked yet is in no number, and said in `missing`. Every
    accuracy rests on the first repeat with the choices as they stand; repeats and turned choices have parts of their own.

    Args:
        samples: of one configuration, one for each question as asked.
        about: `run.json` of the run.
    """
    plain = [s for s in samples if s.repeat == 0 and s.rotation == 0]
    counted = {**counts(plain, about), "missing_turns": missing_turns(samples, about)}
    if not plain or not about.get("has_truth", True):
        why = "the question file gives no answers: hand in the submission" if plain else "no question was asked yet"
        by = {name: distribution(some) for name, some in _groups(plain, _group(str(about.get("macro", "")))).items()}
        return {"scored": False, "why": why, **counted, "distribution": distribution(plain), "distribution_by": by,
                "odd": oddities(plain)}  # fmt: skip
    out: dict[str, Any] = {"scored": True, **counted}
    for rule, right in RULES.items():
        out[rule] = statistics.rate([right(s) for s in plain]).to_json()
    out["macro"] = _macros(plain, about)
    orders = about.get("groups", {})
    out["by"] = {name: _by(plain, key, orders.get(name, ())) for name, key in groupings(plain).items()}
    out["chance"] = chance(plain, rule_of(about))
    out["distribution"] = distribution(plain)
    if any(s.repeat for s in samples):
        out["repeats"] = repeats([s for s in samples if s.rotation == 0])
    if any(s.rotation for s in samples):
        out["rotations"] = rotations([s for s in samples if s.repeat == 0])
    out["listening"] = listening(plain, {s.key: RULES["official"](s) for s in plain})
    return out


def counts(samples: Sequence[Sample], about: Mapping[str, Any]) -> dict[str, Any]:
    """How many questions there are, and what came of them."""
    stops = Counter(s.transcript.get("stop") for s in samples)
    steps = Counter(s.step for s in samples if s.status is Status.OK)
    found = sum(count for step, count in steps.items() if Step(step).found)
    n = int(about.get("n", len(samples)))
    return {
        "n": n,
        "missing": n - len(samples),
        "answered": found,
        "unparsed": sum(steps.values()) - found,
        **{str(status): sum(s.status is status for s in samples) for status in Status if status is not Status.OK},
        "hit_turn_limit": stops[Stop.TURN_LIMIT],
        "hit_token_limit": stops[Stop.TOKEN_LIMIT],
        "hit_audio_limit": stops[Stop.AUDIO_LIMIT],
        "steps": {str(step): steps[step] for step in Step if steps[step]},
        "rules_disagree": sum(RULES["official"](s) != RULES["strict"](s) for s in samples),
    }


def missing_turns(samples: Sequence[Sample], about: Mapping[str, Any]) -> int:
    """Repeats and turned choices that were not asked yet, of the questions that were asked once."""
    how = about.get("how", {})
    n_repeats, n_turns = int(how.get("repeats", 1)), int(how.get("rotations", 1))
    asked = Counter(s.key for s in samples if s.status is Status.OK)
    shown = {s.key: s.n_shown or 1 for s in samples if s.status is Status.OK}
    return sum(max(0, n_repeats * (n_turns or shown[key]) - n) for key, n in asked.items())


def oddities(samples: Sequence[Sample]) -> list[str]:
    """What is suspicious about answers whose truth is not known, a sentence each."""
    read = [s for s in samples if s.choice is not None]
    out: list[str] = []
    if len(read) < 0.95 * len(samples):
        out.append(f"{len(samples) - len(read)} of {len(samples)} answers are empty: they could not be read or asked")
    for what, counts_of in (("place", distribution(read)), ("text", Counter(str(s.choice) for s in read))):
        name, count = max(counts_of.items(), key=lambda item: item[1], default=("", 0))
        if len(read) >= 20 and count > 0.6 * len(read):
            out.append(f"{count} of {len(read)} answers have the same {what}: {name[:80]}")
    return out


def groupings(samples: Sequence[Sample]) -> dict[str, Callable[[Sample], str]]:
    """Name of a grouping -> the group of a sample: the benchmark's own, then ours."""
    names = dict.fromkeys(name for s in samples for name in s.groups)
    own: dict[str, Callable[[Sample], str]] = {name: _group(name) for name in names}
    return {**own, "choices": _n_choices, "length": length_bucket}


def _group(name: str) -> Callable[[Sample], str]:
    return lambda s: s.groups.get(name, "unknown")


def _n_choices(sample: Sample) -> str:
    """As many as are shown, equal ones too, as the question files have them; older runs kept the number of different ones."""
    n = sample.n_shown or sample.n_choices
    return f"{n} choices" if n else "not asked"


def length_bucket(sample: Sample) -> str:
    """The bucket of a recording's length; any length has one."""
    if not sample.duration_s:
        return "not asked"
    low = 0.0
    for high in LENGTHS_S:
        if sample.duration_s < high:
            return f"{low:03.0f}-{high:03.0f} s"
        low = high
    return f"{low:03.0f} s or more"


def _by(samples: Sequence[Sample], key: Callable[[Sample], str], order: Sequence[str] = ()) -> dict[str, Any]:
    return {name: {rule: statistics.rate([right(s) for s in some]).to_json() for rule, right in RULES.items()}
            for name, some in _groups(samples, key, order).items()}  # fmt: skip


def _groups(samples: Sequence[Sample], key: Callable[[Sample], str], order: Sequence[str] = ()) -> dict[str, list[Sample]]:
    """The samples by group, in the order of the official table, then by name."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    rank = {name: place for place, name in enumerate(order)}
    return dict(sorted(groups.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def _macros(samples: Sequence[Sample], about: Mapping[str, Any]) -> dict[str, Any]:
    """The unweighted mean over the groups of the benchmark's macro grouping (MMAR: seven modalities)."""
    name = str(about.get("macro", ""))
    parts = list(_groups(samples, _group(name)).values())
    values = {rule: statistics.macro([[right(s) for s in some] for some in parts]).to_json() for rule, right in RULES.items()}
    return {"over": name, "groups": len(parts), **values}


def chance(samples: Sequence[Sample], rule: OfficialRule = OfficialRule.WORDS) -> dict[str, float]:
    """What is right without listening: a choice drawn at random, and always the first one by the official rule.

    What could not be asked is wrong here too, as in the scores beside it.
    """
    asked = [(s.answer, s.transcript["question"]["choices"]) for s in samples if s.transcript and s.answer is not None]
    shown = [(answer, choices) for answer, choices in asked if choices]
    if not shown:
        return {}
    first = sum(rule.match(choices[0], answer, choices) for answer, choices in shown)
    uniform = sum(1 / len(choices) for _, choices in shown)
    n = len(shown) + sum(not sample.transcript for sample in samples)
    return {"uniform": round(uniform / n, 4), "always_first": round(first / n, 4)}


def distribution(samples: Sequence[Sample]) -> dict[str, int]:
    """Where in the list the given choices stand: a model that answers by place shows here."""
    places: Counter[str] = Counter()
    for sample in samples:
        choices = sample.transcript["question"]["choices"] if sample.transcript else []
        places[f"choice {choices.index(sample.choice) + 1}" if sample.choice in choices else "none"] += 1
    return dict(sorted(places.items()))


def repeats(samples: Sequence[Sample]) -> dict[str, Any]:
    """avg@k: mean over repeats. Majority: the choice given most often, ties to the earlier one; pass@k: right at least once."""
    by_key: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: s.repeat):
        by_key[sample.key].append(sample)
    groups = list(by_key.values())
    right = RULES["official"]
    voted = [_majority(some) for some in groups]
    return {
        "k": max(len(some) for some in groups),
        "avg": statistics.share([sum(map(right, some)) / len(some) for some in groups]).to_json(),
        "majority": statistics.rate([vote is not None and right(vote) for vote in voted]).to_json(),
        "pass": statistics.rate([any(map(right, some)) for some in groups]).to_json(),
    }


def _majority(samples: Sequence[Sample]) -> Sample | None:
    """A sample that gave the choice given most often."""
    votes = Counter(s.choice for s in samples if s.choice is not None)
    if not votes:
        return None
    winner, _ = votes.most_common(1)[0]
    return next(s for s in samples if s.choice == winner)


def rotations(samples: Sequence[Sample]) -> dict[str, Any]:
    """Average accuracy over all turns of the choices, and the rate of questions that are right in every one (STAR-Bench)."""
    by_key: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_key[sample.key].append(sample)
    right = RULES["official"]
    shares = [sum(map(right, some)) / len(some) for some in by_key.values()]
    return {
        "average_accuracy": statistics.share(shares).to_json(),
        "all_rotations_correct": statistics.rate([math.isclose(share, 1.0) for share in shares]).to_json(),
    }


def compare(first: Sequence[Sample], second: Sequence[Sample]) -> dict[str, Any]:
    """Two runs on the same questions: McNemar's test and the paired difference, by both rules, in all and by group.

    Raises:
        DataError: they share no question.
    """
    a, b = ({s.key: s for s in some if s.repeat == 0 and s.rotation == 0} for some in (first, second))
    keys = [key for key in a if key in b]
    if not keys:
        raise DataError("the two runs share no question; compare runs of one benchmark")
    out: dict[str, Any] = {"n": len(keys), "only_in_one": len(a.keys() ^ b.keys()), "all": _pair(a, b, keys), "by": {}}
    for name, key_of in groupings([a[key] for key in keys]).items():
        groups: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            groups[key_of(a[key])].append(key)
        out["by"][name] = {group: _pair(a, b, some) for group, some in sorted(groups.items())}
    return out


def _pair(a: Mapping[str, Sample], b: Mapping[str, Sample], keys: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for rule, right in RULES.items():
        one, two = [right(a[key]) for key in keys], [right(b[key]) for key in keys]
        test = statistics.paired(one, two)
        out[rule] = {
            "first": round(sum(one) / len(one), 4), "second": round(sum(two) / len(two), 4),
            "difference": round(test.difference, 4), "low": round(test.low, 4), "high": round(test.high, 4),
            "p_value": round(test.p_value, 6), "only_first": test.only_first, "only_second": test.only_second, "n": test.n,
        }  # fmt: skip
    return out
