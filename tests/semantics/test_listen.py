"""What listening does, as a list. Each number is one test below.

Hearing again
 1. A segment is played where it was written, in the same assistant turn.
 2. Several segments are played in the order they were asked for, each at its place.
 3. When the last token of `</seg>` holds more than the tag, it is replaced by the canonical closing, its tail is
    dropped, the event is noted, and the replacement does not count as sampled.
 4. A token that is nothing but the closing tag and more leaves no sampled token in its turn.
 5. A segment that reaches out of the recording is cut to it, and that is noted.

What is not played, but noted, while generation goes on
 6. A reversed segment.
 7. A segment shorter than the shortest.
 8. An exact repeat of a segment that was heard; one that differs is played.
 9. A body that is not two numbers: `1.2.3`, words, NaN, infinity, an endless number, a missing `<seg>`.
10. A segment behind the recording or before it.
11. A segment outside the thought.
12. Segments beyond the number of re-listens.

Budgets
13. Turns.        14. Tokens, over all turns and in one turn.        15. Seconds of re-listening.
16. A transcript that ran into a budget is asked for its answer: flagged, and never counted as sampled.
17. A forced answer does not open or close anything twice, and is closed by Echo if the model does not. A tag that the
    budget cut in two is completed.
18. Without `force_answer`, a budget simply ends it. A transcript that has its answer is never forced.
19. Budgets, temperatures and shares that make no sense are refused.

Endings
20. One well-formed answer, broken tags, no answer: three different stops.
21. An engine that fails ends the transcript; what was there stays. At the first turn, later, and in a forced answer.
22. An engine that gives nothing back does not make the loop run for ever.

Modes and counterfactuals
23. Grounded: segments are written, nothing is inserted, one turn.
24. Conditioned: the same; its prompt asks for no segments (tests/models/test_tokens.py).
25. Withheld, silenced, swapped: the transcript says so, and only the sound changes.

Events
26. Events come in order: text, what was noted, what is played, and the finished transcript last.
27. A stream tells the same events. Leaving it early cancels the work and releases the session.
28. What listening raises, a stream raises.
29. The session is released at every end.
30. The same script gives the same transcript; turns are numbered for the random state.
"""

from __future__ import annotations

import asyncio
import string
from dataclasses import replace

import numpy as np
import pytest
from helpers import noise, opened, play

from echo_audio.audio import Recording, Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.scripted import ScriptedEngine, ScriptedFamily
from echo_audio.errors import ConfigError, EngineError, TranscriptError
from echo_audio.listen import (
    Event,
    Finished,
    Limits,
    OnPiece,
    Request,
    Sampling,
    Turn,
    TurnStop,
    Wrote,
    advance,
    listen,
    stream,
)
from echo_audio.transcript import Author, Heard, Mode, Note, Played, Stop, Transcript, What, Why, Written

END = " so.</think>\n<answer>a dog</answer>"
PUNCTUATION = [
    *string.punctuation,
    *"\u3002\uff0c\u3001\uff01\uff1f\uff1a\uff1b\u2026\u201d\u2019\uff09",
    " ",
    "\n",
    "x",
    "7",
]


def ids_of(transcript: Transcript, recording: Recording, other: Recording | None = None) -> tuple[int, ...]:
    return TranscriptEncoder(ScriptedFamily(), recording, other).encode(transcript).ids


def only_asked(*bodies: str, limits: Limits | None = None, recording: Recording | None = None) -> Transcript:
    """A transcript in which these segments were written, one a turn, then answered."""
    return play([*(f"<seg>{body}</seg>" for body in bodies), END], limits=limits, recording=recording)


# 1
def test_a_segment_is_played_where_it_was_written_in_the_same_turn() -> None:
    recording = noise(10.0)
    transcript = play(["<think>Listen <seg>1.0, 3.5</seg>", END], recording=recording)
    kinds = [span if isinstance(span, Heard) else span.author for span in transcript.spans]
    heard = Heard(Segment(1.0, 3.5), Why.ASKED)
    assert kinds == [Heard(Segment(0, 10), Why.GIVEN), Author.PROMPT, Author.MODEL, heard, Author.MODEL]
    assert transcript.stop is Stop.ANSWERED
    assert transcript.well_formed
    assert transcript.answer == "a dog"
    ids = ids_of(transcript, recording)
    after_prompt = ids[ids.index(ScriptedFamily.END) + 2 :]
    assert ScriptedFamily.START not in after_prompt  # no new turn is opened
    assert after_prompt.count(ScriptedFamily.END) == 1  # and one end only
    assert after_prompt.count(ScriptedFamily.AUDIO) == 62  # 2.5 s at 25 a second
    tag = "<think>Listen <seg>1.0, 3.5</seg>"
    assert after_prompt[len(tag)] == ScriptedFamily.BOS


