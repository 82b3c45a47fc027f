"""vLLM's second model runner for models of this family: inputs filled and ids drawn by a few kernels, whatever the rows.

vLLM 0.23 takes it by itself for three architectures. Whether it supports the rest of the configuration stays vLLM's to say,
and the environment variable VLLM_USE_V2_MODEL_RUNNER decides over both. Named as the worker's extension, this module is
imported in every process that runs the model; who makes the configuration calls `allow`, too.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import warnings

from echo_audio.engines.vllm_worker import Receiver

ARCHITECTURES = frozenset({"Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"})
NAME = f"{__name__}.{Receiver.__name__}"
_LIST = "DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES"


def allow() -> None:
    """Add this family to vLLM's list."""
    from vllm.config import vllm as config

    known = getattr(config, _LIST, None)
    if isinstance(known, frozenset):
        setattr(config, _LIST, known | ARCHITECTURES)
    else:
        warnings.warn(f"this vLLM has no {_LIST} as 0.23 has: its first model runner is used", stacklevel=2)


def in_worker() -> None:
    """`allow`, where vLLM is; this module is also read where it is not."""
    try:
        allow()
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("vllm"):
            raise


in_worker()
