"""`echo-audio grpo CONFIG key=value ...`: reinforcement learning over transcripts that listen again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from echo_audio.cli.arguments import Parser
from echo_audio.cli.console import console
from echo_audio.errors import ConfigError

if TYPE_CHECKING:
    from echo_audio.encoding import PromptingFamily
    from echo_audio.listen import Engine
    from echo_audio.training.grpo import Watch
    from echo_audio.training.grpo_settings import GrpoSettings

_COLUMNS = (
    ("step", "step", "d"),
    ("reward", "reward", ".3f"),
    ("right", "accuracy", ".2f"),
    ("formed", "parse_rate", ".2f"),
    ("segments", "segments", ".2f"),
    ("heard s", "heard_s", ".1f"),
    ("flat", "flat_share", ".2f"),
    ("KL", "kl", ".4f"),
    ("entropy", "entropy", ".3f"),
    ("gap", "gap", ".1e"),
    ("tokens/s", "tokens_per_s", ".0f"),
    ("s", "step_s", ".1f"),
)
_SHOWN = 12


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        prog="echo-audio grpo",
        description="Reinforcement learning: sample transcripts that listen again, reward them, raise what did better than "
        "its group. A run that was killed goes on where it was, mid-step too, when the same command is started again. Several "
        "GPUs: torchrun --nproc-per-node N -m echo_audio grpo CONFIG train.shard=true",
    )
    parser.add_argument("config", type=Path, help="a TOML file, e.g. configs/smoke-grpo.toml")
    parser.add_argument("override", nargs="*", help="settings on top of it: train.learning_rate=1e-6 out=runs/mine")
    parser.add_argument("--dry-run", action="store_true", help="show the resolved settings and stop")
    args = parser.parse_intermixed_args(arguments)
    try:
        text = args.config.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{args.config} cannot be read ({error.strerror}); the published ones are in configs/") from None
    from echo_audio.training.grpo_settings import GrpoSettings

    settings = GrpoSettings.parse(text, args.override)
    if args.dry_run:
        console().print(Text(settings.to_toml().strip(), "dim"), soft_wrap=True)
        return 0
    folder = _train(settings)
    if _is_first():
        console().print(Text(f"The model is in {folder}, the report in {settings.out}/report.html."), soft_wrap=True)
    return 0


def _is_first() -> bool:
    """Whether this process speaks: of those that torchrun started, the first."""
    return int(os.environ.get("RANK", "0")) == 0


def _train(settings: GrpoSettings) -> Path:
    from echo_audio.training.grpo import train

    try:
        with _watching(settings) as watch:
            return train(settings, evaluate=_on_held_out(settings) if settings.eval.every else None, watch=watch)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Start the same command again: {settings.out} goes on where it stopped.") from None


def _on_held_out(settings: GrpoSettings) -> Callable[[Engine, PromptingFamily], Mapping[str, float]]:
    """Scores on scenes of the training sounds that are never trained on; the published test split stays unseen."""
    from echo_audio.data.stock import make_stock
    from echo_audio.evaluation.run import How, evaluate
    from echo_audio.evaluation.scenes import score

    items = _held_out(settings, make_stock(settings.data.banks))

    def scores(engine: Engine, family: PromptingFamily) -> dict[str, float]:
        how = How(settings.rollout.mode, limits=settings.rollout.limits)
        samples = asyncio.run(evaluate(items, engine, family, how, in_flight=settings.rollout.in_flight))
        found = score(samples)
        return {
            "score": found.accuracy.value,
            "parse_rate": found.well_formed.value,
            "segments": found.n_heard.value,
            "heard_s": found.heard_s.value,
        }

    return scores


def _held_out(settings: GrpoSettings, stock: Any) -> Any:
    from echo_audio.data.scene import Split
    from echo_audio.data.scenes import KIND_NAMES, default_weights, draw_row, plan
    from echo_audio.evaluation.scenes import SceneItems

    if settings.eval.seed == settings.data.seed:
        raise ConfigError("eval.seed is data.seed: the held-out questions would be trained on; change one of them")
    weights = default_weights(stock, Split.TEST)  # of the questions of a test; the sounds are those of training
    kinds, durations_s = plan(settings.eval.seed, settings.eval.n, Split.TRAIN, weights)

    class HeldOut(SceneItems):
        """Scenes of the training split with a seed of their own."""

        def row(self, index: int) -> Any:
            kind, longest_s = KIND_NAMES[int(kinds[index])], settings.data.longest_s
            return draw_row(self.seed, index, Split.TRAIN, self.stock, kind, min(float(durations_s[index]), longest_s))

    return HeldOut(stock, settings.eval.n, seed=settings.eval.seed)


@contextmanager
def _watching(settings: GrpoSettings) -> Iterator[Watch]:
    """A table that grows on a terminal; elsewhere a line a step. Alarms are said once, when they begin."""
    from echo_audio.training.grpo import Watch

    where = console(to_stderr=True)
    lines: list[dict[str, Any]] = []
    ringing: set[str] = set()
    live = Live(console=where, auto_refresh=False) if where.is_terminal else None

    def stepped(line: dict[str, Any]) -> None:
        lines.append(line)
        for alarm in line.get("alarms", ()):
            if alarm.partition(":")[0] not in ringing:
                where.print(Text(f"Alarm, step {line['step']}: {alarm}", "yellow"), soft_wrap=True)
        ringing.clear()
        ringing.update(alarm.partition(":")[0] for alarm in line.get("alarms", ()))
        if live is None:
            where.print(Text(_sentence(line)), soft_wrap=True)
        else:
            live.update(_table(settings, lines), refresh=True)

    def sampled(step: int, done: int, total: int) -> None:
        if live is not None:
            live.update(_table(settings, lines, f"step {step + 1}: {done} of {total} transcripts"), refresh=True)

    if not _is_first():
        yield Watch()
    elif live is None:
        yield Watch(stepped=stepped)
    else:
        with live:
            yield Watch(sampled, stepped)


def _table(settings: GrpoSettings, lines: Sequence[dict[str, Any]], now: str = "") -> Table:
    title = f"{settings.name}, {settings.train.steps} steps"
    table = Table(title=title, title_justify="left", caption=now, caption_justify="left")
    for name, _, _ in _COLUMNS:
        table.add_column(name, justify="right")
    for line in lines[-_SHOWN:]:
        table.add_row(*(format(line[key], form) if key in line else "" for _, key, form in _COLUMNS))
    return table


def _sentence(line: dict[str, Any]) -> str:
    known = [f"{name} {line[key]:{form}}" for name, key, form in _COLUMNS if key in line]
    return ", ".join([*known, *(f"held-out {line[key]:.3f}" for key in ("eval/score",) if key in line)])
