"""Reading command lines: one sentence for each mistake, and the nearest name that there is."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from echo_audio.errors import ConfigError

Kind = TypeVar("Kind", bound=StrEnum)

_CHOICE = re.compile(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name that is most like this one; empty when none is."""
    names = sorted(known)
    longer = [full for full in names if len(name) > 3 and full.startswith(name)]  # an abbreviation
    near = longer or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ConfigError, names what is nearest, and takes no abbreviated options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Argparse's own complaint, as one sentence.

        Raises:
            ConfigError: always.
        """
        wrong = _CHOICE.match(message)
        if wrong is not None:
            known = [name.strip("' ") for name in wrong[3].split(",")]
            message = f"{wrong[1]}: {wrong[2]!r} is none of {', '.join(known)}{nearest(wrong[2], known)}"
        for action in self._actions:
            if action.nargs == "*":  # may be left out, and argparse names it all the same
                message = message.removesuffix(f", {action.dest}")
        raise ConfigError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")

    # argparse types these by overloads; the namespace is never given here.
    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse all of them.

        Raises:
            ConfigError: one is unknown or has a bad value.
        """
        known, rest = self.parse_known_args(args, namespace)
        return self._checked(known, rest)

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """The same, where options may stand between words.

        Raises:
            ConfigError: one is unknown or has a bad value.
        """
        known, rest = self.parse_known_intermixed_args(args, namespace)
        return self._checked(known, rest)

    def _checked(self, known: argparse.Namespace, rest: Sequence[str]) -> argparse.Namespace:
        if not rest:
            return known
        options = [word for word in rest if word.startswith("-") and word != "--"]
        if not options:
            self.error(f"there is no place for {' '.join(map(repr, rest))}")
        if Path(options[0]).is_file():
            self.error(f"{options[0]!r} is a file whose name looks like an option; write ./{options[0]}")
        name = options[0].partition("=")[0]
        return self.error(f"unknown option {name}{nearest(name, self._options())}")

    def _options(self) -> list[str]:
        """Option names, those of verbs below this one too."""
        names = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
                names += [name for below in action.choices.values() for name in below._options()]
        return names


def one_of(kind: type[Kind]) -> Callable[[str], Kind]:
    """A type for `add_argument`: a member of an enumeration, by its value."""

    def read(text: str) -> Kind:
        known = [str(member) for member in kind]
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}{nearest(text, known)}")
        return kind(text)

    return read


def whole(low: int) -> Callable[[str], int]:
    """A type for `add_argument`: a whole number of at least `low`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,15}", text.strip()) or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return int(text)

    return read


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable[[str], float]:
    """A type for `add_argument`: a finite number from `low` (or above it, where `open_low`) to `high`."""
    above = "above" if open_low else "of at least"
    wanted = f"{above} {low:g}" + ("" if math.isinf(high) else f" and at most {high:g}")

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high) or (open_low and value == low):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {wanted}")
        return value

    return read
