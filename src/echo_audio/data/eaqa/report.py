"""A run of the data engine as one page: the mix, lengths, where reasonings look, what was refused and why, cost, samples.

Whatever comes from a data file or a model is escaped: in tables by `html.escape`, in the samples as JSON that the page only
ever shows as text.
"""

from __future__ import annotations

import base64
import html
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from echo_audio import tags
from echo_audio.data.eaqa.balance import balances
from echo_audio.data.eaqa.bill import Line, total
from echo_audio.data.eaqa.journal import Outcome, Route
from echo_audio.data.eaqa.plan import shares
from echo_audio.data.eaqa.prompts import QuestionKind
from echo_audio.data.eaqa.run import classes
from echo_audio.data.eaqa.settings import EaqaSettings
from echo_audio.data.eaqa.texts import words_of
from echo_audio.data.rows import Row
from echo_audio.data.store import audio_path
from echo_audio.errors import DataError

Cells = Sequence[Sequence[str]]


def report(
    folder: Path,
    settings: EaqaSettings,
    kinds: Mapping[str, QuestionKind],
    outcomes: Sequence[Outcome],
    lines: Sequence[Line],
    *,
    n_samples: int = 200,
    embed_mb: float = 20.0,
) -> str:
    """The page.

    Args:
        folder: of the run, for its audio.
        kinds: of question, that were wanted.
        outcomes: settled.
        lines: the bill.
        n_samples: rows shown, spread over the run.
        embed_mb: megabytes of audio put into the page; the rest is linked.
    """
    kept = [o.row for o in outcomes if o.route in (Route.SFT, Route.RL) and o.row is not None]
    written = [row for row in kept if row.reasoning]
    body = [
        _head(settings, outcomes, kept, written, lines),
        _mix(settings, kinds, outcomes),
        _pictures(kept, written),
        _balance(kept),
        _reasons(outcomes),
        _bill(lines),
    ]
    audio = _Audio(folder, round(embed_mb * 1e6))
    some = [outcomes[i * len(outcomes) // n_samples] for i in range(n_samples)] if len(outcomes) > n_samples else outcomes
    return _page(settings.name, "\n".join(body), {"samples": [_sample(o, audio) for o in some], "n": len(outcomes)})


# ---------------------------------------------------------------------------------------------- parts of the page


def _head(
    settings: EaqaSettings, outcomes: Sequence[Outcome], kept: Sequence[Row], written: Sequence[Row], lines: Sequence[Line]
) -> str:
    routes = Counter(o.route for o in outcomes)
    lengths = {row.audio_id: row.duration_s for row in kept}
    numbers = [(str(routes[route]), str(route)) for route in Route]
    numbers += [
        (str(len(lengths)), "recordings kept"),
        (f"{sum(lengths.values()) / 3600:.2f} h", "of audio"),
        (f"{_mean(map(_n_words, written)):.1f}", "words a reasoning"),
        (f"{_mean(len(tags.segments_in(row.reasoning or '')) for row in written):.2f}", "segments a reasoning"),
        (f"{total(lines):,.2f}", "cost"),
    ]
    cards = "".join(f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>" for value, name in numbers)
    facts = f"sources: {', '.join(settings.sources)} · written by {settings.write.endpoint.model} · judged by "
    facts += f"{settings.judge.endpoint.model} · described by {_who(settings)} · seed {settings.seed}"
    return f"<h1>{_text(settings.name)}</h1><p class=soft>{_text(facts)}</p><div class=big>{cards}</div>"


def _who(settings: EaqaSettings) -> str:
    by = settings.annotate.by
    return "nobody" if by == "none" else settings.annotate.model if by == "engine" else settings.annotate.endpoint.model


def _mix(settings: EaqaSettings, kinds: Mapping[str, QuestionKind], outcomes: Sequence[Outcome]) -> str:
    wanted = shares(settings.write.mix, kinds)
    counts = Counter((o.kind, o.route) for o in outcomes if o.kind)
    names = sorted({kind for kind, _ in counts} | set(wanted))
    n_kept = sum(n for (_, route), n in counts.items() if route in (Route.SFT, Route.RL))
    rows: list[list[str]] = []
    for name in names:
        sft, rl, dropped = (counts[name, route] for route in (Route.SFT, Route.RL, Route.DROPPED))
        share = (sft + rl) / n_kept if n_kept else 0.0
        rows.append([_text(name), f"{100 * wanted.get(name, 0):.1f}", f"{100 * share:.1f}", str(sft), str(rl), str(dropped)])
    return "<h2>Kinds of question</h2>" + _table(["", "wanted %", "kept %", "sft", "rl", "dropped"], rows)


def _pictures(kept: Sequence[Row], written: Sequence[Row]) -> str:
    words = [_n_words(row) for row in written]
    places = [0.0] * 10
    covered: list[float] = []
    for row in written:
        cited = [(s.start_s, min(s.end_s, row.duration_s)) for s in tags.segments_in(row.reasoning or "")]
        for i in range(10):
            low, high = row.duration_s * i / 10, row.duration_s * (i + 1) / 10
            places[i] += sum(max(0.0, min(b, high) - max(a, low)) for a, b in cited)
        covered.append(100 * _union_s(cited) / row.duration_s)
    parts = [
        _bars("words of a reasoning", _histogram(words, 0, 200, 20), "0", "200 and more"),
        _bars("segments of a reasoning", _histogram([_n_segments(row) for row in written], 0, 8, 8), "0", "7 and more"),
        _bars("seconds of a recording", _histogram([row.duration_s for row in kept], 0, 30, 15), "0", "30 and more"),
        _bars("where reasonings look: seconds cited", places, "start of the recording", "end"),
        _bars("share of the recording that is cited", _histogram(covered, 0, 100, 10), "0 %", "100 %"),
    ]
    given = [100 * row.audio_contribution for row in kept if row.audio_contribution is not None]
    if given:
        parts.append(_bars("what the audio gives (1 less right guesses)", _histogram(given, 0, 100, 10), "0 %", "100 %"))
    return f"<h2>Lengths, and where reasonings look</h2><div class=plots>{''.join(parts)}</div>"


def _balance(kept: Sequence[Row]) -> str:
    """Whether the answer can be told by its place or its length."""
    found = balances(kept)
    rows = [
        [
            f"{b.n_choices} choices",
            str(b.n_rows),
            ", ".join(f"{100 * share:.0f}" for share in b.places),
            f"{100 * b.longest:.0f}",
            f"{100 * b.by_chance:.0f}",
        ]
        for b in found
    ]
    remarks = "".join(f"<p class=loud>{_text(remark)}</p>" for b in found for remark in b.remarks())
    head = ["", "rows", "answer is first, second, ... %", "answer is a longest choice %", "by chance %"]
    return "<h2>Balance of answers</h2>" + remarks + _table(head, rows)


def _reasons(outcomes: Sequence[Outcome]) -> str:
    ends = Counter((str(o.route), why) for o in outcomes for why in classes(o.reasons))
    rows = [[_text(route), _text(why), str(n)] for (route, why), n in ends.most_common(60)]
    out = "<h2>Why rows went elsewhere</h2>" + _table(["route", "reason", "rows"], rows, words=1)
    tries = Counter(why for o in outcomes for why in o.notes.get("refused", ()))
    texts = Counter(why for o in outcomes for why in o.notes.get("texts", ()))
    events = Counter(why for o in outcomes for why in classes(map(str, o.notes.get("events", ()))))
    rows = [["written", _text(why), str(n)] for why, n in tries.most_common(60)]
    rows += [["described", _text(why), str(n)] for why, n in texts.most_common(30)]
    rows += [["labels", _text(why), str(n)] for why, n in events.most_common(30)]
    if rows:
        out += "<h2>What was refused on the way</h2>" + _table(["", "reason", "times"], rows, words=1)
    return out


def _bill(lines: Sequence[Line]) -> str:
    rows = [
        [_text(x.stage), _text(x.model), *(f"{n:,}" for n in (x.calls, x.tokens_in, x.tokens_out)), f"{x.price:,.2f}"]
        for x in lines
    ]
    return "<h2>Cost</h2>" + _table(["stage", "model", "requests", "tokens in", "tokens out", "price"], rows)


# ---------------------------------------------------------------------------------------------- samples


class _Audio:
    """Recordings for the page: embedded while there is room, then linked."""

    def __init__(self, folder: Path, room_bytes: int) -> None:
        self.folder, self.room_bytes = folder, room_bytes

    def of(self, row: Row) -> str:
        """A data address, a file address, or nothing."""
        try:
            path = audio_path(self.folder.resolve(), row.audio_id)
            size = path.stat().st_size
            if size > self.room_bytes:
                return path.as_uri()
            self.room_bytes -= size
            return f"data:audio/flac;base64,{base64.b64encode(path.read_bytes()).decode()}"
        except (DataError, OSError):
            return ""


def _sample(outcome: Outcome, audio: _Audio) -> dict[str, Any]:
    """What the page knows of a row."""
    row = outcome.row
    out: dict[str, Any] = {
        "id": outcome.id,
        "route": str(outcome.route),
        "reasons": list(outcome.reasons),
        "kind": outcome.kind,
        "question": "",
        "parts": [],
    }
    if row is None:
        return out
    judge = row.provenance.get("judge", {})
    notes = [(name.capitalize(), text) for name, text in row.provenance.get("texts", {}).items()]
    notes += [(f"Judge, {what}", f"{judge[f'{key}_valid']}, {judge[f'{key}_reason']}")
              for what, key in (("question", "qa"), ("reasoning", "reasoning")) if f"{key}_valid" in judge]  # fmt: skip
    if row.audio_contribution is not None:
        notes.append(("What the audio gives", f"{row.audio_contribution:.2f}"))
    notes += [(f"Refused ({name})", "; ".join(map(str, why))) for name, why in outcome.notes.items()]
    return out | {
        "question": row.question,
        "choices": list(row.choices),
        "answer": row.answer,
        "duration_s": row.duration_s,
        "events": [[e.start_s, e.end_s, e.label] for e in row.events],
        "cited": [[e.start_s, e.end_s, e.label] for e in row.evidence],
        "parts": _parts(row),
        "notes": notes,
        "audio": audio.of(row),
    }


def _parts(row: Row) -> list[str | list[float]]:
    """The reasoning as texts and [start_s, end_s] where a segment is cited."""
    text, out, at = row.reasoning or "", list[str | list[float]](), 0
    for tag in tags.find_tags(text):
        if tag.times_s is not None and 0 <= tag.times_s[0] < tag.times_s[1]:
            out += [text[at : tag.begin], list(tag.times_s)]
            at = tag.end
    return [*out, text[at:]]


# ---------------------------------------------------------------------------------------------- small things


def _page(title: str, body: str, data: Mapping[str, Any]) -> str:
    """The template with its parts; each is put in once, so that no part can hold another's place."""
    folder = resources.files("echo_audio.data.eaqa") / "page"
    told = json.dumps(data, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        told = told.replace(character, f"\\u{ord(character):04x}")
    parts = {"title": html.escape(title), "body": body, "data": told}
    parts |= {name: (folder / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    out: list[str] = []
    for piece in (folder / "report.html").read_text(encoding="utf-8").split("{{"):
        name, closed, rest = piece.partition("}}")
        out.append(parts[name] + rest if closed and name in parts else piece)
    return "".join(out)


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(head: Sequence[str], rows: Cells, words: int = 0) -> str:
    """A table; the cells are HTML already. Column `words` holds running text."""
    names = (f"<th class=words>{cell}</th>" if i == words else f"<th>{cell}</th>" for i, cell in enumerate(head))
    lines = ["<div class=scroll><table><tr>", *names, "</tr>"]
    for row in rows:
        cells = (f"<td class=words>{cell}</td>" if i == words else f"<td>{cell}</td>" for i, cell in enumerate(row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "".join([*lines, "</table></div>"])


def _bars(title: str, values: Sequence[float], low: str, high: str) -> str:
    most = max(values, default=0) or 1
    bars = "".join(f'<i style="height:{100 * value / most:.1f}%" title="{value:.4g}"></i>' for value in values)
    axis = f"<div class=axis><span>{_text(low)}</span><span>{_text(high)}</span></div>"
    return f"<div class=plot><h3>{_text(title)}</h3><div class=bars>{bars}</div>{axis}</div>"


def _histogram(values: Sequence[float], low: float, high: float, n: int) -> list[float]:
    counts = [0.0] * n
    for value in values:
        counts[min(n - 1, max(0, int(n * (value - low) / (high - low))))] += 1
    return counts


def _union_s(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds that the spans cover together."""
    covered, until = 0.0, 0.0
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def _n_words(row: Row) -> int:
    return len(words_of(tags.without_segments(row.reasoning or "")))


def _n_segments(row: Row) -> int:
    return len(tags.segments_in(row.reasoning or ""))


def _mean(values: Iterable[float]) -> float:
    some = list(values)
    return statistics.fmean(some) if some else 0.0
