"""What Echo uses of vLLM, named in one place, and how its containers are read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from echo_audio.engines import vllm_scheduler, vllm_second
from echo_audio.engines.vllm_turns import KEY
from echo_audio.errors import MissingExtraError
from echo_audio.listen import Request

AUDIO = "audio"
WORKER = "echo_audio.engines.vllm_worker.Receiver"


@dataclass(frozen=True)
class Library:
    """What Echo uses of vLLM, by vLLM's names.

    Args:
        sampling_params: class of a request's settings.
        final_only, delta: kinds of output: once at the end, or with every token.
        tokens_input, mm_input: make a finished input of ids; of ids and audio.
        placeholder: class of a clip's place in the ids.
        audio_item: features (128, n_frames) as the model's own item.
        dead: error of an engine that is gone.
    """

    sampling_params: Callable[..., Any]
    final_only: Any
    delta: Any
    tokens_input: Callable[..., Any]
    mm_input: Callable[..., Any]
    placeholder: Callable[..., Any]
    audio_item: Callable[[Tensor], Any]
    dead: type[Exception]

    @classmethod
    def load(cls) -> Library:
        """Import vLLM.

        Raises:
            MissingExtraError: it is not installed.
        """
        try:
            from vllm import SamplingParams, envs  # pyright: ignore[reportMissingImports]
            from vllm.inputs.engine import mm_input, tokens_input  # pyright: ignore[reportMissingImports]
            from vllm.multimodal.inputs import PlaceholderRange  # pyright: ignore[reportMissingImports]
            from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]
            from vllm.v1.engine.exceptions import EngineDeadError  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("vllm"):
                raise
            raise MissingExtraError("the engine vllm", "vllm") from None
        # A forked process cannot use a GPU that this one has touched, as the trainer of a run has.
        envs.VLLM_WORKER_MULTIPROC_METHOD = "spawn"
        return cls(
            SamplingParams, RequestOutputKind.FINAL_ONLY, RequestOutputKind.DELTA, tokens_input, mm_input, PlaceholderRange,
            _audio_item, EngineDeadError,
        )  # fmt: skip


def _audio_item(features: Tensor) -> Any:
    """One clip as vLLM's model for this family takes it."""
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems  # pyright: ignore[reportMissingImports]

    n_frames = torch.tensor([features.shape[1]])
    values = {
        "input_audio_features": features,
        "audio_feature_lengths": n_frames,
        "feature_attention_mask": torch.ones(1, features.shape[1], dtype=torch.long),
    }
    # As the model's own fields, but left on the host: copied from there by vLLM, a step that hears something new waits for
    # all work in flight. We copy them ourselves (`vllm_hearing`).
    stays = MultiModalFieldConfig.batched(AUDIO, keep_on_cpu=True)
    fields = {
        "input_audio_features": MultiModalFieldConfig.flat_from_sizes(AUDIO, n_frames, dim=1, keep_on_cpu=True),
        "audio_feature_lengths": stays,
        "feature_attention_mask": stays,
    }
    return MultiModalKwargsItems.from_hf_inputs(values, fields)[AUDIO][0]  # pyright: ignore[reportArgumentType]


def arguments_of(folder: Path, length: int, max_rows: int, gpu_memory: float, *, whole: bool, runner: int) -> dict[str, Any]:
    """What vLLM's AsyncEngineArgs are given.

    Args:
        folder: the model.
        length: longest context.
        whole: keep turns in vLLM's process.
        runner: which of vLLM's model runners, 1 or 2.
    """
    found: dict[str, Any] = {
        "model": str(folder), "dtype": "bfloat16", "max_model_len": length, "max_num_seqs": max_rows,
        "gpu_memory_utilization": gpu_memory, "enable_prefix_caching": True,
        # AsyncLLM would take 2,048: a wave of new segments then comes in dribbles, each a step with all its overhead.
        "max_num_batched_tokens": 8192,
        # Segments of some 100 ids ride beside the rows' one each: vLLM's 512 are too few for CUDA graphs then.
        "max_cudagraph_capture_size": min(1024, max(256, 4 * max_rows)),
        "limit_mm_per_prompt": {"audio": 64, "image": 0, "video": 0}, "mm_processor_cache_type": "lru",
        "worker_extension_cls": WORKER, "enable_log_requests": False, "disable_log_stats": True,
    }  # fmt: skip
    if whole:
        found["scheduler_cls"] = vllm_scheduler.NAME
    vllm_second.choose(second=runner == 2)
    if runner == 2:
        found["worker_extension_cls"] = vllm_second.WORKER
    return found


def params_of(library: Library, request: Request, seed: int | None, turn: dict[str, Any] | None, **more: Any) -> Any:
    """A request's settings.

    Args:
        seed: of its draws.
        turn: what `vllm_turns` is told. Without, stop texts are looked for by vLLM's front end, in the text it makes.
        more: settings by vLLM's names.
    """
    how, texts = request.sampling, list(request.stop)
    if turn is not None:
        more |= {"extra_args": {KEY: turn}, "detokenize": False}
    else:
        more |= {"stop": texts, "detokenize": bool(texts), "include_stop_str_in_output": bool(texts)}
    return library.sampling_params(
        temperature=how.temperature, top_p=how.top_p if how.top_p > 0 else 1.0, top_k=1 if how.top_p == 0 else 0,
        seed=seed, logprobs=0, flat_logprobs=True, skip_special_tokens=False,
        skip_clone=True,  # these settings are this request's alone
        **more,
    )  # fmt: skip


def sampled_logprobs(logprobs: Any, ids: Sequence[int]) -> list[float]:
    """Log-probability of each sampled id, out of vLLM's containers: flat, or a dictionary for each position."""
    if not ids:
        return []
    if isinstance(logprobs, list):
        return [float(at[token].logprob) for at, token in zip(logprobs[-len(ids) :], ids, strict=True)]
    starts = list(logprobs.start_indices)[-len(ids) :]
    return [float(logprobs.logprobs[start]) for start in starts]


def logprobs_of(output: Any, n_before: int) -> list[float]:
    """Log-probability of each id of an output.

    Args:
        output: vLLM's, with new ids only or with all.
        n_before: ids of the turn that came in outputs before.
    """
    completion = output.outputs[0]
    ids = list(completion.token_ids)
    whole = (output.kv_transfer_params or {}).get(KEY)
    return sampled_logprobs(completion.logprobs, ids) if whole is None else list(whole[n_before : n_before + len(ids)])


def check_hearing(replaced: Sequence[str]) -> None:
    """Warn of methods of the live model that were to be replaced and are not there."""
    missing = [name for name in ("_process_audio_input", "embed_input_ids") if name not in replaced]
    if missing:
        warnings.warn(f"this vLLM's model has no {', '.join(missing)} as 0.23 has: audio is read its way, slower", stacklevel=3)


def keeps_turns() -> bool:
    """Whether vLLM's scheduler is as `vllm_scheduler` needs it; a warning names what is not."""
    missing = vllm_scheduler.misfits()
    if missing:
        warnings.warn(f"this vLLM's {', '.join(missing)} differ from 0.23: turns come token by token, slower", stacklevel=2)
    return not missing
