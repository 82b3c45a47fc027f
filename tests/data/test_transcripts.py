"""One row, three ways to listen: what is written, what is heard again, and whose words they are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from echo_audio.data.questions import KINDS
from echo_audio.data.questions.doubt import with_doubt, with_spoilt_audio
from echo_audio.data.render import Stock
from echo_audio.data.rows import Row
from echo_audio.data.scene import Source, Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.sounds import ProceduralBank
from echo_audio.data.transcripts import to_transcript
from echo_audio.errors import DataError
from echo_audio.listen import Limits
from echo_audio.tags import check, segments_in
from echo_audio.transcript import Author, Heard, Mode, Played, Transcript, Written

STOCK = Stock({Source.PROCEDURAL: ProceduralBank()})
DRAWN = [draw_row(3, index, Split.TRAIN, STOCK, kind)[0] for kind in KINDS if kind != "digit" for index in range(8)]


def words(transcript: Transcript, *authors: Author) -> str:
    return "".join(s.text for s in transcript.spans if isinstance(s, Written) and s.author in authors)


def asked(transcript: Transcript) -> list[Heard]:
    return [s for s in transcript.spans if isinstance(s, Heard)][1:]


def spoilt(seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [made for row in DRAWN if (made := with_spoilt_audio(row, rng)) is not None]


def doubted(seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [made for row in DRAWN if (made := with_doubt(row, rng)) is not None]


def test_the_three_forms_say_the_same_and_hear_what_they_should() -> None:
    for row in DRAWN:
        forms = {mode: to_transcript(row, mode, "prompt ") for mode in Mode}
        texts = {mode: words(form, Author.MODEL) for mode, form in forms.items()}
        assert texts[Mode.GROUNDED] == texts[Mode.INTERLEAVED] and not check(texts[Mode.GROUNDED])
        assert not check(texts[Mode.CONDITIONED]) and "<seg>" not in texts[Mode.CONDITIONED]
        assert re.sub(r" <seg>[^<]*</seg>", "", texts[Mode.GROUNDED]) == texts[Mode.CONDITIONED]
        assert not asked(forms[Mode.CONDITIONED]) and not asked(forms[Mode.GROUNDED])
        cited = segments_in(texts[Mode.INTERLEAVED])
        heard = asked(forms[Mode.INTERLEAVED])
        assert [h.segment for h in heard] == [*dict.fromkeys(cited)][: len(heard)] and heard
        assert all(h.played is Played.CROP for h in heard)


def test_a_wrong_segment_is_heard_and_never_learned() -> None:
    for row in doubted(1):
        transcript = to_transcript(row, Mode.INTERLEAVED, "prompt ")
        wrong = segments_in(row.reasoning or "")[row.provenance["doubt"]]
        assert segments_in(words(transcript, Author.HARNESS)) == (wrong,)
        assert wrong not in segments_in(words(transcript, Author.MODEL))
        if len(row.evidence) < Limits().max_relistens:
            assert wrong in [h.segment for h in asked(transcript)]
        plain = to_transcript(row, Mode.CONDITIONED, "prompt ")
        assert re.sub(r" <seg>[^<]*</seg>", "", row.provenance["plain"]) in words(plain, Author.MODEL)
        assert not words(plain, Author.HARNESS)


def test_spoilt_audio_is_played_once_and_spoken_of_only_where_it_is_heard() -> None:
    for row in spoilt(2):
        transcript = to_transcript(row, Mode.INTERLEAVED, "prompt ")
        ((at, how),) = row.provenance["corrupt"].items()
        played = [h.played for h in asked(transcript)]
        assert played[int(at)] is {"silence": Played.SILENCED, "swap": Played.SWAPPED}[how]
        assert [p for i, p in enumerate(played) if i != int(at)] == [Played.CROP] * (len(played) - 1)
        assert row.reasoning is not None and row.reasoning in words(transcript, Author.MODEL)
        assert row.provenance["plain"] in words(to_transcript(row, Mode.GROUNDED, "prompt "), Author.MODEL)
        plain = re.sub(r" <seg>[^<]*</seg>", "", row.provenance["plain"])
        assert plain in words(to_transcript(row, Mode.CONDITIONED, "prompt "), Author.MODEL)


def test_a_row_without_a_reasoning_has_nothing_to_teach() -> None:
    with pytest.raises(DataError, match="reasoning"):
        to_transcript(DRAWN[0].model_copy(update={"reasoning": None}), Mode.GROUNDED, "prompt ")
