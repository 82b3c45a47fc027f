"""A GRPO run as one page: report.html, curves as SVG in it, then sampled transcripts. It needs nothing else to be read."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from echo_audio import tags

_PANELS = (
    ("reward", ("reward", "reward_deviation")),
    ("right and well-formed", ("accuracy", "parse_rate", "eval/score")),
    ("parts of the reward", ()),
    ("listening again", ("listens_again", "overlap", "repeats", "same_segment")),
    ("segments an answer", ("segments",)),
    ("seconds heard again", ("heard_s",)),
    ("groups", ("flat_share",)),
    ("distance to the reference", ("kl",)),
    ("entropy", ("entropy",)),
    ("clipped", ("clipped_low", "clipped_high", "truncated")),
    ("engine and trainer apart", ("gap", "gap_max")),
    ("gradient norm", ("grad_norm",)),
    ("tokens an answer", ("tokens",)),
    ("tokens sampled a second", ("tokens_per_s",)),
    ("seconds a step", ("rollout_s", "reward_s", "logprobs_s", "update_s", "sync_s", "eval_s")),
)

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
svg{width:100%;height:auto}pre{white-space:pre-wrap;background:#f6f6f4;padding:.8rem;border-radius:6px}
mark{background:#cfe8ff}.alarm{background:#fff0d8;padding:.5rem .8rem;border-radius:6px}
h3{margin-bottom:.2rem}small{color:#666}"""


def write(out: Path) -> None:
    """Write report.html from metrics.jsonl and transcripts.jsonl of a run folder; nothing without metrics."""
    lines, samples = _read(out / "metrics.jsonl"), _read(out / "transcripts.jsonl")
    if not lines:
        return
    part = out / ".report.html.part"
    part.write_text(page(out.name, lines, samples), encoding="utf-8")
    part.replace(out / "report.html")


def page(name: str, lines: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]) -> str:
    """The page.

    Args:
        name: of the run.
        lines: of metrics.jsonl.
        samples: of transcripts.jsonl.
    """
    alarms = [f"step {line['step']}: {text}" for line in lines for text in line.get("alarms", ())]
    warnings = "".join(f'<p class="alarm">{html.escape(text)}</p>' for text in alarms[-10:])
    told = "".join(_sample(sample) for sample in reversed(samples))
    title = html.escape(f"{name}: {lines[-1]['step']} steps")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{warnings}{curves(lines)}<h2>Transcripts</h2>{told}</html>\n"
    )


def curves(lines: Sequence[dict[str, Any]]) -> str:
    """All curves over the steps, as one SVG element."""
    figure = Figure(figsize=(13, 16))  # placed by hand: working the layout out takes as long as drawing
    figure.subplots_adjust(left=0.05, right=0.98, top=0.97, bottom=0.03, wspace=0.2, hspace=0.35)
    for axes, (title, names) in zip(figure.subplots(5, 3).flat, _PANELS, strict=False):
        shown = names or sorted({name for line in lines for name in line if name.startswith("reward/")})
        for name in shown:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.removeprefix("reward/"), linewidth=1.2, marker=".", markersize=3)
        axes.set_title(title)
        axes.locator_params(nbins=4)
        axes.grid(alpha=0.3)
        if axes.has_data() and len(shown) > 1:
            axes.legend(fontsize="small")
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):  # letters as letters: the page stays small
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _sample(sample: dict[str, Any]) -> str:
    response, at, shown = sample["response"], 0, list[str]()
    for tag in tags.find_tags(response):
        shown += [html.escape(response[at : tag.begin]), f"<mark>{html.escape(response[tag.begin : tag.end])}</mark>"]
        at = tag.end
    shown.append(html.escape(response[at:]))
    parts = ", ".join(f"{name} {value:g}" for name, value in sample["parts"].items())
    events = "; ".join(f"{label} {start:g} to {end:g} s" for label, start, end in sample["events"])
    about = (
        f"truth {sample['truth']}, answer {sample['answer']}; reward {sample['reward']:g} ({parts}), "
        f"advantage {sample['advantage']:+.2f}"
    )
    return (
        f"<h3>Step {sample['step']}: {html.escape(sample['question'])}</h3><small>{html.escape(about)}<br>"
        f"rests on: {html.escape(events or 'not known')}</small><pre>{''.join(shown)}</pre>"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
