"""`echo-audio eval`: score a model on a published test, compare two runs."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from echo_audio.cli.arguments import Parser, whole
from echo_audio.cli.attention import add_attention
from echo_audio.cli.benchmark import add_benchmarks, tell_speed
from echo_audio.cli.console import console
from echo_audio.cli.engines import add_engine
from echo_audio.cli.progress import progress
from echo_audio.cli.session import Listener, Manner, loading
from echo_audio.errors import DataError
from echo_audio.models import folders
from echo_audio.models.folders import TINY
from echo_audio.transcript import Mode, Played

if TYPE_CHECKING:
    from echo_audio.evaluation.base import Sample
    from echo_audio.evaluation.scenes import SceneItems


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    args = _parser().parse_args(arguments)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="echo-audio eval", description="Score a model; compare runs.")
    verbs = parser.add_subparsers(required=True, metavar="WHAT")
    scenes = verbs.add_parser("scenes", help="our scenes with exactly known times: the published test split")
    scenes.add_argument("--n", type=whole(1), default=1000, help="questions (default 1000, the published split)")
    scenes.add_argument("--seed", type=int, metavar="N", help="draw other questions than the published ones")
    scenes.add_argument("--model", default=TINY, help="a folder, a hub id, or tiny")
    scenes.add_argument("--mode", choices=[str(m) for m in Mode], default=str(Mode.INTERLEAVED))
    scenes.add_argument("--bank", type=Path, action="append", default=[], metavar="FILE", help="recorded clips: asks about those")
    scenes.add_argument("--played", choices=[str(p) for p in Played], action="append", help="only these ways of playing segments")
    scenes.add_argument("--json", type=Path, metavar="FILE", help="write the scores there")
    scenes.add_argument("--out", type=Path, metavar="DIR", help="keep every transcript there; a run begun before is continued")
    scenes.add_argument("--in-flight", type=whole(1), default=32, help="transcripts at once (default 32)")
    add_engine(scenes.add_argument)
    scenes.set_defaults(run=_scenes)
    add_benchmarks(verbs)
    add_attention(verbs)
    compare = verbs.add_parser("compare", help="two runs of `eval scenes` on the same questions, with a paired test")
    compare.add_argument("first", type=Path, help="folder of --out")
    compare.add_argument("second", type=Path)
    compare.add_argument("--played", default=str(Played.CROP))
    compare.set_defaults(run=_compare)
    return parser


def _scenes(args: argparse.Namespace) -> int:
    from echo_audio.data.stock import make_stock
    from echo_audio.evaluation.files import write_whole
    from echo_audio.evaluation.scenes import TEST_SEED, SceneItems, summary

    seed = TEST_SEED if args.seed is None else args.seed
    items = SceneItems(make_stock(args.bank), args.n, recorded_only=bool(args.bank), seed=seed)
    about = {"n": args.n, "seed": items.seed, "mode": args.mode, "model": str(args.model), "banks": [b.name for b in args.bank]}
    folder = folders.resolve(args.model)
    about |= {"weights": folders.fingerprint(folder), "revision": folders.revision(folder)}
    if args.out is not None:
        _same_run(args.out, about)
    model = args.model if args.model == TINY else str(folder)
    manner = Manner(model=model, engine=args.engine, device=args.device, mode=Mode(args.mode), at_once=args.in_flight)
    with loading(manner) as listener:
        runs = {played: _pass(args, items, listener, played) for played in _passes(args)}
    truth = runs.pop(Played.CROP, [])
    scores = summary(truth, {str(played): samples for played, samples in runs.items()}) | about
    _show(scores)
    if args.json is not None:
        write_whole(args.json, json.dumps(scores, indent=1) + "\n")
    return 0


def _pass(args: argparse.Namespace, items: SceneItems, listener: Listener, played: Played) -> list[Sample]:
    """All questions once, with one way of playing segments."""
    from echo_audio.evaluation.files import newest, read_lines
    from echo_audio.evaluation.run import How, Work, evaluate
    from echo_audio.evaluation.speed import Slots

    out = args.out / f"{played}.jsonl" if args.out is not None else None
    again = "Start the same command again and it goes on." if out else "Give --out DIR to be able to go on."
    how, work = How(Mode(args.mode), played), Work(in_flight=args.in_flight, n_decoders=2)
    before = 0 if out is None else sum(not sample.failed for sample in newest(read_lines(out)).values())
    slots, new = Slots(args.in_flight), list["Sample"]()
    try:
        with progress(str(played), args.n, done=before) as (step, _):

            def told(sample: Sample) -> None:
                new.append(sample)
                step(1)

            run = evaluate(items, listener.engine, listener.family, how, out=out, on_sample=told, work=work, slots=slots)
            return asyncio.run(run)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(again) from None
    finally:
        if new:
            speed = slots.speed(len(new), sum(s.duration_s for s in new), sum(s.n_tokens for s in new))
            tell_speed(args.out, speed.to_json(), str(played))


def _same_run(out: Path, about: dict[str, Any]) -> None:
    """Write beside the samples what was asked of whom; refuse to mix two runs.

    A folder of before weights were hashed is compared in what it has.

    Raises:
        DataError: the folder holds another run.
    """
    from echo_audio.evaluation.files import make_folder, read_about, write_whole

    make_folder(out)
    path = out / "run.json"
    there = read_about(out) if path.is_file() else {}
    if any(about.get(name) != value for name, value in there.items()):
        raise DataError(f"{out} holds a run with other settings (see {path}); give another --out, or delete that folder")
    write_whole(path, json.dumps(about, indent=1) + "\n")


def _passes(args: argparse.Namespace) -> list[Played]:
    """Every way of playing segments where segments are heard; else one pass."""
    if args.played:
        return [Played(name) for name in args.played]
    return list(Played) if args.mode == Mode.INTERLEAVED else [Played.CROP]


def _show(scores: dict[str, Any]) -> None:
    table = Table(title=f"{scores['n']} scenes, {scores['mode']}, seed {scores['seed']}", title_justify="left")
    for name in ("", "value", "95 % interval", "n"):
        table.add_column(name, justify="left" if not name else "right")
    for name, value in scores.items():
        if isinstance(value, dict) and "value" in value:
            _line(table, name, value)
        elif isinstance(value, dict):
            for part, estimate in value.items():
                _line(table, f"  {part}", estimate)
    console().print(table)


def _line(table: Table, name: str, estimate: dict[str, float]) -> None:
    low, high = estimate["low"], estimate["high"]
    table.add_row(name, f"{estimate['value']:.3f}", f"{low:.3f} to {high:.3f}", f"{estimate['n']:.0f}")


def _compare(args: argparse.Namespace) -> int:
    from echo_audio.evaluation.run import read_samples
    from echo_audio.evaluation.statistics import paired

    for folder in (args.first, args.second):
        if not (folder / f"{args.played}.jsonl").is_file():
            what = "this compares runs of `eval scenes --out`; for a benchmark's: echo-audio compare"
            raise DataError(f"{folder} has no {args.played}.jsonl: {what}")
    first, second = (read_samples(folder / f"{args.played}.jsonl") for folder in (args.first, args.second))
    keys = sorted(first.keys() & second.keys())
    if not keys:
        raise DataError(f"{args.first} and {args.second} share no question; give two folders written by --out")
    table = Table(title=f"{args.second} minus {args.first}, {len(keys)} questions", title_justify="left")
    for name in ("", "first", "second", "difference", "95 % interval", "p (McNemar)", "n"):
        table.add_column(name, justify="left" if not name else "right")
    for kind in ("all", *sorted({first[key].kind for key in keys})):
        some = [key for key in keys if kind in ("all", first[key].kind)]
        a, b = [first[key].correct for key in some], [second[key].correct for key in some]
        test = paired(a, b)
        shares = (f"{sum(a) / len(a):.3f}", f"{sum(b) / len(b):.3f}", f"{test.difference:+.3f}")
        table.add_row(kind, *shares, f"{test.low:+.3f} to {test.high:+.3f}", f"{test.p_value:.4f}", str(test.n))
    console().print(table)
    left = len(first.keys() ^ second.keys())
    if left:
        console().print(Text(f"{left} questions are only in one of the two and were left out.", "dim"))
    return 0
