"""vLLM's own scheduler and front end keep and hand over whole turns; needs vLLM's Python code, no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from echo_audio.engines import vllm_scheduler, vllm_second
from echo_audio.engines.vllm_library import WORKER, _audio_item, arguments_of, logprobs_of
from echo_audio.engines.vllm_turns import KEY

pytest.importorskip("vllm.v1.core.sched.async_scheduler", reason="vLLM is not installed here", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")
BYTES = (b"<", b"/seg", b">", b"x")
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512,
}  # fmt: skip
WRITTEN = {"stops": [3, 0, 1, 2, 3, 3], "announced": [3] * 6, "stock": [3] * 6}


def scheduler_of(folder: Path, worker: str = "") -> Any:
    """By vLLM's own call of what its option names."""
    from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    (folder / "config.json").write_text(json.dumps(CONFIG))
    cache = CacheConfig(block_size=16, enable_prefix_caching=True)
    config = VllmConfig(
        scheduler_config=SchedulerConfig(
            max_num_seqs=16, max_num_batched_tokens=512, max_model_len=512, is_encoder_decoder=False, async_scheduling=True
        ),
        model_config=ModelConfig(model=str(folder), dtype="bfloat16", skip_tokenizer_init=True),
        cache_config=cache, parallel_config=ParallelConfig(worker_extension_cls=worker), device_config=DeviceConfig("cpu"),
    )  # fmt: skip
    cache.num_gpu_blocks = 100
    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=1, dtype=torch.float32)
    return vllm_scheduler.scheduler(
        vllm_config=config, kv_cache_config=KVCacheConfig(100, [], [KVCacheGroupSpec(["layer"], spec)]), block_size=16,
        structured_output_manager=StructuredOutputManager(config),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_scheduler.Qwen25Omni, "load", lambda _: SimpleNamespace(token_bytes=BYTES))


def params(name: str) -> Any:
    from vllm import SamplingParams

    extra = None if name == "stock" else {KEY: {"stop": ["</seg>"], "announced": name == "announced"}}
    return SamplingParams(max_tokens=5, logprobs=0, flat_logprobs=True, detokenize=False, extra_args=extra)


def outputs_of(scheduler: Any) -> list[Any]:
    """What is sent while rows write what is given, two steps in flight."""
    from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

    n, sent, flying = dict.fromkeys(WRITTEN, 0), [], deque[Any]()
    for step in range(12):
        planned = scheduler.schedule()
        names = list(planned.num_scheduled_tokens)
        if names:
            ids = [[WRITTEN[name][min(n[name], 5)]] for name in names]
            n.update({name: n[name] + 1 for name in names})
            lists = LogprobsLists(np.array(ids), np.full((len(ids), 1), -float(step)), np.zeros(len(ids)), None)
            index = {name: row for row, name in enumerate(names)}
            flying.append((planned, ModelRunnerOutput(names, index, sampled_token_ids=ids, logprobs=lists)))
        if len(flying) == 2 or (flying and not names):
            sent += [output for batch in scheduler.update_from_output(*flying.popleft()).values() for output in batch.outputs]
    return sent


def test_vllm_s_scheduler_sends_whole_turns(tmp_path: Path) -> None:
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    scheduler = scheduler_of(tmp_path)
    init_none_hash(sha256)
    for name in WRITTEN:
        hasher = get_request_block_hasher(16, sha256)
        scheduler.add_request(Request(name, [3] * 20, params(name), None, block_hasher=hasher))
    sent = outputs_of(scheduler)
    said = {
        name: [(o.new_token_ids, "" if o.finish_reason is None else str(o.finish_reason)) for o in sent if o.request_id == name]
        for name in WRITTEN
    }
    assert said["stops"] == [([3, 0, 1, 2], "stop")]
    assert said["announced"] == [([3], ""), ([3] * 4, "length")]
    assert said["stock"] == [([3], "")] * 4 + [([3], "length")]
    last = [o for o in sent if o.request_id == "stops"][-1]
    assert last.kv_transfer_params == {KEY: [-0.0, -1.0, -2.0, -3.0]} and last.new_logprobs is None
    assert not scheduler.turns._open and not scheduler.requests


