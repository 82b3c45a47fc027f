"""Stage 1: supervised fine-tuning on written transcripts, on transformers' Trainer.

A run folder holds config.toml, metrics.jsonl, checkpoints/ and, at the end, curves.svg, done.json and model/: a folder that
transformers and every verb of Echo load. A run that was killed goes on from its last checkpoint when it is started again; one
that is done stays as it is.
"""

from __future__ import annotations

import functools
import json
import math
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from echo_audio.data.render import Stock
from echo_audio.data.stock import make_stock
from echo_audio.errors import TrainingError
from echo_audio.models import folders
from echo_audio.models.thinker import Thinker, save_folder
from echo_audio.training import adapters, curves
from echo_audio.training.batch import COUNTED, VERDICT_WORDS, decisive_words
from echo_audio.training.folder import claimed
from echo_audio.training.marks import Columns
from echo_audio.training.mixing import Mixer, SoundTable
from echo_audio.training.model import SftModel
from echo_audio.training.new_model import write_new_model
from echo_audio.training.pools import Batches, Rows, plan_pools
from echo_audio.training.settings import SftSettings
from echo_audio.training.sources import Form, SceneRows, StoreRows
from echo_audio.training.tracker import Tracker

_WEIGHTS = "training.safetensors"
_DONE = "done.json"


def train(settings: SftSettings) -> Path:
    """Run, or resume, a supervised training.

    Returns:
        The folder of the trained model.

    Raises:
        TrainingError: a loss or a weight is not finite, and nothing broken was saved; SIGTERM came, and a checkpoint was
            written; or the folder is another run's.
        KeyboardInterrupt: Ctrl-C came, and a checkpoint was written.
    """
    out = Path(settings.out)
    with claimed(out, settings.to_toml(), first=PartialState().is_main_process):
        if (out / _DONE).is_file() and (out / "model" / "config.json").is_file():
            return out / "model"
        return _train(settings, out)


def _train(settings: SftSettings, out: Path) -> Path:
    torch.manual_seed(settings.train.seed)
    stock = make_stock(settings.data.banks)
    source = _source(settings, stock, out)
    thinker = Thinker.load(source, dtype=getattr(torch, settings.model.dtype))
    columns = Columns(stock.labels) if settings.train.auxiliary_weight and not settings.data.store else None
    table = _table(settings, stock)
    rows = make_rows(settings, thinker, stock, table, columns)
    if settings.model.lora_rank:
        adapters.attach(thinker, settings.model.lora_rank, settings.model.lora_alpha)
    model = SftModel(
        thinker,
        n_columns=columns.n if columns else 0,
        auxiliary_weight=settings.train.auxiliary_weight,
        freeze_audio=settings.model.freeze_audio,
        mixer=Mixer(table, torch.device("cuda" if torch.cuda.is_available() else "cpu")) if table else None,
    )
    if settings.train.gradient_checkpointing:
        recompute_activations(thinker)
    if settings.train.compile:
        model.compile_layers()
    resume = last_checkpoint(out / "checkpoints")
    trainer = SftTrainer(model, rows, settings, resume)
    before = steps_done(resume)
    if resume is not None and 0 < settings.train.max_steps <= before:  # only its model is missing
        trainer._load_from_checkpoint(resume)
    else:
        _run(trainer, resume)
    adapters.merge(thinker)
    save_folder(thinker, out / "model", folders.resolve(source))
    (out / _DONE).write_text(json.dumps({"steps": max(trainer.state.global_step, before)}) + "\n", encoding="utf-8")
    return out / "model"


def _run(trainer: SftTrainer, resume: str | None) -> None:
    """Train to the end, or until somebody asks to stop."""
    try:
        trainer.train(resume_from_checkpoint=resume)
    finally:
        trainer.progress.restore_signals()
    by = trainer.progress.stopped_by
    if by is None:
        return
    again = "a checkpoint was written: start the same command again and it goes on from there"
    where = f"at step {trainer.state.global_step}; {again}"
    if by is signal.SIGINT:
        raise KeyboardInterrupt(f"It ended {where}")
    raise TrainingError(f"stopped by {by.name} {where}")


def recompute_activations(thinker: Thinker) -> None:
    """Gradient checkpointing on every layer (set on the layers: the model's own switch was renamed in transformers 5.2x)."""
    for layer in (*thinker.audio_tower.layers, *thinker.decoder.layers):
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)


def make_rows(
    settings: SftSettings, thinker: Thinker, stock: Stock, table: SoundTable | None = None, columns: Columns | None = None
) -> SceneRows | StoreRows:
    """The rows that the settings name."""
    form = Form(thinker.family, settings.data, settings.train, _weighed_words(settings, stock))
    return StoreRows(form) if settings.data.store else SceneRows(form, stock, table, columns)