# 2
def test_segments_are_played_in_order_each_at_its_place() -> None:
    transcript = play(["<think>a <seg>5, 6</seg>", " b <seg>1, 2</seg>", " c <seg>3.25, 4</seg>", END])
    assert [h.segment for h in transcript.asked] == [Segment(5, 6), Segment(1, 2), Segment(3.25, 4)]
    assert [i for i, span in enumerate(transcript.spans) if isinstance(span, Heard)] == [0, 3, 5, 7]
    assert transcript.heard_s == pytest.approx(2.75)
    assert transcript.n_turns == 4
    assert transcript.well_formed


# 3
@pytest.mark.parametrize("mark", PUNCTUATION)
def test_an_overshooting_closing_is_repaired(mark: str) -> None:
    recording = noise(10.0)
    pieces = [*"<think><seg>1, 2", "</", "seg", ">" + mark]
    transcript = play([pieces, END], recording=recording)
    said = [span for span in transcript.spans if isinstance(span, Written)][1:]
    assert [(span.text, span.author) for span in said[:2]] == [
        ("<think><seg>1, 2</seg", Author.MODEL),
        (">", Author.HARNESS),
    ]
    assert transcript.asked[0].segment == Segment(1, 2)
    assert transcript.count(What.OVERSHOT) == 1
    assert transcript.response == "<think><seg>1, 2</seg>" + END  # the tail is gone
    assert transcript.well_formed
    encoded = TranscriptEncoder(ScriptedFamily(), recording).encode(transcript)
    closing = encoded.ids.index(ord(">"), encoded.ids.index(ScriptedFamily.id_of("seg")))
    assert encoded.sampled[closing - 1]
    assert not encoded.sampled[closing]
    assert ScriptedFamily.id_of(">" + mark) not in encoded.ids


# 4
def test_a_turn_of_one_overshooting_token_keeps_no_sampled_token() -> None:
    transcript = play(["<think><seg>1, 2</seg>", ["<seg>3, 4</seg>, and"], END])
    assert transcript.spans[4:6] == (Written("", Author.MODEL, (), ()), Written("<seg>3, 4</seg>", Author.HARNESS))
    assert [h.segment for h in transcript.asked] == [Segment(1, 2), Segment(3, 4)]
    assert transcript.n_turns == 3


# 5
@pytest.mark.parametrize(
    ("body", "segment"), [("8, 12", Segment(8, 10)), ("-1, 2", Segment(0, 2)), ("-1, 999999999", Segment(0, 10))]
)
def test_a_segment_that_reaches_out_is_clamped(body: str, segment: Segment) -> None:
    transcript = only_asked(body)
    assert [h.segment for h in transcript.asked] == [segment]
    assert transcript.count(What.CLAMPED) == 1
    assert transcript.stop is Stop.MALFORMED  # the script has no <think>; being clamped is not what is wrong


def noted(transcript: Transcript) -> list[What]:
    """Notes of a transcript in which nothing was heard and generation went on to the end."""
    assert not transcript.asked
    assert transcript.response.endswith(END)
    return [note.what for note in transcript.notes]


# 6
def test_a_reversed_segment_is_not_played() -> None:
    assert noted(only_asked("3, 2")) == [What.REVERSED]
    assert only_asked("3, 2").notes == (Note(What.REVERSED, 3, "3, 2"),)


# 7
def test_a_segment_that_is_too_short_is_not_played() -> None:
    assert noted(only_asked("3, 3.1")) == [What.TOO_SHORT]
    assert noted(only_asked("3, 3")) == [What.TOO_SHORT]
    assert noted(only_asked("9.9, 12")) == [What.TOO_SHORT]  # what is left of it
    assert noted(only_asked("-1, 0")) == [What.TOO_SHORT]
    assert len(only_asked("1.0, 1.2").asked) == 1  # exactly the shortest, although 1.2 - 1.0 < 0.2 in floating point
    assert len(only_asked("3, 3.1", limits=Limits(min_segment_s=0.05)).asked) == 1


