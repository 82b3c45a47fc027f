"""`echo-audio export RUN OUT`: a trained model as a folder that transformers and vLLM load."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from echo_audio.cli.arguments import Parser, whole
from echo_audio.cli.console import console
from echo_audio.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from echo_audio.models.thinker import Thinker
    from echo_audio.training.export import Probe

_EXAMPLES = """examples:
  echo-audio export runs/mine exported --verify        how the run ended, or its newest checkpoint
  echo-audio export runs/mine exported --take best     best, last, model, or the number of a step
  echo-audio export tiny exported                      a model folder in the published layout, for vLLM
  echo-audio export --check exported                   is it still what was exported?"""

TOLERANCE = 1e-4
"""In float32: what two ways of the same weights into a model may differ by in a log-probability."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    args = _parser().parse_args(arguments)
    if args.check:
        return _check(args.folders)
    if len(args.folders) != 2:
        raise ConfigError("export needs a run and a new folder: echo-audio export RUN OUT")
    return _export(args, args.folders[0], Path(args.folders[1]))


def _parser() -> Parser:
    parser = Parser(
        prog="echo-audio export",
        usage="echo-audio export RUN OUT [options]\n       echo-audio export --check FOLDER",
        description="Write a trained model as a Hugging Face folder: adapters merged, shares of several processes joined, names "
        "and shards as in the base, with its tokenizer, processor, chat template and side files, and a manifest of hashes. "
        "Whatever Echo did not train keeps its bytes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="RUN OUT", help="a run or model folder; and where to write, new or empty")
    parser.add_argument("--take", default="", metavar="WHICH", help="model, best, last or a step; model or else last by default")
    parser.add_argument("--base", metavar="M", help="take names, shards and small files from this model, not the run's")
    layouts, formats = ("omni", "thinker"), ("bfloat16", "float16", "float32")
    parser.add_argument("--layout", choices=layouts, default=layouts[0], help="omni, as published, or the thinker alone")
    parser.add_argument("--dtype", choices=formats, help="number format of the thinker; that of the base by default")
    parser.add_argument("--verify", action="store_true", help="ask both the run's model and the folder, and compare")
    parser.add_argument("--verify-tokens", type=whole(1), default=48, metavar="N", help="tokens of each question (48)")
    parser.add_argument("--check", action="store_true", help="compare a folder with its manifest, nothing else")
    return parser


def _check(names: Sequence[str]) -> int:
    from echo_audio.models.published import check

    if len(names) != 1:
        raise ConfigError("--check takes one folder: echo-audio export --check FOLDER")
    console().print(Text(f"All {check(Path(names[0]))} files in {names[0]} are as they were exported."), soft_wrap=True)
    return 0


def _export(args: argparse.Namespace, run: str, out: Path) -> int:
    import torch

    from echo_audio import __version__
    from echo_audio.models import folders, published
    from echo_audio.models.thinker import published_weights
    from echo_audio.training.export import Run

    where = console(to_stderr=True)
    found = Run.read(run)
    place = found.place(args.take)
    base = published.Base.read(folders.resolve(args.base) if args.base else found.source)
    dtype = getattr(torch, args.dtype) if args.dtype else base.dtype()
    where.print(Text(f"Weights from {place}, all else from {base.folder}.", "dim"), soft_wrap=True)
    thinker = found.load(place)
    counts = published.write(
        published_weights(thinker, torch.float32),
        base,
        out,
        layout=published.Layout(args.layout),
        dtype=dtype,
        about={"echo_audio": __version__, "run": str(place), "base": str(base.folder)},
        told=lambda name: where.print(Text(f"writing {name}", "dim"), soft_wrap=True),
    )
    told = f"{counts.changed} weights changed, {counts.same} as in the base, {counts.others} of talker and token2wav untouched"
    console().print(Text(f"{out}: {told}; hashes in {published.MANIFEST}."), soft_wrap=True)
    if args.verify:
        console().print(Text(_verify(thinker, out, dtype, args.verify_tokens)), soft_wrap=True)
    return 0


def _verify(thinker: Thinker, out: Path, dtype: torch.dtype, n_tokens: int) -> str:
    """Ask the run's model, the same in the folder's number format, and the folder.

    Raises:
        TrainingError: the last two differ.
    """
    from echo_audio.models.thinker import Thinker as Loaded
    from echo_audio.training.export import agreement, round_weights

    trained = _probes(thinker, n_tokens)
    round_weights(thinker, dtype)
    stored = _probes(thinker, n_tokens)
    rounding = agreement(thinker, trained, stored)
    loaded = Loaded.load(out)
    same = agreement(loaded, stored, _probes(loaded, n_tokens))
    same.check(TOLERANCE)
    return (
        f"Verified on {same.n_tokens} tokens: the folder writes what the run's model writes; log-probabilities differ by "
        f"{same.largest:.1g} at most. Rounding to {str(dtype).removeprefix('torch.')} moved them by {rounding.mean:.1g} on "
        f"average, {rounding.largest:.1g} at most, and kept {rounding.equal_ids:.0%} of the greedy tokens."
    )


def _probes(thinker: Thinker, n_tokens: int) -> list[Probe]:
    """The model about the first two recordings of the demo."""
    from echo_audio.audio import load
    from echo_audio.cli.demo import FOLDER, QUESTIONS
    from echo_audio.cli.session import read_items
    from echo_audio.encoding import TranscriptEncoder
    from echo_audio.training.export import probe
    from echo_audio.transcript import Mode, Question, Transcript

    probes: list[Any] = []
    for item in read_items(FOLDER / QUESTIONS)[:2]:
        recording = load(item.audio)
        question = Question(item.text, recording.id, recording.duration_s, item.choices)
        opened = Transcript.open(question, thinker.family.prompt(question, Mode.INTERLEAVED))
        probes.append(asyncio.run(probe(thinker, opened, TranscriptEncoder(thinker.family, recording), n_tokens)))
    return probes
