"""The sounds that scenes are made of: the procedural ones, and packed banks of recorded ones where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from echo_audio.data.clips import load_bank
from echo_audio.data.render import Stock, warm_up
from echo_audio.data.scene import Source
from echo_audio.data.sounds import ProceduralBank
from echo_audio.errors import DataError


def make_stock(banks: Sequence[str | Path] = ()) -> Stock:
    """The procedural sounds and some packed banks, at most one for each source.

    Raises:
        DataError: a bank does not load, or two hold the same kind of source.
    """
    recorded: dict[Source, object] = {}
    for path in banks:
        bank = load_bank(Path(path))
        source = bank.clips[0].row.source
        if source in recorded:
            raise DataError(f"{path} is a second bank of {source} sounds; pack both into one")
        recorded[source] = bank
    warm_up()
    return Stock({Source.PROCEDURAL: ProceduralBank(), **recorded})  # type: ignore[dict-item]
