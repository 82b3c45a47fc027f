"""The plan of an ablation: models that are trained, rows that are scored, and the commands that make them. Pure.

In the folder of the plan, `models/NAME-SEED` is the run folder of a model, `rows/NAME-SEED` the samples of a row, a file for
each way of playing segments, and `latency/NAME-SEED` some of the questions asked one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from echo_audio.errors import ConfigError
from echo_audio.settings import Settings
from echo_audio.transcript import Mode, Played

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$", max_length=40)]
Kind = Literal["sft", "grpo", "eval", "latency"]


class AtOnce(Settings):
    """How many commands of a kind fill a GPU, or a machine without; different kinds share it in these proportions.

    Attributes:
        sft, grpo, eval: of this kind at once, if no other kind runs.
    """

    sft: int = Field(default=1, ge=1)
    grpo: int = Field(default=1, ge=1)
    eval: int = Field(default=1, ge=1)


class Seconds(Settings):
    """How long each training takes at most (its `train.max_seconds`); 0 for no limit."""

    sft: float = Field(default=0.0, ge=0)
    grpo: float = Field(default=0.0, ge=0)


class Overrides(Settings):
    """Settings given to all models of a verb, after their own."""

    sft: tuple[str, ...] = ()
    grpo: tuple[str, ...] = ()


class Model(Settings):
    """One training for each seed.

    Attributes:
        name: of the model; rows and other models name it.
        verb: what trains it.
        config: its TOML file, from the working folder.
        start: where it starts: another model of the plan (the same seed, or its only one), a folder, "tiny" for the shipped
            weights; empty for the plan's start.
        overrides: settings on top; `{seed}` stands for the seed.
        seeds: empty for those of the plan.
    """

    name: Name
    verb: Literal["sft", "grpo"]
    config: str
    start: str = ""
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


class Row(Settings):
    """One line of the table.

    Attributes:
        name: of the row.
        about: what it is, in words.
        model: a model of the plan, a folder, "tiny" for the shipped weights, or "start" for the plan's start.
        take: its last weights, or the best by the evaluation during training.
        mode: how it listens.
        played: what is played for the segments it asks for; more than the crop are counterfactuals.
        latency: whether answers are timed one at a time too.
        part: the table it stands in.
        seeds: empty for those of its model.
    """

    name: Name
    about: str = ""
    model: str
    take: Literal["model", "best"] = "model"
    mode: Mode = Mode.INTERLEAVED
    played: tuple[Played, ...] = (Played.CROP,)
    latency: bool = False
    part: Literal["rows", "rewards"] = "rows"
    seeds: tuple[int, ...] = ()


class Asked(Settings):
    """What is asked of each row.

    Attributes:
        n: questions of the split.
        seed: of the split; none for the published one.
        in_flight: transcripts at once.
        latency_n: questions that are asked one at a time, nothing else running; 0 for none.
    """

    n: int = Field(default=1000, ge=1)
    seed: int | None = None
    in_flight: int = Field(default=64, ge=1)
    latency_n: int = Field(default=0, ge=0)


class Plan(Settings):
    """An ablation.

    Attributes:
        start: where the models start that name nothing.
        seeds: of every training that names none.
        pairs: rows that are tested against each other, first and second; `ROW:withheld` is a row under a counterfactual.
        gains: pairs that are looked at for each kind of question.
    """

    name: str = "ablation"
    out: str = "runs/ablation"
    start: str = "tiny"
    seeds: tuple[int, ...] = (1,)
    at_once: AtOnce = AtOnce()
    seconds: Seconds = Seconds()
    overrides: Overrides = Overrides()
    eval: Asked = Asked()
    models: tuple[Model, ...] = ()
    rows: tuple[Row, ...] = Field(min_length=1)
    pairs: tuple[tuple[str, str], ...] = ()
    gains: tuple[tuple[str, str], ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Self:
        for what, names in (("model", [m.name for m in self.models]), ("row", [r.name for r in self.rows])):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"there are two {what}s called {name!r}; rename one")
        known = {f"{row.name}:{played}" for row in self.rows for played in row.played} | {row.name for row in self.rows}
        for side in (side for pair in (*self.pairs, *self.gains) for side in pair):
            if side not in known:
                raise ValueError(f"a pair names {side!r}; there are {', '.join(sorted(known))}")
        self._ordered()
        return self

    def _ordered(self) -> None:
        before: set[str] = set()
        for model in self.models:
            if model.start in {m.name for m in self.models} - before:
                raise ValueError(f"the model {model.name!r} starts from {model.start!r}, which must stand before it")
            before.add(model.name)

    def model(self, name: str) -> Model | None:
        """The model of the plan with this name."""
        return next((model for model in self.models if model.name == name), None)

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """The seeds of a row; (0,) where its model is not trained here."""
        model = self.model(row.model)
        if model is None:
            return row.seeds or (0,)
        return row.seeds or model.seeds or self.seeds


@dataclass(frozen=True, slots=True)
class Job:
    """One command.

    Args:
        name: of the job: "models/D-1", "rows/D-1".
        kind: what limits how many run at once.
        command: arguments of `echo-audio`.
        folder: what it writes.
        needs: jobs that must be done before.
    """

    name: str
    kind: Kind
    command: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()


def jobs(plan: Plan) -> list[Job]:
    """Every command of the plan, each behind what it needs.

    Raises:
        ConfigError: a model or a row needs a seed that the model it starts from does not have.
    """
    out = Path(plan.out)
    made = [_training(plan, model, seed) for model in plan.models for seed in model.seeds or plan.seeds]
    scored = [_scoring(plan, row, seed) for row in plan.rows for seed in plan.seeds_of(row)]
    timed: list[Job] = []
    for row in plan.rows:
        if row.latency and plan.eval.latency_n:
            seed = plan.seeds_of(row)[0]
            folder = out / "latency" / f"{row.name}-{seed}"
            command = _asking(plan, row, seed, folder, (Played.CROP,), plan.eval.latency_n, 1)
            timed.append(Job(f"latency/{folder.name}", "latency", command, folder, _needs(plan, row.model, seed)))
    return [*made, *scored, *timed]


def row_folder(plan: Plan, row: Row, seed: int, *, latency: bool = False) -> Path:
    """Where the samples of a row are."""
    return Path(plan.out) / ("latency" if latency else "rows") / f"{row.name}-{seed}"


def model_folder(plan: Plan, name: str, seed: int) -> Path:
    """The run folder of a model of the plan."""
    return Path(plan.out) / "models" / f"{name}-{seed}"


def _training(plan: Plan, model: Model, seed: int) -> Job:
    folder = model_folder(plan, model.name, seed)
    limit_s: float = getattr(plan.seconds, model.verb)
    given = (
        f"name={model.name}-{seed}",
        f"out={folder}",
        f"model.source={_weights(plan, model.start or plan.start, seed, 'model')}",
        f"train.seed={seed}",
        *((f"train.max_seconds={limit_s:g}",) if limit_s else ()),
        *getattr(plan.overrides, model.verb),
        *model.overrides,  # last: what a model says of itself is what makes it differ from the others
    )
    command = (model.verb, model.config, *(text.replace("{seed}", str(seed)) for text in given))
    return Job(f"models/{folder.name}", model.verb, command, folder, _needs(plan, model.start or plan.start, seed))


def _scoring(plan: Plan, row: Row, seed: int) -> Job:
    folder = row_folder(plan, row, seed)
    command = _asking(plan, row, seed, folder, row.played, plan.eval.n, plan.eval.in_flight)
    return Job(f"rows/{folder.name}", "eval", command, folder, _needs(plan, row.model, seed))


def _asking(
    plan: Plan, row: Row, seed: int, folder: Path, played: tuple[Played, ...], n: int, in_flight: int
) -> tuple[str, ...]:
    model = str(_weights(plan, row.model, seed, row.take))
    split = () if plan.eval.seed is None else ("--seed", str(plan.eval.seed))
    ways = tuple(word for way in played for word in ("--played", str(way)))
    asked = ("--n", str(n), *split, "--mode", str(row.mode), "--in-flight", str(in_flight), *ways)
    return ("eval", "scenes", "--model", model, "--out", str(folder), *asked)


def _weights(plan: Plan, name: str, seed: int, take: str) -> str | Path:
    """What `--model` and `model.source` are given."""
    model = plan.model(name)
    if model is None:
        return plan.start if name == "start" else name
    return model_folder(plan, name, _seed_of(plan, model, seed)) / take


def _needs(plan: Plan, name: str, seed: int) -> tuple[str, ...]:
    model = plan.model(name)
    return () if model is None else (f"models/{name}-{_seed_of(plan, model, seed)}",)


def _seed_of(plan: Plan, model: Model, seed: int) -> int:
    """The seed of the model that a thing with this seed starts from."""
    seeds = model.seeds or plan.seeds
    if seed in seeds:
        return seed
    if len(seeds) == 1:
        return seeds[0]
    raise ConfigError(f"seed {seed} is wanted of the model {model.name}, which has {', '.join(map(str, seeds))}; add it there")
