"""vLLM's scheduler, which keeps whole turns (`vllm_turns`): named by the option `scheduler_cls`, run in vLLM's own process.

vLLM calls its scheduler's interface its own; what is used of it is checked by `misfits` before it is used.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import inspect
from typing import Any

from echo_audio.engines import vllm_second
from echo_audio.engines.vllm_turns import Turns
from echo_audio.models.qwen2_5_omni import Qwen25Omni

NAME = f"{__name__}.scheduler"
ENCODER_CACHE = 32_768
"""Audio tokens whose encoding is kept: 22 minutes, a quarter of a GB at 7B. vLLM keeps as many as it reads in a step, and then
encodes the same segment again for each transcript that plays it a little later."""
_USED = {
    "add_request": ("self", "request"),
    "update_from_output": ("self", "scheduler_output", "model_runner_output"),
    "_update_request_with_output": ("self", "request", "new_token_ids"),
}
_SET = {"encoder_cache_size"}


def scheduler(*, vllm_config: Any, **more: Any) -> Any:
    """vLLM's own choice of scheduler, keeping turns. Called by vLLM as the class would be."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    vllm_second.choose(second=vllm_config.parallel_config.worker_extension_cls == vllm_second.WORKER)
    settings = vllm_config.scheduler_config
    settings.encoder_cache_size = max(settings.encoder_cache_size, ENCODER_CACHE)
    base = AsyncScheduler if vllm_config.scheduler_config.async_scheduling else Scheduler
    made = keeping_turns(base)(vllm_config=vllm_config, **more)
    made.turns = Turns(Qwen25Omni.load(vllm_config.model_config.model).token_bytes)
    return made


def misfits() -> list[str]:
    """What of vLLM's schedulers is not as this module needs it; empty if all is."""
    from vllm.config import SchedulerConfig
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine import EngineCoreOutput

    found = [name for base in (AsyncScheduler, Scheduler) for name in misfits_of(base)]
    fields = {"request_id", "new_token_ids", "new_logprobs", "finish_reason", "kv_transfer_params", "prefill_stats"}
    found += [f"EngineCoreOutput.{name}" for name in sorted(fields - {*EngineCoreOutput.__struct_fields__})]
    return found + [f"SchedulerConfig.{name}" for name in sorted(_SET - {*SchedulerConfig.__dataclass_fields__})]


def misfits_of(base: type) -> list[str]:
    """Methods of a scheduler that are missing or take something else."""
    return [
        f"{base.__name__}.{name}"
        for name, wanted in _USED.items()
        if tuple(inspect.signature(getattr(base, name, len)).parameters) != wanted
    ]


def keeping_turns(base: type) -> Any:
    """A scheduler class that keeps whole turns.

    Args:
        base: vLLM's.
    """

    class Keeping(base):
        turns: Turns

        def add_request(self, request: Any) -> None:
            params = request.sampling_params
            if params is not None and not request.resumable:
                self.turns.begin(request.request_id, params.extra_args)
            super().add_request(request)

        def _update_request_with_output(self, request: Any, new_token_ids: list[int]) -> tuple[list[int], bool]:
            new, stopped = super()._update_request_with_output(request, new_token_ids)
            if new and not stopped and self.turns.completed(request.request_id, request.output_token_ids):
                request.status = type(request.status).FINISHED_STOPPED
                stopped = True
            return new, stopped

        def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, Any]:
            self.turns.forget(scheduler_output.finished_req_ids)
            lists, index = model_runner_output.logprobs, model_runner_output.req_id_to_index
            if lists is not None and self.turns.holds(scheduler_output.num_scheduled_tokens):
                model_runner_output.logprobs = None  # nobody else wants them cut up by row
            values = [] if lists is None else lists.logprobs[:, 0].tolist()
            starts = None if lists is None else lists.cu_num_generated_tokens
            made = super().update_from_output(scheduler_output, model_runner_output)
            for batch in made.values():
                kept: list[Any] = []
                for output in batch.outputs:
                    at = index[output.request_id] if output.new_token_ids else 0
                    at = at if starts is None else starts[at]
                    if self.turns.passes(output, values[at : at + len(output.new_token_ids)]):
                        kept.append(output)
                batch.outputs = kept
            return {client: batch for client, batch in made.items() if _says(batch)}

    return Keeping


def _says(batch: Any) -> bool:
    """Whether there is anything in what is sent for a step."""
    return bool(batch.outputs or batch.finished_requests or batch.scheduler_stats)
