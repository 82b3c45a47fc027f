"""`echo-audio compare`: two runs on the same questions, with a paired test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from echo_audio.cli.arguments import Parser, one_of
from echo_audio.cli.console import console, shown
from echo_audio.cli.score import MOST_GROUPS
from echo_audio.transcript import Played


def main(arguments: Sequence[str]) -> int:
    """Run the verb `compare`."""
    parser = Parser(prog="echo-audio compare", description="Two runs on the same questions, with a paired test.")
    parser.add_argument("first", type=Path, metavar="RUN", help="folder of --out")
    parser.add_argument("second", type=Path, metavar="RUN")
    what = "of runs on scenes: the pass with this played (default crop, the truth)"
    parser.add_argument("--played", type=one_of(Played), default=Played.CROP, metavar="WHAT", help=what)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there")
    args = parser.parse_args(arguments)
    from echo_audio.evaluation.files import check_same_questions, read_run, write_whole
    from echo_audio.evaluation.scores import compare, scored_again

    (one, first), (two, second) = read_run(args.first, args.played), read_run(args.second, args.played)
    check_same_questions(one, two)
    result = compare(scored_again(first, one), scored_again(second, two))
    if args.json is not None:
        write_whole(args.json, json.dumps(result, indent=1) + "\n")
    table = Table("", "first", "second", "difference", "95 % interval", "p (McNemar)", "n", title_justify="left",
                  title=f"{args.second} minus {args.first}")  # fmt: skip
    for rule, pair in result["all"].items():
        _pair_row(table, f"all, {rule}", pair)
    for name, groups in result["by"].items():
        if len(groups) <= MOST_GROUPS:
            for group, pairs in groups.items():
                _pair_row(table, f"{name} {shown(group)}", pairs["official"])
    console().print(table)
    if result["only_in_one"]:
        console().print(Text(f"{result['only_in_one']} questions are only in one of the two and were left out.", "dim"))
    return 0


def _pair_row(table: Table, name: str, pair: dict[str, float]) -> None:
    from echo_audio.evaluation.statistics import p_value

    interval = f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}"
    shares = (f"{100 * pair['first']:.2f}", f"{100 * pair['second']:.2f}", f"{100 * pair['difference']:+.2f}")
    table.add_row(name, *shares, interval, p_value(pair["p_value"]), f"{pair['n']:.0f}")
