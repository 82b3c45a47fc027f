"""Whole turns: stop texts found from ids, what a scheduler that keeps turns sends, and how it is told from another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from echo_audio.engines.vllm_scheduler import keeping_turns, misfits_of
from echo_audio.engines.vllm_turns import KEY, Stops, Turns
from echo_audio.models import tiny
from echo_audio.models.qwen2_5_omni import Qwen25Omni

BYTES = (b"<", b"/seg", b">", b"</seg>", b"> and", b"x", b"", "é".encode()[:1], "é".encode()[1:], b"seg>\n", b"</", b"g><")


def family() -> Qwen25Omni:
    texts = ["<think>I listen again <seg>0.5, 1.5</seg> and hear é 音 twice</seg>.</think>"] * 3
    return Qwen25Omni(tiny.train_tokenizer(texts, 300), max_positions=64, longest_clip_s=30.0)


@pytest.mark.parametrize("texts", [("</seg>",), ("é",), ("</seg>", "x<"), ("<",)])
def test_stop_texts_are_found_at_the_id_that_completes_them(texts: tuple[str, ...]) -> None:
    """Just where the written bytes first hold one that the newest id has part in, over random ids."""
    stops = Stops(BYTES, texts)
    random = np.random.default_rng(3)
    found = 0
    for _ in range(300):
        ids: list[int] = []
        while len(ids) < 30:
            ids.append(int(random.integers(len(BYTES))))
            written, before = (b"".join(BYTES[i] for i in some) for some in (ids, ids[:-1]))
            held = any(text.encode() in written for text in texts)
            assert not any(text.encode() in before for text in texts)
            assert stops(ids) == held
            if held:
                found += 1
                break
    assert found > 50


def test_no_text_never_stops() -> None:
    assert not Stops(BYTES, ())([2]) and not Stops(BYTES, ("",))([2]) and not Stops(BYTES, ("</seg>",))([])


class Scheduler:
    """As much of vLLM's as is used: a token a row a step, requests end at their third."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def add_request(self, request: Any) -> None:
        self.seen.append(request.request_id)

    def _update_request_with_output(self, request: Any, new_token_ids: list[int]) -> tuple[list[int], bool]:
        request.output_token_ids += new_token_ids
        return new_token_ids, len(request.output_token_ids) == 3

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, Any]:
        self.lists = model_runner_output.logprobs
        outputs = []
        for name, tokens in model_runner_output.tokens.items():
            request = scheduler_output.requests[name]
            new, stopped = self._update_request_with_output(request, tokens)
            reason = str(request.status) if stopped else None
            outputs.append(SimpleNamespace(
                request_id=name, new_token_ids=new, new_logprobs="stock", finish_reason=reason, prefill_stats=f"of {name}",
                kv_transfer_params=None,
            ))  # fmt: skip
        return {0: SimpleNamespace(outputs=outputs, finished_requests=None, scheduler_stats=None)}


class Status(str):
    """vLLM's is an enumeration."""

    __slots__ = ()
    FINISHED_STOPPED = "stop"


def request(name: str, *, turn: bool = True, announced: bool = False) -> Any:
    extra = {KEY: {"stop": ["</seg>"], "announced": announced}} if turn else None
    params = SimpleNamespace(extra_args=extra)
    return SimpleNamespace(request_id=name, sampling_params=params, resumable=False, output_token_ids=[], status=Status("length"))


def run(requests: list[Any], steps: list[dict[str, list[int]]], gone: tuple[str, ...] = ()) -> tuple[Any, list[Any]]:
    scheduler = keeping_turns(Scheduler)()
    scheduler.turns = Turns(BYTES)
    for each in requests:
        scheduler.add_request(each)
    sent = []
    for n, tokens in enumerate(steps):
        index = {name: row for row, name in enumerate(tokens)}
        lists = SimpleNamespace(logprobs=-np.array([[n + row / 10] for row in index.values()]), cu_num_generated_tokens=None)
        step = SimpleNamespace(
            finished_req_ids=gone if n == 1 else (), num_scheduled_tokens=index, requests={r.request_id: r for r in requests}
        )
        sent.append(scheduler.update_from_output(step, SimpleNamespace(logprobs=lists, req_id_to_index=index, tokens=tokens)))
    return scheduler, sent


def test_a_turn_is_sent_when_it_ends() -> None:
    requests = [request("a"), request("b")]
    scheduler, sent = run(requests, [{"a": [5], "b": [0]}, {"a": [5], "b": [1]}, {"a": [5], "b": [2]}])
    assert scheduler.seen == ["a", "b"] and sent[:2] == [{}, {}] and scheduler.lists is None
    one, two = sent[2][0].outputs
    assert (one.new_token_ids, one.finish_reason, one.new_logprobs) == ([5, 5, 5], "length", None)
    np.testing.assert_allclose(one.kv_transfer_params[KEY], [0, -1, -2])
    np.testing.assert_allclose(two.kv_transfer_params[KEY], [-0.1, -1.1, -2.1])
    assert two.prefill_stats == "of b"


def test_a_stop_text_ends_a_turn_there() -> None:
    _, sent = run([request("a"), request("b", turn=False)], [{"a": [5], "b": [5]}, {"a": [3], "b": [3]}])
    mine, other = sent[1][0].outputs
    assert (mine.finish_reason, mine.new_token_ids) == ("stop", [5, 3])
    assert (other.finish_reason, other.new_token_ids, other.new_logprobs) == (None, [3], "stock")


def test_who_waits_for_a_first_token_is_told() -> None:
    _, sent = run([request("a", announced=True)], [{"a": [5]}, {"a": [6]}, {"a": [5]}])
    assert sent[0][0].outputs[0].new_token_ids == [5] and len(sent[0][0].outputs[0].kv_transfer_params[KEY]) == 1
    assert sent[1] == {}
    assert sent[2][0].outputs[0].new_token_ids == [6, 5] and len(sent[2][0].outputs[0].kv_transfer_params[KEY]) == 3


def test_requests_that_are_taken_back_are_forgotten() -> None:
    scheduler, sent = run([request("a"), request("b")], [{"a": [5], "b": [5]}, {"b": [5]}, {"b": [5]}], gone=("a",))
    assert [len(each) for each in sent] == [0, 0, 1] and not scheduler.turns._open


def test_rows_that_are_still_read_give_nothing() -> None:
    """A prompt longer than a step: no new id, no log-probability."""
    _, sent = run([request("a")], [{"a": []}, {"a": [5]}, {"a": [5]}, {"a": [5]}])
    np.testing.assert_allclose(sent[3][0].outputs[0].kv_transfer_params[KEY], [-1, -2, -3])


def test_another_scheduler_is_told_from_ours() -> None:
    class Other(Scheduler):
        def add_request(self, request: Any, priority: int) -> None:  # type: ignore[override]
            raise NotImplementedError

    assert misfits_of(Scheduler) == [] and misfits_of(Other) == ["Other.add_request"]
    assert misfits_of(object) == [
        "object.add_request",
        "object.update_from_output",
        "object._update_request_with_output",
    ]


def test_the_family_s_bytes_serve() -> None:
    known = family()
    ids = known.text_ids("<think>I listen <seg>0.5, 1.5</seg>")
    assert [n for n in range(1, len(ids) + 1) if Stops(known.token_bytes, ("</seg>",))(ids[:n])] == [len(ids)]
