"""The content-addressed cache of paid calls: one append-only file, so that nothing is ever paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint answered.

    Args:
        text: of the message.
        whole: False where it was cut off at `max_tokens`.
        tokens_in, tokens_out: as the endpoint counts them.
    """

    text: str
    whole: bool = True
    tokens_in: int = 0
    tokens_out: int = 0


def key_of(request: Mapping[str, Any]) -> str:
    """The address of a request: a hash of all that it asks (the model's name among it), not of whom."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class JsonLines:
    """An append-only file of JSON objects. A line is there whole or not at all: half a last one is cut off when opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._cut_half_a_line()

    def _cut_half_a_line(self) -> None:
        size = os.fstat(self._file).st_size
        at = size
        while at > 0:
            begin = max(0, at - 65_536)
            newline = os.pread(self._file, at - begin, begin).rfind(b"\n")
            if newline >= 0:
                at = begin + newline + 1
                break
            at = begin
        if at != size:
            os.ftruncate(self._file, at)

    def lines(self) -> list[dict[str, Any]]:
        """All objects, in order."""
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    def append(self, value: Mapping[str, Any]) -> None:
        """Add one.

        Raises:
            OSError: the disk is full; what was written of the line is taken back.
        """
        line = (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        before, done = os.fstat(self._file).st_size, 0
        try:
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError:
            os.ftruncate(self._file, before)
            raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class Calls:
    """The calls of a run by their address.

    Args:
        path: `calls.jsonl` of the run.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)
        self._known: dict[str, Reply] = {}
        self.spent: dict[tuple[str, str], list[int]] = {}
        for line in self._lines.lines():
            self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        reply = Reply(line["text"], line["whole"], line["in"], line["out"])
        self._known[line["key"]] = reply
        sums = self.spent.setdefault((line["stage"], line["model"]), [0, 0, 0])
        for place, more in enumerate((1, reply.tokens_in, reply.tokens_out)):
            sums[place] += more

    def get(self, key: str) -> Reply | None:
        """The reply to that request, if it was ever answered."""
        return self._known.get(key)

    def put(self, key: str, stage: str, model: str, reply: Reply) -> None:
        """Keep a reply."""
        line = {"key": key, "stage": stage, "model": model, "text": reply.text, "whole": reply.whole}
        line |= {"in": reply.tokens_in, "out": reply.tokens_out}
        self._lines.append(line)
        self._take(line)

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()
