"""A turn while it comes: ids in, pieces of text out, and where it ends. Everything is found from the ids."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

from echo_audio.listen import OnPiece, Turn, TurnStop
from echo_audio.models.qwen2_5_omni import Qwen25Omni


@dataclass(slots=True)
class Writing:
    """Collects the ids of one turn.

    Args:
        family: whose ids they are.
        stop: texts whose completion ends the turn.
        allowance: ids at most.
        on_piece: told of each piece, without what overshoots a stop text.
    """

    family: Qwen25Omni
    stop: tuple[str, ...]
    allowance: int
    on_piece: OnPiece | None = None
    ended: TurnStop | None = None
    _ids: list[int] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _pieces: list[str] = field(default_factory=list)
    _text: str = ""
    _in_character: bool = False
    _utf8: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    @property
    def ids(self) -> Sequence[int]:
        """What came so far."""
        return self._ids

    def take(self, ids: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Add what was sampled; ids behind the end of the turn are dropped.

        Returns:
            Whether the turn has ended.
        """
        if self._take_whole(ids, logprobs):
            return False
        for token, logprob in zip(ids, logprobs, strict=True):
            if self.ended is not None:
                break
            self._add(token, logprob if logprob < 0.0 else 0.0)
        return self.ended is not None

    def _take_whole(self, ids: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Add all of them at once, if none ends the turn, none is a part of a character, and nobody listens; else nothing."""
        if self.ended is not None or self._in_character or self.on_piece is not None:
            return False
        pieces = [piece for piece in map(self.family.token_texts.__getitem__, ids) if piece is not None]
        if len(pieces) < len(ids) or len(self._ids) + len(ids) >= self.allowance or not self.family.ends.isdisjoint(ids):
            return False
        before, text = len(self._text), self._text + "".join(pieces)
        if any(text.find(stop, max(0, before - len(stop) + 1)) >= 0 for stop in self.stop):
            return False
        self._text = text
        self._ids.extend(ids)
        self._logprobs.extend([logprob if logprob < 0.0 else 0.0 for logprob in logprobs])
        self._pieces.extend(pieces)
        return True

    def _add(self, token: int, logprob: float) -> None:
        piece = None if self._in_character else self.family.token_texts[token]
        if piece is None:
            piece = self._utf8.decode(self.family.token_bytes[token])
            self._in_character = bool(self._utf8.getstate()[0])
        before, self._text = self._text, self._text + piece
        self._ids.append(token)
        self._logprobs.append(logprob)
        ends = self._ends(piece)
        if token in self.family.ends:
            self.ended = TurnStop.END
        elif ends:
            self.ended = TurnStop.TEXT
        elif len(self._ids) >= self.allowance:
            self.ended = TurnStop.LENGTH
        if self.on_piece is not None and piece:
            self.on_piece(piece[: min(ends) - len(before)] if ends else piece)
        # A character begun behind the stop text shows that the token overshoots it.
        self._pieces.append(piece + self._utf8.decode(b"", final=True) if ends else piece)

    def _ends(self, piece: str) -> list[int]:
        """Where stop texts end that the piece at the end of the text completed."""
        ends: list[int] = []
        for stop in self.stop:
            if stop[-1:] not in piece:
                continue
            at = self._text.find(stop, max(0, len(self._text) - len(piece) - len(stop) + 1))
            if at >= 0:
                ends.append(at + len(stop))
        return ends

    def turn(self) -> Turn:
        """What came; a turn that its engine broke off has run out of its allowance."""
        return Turn(tuple(self._ids), tuple(self._logprobs), tuple(self._pieces), self.ended or TurnStop.LENGTH)
