"""`echo-audio sft CONFIG key=value ...`: supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from echo_audio.cli.arguments import Parser
from echo_audio.cli.console import console
from echo_audio.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(
        prog="echo-audio sft",
        description="Train on written reasonings. A run that was killed goes on when the same command is started again.",
    )
    parser.add_argument("config", type=Path, help="a TOML file, e.g. configs/tiny-base.toml")
    parser.add_argument("override", nargs="*", help="settings on top of it: train.learning_rate=1e-4 out=runs/mine")
    parser.add_argument("--dry-run", action="store_true", help="show the resolved settings and stop")
    args = parser.parse_intermixed_args(arguments)
    try:
        text = args.config.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{args.config} cannot be read ({error.strerror}); the published ones are in configs/") from None
    from echo_audio.training.settings import SftSettings

    settings = SftSettings.parse(text, args.override)
    console().print(Text(settings.to_toml().strip(), "dim"), soft_wrap=True)
    if args.dry_run:
        return 0
    from echo_audio.training.sft import train

    folder = train(settings)
    console().print(Text(f"The model is in {folder}. Ask it: echo-audio ask FILE QUESTION --model {folder}"), soft_wrap=True)
    return 0
