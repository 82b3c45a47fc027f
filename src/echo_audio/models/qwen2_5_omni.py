"""The rules of the Qwen2.5-Omni family that need no weights: tokens, chat template, prompt, audio token counts.

Everything is read from the model's folder or asked from its tokenizer; no token id is written down here. Weights are in
`thinker.py`, features in `logmel.py`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from echo_audio.audio import SAMPLE_RATE
from echo_audio.errors import ModelError
from echo_audio.models import folders
from echo_audio.transcript import Mode, Question

HOP_LENGTH = 160
"""Samples from one log-mel frame to the next: 10 ms."""

_SYSTEM = "You are a helpful assistant."
_SPECIALS = ("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|endoftext|>")

_CHOOSE = "Answer with exactly one of these choices:"
_THINK = "Think step by step in <think> </think>"
_CITE = ", and refer to the parts of the audio you rely on by their times in seconds, as <seg>start, end</seg>"
_ANSWER = ". Then give your answer in <answer> </answer>."


def n_frames(n_samples: int) -> int:
    """Log-mel frames of a clip; the stock processor counts a started hop as a frame."""
    return -(-n_samples // HOP_LENGTH)


def n_audio_tokens(n_samples: int) -> int:
    """Tokens that a clip takes in the context: 25 a second (two stride-2 reductions of the 100 frames a second)."""
    after_conv = (n_frames(n_samples) - 1) // 2 + 1
    return max(0, (after_conv - 2) // 2 + 1)


SHORTEST_CLIP_SAMPLES = 2 * HOP_LENGTH + 1
"""The shortest clip that gives an audio token: three frames begun, just over 20 ms."""


@dataclass(frozen=True)
class Qwen25Omni:
    """Tokens and templates of one model folder.

    Args:
        tokenizer: byte-level BPE of the family, any vocabulary.
        longest_clip_s: clips beyond this are cut by the stock processor; we refuse them.
        max_positions: context length in tokens.
    """

    tokenizer: Tokenizer
    longest_clip_s: float = 300.0
    max_positions: int = 32_768
    specials: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.tokenizer.encode_special_tokens = True  # a user's text can never become a control token
        found = {name: self.tokenizer.token_to_id(name) for name in _SPECIALS}
        missing = [name for name, token_id in found.items() if token_id is None]
        if missing:
            raise ModelError(f"the tokenizer lacks {', '.join(missing)}: this is not a Qwen2.5-Omni tokenizer")
        object.__setattr__(self, "specials", found)

    @classmethod
    def load(cls, source: str | Path) -> Qwen25Omni:
        """Read tokenizer and limits from a folder or hub id.

        Raises:
            ModelError: not a folder of this family.
        """
        folder = folders.resolve(source)
        limits = folders.max_positions(folder), folders.longest_clip_s(folder)
        return cls(folders.tokenizer(folder), max_positions=limits[0], longest_clip_s=limits[1])

    @property
    def audio_token(self) -> int:
        """The placeholder id that stands for one audio token."""
        return self.specials["<|AUDIO|>"]

    @property
    def end_of_turn(self) -> int:
        """The id that ends the assistant's turn."""
        return self.specials["<|im_end|>"]

    @property
    def padding(self) -> int:
        """The id to pad with."""
        return self.specials["<|endoftext|>"]

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end generation."""
        return frozenset((self.end_of_turn, self.padding))

    @functools.cached_property
    def never_sampled(self) -> tuple[int, ...]:
        """Control ids a policy may not write: they would stand for audio, images or turns that are not there."""
        added = self.tokenizer.get_added_tokens_decoder()
        special = {token_id for token_id, token in added.items() if token.special}
        return tuple(sorted(special - self.ends))

    @functools.cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """The bytes each id stands for; control ids stand for none."""
        table = _byte_of_symbol()
        added = self.tokenizer.get_added_tokens_decoder()
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        names = {token_id: name for name, token_id in self.tokenizer.get_vocab(with_added_tokens=True).items()}
        pieces: list[bytes] = []
        for token_id in range(max(size, max(names) + 1)):
            if token_id in added:
                pieces.append(b"" if added[token_id].special else added[token_id].content.encode())
            else:
                pieces.append(bytes(table[symbol] for symbol in names.get(token_id, "")))
        return tuple(pieces)

    @functools.cached_property
    def token_texts(self) -> tuple[str | None, ...]:
        """The text each id stands for by itself; None for a part of a character."""
        return tuple(_text_of(token) for token in self.token_bytes)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of plain text; what looks like a control token in it is spelled out."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def n_audio_tokens(self, n_samples: int) -> int:
        """Placeholders that a clip of n samples takes."""
        return n_audio_tokens(n_samples)

    def head_ids(self) -> tuple[int, ...]:
        """What stands before the user's content."""
        return self._head

    @functools.cached_property
    def _head(self) -> tuple[int, ...]:
        return (*self._turn("system", _SYSTEM), self.specials["<|im_start|>"], *self.text_ids("user\n"))

    @functools.cached_property
    def _to_assistant(self) -> tuple[int, ...]:
        start = self.specials["<|im_start|>"]
        return (self.end_of_turn, *self.text_ids("\n"), start, *self.text_ids("assistant\n"))

    def audio_ids(self, n_tokens: int) -> tuple[int, ...]:
        """A clip's place in the context: bos, placeholders, eos. The placeholders begin at index 1."""
        return (self.specials["<|audio_bos|>"], *([self.audio_token] * n_tokens), self.specials["<|audio_eos|>"])

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """The user's text, the end of the user's turn, and the start of the assistant's."""
        return (*self.text_ids(prompt), *self._to_assistant)

    def prompt(self, question: Question, mode: Mode) -> str:
        """The user's text: question, choices, and what is asked for in this listening mode."""
        return self.prompt_text(question, mode)

    @staticmethod
    def prompt_text(question: Question, mode: Mode) -> str:
        """`prompt`, which needs no tokenizer: think step by step, cite segments by time, answer in its tags (paper, 4)."""
        lines = [question.text]
        if question.choices:
            lines += [_CHOOSE, *(f"- {choice}" for choice in question.choices)]
        return "\n".join([*lines, _THINK + ("" if mode is Mode.CONDITIONED else _CITE) + _ANSWER])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, control ids left out."""
        return b"".join(self.token_bytes[i] for i in ids).decode(errors="replace")

    def longest_clip_samples(self) -> int:
        """Samples of the longest clip the family's processor takes whole."""
        return round(self.longest_clip_s * SAMPLE_RATE)

    def _turn(self, role: str, text: str) -> tuple[int, ...]:
        newline = self.text_ids("\n")
        return (self.specials["<|im_start|>"], *self.text_ids(f"{role}\n{text}"), self.end_of_turn, *newline)


def _text_of(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None


@functools.cache
def _byte_of_symbol() -> dict[str, int]:
    """The byte-level alphabet of GPT-2's tokenizers: printable bytes stand for themselves, the others are shifted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(shifted)}


def describe(folder: Path) -> str:
    """One line about a model folder, for people."""
    text = folders.thinker_config(folder)["text_config"]
    return json.dumps({key: text[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size")})