# 8
def test_an_exact_repeat_is_not_played_again() -> None:
    transcript = only_asked("1, 2", "1.0, 2.00", "1, 2.1", "8, 12", "8, 11")
    assert [h.segment for h in transcript.asked] == [Segment(1, 2), Segment(1, 2.1), Segment(8, 10)]
    assert transcript.count(What.REPEATED) == 2  # also a repeat after cutting to the recording
    assert len(only_asked("1, 2", "1, 2", limits=Limits(skip_repeats=False)).asked) == 2


# 9
@pytest.mark.parametrize(
    "body",
    ["1.2.3", "1.2.3, 4", "one, two", "", "1", "1,2,3", "1;2", "nan, 2", "0, inf", "1e3, 2",
     f"{'9' * 400}, {'9' * 401}", "1, 2\x00", "1:02, 1:05", "\uff11, \uff12"],
)  # fmt: skip
def test_a_body_that_does_not_parse_is_not_played(body: str) -> None:
    assert noted(only_asked(body)) == [What.UNPARSEABLE]


def test_a_closing_tag_alone_does_not_parse() -> None:
    assert noted(play(["<think>1, 2</seg>", END])) == [What.UNPARSEABLE]
    twice = play(["<think><seg>1, 2</seg>", " and 3, 4</seg>", END])
    assert len(twice.asked) == 1
    assert twice.count(What.UNPARSEABLE) == 1
    assert twice.stop is Stop.MALFORMED
    nested = play(["<think><seg>1, <seg>3, 4</seg>", END])
    assert [h.segment for h in nested.asked] == [Segment(3, 4)]  # the last opening counts
    assert nested.stop is Stop.MALFORMED


# 10
@pytest.mark.parametrize("body", ["11, 12", "10, 12", "-3, -1", "999999998, 999999999"])
def test_a_segment_out_of_range_is_not_played(body: str) -> None:
    assert noted(only_asked(body)) == [What.OUT_OF_RANGE]


# 11
@pytest.mark.parametrize("before", ["<think>x</think>\n", "<answer>", "<think>x</think>\n<answer>"])
def test_a_segment_outside_the_thought_is_not_played(before: str) -> None:
    transcript = play([f"{before}<seg>1, 2</seg>", END])
    assert noted(transcript) == [What.MISPLACED]


# 12
def test_no_more_than_so_many_relistens() -> None:
    transcript = only_asked("1, 2", "2, 3", "3, 4", "4, 5", limits=Limits(max_relistens=2))
    assert [h.segment for h in transcript.asked] == [Segment(1, 2), Segment(2, 3)]
    assert transcript.count(What.RELISTEN_LIMIT) == 2
    assert len(only_asked(*(f"{i}, {i + 1}" for i in range(10))).asked) == 8
    assert not only_asked("1, 2", limits=Limits(max_relistens=0)).asked


# 13
def test_the_turn_budget() -> None:
    limits = Limits(max_turns=2, force_answer=False)
    transcript = play(["<think><seg>1, 2</seg>", "<seg>3, 4</seg>", END], limits=limits)
    assert transcript.stop is Stop.TURN_LIMIT
    assert transcript.n_turns == 2
    assert play(["<think><seg>1, 2</seg>", END], limits=limits).stop is Stop.ANSWERED  # the last turn may answer


# 14
def test_the_token_budget_over_all_turns() -> None:
    limits = Limits(max_new_tokens=30, force_answer=False)
    engine = ScriptedEngine(["<think><seg>1, 2</seg>", "x" * 100])
    transcript = play((), engine=engine, limits=limits)
    assert transcript.stop is Stop.TOKEN_LIMIT
    assert transcript.n_sampled == 30
    assert [request.max_new_tokens for request in engine.requests] == [30, 8]
    exact = play(["<think><seg>1, 2</seg>", END], limits=Limits(max_new_tokens=22, force_answer=False))
    assert exact.stop is Stop.TOKEN_LIMIT
    assert len(exact.asked) == 1


