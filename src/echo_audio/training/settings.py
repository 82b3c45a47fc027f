"""Settings of a supervised run: what a file under `configs/` may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from echo_audio.settings import Settings
from echo_audio.transcript import Mode


class ModelSettings(Settings):
    """Where the weights come from.

    Attributes:
        source: a folder, a hub id, "tiny" for the shipped model, or "new" for a small random one.
        vocabulary: ids of a new model's tokenizer.
        freeze_audio: do not train the audio tower (the paper's stage 1 freezes it).
        lora_rank: 0 trains all weights; otherwise low-rank adapters on the decoder's projections, merged when saved.
        lora_alpha: scale of the adapters.
        dtype: of the weights; training computes in bfloat16 where `train.bf16` says so.
    """

    source: str = "new"
    vocabulary: int = Field(default=1024, ge=300, le=65_536)
    freeze_audio: bool = False
    lora_rank: int = Field(default=0, ge=0, le=1024)
    lora_alpha: float = Field(default=32.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"


class DataSettings(Settings):
    """What to train on.

    Attributes:
        store: folder of rows made by `echo-audio data`; empty draws scenes as they are needed.
        seed: of the scenes.
        n_rows: number of scenes.
        banks: packed banks of recorded clips (see `data/clips.py`), besides the procedural sounds.
        recorded: share of rows that may use the banks; the others have procedural sounds only.
        kinds: share of each kind of question; empty for the kinds' own weights.
        modes: share of each form of a row.
        longest_s: of the scenes; lengths range from 4 s to this.
        short_first: so many scenes come first and last `short_s` at most: a new model learns sooner what sounds when.
        doubt: share of rows that cite a wrong span first, say so, and look again.
        spoilt: share of rows in which one segment plays silence or another recording, and the reasoning says so.
        misheard: share of interleaved rows whose first hearing has other sounds where the reasoning says what it hears only
            after hearing it again (see `data/misheard.py`).
        companions: whether each scene also gives a row that lists it and a row that finds one of its events.
        sound_table: folder for the sounds rendered beforehand (see `training/mixing.py`), shared by the runs on one
            machine; scenes are then mixed where the model is. Empty renders each scene on the CPU.
        table_variants: synthesis seeds of each procedural sound in the table; 2 GB for each.
    """

    store: str = ""
    seed: int = 1
    n_rows: int = Field(default=10_000, ge=1)
    banks: tuple[str, ...] = ()
    recorded: float = Field(default=1.0, ge=0.0, le=1.0)
    kinds: dict[str, float] = Field(default_factory=dict)
    modes: dict[Mode, float] = Field(default_factory=lambda: {Mode.INTERLEAVED: 1.0})
    longest_s: float = Field(default=30.0, ge=4.5, le=30.0)
    short_first: int = Field(default=0, ge=0)
    short_s: float = Field(default=12.0, ge=4.5, le=30.0)
    doubt: float = Field(default=0.0, ge=0.0, le=1.0)
    spoilt: float = Field(default=0.0, ge=0.0, le=1.0)
    misheard: float = Field(default=0.0, ge=0.0, le=1.0)
    companions: bool = False
    sound_table: str = ""
    table_variants: int = Field(default=4, ge=1, le=32)


class TrainSettings(Settings):
    """How to train.

    Attributes:
        epochs: passes over the rows.
        max_steps: optimiser steps at most; -1 for no limit.
        max_seconds: time at most, for a machine that is lent; the learning rate has come down by then. 0 for no limit.
        batch_tokens: tokens of one forward, about (audio tokens and text).
        accumulate: forwards of one optimiser step.
        learning_rate: peak; cosine to zero after the warm-up.
        warmup_steps: linear.
        answer_weight: weight of the answer's tokens in the loss, against 1 for all others.
        segment_weight: weight of the times in segment tags.
        decisive_weight: weight of names, numbers and qualities in a reasoning: they decide, the rest is wording.
        verdict_weight: weight of the judgement on two values that were heard, and of what says whether an event counts;
            0 for `decisive_weight`.
        auxiliary_weight: of the losses on known events (see `SftModel`); 0 leaves them out.
        gradient_checkpointing: recompute activations to save memory.
        compile: compile the layers with torch.compile; pays on a GPU after a minute.
        workers: processes that draw, render and tokenise.
        save_every_s: seconds between checkpoints.
        log_every: steps between lines of metrics.jsonl.
        track: also report to trackio (extra `track`).
    """

    epochs: float = Field(default=1.0, gt=0)
    max_steps: int = -1
    max_seconds: float = Field(default=0.0, ge=0.0)
    batch_tokens: int = Field(default=16_384, ge=256)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    answer_weight: float = Field(default=1.0, gt=0)
    segment_weight: float = Field(default=1.0, gt=0)
    decisive_weight: float = Field(default=1.0, gt=0)
    verdict_weight: float = Field(default=0.0, ge=0)
    auxiliary_weight: float = Field(default=0.0, ge=0)
    bf16: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    workers: int = Field(default=0, ge=0)
    save_every_s: float = Field(default=600.0, gt=0)
    log_every: int = Field(default=20, ge=1)
    seed: int = 0
    track: bool = False


class SftSettings(Settings):
    """One supervised run."""

    name: str = "sft"
    out: str = "runs/sft"
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
