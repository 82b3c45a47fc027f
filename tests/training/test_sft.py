"""Supervised training: one mask, exact accumulation, exact resume, and nothing broken is saved."""

from __future__ import annotations

import itertools
import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from echo_audio.data.render import render
from echo_audio.data.scenes import draw_row
from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import ConfigError, ModelError, TrainingError
from echo_audio.models.thinker import Thinker
from echo_audio.training import adapters, sft, sources
from echo_audio.training.batch import collate
from echo_audio.training.folder import claimed
from echo_audio.training.marks import Columns
from echo_audio.training.mixing import Mixer
from echo_audio.training.model import SftModel, _painted
from echo_audio.training.pools import Batches, plan_pools
from echo_audio.training.settings import SftSettings
from echo_audio.transcript import Mode


def change(settings: SftSettings, table: str, **values) -> SftSettings:
    now = settings.model_dump()
    return SftSettings.model_validate(now | {table: now[table] | values})  # not model_copy, which checks nothing


def rows_of(settings, stock, columns=None):
    return sft.make_rows(settings, Thinker.load(settings.model.source), stock, None, columns)


def batches(rows, budget=2500, **how) -> list[dict]:
    return list(Batches(rows, plan_pools(rows, budget, seed=1, epochs=1.0), seed=1, **how))


def metrics(settings) -> list[dict]:
    return [json.loads(line) for line in (Path(settings.out) / "metrics.jsonl").read_text().splitlines()]


def test_loss_equals_the_score_of_the_sampled_tokens(settings, stock):
    thinker = Thinker.load(settings.model.source)
    rows = sft.make_rows(change(settings, "train", answer_weight=1.0), thinker, stock)
    index = next(i for i in range(16) if len(rows.examples(i)[0].n_tokens) > 1)
    row, scene = rows.draw(index)
    recording = render(scene, stock)
    mode = rows.form.mode(index, row)
    transcript = rows.form.transcript(row.model_copy(update={"audio_id": recording.id}), mode)
    encoded = TranscriptEncoder(thinker.family, recording).encode(transcript)
    expected = -thinker.score(encoded)[torch.tensor(encoded.sampled)].mean()
    model = SftModel(thinker)
    assert model(**collate(rows.examples(index))).item() == pytest.approx(expected.item(), abs=2e-4)


def test_mask_leaves_out_prompt_and_audio_and_keeps_the_end_of_turn(settings, stock):
    rows = rows_of(settings, stock)
    for index in range(12):
        (example,) = rows.examples(index)
        family = rows.form.family
        trained = example.ids[example.sampled]
        assert family.audio_token not in trained
        assert trained[-1] == family.end_of_turn
        text = family.decode(trained)
        assert text.startswith("<think>") and text.endswith("</answer>")
        assert family.decode(example.ids[example.answers]).strip() == rows.draw(index)[0].answer


def test_padding_and_batch_order_change_nothing(settings, stock):
    rows = rows_of(settings, stock)
    model = SftModel(Thinker.load(settings.model.source))
    some = [rows.examples(i)[0] for i in range(5)]
    together = model(**collate(some)).item()
    total = sum(float(e.weights[e.sampled].sum()) for e in some)
    alone = sum(model(num_items=total, **collate([e])).item() for e in reversed(some))
    assert together == pytest.approx(alone, abs=1e-4)


