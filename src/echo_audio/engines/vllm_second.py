"""vLLM's second model runner for models of this family: inputs filled and ids drawn by a few kernels, whatever the rows.

vLLM 0.23 takes it by itself for three architectures. Whether it supports the rest of the configuration stays vLLM's to say,
and the environment variable VLLM_USE_V2_MODEL_RUNNER decides over both. Every process asks its own list: who makes the
configuration, who plans the steps, and who runs the model (`vllm_second_worker`). All must have chosen the same: the second
runner is given rows that were pushed out and come back as new ones, and the first would write them anew.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import warnings

ARCHITECTURES = frozenset({"Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"})
WORKER = "echo_audio.engines.vllm_second_worker.Receiver"
_LIST = "DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES"


def choose(*, second: bool) -> None:
    """In this process: put this family on vLLM's list, or take it off."""
    from vllm.config import vllm as config

    known = getattr(config, _LIST, None)
    if isinstance(known, frozenset):
        setattr(config, _LIST, known | ARCHITECTURES if second else known - ARCHITECTURES)
    elif second:
        warnings.warn(f"this vLLM has no {_LIST} as 0.23 has: its first model runner is used", stacklevel=2)
