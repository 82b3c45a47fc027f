"""The rules that rest on Qwen's own vocabulary: how tags are spelled, and every token that overshoots a closing tag."""

from __future__ import annotations

import codecs
import string
from collections.abc import Sequence

import pytest
from helpers import noise, opened
from qwen import qwen_tokenizer

from echo_audio.audio import Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.listen import Limits, Turn, TurnStop, advance
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.transcript import Author, Heard, Transcript, What, Written

RECORDING = noise(10.0)
CLOSING = (522, 14607, 29)
_UNICODE = (
    "\u3002\uff0c\u3001\uff01\uff1f\uff1a\uff1b\u2026\u201c\u201d\u2018\u2019\uff08\uff09\u2014\u2013\u00b7\u00bb"
)
_LONGER = (
    "\n",
    "\n\n",
    " ",
    "...",
    "?!",
    ").",
    "</",
    "</think>",
    "\n</think>",
    " and",
    "a",
    "1",
    "\u4e2d",
    "\U0001f600",
)
MARKS = [*string.punctuation, *_UNICODE, *_LONGER]


@pytest.fixture(scope="module")
def family() -> Qwen25Omni:
    """The family's rules over Qwen's vocabulary."""
    return Qwen25Omni(qwen_tokenizer())


def turn_of(family: Qwen25Omni, ids: Sequence[int]) -> Turn:
    """The turn an engine hands back when these ids are drawn: up to the one that completes `</seg>`."""
    utf8, pieces = codecs.getincrementaldecoder("utf-8")("replace"), []
    for n, token in enumerate(ids, start=1):
        pieces.append(utf8.decode(family.token_bytes[token]))
        if "</seg>" in "".join(pieces):
            pieces[-1] += utf8.decode(b"", final=True)
            return Turn(tuple(ids[:n]), (-0.5,) * n, tuple(pieces), TurnStop.TEXT)
    raise AssertionError(f"no closing tag in {pieces}")


def check_repaired(family: Qwen25Omni, transcript: Transcript, overshoots: bool) -> None:
    """The segment is heard, the context holds the canonical closing, and the mask knows who wrote it."""
    assert transcript.asked == (Heard(Segment(1.5, 2.5), transcript.asked[0].why),)
    assert transcript.response == "<think>look <seg>1.5, 2.5</seg>"
    assert transcript.count(What.OVERSHOT) == overshoots
    encoded = TranscriptEncoder(family, RECORDING).encode(transcript)
    before_audio = encoded.clips[1].position - 1
    assert encoded.ids[before_audio] == family.specials["<|audio_bos|>"]
    assert encoded.sampled[before_audio - 1] is not overshoots
    written = [span for span in transcript.spans if isinstance(span, Written)][1:]
    assert [span.author for span in written] == ([Author.MODEL, Author.HARNESS] if overshoots else [Author.MODEL])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("<think>", (13708, 766, 29)),
        ("</think>", (522, 26865, 29)),
        ("</seg>", CLOSING),
        ("</answer>", (522, 9217, 29)),
        (">", (29,)),
        ("</seg>.", (522, 14607, 14276)),
        ("</seg>,", (522, 14607, 8066)),
    ],
)
def test_how_tags_are_spelled(family: Qwen25Omni, text: str, ids: tuple[int, ...]) -> None:
    assert family.text_ids(text) == ids


def test_control_ids(family: Qwen25Omni) -> None:
    assert family.specials == {
        "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645,
        "<|AUDIO|>": 151646, "<|audio_bos|>": 151647, "<|audio_eos|>": 151648,
    }  # fmt: skip


@pytest.mark.parametrize("mark", MARKS, ids=repr)
def test_a_closing_tag_followed_by_anything(family: Qwen25Omni, mark: str) -> None:
    ids = family.text_ids(f"<think>look <seg>1.5, 2.5</seg>{mark}")
    turn = turn_of(family, ids)
    transcript = advance(opened(RECORDING), turn, Limits())
    overshoots = not turn.text.endswith("</seg>")
    check_repaired(family, transcript, overshoots)
    encoded = TranscriptEncoder(family, RECORDING).encode(transcript)
    audio = encoded.clips[1].position - 1
    assert encoded.ids[audio - 3 : audio] == CLOSING


def test_ascii_punctuation_overshoots_often(family: Qwen25Omni) -> None:
    """That is why the rule exists: written as Qwen writes it, a tag seldom ends a token."""
    turns = [turn_of(family, family.text_ids(f"<seg>1, 2</seg>{mark}")) for mark in string.punctuation]
    assert sum(not turn.text.endswith("</seg>") for turn in turns) > 20


def test_every_token_that_can_overshoot(family: Qwen25Omni) -> None:
    """All tokens that begin with an end of `</seg>` and go on, also those that break off within a character."""
    closing, found = b"</seg>", 0
    for token, raw in enumerate(family.token_bytes):
        for length in range(1, len(closing) + 1):
            if raw.startswith(closing[-length:]) and len(raw) > length:
                found += 1
                before = family.text_ids("<think>look <seg>1.5, 2.5" + closing[:-length].decode())
                transcript = advance(opened(RECORDING), turn_of(family, [*before, token]), Limits())
                check_repaired(family, transcript, overshoots=True)
                encoded = TranscriptEncoder(family, RECORDING).encode(transcript)
                audio = encoded.clips[1].position - 1
                tag = encoded.ids[audio - 6 : audio]
                assert family.decode(tag).endswith("</seg>")
                assert token not in tag
    assert found > 100


def test_segments_are_spelled_digit_by_digit(family: Qwen25Omni) -> None:
    pieces = [family.decode([i]) for i in family.text_ids("<seg>12.5, 30.0</seg>")]
    assert [piece for piece in pieces if piece.strip().isdigit()] == ["1", "2", "5", "3", "0", "0"]
