"""Blocks of decoding steps: however many tokens are drawn before the host reads them, the transcripts are the same.

The forward over rows is compared with transformers' forward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
import torch
from dictation import RECORDINGS, RELISTENING, TOLERANCE, Dictated, dictate, hear, hear_all, off_by, start

from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.graphs import Graphs, Work
from echo_audio.engines.local import LocalEngine
from echo_audio.engines.rows import RowCache
from echo_audio.engines.steps import bucket_of
from echo_audio.errors import EngineError
from echo_audio.listen import Encoded, Limits, Request, Sampling, TurnStop
from echo_audio.models import rows
from echo_audio.models.merged import merge_projections, project
from echo_audio.models.thinker import Thinker
from echo_audio.transcript import Stop

HOW = [(i % 6, Sampling((0.0, 0.7, 1.0, 1.3)[i % 4], (1.0, 0.9, 0.5)[i % 3], i)) for i in range(12)]


@pytest.mark.parametrize(("block", "ahead"), [(1, True), (3, False), (4, True), (8, True)])
def test_results_do_not_depend_on_when_the_host_reads(thinker: Thinker, block: int, ahead: bool) -> None:
    text = dictate(thinker, range(12))
    plain, late = Dictated(thinker, text), Dictated(thinker, text, block=block, ahead=ahead, max_rows=7)
    try:
        expected, found = (asyncio.run(hear_all(engine, HOW, RELISTENING)) for engine in (plain, late))
        for (_, ours), (_, theirs) in zip(found, expected, strict=True):
            assert ours.ids == theirs.ids
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
            assert off_by(thinker, ours) < TOLERANCE
        assert plain.counters.discarded == 0
        assert late.counters.discarded > 0
        assert late.counters.decoded == plain.counters.decoded
        assert late.counters.ticks < plain.counters.ticks * (2 if block == 1 else 1)
    finally:
        plain.close()
        late.close()


def test_an_allowance_is_never_exceeded_and_a_full_context_ends_the_turn(thinker: Thinker) -> None:
    encoded = TranscriptEncoder(thinker.family, RECORDINGS[1]).encode(start(thinker, RECORDINGS[1]))
    engine = Dictated(thinker, {(0, 0): thinker.family.text_ids("a bell " * 40)}, block=8, ahead=True)
    try:
        for allowance in (1, 7, 8, 9, 20):
            turn = asyncio.run(engine.generate(Request(encoded, (), allowance)))
            assert turn.stop is TurnStop.LENGTH
            assert len(turn.ids) == allowance
        object.__setattr__(thinker.family, "max_positions", len(encoded.ids) + 5)
        assert len(asyncio.run(engine.generate(Request(encoded, (), 100))).ids) == 5
    finally:
        object.__setattr__(thinker.family, "max_positions", 8192)
        engine.close()


def test_cancelling_while_blocks_are_in_flight(thinker: Thinker) -> None:
    engine = Dictated(thinker, {(99, 0): thinker.family.text_ids("a bell " * 400)}, block=4, ahead=True, max_rows=2)

    async def run() -> None:
        request = Request(TranscriptEncoder(thinker.family, RECORDINGS[1]).encode(start(thinker, RECORDINGS[1])), (), 900)
        doomed = asyncio.ensure_future(engine.generate(Request(request.encoded, (), 900, Sampling(seed=99), 0, "doomed")))
        while engine.counters.decoded < 10:
            await asyncio.sleep(0.005)
        doomed.cancel()
        engine.release("doomed")
        for _, encoded in await hear_all(engine, [(i, Sampling(1.0, 1.0, i)) for i in range(4)]):
            assert off_by(thinker, encoded) < TOLERANCE

    try:
        asyncio.run(asyncio.wait_for(run(), 30))
        assert not engine._active
    finally:
        engine.close()


def test_what_is_not_finite_late_in_a_block_spoils_its_row_only(folder: Path) -> None:
    thinker = Thinker.load(folder)
    engine = LocalEngine(thinker, block=4, ahead=True, max_rows=1)
    try:
        weight = thinker.decoder.norm.weight
        kept = weight[3].item()
        with torch.no_grad():
            weight[3] = torch.nan
        transcript, _ = asyncio.run(hear(engine, RECORDINGS[1]))
        assert transcript.stop is Stop.ENGINE_ERROR
        assert "not finite" in transcript.notes[0].detail
        with torch.no_grad():
            weight[3] = kept
        engine.forget()
        _, encoded = asyncio.run(hear(engine, RECORDINGS[1]))
        assert off_by(thinker, encoded) < TOLERANCE
    finally:
        engine.close()


def test_weights_may_change_in_place_between_requests(folder: Path) -> None:
    thinker = Thinker.load(folder)
    engine = LocalEngine(thinker, block=4, ahead=True)
    try:
        _, before = asyncio.run(hear(engine, RECORDINGS[1], Sampling()))
        with torch.no_grad():
            for weight in thinker.decoder.layers.parameters():
                weight.mul_(0.8)
        engine.forget()
        _, after = asyncio.run(hear(engine, RECORDINGS[1], Sampling()))
        assert off_by(thinker, after) < TOLERANCE
        assert off_by(thinker, before) > 100 * TOLERANCE
    finally:
        engine.close()


# Memory


def small_cache(limit: int | None) -> RowCache:
    cache = RowCache(2, 2, 4, torch.float32, torch.device("cpu"), None)
    of_one = cache.n_bytes(1, 256) - cache.n_bytes(0, 256)
    return RowCache(2, 2, 4, torch.float32, torch.device("cpu"), None if limit is None else lambda _: limit * of_one)


def test_a_cache_without_a_limit_doubles() -> None:
    cache = small_cache(None)
    cache.reserve(2, 300)
    assert (cache.n_slots, cache.capacity) == (2, 512)
    cache.keys[0][1, 299] = 7.0
    cache.reserve(3, 600)
    assert (cache.n_slots, cache.capacity) == (3, 1024)
    assert float(cache.keys[0][1, 299].min()) == 7.0


def test_a_cache_that_may_not_double_takes_just_enough_and_then_says_what_to_do() -> None:
    cache = small_cache(15)
    cache.reserve(2, 100)
    cache.reserve(2, 1100)
    assert cache.capacity == 1280
    with pytest.raises(EngineError, match=r"needs .* GB and may take .* GB; let fewer transcripts run at once"):
        cache.reserve(2, 1400)
    assert cache.capacity == 1280
    assert cache.affords(2, 1000)
    assert not cache.affords(3, 1000)


@pytest.mark.parametrize(("block", "ahead"), [(1, False), (4, True)])
def test_where_memory_ends_requests_wait_for_a_row(
    thinker: Thinker, monkeypatch: pytest.MonkeyPatch, block: int, ahead: bool
) -> None:
    """Short recordings take many small rows first; then long ones need fewer, larger rows."""
    text = dictate(thinker, range(12))
    plain, tight = Dictated(thinker, text), Dictated(thinker, text, block=block, ahead=ahead)
    room = tight._cache.n_bytes(2, 1024)
    monkeypatch.setattr(tight._cache, "_limit_bytes", lambda _: room)
    try:
        how = [(i, Sampling(1.0, 1.0, n)) for n, i in enumerate((2, 2, 0, 0, 0, 4, 1, 4, 3))]
        expected, found = (asyncio.run(hear_all(engine, how, RELISTENING)) for engine in (plain, tight))
        assert [encoded.ids for _, encoded in found] == [encoded.ids for _, encoded in expected]
        assert max(off_by(thinker, encoded) for _, encoded in found) < TOLERANCE
        assert plain._cache.n_slots > tight._cache.n_slots >= 2
        assert tight._cache.n_bytes_now <= room
    finally:
        plain.close()
        tight.close()


def test_a_context_for_which_memory_has_no_room_at_all_is_told_so(
    thinker: Thinker, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = engine._cache.n_bytes(2, 256)
    monkeypatch.setattr(engine._cache, "_limit_bytes", lambda _: room)
    limits = Limits(max_new_tokens=600, force_answer=False)
    results = asyncio.run(hear_all(engine, [(i, Sampling(3.0, 1.0, i)) for i in (2, 4)], limits))
    for transcript, _ in results:
        assert transcript.stop is Stop.END_OF_TURN or "let fewer transcripts run at once" in transcript.notes[-1].detail
    assert any(transcript.stop is Stop.ENGINE_ERROR for transcript, _ in results)
    _, encoded = asyncio.run(hear(engine, RECORDINGS[2], Sampling(1.0, 1.0, 1)))
    assert off_by(thinker, encoded) < TOLERANCE


# The forward over rows


def test_the_forward_over_rows_is_that_of_transformers(thinker: Thinker) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 300, (3, 40))
    n, text = ids.numel(), thinker.decoder.config
    width = text.hidden_size // text.num_attention_heads
    with torch.inference_mode():
        expected = thinker.decode(thinker.embed(ids), torch.arange(40).expand(3, -1)).reshape(n, -1)
        keys, values = (
            [torch.zeros(3, 64, text.num_key_value_heads, width) for _ in range(text.num_hidden_layers)] for _ in range(2)
        )
        slots, places = torch.arange(3).repeat_interleave(40), torch.arange(40).repeat(3)
        cosines, sines = rows.rotation_table(thinker.decoder, 64, torch.float32, torch.device("cpu"))
        aim = rows.Aim(slots, places, cosines[places], sines[places])
        seen = torch.arange(40)[None, :] <= torch.arange(40)[:, None]
        shared = text.num_attention_heads // text.num_key_value_heads
        padding = rows.Padding(torch.arange(n), 3, 40, seen.repeat(shared, 1).expand(3, 1, -1, -1))

        def attend(layer: int, *heads: torch.Tensor) -> torch.Tensor:
            rotated = rows.rotate_and_store(*heads, aim, keys[layer], values[layer])
            return rows.attend_many(rotated, keys[layer], values[layer], slice(0, 3), padding)

        found = thinker.decode_rows(thinker.embed(ids).reshape(n, -1), attend)
    assert float((found - expected).abs().max()) < TOLERANCE


def test_buckets_are_few_and_waste_little() -> None:
    sizes = [bucket_of(n) for n in range(1, 257)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert all(size <= max(n + 31, 1) and size < 2 * n + 1 for n, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 20


def test_merged_projections_are_the_same_weights(folder: Path) -> None:
    plain, merged = Thinker.load(folder), Thinker.load(folder)
    merge_projections(merged.decoder)
    attention = merged.decoder.layers[0].self_attn
    assert attention.k_proj.weight.data_ptr() > attention.q_proj.weight.data_ptr()
    assert attention.k_proj.weight.untyped_storage().data_ptr() == attention.q_proj.weight.untyped_storage().data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), merged.parameters(), strict=True))
    engines = [LocalEngine(one) for one in (plain, merged)]
    try:
        for factor in (1.0, 0.7):
            for thinker in (plain, merged):
                with torch.no_grad():
                    thinker.decoder.layers[1].self_attn.v_proj.weight.mul_(factor)
                    thinker.decoder.layers[1].mlp.up_proj.weight.mul_(factor)
            found: list[Encoded] = []
            for engine in engines:
                engine.forget()
                found.append(asyncio.run(hear(engine, RECORDINGS[1], Sampling(1.0, 1.0, 3)))[1])
            assert found[0].ids == found[1].ids
            assert off_by(merged, found[1]) < TOLERANCE
    finally:
        for engine in engines:
            engine.close()


def test_projections_that_lie_apart_are_done_one_by_one() -> None:
    layers = [torch.nn.Linear(8, n) for n in (4, 2)]
    inputs = torch.randn(3, 8)
    for ours, layer in zip(project(layers, inputs), layers, strict=True):
        assert torch.equal(ours, layer(inputs))


# As on a GPU


class Replayed(Graphs):
    """What a graph does, without a GPU: after the second time, the work that was captured runs, whatever is asked now.

    Tensors must then still be where they were.
    """

    def __init__(self, cache: RowCache) -> None:
        super().__init__(enabled=True)
        self.cache = cache
        self.kept: dict[Hashable, tuple[Work, list[int]]] = {}
        self.n_replayed = 0

    def run(self, key: Hashable, work: Work) -> Any:
        here = [tensor.data_ptr() for tensor in (*self.cache.keys, *self.cache.values)]
        if key not in self._seen:
            self._seen.add(key)
            return work()
        self.kept.setdefault(key, (work, here))
        captured, there = self.kept[key]
        assert here == there
        self.n_replayed += captured is not work
        return captured()

    def clear(self) -> None:
        self._seen.clear()
        self.kept.clear()


@pytest.mark.parametrize("block", [1, 4])
def test_graphs_and_filled_batches_change_nothing(thinker: Thinker, block: int) -> None:
    text = dictate(thinker, range(12))
    plain, other = Dictated(thinker, text), Dictated(thinker, text, block=block, ahead=True)
    steps = other._steps
    steps.fill_up, steps.graphs = True, (graphs := Replayed(other._cache))
    try:
        expected = asyncio.run(hear_all(plain, HOW, RELISTENING))
        for _ in range(2):
            found = asyncio.run(hear_all(other, HOW, RELISTENING))
            assert [encoded.ids for _, encoded in found] == [encoded.ids for _, encoded in expected]
            assert max(off_by(thinker, encoded) for _, encoded in found) < TOLERANCE
        cold = [(i % 6, Sampling((0.0, 1.0)[i % 2], 1.0, i)) for i in range(9)]
        ids = [
            [encoded.ids for _, encoded in asyncio.run(hear_all(engine, cold, RELISTENING))] for engine in (plain, other)
        ]
        assert ids[0] == ids[1]
        assert graphs.n_replayed > 50
    finally:
        plain.close()
        other.close()
