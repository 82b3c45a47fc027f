"""How a transcript becomes tokens, beyond the three laws: the end of a written reasoning, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import ask, noise, opened
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import segments, texts

from echo_audio.audio import SAMPLE_RATE, Recording, Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.scripted import ScriptedFamily
from echo_audio.errors import TranscriptError
from echo_audio.transcript import Author, Mode, Played, Stop, Transcript, Written

RECORDING = noise(10.0)
FAMILY = ScriptedFamily()
ENCODER = TranscriptEncoder(FAMILY, RECORDING)
modest = settings(max_examples=30, deadline=None)


def test_a_transcript_at_its_start() -> None:
    encoded = ENCODER.encode(opened(RECORDING))
    n = FAMILY.n_audio_tokens(RECORDING.n_samples)
    expected = (*FAMILY.head_ids(), *FAMILY.audio_ids(n), *FAMILY.prompt_ids("What is heard?"))
    assert encoded.ids == expected
    assert not any(encoded.sampled)
    (clip,) = encoded.clips
    assert clip.recording is RECORDING
    assert (clip.position, clip.n_tokens) == (2, n)


@modest
@given(st.lists(texts | segments, min_size=1, max_size=5))
def test_a_written_reasoning_learns_to_end_its_turn(parts: list[str | Segment]) -> None:
    transcript = opened(RECORDING)
    for part in parts:
        transcript = transcript.hear(part) if isinstance(part, Segment) else transcript.say(Written(part, Author.MODEL))
    transcript = transcript.say(Written("<answer>a dog</answer>", Author.MODEL))
    going, ended = ENCODER.encode(transcript), ENCODER.encode(transcript.finish(Stop.ANSWERED))
    assert ended.ids == (*going.ids, FAMILY.END)
    assert ended.sampled == (*going.sampled, True)


def test_a_sampled_reasoning_has_its_own_end() -> None:
    transcript = opened(RECORDING).say(Written("x", Author.MODEL, (120, FAMILY.END), (-0.1, -0.2)))
    encoded = ENCODER.encode(transcript.finish(Stop.END_OF_TURN))
    assert encoded.ids[-2:] == (120, FAMILY.END)
    assert encoded.ids[-3] != FAMILY.END
    assert encoded.logprobs[-2:] == (-0.1, -0.2)


@pytest.mark.parametrize("stop", [None, Stop.TOKEN_LIMIT, Stop.TURN_LIMIT, Stop.AUDIO_LIMIT, Stop.ENGINE_ERROR])
def test_what_was_cut_off_gets_no_end(stop: Stop | None) -> None:
    transcript = opened(RECORDING).say(Written("x", Author.MODEL))
    cut = transcript if stop is None else transcript.finish(stop)
    assert ENCODER.encode(cut).ids[-1] == ord("x")


def test_an_end_that_the_harness_wrote_is_not_learned() -> None:
    transcript = opened(RECORDING).say(Written("x", Author.HARNESS)).finish(Stop.END_OF_TURN)
    encoded = ENCODER.encode(transcript)
    assert encoded.ids[-1] == FAMILY.END
    assert not any(encoded.sampled)


@modest
@given(segments, st.sampled_from([Played.CROP, Played.SILENCED, Played.SWAPPED]))
def test_a_crop_is_made_once_and_has_the_right_samples(segment: Segment, played: Played) -> None:
    encoder = TranscriptEncoder(FAMILY, RECORDING, noise(2.0, seed=1))
    transcript = opened(RECORDING, played=played).hear(segment)
    clip, again = (encoder.encode(t).clips[1].recording for t in (transcript, transcript.hear(Segment(0, 1))))
    assert clip is again
    start, end = round(segment.start_s * SAMPLE_RATE), round(segment.end_s * SAMPLE_RATE)
    assert clip.n_samples == end - start
    if played is Played.CROP:
        assert np.array_equal(clip.samples, RECORDING.samples[start:end])


def test_equal_crops_have_equal_ids() -> None:
    a = ENCODER.encode(opened(RECORDING).hear(Segment(1, 2))).clips[1]
    b = TranscriptEncoder(FAMILY, noise(10.0)).encode(opened(noise(10.0)).hear(Segment(1, 2))).clips[1]
    assert a.recording.id == b.recording.id


def test_another_recording_is_refused() -> None:
    with pytest.raises(TranscriptError, match="another recording"):
        ENCODER.encode(opened(noise(10.0, seed=5)))


def test_a_recording_that_cannot_be_heard_is_refused() -> None:
    class Deaf(ScriptedFamily):
        def n_audio_tokens(self, n_samples: int) -> int:
            return n_samples // 640

        def longest_clip_samples(self) -> int:
            return 5 * SAMPLE_RATE

    with pytest.raises(TranscriptError, match="5 s at most"):
        TranscriptEncoder(Deaf(), RECORDING).encode(opened(RECORDING))
    short = Recording(np.ones(300, np.float32))
    with pytest.raises(TranscriptError, match="too short"):
        TranscriptEncoder(Deaf(), short).encode(opened(short))


@pytest.mark.parametrize("mode", Mode)
def test_the_mode_does_not_enter_the_encoding(mode: Mode) -> None:
    encoded = ENCODER.encode(Transcript.open(ask(RECORDING), "Which?", mode))
    assert encoded == ENCODER.encode(Transcript.open(replace(ask(RECORDING), meta={"a": 1}), "Which?"))
