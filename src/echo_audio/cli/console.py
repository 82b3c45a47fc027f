"""Writing to a terminal or a pipe: consoles, safe text, and a flow of words that wraps while it comes."""

from __future__ import annotations

import json
import sys
import unicodedata

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

WIDEST = 100
"""Longer lines are hard to read; wider terminals keep a margin."""


class _Console(Console):
    """Rich's console, which would end the process by itself when the reader of a pipe went away."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line.

        Raises:
            BrokenPipeError: always; it is the error being handled.
        """
        raise


def console(*, to_stderr: bool = False) -> Console:
    """A console that prints texts as they are: no markup, no highlighting. Colour only on terminals (and NO_COLOR)."""
    return _Console(stderr=to_stderr, markup=False, highlight=False, emoji=False)


def is_utf(encoding: str | None) -> bool:
    """Whether every character can be written in this encoding."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def json_line(value: object) -> str:
    """A value as one line of JSON, for stdout: escaped where stdout's encoding could not hold it."""
    return json.dumps(value, ensure_ascii=not is_utf(sys.stdout.encoding)) + "\n"


def readable(text: str) -> str:
    """Text that can be encoded: bytes of arguments and file names that were not text are read as UTF-8, else replaced."""
    if not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # half a character, out of JSON
        return text.encode("utf-8", "replace").decode("utf-8")


def width_of(where: Console) -> int:
    """Columns to use, of at least 20."""
    return max(20, min(where.width, WIDEST))


_TURNERS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of writing."""


def shown(text: str) -> str:
    """Text without control characters: what a model or a file says must not steer the terminal."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(c) else c for c in readable(text))


def _steers(c: str) -> bool:
    return c not in "\n\t" and (unicodedata.category(c) == "Cc" or c in _TURNERS)


class Flow:
    """A paragraph that grows by pieces. On a terminal words wrap at the edge; in a pipe lines stay whole."""

    def __init__(self, where: Console, indent: int = 2) -> None:
        self._where = where
        self._indent = indent
        self._wraps = where.is_terminal
        self._room = width_of(where) - indent - 1
        self._word: list[tuple[str, str]] = []
        self._word_width = 0
        self._column = 0
        self._space = False
        self._fresh = True  # at the start of a line, before its indent

    def write(self, text: str, style: str = "") -> None:
        """Add a piece; a word is shown when it is complete."""
        for c in shown(text):
            if c == "\n":
                self._line_break()
            elif c in " \t":
                self._show_word()
                self._space = not self._fresh
            else:
                self._grow(c, style)

    def finish(self) -> None:
        """Show what is left, and end the line."""
        self._show_word()
        if not self._fresh:
            self._put("\n", "")
        self._fresh, self._column, self._space = True, 0, False

    def _grow(self, c: str, style: str) -> None:
        if self._word and self._word[-1][1] == style:
            self._word[-1] = (self._word[-1][0] + c, style)
        else:
            self._word.append((c, style))
        self._word_width += cell_len(c)
        if self._wraps and self._word_width >= self._room:  # longer than a line: break it
            self._show_word()

    def _line_break(self) -> None:
        self._show_word()
        if not self._fresh:
            self._put("\n", "")
        self._fresh, self._column, self._space = True, 0, False

    def _show_word(self) -> None:
        if not self._word:
            return
        gap = 1 if self._space else 0
        if self._wraps and self._column and self._column + gap + self._word_width > self._room:
            self._put("\n", "")
            self._fresh, self._column, gap = True, 0, 0
        lead = " " * self._indent if self._fresh else " " * gap
        self._put(lead, "")
        for text, style in self._word:
            self._put(text, style)
        self._column += gap + self._word_width
        self._word, self._word_width, self._space, self._fresh = [], 0, False, False

    def _put(self, text: str, style: str) -> None:
        if text:
            self._where.print(Text(text, style=style), end="", soft_wrap=True)
