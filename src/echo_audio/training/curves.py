"""A run as a picture: metrics.jsonl -> curves.svg."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure

_PANELS = (
    ("loss per token", ("token_loss", "sounds_loss", "clock_loss"), "log"),
    ("tokens right", ("token_accuracy", "answer_accuracy"), "linear"),
    ("rows per second", ("rows_per_s",), "linear"),
    ("learning rate", ("learning_rate",), "linear"),
)


def draw(metrics: Path, picture: Path) -> None:
    """Draw the curves of a run over its steps; nothing is drawn of a run without metrics."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.is_file() else []
    if not lines:
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    figure.suptitle(f"{metrics.parent.name}: {lines[-1]['step']} steps, {lines[-1]['elapsed_s'] / 60:.1f} minutes")
    for axes, (title, names, scale) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line and (line[name] > 0 or scale == "linear")]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axes.set(title=title, xlabel="step", yscale=scale)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize="small")
    figure.savefig(picture)
