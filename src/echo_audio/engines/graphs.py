"""CUDA graphs of work that is done again and again at the same addresses: one launch instead of a thousand."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

Work = Callable[[], Any]


class Graphs:
    """Runs work, from its second time on as a captured graph.

    Without a GPU, or switched off, everything is simply run. The first time of each key is run too: kernels are chosen
    and compiled then, which cannot be done while capturing.

    Args:
        enabled: whether to capture.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.n_captured = 0
        self._seen: set[Hashable] = set()
        self._captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._pool: Any = None

    def run(self, key: Hashable, work: Work) -> Any:
        """Do the work known under a key; the same key must always mean the same launches on the same tensors.

        Returns:
            What the work returned. Tensors in it are overwritten by the next run.
        """
        if not self.enabled:
            return work()
        if key not in self._seen:
            self._seen.add(key)
            return work()
        if key not in self._captured:
            self._captured[key] = self._capture(work)
        graph, result = self._captured[key]
        graph.replay()
        return result

    def clear(self) -> None:
        """Tensors have moved, or hold something else: capture anew."""
        self._seen.clear()
        self._captured.clear()
        self._pool = None

    def _capture(self, work: Work) -> tuple[torch.cuda.CUDAGraph, Any]:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        self.n_captured += 1
        return graph, result
