"""`echo-audio serve`: the studio, for a browser, for OpenAI's clients, and for programs that read events."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from rich.text import Text

from echo_audio.cli.arguments import Parser, number, whole
from echo_audio.cli.console import console, shown
from echo_audio.cli.engines import add_engine
from echo_audio.cli.session import MAX_AT_ONCE, TINY, Manner, loading
from echo_audio.errors import ConfigError, MissingExtraError

KEY = "ECHO_AUDIO_API_KEY"
_SHORTEST_KEY = 16

_EXAMPLES = f"""examples:
  echo-audio serve                                   this machine only; open the address it prints
  echo-audio serve --model Qwen/Qwen2.5-Omni-7B
  {KEY}=... echo-audio serve --host 0.0.0.0     for others: clients show the key

OpenAI's clients: base_url http://127.0.0.1:8000/v1. docs/studio.md tells the rest."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    args = _parser().parse_args(arguments)
    key = key_of(args.host, without=args.without_key)
    try:
        from echo_audio.studio import serving
        from echo_audio.studio.api import make_app
        from echo_audio.studio.house import House
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("echo_audio"):
            raise
        raise MissingExtraError("The studio", "serve") from None

    house = House(
        key=key,
        hosts=serving.LOOPBACK if serving.is_loopback(args.host) else (),
        at_once=args.at_once,
        waiting=args.waiting,
        max_upload_bytes=round(args.max_upload_mb * 1e6),
        max_duration_s=args.max_duration_s,
        max_new_tokens=args.max_new_tokens,
    )
    sock = serving.bound(args.host, args.port)
    quiet_log(quiet=args.quiet)
    where = console()
    with sock, loading(Manner(model=args.model, engine=args.engine, device=args.device, at_once=args.at_once)) as model:
        app = make_app(model.engine, model.family, shown(args.name or args.model), house)
        address = where_it_is(args.host, sock.getsockname()[1])
        serving.serve(app, sock, house, lambda: where.print(_hello(address, args.host, key), soft_wrap=True))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="echo-audio serve",
        description="Serve a model: a page to ask and listen, OpenAI's chat completions with audio, and an event stream.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default=TINY, metavar="M", help="a folder, a hub id, or 'tiny': the one that ships (default)")
    add_engine(add)
    add("--name", metavar="NAME", help="what clients call it (default: the same)")
    add_address(parser, port=8000)
    add("--at-once", type=whole(1), default=MAX_AT_ONCE, metavar="N", help=f"reasonings in the batch (default {MAX_AT_ONCE})")
    add("--waiting", type=whole(0), default=256, metavar="N", help="more that may wait; others get 429 (default 256)")
    add("--max-upload-mb", type=number(0.01, 1000), default=64.0, metavar="MB", help="of a recording (default 64)")
    add("--max-duration-s", type=number(0.1, 3600), default=300.0, metavar="S", help="of a recording (default 300)")
    add("--max-new-tokens", type=whole(1), default=4096, metavar="N", help="tokens of one reasoning (default 4096)")
    add("--quiet", action="store_true", help="no line for each request")
    return parser


def add_address(parser: Parser, port: int) -> None:
    """The arguments that say where to listen, and to whom."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="H", help="address to listen on (default 127.0.0.1: this machine only)")
    add("--port", type=whole(0), default=port, metavar="P", help=f"default {port}; 0 takes any free one")
    add("--without-key", action="store_true", help="let everybody in who reaches --host; else the API key is taken from " + KEY)


def key_of(host: str, *, without: bool) -> str | None:
    """The API key that clients must show.

    Raises:
        ConfigError: others could reach the server, and nothing says that they may.
    """
    from echo_audio.cli.console import readable

    key = readable(os.environ.get(KEY, "")).strip()
    if without:
        return None
    if key and len(key) < _SHORTEST_KEY:
        raise ConfigError(f"{KEY} has {len(key)} characters, which can be guessed; give {_SHORTEST_KEY} or more")
    if not key and host not in ("localhost", "::1") and not host.startswith("127."):
        raise ConfigError(
            f"--host {host} lets others reach the server: set {KEY} to a secret that they must show, "
            "or say --without-key to let everybody in"
        )
    return key or None


def where_it_is(host: str, port: int) -> str:
    """The address to open in a browser on this machine."""
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def _hello(address: str, host: str, key: str | None) -> Text:
    alone = host in ("localhost", "::1") or host.startswith("127.")
    who = "by those who show the API key" if key else "from this machine" if alone else "by everybody"
    more = f"  (reached {who}; OpenAI's clients: {address}/v1; Ctrl-C stops it)"
    return Text.assemble("Echo's studio: ", (address, "bold"), (more, "dim"))


def quiet_log(*, quiet: bool) -> None:
    """Log lines to stderr: the studio's own, and what uvicorn warns of."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    for name, level in (("echo_audio.studio", logging.WARNING if quiet else logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False