def test_the_token_budget_of_one_turn() -> None:
    transcript = play(["<think>" + "x" * 100, END], limits=Limits(max_turn_tokens=20, force_answer=False))
    assert transcript.stop is Stop.TOKEN_LIMIT
    assert transcript.n_sampled == 20


# 15
def test_the_budget_of_seconds_heard_again() -> None:
    limits = Limits(max_relisten_s=3.0, force_answer=False)
    transcript = only_asked("1, 3", "4, 5", "6, 6.5", limits=limits)
    assert transcript.stop is Stop.AUDIO_LIMIT
    assert transcript.heard_s == 3.0
    assert transcript.response.endswith("<seg>6, 6.5</seg>")
    exact = only_asked("0.0, 0.6", "2.1, 2.7", limits=Limits(max_relisten_s=1.2, force_answer=False))
    assert len(exact.asked) == 2  # although 0.6 - 0.0 + 2.7 - 2.1 > 1.2 in floating point


# 16
def test_a_forced_answer_is_flagged_and_never_sampled() -> None:
    recording = noise(10.0)
    engine = ScriptedEngine(["<think>" + "x" * 50, "a bell</answer>"])
    transcript = play((), engine=engine, limits=Limits(max_new_tokens=20, max_answer_tokens=40), recording=recording)
    assert transcript.stop is Stop.TOKEN_LIMIT
    assert transcript.answer == "a bell"
    assert transcript.count(What.FORCED_ANSWER) == 1
    assert not transcript.well_formed
    assert transcript.n_sampled == 20
    assert transcript.n_turns == 1
    forced = transcript.spans[3:]
    assert [span.author for span in forced if isinstance(span, Written)] == [Author.HARNESS] * 2
    assert forced[0] == Written("</think>\n<answer>", Author.HARNESS)
    assert engine.requests[1].max_new_tokens == 40
    assert engine.requests[1].stop == ("</answer>",)
    encoded = TranscriptEncoder(ScriptedFamily(), recording).encode(transcript)
    assert sum(encoded.sampled) == 20
    assert not any(encoded.sampled[-len("a bell</answer>") :])
    assert set(encoded.logprobs[-len("a bell</answer>") :]) == {0.0}


# 17
@pytest.mark.parametrize(
    ("written", "answer", "response"),
    [
        ("<think>xxxxx", "a dog</answer>", "<think>xxxxx</think>\n<answer>a dog</answer>"),
        ("<think>x</think>", "a dog</answer>", "<think>x</think><answer>a dog</answer>"),
        ("<think>x</think>\n<answer>a", " dog</answer>", "<think>x</think>\n<answer>a dog</answer>"),
        ("<think>xxxxx", "a dog", "<think>xxxxx</think>\n<answer>a dog</answer>"),
        ("<think>xxxxx</", "a dog</answer>", "<think>xxxxx</think>\n<answer>a dog</answer>"),
        ("<think>xxxxx</thin", "a dog</answer>", "<think>xxxxx</think>\n<answer>a dog</answer>"),
        ("<think>x</think>\n<ans", "a dog</answer>", "<think>x</think>\n<answer>a dog</answer>"),
        ("<think>x</think>\n<answer>a dog</", "", "<think>x</think>\n<answer>a dog</answer>"),
        ("<think>x</think>\n<answer>a dog</answer", "", "<think>x</think>\n<answer>a dog</answer>"),
    ],
)
def test_a_forced_answer_opens_and_closes_what_is_missing(written: str, answer: str, response: str) -> None:
    limits = Limits(max_new_tokens=len(written), max_answer_tokens=30)
    transcript = play([written + "yyyy", answer], limits=limits)
    assert transcript.response == response
    assert transcript.answer == "a dog"
    assert transcript.count(What.FORCED_ANSWER) == 1


def test_a_forced_answer_that_breaks_off_in_its_closing_tag_is_completed() -> None:
    limits = Limits(max_new_tokens=8, max_answer_tokens=12)
    transcript = play(["<think>xxxxxx", "a dog</answer>"], limits=limits)
    assert transcript.response == "<think>x</think>\n<answer>a dog</answer>"
    assert not any(note.what is What.ENGINE_FAILED for note in transcript.notes)


