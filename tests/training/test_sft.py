"""Supervised training: one mask, exact accumulation, exact resume, and nothing broken is saved."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from echo_audio.errors import ConfigError, TrainingError
from echo_audio.models.thinker import Thinker
from echo_audio.training import adapters, sft
from echo_audio.training.batch import LengthGroupedBatches, collate
from echo_audio.training.model import SftModel
from echo_audio.training.settings import SftSettings
from echo_audio.training.sources import lengths


def change(settings: SftSettings, table: str, **values) -> SftSettings:
    return settings.model_copy(update={table: getattr(settings, table).model_copy(update=values)})


def rows_of(settings, stock, labels=None):
    return sft.make_rows(settings, Thinker.load(settings.model.source), stock, labels or {})


def metrics(settings) -> list[dict]:
    return [json.loads(line) for line in (Path(settings.out) / "metrics.jsonl").read_text().splitlines()]


def test_loss_equals_the_score_of_the_sampled_tokens(settings, stock):
    thinker = Thinker.load(settings.model.source)
    rows = sft.make_rows(change(settings, "train", answer_weight=1.0), thinker, stock, {})
    index = next(i for i in range(16) if len(rows[i][0].clips) > 1)
    row = rows.row(index)
    recording = rows.recording(index, row)
    encoded = rows._encode(index, row, recording, recording)
    expected = -thinker.score(encoded)[torch.tensor(encoded.sampled)].mean()
    model = SftModel(thinker)
    assert model(**collate([rows[index]])).item() == pytest.approx(expected.item(), abs=2e-4)


def test_mask_leaves_out_prompt_and_audio_and_keeps_the_end_of_turn(settings, stock):
    rows = rows_of(settings, stock)
    for index in range(12):
        example = rows[index][0]
        trained = example.ids[example.sampled]
        assert rows.family.audio_token not in trained
        assert trained[-1] == rows.family.end_of_turn
        text = rows.family.decode(trained)
        assert text.startswith("<think>") and text.endswith("</answer>")
        assert rows.family.decode(example.ids[example.answers]).strip() == rows.row(index).answer


def test_padding_and_batch_order_change_nothing(settings, stock):
    rows = rows_of(settings, stock)
    model = SftModel(Thinker.load(settings.model.source))
    some = [rows[i] for i in range(5)]
    together = model(**collate(some)).item()
    total = sum(float(e.weights[e.sampled].sum()) for (e,) in some)
    alone = sum(model(num_items=total, **collate([e])).item() for e in reversed(some))
    assert together == pytest.approx(alone, abs=1e-4)


def test_accumulating_eight_forwards_equals_one_of_eight(settings, stock):
    rows = rows_of(settings, stock)
    some = [rows[i] for i in range(8)]
    total = sum(float(e.weights[e.sampled].sum()) for (e,) in some)
    gradients = []
    for parts in ([some], [[e] for e in some]):
        model = SftModel(Thinker.load(settings.model.source))
        for part in parts:
            model(num_items=total, **collate(part)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_batches_are_of_similar_length_and_complete(settings, stock):
    rows = rows_of(change(settings, "data", n_rows=300), stock)
    counted = lengths(rows, 0)
    assert counted[7] == len(rows[7][0].ids)
    batches = LengthGroupedBatches(counted, 16_384, seed=1)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    padded = sum(max(counted[b]) * len(b) for b in map(np.array, batches))
    assert 1 - counted.sum() / padded < 0.12  # 300 rows; under 5 % from some thousand on, see metrics.jsonl
    assert [*batches] == [*LengthGroupedBatches(counted, 16_384, seed=1)] != [*LengthGroupedBatches(counted, 16_384, seed=2)]


def test_a_run_learns_and_leaves_a_model_folder(settings):
    folder = sft.train(change(settings, "train", epochs=4.0))
    lines = metrics(settings)
    assert lines[-1]["token_loss"] < lines[0]["token_loss"] - 0.1
    assert {"padding_share", "tokens_per_s", "grad_norm", "answer_accuracy"} <= lines[-1].keys()
    assert Thinker.load(folder).family.end_of_turn
    assert SftSettings.parse((Path(settings.out) / "config.toml").read_text()).data == settings.data


def test_a_killed_run_goes_on_exactly(settings, monkeypatch):
    settings = change(settings, "train", epochs=2.0, save_every_s=1e-6)
    whole = Thinker.load(sft.train(settings)).state_dict()
    other = settings.model_copy(update={"out": settings.out + "-killed"})
    step = sft.SftTrainer.training_step

    def killed(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(sft.SftTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        sft.train(other)
    monkeypatch.undo()
    broken = Path(other.out) / "checkpoints" / "checkpoint-99"
    broken.mkdir()  # a checkpoint that was being written when the run died
    resumed = Thinker.load(sft.train(other)).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    strip = [{k: v for k, v in line.items() if k in ("step", "loss")} for line in metrics(settings)]
    assert strip == [{k: v for k, v in line.items() if k in ("step", "loss")} for line in metrics(other)]


def test_a_run_that_diverges_stops_and_saves_nothing_broken(settings, monkeypatch):
    forward = SftModel.forward
    monkeypatch.setattr(SftModel, "forward", lambda self, **batch: forward(self, **batch) * float("nan"))
    with pytest.raises(TrainingError, match="learning_rate"):
        sft.train(change(settings, "train", save_every_s=1e9))
    assert not (Path(settings.out) / "model").exists()
    assert sft.last_checkpoint(Path(settings.out) / "checkpoints") is None


def test_other_settings_do_not_overwrite_a_run(settings):
    sft.train(change(settings, "train", max_steps=1))
    with pytest.raises(TrainingError, match="other settings"):
        sft.train(change(settings, "train", max_steps=2))


def test_adapters_train_alone_and_merge(settings):
    settings = change(change(settings, "model", lora_rank=4), "train", max_steps=4, learning_rate=1e-2)
    before = Thinker.load(settings.model.source).state_dict()
    after = Thinker.load(sft.train(settings)).state_dict()
    changed = {n for n in before if not torch.allclose(before[n].bfloat16().float(), after[n])}
    assert changed and all("audio_tower" not in n and "proj" in n for n in changed)


def test_adapters_start_as_the_base(settings, stock):
    thinker = Thinker.load(settings.model.source)
    batch = collate([rows_of(settings, stock)[0]])
    base = SftModel(thinker)(**batch).item()
    adapters.attach(thinker, 4, 8.0)
    assert SftModel(thinker)(**batch).item() == pytest.approx(base, abs=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(settings, stock):
    batch = collate([rows_of(settings, stock)[i] for i in range(2)])
    gradients = []
    for checkpointing in (False, True):
        model = SftModel(Thinker.load(settings.model.source))
        if checkpointing:
            sft.recompute_activations(model.thinker)
        model(**batch).backward()
        gradients.append(model.thinker.decoder.layers[0].mlp.up_proj.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_known_events_are_marked_where_they_sound(settings, stock):
    labels = {label: i for i, label in enumerate(stock.labels)}
    rows = rows_of(settings, stock, labels)
    row, example = rows.row(3), rows[3][0]
    event = row.events[0]
    inside = example.frames[round(event.start_s * 25) : round(event.end_s * 25), labels[event.label]]
    assert inside.all() and len(inside)
    assert example.frames.shape == (example.n_tokens[0], len(labels))


def test_unknown_keys_name_the_nearest(settings):
    with pytest.raises(ConfigError, match="train.learning_rate"):
        SftSettings.parse("", ["train.learning_rat=1"])
    assert SftSettings.parse(settings.to_toml()) == settings


def test_worker_processes_give_the_same_batches(settings, stock):
    rows = rows_of(settings, stock)
    here, there = (next(iter(DataLoader(rows, 4, collate_fn=collate, num_workers=n))) for n in (0, 2))
    assert all(torch.equal(here[k], there[k]) for k in ("ids", "samples", "targets", "audio_at"))




def test_a_stop_signal_saves_first(settings, monkeypatch):
    step = sft.SftTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(sft.SftTrainer, "training_step", interrupted)
    with pytest.raises(TrainingError, match="SIGTERM at step 3"):
        sft.train(settings)
    assert sft.last_checkpoint(Path(settings.out) / "checkpoints").endswith("checkpoint-3")
