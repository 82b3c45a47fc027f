"""Features on their way to a GPU, through host memory that is pinned once: fresh memory costs more than the copy itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BUFFERS = 4
_SIZE = 2**22
"""Numbers in a buffer: five minutes of log-mel. More are pinned for the occasion."""


class Staging:
    """Sends tensors to a device, converted on the way.

    Args:
        device: where to; on the CPU they are converted only.
        dtype: of what arrives.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype, self.n_sent = device, dtype, 0
        on_gpu = device.type == "cuda"
        self._buffers = [torch.empty(_SIZE, dtype=dtype, pin_memory=True) for _ in range(_BUFFERS)] if on_gpu else []
        self._sent = [torch.cuda.Event() for _ in self._buffers]

    def upload(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors on the device, in one copy that waits for nothing but what was sent four calls before."""
        if not self._buffers:
            return [tensor.to(self.device, self.dtype) for tensor in tensors]
        sizes, at = [tensor.numel() for tensor in tensors], self.n_sent % _BUFFERS
        self.n_sent += 1
        self._sent[at].synchronize()
        small = sum(sizes) <= _SIZE
        memory = self._buffers[at][: sum(sizes)] if small else torch.empty(sum(sizes), dtype=self.dtype, pin_memory=True)
        for part, tensor in zip(memory.split(sizes), tensors, strict=True):
            part.view(tensor.shape).copy_(tensor)
        there = memory.to(self.device, non_blocking=True)
        self._sent[at].record()
        return [part.view(tensor.shape) for part, tensor in zip(there.split(sizes), tensors, strict=True)]
