"""The vLLM engine against a fake of vLLM that computes with the tiny thinker: the protocol, and parity with the local engine."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dictation import RECORDINGS, RELISTENING, Dictated, dictate, hear, start
from fake_vllm import FAKE, FakeLLM, Known
from helpers import noise

from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.sampling import seed_of
from echo_audio.engines.vllm import VllmEngine, forbidden_ids
from echo_audio.engines.vllm_library import check_hearing, sampled_logprobs
from echo_audio.engines.vllm_turns import KEY
from echo_audio.errors import EngineError
from echo_audio.listen import Limits, Request, Sampling, TurnStop, listen
from echo_audio.models.thinker import Thinker
from echo_audio.transcript import Stop

Make = Callable[..., tuple[VllmEngine, FakeLLM]]


@pytest.fixture(params=[True, False], ids=["whole", "tokens"])
def make(thinker: Thinker, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Engines over fakes, closed afterwards: turns kept by vLLM's scheduler, and sent token by token."""
    made: list[VllmEngine] = []

    def new(**settings: Any) -> tuple[VllmEngine, FakeLLM]:
        fake = FakeLLM(thinker, **settings)
        made.append(VllmEngine(lambda: fake, thinker.family, FAKE, workers=2, whole=request.param))
        return made[-1], fake

    yield new
    for engine in made:
        engine.close()


def request(thinker: Thinker, n: int = 0, sampling: Sampling | None = None, tokens: int = 8, **how: Any) -> Request:
    encoded = TranscriptEncoder(thinker.family, RECORDINGS[n]).encode(start(thinker, RECORDINGS[n]))
    return Request(encoded, ("</seg>",), tokens, sampling or Sampling(), **how)


async def reason(engine: VllmEngine, thinker: Thinker, n: int, limits: Limits = RELISTENING) -> Any:
    encoder = TranscriptEncoder(thinker.family, RECORDINGS[n])
    transcript = await listen(start(thinker, RECORDINGS[n]), engine, encoder, limits, Sampling(seed=n))
    return transcript, encoder.encode(transcript)


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_three_relistens_agree_with_the_local_engine(thinker: Thinker, make: Make, seed: int) -> None:
    """The same ids, overshooting tags included, and the same log-probabilities as by the local engine and one forward."""
    words = dictate(thinker, [seed])
    engine, fake = make(dictation={turn + 1: ids for (_, turn), ids in words.items()})
    transcript, encoded = asyncio.run(reason(engine, thinker, seed))
    local = Dictated(thinker, words)
    other, expected = asyncio.run(hear(local, RECORDINGS[seed], Sampling(seed=seed), RELISTENING))
    local.close()
    assert len(transcript.asked) == 3
    assert transcript.spans == replace(other, spans=transcript.spans).spans and encoded.ids == expected.ids
    assert encoded.sampled == expected.sampled
    np.testing.assert_allclose(encoded.logprobs, expected.logprobs, atol=1e-4)
    assert [len(prompt["mm_hashes"]["audio"]) for prompt, _ in fake.requests] == [1, 2, 3, 4]


def test_a_deaf_engine_is_found_out(thinker: Thinker, make: Make) -> None:
    """If audio were not really inserted, the log-probabilities would not be those of the transcript."""
    words = dictate(thinker, [0])
    engine, _ = make(dictation={turn + 1: ids for (_, turn), ids in words.items()}, deaf=True)
    _, encoded = asyncio.run(reason(engine, thinker, 0))
    with torch.inference_mode():
        full = thinker.score(encoded).numpy()
    assert np.abs(full - np.array(encoded.logprobs))[np.array(encoded.sampled)].max() > 0.01


def test_audio_travels_once(thinker: Thinker, make: Make) -> None:
    """A group about one recording: one log-mel a clip, one transfer; later turns name what is known by its hash."""
    engine, fake = make()

    async def group() -> None:
        await asyncio.gather(*(engine.generate(request(thinker, sampling=Sampling(1.0, seed=i))) for i in range(6)))

    asyncio.run(group())
    assert (engine.clips_computed, engine.clips_sent, len(fake.held)) == (1, 1, 1)
    items = [prompt["mm_kwargs"]["audio"][0] for prompt, _ in fake.requests]
    assert sum(item is not None for item in items) == 1