@pytest.mark.parametrize("limits", [Limits(max_turns=1), Limits(max_relisten_s=0.5)])
def test_every_budget_leads_to_a_forced_answer(limits: Limits) -> None:
    transcript = play(["<think><seg>1, 2</seg>", "a dog</answer>"], limits=limits)
    assert transcript.stop is not None
    assert transcript.stop.is_limit
    assert transcript.answer == "a dog"
    assert transcript.count(What.FORCED_ANSWER) == 1


# 18
def test_no_forced_answer_where_none_is_wanted_or_needed() -> None:
    engine = ScriptedEngine(["<think>" + "x" * 50])
    assert play((), engine=engine, limits=Limits(max_new_tokens=20, force_answer=False)).answer is None
    assert len(engine.requests) == 1
    whole = "<think>x</think>\n<answer>a dog</answer>"
    engine = ScriptedEngine([whole + " and on it goes"])
    transcript = play((), engine=engine, limits=Limits(max_new_tokens=len(whole) + 3))
    assert transcript.stop is Stop.TOKEN_LIMIT
    assert transcript.answer == "a dog"
    assert len(engine.requests) == 1
    for stop in (Stop.ENGINE_ERROR, Stop.END_OF_TURN):  # only budgets lead to a forced answer
        script = EngineError("gone") if stop is Stop.ENGINE_ERROR else "<think>no answer</think>"
        transcript = play([script, "a dog</answer>"])
        assert transcript.stop is stop
        assert transcript.answer is None


# 19
@pytest.mark.parametrize(
    "budgets",
    [{"max_turns": 0}, {"max_new_tokens": 0}, {"max_turn_tokens": 0}, {"max_answer_tokens": 0}, {"min_segment_s": 0.0},
     {"min_segment_s": float("nan")}],
)  # fmt: skip
def test_senseless_budgets_are_refused(budgets: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least"):
        replace(Limits(), **budgets)


@pytest.mark.parametrize(
    "how",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_p": -0.1},
     {"top_p": 1.1}, {"top_p": float("nan")}],
)  # fmt: skip
def test_senseless_sampling_is_refused(how: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(how))} is .*; give"):
        replace(Sampling(), **how)


# 20
@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("<think>x</think>\n<answer>a dog</answer>", Stop.ANSWERED),
        ("<think>x</think>\n<answer>a dog</answer>\n", Stop.ANSWERED),
        ("<answer>a dog</answer>", Stop.MALFORMED),
        ("<think>x</think>\n<answer>a dog", Stop.MALFORMED),
        ("<think>x</think>\n<answer> </answer>", Stop.MALFORMED),
        ("<think>x</think>\n<answer>a</answer><answer>b</answer>", Stop.MALFORMED),
        ("<think>x</think> so <answer>a dog</answer>", Stop.MALFORMED),
        ("<think><answer></think>a dog</answer>", Stop.MALFORMED),
        ("<think>x <seg>1, 2</think>\n<answer>a dog</answer>", Stop.MALFORMED),
        ("<think>x</think>", Stop.END_OF_TURN),
        ("", Stop.END_OF_TURN),
    ],
)
def test_how_the_model_ended_it(text: str, stop: Stop) -> None:
    transcript = play([text])
    assert transcript.stop is stop
    assert transcript.well_formed == (stop is Stop.ANSWERED)
    last = transcript.spans[-1]
    assert isinstance(last, Written)
    assert last.ids is not None
    assert last.ids[-1] == ScriptedFamily.END  # stopping was sampled, so it is learned


# 21
def test_an_engine_that_fails_at_once() -> None:
    engine = ScriptedEngine([EngineError("out of memory")])
    transcript = play((), engine=engine)
    assert transcript.stop is Stop.ENGINE_ERROR
    assert transcript.notes == (Note(What.ENGINE_FAILED, 2, "out of memory"),)
    assert transcript.n_sampled == 0
    assert len(engine.released) == 1


def test_an_engine_that_fails_later_keeps_what_was_there() -> None:
    transcript = play(["<think><seg>1, 2</seg>", EngineError("gone")])
    assert transcript.stop is Stop.ENGINE_ERROR
    assert transcript.response == "<think><seg>1, 2</seg>"
    assert len(transcript.asked) == 1
    assert transcript.answer is None


