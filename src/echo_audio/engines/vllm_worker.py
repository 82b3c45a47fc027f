"""What runs inside vLLM's own process: our audio tower, ids that may not be drawn, new weights. Only vLLM imports this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from echo_audio.engines import interpreter, vllm_hearing


class Receiver:
    """Methods that vLLM's worker gets besides its own (`worker_extension_cls`)."""

    model_runner: Any

    def echo_settle(self) -> None:
        """This process prepares steps in one thread, and unpacks requests in another."""
        interpreter.share()
        interpreter.alone()

    def echo_forbid(self, ids: list[int]) -> None:
        """Control ids, and ids that no text has, are never drawn: the same rule as `Thinker.logits`.

        Put on the model, not into vLLM's logits processors: the log-probabilities that vLLM returns at any temperature
        are those before its processors, and would count what can never be written.
        """
        model = self.model_runner.get_model()
        columns, compute = torch.tensor(ids, dtype=torch.long, device=self.model_runner.device), model.compute_logits

        def allowed(*args: Any, **kwargs: Any) -> Tensor | None:
            logits = compute(*args, **kwargs)
            return None if logits is None else logits.index_fill_(-1, columns, float("-inf"))

        model.compute_logits = allowed

    def echo_hear(self, parts: Sequence[str] = vllm_hearing.PARTS) -> list[str]:
        """Our way for audio; see `vllm_hearing.replace`."""
        return vllm_hearing.replace(self.model_runner, parts)

    def echo_take_weights(self, path: str) -> int:
        """Read weights under published names into the live model, in place.

        Returns:
            How many tensors there were.

        Raises:
            ValueError: the live model holds them in fewer bits, from which they cannot be replaced.
        """
        how = self.model_runner.model_config.quantization
        if how:
            raise ValueError(f"weights kept as {how} cannot be replaced: load the engine without quantization={how}")
        with safe_open(path, "pt") as file, torch.inference_mode():
            names = list(file.keys())
            self.model_runner.get_model().load_weights((name, file.get_tensor(name)) for name in names)
        torch.accelerator.synchronize()
        return len(names)
