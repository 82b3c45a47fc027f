"""What runs inside vLLM's own process: ids that may not be drawn, and new weights. Only vLLM imports this module."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open
from vllm.v1.sample.logits_processor import LogitsProcessor  # pyright: ignore[reportMissingImports]

FORBIDDEN = "echo_forbidden"
"""Key of vLLM's `additional_config`: ids that no policy may write."""


class Forbidden(LogitsProcessor):
    """Control ids, and ids that no text has, are never drawn: the same rule as `Thinker.logits`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.ids = torch.tensor(vllm_config.additional_config.get(FORBIDDEN, []), dtype=torch.long, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) with the forbidden columns at -inf."""
        return logits.index_fill_(-1, self.ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        """A forbidden id could be the most likely."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Every row has the same rule."""


class Receiver:
    """Methods that vLLM's worker gets besides its own (`worker_extension_cls`)."""

    model_runner: Any

    def echo_take_weights(self, path: str) -> int:
        """Read weights under published names into the live model, in place.

        Returns:
            How many tensors there were.
        """
        with safe_open(path, "pt") as file, torch.inference_mode():
            names = list(file.keys())
            self.model_runner.model.load_weights((name, file.get_tensor(name)) for name in names)
        torch.accelerator.synchronize()
        return len(names)
