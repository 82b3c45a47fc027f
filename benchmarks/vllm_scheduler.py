"""What vLLM's scheduler costs a step, without a GPU: planning a step of 256 rows, and taking in what they wrote.

    python benchmarks/vllm_scheduler.py [--rows 256]

`stock` is vLLM's own, `whole` ours over it (`engines/vllm_scheduler.py`). Medians of steps in which every row writes one id,
each row with three clips in its prompt. The last line is one JSON object.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echo_audio.engines import vllm_scheduler
from echo_audio.engines.vllm_turns import KEY, Turns

PROMPT, BLOCK, BLOCKS = 700, 16, 20_000
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 4096,
}  # fmt: skip


def scheduler_of(rows: int, *, whole: bool) -> Any:
    """A scheduler over a cache that nobody fills."""
    from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    cache = CacheConfig(block_size=BLOCK, enable_prefix_caching=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        config = VllmConfig(
            scheduler_config=SchedulerConfig(
                max_num_seqs=rows, max_num_batched_tokens=8192, max_model_len=4096,
                is_encoder_decoder=False, async_scheduling=True,
            ),
            model_config=ModelConfig(model=folder, dtype="bfloat16", skip_tokenizer_init=True),
            cache_config=cache, parallel_config=ParallelConfig(), device_config=DeviceConfig("cpu"),
        )  # fmt: skip
    cache.num_gpu_blocks = BLOCKS
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    base = vllm_scheduler.keeping_turns(AsyncScheduler) if whole else AsyncScheduler
    made = base(
        vllm_config=config, kv_cache_config=KVCacheConfig(BLOCKS, [], [KVCacheGroupSpec(["layer"], spec)]), block_size=BLOCK,
        structured_output_manager=StructuredOutputManager(config),
    )  # fmt: skip
    made.turns = Turns((b"<", b"/seg", b">", b"x"))
    manager = made.encoder_cache_manager
    made.max_num_encoder_input_tokens = manager.num_free_slots = manager.num_freeable_slots = 10**9
    return made


def ask(scheduler: Any, rows: int) -> None:
    """Fill it with rows."""
    from vllm import SamplingParams
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256)
    extra = {KEY: {"stop": ["</seg>"], "announced": False}}
    for row in range(rows):
        params = SamplingParams(max_tokens=64, logprobs=0, detokenize=False, extra_args=extra)
        hasher = get_request_block_hasher(BLOCK, sha256)
        request = Request(f"row {row}", [row % 90] * PROMPT, params, None, block_hasher=hasher)
        places = [PlaceholderRange(offset=30 + 150 * n, length=75) for n in range(3)]
        request.mm_features = [MultiModalFeatureSpec(None, "audio", f"{row // 8} {n}", at) for n, at in enumerate(places)]
        scheduler.add_request(request)


def measure(rows: int, *, whole: bool) -> dict[str, float]:
    """Milliseconds of a step: `plan` and `take`."""
    from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

    scheduler = scheduler_of(rows, whole=whole)
    ask(scheduler, rows)
    flying, plan, take = deque[Any](), list[float](), list[float]()
    while len(take) < 40:
        began = time.perf_counter()
        planned = scheduler.schedule()
        planned_s = time.perf_counter() - began
        names = list(planned.num_scheduled_tokens)
        ids = [[3] if scheduler.requests[name].num_computed_tokens >= PROMPT else [] for name in names]
        lists = LogprobsLists(np.zeros((len(names), 1), int), np.zeros((len(names), 1)), np.zeros(len(names)), None)
        index = {name: row for row, name in enumerate(names)}
        flying.append((planned, ModelRunnerOutput(names, index, sampled_token_ids=ids, logprobs=lists)))
        if len(flying) < 2:
            continue
        began = time.perf_counter()
        scheduler.update_from_output(*flying.popleft())
        if planned.total_num_scheduled_tokens == len(names) == rows:
            take.append(time.perf_counter() - began)
            plan.append(planned_s)
    return {"plan_ms": 1000 * statistics.median(plan), "take_ms": 1000 * statistics.median(take)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    rows = parser.parse_args().rows
    found = {name: measure(rows, whole=name == "whole") for name in ("stock", "whole")}
    for name, times in found.items():
        print(f"{name}: plan {times['plan_ms']:.2f} ms, take {times['take_ms']:.2f} ms")
    print(json.dumps({"benchmark": "vllm_scheduler", "rows": rows, **found}))


if __name__ == "__main__":
    main()
