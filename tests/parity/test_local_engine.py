"""The local engine against one full forward pass, on a tiny random model (float32, 1e-4).

What is written is dictated where tags are wanted (tests/dictation.py); all else is the engine as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dictation import FREE, RECORDINGS, RELISTENING, TOLERANCE, Dictated, dictate, hear, hear_all, off_by, start
from helpers import noise
from torch import Tensor

from echo_audio.audio import Recording, Segment
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.local import LocalEngine
from echo_audio.engines.rows import context_keys, shared_prefix
from echo_audio.errors import EngineError
from echo_audio.listen import (
    Encoded,
    Finished,
    Limits,
    OnPiece,
    Request,
    Sampling,
    Turn,
    TurnStop,
    Wrote,
    listen,
    stream,
)
from echo_audio.models.thinker import Thinker
from echo_audio.transcript import Author, Played, Stop, Transcript, What, Written


@pytest.fixture
def dictated(thinker: Thinker) -> Iterator[Dictated]:
    made = Dictated(thinker, dictate(thinker, range(40)))
    yield made
    made.close()


# Parity


def test_sampled_log_probabilities_equal_one_forward_for_mixed_lengths(thinker: Thinker, engine: LocalEngine) -> None:
    how = [(i % 6, Sampling(1.0, 1.0, i)) for i in range(12)]
    results = asyncio.run(hear_all(engine, how))
    assert max(off_by(thinker, encoded) for _, encoded in results) < TOLERANCE
    assert len({len(encoded.ids) for _, encoded in results}) > 5


def test_the_same_with_listening_again(thinker: Thinker, dictated: Dictated) -> None:
    how = [(i % 6, Sampling(1.0, 1.0, i)) for i in range(18)]
    results = asyncio.run(hear_all(dictated, how, RELISTENING))
    for transcript, encoded in results:
        assert len(transcript.asked) == 3
        assert len(encoded.clips) == 4
        assert off_by(thinker, encoded) < TOLERANCE
    assert sum(transcript.count(What.OVERSHOT) for transcript, _ in results) > 10
    assert sum(transcript.count(What.OVERSHOT) == 0 for transcript, _ in results) > 2


def test_the_comparison_would_notice_wrong_audio(thinker: Thinker, dictated: Dictated) -> None:
    transcript, encoded = asyncio.run(hear(dictated, RECORDINGS[1], Sampling(1.0, 1.0, 3), RELISTENING))
    silenced = TranscriptEncoder(thinker.family, RECORDINGS[1]).encode(
        Transcript.from_json(transcript.to_json().replace('"crop"', '"silenced"'))
    )
    assert silenced.ids == encoded.ids
    assert off_by(thinker, silenced) > 100 * TOLERANCE


def test_a_withheld_segment_is_not_in_the_cache(thinker: Thinker, dictated: Dictated) -> None:
    for played in (Played.WITHHELD, Played.SWAPPED, Played.SILENCED):
        _, encoded = asyncio.run(hear(dictated, RECORDINGS[0], Sampling(1.0, 1.0, 3), RELISTENING, played))
        assert off_by(thinker, encoded) < TOLERANCE


def test_a_forced_answer_goes_on_from_the_cache(thinker: Thinker, dictated: Dictated) -> None:
    limits = Limits(max_new_tokens=90, max_answer_tokens=6)
    transcript, encoded = asyncio.run(hear(dictated, RECORDINGS[1], Sampling(1.0, 1.0, 5), limits))
    assert transcript.stop is Stop.TOKEN_LIMIT
    assert transcript.count(What.FORCED_ANSWER) == 1
    forced = [s for s in transcript.spans if isinstance(s, Written) and s.author is Author.HARNESS and s.logprobs]
    assert len(forced) == 1
    with torch.inference_mode():
        full = thinker.score(encoded).tolist()
    ids = list(encoded.ids)
    at = max(i for i in range(len(ids)) if tuple(ids[i : i + len(forced[0].ids or ())]) == forced[0].ids)
    assert forced[0].logprobs == pytest.approx(full[at : at + len(forced[0].logprobs or ())], abs=TOLERANCE)


def test_audio_planted_by_hand_is_heard(thinker: Thinker, engine: LocalEngine) -> None:
    recording = RECORDINGS[3]
    encoder = TranscriptEncoder(thinker.family, recording)
    planted = Written("<think>look <seg>0.5, 1.5</seg>", Author.HARNESS)
    begun = start(thinker, recording).say(planted).hear(Segment(0.5, 1.5))
    transcript = asyncio.run(listen(begun, engine, encoder, FREE, Sampling(1.0, 1.0, 1)))
    assert off_by(thinker, encoder.encode(transcript)) < TOLERANCE


def test_a_token_that_breaks_off_within_a_character_overshoots_too(
    thinker: Thinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen's vocabulary has such tokens; here one is given the bytes of `>` and a begun character."""
    family = thinker.family
    odd = family.text_ids("Q")[0]
    pieces = list(family.token_bytes)
    pieces[odd] = b">\xe2\x80"
    monkeypatch.setitem(family.__dict__, "token_bytes", tuple(pieces))
    monkeypatch.setitem(family.__dict__, "token_texts", (*family.token_texts[:odd], None, *family.token_texts[odd + 1 :]))
    engine = Dictated(thinker, {(0, 0): (*family.text_ids("<think><seg>0.5, 1.5</seg"), odd)})
    try:
        limits = Limits(max_new_tokens=60, max_turns=2, force_answer=False)
        transcript, encoded = asyncio.run(hear(engine, RECORDINGS[1], limits=limits))
    finally:
        engine.close()
    assert transcript.count(What.OVERSHOT) == 1
    assert odd not in encoded.ids[: encoded.clips[1].position]
    assert transcript.asked[0].segment == Segment(0.5, 1.5)
    assert off_by(thinker, encoded) < TOLERANCE