def _weighed_words(settings: SftSettings, stock: Stock) -> tuple[tuple[re.Pattern[bytes], float], ...]:
    decisive, verdict = settings.train.decisive_weight, settings.train.verdict_weight
    words = ((decisive_words(stock.labels), decisive),) if decisive != 1.0 else ()
    return (*words, (VERDICT_WORDS, verdict), (COUNTED, verdict)) if verdict else words


def _table(settings: SftSettings, stock: Stock) -> SoundTable | None:
    data = settings.data
    if not data.sound_table or data.store:
        return None
    return SoundTable.build(stock, Path(data.sound_table), data.table_variants, settings.train.workers)


def _source(settings: SftSettings, stock: Stock, out: Path) -> str:
    if settings.model.source != "new":
        return settings.model.source
    folder = out / "new"
    if not (folder / "config.json").is_file():
        write_new_model(folder, settings, stock)
    return str(folder)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end (the trainer's state is written last)."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda p: int(p.name.split("-")[1]))) if whole else None


def steps_done(checkpoint: str | None) -> int:
    """Optimiser steps of a checkpoint."""
    if checkpoint is None:
        return 0
    return int(json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])


def _moved(value: Any, device: torch.device) -> Any:
    """A tensor on the device, without waiting for the work in flight; anything else as it is."""
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