def test_a_group_s_prompt_is_computed_once(thinker: Thinker, make: Make) -> None:
    """The first of equal prompts goes alone; the others are sent when its first token is there."""
    engine, fake = make()
    in_flight: list[int] = []
    sent = type(fake).generate

    def generate(prompt: Any, params: Any, request_id: str) -> Any:
        in_flight.append(fake.n_tokens)
        return sent(fake, prompt, params, request_id)

    fake.generate = generate  # type: ignore[method-assign]
    engine._prompts.window_s = 0.5
    sampling = [Sampling(temperature=1.0, seed=seed) for seed in range(4)]

    async def group() -> list[Any]:
        return await asyncio.gather(*(engine.generate(request(thinker, sampling=each)) for each in sampling))

    together = asyncio.run(group())
    assert in_flight[0] == 0 and in_flight[1] >= 1 and len(in_flight) == 4
    alone = [asyncio.run(engine.generate(request(thinker, sampling=each))) for each in sampling]
    assert [turn.ids for turn in together] == [turn.ids for turn in alone]
    assert all(len(turn.ids) == len(turn.logprobs) for turn in together)


def test_a_clip_that_was_dropped_is_sent_again(thinker: Thinker, make: Make) -> None:
    engine, _ = make(size=1)
    for n in (0, 1, 0, 0, 1):
        asyncio.run(engine.generate(request(thinker, n, tokens=2)))
    assert engine.clips_sent == 4


def test_requests_carry_ids_places_and_settings(thinker: Thinker, make: Make) -> None:
    engine, fake = make()
    asked = request(thinker, sampling=Sampling(0.7, 0.9, 5), turn=2)
    asyncio.run(engine.generate(asked))
    prompt, params = fake.requests[0]
    assert prompt["prompt_token_ids"] == list(asked.encoded.ids)
    place = prompt["mm_placeholders"]["audio"][0]
    assert set(asked.encoded.ids[place.offset : place.offset + place.length]) == {thinker.family.audio_token}
    assert (params.temperature, params.top_p, params.max_tokens, params.logprobs) == (0.7, 0.9, 8, 0)
    assert params.seed == seed_of(Sampling(seed=5), 2)
    if engine.whole:
        assert params.extra_args == {KEY: {"stop": ["</seg>"], "announced": False}} and not params.detokenize
    else:
        assert params.stop == ["</seg>"] and params.detokenize
    assert set(params.stop_token_ids) == thinker.family.ends and params.output_kind == "final"


def test_the_seed_decides_and_turns_differ(thinker: Thinker, make: Make) -> None:
    engine, _ = make()

    def ids(seed: int, turn: int) -> tuple[int, ...]:
        return asyncio.run(engine.generate(request(thinker, sampling=Sampling(1.0, seed=seed), turn=turn))).ids

    assert ids(1, 0) == ids(1, 0)
    assert len({ids(1, 0), ids(2, 0), ids(1, 1)}) == 3
    assert 0 <= seed_of(Sampling(seed=-1), 0) < 2**63


def test_pieces_come_as_they_are_written(thinker: Thinker, make: Make) -> None:
    """One by one, joined to the text; what overshoots the tag is on the turn, but is not told."""
    ids = thinker.family.text_ids("<think>a <seg>0.1, 0.9</seg>.")
    engine, fake = make(dictation={1: ids})
    told: list[str] = []
    turn = asyncio.run(engine.generate(request(thinker, tokens=60), told.append))
    assert turn.stop is TurnStop.TEXT and turn.text.startswith("".join(told)) and "".join(told).endswith("</seg>")
    assert len(told) > 3 and len(turn.pieces) == len(turn.ids) == len(turn.logprobs)
    assert fake.requests[0][1].output_kind == "delta"


@pytest.mark.parametrize("streaming", [False, True])
def test_turns_end_as_they_should(thinker: Thinker, make: Make, streaming: bool) -> None:
    family = thinker.family
    word = family.text_ids("bell")
    engine, fake = make(dictation={1: (*word, family.end_of_turn)})
    on_piece = (lambda _: None) if streaming else None
    turn = asyncio.run(engine.generate(request(thinker, tokens=60), on_piece))
    assert (turn.stop, turn.ids[-1], turn.pieces[-1]) == (TurnStop.END, family.end_of_turn, "")
    fake.dictation = {1: word * 9}
    turn = asyncio.run(engine.generate(request(thinker, tokens=3), on_piece))
    assert (turn.stop, len(turn.ids)) == (TurnStop.LENGTH, 3)
    assert asyncio.run(engine.generate(request(thinker, tokens=0))).stop is TurnStop.LENGTH
    assert not fake.taken_back


def test_a_cancelled_request_is_taken_back(thinker: Thinker, make: Make) -> None:
    engine, fake = make(dictation={1: thinker.family.text_ids("bell") * 400})

    async def cancel() -> None:
        task = asyncio.ensure_future(engine.generate(request(thinker, tokens=1000)))
        while fake.n_tokens < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(200):
            if fake.taken_back:
                break
            await asyncio.sleep(0.01)

    asyncio.run(cancel())
    assert len(fake.taken_back) == 1
    assert asyncio.run(engine.generate(request(thinker, n=1, tokens=2))).ids


