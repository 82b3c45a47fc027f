"""`echo-audio eval attention`: how much attention falls on audio in the transcripts of a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from echo_audio.cli.arguments import whole
from echo_audio.cli.console import console
from echo_audio.cli.progress import progress
from echo_audio.errors import DataError
from echo_audio.models import folders
from echo_audio.transcript import Played, Transcript

if TYPE_CHECKING:
    from echo_audio.evaluation.base import Item, Items, Sample

FILE = "attention.json"


def add_attention(verbs: Any) -> None:
    """The verb below `eval`."""
    about = "attention on audio in a run's transcripts: first hearing and re-listened apart"
    parser = verbs.add_parser("attention", help=about, description=about)
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder of --out, of a benchmark or of scenes")
    parser.add_argument("--model", metavar="M", help="where the run's model lies now, if not where it lay")
    parser.add_argument("--device", metavar="D", help="cpu or cuda; a GPU where there is one")
    parser.add_argument("--n", type=whole(1), metavar="N", help="the first N transcripts only")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write the numbers there too (always: RUN/{FILE})")
    parser.set_defaults(run=_attention)


def _attention(args: argparse.Namespace) -> int:
    import torch

    from echo_audio.evaluation.attention import tally
    from echo_audio.evaluation.files import read_about, write_whole
    from echo_audio.evaluation.run import Hear
    from echo_audio.models.thinker import Thinker

    about = read_about(args.run_folder)
    folder = _model(about, args.model)
    items, samples = _asked(args.run_folder, about)
    samples = [s for s in samples if s.transcript and s.repeat == 0 and s.rotation == 0][: args.n]
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    with console(to_stderr=True).status(f"loading {folder} ..."):
        thinker = Thinker.load(folder, dtype=dtype, device=device)
    hear = Hear(about.get("how", {}).get("hear", "recording"))
    with progress("attention", len(samples)) as (step, _):
        numbers = tally(thinker, _transcripts(items, samples, step), hear).to_json()
    numbers |= {"model": str(about.get("model", "")), "weights": folders.fingerprint(folder)}
    text = json.dumps(numbers, indent=1) + "\n"
    for path in (args.run_folder / FILE, *([args.json] if args.json else [])):
        write_whole(path, text)
    _show(numbers)
    return 0


def _model(about: dict[str, Any], given: str | None) -> Path:
    """The folder of the run's model.

    Raises:
        DataError: it has other weights than those that were asked.
    """
    folder = folders.resolve(given or about.get("model", folders.TINY))
    weights = about.get("weights")
    if weights and weights != folders.fingerprint(folder):
        raise DataError(f"{folder} is not the model of this run: its weights are others; give that one with --model")
    return folder


def _asked(folder: Path, about: dict[str, Any]) -> tuple[Items, list[Sample]]:
    """The questions of a run, and what was said to them.

    Raises:
        DataError: there is no transcript.
    """
    from echo_audio.evaluation.files import read_lines, read_run

    if "benchmark" not in about:
        from echo_audio.data.stock import make_stock
        from echo_audio.evaluation.scenes import SceneItems

        if about.get("banks"):
            raise DataError(f"{folder} is about recorded clips, and where those lie was not kept; run it without --bank")
        return SceneItems(make_stock([]), about["n"], seed=about["seed"]), read_lines(folder / f"{Played.CROP}.jsonl")
    from echo_audio.evaluation.benchmark import load_benchmark
    from echo_audio.evaluation.items import BenchmarkItems
    from echo_audio.evaluation.known import BENCHMARKS

    loaded = load_benchmark(BENCHMARKS[about["benchmark"]], Path(about["data"]), Path(about["questions"]))
    if loaded.sha256 != about["sha256"]:
        raise DataError(f"{loaded.path} is not the question file of this run any more; put that one back")
    return BenchmarkItems(loaded, about["n"]), read_run(folder)[1]


def _transcripts(items: Items, samples: list[Sample], step: Any) -> Iterator[tuple[Transcript, Item]]:
    """Transcripts with their items, each made when it is its turn."""
    from echo_audio.evaluation.scores import transcript_of

    places = {items.key(index): index for index in range(len(items))}
    for sample in samples:
        transcript = transcript_of(sample)
        yield transcript, items.item(places[sample.key], transcript.played is Played.SWAPPED)
        step(1)


def _show(numbers: dict[str, Any]) -> None:
    where = console()
    where.print(Text(f"attention on audio, {numbers['n']} transcripts, {numbers['n_tokens']} sampled tokens", "bold"))
    names = {"first": "the first hearing", "again": "what was heard again", "audio": "both"}
    for title, parts in (("all tokens", numbers), ("after the first re-listening", numbers["after_listening_again"])):
        said = [f"{names[part]} {_percent(parts[part])}" for part in names] if parts else ["never"]
        where.print(Text(f"{title}: " + ", ".join(said)))
    even = numbers["uniform"]
    where.print(Text(f"even attention: the first hearing {100 * even['first']:.1f} %, heard again {100 * even['again']:.1f} %"))


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} % ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"