# What a turn costs


def test_a_turn_computes_its_new_tokens_only(thinker: Thinker, dictated: Dictated) -> None:
    costs: list[int] = []

    async def run() -> tuple[Transcript, Encoded]:
        class Counting(Dictated):
            async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
                turn = await super().generate(request, on_piece)
                costs.append(self.counters.prefilled)
                return turn

        engine = Counting(thinker, dictated.dictation)
        try:
            return await hear(engine, RECORDINGS[1], Sampling(1.0, 1.0, 0), RELISTENING)
        finally:
            engine.close()

    transcript, encoded = asyncio.run(run())
    turns = np.diff([0, *costs])
    assert turns[0] == encoded.ids.index(thinker.family.text_ids("<think>")[0], encoded.clips[0].position + 200)
    for cost, clip in zip(turns[1:], encoded.clips[1:], strict=True):
        # The id drawn last (or the repaired closing, which may be one id more), begin of audio, audio, end of audio.
        assert clip.n_tokens + 3 <= cost <= clip.n_tokens + 4
    assert len(transcript.asked) == 3


def test_a_group_shares_its_prefill_and_its_audio(thinker: Thinker, engine: LocalEngine) -> None:
    how = [(1, Sampling(1.0, 1.0, i)) for i in range(8)]
    results = asyncio.run(hear_all(engine, how))
    prompt = len(TranscriptEncoder(thinker.family, RECORDINGS[1]).encode(start(thinker, RECORDINGS[1])).ids)
    assert engine.counters.copied == 7 * (prompt - 1)
    assert engine.counters.prefilled == prompt  # the seven others: one position, decoded with their first draw
    assert engine.counters.clips_encoded == 1
    assert len({encoded.ids for _, encoded in results}) == 8  # each went its own way
    assert max(off_by(thinker, encoded) for _, encoded in results) < TOLERANCE


def test_transcripts_go_on_side_by_side_while_others_listen_again(thinker: Thinker, dictated: Dictated) -> None:
    """Each pauses at its own `</seg>`; a pause of one costs the others no step of theirs."""

    def ticks(how: list[tuple[int, Sampling]]) -> int:
        before = dictated.counters.ticks
        results = asyncio.run(hear_all(dictated, how, RELISTENING))
        assert all(len(transcript.asked) == 3 for transcript, _ in results)
        return dictated.counters.ticks - before

    how = [(i, Sampling(1.0, 1.0, i)) for i in range(6)]
    alone = [ticks([one]) for one in how]
    assert ticks(how) < 1.5 * max(alone) < 0.5 * sum(alone)


def test_equal_crops_are_encoded_once(thinker: Thinker) -> None:
    text = thinker.family.text_ids("<think><seg>0.5, 1.5</seg>")
    engine = Dictated(thinker, {(seed, 0): text for seed in range(4)})
    try:
        asyncio.run(hear_all(engine, [(1, Sampling(1.0, 1.0, seed)) for seed in range(4)]))
        assert engine.counters.clips_encoded == 2
        assert engine.counters.clips_reused == 3
    finally:
        engine.close()


