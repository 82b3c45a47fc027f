"""Stage 2: GRPO over transcripts that listen again (paper, section 2).

A step: draw prompts, sample a group of transcripts of each by `listen`, reward them, and raise what did better than its
group. The run folder holds config.toml, metrics.jsonl, transcripts.jsonl, report.html, checkpoints/, rollouts/, best/ and
at the end model/. A run that was killed goes on where it was when it is started again, mid-step too.
"""

from __future__ import annotations

import gc
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from echo_audio.data.stock import make_stock
from echo_audio.encoding import PromptingFamily
from echo_audio.errors import ConfigError, EchoError, TrainingError
from echo_audio.listen import Engine
from echo_audio.training import grpo_metrics, grpo_report
from echo_audio.training.advantages import group_advantages
from echo_audio.training.folder import claimed
from echo_audio.training.gains import Gain, Gains
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.grpo_state import Checkpoints, Position, drop_after, export, write_evidence
from echo_audio.training.losses import Diagnostics
from echo_audio.training.parallel import Crew
from echo_audio.training.policy import Reference, make_policy
from echo_audio.training.prompts import DrawnRows, Place, Prompt, Prompts, StoredRows
from echo_audio.training.rollouts import Key, Rollout, RolloutLog, Sampler, rewarded
from echo_audio.training.sync import sampling_of
from echo_audio.training.tracker import Tracker
from echo_audio.training.update import Learned, Updater, learned

_PHASES = ("rollout", "reward", "logprobs", "update", "sync", "eval")

Evaluate = Callable[[Engine, PromptingFamily], Mapping[str, float]]
"""Scores of a model on questions it is not trained on; `score` is the one by which the best is kept."""


