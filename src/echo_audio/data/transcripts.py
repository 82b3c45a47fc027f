"""Rows -> transcripts: supervised fine-tuning is a transcript somebody else wrote.

The three forms of one row are the paper's three ways to listen. What is heard after a written segment is decided by the
loop's own policy, so training and inference cannot drift apart.
"""

from __future__ import annotations

from dataclasses import replace

from echo_audio import tags
from echo_audio.data.rows import Row
from echo_audio.errors import DataError
from echo_audio.listen import Limits, hear_last
from echo_audio.transcript import Author, Mode, Played, Question, Stop, Transcript, Written

_CORRUPT = {"silence": Played.SILENCED, "swap": Played.SWAPPED}


def question_of(row: Row) -> Question:
    """The question of a row, with its truth."""
    return Question(row.question, row.audio_id, row.duration_s, row.choices, row.answer, {"row": row.id, "kind": row.kind})


def to_transcript(row: Row, mode: Mode, prompt: str, limits: Limits | None = None) -> Transcript:
    """The finished transcript in which the model wrote the row's reasoning and answer.

    Two marks of `row.provenance` change what is learned: `doubt` names the index of a segment that is wrong on purpose
    (its tag counts as the harness's, so that it is heard and doubted but never learned), and `corrupt` maps indices of
    segments to "silence" or "swap" (what is played instead). Where nothing is heard again, such a row is told as `plain`,
    without the remark about it; a wrong segment may still be written and corrected in a grounded one.

    Raises:
        DataError: the row has no written reasoning.
    """
    if row.reasoning is None:
        raise DataError(f"row {row.id} has no reasoning; supervised training needs rows with one")
    plain = mode is Mode.CONDITIONED or (mode is Mode.GROUNDED and "corrupt" in row.provenance)
    text = tags.compose(row.provenance.get("plain", row.reasoning) if plain else row.reasoning, row.answer)
    transcript = Transcript.open(question_of(row), prompt, mode)
    if mode is Mode.CONDITIONED:
        text = tags.without_segments(text)
    for index, part in enumerate(tags.split_at_segments(text)):
        wrong = row.provenance.get("doubt") == index and not plain
        for written in _authored(part, wrong and part.endswith(tags.SEG_CLOSE)):
            transcript = transcript.say(written)
        if mode is Mode.INTERLEAVED and part.endswith(tags.SEG_CLOSE):
            played = _CORRUPT.get(row.provenance.get("corrupt", {}).get(str(index), ""), Played.CROP)
            heard = hear_last(replace(transcript, played=played), limits or Limits())
            transcript = replace(heard, played=Played.CROP)
    return transcript.finish(Stop.ANSWERED)


def _authored(part: str, wrong: bool) -> tuple[Written, ...]:
    """A part up to a segment: all the model's, or its tag the harness's when it is wrong on purpose."""
    if not wrong:
        return (Written(part, Author.MODEL),)
    cut = part.rindex(tags.SEG_OPEN)
    return tuple(Written(text, author) for text, author in ((part[:cut], Author.MODEL), (part[cut:], Author.HARNESS)) if text)
