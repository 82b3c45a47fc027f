"""The page of an ablation, in Markdown: tables made of what the run folders hold, and of nothing else. Pure."""

from __future__ import annotations

import statistics as plain
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from echo_audio.evaluation.ablation import Plan, Row
from echo_audio.evaluation.ablation_results import Answer, Found, Results, Trained, listens
from echo_audio.evaluation.scenes import TEST_SEED
from echo_audio.evaluation.statistics import Difference
from echo_audio.transcript import Played

Commands = Sequence[tuple[str, str]]
"""Name and text of every command of the plan."""


def page(plan: Plan, found: Results, command: str, commands: Commands) -> str:
    """The whole page.

    Args:
        found: what is there; what is not is named at the end.
        command: what made the page.
    """
    rows = [row for row in plan.rows if row.name in found.rows]
    parts = [
        _head(plan, found, command),
        _rows("Rows", [row for row in rows if row.part == "rows"], found, listening=True),
        _pairs(plan, found),
        _counterfactuals(rows, found),
        _kinds(plan, rows, found),
        _rows("What each reward does", [row for row in rows if row.part == "rewards"], found, listening=False),
        _trained(found.trained),
        _made(found, commands),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(plan: Plan, found: Results, command: str) -> str:
    split = "the published test split" if plan.eval.seed in (None, TEST_SEED) else f"scenes of seed {plan.eval.seed}"
    machines = sorted({_machine(known) for known in found.made.values()})
    lines = [
        f"# Results of {plan.name}",
        f"Made by `{command}` from what is in its run folders. Machine: {'; '.join(machines) or 'none yet'}.",
        f"{plan.eval.n:,} questions of {split}, greedy. Percent right are means over seeds, with 95 % intervals that take each "
        "question once (bootstrap over questions of the mean over seeds); differences are paired by question and seed, p by "
        "sign flips over questions. So the intervals tell of other questions, the column of seeds tells of other trainings.",
    ]
    return "\n\n".join(lines)


def _machine(known: Mapping[str, Any]) -> str:
    gpus = known.get("gpus") or ["no GPU"]
    return f"{len(gpus)} x {gpus[0]}, {known.get('cores')} CPU cores" if known.get("gpus") else f"{known.get('cores')} CPU cores"


def _rows(title: str, rows: Sequence[Row], found: Results, *, listening: bool) -> str:
    if not rows:
        return ""
    numbers: list[tuple[str, Callable[[Answer], float | None], str]] = [
        ("well formed, %", lambda a: 100.0 * a.well_formed, ".1f"),
        ("IoU", lambda a: a.iou, ".3f"),
        ("words", lambda a: a.n_words, ".1f"),
        ("tokens", lambda a: a.n_tokens, ".0f"),
        ("cited", lambda a: a.n_cited, ".2f"),
        ("heard", lambda a: a.n_heard, ".2f"),
        ("seconds heard", lambda a: a.heard_s, ".2f"),
    ]
    timed = any(found.rows[row.name].latency_s for row in rows)
    head = ["row", "what", *(["listening"] if listening else []), "right, %", "seeds", *(name for name, _, _ in numbers)]
    lines = [_line([*head, *(["median seconds, alone"] if timed else [])]), _rule(len(head) + timed, left=2 + listening)]
    for row in rows:
        one = found.rows[row.name]
        each = ", ".join(f"{100 * share:.1f}" for share in one.by_seed().values())
        accuracy = one.accuracy()
        right = f"{100 * accuracy.value:.1f} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})"
        means = (_number(one.mean(value), form) for _, value, form in numbers)
        late = [_number(plain.median(one.latency_s) if one.latency_s else None, ".2f")] if timed else []
        lines.append(_line([row.name, row.about, *([str(row.mode)] if listening else []), right, each, *means, *late]))
    return f"## {title}\n\n" + "\n".join(lines)


def _pairs(plan: Plan, found: Results) -> str:
    lines: list[str] = []
    for first, second in plan.pairs:
        test = found.compare(first, second)
        if test is not None:
            lines.append(_line([f"{second} minus {first}", _points(test), _p(test), str(test.n)]))
    if not lines:
        return ""
    head = [_line(["difference", "points (95 %)", "p", "questions"]), _rule(4, left=1)]
    return "## Rows against each other\n\n" + "\n".join([*head, *lines])


def _counterfactuals(rows: Sequence[Row], found: Results) -> str:
    """What a wrong segment costs, where any is heard."""
    wrong = [played for played in Played if played is not Played.CROP]
    lines: list[str] = []
    for row in rows:
        if not listens(row) or len(row.played) < 2 or Played.CROP not in row.played:
            continue
        cells = [row.name, f"{100 * found.rows[row.name].accuracy().value:.1f}"]
        for played in wrong:
            test = found.compare(row.name, f"{row.name}:{played}") if played in row.played else None
            right = "" if test is None else f"{100 * found.rows[row.name].accuracy(played).value:.1f}: "
            cells.append("" if test is None else f"{right}{_points(test)}, {_p(test)}")
        lines.append(_line(cells))
    if not lines:
        return ""
    head = [_line(["row", "as it is", *map(str, wrong)]), _rule(2 + len(wrong), left=1)]
    return (
        "## Does it use what it hears again?\n\nPercent right when nothing is played for a segment, silence, or another "
        "recording, and what that costs.\n\n" + "\n".join([*head, *lines])
    )


def _kinds(plan: Plan, rows: Sequence[Row], found: Results) -> str:
    shown = [row.name for row in rows if row.part == "rows"]
    gains = [(a, b) for a, b in plan.gains if found.compare(a, b) is not None]
    if not shown or not found.kinds:
        return ""
    head = ["kind", "questions", *shown, *(f"{b} minus {a}" for a, b in gains)]
    lines = [_line(head), _rule(len(head), left=1)]
    gaining: dict[str, list[str]] = {f"{b} minus {a}": [] for a, b in gains}
    for kind in found.kinds:
        cells = [kind, str(_n_of(found.rows[shown[0]], kind)), *(_share(found.rows[name], kind) for name in shown)]
        for first, second in gains:
            test = found.compare(first, second, kind)
            cells.append("" if test is None or not test.n else f"{_points(test)}, {_p(test)}")
            if test is not None and test.n and test.low > 0 and test.p_value * len(found.kinds) < 0.05:
                gaining[f"{second} minus {first}"].append(kind)
        lines.append(_line(cells))
    told = [f"- {name}: {', '.join(kinds) if kinds else 'none'}." for name, kinds in gaining.items()]
    said = f"Kinds that gain, with p below 0.05 after correction for {len(found.kinds)} kinds:\n\n" + "\n".join(told)
    return "## By kind of question\n\n" + "\n".join(lines) + (f"\n\n{said}" if told else "")


def _of_kind(found: Found, kind: str) -> list[str]:
    run = next(iter(found.answers.values()))[Played.CROP]
    return [key for key in found.questions() if run[key].kind == kind]


def _n_of(found: Found, kind: str) -> int:
    return len(_of_kind(found, kind))


def _share(found: Found, kind: str) -> str:
    values = found.by_question(_of_kind(found, kind), lambda a: float(a.correct))
    return f"{100 * plain.fmean(values):.0f}" if values else ""


_WATCHED = (
    ("reward", ".3f"),
    ("accuracy", ".3f"),
    ("eval/score", ".3f"),
    ("flat_share", ".2f"),
    ("segments", ".2f"),
    ("kl", ".4f"),
    ("entropy", ".3f"),
)


def _trained(trained: Sequence[Trained]) -> str:
    tables: list[str] = []
    taught = [one for one in trained if one.verb == "grpo"]
    if taught:
        head = ["training", "steps", "seconds", *(name.replace("eval/score", "held-out") for name, _ in _WATCHED)]
        lines = [_line(head), _rule(len(head), left=1)]
        for one in taught:
            moved = (
                f"{_number(one.first.get(name), form)} to {_number(one.last.get(name), form)}" if name in one.last else ""
                for name, form in _WATCHED
            )
            lines.append(_line([one.name, str(one.steps), f"{one.elapsed_s:.0f}", *moved]))
        about = "Means over the first and the last five steps; `accuracy` is that of sampled answers about training scenes."
        tables.append(f"Reinforcement learning. {about}\n\n" + "\n".join(lines))
    shown = [one for one in trained if one.verb == "sft"]
    if shown:
        head = ["training", "steps", "seconds", "loss", "answer tokens right"]
        lines = [_line(head), _rule(len(head), left=1)]
        for one in shown:
            last = (_number(one.last.get("loss"), ".4f"), _number(one.last.get("answer_accuracy"), ".3f"))
            lines.append(_line([one.name, str(one.steps), f"{one.elapsed_s:.0f}", *last]))
        tables.append("Supervised training; means over the last five lines of its metrics.\n\n" + "\n".join(lines))
    return "## Trainings\n\n" + "\n\n".join(tables) if tables else ""


def _made(found: Results, commands: Commands) -> str:
    done = [(name, text) for name, text in commands if name in found.made]
    missing = [name for name, _ in commands if name not in found.made]
    said = "\n".join(f"{text}  # {found.made[name]['seconds']:.0f} s" for name, text in done)
    left = f"\n\nNot done: {', '.join(missing)}." if missing else ""
    return f"## Commands\n\nSeconds are those of the whole command, beside others.\n\n```sh\n{said}\n```{left}"


def _points(test: Difference) -> str:
    return f"{100 * test.value:+.1f} ({100 * test.low:+.1f} to {100 * test.high:+.1f})"


def _p(test: Difference) -> str:
    return "p 0.0001 or less" if test.p_value <= 1e-4 else f"p {test.p_value:.2g}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rule(n: int, left: int) -> str:
    return "|" + "---|" * left + "---:|" * (n - left)
