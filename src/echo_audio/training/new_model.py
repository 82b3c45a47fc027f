"""A new small model: a tokenizer fitted to the rows it will write, and random weights of the family's architecture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echo_audio import tags
from echo_audio.data.render import Stock
from echo_audio.data.scene import Split
from echo_audio.data.scenes import draw_row
from echo_audio.models import tiny
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.training.settings import SftSettings
from echo_audio.transcript import Mode, Question

_N_TEXTS = 6000


def write_new_model(folder: Path, settings: SftSettings, stock: Stock) -> None:
    """Write a model folder with random weights; its tokenizer is fitted to drawn rows."""
    tokenizer = tiny.train_tokenizer(_texts(settings, stock), settings.model.vocabulary)
    tiny.write_folder(folder, tokenizer, tiny.Sizes(), seed=settings.train.seed)


def _texts(settings: SftSettings, stock: Stock) -> Iterator[str]:
    """Prompts and responses, and every label of the stock often enough to become few tokens."""
    for index in range(_N_TEXTS):
        row, _ = draw_row(settings.data.seed + 1_000_003, index, Split.TRAIN, stock)
        question = Question(row.question, "", row.duration_s, row.choices)
        for mode in (Mode.CONDITIONED, Mode.INTERLEAVED):
            yield Qwen25Omni.prompt_text(question, mode)
        yield tags.compose(row.reasoning or "", row.answer)
    for label in stock.labels:
        for _ in range(200):
            yield f" {label}\n- {label}"
    for _ in range(2000):
        yield "system\nYou are a helpful assistant.\nuser\nassistant\n"
