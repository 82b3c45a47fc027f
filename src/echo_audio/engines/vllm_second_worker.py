"""The worker's extension where vLLM's second model runner is wanted (`vllm_second`).

Only vLLM imports this, by name, in each process that runs the model, before it asks which runner to make.
"""

from __future__ import annotations

from echo_audio.engines import vllm_second
from echo_audio.engines.vllm_worker import Receiver

__all__ = ["Receiver"]

try:
    vllm_second.choose(second=True)
except ModuleNotFoundError as error:  # read where vLLM is not
    if not (error.name or "").startswith("vllm"):
        raise
