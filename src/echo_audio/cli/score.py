"""`echo-audio score`: score the transcripts of a run again, without a model; and the scores as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from echo_audio.cli.arguments import Parser
from echo_audio.cli.console import console, shown


def main(arguments: Sequence[str]) -> int:
    """Run the verb `score`."""
    parser = Parser(prog="echo-audio score", description="Score the transcripts of a run again, without a model.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of --out")
    what = "upstream: as the released code reads, guesses included; to compare with its numbers only"
    parser.add_argument("--extraction", choices=("strict", "upstream"), default="strict", help=what)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there too")
    args = parser.parse_args(arguments)
    from echo_audio.evaluation.files import read_run, write_whole
    from echo_audio.evaluation.scores import scored_again, summarise
    from echo_audio.scoring.extraction import extract, extract_upstream

    about, samples = read_run(args.run)
    upstream = args.extraction == "upstream"
    again = scored_again(samples, about, extract_upstream if upstream else extract)
    scores = {**about, **summarise(again, about)}
    if upstream:
        said = "UPSTREAM EXTRACTION: failures are credited with the first choice; for comparison with the released code only"
        scores["remarks"] = [said, *scores.get("remarks", ())]
    text = json.dumps(scores, indent=1, ensure_ascii=False) + "\n"
    write_whole(args.run / ("scores-upstream.json" if upstream else "scores.json"), text)
    if args.json is not None:
        write_whole(args.json, text)
    verdicts = [[(s.choice, s.verdict, s.official) for s in some] for some in (samples, again)]
    changed = sum(before != after for before, after in zip(*verdicts, strict=True))
    show_scores(scores)
    console(to_stderr=True).print(Text(f"{changed} of {len(samples)} verdicts differ from those in the run", "dim"))
    return 0


MOST_GROUPS = 30
"""Groups of one grouping in a table on the terminal; the page and the JSON have all."""


def show_scores(scores: dict[str, Any]) -> None:
    """The scores as a table."""
    where = console()
    title = " ".join(str(scores.get(name, "")) for name in ("title", "version"))
    where.print(Text(f"{shown(title)}, {scores['n']} questions, {shown(str(scores.get('model', '')))}", "bold"))
    where.print(Text(_how(scores), "dim"))
    for remark in scores.get("remarks", ()):
        where.print(Text(shown(remark), "yellow"))
    if scores["missing"]:
        where.print(Text(f"NOT COMPLETE: {scores['missing']} of {scores['n']} questions were not asked", "yellow"))
    if scores["missing_turns"]:
        where.print(Text(f"NOT COMPLETE: {scores['missing_turns']} repeats or turned choices were not asked", "yellow"))
    told = ("answered", "unparsed", "missing_audio", "bad_audio", "bad_question", "engine_error")
    told += ("hit_turn_limit", "hit_token_limit")
    where.print(Text(", ".join(f"{scores[name]} {name.replace('_', ' ')}" for name in told)))
    where.print(Text("read by: " + ", ".join(f"{step} {count}" for step, count in scores["steps"].items())))
    if not scores["scored"]:
        where.print(Text(scores["why"]))
        for name, counted in (("all", scores["distribution"]), *scores["distribution_by"].items()):
            where.print(Text(f"given, {shown(name)}: " + ", ".join(f"{place} {count}" for place, count in counted.items())))
        for odd in scores["odd"]:
            where.print(Text(f"ODD: {shown(odd)}", "yellow"))
        return
    table = Table("", *(f"{rule} %" for rule in ("official", "strict")), "n", title_justify="left")
    _row(table, "all, by sample (micro)", scores)
    macro = scores["macro"]
    _row(table, f"mean of {macro['groups']} by {macro['over']} (macro)", macro)
    for name, groups in scores["by"].items():
        if len(groups) <= MOST_GROUPS:
            table.add_row(f"by {name}", "", "", "", style="bold")
            for group, both in groups.items():
                _row(table, f"  {shown(group)}", both)
    where.print(table)
    chance = scores["chance"]
    if chance:
        guess, first = 100 * chance["uniform"], 100 * chance["always_first"]
        where.print(Text(f"without listening: guessing {guess:.1f} %, always the first {first:.1f} %"))
    for part in ("repeats", "rotations"):
        for name, value in scores.get(part, {}).items():
            if isinstance(value, dict):
                at = f"@{scores[part]['k']}" if part == "repeats" else ""
                where.print(Text(f"{part}, {name.replace('_', ' ')}{at}: {_percent(value)}"))
    _show_listening(where, scores["listening"])


def _how(scores: dict[str, Any]) -> str:
    """How it was asked, and what the intervals rest on: all seeds."""
    how = scores.get("how", {})
    sampling = how.get("sampling", {})
    parts = [
        str(how.get("mode", "")),
        f"temperature {sampling.get('temperature', 0)}, seed {sampling.get('seed', 0)}",
        f"hears {how.get('hear', 'recording')}, plays {how.get('played', 'crop')}",
        "95 % intervals: Wilson, and for means a bootstrap of seed 0",
    ]
    return shown("; ".join(filter(None, parts)))


def _show_listening(where: Console, heard: dict[str, Any]) -> None:
    """What came of listening again; nothing where nobody did."""
    if not heard["with_at_least"]["1"]:
        return
    n, seconds, each = (heard[name]["value"] for name in ("segments_per_answer", "seconds_per_answer", "seconds_per_segment"))
    covered = f"; {100 * heard['share_covered']['value']:.0f} % of the recording"
    twice = f", of that {100 * heard['share_twice']['value']:.0f} % more than once" if heard["share_twice"] else ""
    where.print(Text(f"heard again: {n:.2f} segments an answer, {seconds:.2f} s ({each:.2f} s each){covered}{twice}"))
    refused = [f"{what.replace('_', ' ')} {count}" for what, count in heard["refused"].items() if count]
    where.print(Text(f"not played: {', '.join(refused) or 'nothing'}; cut to the recording: {heard['clamped']}"))
    by_number = {**heard["accuracy_by_segments"], "any": heard["accuracy_with"]}
    told = [f"{name} {_percent(rate)}, n {rate['n']}" for name, rate in by_number.items() if rate]
    where.print(Text("official % by segments heard again: " + "; ".join(told)))


def _row(table: Table, name: str, both: dict[str, Any]) -> None:
    table.add_row(name, _percent(both["official"]), _percent(both["strict"]), str(both["official"]["n"]))


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.2f} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"
