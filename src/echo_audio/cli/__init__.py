"""The command line: the composition root, and the only room that prints.

A verb is a module of this package with `main(arguments) -> exit code`; it is imported only when it is called, so that
`echo-audio --help` stays instant. Exit codes: 0 done, 1 done with failures, 2 not done (one sentence says why),
130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from echo_audio import __version__
from echo_audio.cli.arguments import Parser, nearest
from echo_audio.errors import ConfigError, EchoError

VERBS = {
    "ask": ("echo_audio.cli.ask", "ask a question about recordings, and watch the answer come about"),
    "demo": ("echo_audio.cli.demo", "ask the shipped model about the recordings that ship with it"),
    "serve": ("echo_audio.cli.serve", "the studio: a page to ask and listen, and a server for OpenAI's clients"),
    "view": ("echo_audio.cli.view", "saved transcripts in the studio's page: runs, samples of training"),
    "doctor": ("echo_audio.cli.doctor", "what this machine has, what is missing, and the command that cures it"),
    "data": ("echo_audio.cli.data", "make and check data: scenes with exactly known times"),
    "eval": ("echo_audio.cli.evaluate", "score a model on a published test"),
    "score": ("echo_audio.cli.score", "score a run again, without a model"),
    "report": ("echo_audio.cli.report", "a run as a page: tables, pictures, every sample"),
    "compare": ("echo_audio.cli.compare", "two runs on the same questions, with a paired test"),
    "sft": ("echo_audio.cli.sft", "train: supervised fine-tuning on written reasonings"),
    "grpo": ("echo_audio.cli.grpo", "train: reinforcement learning over reasonings that listen again"),
    "ablation": ("echo_audio.cli.ablation", "a whole plan by one command: train models, score rows, write the table"),
    "export": ("echo_audio.cli.export", "a trained model as a folder that transformers and vLLM load"),
}

_PATHS = {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM,
    errno.EROFS,
}  # fmt: skip
"""What is wrong with a path that somebody gave."""

_EPILOG = """begin with:
  echo-audio demo                          the shipped model, about recordings that ship with it
  echo-audio ask FILE "What is heard?"     your own
  echo-audio VERB --help                   explains a verb"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point `echo-audio`; always ends the process."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code.

    A full disk, and what is wrong with a path, are one sentence; errors that nobody foresaw pass through, with their traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end the work
    try:
        return _dispatch(arguments)
    except EchoError as error:
        sys.stderr.write(f"echo-audio: {error.plain}\n")
        return 2
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"\nStopped. {stopped}\n" if stopped.args else "\nStopped.\n")
        return 130
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("echo_audio"):
            raise
        sys.stderr.write(f"echo-audio: the package {error.name} is missing; `echo-audio doctor` names the cure\n")
        return 2
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        _drop_output()
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _drop_output()
            sys.stderr.write("echo-audio: the disk is full; make room, or write somewhere else\n")
            return 2
        if error.errno not in _PATHS or error.filename is None:
            raise
        sys.stderr.write(f"echo-audio: {error.filename}: {error.strerror}; check the path and its permissions\n")
        return 2


def _drop_output() -> None:
    """What is left in stdout's buffer goes nowhere; at exit Python would try to write it again, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in VERBS:
        module = importlib.import_module(VERBS[arguments[0]][0])
        return module.main(arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        cure = nearest(arguments[0], VERBS) or f"; the verbs are {', '.join(VERBS)}"
        raise ConfigError(f"there is no verb {arguments[0]!r}{cure}")
    parser = _parser()
    parser.parse_args(arguments)
    parser.print_help()
    return 0


def _parser() -> Parser:
    """What `--help` shows. The verbs' own arguments are parsed by the verbs."""
    parser = Parser(
        prog="echo-audio",
        description="Audio language models that listen again while they reason.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"echo-audio {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", title="verbs")
    for name, (_, about) in VERBS.items():
        verbs.add_parser(name, help=about)
    return parser
