"""What the run folders of an ablation hold: answers by row, seed and question, and how each training went. Reads only."""

from __future__ import annotations

import json
import statistics as plain
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from echo_audio import tags
from echo_audio.evaluation import statistics
from echo_audio.evaluation.ablation import Plan, Row, model_folder, row_folder
from echo_audio.evaluation.base import Sample
from echo_audio.evaluation.files import read_lines
from echo_audio.evaluation.statistics import Difference, Estimate
from echo_audio.transcript import Mode, Played

_ENDS = 5
"""The first and the last so many steps of a training are averaged."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the tables need of a sample."""

    kind: str
    correct: bool
    well_formed: bool
    n_words: int
    n_tokens: int
    n_heard: int
    n_cited: int
    heard_s: float
    iou: float | None

    @classmethod
    def of(cls, sample: Sample) -> Answer:
        """Of a sample; its transcript is let go."""
        spans = sample.transcript.get("spans", ())
        said = "".join(span["text"] for span in spans if "text" in span and span.get("author") != "prompt")
        cited = sum(tag.times_s is not None for tag in tags.find_tags(said))
        return cls(
            sample.kind, sample.correct, sample.well_formed, sample.n_words, sample.n_tokens, sample.n_heard,
            cited, sample.heard_s, sample.iou,
        )  # fmt: skip


Answers = Mapping[str, Answer]
"""By the key of the question."""


