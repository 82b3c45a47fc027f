"""`echo-audio view`: saved transcripts in the studio's page, with the sounds they rest on."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from echo_audio.cli.arguments import Parser, whole
from echo_audio.cli.console import console, shown
from echo_audio.cli.serve import add_address, key_of, quiet_log, where_it_is
from echo_audio.errors import ConfigError, DataError, MissingExtraError

_EXAMPLES = """examples:
  echo-audio view transcripts.jsonl                     of echo-audio ask --save
  echo-audio view runs/mmar runs/mmar-grounded          evaluations; their data folder is known
  echo-audio view runs/smoke-grpo                       samples of reinforcement learning; scenes are drawn again
  echo-audio view transcripts.jsonl --out page.html     one file for somebody else"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    args = _parser().parse_args(arguments)
    try:
        from echo_audio.studio import serving
        from echo_audio.studio.house import House
        from echo_audio.studio.saved import Saved
        from echo_audio.studio.sources import Sources
        from echo_audio.studio.viewing import in_a_file, view_app
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("echo_audio"):
            raise
        raise MissingExtraError("The studio", "serve") from None
    from echo_audio.data.stock import make_stock

    key = key_of(args.host, without=args.without_key)
    where = console()
    saved = Saved(args.runs)
    sources = Sources([*args.audio, *_data_folders(args.runs)], make_stock(args.bank))
    title = ", ".join(shown(path.name or str(path)) for path in args.runs)
    many = f"{len(saved.entries)} transcripts" + (f", {saved.n_strange} lines left out" if saved.n_strange else "")
    if args.out is not None:
        if len(saved.entries) > args.at_most:
            many = f"the first {args.at_most} of {many}"
        page = in_a_file(saved, sources, range(min(args.at_most, len(saved.entries))), title)
        _write(args.out, page)
        where.print(Text(f"{shown(str(args.out))}: {many}, {len(page.encode()) / 1e6:.1f} MB"), soft_wrap=True)
        return 0
    sock = serving.bound(args.host, args.port)
    house = House(key=key, hosts=serving.LOOPBACK if serving.is_loopback(args.host) else ())
    quiet_log(quiet=True)
    with sock:
        app = view_app(saved, sources, f"{title} · {many}", house)
        address = where_it_is(args.host, sock.getsockname()[1])
        hello = Text.assemble(f"{many}: ", (address, "bold"), ("  (Ctrl-C stops it)", "dim"))
        serving.serve(app, sock, house, lambda: where.print(hello, soft_wrap=True))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="echo-audio view",
        description="Look at saved transcripts, and hear the seconds they rest on.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN_OR_JSONL", help="folders of runs, or files of transcripts")
    add("--audio", type=Path, action="append", default=[], metavar="DIR", help="where recordings lie; repeat it")
    add("--bank", type=Path, action="append", default=[], metavar="FILE", help="packed clips that scenes were drawn with")
    add("--out", type=Path, metavar="FILE", help="write one HTML file instead, which needs no server")
    add("--at-most", type=whole(1), default=30, metavar="N", help="transcripts in that file (default 30)")
    add_address(parser, port=8001)
    return parser


def _data_folders(runs: Sequence[Path]) -> list[Path]:
    """The folders of audio that evaluations say they were made from."""
    found: list[Path] = []
    for run in runs:
        about = run / "run.json"
        try:
            values = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        except (OSError, ValueError):
            raise DataError(f"{about} cannot be read; is {run} the folder of a run?") from None
        if isinstance(values, dict) and isinstance(values.get("data"), str):
            found.append(Path(values["data"]))
    return found


def _write(path: Path, page: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be written: {error.strerror}; check the folder") from None
    finally:
        part.unlink(missing_ok=True)
