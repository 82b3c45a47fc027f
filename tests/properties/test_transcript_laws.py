"""The three laws of the transcript, for random histories: append only, tokens once, one mask."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from helpers import noise, opened
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DURATION_S, Operation, operations, texts, turns

from echo_audio.audio import Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.scripted import ScriptedFamily
from echo_audio.errors import TranscriptError
from echo_audio.listen import Encoded, Limits, advance
from echo_audio.transcript import Author, Mode, Played, Question, Stop, Transcript, What, Written

RECORDING = noise(DURATION_S)
ENCODER = TranscriptEncoder(ScriptedFamily(), RECORDING, noise(3.0, seed=1))

histories = st.lists(operations, max_size=8)
starts = st.builds(opened, st.just(RECORDING), st.sampled_from(Mode), st.sampled_from(Played))
modest = settings(max_examples=35, deadline=None)


def grow(transcript: Transcript, history: Sequence[Operation]) -> list[Transcript]:
    """Every stage of a history. Operations that the transcript refuses leave it as it is."""
    stages = [transcript]
    for operation in history:
        try:
            stages.append(operation(stages[-1]))
        except TranscriptError:
            assert stages[-1].stop is not None  # nothing but having stopped is a reason
    return stages


def is_prefix(a: Encoded, b: Encoded) -> bool:
    pairs = ((a.ids, b.ids), (a.sampled, b.sampled), (a.logprobs, b.logprobs), (a.clips, b.clips))
    return all(x == y[: len(x)] for x, y in pairs)


@modest
@given(starts, histories)
def test_law_1_every_operation_only_appends(start: Transcript, history: list[Operation]) -> None:
    stages = grow(start, history)
    for earlier, later in itertools.pairwise(stages):
        assert earlier.is_prefix_of(later)
        assert later.spans[: len(earlier.spans)] == earlier.spans
        assert later.response.startswith(earlier.response)
    assert start.is_prefix_of(stages[-1])


@modest
@given(starts, histories)
def test_law_2_a_prefix_is_encoded_as_a_prefix(start: Transcript, history: list[Operation]) -> None:
    encoded = [ENCODER.encode(stage) for stage in grow(start, history)]
    for earlier, later in itertools.pairwise(encoded):
        assert is_prefix(earlier, later)


@modest
@given(starts, histories)
def test_laws_2_and_3_sampled_ids_pass_through_and_only_they_are_sampled(
    start: Transcript, history: list[Operation]
) -> None:
    transcript = grow(start, history)[-1]
    encoded = ENCODER.encode(transcript)
    assert len(encoded.ids) == len(encoded.sampled) == len(encoded.logprobs)
    family = ScriptedFamily()
    expected: list[tuple[int, float]] = []
    for span in transcript.spans:
        if isinstance(span, Written) and span.author is Author.MODEL:
            ids = span.ids if span.ids is not None else family.text_ids(span.text)
            expected += zip(ids, span.logprobs or (0.0,) * len(ids), strict=True)
    last = transcript.spans[-1]
    ended = transcript.stop in (Stop.ANSWERED, Stop.END_OF_TURN, Stop.MALFORMED)
    if ended and isinstance(last, Written) and last.ids is None and last.author is Author.MODEL:
        expected.append((family.END, 0.0))
    triples = zip(encoded.ids, encoded.logprobs, encoded.sampled, strict=True)
    assert [(token, logprob) for token, logprob, sampled in triples if sampled] == expected
    assert not any(p for p, sampled in zip(encoded.logprobs, encoded.sampled, strict=True) if not sampled)


@modest
@given(starts, histories)
def test_clips_stand_on_their_placeholders(start: Transcript, history: list[Operation]) -> None:
    encoded = ENCODER.encode(grow(start, history)[-1])
    for clip in encoded.clips:
        around = encoded.ids[clip.position - 1 : clip.position + clip.n_tokens + 1]
        family = ScriptedFamily
        assert around == (family.BOS, *[family.AUDIO] * clip.n_tokens, family.EOS)
        assert not any(encoded.sampled[clip.position - 1 : clip.position + clip.n_tokens + 1])
        assert clip.n_tokens == ENCODER.family.n_audio_tokens(clip.recording.n_samples)


@modest
@given(starts, histories, st.dictionaries(texts, st.integers() | texts | st.none() | st.booleans(), max_size=2))
def test_json_keeps_everything(start: Transcript, history: list[Operation], meta: dict[str, object]) -> None:
    start = replace(start, question=replace(start.question, answer="a dog", meta=meta))
    for stage in grow(start, history):
        line = stage.to_json()
        assert "\n" not in line
        again = Transcript.from_json(line)
        assert again == stage
        assert again.to_json() == line
        assert is_prefix(ENCODER.encode(stage), ENCODER.encode(again)) or stage.asked  # crops are new objects
        assert ENCODER.encode(again).ids == ENCODER.encode(stage).ids


@modest
@given(starts, st.lists(turns(), max_size=12))
def test_advance_never_raises_and_keeps_every_budget(start: Transcript, script: list[object]) -> None:
    limits = Limits(max_turns=5, max_relistens=2, max_relisten_s=6.0, max_new_tokens=40)
    transcript = start
    for turn in script:
        if transcript.stop is not None:
            break
        n_turns = transcript.n_turns
        transcript = advance(transcript, turn, limits)  # type: ignore[arg-type]
        assert transcript.n_turns == n_turns + 1
        assert transcript.n_turns <= limits.max_turns
        assert len(transcript.asked) <= limits.max_relistens
        assert transcript.heard_s <= limits.max_relisten_s + 1e-4
        for heard in transcript.asked:
            assert 0 <= heard.segment.start_s < heard.segment.end_s <= DURATION_S
            assert heard.segment.duration_s > limits.min_segment_s - 1e-4
        assert transcript.stop is not None or transcript.n_sampled < limits.max_new_tokens


@modest
@given(starts, histories)
def test_the_views_of_a_transcript_never_raise(start: Transcript, history: list[Operation]) -> None:
    transcript = grow(start, history)[-1]
    assert transcript.well_formed in (True, False)
    assert all(segment.end_s <= DURATION_S for segment in transcript.cited)
    assert transcript.answer is None or transcript.answer in transcript.response
    assert transcript.heard_s >= 0
    assert sum(transcript.count(what) for what in What) == len(transcript.notes)


def test_a_stopped_transcript_takes_nothing_more() -> None:
    ended = opened(RECORDING).say(Written("x", Author.MODEL)).finish(Stop.ANSWERED)
    for refused in (
        lambda: ended.say(Written("y", Author.MODEL)),
        lambda: ended.say(Written("y", Author.HARNESS)),
        lambda: ended.hear(Segment(1, 2)),
        lambda: ended.finish(Stop.MALFORMED),
    ):
        with pytest.raises(TranscriptError, match="stopped"):
            refused()
    limited = opened(RECORDING).finish(Stop.TOKEN_LIMIT)
    assert limited.say(Written("y", Author.HARNESS)).response == "y"
    with pytest.raises(TranscriptError, match="stopped"):
        limited.say(Written("y", Author.MODEL))
    with pytest.raises(TranscriptError, match="prompt"):
        opened(RECORDING).say(Written("y", Author.PROMPT))


@pytest.mark.parametrize(
    ("ids", "logprobs"),
    [(None, (-1.0,)), ((1, 2), (-1.0,)), ((1,), (float("nan"),)), ((1,), (0.5,)), ((1,), (-float("inf"),))],
)
def test_impossible_log_probabilities_are_refused(ids: tuple[int, ...] | None, logprobs: tuple[float, ...]) -> None:
    with pytest.raises(TranscriptError):
        Written("x", Author.MODEL, ids, logprobs)


@pytest.mark.parametrize(
    "damaged",
    ["", "{}", "[1]", "null", "{", '{"question": 3}',
     opened(RECORDING).to_json().replace('"start_s": 0.0', '"start_s": 20.0'),
     opened(RECORDING).to_json().replace('"interleaved"', '"sideways"')],
)  # fmt: skip
def test_json_that_is_no_transcript_is_refused(damaged: str) -> None:
    with pytest.raises(TranscriptError, match="not a transcript"):
        Transcript.from_json(damaged)


def test_the_answer_is_not_in_the_prompt() -> None:
    question = Question("Which?", RECORDING.id, DURATION_S, ("a dog", "a bell"), answer="a bell")
    shown = ENCODER.encode(Transcript.open(question, "Which?"))
    hidden = ENCODER.encode(Transcript.open(replace(question, answer=None), "Which?"))
    assert shown.ids == hidden.ids


def test_without_audio_nothing_is_heard() -> None:
    transcript = Transcript.open(opened(RECORDING).question, "Which?", with_audio=False)
    assert ENCODER.encode(transcript).clips == ()