def test_the_encoder_cache_has_a_bound(thinker: Thinker) -> None:
    engine = LocalEngine(thinker, max_cached_audio_tokens=150)
    try:
        asyncio.run(hear_all(engine, [(i % 6, Sampling(1.0, 1.0, i)) for i in range(6)]))
        assert engine._clips.n_tokens <= 250  # the largest clip has 249
    finally:
        engine.close()


# Independence


def test_a_result_does_not_depend_on_the_batch(thinker: Thinker, dictated: Dictated) -> None:
    how = [(i % 6, Sampling((0.0, 0.7, 1.0, 1.3)[i % 4], (1.0, 0.9, 0.5)[i % 3], i)) for i in range(12)]
    together = asyncio.run(hear_all(dictated, how, RELISTENING))
    assert all(len(transcript.asked) == 3 for transcript, _ in together)
    for (i, sampling), (transcript, encoded) in list(zip(how, together, strict=True))[::3]:
        alone = Dictated(thinker, dictated.dictation)
        try:
            again, again_encoded = asyncio.run(hear(alone, RECORDINGS[i], sampling, RELISTENING))
        finally:
            alone.close()
        assert again_encoded.ids == encoded.ids
        assert again_encoded.sampled == encoded.sampled
        assert again.stop is transcript.stop
        assert again.notes == transcript.notes
        assert again_encoded.logprobs == pytest.approx(encoded.logprobs, abs=1e-5)


def test_an_engine_that_has_worked_before_gives_the_same(thinker: Thinker, dictated: Dictated) -> None:
    _, first = asyncio.run(hear(dictated, RECORDINGS[4], Sampling(1.0, 1.0, 2), RELISTENING))
    asyncio.run(hear_all(dictated, [(i % 6, Sampling(1.0, 1.0, i)) for i in range(9)], RELISTENING))
    _, again = asyncio.run(hear(dictated, RECORDINGS[4], Sampling(1.0, 1.0, 2), RELISTENING))
    assert again.ids == first.ids


def test_more_requests_than_rows(thinker: Thinker) -> None:
    text = dictate(thinker, range(12))
    few, many = Dictated(thinker, text, max_rows=3), Dictated(thinker, text, max_rows=64)
    try:
        how = [(i % 6, Sampling(1.0, 1.0, i)) for i in range(12)]
        a, b = (asyncio.run(hear_all(engine, how, RELISTENING)) for engine in (few, many))
        assert [encoded.ids for _, encoded in a] == [encoded.ids for _, encoded in b]
        assert len(few._rows.all) == 3
        # Those that wait do not take the row of one that listens: nothing is computed twice.
        few_seen, many_seen = (c.prefilled + c.copied for c in (few.counters, many.counters))
        assert few_seen <= many_seen
        assert max(off_by(thinker, encoded) for _, encoded in a) < TOLERANCE
    finally:
        few.close()
        many.close()