def _nothing(*_: object) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told while a run goes on.

    Args:
        sampled: step, transcripts done, transcripts in all, on this process.
        stepped: each new line of metrics.jsonl.
    """

    sampled: Callable[[int, int, int], None] = _nothing
    stepped: Callable[[dict[str, Any]], None] = _nothing


def train(settings: GrpoSettings, *, evaluate: Evaluate | None = None, watch: Watch | None = None) -> Path:
    """Run, or resume, a GRPO training.

    Args:
        evaluate: called every `eval.every` steps.
        watch: told what happens.

    Returns:
        The folder of the trained model.

    Raises:
        TrainingError: a loss, a gradient or a weight is not finite, and nothing broken was saved; or the folder is another
            run's.
        ConfigError: the settings do not fit the number of processes.
    """
    crew = Crew()
    with claimed(Path(settings.out), settings.to_toml(), first=crew.first):
        crew.wait()
        run = GrpoRun(settings, crew, evaluate, watch or Watch())
        try:
            return run.run()
        finally:
            run.close()


@dataclass
class Group:
    """The transcripts of one prompt, with their advantages."""

    rollouts: list[Rollout]
    advantages: list[float]
    flat: bool


class GrpoRun:
    """One run on one of its processes.

    Args:
        settings: of the run.
        crew: its processes.
        evaluate, watch: see `train`.
    """

    def __init__(self, settings: GrpoSettings, crew: Crew, evaluate: Evaluate | None, watch: Watch) -> None:
        _check_crew(settings, crew)
        self.settings, self.crew, self.evaluate, self.watch = settings, crew, evaluate, watch
        self.out = Path(settings.out)
        self.policy = make_policy(settings, crew)
        self.family = self.policy.thinker.family
        reference = Reference(self.policy, settings, crew) if settings.loss.kl_weight else None
        self.updater = Updater(self.policy, reference, settings, crew)
        self.checkpoints = Checkpoints(self.out / "checkpoints", crew)
        self.position = self.checkpoints.load(self.updater)
        self.sampling = sampling_of(self.policy, settings, crew)
        self.sampler = Sampler(self.sampling.engine, self.sampling.thinker, settings.rollout, settings.train.seed)
        self.prompts = _prompts(settings, self.family)
        self.ended = self._is_last(self.position.steps, self.position.elapsed_s)
        self.lines = self._take_up()
        self.tracker = Tracker(settings.name, settings.model_dump(mode="json"), enabled=settings.train.track and crew.first)
        self.spent_s: dict[str, float] = defaultdict(float)
        self.n_reused = 0

    def _take_up(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to the checkpoint; what was logged after it is done once more."""
        lines = list[dict[str, Any]]()
        if self.crew.first:
            drop_after(self.out / "transcripts.jsonl", self.position.steps)
            lines = drop_after(self.out / "metrics.jsonl", self.position.steps)
        self.crew.wait()
        return lines

    def run(self) -> Path:
        """All steps that are left, then the model folder."""
        gc.collect()
        gc.freeze()  # what has been loaded stays, and is not looked through again while transcripts come and go
        self.sampling.sync()
        if not self.position.steps:
            before = self.crew.gathered([line["eval/score"] for line in self.lines if "eval/score" in line])[0]
            if before:  # evaluated already, and killed before its first checkpoint
                self.position = Position(best=before[0])
            else:
                self._evaluate_first()
        while not self.ended:
            self.step()
        export(self.policy, self.out / "model", self.settings.model, self.crew)
        if self.crew.first:
            grpo_report.write(self.out)
        self.tracker.finish()
        return self.out / "model"

    def _is_last(self, steps: int, elapsed_s: float) -> bool:
        """Whether so many steps, or so many seconds, are all that is wanted."""
        return steps >= self.settings.train.steps or self._share_of_time(elapsed_s) >= 1.0

    def _share_of_time(self, elapsed_s: float) -> float:
        limit_s = self.settings.train.max_seconds
        return elapsed_s / limit_s if limit_s else 0.0

    def close(self) -> None:
        """Stop the engine."""
        gc.unfreeze()
        self.prompts.close()
        self.sampling.close()

    def step(self) -> dict[str, Any]:
        """One step, with all that is written of it.

        Raises:
            TrainingError: something is not finite; the step's evidence was saved.
        """
        began, step = time.monotonic(), self.position.steps
        self.spent_s.clear()
        self.updater.share_of_time = self._share_of_time(self.position.elapsed_s)
        groups, n_replaced = self.sample(step)
        items = [[learned(r, a, self.family.token_bytes) for r, a in zip(g.rollouts, g.advantages, strict=True)] for g in groups]
        try:
            line = self._learn(step, groups, items)
        except EchoError as error:
            raise TrainingError(f"{error}; {self._evidence(step, items)}") from error
        with self._timed("sync"):
            self.sampling.sync()
        spent_s = self.crew.most(time.monotonic() - began)  # clocks differ, and all must agree on which step is the last
        self.ended = self._is_last(step + 1, self.position.elapsed_s + spent_s)
        line |= self._rollout_line(groups, n_replaced) | self._evaluated(step + 1)
        elapsed_s = self.position.elapsed_s + self.crew.most(time.monotonic() - began)
        best = max((s for s in (self.position.best, line.get("eval/score")) if s is not None), default=None)
        self.position = Position(step + 1, self.updater.n_updates, best, elapsed_s)
        line |= self._times(line, time.monotonic() - began, elapsed_s)
        self._write(step, line, groups)
        self._save(step + 1)
        return line

    # ------------------------------------------------------------------------------------------ sampling

    def sample(self, step: int) -> tuple[list[Group], int]:
        """The groups of this process, and how many had no variance and were replaced."""
        how, places = self.settings.rollout, self._places(step)
        log = RolloutLog(self._rollout_file(step), (~self.policy.thinker.allowed).nonzero()[:, 0].tolist())
        self.n_reused = log.n_before
        chosen: dict[int, Group] = {}
        n_replaced = 0
        for attempt in range(how.resample + 1):
            groups = self._groups(places, log, step)
            n_replaced += sum(slot in chosen for slot in groups)
            chosen |= groups
            places = [Place(step, slot, attempt + 1) for slot, group in groups.items() if group.flat]
            if not places:
                break
        if not self._is_last(step + 1, self.position.elapsed_s):
            self.prompts.prepare(self._places(step + 1))
        return [chosen[slot] for slot in sorted(chosen)], n_replaced

    def _places(self, step: int) -> list[Place]:
        """What this process asks at first in a step."""
        return [Place(step, slot) for slot in range(self.crew.rank, self.settings.rollout.prompts, self.crew.size)]

    def _groups(self, places: list[Place], log: RolloutLog, step: int) -> dict[int, Group]:
        size = self.settings.rollout.group
        wanted = len(log.done) + sum(Key(p.slot, p.attempt, i) not in log.done for p in places for i in range(size))
        with self._timed("rollout"):
            prompts = [self.prompts.at(place) for place in places]
            self.sampler.sample(prompts, log, lambda: self.watch.sampled(step, len(log.done), wanted))
        groups: dict[int, Group] = {}
        with self._timed("reward"):
            reward, gains = self.settings.reward.reward, self._gains(prompts, log)
            for prompt in prompts:
                keys = _keys(prompt, size)
                rollouts = [rewarded(prompt, key, log.done[key], reward, self.family, gains.get(key)) for key in keys]
                totals = torch.tensor([[rollout.reward.total for rollout in rollouts]], dtype=torch.float64)
                made = group_advantages(totals, self.settings.train.scale)
                groups[prompt.place.slot] = Group(rollouts, made.values[0].tolist(), bool(made.flat[0]))
        return groups

    def _gains(self, prompts: Sequence[Prompt], log: RolloutLog) -> dict[Key, Gain]:
        """What `audio_gain` looks at, where it is paid for."""
        if not any(name == "audio_gain" for name, _ in self.settings.reward.reward.weights):
            return {}
        train = self.settings.train
        asked = [(prompt, key) for prompt in prompts for key in _keys(prompt, self.settings.rollout.group)]
        measure = Gains(self.sampling.thinker, train.bf16, train.batch_tokens).measure
        return dict(zip((k for _, k in asked), measure([(p, log.done[k]) for p, k in asked]), strict=True))

    def _rollout_file(self, step: int) -> Path:
        return self.out / "rollouts" / f"{step:06d}-{self.crew.rank}.jsonl"

    # ------------------------------------------------------------------------------------------ learning

    def _learn(self, step: int, groups: list[Group], items: list[list[Learned]]) -> dict[str, Any]:
        with self._timed("logprobs"):
            self.updater.score([item for group in items for item in group])
        with self._timed("update"):
            outcomes = self.updater.update(items, step)
        seen = outcomes[0].seen
        for outcome in outcomes[1:]:
            seen = seen + outcome.seen
        return {"step": step + 1, **grpo_metrics.update_metrics(outcomes, self._over_all(seen))}

    def _over_all(self, seen: Diagnostics) -> Diagnostics:
        """The sums over all processes."""
        names = [f.name for f in fields(seen) if f.name != "gap_max"]
        sums = self.crew.total([float(getattr(seen, name)) for name in names])
        values = dict(zip(names, sums, strict=True)) | {"gap_max": self.crew.most(float(seen.gap_max))}
        return Diagnostics(**{name: torch.tensor(value) for name, value in values.items()})

    def _evidence(self, step: int, items: list[list[Learned]]) -> str:
        """Put down what the step that failed had to learn from."""
        place = self.out / "evidence" / f"{step:06d}-{self.crew.rank}.jsonl"
        write_evidence(place, [item for group in items for item in group])
        return (
            f"its transcripts are in {self._rollout_file(step)}, its log-probabilities in {place}. No checkpoint of it was "
            "written: lower train.learning_rate in another `out`, or look for the transcript that does it"
        )

    # ------------------------------------------------------------------------------------------ telling

    def _rollout_line(self, groups: list[Group], n_replaced: int) -> dict[str, Any]:
        mine = [rollout for group in groups for rollout in group.rollouts]
        sums = grpo_metrics.rollout_sums(mine) | {"flat": float(sum(g.flat for g in groups)), "replaced": float(n_replaced)}
        sums["groups"], sums["reused"] = float(len(groups)), float(self.n_reused)
        kinds = grpo_metrics.kind_counts([(group.rollouts, group.flat) for group in groups])
        everyone = self.crew.gathered((sums, grpo_metrics.heard_by_prompt(mine), kinds))
        heard = {prompt: segments for _, some, _ in everyone for prompt, segments in some.items()}
        names = {name: None for some, _, _ in everyone for name in some}
        total = {name: sum(some.get(name, 0.0) for some, _, _ in everyone) for name in names}
        counts = {name: total.pop(name) for name in ("flat", "replaced", "groups", "reused")}
        by_kind = grpo_metrics.kind_metrics([counts for _, _, counts in everyone])
        return grpo_metrics.means(total) | by_kind | {
            "same_segment": grpo_metrics.most_common_segment(heard),
            "flat_groups": counts["flat"],
            "flat_share": (counts["flat"] + counts["replaced"]) / (counts["groups"] + counts["replaced"]),
            "replaced_groups": counts["replaced"],
            "reused_rollouts": counts["reused"],
        }

    def _times(self, line: dict[str, Any], step_s: float, elapsed_s: float) -> dict[str, float]:
        phases = {f"{name}_s": round(self.spent_s[name], 3) for name in _PHASES}
        new = line["rollouts"] - line["reused_rollouts"]  # the others were sampled before this start
        sampled = line["tokens"] * new / max(1e-9, self.spent_s["rollout"])
        memory = {}
        if self.crew.device.type == "cuda":
            memory = {"peak_gb": round(torch.cuda.max_memory_reserved(self.crew.device) / 1e9, 2)}
            torch.cuda.reset_peak_memory_stats(self.crew.device)
        return phases | memory | {"step_s": round(step_s, 3), "elapsed_s": round(elapsed_s, 3), "tokens_per_s": round(sampled, 1)}

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.spent_s[phase] += time.monotonic() - began

    def _write(self, step: int, line: dict[str, Any], groups: list[Group]) -> None:
        """The step's line, and now and then some of its transcripts and a new page."""
        if not self.crew.first:
            return
        self.lines.append(line)
        told = [known for known in self.lines if "reward" in known]
        line["alarms"] = grpo_metrics.alarms(told, self.settings.alarm, self.settings.rollout.mode)
        _append(self.out / "metrics.jsonl", line)
        self.tracker.log({name: value for name, value in line.items() if isinstance(value, float)})
        if step % self.settings.report.every == 0 or self.ended:
            pairs = [pair for group in groups for pair in zip(group.rollouts, group.advantages, strict=True)]
            for rollout, advantage in pairs[:: self.settings.rollout.group][: self.settings.report.samples]:
                _append(self.out / "transcripts.jsonl", grpo_metrics.sample_line(step + 1, rollout, advantage))
            if not self.ended:  # it is written once more at the end
                grpo_report.write(self.out)
        self.watch.stepped(line)

    def _save(self, steps: int) -> None:
        """A checkpoint when it is time; rollouts of steps before it are not needed any more."""
        if steps % self.settings.train.save_every and not self.ended:
            return
        self.checkpoints.save(self.updater, self.position)
        for path in (self.out / "rollouts").glob(f"*-{self.crew.rank}.jsonl"):
            if int(path.name.split("-")[0]) < steps:
                path.unlink()

    # ------------------------------------------------------------------------------------------ evaluation

    def _evaluate_first(self) -> None:
        """How good the model is before it learns, and on every process, for all must agree on what is the best."""
        scores = self._evaluated(0)
        if not scores:
            return
        self.position = Position(best=scores["eval/score"])
        if self.crew.first:
            self.lines.append({"step": 0, **scores})
            _append(self.out / "metrics.jsonl", self.lines[-1])
            self.watch.stepped(self.lines[-1])

    def _evaluated(self, steps: int) -> dict[str, float]:
        """Scores after so many steps, where it is time; the best model so far is kept in best/."""
        every = self.settings.eval.every
        if self.evaluate is None or not every or (steps % every and not self.ended):
            return {}
        with self._timed("eval"):
            scores: dict[str, float] = {}
            if self.crew.first:
                scores = {f"eval/{name}": float(v) for name, v in self.evaluate(self.sampling.engine, self.family).items()}
            scores = self.crew.gathered(scores)[0]
            if self.position.best is None or scores["eval/score"] > self.position.best:
                export(self.policy, self.out / "best", self.settings.model, self.crew)
                if self.crew.first:
                    about = json.dumps({"step": steps, "score": scores["eval/score"]})
                    (self.out / "best" / "best.json").write_text(about + "\n", encoding="utf-8")
        return scores


def _keys(prompt: Prompt, size: int) -> list[Key]:
    """The transcripts of a prompt's group."""
    return [Key(prompt.place.slot, prompt.place.attempt, number) for number in range(size)]


def _check_crew(settings: GrpoSettings, crew: Crew) -> None:
    prompts = settings.train.mini_batch or settings.rollout.prompts
    if prompts % crew.size:
        raise ConfigError(f"{prompts} prompts of an update cannot be shared among {crew.size} processes; give a multiple")


def _prompts(settings: GrpoSettings, family: Any) -> Prompts:
    rows = StoredRows(settings.data) if settings.data.store else DrawnRows(settings.data, family, make_stock(settings.data.banks))
    return Prompts(rows, settings.data.seed, settings.rollout.prompts)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