def test_an_engine_that_fails_in_a_forced_answer() -> None:
    transcript = play(["<think>" + "x" * 50, EngineError("gone")], limits=Limits(max_new_tokens=20))
    assert transcript.stop is Stop.TOKEN_LIMIT
    assert [note.what for note in transcript.notes] == [What.FORCED_ANSWER, What.ENGINE_FAILED]
    assert transcript.answer is None


# 22
def test_an_engine_that_gives_nothing_back_ends() -> None:
    class Mute:
        async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
            return Turn((), (), (), TurnStop.LENGTH)

        def release(self, session: str) -> None: ...

    recording = noise(1.0)
    encoder = TranscriptEncoder(ScriptedFamily(), recording)
    transcript = asyncio.run(listen(opened(recording), Mute(), encoder, Limits(force_answer=False)))
    assert transcript.stop is not None
    assert transcript.stop.is_limit
    assert advance(opened(recording), Turn((), (), (), TurnStop.LENGTH), Limits()).stop is Stop.TURN_LIMIT


# 23, 24
@pytest.mark.parametrize("mode", [Mode.GROUNDED, Mode.CONDITIONED])
def test_grounded_and_conditioned_insert_nothing(mode: Mode) -> None:
    engine = ScriptedEngine(["<think>Listen <seg>1, 2</seg> and <seg>1.2.3</seg>" + END])
    transcript = play((), engine=engine, mode=mode)
    assert engine.requests[0].stop == ()
    assert transcript.n_turns == 1
    assert not transcript.asked
    assert not transcript.notes
    assert transcript.cited == (Segment(1, 2),)
    assert transcript.stop is Stop.MALFORMED  # 1.2.3
    assert play(["<think>Listen <seg>1, 2</seg>" + END], mode=mode).well_formed


# 25
@pytest.mark.parametrize("played", [Played.SILENCED, Played.SWAPPED])
def test_a_counterfactual_changes_only_the_sound(played: Played) -> None:
    recording, other = noise(10.0), noise(3.0, seed=1)
    script = ["<think><seg>1, 2</seg>", "<seg>5, 7</seg>", END]
    truth = play(script, recording=recording)
    fake = play(script, recording=recording, other=other, played=played)
    assert [h.segment for h in fake.asked] == [h.segment for h in truth.asked]
    assert {h.played for h in fake.asked} == {played}
    encoder = TranscriptEncoder(ScriptedFamily(), recording, other)
    a, b = encoder.encode(truth), encoder.encode(fake)
    assert a.ids == b.ids
    assert a.sampled == b.sampled
    assert a.clips[0] == b.clips[0]  # the first hearing is always true
    for ours, theirs in zip(a.clips[1:], b.clips[1:], strict=True):
        assert ours.recording.id != theirs.recording.id
        assert ours.recording.n_samples == theirs.recording.n_samples
        if played is Played.SILENCED:
            assert not theirs.recording.samples.any()
    if played is Played.SWAPPED:  # the same place of the other recording, repeated to the length
        expected = np.tile(other.samples, 4)[16_000:32_000]
        assert np.array_equal(b.clips[1].recording.samples, expected)


def test_withheld_inserts_nothing_but_records_what_was_asked() -> None:
    recording = noise(10.0)
    transcript = play(["<think><seg>1, 2</seg>", END], recording=recording, played=Played.WITHHELD)
    assert [h.played for h in transcript.asked] == [Played.WITHHELD]
    encoded = TranscriptEncoder(ScriptedFamily(), recording).encode(transcript)
    assert len(encoded.clips) == 1
    assert encoded.ids.count(ScriptedFamily.BOS) == 1


def test_a_swap_needs_another_recording() -> None:
    with pytest.raises(TranscriptError, match="other"):
        play(["<think><seg>1, 2</seg>", END], played=Played.SWAPPED)


# 26
def test_events_come_in_order() -> None:
    events: list[Event] = []
    script = ["<think><seg>8, 12</seg>", " b <seg>3, 2</seg>", END]
    transcript = play(script, events=events)
    wrote = [event for event in events if isinstance(event, Wrote)]
    assert "".join(event.text for event in wrote) == transcript.response
    assert [note.what for note in transcript.notes] == [What.CLAMPED, What.REVERSED]
    kinds = [event for event in events if not isinstance(event, Wrote)]
    assert kinds == [*transcript.notes[:1], transcript.asked[0], *transcript.notes[1:], Finished(transcript)]
    first_heard = events.index(transcript.asked[0])
    written_before = "".join(event.text for event in events[:first_heard] if isinstance(event, Wrote))
    assert written_before == "<think><seg>8, 12</seg>"


