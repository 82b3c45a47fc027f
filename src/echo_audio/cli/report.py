"""`echo-audio report`: runs as pages that need nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from echo_audio.cli.arguments import Parser, number
from echo_audio.cli.console import console
from echo_audio.errors import DataError

if TYPE_CHECKING:
    from echo_audio.evaluation.report_samples import Sounds


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="echo-audio report", description="Write report.html into the folder of each run.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of --out")
    parser.add_argument("--beside", type=Path, metavar="RUN", help="another run on the same questions, shown side by side")
    parser.add_argument("--no-audio", action="store_true", help="leave the recordings out")
    parser.add_argument("--embed-mb", type=number(0), default=20.0, metavar="MB", help="audio put into the page (default 20)")
    args = parser.parse_args(arguments)
    from echo_audio.evaluation.files import check_same_questions, read_run, write_whole
    from echo_audio.evaluation.report import report

    other = read_run(args.beside) if args.beside is not None else None
    for folder in args.runs:
        about, samples = read_run(folder)
        if other is not None:
            check_same_questions(about, other[0])
        extras = {"speeds": _speeds(folder), "attention": _attention(folder)}
        sounds = None if args.no_audio else _sounds(about)
        page = report(about, samples, other, sounds=sounds, embed_mb=args.embed_mb, **extras)
        write_whole(folder / "report.html", page)
        console().print(Text(f"{folder / 'report.html'}: {len(samples)} samples, {len(page.encode()) / 1e6:.1f} MB"))
    return 0


def _sounds(about: dict[str, Any]) -> Sounds | None:
    """Where a run's recordings are; of scenes they are rendered again, unless they hold recorded clips."""
    from echo_audio.evaluation.report_samples import files_in, made_by

    if "data" in about:
        return files_in(Path(about["data"]))
    if about.get("banks") or "seed" not in about:
        return None
    from echo_audio.data.stock import make_stock
    from echo_audio.evaluation.scenes import SceneItems

    return made_by(SceneItems(make_stock([]), about["n"], seed=about["seed"]))


def _speeds(folder: Path) -> list[dict[str, Any]]:
    path = folder / "speed.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _attention(folder: Path) -> dict[str, Any] | None:
    """What `eval attention` left there.

    Raises:
        DataError: it is damaged.
    """
    path = folder / "attention.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        raise DataError(f"{path} is damaged; delete it, or make it anew with echo-audio eval attention") from None
