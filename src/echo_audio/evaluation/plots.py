"""The pictures of a report: numbers -> SVG. Names from data files are drawn as they are, never read as formulas."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure


def svg(figure: Figure) -> str:
    """The figure as an <svg> element; equal figures give equal text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "echo", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)


def plain(text: str) -> str:
    """A name that matplotlib draws letter by letter, cut to 40."""
    return (text if len(text) <= 40 else text[:39] + "…").replace("$", r"\$")


def accuracies(title: str, groups: Mapping[str, Mapping[str, Any]], chance: float | None = None) -> str:
    """A row for each group: official accuracy with its interval, the strict one as a ring."""
    names = list(groups)
    figure = Figure(figsize=(6.4, 0.9 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(reversed(names)):
        official, strict = groups[name]["official"], groups[name]["strict"]
        axes.plot([100 * official["low"], 100 * official["high"]], [y, y], color="#2b5fd9", linewidth=2, alpha=0.5)
        axes.plot(100 * official["value"], y, "o", color="#2b5fd9", markersize=5)
        axes.plot(100 * strict["value"], y, "o", color="#1d2433", markersize=8, fillstyle="none")
    axes.set_yticks(range(len(names)), [f"{plain(name)} ({groups[name]['official']['n']})" for name in reversed(names)])
    axes.set(title=title, xlim=(-1, 101), xlabel="% right: official with 95 % interval, strict as a ring")
    axes.set_ylim(-0.6, len(names) - 0.4)
    if chance is not None:
        axes.axvline(100 * chance, color="#b3362b", linewidth=1, linestyle=":")
    axes.grid(axis="x", alpha=0.3)
    return svg(figure)


def bars(title: str, values: Sequence[float], labels: Sequence[str], xlabel: str, ylabel: str) -> str:
    """A bar for each value."""
    figure = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(values)), values, width=0.9, align="edge", color="#2b5fd9")  # a label stands where its tenth begins
    axes.set_xticks(range(len(values)), [plain(label) for label in labels], fontsize=8)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y", alpha=0.3)
    return svg(figure)


def attention(numbers: Mapping[str, Any]) -> str:
    """Attention on audio over the course of the reasonings: first hearing and heard again, dotted what even attention gives."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    over, layers = figure.subplots(1, 2, sharey=True)
    for name, label, colour in (("first", "first hearing", "#2b5fd9"), ("again", "heard again", "#b3362b")):
        by_tenth, even = numbers["by_tenth"][name], numbers["by_tenth"]["uniform"][name]
        tenths = [10 * i + 5 for i in range(len(by_tenth))]
        over.plot(tenths, [100 * mass for mass in by_tenth], "o-", color=colour, markersize=3, label=label)
        over.plot(tenths, [100 * mass for mass in even], ":", color=colour, linewidth=1)
        by_layer = numbers["by_layer"][name]
        layers.plot(range(1, len(by_layer) + 1), [100 * mass for mass in by_layer], "o-", color=colour, markersize=3)
    over.set(xlabel="% into the reasoning", ylabel="% of attention", ylim=(0, None))
    over.legend(fontsize=8)
    layers.set(xlabel="layer")
    for axes in (over, layers):
        axes.grid(alpha=0.3)
    figure.suptitle("attention on audio while writing (dotted: even attention)", fontsize=9)
    return svg(figure)