@pytest.mark.parametrize("kind", ["DELTA", "FINAL_ONLY"])
def test_vllm_s_front_end_hands_turns_over(kind: str) -> None:
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    how = params("announced")
    how.output_kind = RequestOutputKind[kind]
    request = EngineCoreRequest("a1", [1, 2], None, how, None, 0.0, None, None, None, external_req_id="a")
    encoder = MsgpackEncoder()
    assert MsgpackDecoder(EngineCoreRequest).decode(encoder.encode(request)).sampling_params.extra_args == how.extra_args
    front, queue = OutputProcessor(None, log_stats=False), RequestOutputCollector(how.output_kind, "a")
    front.add_request(request, None, None, 0, queue)
    decoder = MsgpackDecoder(EngineCoreOutputs)
    first = EngineCoreOutput("a1", [7], kv_transfer_params={KEY: [-1.0]})
    rest = EngineCoreOutput("a1", [8, 9], finish_reason=FinishReason.STOP, kv_transfer_params={KEY: [-1.0, -2.0, -3.0]})
    for each in (first, rest):
        front.process_outputs(decoder.decode(encoder.encode(EngineCoreOutputs(outputs=[each]))).outputs)
    given = queue.get_nowait()
    assert list(given.outputs[0].token_ids) == [7, 8, 9] and given.finished, "merged on its way where it streams"
    assert logprobs_of(given, 0) == [-1.0, -2.0, -3.0] and logprobs_of(given, 0)[1:] == [-2.0, -3.0]


def test_more_of_what_was_encoded_is_kept_than_a_step_reads(tmp_path: Path) -> None:
    from vllm.v1.core.encoder_cache_manager import compute_mm_encoder_budget
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    scheduler = scheduler_of(tmp_path)
    assert isinstance(scheduler, AsyncScheduler)
    a_step, kept = compute_mm_encoder_budget(scheduler.scheduler_config, {"audio": 250})
    assert (a_step, kept) == (512, vllm_scheduler.ENCODER_CACHE)


def second_runner() -> bool:
    from vllm.config import vllm as config

    return config.DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES >= vllm_second.ARCHITECTURES


def test_every_process_chooses_the_runner_that_was_asked_for(tmp_path: Path) -> None:
    """One that made an engine with the other runner before, too."""
    for runner in (2, 1, 2, 1):
        arguments = arguments_of(tmp_path, 512, 16, 0.5, whole=True, runner=runner)
        assert arguments["worker_extension_cls"] == {1: WORKER, 2: vllm_second.WORKER}[runner]
        assert second_runner() == (runner == 2)
        vllm_second.choose(second=runner == 1)
        scheduler_of(tmp_path, arguments["worker_extension_cls"])
        assert second_runner() == (runner == 2)


def test_reading_our_modules_chooses_no_runner() -> None:
    """vLLM's processes read them for other reasons: the worker had the first runner, and its scheduler planned for the second."""
    read = "import echo_audio.engines.vllm_library, echo_audio.engines.vllm, echo_audio.engines.vllm_worker"
    ask = "from vllm.config import vllm; print('Qwen2_5OmniModel' in vllm.DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES)"
    for modules, expected in ((read, "False"), (f"{read}, echo_audio.engines.vllm_second_worker", "True")):
        code = [sys.executable, "-W", "ignore", "-c", f"{modules}\n{ask}"]
        assert subprocess.run(code, capture_output=True, text=True, check=True).stdout.split()[-1] == expected


def test_this_vllm_fits() -> None:
    assert vllm_scheduler.misfits() == []


def test_features_stay_on_the_host_until_our_tower_takes_them() -> None:
    """Through vLLM's message format and its batching for a device."""
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
    from vllm.multimodal.utils import group_and_batch_mm_items
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    clips = [torch.randn(128, n) for n in (300, 1000, 300)]
    specs = [MultiModalFeatureSpec(_audio_item(clip), "audio", str(clip.shape), PlaceholderRange(0, 3)) for clip in clips]
    request = EngineCoreRequest("a", [1], specs, None, None, 0.0, None, None, None)
    sent = MsgpackDecoder(EngineCoreRequest).decode(MsgpackEncoder().encode(request))
    ((n, batch),) = group_and_batch_mm_items([spec.data for spec in sent.mm_features], device="meta")
    assert n == 3 and batch["audio_feature_lengths"].flatten().tolist() == [300, 1000, 300]
    torch.testing.assert_close(batch["input_audio_features"], torch.cat(clips, dim=1))
