"""`echo-audio data`: make scenes with exactly known times, check a store, pack recorded clips into a bank."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from echo_audio.cli import eaqa
from echo_audio.cli.arguments import Parser, whole
from echo_audio.cli.console import console
from echo_audio.cli.progress import progress
from echo_audio.errors import DataError
from echo_audio.transcript import Mode, Question

if TYPE_CHECKING:
    from echo_audio.data.store import Store


def main(arguments: Sequence[str]) -> int:
    """Run the verb: 0 done, 1 when a store has problems."""
    if arguments and arguments[0] == "eaqa":  # its options may stand between its words, which argparse allows at the top only
        return eaqa.main(arguments[1:])
    args = _parser().parse_args(arguments)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="echo-audio data", description="Make and check data.")
    verbs = parser.add_subparsers(required=True, metavar="WHAT")
    scenes = verbs.add_parser("scenes", help="synthetic recordings with exactly known event times, and questions")
    scenes.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder; one begun before is continued")
    scenes.add_argument("--n", type=whole(1), default=10_000, help="rows (default 10000)")
    scenes.add_argument("--seed", type=int, default=7, help="default 7")
    scenes.add_argument("--split", choices=("train", "test"), default="train", help="which variants of the sounds")
    scenes.add_argument("--bank", type=Path, action="append", default=[], metavar="FILE", help="packed recorded clips")
    scenes.add_argument("--workers", type=whole(1), metavar="N", help="processes; all cores by default")
    scenes.set_defaults(run=_scenes)
    eaqa.add_verbs(verbs)
    check = verbs.add_parser("validate", help="check every row of a store against its grader and its audio")
    check.add_argument("store", type=Path)
    check.add_argument("--bank", type=Path, action="append", default=[], metavar="FILE", help="that its scenes were drawn with")
    check.set_defaults(run=_validate)
    out = verbs.add_parser("export", help="the rows of a store for another trainer")
    out.add_argument("store", type=Path, help="e.g. RUN/stores/sft")
    out.add_argument("--to", choices=("ms-swift", "verl", "questions"), required=True, help="questions: for ask --questions")
    out.add_argument("--out", type=Path, required=True, metavar="FILE", help=".jsonl or .parquet")
    out.add_argument("--mode", choices=[str(mode) for mode in Mode], default="grounded", help="what prompts ask for")
    audio = "paths, or samples inside the parquet, which verl 0.9's own dataset needs (its default)"
    out.add_argument("--audio", choices=("paths", "samples"), help=audio)
    out.set_defaults(run=_export)
    cues = verbs.add_parser("cues", help="how far guessing by the text or by one single cue gets, for each kind of question")
    cues.add_argument("--n", type=whole(1), default=2_000, help="rows of each kind (default 2000)")
    cues.add_argument("--seed", type=int, default=7, help="default 7")
    cues.add_argument("--split", choices=("train", "test"), default="test", help="which variants of the sounds")
    cues.add_argument("--bank", type=Path, action="append", default=[], metavar="FILE", help="packed recorded clips")
    cues.set_defaults(run=_cues)
    bank = verbs.add_parser("bank", help="pack labelled recorded clips into one file for --bank")
    source = bank.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", type=Path, help="JSON lines with file, label, licence, perhaps start_s and end_s")
    source.add_argument("--fsdd", type=Path, metavar="DIR", help="the Free Spoken Digit Dataset")
    bank.add_argument("--root", type=Path, help="where the manifest's files are, if not beside it")
    bank.add_argument(
        "--per-speaker", type=whole(1), metavar="N", help="at most N clips of each label and speaker; all by default"
    )
    bank.add_argument("--skip-unusable", action="store_true", help="leave out clips that cannot be used, naming each")
    bank.add_argument("--out", type=Path, required=True, metavar="FILE")
    bank.set_defaults(run=_bank)
    return parser


def _scenes(args: argparse.Namespace) -> int:
    from echo_audio.data.generate import generate_scenes
    from echo_audio.data.scene import Split
    from echo_audio.data.store import rows_in

    again = f"Start the same command again: {args.out} is continued where it stopped."
    try:
        with progress("scenes", args.n, done=min(args.n, rows_in(args.out))) as (step, _):
            made = generate_scenes(
                args.out, args.n, args.seed, split=Split(args.split), banks=args.bank, workers=args.workers, on_rows=step
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(again) from None
    there = rows_in(args.out)
    banks = "".join(f" --bank {bank}" for bank in args.bank)
    console().print(
        Text(f"{made} rows made, {there} in {args.out}. Check them: echo-audio data validate {args.out}{banks}"), soft_wrap=True
    )
    return 0


def _validate(args: argparse.Namespace) -> int:
    from echo_audio.data.generate import stock_of
    from echo_audio.data.store import Store
    from echo_audio.data.validate import validate

    store, stock = Store(args.store), None
    try:
        if not _is_eaqa(store):
            stock = stock_of(store, args.bank)
    except DataError as error:
        if args.bank:
            raise
        console().print(Text(f"Scenes are not drawn again to compare answers and audio: {error}"), soft_wrap=True)
    with progress("rows", len(store)) as (step, _):
        report = validate(store, lambda: step(1), stock)
    for problem, ids in sorted(report.problems.items(), key=lambda item: -len(item[1])):
        some = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        console().print(Text(f"{len(ids):6} {problem}: {some}"), soft_wrap=True)
    verdict = "nothing is wrong" if report.ok else f"{len(report.problems)} kinds of problem"
    console().print(Text(f"{report.n_rows} rows checked: {verdict}."))
    return 0 if report.ok else 1


def _is_eaqa(store: Store) -> bool:
    made_by = store.manifest.get("made_by")
    return isinstance(made_by, dict) and "eaqa" in made_by


def _export(args: argparse.Namespace) -> int:
    from echo_audio.data.export import Audio, Format, export
    from echo_audio.data.store import Store
    from echo_audio.models.qwen2_5_omni import Qwen25Omni

    store, mode = Store(args.store), Mode(args.mode)
    audio = Audio(args.audio) if args.audio else None

    def prompt(question: Question) -> str:
        return Qwen25Omni.prompt_text(question, mode)

    with progress("rows", len(store)) as (step, _):
        n = export(store, args.out, Format(args.to), prompt, audio, lambda: step(1))
    console().print(Text(f"{n} rows of {len(store)} in {args.out}"), soft_wrap=True)
    return 0


def _cues(args: argparse.Namespace) -> int:
    from echo_audio.data.cues import cue_table, format_table
    from echo_audio.data.scene import Split
    from echo_audio.data.scenes import default_weights, draw_row
    from echo_audio.data.stock import make_stock

    stock, split, n = make_stock(args.bank), Split(args.split), max(args.n, 8)
    kinds = default_weights(stock, Split.TEST)
    with progress("kinds", len(kinds)) as (step, _):
        table = []
        for kind in kinds:
            table += cue_table({kind: [draw_row(args.seed, index, split, stock, kind) for index in range(n)]})
            step(1)
    console().print(Text(format_table(table)), soft_wrap=True)
    return 0


def _bank(args: argparse.Namespace) -> int:
    from echo_audio.data.clips import ClipBank, clips_folder, fsdd_manifest, read_manifest, save_bank, thin

    if args.fsdd is not None:
        rows, root = fsdd_manifest(args.fsdd), args.fsdd
    else:
        rows, root = read_manifest(args.manifest), args.root or clips_folder(args.manifest)
    rows = rows if args.per_speaker is None else thin(rows, args.per_speaker)
    bank = ClipBank.from_rows(rows, root, _left_out if args.skip_unusable else None)
    save_bank(bank, args.out)
    size_mb = args.out.stat().st_size / 1e6
    console().print(Text(f"{len(bank.clips)} clips of {len(bank.labels)} labels in {args.out} ({size_mb:.1f} MB)."))
    return 0


def _left_out(error: DataError) -> None:
    console().print(Text(f"left out: {error}"), soft_wrap=True)
