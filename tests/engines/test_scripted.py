"""The scripted engine: deterministic, and as strict about the protocol as a real one."""

from __future__ import annotations

import asyncio

import pytest
from helpers import noise, opened, play

from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.scripted import Script, ScriptedEngine, ScriptedFamily
from echo_audio.errors import EngineError
from echo_audio.listen import Encoded, Request, Turn, TurnStop

NOTHING = Encoded((), (), (), ())


def say(script: Script, stop: tuple[str, ...] = ("</seg>",), allowance: int = 100) -> tuple[Turn, list[str]]:
    told: list[str] = []
    request = Request(NOTHING, stop, allowance)
    return asyncio.run(ScriptedEngine([script]).generate(request, told.append)), told


def test_a_string_is_said_a_character_a_token() -> None:
    turn, told = say("abc")
    assert turn == Turn((97, 98, 99, ScriptedFamily.END), (-0.5,) * 4, ("a", "b", "c", ""), TurnStop.END)
    assert told == ["a", "b", "c"]


def test_pieces_are_tokens() -> None:
    turn, _ = say(["ab", "c"])
    assert turn.ids == (ScriptedFamily.id_of("ab"), 99, ScriptedFamily.END)
    assert turn.text == "abc"


def test_a_stop_text_ends_the_turn_within_or_across_pieces() -> None:
    assert say("x</seg>y")[0].text == "x</seg>"
    turn, told = say(["x</", "seg>. And", "more"])
    assert turn.stop is TurnStop.TEXT
    assert turn.pieces == ("x</", "seg>. And")
    assert "".join(told) == "x</seg>"
    assert say("x</seg>y", stop=())[0].text == "x</seg>y"
    assert say("a</answer>b</seg>", stop=("</seg>", "</answer>"))[0].text == "a</answer>"


@pytest.mark.parametrize(
    ("allowance", "text", "stop"), [(2, "ab", TurnStop.LENGTH), (3, "abc", TurnStop.LENGTH), (4, "abc", TurnStop.END)]
)
def test_the_allowance_counts_the_end_of_turn(allowance: int, text: str, stop: TurnStop) -> None:
    turn, _ = say("abc", allowance=allowance)
    assert (turn.text, turn.stop) == (text, stop)
    assert len(turn.ids) <= allowance


def test_an_empty_turn_ends_at_once() -> None:
    assert say("")[0].ids == (ScriptedFamily.END,)


def test_failures_and_an_exhausted_script() -> None:
    engine = ScriptedEngine(["a", EngineError("gone")])
    request = Request(NOTHING, (), 10)
    assert asyncio.run(engine.generate(request)).text == "a"
    for words in ("gone", "more turns"):
        with pytest.raises(EngineError, match=words):
            asyncio.run(engine.generate(request))
    assert len(engine.requests) == 3


def test_it_sees_what_a_real_engine_would() -> None:
    recording = noise(10.0)
    engine = ScriptedEngine(["<think><seg>1, 2</seg>", " so.</think>\n<answer>a dog</answer>"])
    transcript = play((), engine=engine, recording=recording)
    encoded = TranscriptEncoder(ScriptedFamily(), recording).encode(transcript)
    assert engine.requests[0].encoded.ids == encoded.ids[: len(engine.requests[0].encoded.ids)]
    assert engine.requests[1].encoded.ids == encoded.ids[: len(engine.requests[1].encoded.ids)]
    assert [len(request.encoded.clips) for request in engine.requests] == [1, 2]


def test_ids_of_pieces_are_stable_and_distinct() -> None:
    pieces = [*"abc", "ab", "ba", "abc", ">.", ">,", "\u00e9", "\U0001f600", "a longer piece"]
    ids = [ScriptedFamily.id_of(piece) for piece in pieces]
    assert len(set(ids)) == len(pieces)
    assert ids == [ScriptedFamily.id_of(piece) for piece in pieces]
    control = {ScriptedFamily.END, ScriptedFamily.START, ScriptedFamily.AUDIO, ScriptedFamily.BOS, ScriptedFamily.EOS}
    assert not control & set(ids)


def test_the_same_clip_takes_the_same_tokens() -> None:
    family = ScriptedFamily()
    assert family.n_audio_tokens(16_000) == 25
    assert family.n_audio_tokens(1) == 1
    recording = noise(2.0)
    assert len(TranscriptEncoder(family, recording).encode(opened(recording)).clips) == 1