class _Sized(Dataset[Any]):
    """What the Trainer asks of a data set when it does not load from it."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)


class SftTrainer(Trainer):
    """transformers' Trainer over `SftModel`: our batches, our mask, our metrics, no broken checkpoint."""

    def __init__(self, model: SftModel, rows: Rows, settings: SftSettings, resume: str | None = None) -> None:
        self.settings, self.sft_model = settings, model
        self.resume = resume
        self.batches = self._batches(rows)
        super().__init__(model=model, args=_arguments(settings), train_dataset=_Sized(rows))
        self.model_accepts_loss_kwargs = True
        self.progress = Progress(model, Path(settings.out), settings)
        self.add_callback(self.progress)

    def _batches(self, rows: Rows) -> Batches:
        train = self.settings.train
        state = PartialState()
        return Batches(
            rows,
            plan_pools(rows, train.batch_tokens, train.seed, train.epochs),
            seed=train.seed,
            accumulate=train.accumulate,
            workers=train.workers,
            skip=steps_done(self.resume) * train.accumulate,
            rank=state.process_index,
            world=state.num_processes,
        )

    def get_train_dataloader(self) -> Any:
        """Batches of similar length, the same order for the same seed; a resumed run begins where it stopped."""
        return self.batches

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """The forwards of one optimiser step and their total weight, by which each loss is divided."""
        began = time.monotonic()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.sft_model.add("waited_s", time.monotonic() - began)
        if not batches:
            return batches, None
        batches = [{name: _moved(value, device) for name, value in batch.items()} for batch in batches]
        return batches, torch.stack([batch["weights"].sum() for batch in batches]).sum()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up, then a cosine to zero at the last step, or at the end of the time if that comes first."""
        warmup = self.settings.train.warmup_steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            share = max((step - warmup) / max(1, num_training_steps - warmup), self.progress.share_of_time())
            return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        self.lr_scheduler = LambdaLR(optimizer, factor)
        return self.lr_scheduler

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As a tensor: the Trainer's own reads the number at every step, and so waits for the GPU at every step."""
        return super()._get_grad_norm(model) if grad_norm is None else grad_norm

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's own loss."""
        loss = model(num_items=num_items_in_batch, **inputs)
        return (loss, {}) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """All weights as they are trained, atomically; never a NaN."""
        folder = Path(output_dir or self.args.output_dir or self.settings.out)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.sft_model.state_dict().items()}
        broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            raise TrainingError(f"{broken[0]} is not finite; the last checkpoint is good: lower the learning rate and resume")
        shared: dict[int, str] = {}
        unique = {n: t for n, t in tensors.items() if shared.setdefault(t.data_ptr(), n) == n or not t.numel()}
        save_file(unique, folder / f"{_WEIGHTS}.part")
        (folder / f"{_WEIGHTS}.part").replace(folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Put back what `_save` wrote."""
        tensors = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        (model or self.sft_model).load_state_dict(tensors, strict=False)


def _arguments(settings: SftSettings) -> TrainingArguments:
    train = settings.train
    return TrainingArguments(
        output_dir=str(Path(settings.out) / "checkpoints"),
        num_train_epochs=1,  # `Batches` holds all passes over the rows
        max_steps=train.max_steps,
        gradient_accumulation_steps=train.accumulate,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=train.max_grad_norm,
        bf16=train.bf16,
        tf32=True if torch.cuda.is_available() else None,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=train.log_every,
        logging_nan_inf_filter=False,
        save_strategy="no",  # by time: `Progress`
        save_total_limit=2,
        report_to="none",
        seed=train.seed,
        remove_unused_columns=False,
        ignore_data_skip=True,  # `Batches` skips
        ddp_find_unused_parameters=False,
    )


class Progress(TrainerCallback):
    """Writes metrics.jsonl, asks for checkpoints by the clock, and stops a run whose loss is not finite."""

    def __init__(self, model: SftModel, out: Path, settings: SftSettings) -> None:
        self.model, self.settings = model, settings
        self.metrics = out / "metrics.jsonl"
        self.tracker = Tracker(settings.name, settings.model_dump(mode="json"), enabled=settings.train.track)
        self.began = self.logged = self.saved = time.monotonic()
        self.stopped_by: signal.Signals | None = None
        self.spent_s = self.passed = 0.0
        self._handlers: dict[signal.Signals, Any] = {}

    def _stop(self, number: int, _frame: object) -> None:
        """Asked to stop: finish the step, save, end. A second Ctrl-C ends at once."""
        self.stopped_by = signal.Signals(number)
        self.restore_signals()

    def restore_signals(self) -> None:
        """Leave the signals as they were, also after a failure: a process forked later would swallow them."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, train_dataloader: Any = (), **_: Any
    ) -> None:
        """Drop what was logged after the checkpoint that this run resumes from; listen for signals."""
        self.began = self.logged = self.saved = time.monotonic()
        self.passed = state.global_step * args.gradient_accumulation_steps / max(1, len(train_dataloader))
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._stop) for n in (signal.SIGTERM, signal.SIGINT)}
        if self.metrics.is_file():
            lines = self.metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= state.global_step]
            self.metrics.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            self.spent_s = json.loads(kept[-1])["elapsed_s"] if kept else 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save when it is time."""
        if time.monotonic() - self.saved > self.settings.train.save_every_s or state.global_step >= state.max_steps:
            control.should_save = True
            self.saved = time.monotonic()
        if self.stopped_by is not None or self.share_of_time() >= 1.0:
            control.should_save = control.should_training_stop = True

    def elapsed_s(self) -> float:
        """Seconds of training, those before a resume included as far as they were logged."""
        return self.spent_s + time.monotonic() - self.began

    def share_of_time(self) -> float:
        """How much of `max_seconds` is gone; 0 without a limit."""
        limit_s = self.settings.train.max_seconds
        return self.elapsed_s() / limit_s if limit_s else 0.0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """One line of metrics.jsonl."""
        if not logs or "loss" not in logs:
            return
        now = time.monotonic()
        share = {"epoch": round(logs.get("epoch", 0.0) + self.passed, 4)}  # the Trainer's own begins anew at a resume
        line = {"step": state.global_step, **logs, **share, **summarise(self.model.drain(), now - self.logged)}
        line["elapsed_s"] = round(self.elapsed_s(), 2)
        self.logged = now
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.tracker.log(line)
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {state.global_step}; see {self.metrics}. No checkpoint of it was kept: "
                "lower train.learning_rate and start again, it resumes from the last good checkpoint"
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the tracker, draw the curves."""
        self.tracker.finish()
        curves.draw(self.metrics, self.metrics.with_name("curves.svg"))


def summarise(totals: dict[str, float], elapsed_s: float) -> dict[str, float]:
    """What was counted between two lines of metrics.jsonl, as rates and shares."""
    if not totals:
        return {}
    answers = totals["answer_tokens"]
    values = {
        "token_loss": totals["loss_sum"] / totals["sampled"],
        "token_accuracy": totals["tokens_right"] / totals["sampled"],
        "answer_accuracy": totals["answer_tokens_right"] / answers if answers else 0.0,
        "waiting_share": totals.get("waited_s", 0.0) / elapsed_s,
        "padding_share": 1 - totals["real"] / totals["padded"],
        "rows_per_s": totals["rows"] / elapsed_s,
        "tokens_per_s": totals["real"] / elapsed_s,
        "audio_s_per_s": totals["audio_s"] / elapsed_s,
    }
    values |= {name: totals[name] / totals["batches"] for name in ("sounds_loss", "clock_loss") if name in totals}
    return {name: round(value, 5) for name, value in values.items()}