@dataclass(frozen=True, slots=True)
class Found:
    """A row as far as it is there.

    Args:
        row: of the plan.
        answers: by seed and by what was played.
        latency_s: of answers that were asked for one at a time.
    """

    row: Row
    answers: Mapping[int, Mapping[Played, Answers]]
    latency_s: tuple[float, ...] = ()

    def seeds(self, played: Played = Played.CROP) -> list[int]:
        """Seeds that were asked everything in this way; one that was not finished may lack some ways."""
        return [seed for seed, runs in self.answers.items() if played in runs]

    def questions(self, played: Played = Played.CROP, seeds: Sequence[int] | None = None) -> list[str]:
        """Questions that every seed was asked, sorted."""
        asked = [set(self.answers[seed][played]) for seed in self.seeds(played) if seeds is None or seed in seeds]
        return sorted(set.intersection(*asked)) if asked else []

    def by_question(
        self, keys: Sequence[str], value: Callable[[Answer], float], played: Played = Played.CROP, seeds: Sequence[int] = ()
    ) -> list[float]:
        """A number of each question: the mean over the seeds."""
        runs = [self.answers[seed][played] for seed in seeds or self.seeds(played)]
        return [plain.fmean(value(run[key]) for run in runs) for key in keys]

    def accuracy(self, played: Played = Played.CROP) -> Estimate:
        """Share of right answers, with an interval over questions."""
        return statistics.mean(self.by_question(self.questions(played), _correct, played))

    def by_seed(self, played: Played = Played.CROP) -> dict[int, float]:
        """Share of right answers of each seed."""
        return {seed: plain.fmean(a.correct for a in self.answers[seed][played].values()) for seed in self.seeds(played)}

    def mean(self, value: Callable[[Answer], float | None], played: Played = Played.CROP) -> float | None:
        """Mean over all answers for which the number is known."""
        all_values = (value(a) for seed in self.seeds(played) for a in self.answers[seed][played].values())
        known = [v for v in all_values if v is not None]
        return plain.fmean(known) if known else None


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went.

    Args:
        name: MODEL-SEED.
        verb: sft or grpo.
        steps: that were taken.
        elapsed_s: of training, without start and end.
        first, last: means over the first and the last lines of metrics.jsonl, by metric.
    """

    name: str
    verb: str
    steps: int
    elapsed_s: float
    first: dict[str, float]
    last: dict[str, float]


@dataclass(frozen=True, slots=True)
class Results:
    """All that is there.

    Args:
        rows: by name, those that have answers.
        trained: every training that ended.
        made: records of the jobs that are done, by name.
    """

    rows: dict[str, Found]
    trained: list[Trained]
    made: Mapping[str, Mapping[str, Any]]
    kinds: list[str] = field(default_factory=list)

    def compare(self, first: str, second: str, kind: str | None = None) -> Difference | None:
        """Second minus first over the questions and seeds that both have; None where one is not there.

        Where they share no seed, each has its mean over its own.
        """
        (one, one_played), (two, two_played) = self._side(first), self._side(second)
        if one is None or two is None:
            return None
        shared = [seed for seed in one.seeds(one_played) if seed in two.seeds(two_played)]
        keys = sorted(set(one.questions(one_played, shared or None)) & set(two.questions(two_played, shared or None)))
        if kind is not None:
            run = one.answers[one.seeds(one_played)[0]][one_played]
            keys = [key for key in keys if run[key].kind == kind]
        sides = ((one, one_played), (two, two_played))
        a, b = (found.by_question(keys, _correct, played, shared) for found, played in sides)
        return statistics.difference(a, b)

    def _side(self, name: str) -> tuple[Found | None, Played]:
        row, _, played = name.partition(":")
        found, way = self.rows.get(row), Played(played or Played.CROP)
        return (found if found and found.seeds(way) else None), way

    def to_json(self) -> dict[str, Any]:
        """The numbers of the tables."""
        return {
            "rows": {
                name: {
                    str(played): found.accuracy(played).to_json() | {"by_seed": found.by_seed(played)}
                    for played in found.row.played
                    if found.seeds(played)
                }
                for name, found in self.rows.items()
            },
            "trained": [asdict(one) for one in self.trained],
            "made": {name: dict(known) for name, known in self.made.items()},
        }


def gather(plan: Plan, made: Mapping[str, Mapping[str, Any]]) -> Results:
    """Read the folders of the jobs that are done; of a row that is not, the ways of playing that all questions were asked in.

    Args:
        made: records of the jobs that are done, by name.
    """
    rows: dict[str, Found] = {}
    for row in plan.rows:
        answers: dict[int, dict[Played, Answers]] = {}
        timed: list[float] = []
        for seed in plan.seeds_of(row):
            name = f"{row.name}-{seed}"
            ways = {way: _answers(row_folder(plan, row, seed) / f"{way}.jsonl") for way in row.played}
            if f"rows/{name}" not in made:
                ways = {way: asked for way, asked in ways.items() if len(asked) >= plan.eval.n}
            if f"rows/{name}" in made or Played.CROP in ways:
                answers[seed] = ways
            if f"latency/{name}" in made:
                path = row_folder(plan, row, seed, latency=True) / f"{Played.CROP}.jsonl"
                timed += [sample.elapsed_s for sample in read_lines(path)]
        if answers:
            rows[row.name] = Found(row, answers, tuple(timed))
    trained = [
        _trained(model_folder(plan, model.name, seed), model.verb)
        for model in plan.models
        for seed in model.seeds or plan.seeds
        if f"models/{model.name}-{seed}" in made
    ]
    kinds = {a.kind for found in rows.values() for runs in found.answers.values() for run in runs.values() for a in run.values()}
    return Results(rows, trained, made, sorted(kinds))


def listens(row: Row) -> bool:
    """Whether a row may hear segments."""
    return row.mode is Mode.INTERLEAVED


def _correct(answer: Answer) -> float:
    return float(answer.correct)


def _answers(path: Path) -> Answers:
    return {sample.key: Answer.of(sample) for sample in read_lines(path)}


def _trained(folder: Path, verb: str) -> Trained:
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""  # a training too short to log
    lines = [json.loads(line) for line in text.splitlines()]
    told = [line for line in lines if "loss" in line]
    last = lines[-1] if lines else {}
    evaluated = [line for line in lines if "eval/score" in line]
    first_seen, last_seen = _means(told[:_ENDS]), _means(told[-_ENDS:])
    for seen, line in ((first_seen, evaluated[:1]), (last_seen, evaluated[-1:])):
        seen |= {"eval/score": line[0]["eval/score"]} if line else {}
    return Trained(folder.name, verb, int(last.get("step", 0)), float(last.get("elapsed_s", 0.0)), first_seen, last_seen)


def _means(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = {name for line in lines for name, value in line.items() if isinstance(value, int | float) and name != "eval/score"}
    return {n: round(plain.fmean(line[n] for line in lines if n in line), 6) for n in sorted(names)}
