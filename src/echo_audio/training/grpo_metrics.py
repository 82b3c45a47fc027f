"""What a GRPO run says of each step, and when it raises the alarm. Pure functions of rollouts and of earlier lines."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from echo_audio.data.transcripts import question_of
from echo_audio.scoring.answers import strict_score
from echo_audio.scoring.rewards import Sample, event_overlap_reward
from echo_audio.training.grpo_settings import AlarmSettings
from echo_audio.training.losses import Diagnostics
from echo_audio.training.rollouts import Rollout, evidence_of
from echo_audio.training.update import Outcome
from echo_audio.transcript import Mode, What


def rollout_sums(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Sums over the rollouts of one process; those of several processes add up. `means` makes metrics of them."""
    sums: Counter[str] = Counter()
    for rollout in rollouts:
        transcript, row = rollout.transcript, rollout.prompt.row
        cited = transcript.cited
        sums.update(
            {
                "n": 1.0,
                "reward": rollout.reward.total,
                "reward_square": rollout.reward.total**2,
                "accuracy": float(strict_score(transcript.response, row.answer, row.choices).correct),
                "parse_rate": float(transcript.well_formed),
                "limited": float(transcript.stop is not None and transcript.stop.is_limit),
                "segments": len(transcript.asked),
                "listens_again": float(bool(transcript.asked)),
                "heard_s": transcript.heard_s,
                "cited": len(cited),
                "cited_again": len(cited) - len(set(cited)),
                "skipped_repeats": transcript.count(What.REPEATED),
                "overlap": event_overlap_reward(Sample(transcript, events=evidence_of(rollout.prompt))),
                "tokens": transcript.n_sampled,
                "words": len(transcript.response.split()),
                **{f"reward/{name}": value for name, value in rollout.reward.parts.items()},
            }
        )
    return {name: float(value) for name, value in sums.items()}


def kind_counts(groups: Sequence[tuple[Sequence[Rollout], bool]]) -> dict[str, tuple[float, ...]]:
    """By kind of question: groups, those without variance, rollouts, right ones. Those of several processes add up.

    Args:
        groups: the rollouts of each prompt, and whether they all earned the same.
    """
    counts: dict[str, tuple[float, ...]] = {}
    for rollouts, flat in groups:
        row = rollouts[0].prompt.row
        right = sum(strict_score(r.transcript.response, row.answer, row.choices).correct for r in rollouts)
        before = counts.get(row.kind, (0.0,) * 4)
        counts[row.kind] = tuple(a + b for a, b in zip(before, (1, flat, len(rollouts), right), strict=True))
    return counts


def kind_metrics(everyone: Sequence[Mapping[str, tuple[float, ...]]]) -> dict[str, float]:
    """Metrics by kind from the counts of all processes."""
    metrics: dict[str, float] = {}
    for kind in sorted({kind for counts in everyone for kind in counts}):
        n_groups, n_flat, n, n_right = map(sum, zip(*(counts[kind] for counts in everyone if kind in counts), strict=True))
        metrics |= {f"accuracy/{kind}": n_right / n, f"flat/{kind}": n_flat / n_groups}
    return metrics


def most_common_segment(heard: Mapping[str, set[tuple[float, float]]]) -> float:
    """How much of what is heard is one and the same segment: its share of all prompts that heard any.

    Args:
        heard: the segments heard, by prompt.
    """
    listening = [segments for segments in heard.values() if segments]
    if len(listening) < 2:
        return 0.0
    counts = Counter(segment for segments in listening for segment in segments)
    return max(counts.values()) / len(listening)


def heard_by_prompt(rollouts: Sequence[Rollout]) -> dict[str, set[tuple[float, float]]]:
    """The segments heard about each prompt, on a grid of 0.1 s."""
    heard: dict[str, set[tuple[float, float]]] = {}
    for rollout in rollouts:
        times = ((round(h.segment.start_s, 1), round(h.segment.end_s, 1)) for h in rollout.transcript.asked)
        heard.setdefault(f"{rollout.key.slot}/{rollout.key.attempt}", set()).update(times)
    return heard


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Means over all rollouts from their sums."""
    n = max(1.0, sums["n"])
    values = {name: value / n for name, value in sums.items() if name not in ("n", "reward_square", "cited_again")}
    spread = max(0.0, sums["reward_square"] / n - values["reward"] ** 2)
    values["reward_deviation"] = spread**0.5
    values["repeats"] = sums["cited_again"] / sums["cited"] if sums["cited"] else 0.0
    return values | {"rollouts": sums["n"]}


def update_metrics(outcomes: Sequence[Outcome], seen: Diagnostics) -> dict[str, float]:
    """What the updates of a step say; `seen` is summed over all of them, and over all processes."""
    return {
        "loss": statistics.fmean(outcome.loss for outcome in outcomes),
        "grad_norm": statistics.fmean(outcome.grad_norm for outcome in outcomes),
        "learning_rate": outcomes[-1].learning_rate,
        **seen.means(),
    }


def alarms(lines: Sequence[Mapping[str, Any]], settings: AlarmSettings, mode: Mode) -> list[str]:
    """What is going wrong, in sentences.

    Args:
        lines: of metrics.jsonl, the newest last.
    """
    window = settings.window
    if len(lines) < window:
        return []

    def recent(name: str, end: int | None = None) -> float:
        last = lines[: len(lines) if end is None else end][-window:]
        return statistics.fmean(line[name] for line in last)

    found: list[str] = []
    if mode is Mode.INTERLEAVED:
        best = max(recent("listens_again", end) for end in range(window, len(lines) + 1))
        now = recent("listens_again")
        if now < settings.relisten_fall * best:
            found.append(f"re-listening collapses: {now:.0%} of answers listen again, at best it was {best:.0%}")
        if (copied := recent("same_segment")) > settings.one_segment:
            found.append(f"one segment for all: {copied:.0%} of the prompts hear one and the same segment")
    if mode is not Mode.CONDITIONED and (repeats := recent("repeats")) > settings.repeated:
        found.append(f"repeats: {repeats:.0%} of cited segments were cited before in the same answer")
    if (flat := recent("flat_share")) > settings.flat:
        found.append(f"no variance: {flat:.0%} of groups have equal rewards and teach nothing")
    return found


def sample_line(step: int, rollout: Rollout, advantage: float) -> dict[str, Any]:
    """A rollout for transcripts.jsonl and the page."""
    question = question_of(rollout.prompt.row)
    return {
        "step": step,
        "question": question.text,
        "choices": list(question.choices),
        "truth": question.answer,
        "answer": rollout.transcript.answer,
        "reward": rollout.reward.total,
        "parts": rollout.reward.parts,
        "advantage": advantage,
        "heard": [[h.segment.start_s, h.segment.end_s] for h in rollout.transcript.asked],
        "events": [[e.label, e.start_s, e.end_s] for e in rollout.prompt.row.evidence],
        "response": rollout.transcript.response,
        "transcript": json.loads(rollout.transcript.to_json()),
    }
