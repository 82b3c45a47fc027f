"""report.html: one file with the scores, the pictures and every sample of a run; with two runs, side by side.

Whatever comes out of a data file or a model is escaped: in tables by `html.escape`, in the list of samples as JSON without
"<" that the page only ever shows as text.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from echo_audio.evaluation import plots
from echo_audio.evaluation.base import Sample
from echo_audio.evaluation.report_samples import Audio, Sounds, shown
from echo_audio.evaluation.scores import RULES, compare, scored_again, summarise
from echo_audio.evaluation.statistics import p_value

MOST_ROWS = 60
"""Groups shown of one grouping."""


def report(
    about: Mapping[str, Any],
    samples: Sequence[Sample],
    other: tuple[Mapping[str, Any], Sequence[Sample]] | None = None,
    *,
    sounds: Sounds | None = None,
    embed_mb: float = 20.0,
    speeds: Sequence[Mapping[str, Any]] = (),
    attention: Mapping[str, Any] | None = None,
) -> str:
    """The page.

    Args:
        about, samples: of the run; scored again here.
        other: a second run on the same questions.
        sounds: where the recordings are; None leaves them out.
        embed_mb: megabytes of audio put into the page, in the order of the samples; the rest is linked.
        speeds: lines of the run's speed.jsonl.
        attention: the run's attention.json.
    """
    samples = scored_again(samples, about)
    scores = summarise(samples, about)
    body = [_head(about, scores)]
    second: dict[str, Sample] = {}
    if other is not None:
        again = scored_again(other[1], other[0])
        second = {s.key: s for s in again if s.repeat == 0 and s.rotation == 0}
        body.append(_comparison(about, other[0], compare(samples, again)))
    body += [_counts(scores), _speed(speeds)]
    if scores["scored"]:
        body += [_by(scores), _listening(scores["listening"])]
    if attention is not None:
        body.append(_attention(attention))
    audio, has_truth = Audio(sounds, round(embed_mb * 1e6)), bool(about.get("has_truth", True))
    plain = [s for s in samples if s.repeat == 0 and s.rotation == 0]
    both = (about,) if other is None else (about, other[0])
    hear = [str(one.get("how", {}).get("hear", "recording")) for one in both]
    listed = [shown(s, place, audio, second.get(s.key), has_truth, hear) for place, s in enumerate(plain)]
    names = _names(*both) if len(both) > 1 else []
    return _page(str(about.get("title", "run")), "\n".join(body), {"samples": listed, "names": names})


def _names(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """What to call two runs: by the first thing in which they differ."""
    facts = [
        (str(about.get("model", "")), *(str(about.get("how", {}).get(name, "")) for name in ("mode", "hear", "played")))
        for about in (one, two)
    ]
    words = ("{}", "{}", "hears {}", "plays {}")
    differ = next(((words[i], a, b) for i, (a, b) in enumerate(zip(*facts, strict=True)) if a != b), None)
    if differ is None:
        return ["this run", "the other run"]
    form, *texts = differ
    return [f"{name} ({form.format(text[:60])})" for name, text in zip(("this run", "the other run"), texts, strict=True)]


def _page(title: str, body: str, data: Mapping[str, Any]) -> str:
    """The template with its parts; each is put in once, so that no part can hold another's place."""
    folder = resources.files("echo_audio.evaluation") / "page"
    template = (folder / "report.html").read_text(encoding="utf-8")
    parts = {
        "title": html.escape(title),
        "css": (folder / "report.css").read_text(encoding="utf-8"),
        "body": body,
        "data": _for_script(data),
        "js": (folder / "report.js").read_text(encoding="utf-8"),
    }
    out: list[str] = []
    for piece in template.split("{{"):
        name, closed, rest = piece.partition("}}")
        out.append(parts[name] + rest if closed and name in parts else piece)
    return "".join(out)


