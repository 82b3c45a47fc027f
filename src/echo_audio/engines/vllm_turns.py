"""Whole turns in vLLM's own process: it keeps what a row writes until its turn ends, and ends it at stop texts itself.

vLLM sends every token of every row to the process that asked, with three arrays for its log-probability, decodes it there
twice (the text, and the name of the token beside its log-probability), and looks for stop texts in that text: at 155 rows a
step that costs both processes more than the GPU needs for the step (docs/performance.md). Here a step sends nothing for a
row that goes on. Nothing of vLLM is imported: `vllm_scheduler` puts this into its scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KEY = "echo_turn"
"""Where a request says in its `extra_args` that it is a turn, and where its log-probabilities come back."""


@dataclass(slots=True)
class Stops:
    """Stop texts, found from ids.

    Args:
        token_bytes: the bytes of each id.
        texts: their completion ends a turn.
    """

    token_bytes: Sequence[bytes]
    texts: tuple[str, ...]
    _texts: list[bytes] = field(init=False)
    _closing: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self._texts = [text.encode() for text in self.texts if text]
        last = {text[-1] for text in self._texts}
        self._closing = frozenset(i for i, piece in enumerate(self.token_bytes) if not last.isdisjoint(piece))

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the last of these ids completes one of the texts."""
        if not ids or ids[-1] not in self._closing:
            return False
        newest = self.token_bytes[ids[-1]]
        tail, at, enough = newest, len(ids) - 1, max(map(len, self._texts)) + len(newest)
        while at and len(tail) < enough:
            at -= 1
            tail = self.token_bytes[ids[at]] + tail
        return any(text in tail[-(len(newest) + len(text) - 1) :] for text in self._texts)


@dataclass(slots=True)
class Turn:
    """What one row has written since something was last sent of it.

    Args:
        stops: the texts that end it.
        announced: whether its first token is sent at once.
    """

    stops: Stops
    announced: bool
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    first: Any = None


class Turns:
    """The turns in flight, by request.

    Args:
        token_bytes: the bytes of each id.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self.token_bytes = token_bytes
        self._open: dict[str, Turn] = {}
        self._stops: dict[tuple[str, ...], Stops] = {}

    def begin(self, name: str, extra_args: Mapping[str, Any] | None) -> None:
        """A request comes: note it if it is a turn."""
        asked = (extra_args or {}).get(KEY)
        if asked is None:
            return
        texts = tuple(asked["stop"])
        if texts not in self._stops:
            self._stops[texts] = Stops(self.token_bytes, texts)
        self._open[name] = Turn(self._stops[texts], bool(asked["announced"]))

    def forget(self, names: Sequence[str]) -> None:
        """These requests are gone."""
        for name in names:
            self._open.pop(name, None)

    def completed(self, name: str, ids: Sequence[int]) -> bool:
        """Whether the newest of all ids that a request has written completes a stop text."""
        turn = self._open.get(name)
        return turn is not None and turn.stops(ids)

    def holds(self, names: Sequence[str]) -> bool:
        """Whether all of these are turns."""
        return all(name in self._open for name in names)

    def passes(self, output: Any, logprobs: Sequence[float]) -> bool:
        """Take what a step gave a row.

        Args:
            output: vLLM's output for the row; changed into what is sent.
            logprobs: of its new ids.

        Returns:
            Whether it is to be sent.
        """
        turn = self._open.get(output.request_id)
        if turn is None:
            return True
        turn.ids += output.new_token_ids
        turn.logprobs += logprobs
        turn.first = turn.first or output.prefill_stats
        if output.finish_reason is None and not (turn.announced and turn.ids):
            return False
        output.new_token_ids, output.new_logprobs = turn.ids, None
        output.prefill_stats = turn.first
        # All so far, not the new ones: outputs that are merged on their way keep the last of these only.
        output.kv_transfer_params = {KEY: list(turn.logprobs)}
        turn.ids, turn.announced = [], False
        if output.finish_reason is not None:
            del self._open[output.request_id]
        return True
