"""The benchmark of our own scenes: exact times are known, so hearing and citing can both be scored.

Two published splits, by seed, with sound variants that training never draws: `procedural` (the sounds built in) and
`real` (recorded clips and spoken digits from banks the user has, clips and speakers unseen).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from echo_audio.data.render import Stock, render
from echo_audio.data.rows import Row
from echo_audio.data.scene import Scene, Source, Split
from echo_audio.data.scenes import KIND_NAMES, default_weights, draw_row, plan, with_audio
from echo_audio.evaluation import statistics
from echo_audio.evaluation.base import Item, Sample
from echo_audio.evaluation.statistics import Estimate

TEST_SEED = 20_261_124
"""Seed of the published test split; its first 1,000 rows are the benchmark."""

LENGTHS_S = ((4.0, 8.0), (8.0, 12.0), (12.0, 18.0), (18.0, 24.0), (24.0, 30.1))
"""Buckets of recording length for `by_length`."""


class SceneItems:
    """Questions about test scenes, rendered when they are asked for.

    Args:
        stock: sounds; with recorded ones, only kinds and labels that have unseen clips are asked.
        n: number of questions.
        recorded_only: leave out questions about procedural sounds alone (the `real` split).
        seed: of the split.
    """

    def __init__(self, stock: Stock, n: int = 1000, *, recorded_only: bool = False, seed: int = TEST_SEED) -> None:
        self.stock, self.n, self.seed = stock, n, seed
        self.indices = self._recorded(n) if recorded_only else list(range(n))

    def _recorded(self, n: int) -> list[int]:
        """The first rows whose evidence holds a recorded sound."""
        recorded = {label for s in (Source.CLIP, Source.DIGIT) if s in self.stock.banks for label in self.stock.bank(s).labels}
        found: list[int] = []
        index = 0
        while len(found) < n:
            if any(event.label in recorded for event in self.row(index)[0].evidence):
                found.append(index)
            index += 1
        return found

    def row(self, index: int) -> tuple[Row, Scene]:
        """Row and scene of an index of the split."""
        return draw_row(self.seed, index, Split.TEST, self.stock)

    def __len__(self) -> int:
        """Number of questions."""
        return self.n

    def key(self, index: int) -> str:
        """Name of question `index`; nothing is rendered."""
        return self.row(self.indices[index])[0].id

    def groups(self, index: int) -> dict[str, str]:
        """None but the kind, which each sample has."""
        return {}

    def item(self, index: int, with_other: bool = False) -> Item:
        """Question `index`; the other recording is the next question's."""
        row, scene = self.row(self.indices[index])
        recording = render(scene, self.stock)
        other = render(self.row(self.indices[(index + 1) % self.n])[1], self.stock) if with_other else None
        return Item(with_audio(row, recording.id), recording, other)

    def kinds(self) -> dict[str, int]:
        """How many questions of each kind, without drawing them."""
        weights = default_weights(self.stock, Split.TEST)
        kinds, _ = plan(self.seed, self.n, Split.TEST, weights)
        return {name: int((kinds == i).sum()) for i, name in enumerate(KIND_NAMES) if weights.get(name)}


@dataclass(frozen=True, slots=True)
class Scores:
    """What one pass over the split gives."""

    accuracy: Estimate
    by_type: dict[str, Estimate]
    by_length: dict[str, Estimate]
    well_formed: Estimate
    mean_iou: Estimate
    heard_s: Estimate
    n_heard: Estimate
    n_words: Estimate


def score(samples: Sequence[Sample]) -> Scores:
    """Scores of one pass. Unparsed answers count as wrong."""
    by_type = _group(samples, lambda s: s.kind)
    by_length = _group(samples, _bucket)
    return Scores(
        accuracy=statistics.rate([s.correct for s in samples]),
        by_type={kind: statistics.rate([s.correct for s in some]) for kind, some in sorted(by_type.items())},
        by_length={name: statistics.rate([s.correct for s in some]) for name, some in sorted(by_length.items())},
        well_formed=statistics.rate([s.well_formed for s in samples]),
        mean_iou=statistics.mean([s.iou for s in samples if s.iou is not None]),
        heard_s=statistics.mean([s.heard_s for s in samples]),
        n_heard=statistics.mean([float(s.n_heard) for s in samples]),
        n_words=statistics.mean([float(s.n_words) for s in samples]),
    )


def summary(truth: Sequence[Sample], counterfactual: dict[str, Sequence[Sample]]) -> dict[str, Any]:
    """The published JSON: scores of the true pass, and the accuracy under each counterfactual listening.

    Args:
        truth: samples with the true audio played.
        counterfactual: samples with it withheld, silenced, swapped, by that name.
    """
    scores = score(truth)
    out: dict[str, Any] = {
        name: _json(getattr(scores, name))
        for name in ("accuracy", "by_type", "by_length", "well_formed", "mean_iou", "heard_s", "n_heard", "n_words")
        if truth and not _is_empty(getattr(scores, name))
    }
    for name, samples in counterfactual.items():
        out[name] = score(samples).accuracy.to_json()
    return out


def _is_empty(value: Estimate | dict[str, Estimate]) -> bool:
    """Whether there was nothing to estimate from (no pass, nothing cited): NaN is not JSON."""
    return isinstance(value, Estimate) and value.n == 0


def _json(value: Estimate | dict[str, Estimate]) -> dict[str, Any]:
    if isinstance(value, Estimate):
        return value.to_json()
    return {name: estimate.to_json() for name, estimate in value.items()}


def _group(samples: Sequence[Sample], key: Callable[[Sample], str]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return groups


def _bucket(sample: Sample) -> str:
    for low, high in LENGTHS_S:
        if low <= sample.duration_s < high:
            return f"{low:02.0f}-{high:02.0f} s"
    return f"under {LENGTHS_S[0][0]:02.0f} s" if sample.duration_s < LENGTHS_S[0][0] else f"{LENGTHS_S[-1][1]:02.0f} s or more"
