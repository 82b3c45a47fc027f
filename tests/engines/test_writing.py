"""A turn is the same however its ids come: one by one, or in blocks."""

from __future__ import annotations

import random

import pytest

from echo_audio.engines.writing import Writing
from echo_audio.models import folders
from echo_audio.models.qwen2_5_omni import Qwen25Omni

FAMILY = Qwen25Omni.load(folders.resolve("tiny"))
PHRASES = (
    "a bell <seg>1.2, 3.4</seg>", "</se", "g>", "</seg>, so", "\u00e9\u4e2d\U0001f514",
    "<think>", "</answer>", "two beeps", ">", "",
)  # fmt: skip


def ids_of(seed: int) -> list[int]:
    """Ids of phrases, some cut within a character or a tag; now and then an end."""
    draw = random.Random(seed)
    ids: list[int] = []
    for _ in range(8):
        some = list(FAMILY.text_ids(draw.choice(PHRASES)))
        ids += some[: draw.randint(0, len(some))] if draw.random() < 0.3 else some
        if draw.random() < 0.05:
            ids.append(draw.choice(sorted(FAMILY.ends)))
    return ids


@pytest.mark.parametrize("stop", [(), ("</seg>",), ("</answer>",)])
def test_blocks_change_nothing(stop: tuple[str, ...]) -> None:
    for seed in range(150):
        ids = ids_of(seed)
        logprobs = [-0.25 * (i % 5) + 1e-7 * (i % 2) for i in range(len(ids))]
        told: list[str] = []
        turns = []
        for block, on_piece in ((1, told.append), (1, None), (3, None), (8, None), (100, None)):
            writing = Writing(FAMILY, stop, 40, on_piece)
            for begin in range(0, len(ids), block):
                if writing.take(ids[begin : begin + block], logprobs[begin : begin + block]):
                    break
            turns.append(writing.turn())
        assert all(turn == turns[0] for turn in turns)
        assert turns[0].text.startswith("".join(told))
        if not stop:
            assert FAMILY.decode(turns[0].ids).startswith(turns[0].text)