def test_events_show_neither_an_overshoot_nor_an_unflagged_forced_answer() -> None:
    events: list[Event] = []
    script = [[*"<think><seg>1, 2</seg", ">. Now"], [*"abcd"], [*"a dog"]]
    transcript = play(script, limits=Limits(max_new_tokens=24, max_answer_tokens=5), events=events)
    assert transcript.count(What.OVERSHOT) == 1
    assert "".join(event.text for event in events if isinstance(event, Wrote)) == transcript.response
    at = events.index(Note(What.FORCED_ANSWER, 6))
    forced = [event for event in events[at:] if isinstance(event, Wrote)]
    assert {event.author for event in forced} == {Author.HARNESS}
    assert "".join(event.text for event in forced) == "</think>\n<answer>a dog</answer>"


# 27
async def _collect(script: list[str], take: int | None = None) -> tuple[list[Event], ScriptedEngine]:
    recording, engine = noise(10.0), ScriptedEngine(script)
    events: list[Event] = []
    told = stream(opened(recording), engine, TranscriptEncoder(ScriptedFamily(), recording))
    async for event in told:
        events.append(event)
        if len(events) == take:
            await told.aclose()  # type: ignore[attr-defined]
            break
    return events, engine


def test_a_stream_tells_the_same_events() -> None:
    script = ["<think><seg>1, 2</seg>", END]
    told: list[Event] = []
    play(script, events=told)
    events, engine = asyncio.run(_collect(script))
    assert events == told
    assert len(engine.released) == 1


def test_leaving_a_stream_cancels_the_work() -> None:
    class Slow(ScriptedEngine):
        cancelled = False

        async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
            if len(self.requests) < 1:
                return await ScriptedEngine.generate(self, request, on_piece)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            raise AssertionError

    async def leave() -> Slow:
        recording, engine = noise(10.0), Slow(["<think><seg>1, 2</seg>", END])
        told = stream(opened(recording), engine, TranscriptEncoder(ScriptedFamily(), recording))
        async for event in told:
            if isinstance(event, Heard):
                await asyncio.sleep(0)
                break
        await told.aclose()  # type: ignore[attr-defined]
        assert len(asyncio.all_tasks()) == 1  # nothing is left behind
        return engine

    engine = asyncio.run(leave())
    assert engine.cancelled
    assert len(engine.released) == 1


# 28
def test_a_stream_raises_what_listening_raises() -> None:
    async def run() -> list[Event]:
        encoder = TranscriptEncoder(ScriptedFamily(), noise(5.0, seed=9))
        return [event async for event in stream(opened(noise(10.0)), ScriptedEngine([END]), encoder)]

    with pytest.raises(TranscriptError, match="another recording"):
        asyncio.run(run())


# 29
def test_the_session_is_released_at_every_end() -> None:
    for script, limits in (
        (["<think><seg>1, 2</seg>", END], Limits()),
        ([EngineError("gone")], Limits()),
        (["x" * 50, "y</answer>"], Limits(max_new_tokens=10)),
    ):
        engine = ScriptedEngine(script)
        play((), engine=engine, limits=limits)
        assert engine.released == [engine.requests[0].session]
        assert {request.session for request in engine.requests} == {engine.released[0]}
    engine = ScriptedEngine([END])
    with pytest.raises(TranscriptError):
        asyncio.run(listen(opened(noise(10.0)), engine, TranscriptEncoder(ScriptedFamily(), noise(5.0, seed=9))))
    assert len(engine.released) == 1


# 30
def test_the_same_script_gives_the_same_transcript() -> None:
    script = ["<think><seg>1, 2</seg>", "<seg>1, 2</seg>", END]
    assert play(script) == play(script)
    engine = ScriptedEngine(script)
    play((), engine=engine, sampling=Sampling(0.7, 0.9, 11))
    assert [request.turn for request in engine.requests] == [0, 1, 2]
    assert {request.sampling for request in engine.requests} == {Sampling(0.7, 0.9, 11)}
    assert len({request.session for request in engine.requests}) == 1