def test_a_row_that_nobody_comes_back_for_is_taken(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo_audio.engines.rows.PATIENCE_S", 0.05)
    engine = LocalEngine(thinker, max_rows=1)
    encoded = [TranscriptEncoder(thinker.family, r).encode(start(thinker, r)) for r in RECORDINGS[:2]]
    try:
        first = asyncio.run(engine.generate(Request(encoded[0], (), 5, session="abandoned")))
        other = asyncio.run(engine.generate(Request(encoded[1], (), 5, session="next")))
        again = asyncio.run(engine.generate(Request(encoded[0], (), 5, session="abandoned")))
        assert other.ids
        assert again.ids == first.ids
    finally:
        engine.close()


def test_small_prefills(thinker: Thinker) -> None:
    engine = LocalEngine(thinker, max_prefill_tokens=200)
    try:
        results = asyncio.run(hear_all(engine, [(i % 6, Sampling(1.0, 1.0, i)) for i in range(6)]))
        assert max(off_by(thinker, encoded) for _, encoded in results) < TOLERANCE
    finally:
        engine.close()


# Drawing


def test_greedy_is_the_most_likely_token_and_ignores_the_seed(thinker: Thinker, engine: LocalEngine) -> None:
    _, a = asyncio.run(hear(engine, RECORDINGS[1], Sampling(0.0, 1.0, 1)))
    _, b = asyncio.run(hear(engine, RECORDINGS[1], Sampling(0.0, 1.0, 2)))
    assert a.ids == b.ids
    with torch.inference_mode():
        embeds = thinker.embed_encoded(a)[None]
        best = thinker.logits(thinker.decode(embeds, torch.arange(embeds.shape[1])[None]))[0].argmax(-1).tolist()
    assert [best[i - 1] for i in range(len(a.ids)) if a.sampled[i]] == [
        a.ids[i] for i in range(len(a.ids)) if a.sampled[i]
    ]


def test_a_tiny_nucleus_is_greedy_and_seeds_differ(thinker: Thinker, engine: LocalEngine) -> None:
    _, greedy = asyncio.run(hear(engine, RECORDINGS[1], Sampling(0.0)))
    _, nucleus = asyncio.run(hear(engine, RECORDINGS[1], Sampling(1.0, 1e-6, 5)))
    assert nucleus.ids == greedy.ids
    drawn = {asyncio.run(hear(engine, RECORDINGS[1], Sampling(1.0, 1.0, seed)))[1].ids for seed in range(4)}
    assert len(drawn) == 4
    again = asyncio.run(hear(engine, RECORDINGS[1], Sampling(1.0, 1.0, 3)))[1].ids
    assert again in drawn


def test_no_control_token_is_ever_drawn(thinker: Thinker, engine: LocalEngine) -> None:
    how = [(1, Sampling(50.0, 1.0, seed)) for seed in range(16)]  # next to uniform
    for _, encoded in asyncio.run(hear_all(engine, how)):
        drawn = {i for i, sampled in zip(encoded.ids, encoded.sampled, strict=True) if sampled}
        assert not drawn & set(thinker.family.never_sampled)
        assert max(drawn) < len(thinker.family.token_bytes)


# What goes wrong


def test_a_failing_model_fails_these_requests_and_later_ones_work(
    thinker: Thinker, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Tensor:
        raise RuntimeError("CUDA out of memory")

    _, before = asyncio.run(hear(engine, RECORDINGS[1]))
    with monkeypatch.context() as patch:
        patch.setattr(thinker, "decode_rows", broken)
        results = asyncio.run(hear_all(engine, [(i, Sampling(1.0, 1.0, 0)) for i in range(3)]))
    for transcript, _ in results:
        assert transcript.stop is Stop.ENGINE_ERROR
        assert "CUDA out of memory" in transcript.notes[0].detail
    _, after = asyncio.run(hear(engine, RECORDINGS[1]))
    assert after.ids == before.ids
    assert off_by(thinker, after) < TOLERANCE


def test_a_model_that_gives_nan_fails_and_says_what_to_do(folder: Path) -> None:
    thinker = Thinker.load(folder)
    with torch.no_grad():
        thinker.decoder.norm.weight[3] = torch.nan
    engine = LocalEngine(thinker)
    try:
        for temperature in (0.0, 1.0):
            transcript, _ = asyncio.run(hear(engine, RECORDINGS[1], Sampling(temperature)))
            assert transcript.stop is Stop.ENGINE_ERROR
            assert "not finite" in transcript.notes[0].detail
            assert "float32" in transcript.notes[0].detail
            assert transcript.n_sampled == 0
        assert not engine._active
    finally:
        engine.close()


def test_what_overflowed_once_does_not_reach_the_next_in_its_row(
    thinker: Thinker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, decode = LocalEngine(thinker, max_rows=1), thinker.decode_rows

    def overflowing(embeds: Tensor, *rest: Any) -> Tensor:
        return decode(embeds * torch.nan, *rest)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(thinker, "decode_rows", overflowing)
            transcript, _ = asyncio.run(hear(engine, RECORDINGS[1]))
            assert transcript.stop is Stop.ENGINE_ERROR
        for recording in (RECORDINGS[2], RECORDINGS[1]):  # a shorter one first: what it does not overwrite is masked
            _, encoded = asyncio.run(hear(engine, recording))
            assert off_by(thinker, encoded) < TOLERANCE
    finally:
        engine.close()


def test_a_failure_between_turns_keeps_what_was_there(
    thinker: Thinker, dictated: Dictated, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = thinker.decode_rows

    def later(embeds: Tensor, *rest: Any) -> Tensor:
        if 1 < len(embeds) < 60:  # the prefill of an inserted clip
            raise RuntimeError("lost")
        return decode(embeds, *rest)

    monkeypatch.setattr(thinker, "decode_rows", later)
    transcript, encoded = asyncio.run(hear(dictated, RECORDINGS[1], Sampling(1.0, 1.0, 0), Limits()))
    assert transcript.stop is Stop.ENGINE_ERROR
    assert len(transcript.asked) == 1
    monkeypatch.setattr(thinker, "decode_rows", decode)
    assert off_by(thinker, encoded) < TOLERANCE


def test_a_bug_ends_the_engine_and_nobody_waits_for_ever(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*_: object, **__: object) -> Tensor:
        raise KeyError("a bug")

    monkeypatch.setattr(thinker, "decode_rows", buggy)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    engine = LocalEngine(thinker)
    transcript, _ = asyncio.run(hear(engine, RECORDINGS[1]))
    assert transcript.stop is Stop.ENGINE_ERROR
    assert "a bug" in transcript.notes[0].detail
    assert asyncio.run(hear(engine, RECORDINGS[1]))[0].stop is Stop.ENGINE_ERROR
    engine.close()


def test_a_closed_engine_says_so(thinker: Thinker) -> None:
    engine = LocalEngine(thinker)
    engine.close()
    transcript, _ = asyncio.run(hear(engine, RECORDINGS[1]))
    assert "closed" in transcript.notes[0].detail
    engine.close()


def test_closing_fails_what_is_in_flight(thinker: Thinker) -> None:
    engine = LocalEngine(thinker)

    async def run() -> Transcript:
        limits = Limits(max_new_tokens=100_000, max_turn_tokens=100_000, force_answer=False)
        work = asyncio.ensure_future(hear(engine, RECORDINGS[1], Sampling(1.0, 1.0, 0), limits))
        while engine.counters.decoded < 3:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(engine.close)
        return (await work)[0]

    assert asyncio.run(run()).stop in (Stop.ENGINE_ERROR, Stop.END_OF_TURN)


def test_a_full_context_is_an_error_and_a_filling_one_a_limit(thinker: Thinker) -> None:
    encoder = TranscriptEncoder(thinker.family, RECORDINGS[1])
    encoded = encoder.encode(start(thinker, RECORDINGS[1]))
    engine = Dictated(thinker, {(0, 0): thinker.family.text_ids("a bell " * 40)})
    try:
        object.__setattr__(thinker.family, "max_positions", len(encoded.ids) + 5)
        turn = asyncio.run(engine.generate(Request(encoded, (), 100)))
        assert turn.stop is TurnStop.LENGTH
        assert len(turn.ids) == 5
        object.__setattr__(thinker.family, "max_positions", len(encoded.ids))
        with pytest.raises(EngineError, match="the model takes"):
            asyncio.run(engine.generate(Request(encoded, (), 100)))
    finally:
        object.__setattr__(thinker.family, "max_positions", 8192)
        engine.close()


# Cancelling and telling


def test_cancelling_frees_the_row_and_the_others_go_on(thinker: Thinker) -> None:
    ids = thinker.family.text_ids("a bell " * 400)
    engine = Dictated(thinker, {(99, 0): ids}, max_rows=2)
    long = Limits(max_new_tokens=1000, force_answer=False)

    async def run() -> list[tuple[Transcript, Encoded]]:
        doomed = [asyncio.ensure_future(hear(engine, RECORDINGS[1], Sampling(1.0, 1.0, 99), long)) for _ in range(2)]
        while engine.counters.decoded < 10:
            await asyncio.sleep(0.005)
        waiting = asyncio.ensure_future(hear_all(engine, [(i, Sampling(1.0, 1.0, i)) for i in range(4)]))
        await asyncio.sleep(0.01)
        for task in doomed:
            task.cancel()
        results = await asyncio.wait_for(waiting, 20)
        assert all(task.cancelled() for task in doomed)
        return results

    began = time.monotonic()
    try:
        for _, encoded in asyncio.run(run()):
            assert off_by(thinker, encoded) < TOLERANCE
        assert not engine._active
        assert not [row for row in engine._rows.all if row.session]
    finally:
        engine.close()
    assert time.monotonic() - began < 20


def test_a_stream_tells_what_is_written_without_the_overshoot(thinker: Thinker, dictated: Dictated) -> None:
    recording = RECORDINGS[1]
    encoder = TranscriptEncoder(thinker.family, recording)

    async def run() -> tuple[str, Transcript]:
        text = ""
        limits = Limits(max_new_tokens=300, max_turns=4)
        async for event in stream(start(thinker, recording), dictated, encoder, limits, Sampling(1.0, 1.0, 1)):
            if isinstance(event, Wrote):
                text += event.text
            elif isinstance(event, Finished):
                return text, event.transcript
        raise AssertionError

    text, transcript = asyncio.run(run())
    assert transcript.count(What.OVERSHOT) > 0
    assert text == transcript.response


def test_leaving_a_stream_early_leaves_the_engine_usable(thinker: Thinker, dictated: Dictated) -> None:
    recording = RECORDINGS[1]
    encoder = TranscriptEncoder(thinker.family, recording)

    async def leave() -> None:
        told = stream(start(thinker, recording), dictated, encoder, Limits(), Sampling(1.0, 1.0, 1))
        async for _ in told:
            break
        await told.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())  # the loop is closed while the worker may still be drawing for it
    _, encoded = asyncio.run(hear(dictated, recording, Sampling(1.0, 1.0, 2)))
    assert off_by(thinker, encoded) < TOLERANCE


def test_an_error_of_a_callback_is_handed_to_who_gave_it(thinker: Thinker, engine: LocalEngine) -> None:
    def bad(_: str) -> None:
        raise ZeroDivisionError("mine")

    encoded = TranscriptEncoder(thinker.family, RECORDINGS[1]).encode(start(thinker, RECORDINGS[1]))
    with pytest.raises(ZeroDivisionError, match="mine"):
        asyncio.run(engine.generate(Request(encoded, (), 30), bad))
    assert asyncio.run(engine.generate(Request(encoded, (), 3))).ids


def test_pieces_join_to_the_decoding_of_the_ids(thinker: Thinker, engine: LocalEngine) -> None:
    encoded = TranscriptEncoder(thinker.family, RECORDINGS[1]).encode(start(thinker, RECORDINGS[1]))
    for seed in range(5):
        turn = asyncio.run(engine.generate(Request(encoded, (), 30, Sampling(3.0, 1.0, seed))))
        assert len(turn.pieces) == len(turn.ids) == len(turn.logprobs)
        text = thinker.family.decode(turn.ids)
        assert text.startswith(turn.text)
        assert len(text) - len(turn.text) <= 1  # a character that is not complete yet


# Number formats


def test_bfloat16_runs_on_the_cpu(folder: Path) -> None:
    thinker = Thinker.load(folder, dtype=torch.bfloat16)
    engine = Dictated(thinker, dictate(thinker, range(6)))
    try:
        transcript, encoded = asyncio.run(hear(engine, RECORDINGS[1], Sampling(1.0, 1.0, 1), RELISTENING))
        assert len(transcript.asked) == 3
        assert off_by(thinker, encoded) < 1.0  # eight bits of mantissa through five-fold weights
    finally:
        engine.close()


# Rows


def test_keys_name_the_clip_and_the_place_in_it(thinker: Thinker) -> None:
    def keys(recording: Recording) -> list[int]:
        return context_keys(TranscriptEncoder(thinker.family, recording).encode(start(thinker, recording)))

    one, same, other = keys(noise(2.0, 0)), keys(Recording(RECORDINGS[0].samples.copy())), keys(noise(2.0, 7))
    assert one == same
    first = next(i for i, key in enumerate(one) if key < 0)
    assert shared_prefix(one, other) == first  # equal up to the audio, no further
    audio = [key for key in one if key < 0]
    assert len(set(audio)) == len(audio) == thinker.family.n_audio_tokens(32_000)
    named = Recording(RECORDINGS[0].samples, id="any name will do")
    assert shared_prefix(keys(named), one) == first


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2, 4], 2), ([5], [6], 0), ([1, 2], [1, 2, 3], 2)],
)
def test_shared_prefix(a: list[int], b: list[int], n: int) -> None:
    assert shared_prefix(a, b) == n
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = rng.integers(0, 2, 30).tolist()
        y = x[: int(rng.integers(0, 30))] + rng.integers(0, 2, 12).tolist()
        pairs = enumerate(zip(x, y, strict=False))
        assert shared_prefix(x, y) == next((i for i, (p, q) in pairs if p != q), min(len(x), len(y)))