def _for_script(data: object) -> str:
    """JSON that no content of can end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _text(value: object) -> str:
    return html.escape(str(value))


def _percent(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "none"
    return f"{100 * estimate['value']:.2f} <span class=soft>({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})</span>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells are HTML already."""
    lines = ["<div class=scroll><table><tr>", *(f"<th>{cell}</th>" for cell in head), "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "".join([*lines, "</table></div>"])


def _head(about: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    how = about.get("how", {})
    sampling = how.get("sampling", {})
    facts = f"{about.get('version', '')} · {about.get('model', '')} · {how.get('mode', '')} · temperature "
    facts += f"{sampling.get('temperature', '')}, seed {sampling.get('seed', '')} · hears {how.get('hear', 'recording')} · "
    facts += f"configuration {about.get('config', '')}"
    lines = [f"<h1>{_text(about.get('title', 'Run'))}</h1>", f"<p class=soft>{_text(facts)}</p>"]
    for remark in about.get("remarks", ()):
        kind = "loud" if remark[:7].isupper() else "note"
        lines.append(f"<p class={kind}>{_text(remark)}</p>")
    if scores["missing"]:
        lines.append(f"<p class=loud>NOT COMPLETE: {scores['missing']} of {scores['n']} questions were not asked</p>")
    if scores["missing_turns"]:
        lines.append(f"<p class=loud>NOT COMPLETE: {scores['missing_turns']} repeats or turned choices were not asked</p>")
    if not scores["scored"]:
        odd = [f"<p class=loud>ODD: {_text(text)}</p>" for text in scores["odd"]]
        return "\n".join([*lines, f"<p class=loud>{_text(scores['why'])}</p>", *odd])
    macro = scores["macro"]
    numbers = [("official, by sample", scores["official"]), ("strict, by sample", scores["strict"])]
    numbers += [(f"{rule}, mean over {macro['groups']} by {macro['over']}", macro[rule]) for rule in RULES]
    cards = "".join(f"<div><b>{100 * e['value']:.2f} %</b>{100 * e['low']:.1f} to {100 * e['high']:.1f}<br>"
                    f"<span>{_text(name)}</span></div>" for name, e in numbers)  # fmt: skip
    return "\n".join([*lines, f"<div class=big>{cards}</div>"])


COUNTED = (
    "n", "missing", "missing_turns", "answered", "unparsed", "missing_audio", "bad_audio", "bad_question", "engine_error",
    "hit_turn_limit", "hit_token_limit", "hit_audio_limit", "rules_disagree",
)  # fmt: skip


def _counts(scores: Mapping[str, Any]) -> str:
    """How many questions came out how; what never happened is left out."""
    counted = [(name, scores[name]) for name in COUNTED if scores[name] or name in ("n", "answered", "unparsed")]
    names = {"n": "questions", "rules_disagree": "the two rules disagree"}
    tables = [
        _table(["what came of them", "n"], [[names.get(name, name.replace("_", " ")), str(n)] for name, n in counted]),
        _table(["read by", "n"], [[_text(step.replace("_", " ")), str(n)] for step, n in scores["steps"].items()]),
    ]
    given = [("all", scores["distribution"]), *scores.get("distribution_by", {}).items()]
    for group, places in given:
        head = "choice given" + ("" if group == "all" else f", {group}")
        tables.append(_table([_text(head), "n"], [[_text(place), str(n)] for place, n in places.items()]))
    if scores.get("chance"):
        rows = [[_text(name.replace("_", " ")), f"{100 * share:.1f}"] for name, share in scores["chance"].items()]
        tables.append(_table(["without listening", "% right"], rows))
    for part in ("repeats", "rotations"):
        rows = [[_text(name.replace("_", " ")), _percent(value) if isinstance(value, dict) else str(value)]
                for name, value in scores.get(part, {}).items()]  # fmt: skip
        tables += [_table([part, "% right"], rows)] if rows else []
    return f"<h2>What came of the questions</h2><div class=beside>{''.join(f'<div>{table}</div>' for table in tables)}</div>"


def _speed(speeds: Sequence[Mapping[str, Any]]) -> str:
    if not speeds:
        return ""
    columns = {"n": 0, "wall_s": 1, "questions_per_s": 2, "tokens_per_s": 0, "real_time_factor": 1, "slots": 0}
    shares = {"filled": "slots in use, %", "half_empty": "time under half of them, %"}
    head = [_text(name.replace("_", " ")) for name in columns] + list(shares.values())
    cells = [
        [_number(speed.get(name), digits) for name, digits in columns.items()]
        + [_number(speed.get(name), 0, 100) for name in shares]
        for speed in speeds
    ]
    said = "A row for each process; the last column is the share of its wall time with fewer than half of its slots in use."
    return f"<h2>Speed</h2><p class=soft>{said}</p>" + _table(head, cells)


def _number(value: object, digits: int, factor: float = 1.0) -> str:
    return f"{factor * value:.{digits}f}" if isinstance(value, int | float) else ""


def _by(scores: Mapping[str, Any]) -> str:
    out = ["<h2>By group</h2>"]
    for name, groups in scores["by"].items():
        some = dict(list(groups.items())[:MOST_ROWS])
        if len(some) > 1:
            picture = plots.accuracies(f"by {plots.plain(name)}", some, scores["chance"].get("uniform"))
            out.append(f"<div class=plot>{picture}</div>")
        rows = [[_text(g), _percent(e["official"]), _percent(e["strict"]), str(e["official"]["n"])] for g, e in some.items()]
        table = _table([f"by {_text(name)}", "official %", "strict %", "n"], rows)
        out.append(f"<details><summary>{_text(name)}: {len(groups)} groups</summary>{table}</details>")
    return "\n".join(out)


def _listening(heard: Mapping[str, Any]) -> str:
    tenths = [f"{10 * i}" for i in range(len(heard["where"]))]
    by_number = {f"{name} segments": dict.fromkeys(RULES, e) for name, e in heard["accuracy_by_segments"].items()}
    pictures = [
        plots.bars("where models listen again", heard["where"], tenths, "% into the recording", "seconds heard"),
        plots.bars("share of the recording heard again", heard["coverage"], tenths, "% covered, from", "answers"),
        plots.bars("share heard twice, of two or more segments", heard["overlap"], tenths, "% overlap, from", "answers"),
        plots.accuracies("by segments heard (official)", by_number),
    ]
    means = ("segments_per_answer", "seconds_per_answer", "seconds_per_segment")
    rows = [[_text(name.replace("_", " ")), f"{heard[name]['value']:.2f}" if heard[name] else "none"] for name in means]
    rows.append(["of the recording, % (95 % interval)", _percent(heard["share_covered"])])
    rows.append(["of that more than once, %", _percent(heard["share_twice"])])
    rows += [[f"answers with at least {k}", f"{100 * share:.1f} %"] for k, share in heard["with_at_least"].items()]
    rows.append(["right with a segment, %", _percent(heard["accuracy_with"])])
    rows.append(["right without, %", _percent(heard["accuracy_without"])])
    rows += [[f"refused: {_text(what.replace('_', ' '))}", str(count)] for what, count in heard["refused"].items()]
    rows.append(["cut to the recording", str(heard["clamped"])])
    drawn = "".join(f"<div class=plot>{picture}</div>" for picture in pictures)
    return f"<h2>Listening again</h2><div class=plots>{drawn}</div>{_table(['', ''], rows)}"


def _attention(numbers: Mapping[str, Any]) -> str:
    rows = []
    for title, parts in (("all tokens", numbers), ("tokens after the first segment heard", numbers["after_listening_again"])):
        if parts:
            rows.append([title, *(_percent(parts[name]) for name in ("first", "again", "audio"))])
    even = numbers["uniform"]
    shares = (even["first"], even["again"], even["first"] + even["again"])
    rows.append(["even attention, all tokens", *(f"{100 * share:.2f}" for share in shares)])
    said = (
        f"{numbers['n']} transcripts once more through the model, {numbers['n_tokens']} sampled tokens; of each the attention "
        "with which it was chosen, mean over heads and layers. Even attention is the share of positions that hold audio."
    )
    table = _table(["", "first hearing %", "heard again %", "both %"], rows)
    picture = f"<div class=plot>{plots.attention(numbers)}</div>"
    return f"<h2>Attention on audio</h2><p class=soft>{said}</p><div class=plots>{picture}</div>{table}"


def _comparison(one: Mapping[str, Any], two: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    rows = [_pair(f"all, {rule}", pair) for rule, pair in result["all"].items()]
    for name, groups in result["by"].items():
        rows += [_pair(f"{_text(name)}: {_text(group)}", pairs["official"]) for group, pairs in list(groups.items())[:MOST_ROWS]]
    a, b = one.get("how", {}), two.get("how", {})
    differ = ", ".join(sorted(key for key in {*a, *b} if a.get(key) != b.get(key))) or "nothing of how it was asked"
    said = f"The other run: {two.get('model', '')}, configuration {two.get('config', '')}; differs in {differ}. "
    said += f"{result['n']} questions in both, {result['only_in_one']} in one only. Groups by the official rule."
    head = ["", "this %", "other %", "other minus this", "95 % interval", "p (McNemar)", "n"]
    return f"<h2>Beside another run</h2><p class=soft>{_text(said)}</p>" + _table(head, rows)


def _pair(name: str, pair: Mapping[str, float]) -> list[str]:
    interval = f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}"
    shares = [f"{100 * pair['first']:.2f}", f"{100 * pair['second']:.2f}", f"{100 * pair['difference']:+.2f}"]
    return [name, *shares, interval, _text(p_value(pair["p_value"])), f"{pair['n']:.0f}"]
