"""What models do with listening again: how often, how long, where, what was refused, and whether it goes with being right."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from echo_audio.audio import Segment
from echo_audio.evaluation import statistics
from echo_audio.evaluation.base import Sample
from echo_audio.scoring.rewards import union_s
from echo_audio.transcript import What

REFUSED = (
    What.UNPARSEABLE, What.REVERSED, What.OUT_OF_RANGE, What.TOO_SHORT, What.REPEATED, What.MISPLACED, What.RELISTEN_LIMIT,
)  # fmt: skip
N_BINS = 10
"""Bins of the histograms over a share, and over the recording."""


def heard_segments(sample: Sample) -> list[Segment]:
    """The segments that were heard again, in order."""
    spans = sample.transcript.get("spans", ())
    return [Segment(s["segment"]["start_s"], s["segment"]["end_s"]) for s in spans if s.get("why") == "asked"]


def coverage(segments: Sequence[Segment], duration_s: float) -> float:
    """Share of the recording that lies in at least one segment, 0 to 1."""
    return min(1.0, union_s(segments) / duration_s) if duration_s > 0 else 0.0


def overlap(segments: Sequence[Segment]) -> float:
    """Share of the seconds heard again that had been heard again before, 0 to 1."""
    total_s = sum(s.duration_s for s in segments)
    return max(0.0, 1 - union_s(segments) / total_s) if total_s else 0.0


def listening(samples: Sequence[Sample], right: Mapping[str, bool]) -> dict[str, Any]:
    """Counts and histograms over the samples that were asked.

    Args:
        right: key of a sample -> whether it is right (official rule).
    """
    asked = [s for s in samples if s.transcript]
    heard = {s.key: heard_segments(s) for s in asked}
    some = [s for s in asked if heard[s.key]]
    by_number: dict[str, list[bool]] = defaultdict(list)
    for sample in asked:
        n = len(heard[sample.key])
        by_number[str(n) if n < 5 else "5 or more"].append(right[sample.key])
    notes = Counter(note["what"] for s in asked for note in s.transcript.get("notes", ()))
    with_seg, without = ([right[s.key] for s in asked if bool(heard[s.key]) is wanted] for wanted in (True, False))
    shares = [coverage(heard[s.key], s.duration_s) for s in some]
    twice = [overlap(heard[s.key]) for s in some if len(heard[s.key]) > 1]
    return {
        "segments_per_answer": _json(statistics.mean([float(len(heard[s.key])) for s in asked])),
        "seconds_per_answer": _json(statistics.mean([s.heard_s for s in asked])),
        "seconds_per_segment": _json(statistics.mean([g.duration_s for s in some for g in heard[s.key]])),
        "with_at_least": {str(k): _share([len(heard[s.key]) >= k for s in asked]) for k in (1, 2, 3)},
        "share_covered": _json(statistics.mean(shares)),
        "share_twice": _json(statistics.mean(twice)),
        "coverage": histogram(shares),
        "overlap": histogram(twice),
        "refused": {str(what): notes[what] for what in REFUSED},
        "clamped": notes[What.CLAMPED],
        "where": where(some),
        "accuracy_by_segments": {name: statistics.rate(out).to_json() for name, out in sorted(by_number.items())},
        "accuracy_with": _json(statistics.rate(with_seg)),
        "accuracy_without": _json(statistics.rate(without)),
    }


def _json(estimate: statistics.Estimate) -> dict[str, float] | None:
    """None where there is nothing to estimate from: NaN is not JSON."""
    return estimate.to_json() if estimate.n else None


def _share(outcomes: Sequence[bool]) -> float:
    return round(sum(outcomes) / len(outcomes), 4) if outcomes else 0.0


def histogram(shares: Iterable[float]) -> list[int]:
    """How many of the shares lie in each tenth; 1 belongs to the last."""
    counts = [0] * N_BINS
    for share in shares:
        counts[min(N_BINS - 1, int(share * N_BINS))] += 1
    return counts


def where(samples: Sequence[Sample]) -> list[float]:
    """Seconds heard again in each tenth of the recording, over all samples."""
    totals = [0.0] * N_BINS
    for sample in samples:
        edges = [sample.duration_s * i / N_BINS for i in range(N_BINS + 1)]
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            if low < high:
                totals[i] += sum(g.overlap_s(Segment(low, high)) for g in heard_segments(sample))
    return [round(total, 2) for total in totals]
