"""Scenes as a labelled source: synthetic recordings whose event times are exactly known. Their own questions are not used."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from echo_audio.audio import Recording
from echo_audio.data.render import Stock, render
from echo_audio.data.scene import Scene, Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.sources.base import Labelled, Skipped
from echo_audio.data.stock import make_stock


class SceneSource:
    """Scenes of the training split.

    Args:
        n: how many.
        seed: of the scenes.
        banks: packed banks of recorded sounds.
        longest_s: scenes that would last longer are drawn with this length.
    """

    def __init__(self, n: int, seed: int, banks: tuple[str, ...] = (), longest_s: float = 30.0) -> None:
        self.n, self.seed, self.longest_s = n, seed, longest_s
        self.stock = make_stock(banks)

    def items(self) -> Iterator[Labelled | Skipped]:
        """Each scene, rendered when it is loaded."""
        for index in range(self.n):
            row, scene = draw_row(self.seed, index, Split.TRAIN, self.stock)
            if row.duration_s > self.longest_s:
                row, scene = draw_row(self.seed, index, Split.TRAIN, self.stock, row.kind, self.longest_s)
            origin = {"source": "scenes", "seed": self.seed, "index": index, "split": Split.TRAIN.value}
            yield Labelled(row.id, functools.partial(_rendered, scene, self.stock), row.events, exhaustive=True, origin=origin)


def _rendered(scene: Scene, stock: Stock) -> Recording:
    return render(scene, stock)
