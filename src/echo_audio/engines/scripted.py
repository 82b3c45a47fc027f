"""A public fake: replays written turns, without a model. For tests, documentation and the page.

`ScriptedFamily` is the smallest family there can be (bytes and four control ids), so that everything from `Transcript`
to `Encoded` works with it exactly as with a real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from echo_audio.errors import EngineError
from echo_audio.listen import OnPiece, Request, Turn, TurnStop

Script = str | Sequence[str] | EngineError
"""One turn: its text, its text in pieces (one token each), or a failure."""


@dataclass
class ScriptedEngine:
    """Replays turns in order; a turn ends at a stop text, at its last piece, or with the end-of-turn id.

    Args:
        turns: what to say, a turn each. A string is said one character a token.
        logprob: log-probability claimed for each token.
        requests: what was asked of it, for inspection.
    """

    turns: Sequence[Script]
    logprob: float = -0.5
    requests: list[Request] = field(default_factory=list)
    released: list[str] = field(default_factory=list)

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        """Replay the next turn.

        Raises:
            EngineError: the script says so, or has no turn left.
        """
        self.requests.append(request)
        if len(self.requests) > len(self.turns):
            raise EngineError("the script has no turn left; give ScriptedEngine more turns")
        script = self.turns[len(self.requests) - 1]
        if isinstance(script, EngineError):
            raise script
        pieces = list(script)[: request.max_new_tokens]
        stop = TurnStop.LENGTH if len(script) > len(pieces) else TurnStop.END
        for i in range(1, len(pieces) + 1):
            if any(text in "".join(pieces[:i]) for text in request.stop):
                pieces, stop = pieces[:i], TurnStop.TEXT
                break
        if on_piece is not None:
            _tell(pieces, request.stop, on_piece)
        ids = [ScriptedFamily.id_of(piece) for piece in pieces]
        if stop is TurnStop.END:
            if len(ids) < request.max_new_tokens:
                ids.append(ScriptedFamily.END)
                pieces.append("")
            else:
                stop = TurnStop.LENGTH
        return Turn(tuple(ids), (self.logprob,) * len(ids), tuple(pieces), stop)

    def release(self, session: str) -> None:
        """Remember that the session ended."""
        self.released.append(session)


def _tell(pieces: Sequence[str], stops: Sequence[str], on_piece: OnPiece) -> None:
    """Report pieces, without what overshoots a stop text."""
    text = "".join(pieces)
    end = min((text.index(stop) + len(stop) for stop in stops if stop in text), default=len(text))
    begin = 0
    for piece in pieces:
        if piece and begin < end:
            on_piece(piece[: end - begin])
        begin += len(piece)


class ScriptedFamily:
    """Token rules without a tokenizer: a character is its code point, longer pieces get ids above them."""

    END, START, AUDIO, BOS, EOS = range(0x110000, 0x110005)

    @property
    def end_of_turn(self) -> int:
        """Id that ends a turn."""
        return self.END

    @staticmethod
    def id_of(piece: str) -> int:
        """Id of a piece: its code point, or a stable number above all of them."""
        if len(piece) == 1:
            return ord(piece)
        return 0x120000 + int.from_bytes(piece.encode(), "big") % 2**40

    def head_ids(self) -> tuple[int, ...]:
        """Before the user's content."""
        return (self.START,)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Prompt, end of the user's turn, start of the assistant's."""
        return (*self.text_ids(prompt), self.END, self.START)

    def audio_ids(self, n_tokens: int) -> tuple[int, ...]:
        """A clip's ids."""
        return (self.BOS, *([self.AUDIO] * n_tokens), self.EOS)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """One id a character."""
        return tuple(map(ord, text))

    def n_audio_tokens(self, n_samples: int) -> int:
        """25 tokens a second, at least one."""
        return max(1, n_samples // 640)

    def longest_clip_samples(self) -> int:
        """300 s."""
        return 300 * 16_000
