"""A recording as a picture of text: its level over time, and below it the segments, each on a line of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.text import Text

from echo_audio.audio import Recording, Segment
from echo_audio.cli.console import is_utf, width_of

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")
_DEEPEST_DB = 48.0  # so far below the loudest column a column is empty
_SHALLOWEST_DB = 12.0  # a recording of even level is not magnified beyond this
_ROWS = 2
_STEPS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters to draw with.

    Args:
        levels: from nothing to a full cell.
        left, middle, right: of a bar.
        single: a bar of one column.
        tick, line: of the axis.
        heard: marks a segment that was heard.
        dash: between two times.
    """

    levels: str
    left: str
    middle: str
    right: str
    single: str
    tick: str
    line: str
    heard: str
    dash: str


UNICODE = Glyphs(" ▁▂▃▄▅▆▇█", "├", "─", "┤", "│", "┴", "─", "♪", "–")
ASCII = Glyphs(" .:-=+*%#", "[", "-", "]", "|", "+", "-", "*", "-")


def glyphs_for(where: Console) -> Glyphs:
    """Block characters where the terminal can show them."""
    return UNICODE if is_utf(where.encoding) else ASCII


@dataclass(frozen=True, slots=True)
class Bar:
    """A segment in the picture.

    Args:
        label: written beside it, after its times.
        style: its colour; also of the levels inside it.
    """

    segment: Segment
    label: str = ""
    style: str = ""


def colours_of(segments: Sequence[Segment]) -> dict[Segment, str]:
    """A colour for each different segment, in order of appearance."""
    different = dict.fromkeys(segments)
    return {segment: COLOURS[i % len(COLOURS)] for i, segment in enumerate(different)}


def draw(recording: Recording, bars: Sequence[Bar], where: Console) -> Text:
    """The picture, without a final line break."""
    glyphs = glyphs_for(where)
    n_columns = width_of(where) - 4
    styles = _column_styles(bars, recording.duration_s, n_columns)
    lines = [_level_row(row, levels_of(recording, n_columns), styles, glyphs) for row in reversed(range(_ROWS))]
    lines += _axis(recording.duration_s, n_columns, glyphs)
    lines += [line for bar in bars for line in _bar_lines(bar, recording.duration_s, n_columns, glyphs)]
    return Text("\n").join(Text("  ").append_text(line) for line in lines)


def levels_of(recording: Recording, n_columns: int) -> list[int]:
    """Height of each column in eighths of a row, 0 to 16: its level in dB between the background's and the loudest."""
    edges = np.linspace(0, recording.n_samples, n_columns + 1).astype(int)
    parts = [recording.samples[a : max(b, a + 1)] for a, b in itertools.pairwise(edges)]
    rms = np.sqrt([float(np.mean(np.square(part, dtype=np.float64))) if part.size else 0.0 for part in parts])
    loudest = float(rms.max())
    if loudest <= 0:
        return [0] * n_columns
    level_db = 20 * np.log10(np.maximum(rms, 1e-12) / loudest)
    floor_db = -float(np.clip(-np.percentile(level_db, 5), _SHALLOWEST_DB, _DEEPEST_DB))
    heights = np.rint((1 - level_db / floor_db) * 8 * _ROWS)
    return [int(h) for h in np.clip(heights, level_db > -_DEEPEST_DB, 8 * _ROWS)]


def times(segment: Segment, glyphs: Glyphs) -> str:
    """A segment for people: "1.2–3.4 s"."""
    return f"{_seconds(segment.start_s)}{glyphs.dash}{_seconds(segment.end_s)} s"


def _seconds(value_s: float) -> str:
    text = f"{value_s:.2f}"
    return text[:-1] if text.endswith("0") else text


def _span(segment: Segment, duration_s: float, n_columns: int) -> tuple[int, int]:
    """Columns [first, last) that a segment covers, one at least."""
    first = min(n_columns - 1, int(segment.start_s / duration_s * n_columns))
    return first, max(first + 1, min(n_columns, round(segment.end_s / duration_s * n_columns)))


def _column_styles(bars: Sequence[Bar], duration_s: float, n_columns: int) -> Mapping[int, str]:
    styles: dict[int, str] = {}
    for bar in bars:
        for column in range(*_span(bar.segment, duration_s, n_columns)):
            styles.setdefault(column, bar.style)
    return styles


def _level_row(row: int, levels: Sequence[int], styles: Mapping[int, str], glyphs: Glyphs) -> Text:
    line = Text()
    for column, level in enumerate(levels):
        line.append(glyphs.levels[min(8, max(0, level - 8 * row))], styles.get(column, "dim"))
    return line


def _axis(duration_s: float, n_columns: int, glyphs: Glyphs) -> list[Text]:
    """A line with ticks, and the seconds under it; the last number has its unit."""
    step_s = next((s for s in _STEPS_S if duration_s / s * 8 <= n_columns), _STEPS_S[-1])
    line, numbers = [glyphs.line] * n_columns, [" "] * (n_columns + 2)
    for i in range(int(duration_s / step_s + 1e-6) + 1):
        column = min(n_columns - 1, int(i * step_s / duration_s * n_columns))
        text = f"{i * step_s:g}" + (" s" if i == 0 else "")
        if column + len(text) <= len(numbers):
            line[column] = glyphs.tick
            numbers[column : column + len(text)] = text
    return [Text("".join(line), "dim"), Text("".join(numbers).rstrip(), "dim")]


def _bar_lines(bar: Bar, duration_s: float, n_columns: int, glyphs: Glyphs) -> list[Text]:
    """The bar with its label behind it, before it, or where neither has room, under it."""
    first, last = _span(bar.segment, duration_s, n_columns)
    n = last - first
    body = glyphs.single if n == 1 else glyphs.left + glyphs.middle * (n - 2) + glyphs.right
    label = " ".join(filter(None, (times(bar.segment, glyphs), bar.label)))
    if last + 1 + len(label) <= n_columns:
        lines = [" " * first + body + " " + label]
    elif len(label) + 1 <= first:
        lines = [" " * (first - len(label) - 1) + label + " " + body]
    else:
        lines = [" " * first + body, " " * max(0, min(first, n_columns - len(label))) + label]
    return [Text(line, bar.style) for line in lines]
