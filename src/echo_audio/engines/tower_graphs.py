"""The layers of the audio tower as CUDA graphs, for a few sizes.

Launched one by one, 32 layers are some 600 launches: for a few clips longer than the GPU needs for them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from echo_audio.engines.graphs import Graphs
from echo_audio.models.audio_tower import one_by_one, tower_layer

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Blocks of 2 s; more are launched layer by layer, and keep the GPU busy for longer than that takes."""


class TowerGraphs:
    """Runs the layers of a tower on (blocks, positions, width), always at the same addresses.

    Args:
        tower: transformers' Qwen2_5OmniAudioEncoder. Its weights may change, but not move.
    """

    def __init__(self, tower: Any) -> None:
        weight = tower.conv2.weight
        self.tower, length = tower, (2 * tower.n_window - 1) // 2 + 1
        self.hidden_CLD = torch.zeros(SIZES[-1], length, weight.shape[0], dtype=weight.dtype, device=weight.device)
        self.valid_CL = torch.ones(SIZES[-1], length, dtype=torch.bool, device=weight.device)
        self.graphs = Graphs(enabled=weight.is_cuda)

    @torch.inference_mode()
    def capture(self) -> None:
        """Make all graphs now; without, each is made when its size comes the second time."""
        if not self.graphs.enabled:
            return
        for size in reversed(SIZES):  # the largest first: the others fit into its memory
            for _ in range(2):
                self.graphs.run(size, partial(self._run, size))

    def __call__(self, hidden_CLD: Tensor, mask: Tensor | None) -> Tensor:
        """All layers; `encode_features`' `run_layers`.

        Returns:
            (blocks, positions, width), overwritten by the next call.
        """
        n, length = hidden_CLD.shape[:2]
        size = next((size for size in SIZES if size >= n), None)
        if size is None:
            return one_by_one(self.tower, tower_layer, hidden_CLD, mask)
        self.hidden_CLD[:n, :length] = hidden_CLD
        self.valid_CL[:n, :length] = True if mask is None else mask[:, 0, 0]
        self.hidden_CLD[:n, length:], self.valid_CL[:n, length:] = 0.0, False  # masked, but NaN times nothing is NaN
        self.valid_CL[n:size] = True  # blocks that nobody reads, but a block without a key would be NaN
        return self.graphs.run(size, partial(self._run, size))[:n, :length]

    def _run(self, size: int) -> Tensor:
        return one_by_one(self.tower, tower_layer, self.hidden_CLD[:size], self.valid_CL[:size, None, None])