def test_accumulating_eight_forwards_equals_one_of_eight(settings, stock):
    rows = rows_of(settings, stock)
    some = [rows.examples(i)[0] for i in range(8)]
    total = sum(float(e.weights[e.sampled].sum()) for e in some)
    gradients = []
    for parts in ([some], [[e] for e in some]):
        model = SftModel(Thinker.load(settings.model.source))
        for part in parts:
            model(num_items=total, **collate(part)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_batches_are_of_similar_length_and_complete(settings, stock):
    rows = rows_of(change(settings, "data", n_rows=300, companions=True), stock)
    made = batches(rows, 16_384)
    every = sorted(tuple(e.ids) for i in range(300) for e in rows.examples(i))
    assert sum(batch["n_rows"] for batch in made) == len(every)
    assert sum(batch["n_real"] for batch in made) == sum(map(len, every))
    padded = sum(batch["ids"].numel() for batch in made)
    assert 1 - sum(map(len, every)) / padded < 0.12  # 300 scenes; under 5 % from some thousand on, see metrics.jsonl
    sizes = [batch["n_real"] for batch in made]
    assert max(sizes) < 1.6 * sum(sizes) / len(sizes)


def test_the_order_of_batches_follows_from_the_seed_and_can_be_entered_anywhere(settings, stock):
    rows = rows_of(change(settings, "data", n_rows=200), stock)
    pools = plan_pools(rows, 2500, seed=1, epochs=1.5)
    whole = list(Batches(rows, pools, seed=1))
    for skip in (0, 1, 5, len(whole) - 1):
        rest = list(Batches(rows, pools, seed=1, skip=skip))
        assert all(torch.equal(a["ids"], b["ids"]) for a, b in zip(whole[skip:], rest, strict=True))
    shares = [list(Batches(rows, pools, seed=1, rank=rank, world=2)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(whole) // 2
    for rank, share in enumerate(shares):
        assert all(torch.equal(a["ids"], b["ids"]) for a, b in zip(whole[rank::2], share, strict=False))
    assert len(Batches(rows, pools, seed=1, accumulate=4)) == len(whole) // 4 * 4


def test_short_scenes_come_first(settings, stock):
    rows = rows_of(change(settings, "data", n_rows=120, short_first=60, short_s=5.0), stock)
    pools = plan_pools(rows, 2500, seed=1, epochs=1.0)
    order = [int(i) for pool in pools for i in pool.indices]
    assert sorted(order) == list(range(120)) and max(order[:60]) < 60
    assert rows.durations_s[:60].max() <= 5.0 < rows.durations_s[60:].max()


def test_a_run_learns_and_leaves_a_model_folder(settings):
    folder = sft.train(change(settings, "train", epochs=4.0))
    lines = metrics(settings)
    assert lines[-1]["token_loss"] < lines[0]["token_loss"] - 0.1
    assert {"padding_share", "tokens_per_s", "grad_norm", "answer_accuracy"} <= lines[-1].keys()
    assert Thinker.load(folder).family.end_of_turn
    assert "<svg" in (Path(settings.out) / "curves.svg").read_text()
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


def test_a_run_that_is_done_stays_as_it_is(settings):
    settings = change(settings, "train", max_steps=3, save_every_s=1e-6)
    model = sft.train(settings) / "model.safetensors"
    made, lines = model.read_bytes(), metrics(settings)
    sft.train(settings)
    assert model.read_bytes() == made and metrics(settings) == lines
    model.parent.joinpath("config.json").unlink()  # killed before all of the model was written
    sft.train(settings)
    assert model.read_bytes() == made and metrics(settings) == lines


def test_a_folder_belongs_to_one_run_and_a_start_that_failed_binds_nobody(settings, tmp_path):
    with pytest.raises(ModelError):
        sft.train(change(settings, "model", source=str(tmp_path / "nowhere")))
    with claimed(Path(settings.out), "x = 1"), pytest.raises(TrainingError, match="another process trains in"):
        sft.train(settings)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TrainingError, match="cannot be a run's folder"):
        sft.train(settings.model_copy(update={"out": str(file)}))


def test_ctrl_c_is_told_as_such_and_epochs_go_on_after_it(settings, monkeypatch):
    settings = change(settings, "train", epochs=2.0, save_every_s=1e-6, log_every=1)
    step = sft.SftTrainer.training_step

    def stopped(self, *args, **kwargs):
        if self.state.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(sft.SftTrainer, "training_step", stopped)
    with pytest.raises(KeyboardInterrupt, match="at step 3; a checkpoint was written"):
        sft.train(settings)
    monkeypatch.undo()
    sft.train(settings)
    epochs = [line["epoch"] for line in metrics(settings)]
    assert len(epochs) > 4 and epochs == sorted(epochs) and np.ptp(np.diff(epochs)) < 2e-3


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
    batch = collate(rows_of(settings, stock).examples(0))
    base = SftModel(thinker)(**batch).item()
    adapters.attach(thinker, 4, 8.0)
    assert SftModel(thinker)(**batch).item() == pytest.approx(base, abs=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients(settings, stock):
    batch = collate([rows_of(settings, stock).examples(i)[0] for i in range(2)])
    gradients = []
    for checkpointing in (False, True):
        model = SftModel(Thinker.load(settings.model.source))
        if checkpointing:
            sft.recompute_activations(model.thinker)
        model(**batch).backward()
        gradients.append(model.thinker.decoder.layers[0].mlp.up_proj.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_known_events_are_marked_where_they_sound(settings, stock):
    columns = Columns(stock.labels)
    rows = rows_of(change(settings, "data", modes={"interleaved": 1.0}), stock, columns)
    for index in range(8):
        _, scene = rows.draw(index)
        (example,) = rows.examples(index)
        first = {(int(b), int(e), int(c)) for clip, b, e, c in example.marks if clip == 0}
        for event in scene.events:
            spans = {column: (b, e) for b, e, column in first if abs(b - event.start_s * 25) <= 1}
            assert set(columns.of(event)) <= spans.keys()
            assert all(abs(spans[column][1] - event.end_s * 25) <= 1 for column in columns.of(event))
        heard = {int(clip) for clip in example.marks[:, 0]}
        assert heard == set(range(len(example.n_tokens))), "each crop plays the event that it cites"


def test_marks_are_painted_on_their_tokens():
    marks = torch.tensor([[0, 3, 1], [2, 5, 1], [4, 5, 0]])
    assert _painted(marks, 5, 3).T.tolist() == [[0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_the_words_that_decide_weigh_more(settings, stock):
    rows = rows_of(change(settings, "train", decisive_weight=5.0), stock)
    family = rows.form.family
    for index in range(8):
        (example,) = rows.examples(index)
        text = family.decode(example.ids[example.sampled])
        weights = {w: family.decode(example.ids[example.sampled & (example.weights == w)]) for w in (1.0, 5.0)}
        labels = {event.label for event in rows.draw(index)[0].events if f" {event.label}" in text.split("</think>")[0]}
        assert all(f" {label}" in weights[5.0] for label in labels)
        assert not any(re.search(rf"\b{label}\b", weights[1.0]) for label in labels)


def test_a_listing_is_heard_again_as_any_other_row_but_not_as_a_companion(settings, stock):
    settings = change(settings, "data", modes={"interleaved": 1.0}, kinds={"list": 99.0})
    for companions, mode in ((False, Mode.INTERLEAVED), (True, Mode.GROUNDED)):
        rows = rows_of(change(settings, "data", companions=companions), stock)
        index = next(i for i in range(16) if rows.draw(i)[0].kind == "list")
        assert rows.form.mode(index, rows.draw(index)[0]) is mode


def test_verdicts_weigh_what_is_set(settings, stock):
    settings = change(settings, "data", n_rows=24, modes={"interleaved": 1.0}, kinds={"pitch": 9.0, "count": 9.0})
    rows = rows_of(change(settings, "train", verdict_weight=7.0), stock)
    family, said = rows.form.family, set()
    for index in range(24):
        (example,) = rows.examples(index)
        heavy = [family.decode([i]) for i in example.ids[example.sampled & (example.weights == 7.0)]]
        if rows.draw(index)[0].kind == "count":
            text = family.decode(example.ids[example.sampled])
            assert len(re.findall(r"At [0-9.]+ s the [a-z ]+", text)) <= len(heavy)
        said.add("".join(heavy))
    assert any("the same" in words or "different" in words for words in said)


def test_time_is_a_limit_by_which_the_rate_has_come_down(settings, monkeypatch):
    clock = itertools.count()  # every look at the clock is a second later, however slow the machine
    monkeypatch.setattr(sft, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    settings = change(settings, "train", max_seconds=80.0, epochs=4000.0, save_every_s=1e9)
    settings = change(settings, "data", n_rows=8)
    folder = sft.train(settings)
    lines = metrics(settings)
    assert (folder / "model.safetensors").is_file()
    assert lines[-1]["learning_rate"] < 0.2 * settings.train.learning_rate
    assert 1 < lines[-1]["step"] < 80


def test_scenes_mixed_from_a_table_teach_the_same(settings, stock, table, monkeypatch):
    """The loss of a row is that of the same scene rendered on the CPU; silence and swaps included."""
    monkeypatch.setattr(sources, "draw_row", with_sounds_of(table))
    settings = change(settings, "data", n_rows=24, seed=7, spoilt=0.8, modes={"interleaved": 1.0})
    thinker = Thinker.load(settings.model.source)
    model = SftModel(thinker, mixer=Mixer(table, torch.device("cpu")))
    mixed, rendered = (sft.make_rows(settings, thinker, stock, t) for t in (table, None))
    silent = 0
    for index in range(24):
        (a,), (b,) = mixed.examples(index), rendered.examples(index)
        assert (a.ids == b.ids).all() and a.positions == b.positions
        silent += any(cut.scene is None for cut in a.audio.cuts)
        if not any(cut.scene == 1 for cut in a.audio.cuts):  # what is swapped in is cut from another place
            assert model(**collate([a])).item() == pytest.approx(model(**collate([b])).item(), abs=2e-3)
        else:
            assert torch.isfinite(model(**collate([a])))
    assert silent


def with_sounds_of(table):
    """`draw_row` of scenes that the small table of the tests can mix: those of its own making."""

    def draw(seed, index, split, stock, kind=None, duration_s=None):
        row, scene = draw_row(7, index % 12, split, stock)
        known = tuple(replace(e, sound=replace(e.sound, variant=0)) for e in scene.events)
        return row, replace(scene, events=known)

    return draw


def test_unknown_keys_name_the_nearest(settings):
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        SftSettings.parse("", ["train.learning_rat=1"])
    assert SftSettings.parse(settings.to_toml()) == settings


def test_worker_processes_give_the_same_batches(settings, stock):
    rows = rows_of(settings, stock)
    for here, there in zip(batches(rows), batches(rows, workers=2), strict=True):
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


def test_a_run_that_fails_leaves_the_signals_as_they_were(settings, monkeypatch):
    def fails(self, *args, **kwargs):
        assert signal.getsignal(signal.SIGTERM) == self.progress._stop
        raise TrainingError("broken")

    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(sft.SftTrainer, "training_step", fails)
    with pytest.raises(TrainingError, match="broken"):
        sft.train(settings)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_misheard_row_plays_another_recording_first_and_its_own_segments(settings, stock):
    settings = change(settings, "data", n_rows=12, modes={"interleaved": 1.0}, kinds={"pitch": 99.0})
    plain, misheard = (rows_of(change(settings, "data", misheard=share), stock) for share in (0.0, 1.0))
    pitches = [index for index in range(12) if plain.draw(index)[0].kind == "pitch"]
    assert len(pitches) > 3
    for index in pitches:
        (a,), (b,) = plain.examples(index), misheard.examples(index)
        assert np.array_equal(a.ids, b.ids)
        assert not np.array_equal(a.audio.clips[0], b.audio.clips[0])
        assert all(np.array_equal(x, y) for x, y in zip(a.audio.clips[1:], b.audio.clips[1:], strict=True))