def test_a_dead_engine_says_why_to_all(thinker: Thinker, make: Make) -> None:
    engine, _ = make(die_after=3)
    transcript, _ = asyncio.run(reason(engine, thinker, 0))
    assert transcript.stop is Stop.ENGINE_ERROR
    assert "the GPU is full" in transcript.notes[-1].detail
    with pytest.raises(EngineError, match=r"died .the GPU is full"):
        asyncio.run(engine.generate(request(thinker)))


def test_a_refused_request_does_not_hurt_others(thinker: Thinker, make: Make) -> None:
    engine, fake = make()
    fake.max_len = 5
    with pytest.raises(EngineError, match="refused the request: the prompt is too long"):
        asyncio.run(engine.generate(request(thinker)))
    assert fake.calls == ["mm"]  # what was counted as sent never was
    fake.max_len, fake.renderer.mm_processor_cache = 4096, Known(9)
    assert asyncio.run(engine.generate(request(thinker, tokens=2))).ids


def test_a_full_context_is_refused_here(thinker: Thinker) -> None:
    fake = FakeLLM(thinker)
    engine = VllmEngine(lambda: fake, thinker.family, FAKE, max_positions=20)
    with pytest.raises(EngineError, match="the engine takes 20"):
        asyncio.run(engine.generate(request(thinker)))
    engine.close()
    assert not fake.requests


def test_an_error_of_the_callback_is_its_own(thinker: Thinker, make: Make) -> None:
    engine, _ = make()

    def fail(_: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(engine.generate(request(thinker, tokens=40), fail))
    assert asyncio.run(engine.generate(request(thinker, tokens=2))).ids


def test_new_weights_forget_what_the_old_computed(thinker: Thinker, make: Make) -> None:
    engine, fake = make()
    assert engine.push_weights(Path("/dev/shm/new")) == 3
    assert fake.calls == [("echo_take_weights", "/dev/shm/new"), "prefix", "encoder"]

    fake.resets = False
    with pytest.raises(EngineError, match="still holds"):
        engine.forget()
    fake.resets = True

    async def at_work() -> None:
        task = asyncio.ensure_future(engine.generate(request(thinker, tokens=30)))
        while not fake.n_tokens:
            await asyncio.sleep(0.005)
        with pytest.raises(EngineError, match="at work"):
            await asyncio.to_thread(engine.forget)
        await task

    fake.dictation = {1: thinker.family.text_ids("bell") * 30}
    asyncio.run(at_work())


def test_a_closed_engine_refuses_and_is_shut_down(thinker: Thinker, make: Make) -> None:
    engine, fake = make()
    engine.release("any")
    engine.close()
    engine.close()
    assert fake.calls == ["shutdown"]
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(engine.generate(request(thinker)))


def test_an_engine_that_does_not_start_leaves_nothing(thinker: Thinker) -> None:
    def fail() -> FakeLLM:
        raise RuntimeError("no GPU")

    with pytest.raises(RuntimeError, match="no GPU"):
        VllmEngine(fail, thinker.family, FAKE)
    gc.collect()


def test_what_may_not_be_written_is_what_the_thinker_forbids(thinker: Thinker) -> None:
    forbidden = torch.tensor(forbidden_ids(thinker.family, len(thinker.allowed)))
    allowed = torch.ones(len(thinker.allowed), dtype=torch.bool)
    allowed[forbidden] = False
    assert torch.equal(allowed, thinker.allowed)


def test_log_probabilities_of_both_containers() -> None:
    class At:
        logprob = -0.5

    assert sampled_logprobs([{7: At()}, {8: At()}], [7, 8]) == [-0.5, -0.5]
    assert sampled_logprobs([{9: At()}, {8: At()}], [8]) == [-0.5]
    assert sampled_logprobs(None, []) == []


def test_a_model_without_what_is_replaced_is_named() -> None:
    check_hearing(["_process_audio_input", "embed_input_ids", "add_request"])
    with pytest.warns(UserWarning, match="this vLLM's model has no embed_input_ids as 0.23 has"):
        check_hearing(["_process_audio_input"])


def test_without_vllm_the_cure_is_named() -> None:
    script = "from echo_audio.engines.vllm import VllmEngine\nVllmEngine.load('tiny')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100)
    assert "pip install 'echo-audio[vllm]'" in done.stderr


def test_many_at_once_each_by_its_own_clock(thinker: Thinker, make: Make) -> None:
    words = dictate(thinker, [0])
    engine, _ = make(dictation={turn + 1: ids for (_, turn), ids in words.items()})

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(reason(engine, thinker, n) for n in (0, 1, 3, 4)))

    assert [len(t.asked) for t, _ in asyncio.run(all_of_them())] == [3, 3, 3, 3]
    assert noise(1.0)
