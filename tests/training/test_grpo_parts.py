"""The parts of GRPO: what must change nothing, parity of engine and trainer, the reference, alarms, the order of prompts."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from grpo_helpers import SHORT, gradients_of, short, small

from echo_audio.data.stock import make_stock
from echo_audio.engines.local import LocalEngine
from echo_audio.errors import DataError, EngineError, TrainingError
from echo_audio.models import folders
from echo_audio.models.thinker import Thinker
from echo_audio.scoring import rewards
from echo_audio.training import grpo, grpo_metrics
from echo_audio.training.batch import collate
from echo_audio.training.grpo_metrics import alarms, most_common_segment
from echo_audio.training.grpo_settings import AlarmSettings, GrpoSettings, PromptSettings
from echo_audio.training.grpo_state import drop_after, write_evidence
from echo_audio.training.parallel import Crew
from echo_audio.training.policy import Reference, make_policy
from echo_audio.training.prompts import DrawnRows, Place, Prompts, StoredRows
from echo_audio.training.rollouts import Key, RolloutLog, pieces_of
from echo_audio.training.update import Learned, learned, micro_batches
from echo_audio.transcript import Author, Mode, Question, Transcript, Written


@pytest.fixture(autouse=True)
def _easy(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(rewards.REWARDS, SHORT, short)


def run_of(folder, tmp_path, *overrides) -> grpo.GrpoRun:
    (tmp_path / "run").mkdir(exist_ok=True)
    return grpo.GrpoRun(small(folder, tmp_path / "run", *overrides), Crew(), None, grpo.Watch())


@pytest.fixture
def eight(folder, tmp_path) -> tuple[grpo.GrpoRun, list[Learned]]:
    """A run, and eight of its transcripts, with rewards that differ."""
    run = run_of(folder, tmp_path, "rollout.group=4", "rollout.max_new_tokens=60", "rollout.exact=false")
    groups, _ = run.sample(0)
    run.close()
    items = [learned(r, a, run.family.token_bytes) for g in groups for r, a in zip(g.rollouts, g.advantages, strict=True)]
    run.updater.score(items)
    return run, [replace(item, advantage=i - 3.5) for i, item in enumerate(items)]


def gradients(run: grpo.GrpoRun, items, batch_tokens: int = 1_000_000) -> torch.Tensor:
    """All gradients of one update, end to end."""
    train = run.settings.train.model_copy(update={"batch_tokens": batch_tokens})
    run.updater.settings = run.settings.model_copy(update={"train": train})
    run.updater.optimiser.zero_grad()
    run.updater.accumulate(items)
    return torch.cat([weight.grad.flatten() for weight in run.updater.parameters if weight.grad is not None])


def test_eight_micro_batches_of_one_are_one_of_eight(eight):
    run, items = eight
    assert [len(micro_batches(items, size)) for size in (256, 1_000_000)] == [8, 1]
    apart, together = gradients(run, items, 256), gradients(run, items)
    assert together.norm() > 0.1
    assert torch.allclose(apart, together, atol=1e-5)


def test_what_teaches_nothing_is_not_forwarded_and_counts_all_the_same(folder, tmp_path, eight, monkeypatch):
    _, items = eight
    flat = [replace(item, advantage=0.0 if i < 5 else item.advantage) for i, item in enumerate(items)]
    run = run_of(folder, tmp_path, "loss.kl_weight=0")
    run.close()
    few = gradients(run, flat)
    _, seen = run.updater.accumulate(flat)
    assert float(seen.tokens) == sum(len(item.engine) for item in flat[5:])
    run.updater.optimiser.zero_grad()
    monkeypatch.setattr(run.updater, "_teaching", lambda items: items)
    assert few.norm() > 0 and torch.allclose(few, gradients(run, flat), atol=1e-7)
    monkeypatch.undo()
    assert gradients(run, [replace(item, advantage=0.0) for item in items]).norm() == 0, "nothing to learn, and no failure"


def test_permuting_a_group_changes_nothing(eight):
    run, items = eight
    straight = gradients(run, items)
    assert torch.allclose(gradients(run, [items[i] for i in (3, 1, 7, 0, 2, 6, 5, 4)]), straight, atol=1e-5)
    assert not torch.allclose(gradients(run, [replace(item, advantage=1.0) for item in items]), straight, atol=1e-3)


def test_micro_batches_keep_to_the_budget_and_lose_nothing(eight):
    _, items = eight
    longest = max(len(item.example.ids) for item in items)
    for budget in (256, longest, 3 * longest, 5 * longest):
        parts = micro_batches(items, budget)
        assert sorted(id(item) for part in parts for item in part) == sorted(map(id, items))
        assert all(len(p) == 1 or len(p) * max(len(i.example.ids) for i in p) <= budget for p in parts)


def test_the_rows_of_a_batch_say_whose_each_token_is(eight):
    _, items = eight
    batch = collate([item.example for item in items[:3]])
    assert torch.bincount(batch["rows"]).tolist() == [len(item.engine) for item in items[:3]]
    assert torch.equal(batch["hidden_at"] // batch["ids"].shape[1], batch["rows"])


@pytest.mark.skipif(not (folders.tiny_folder() / "model.safetensors").is_file(), reason="the shipped model is not here")
def test_engine_and_trainer_agree_on_transcripts_that_listen_again(tmp_path):
    run = run_of(
        "tiny", tmp_path, "rollout.exact=false", "rollout.max_new_tokens=192", "data.longest_s=8.0", "reward.weights={}",
        "data.seed=3",
    )  # fmt: skip
    groups, _ = run.sample(0)
    run.close()
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert sum(len(rollout.transcript.asked) for rollout in rollouts) >= 4
    for rollout in rollouts:
        item = learned(rollout, 0.0, run.family.token_bytes)
        with torch.no_grad():
            logprobs, _ = run.policy(collate([item.example]))
        assert (logprobs - item.engine).abs().max() < 1e-4
        assert "".join(pieces_of(rollout.transcript, run.family)) == rollout.transcript.response


def test_logits_taken_in_parts_give_the_same(eight, monkeypatch):
    run, items = eight
    whole = gradients(run, items[:2])
    monkeypatch.setattr("echo_audio.training.policy._LOGITS", 7 * len(run.policy.thinker.allowed))
    assert torch.allclose(gradients(run, items[:2]), whole, atol=1e-6)


def test_gradient_checkpointing_gives_the_same(eight, folder, tmp_path):
    run, items = eight
    other = run_of(folder, tmp_path, "train.gradient_checkpointing=true")
    other.close()
    assert torch.allclose(gradients(other, items), gradients(run, items), atol=1e-6)


@pytest.mark.parametrize("how", [("model.lora_rank=4",), (), ("model.reference=cpu",)])
def test_the_reference_is_the_base_whatever_was_learned(folder, tmp_path, eight, how):
    _, items = eight
    settings = small(folder, tmp_path / "other", *how)
    policy = make_policy(settings, Crew())
    reference = Reference(policy, settings, Crew())
    batch = collate([item.example for item in items])
    with torch.no_grad():
        before, _ = policy(batch)
        for weight in policy.trained().values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        after, _ = policy(batch)
        with reference.ready() as base:
            assert torch.equal(base(batch)[0], before)
        assert (after - before).abs().max() > 0.01
        assert torch.equal(policy(batch)[0], after), "the policy is as it was"


def test_new_weights_are_not_mixed_with_what_was_computed_before(folder, tmp_path):
    thinker = Thinker.load(folder)
    engine = LocalEngine(thinker)
    run = run_of(folder, tmp_path, "rollout.exact=false")
    prompt = run.prompts.at(Place(0, 0))
    run.close()
    sampler = replace(run.sampler, engine=engine)

    def sampled(name: str):
        log = RolloutLog(tmp_path / name)
        sampler.sample([prompt], log)
        return log.done[Key(0, 0, 0)].spans[-1].logprobs

    first = sampled("a")
    with torch.no_grad():
        for weight in thinker.parameters():
            weight.mul_(1.2)
    engine.forget()
    second = sampled("b")
    engine.close()
    fresh = replace(run.sampler, engine=(again := LocalEngine(thinker)))
    log = RolloutLog(tmp_path / "c")
    fresh.sample([prompt], log)
    again.close()
    assert second != first
    assert torch.allclose(torch.tensor(second), torch.tensor(log.done[Key(0, 0, 0)].spans[-1].logprobs), atol=1e-5)


def test_weights_do_not_change_under_a_request(folder, tmp_path):
    run = run_of(folder, tmp_path, "rollout.exact=false", "rollout.max_new_tokens=500")

    async def at_work() -> None:
        sampling = asyncio.ensure_future(run.sampler._listen(run.prompts.at(Place(0, 0)), Key(0, 0, 0)))
        while not run.sampling.engine.counters.decoded:
            await asyncio.sleep(0.001)
        with pytest.raises(EngineError, match="at work"):
            run.sampling.engine.forget()
        sampling.cancel()

    asyncio.run(at_work())
    run.close()


# ---------------------------------------------------------------------------------------------------- two processes


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_give_the_gradients_of_one(folder, tmp_path):
    """Each holds all weights, then each a share of them (FSDP2); both over gloo."""
    alone = gradients_of(folder, tmp_path / "alone")
    _in_two_processes(_GRADIENTS, folder, tmp_path)
    two = torch.load(tmp_path / "found.pt", weights_only=True)
    assert alone["norm"] > 0.1
    for name in ("copies", "shares"):
        together = two[name]
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-6)
        assert alone["gradients"].keys() == together["gradients"].keys()
        for weight, gradient in alone["gradients"].items():
            assert torch.allclose(gradient, together["gradients"][weight], atol=1e-6), (name, weight)
        assert together["norm"] == pytest.approx(alone["norm"], rel=1e-4)
        assert together["restored"] and alone["restored"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_agree_on_the_best_and_on_the_end(folder, tmp_path):
    """A whole run; one killed after the evaluation before its first step; one that ends by the clock."""
    _in_two_processes(_RUNS, folder, tmp_path)
    for name in ("whole", "killed"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2] and lines[-1]["eval/score"] == 0.5
        assert json.loads((tmp_path / name / "best/best.json").read_text()) == {"step": 0, "score": 0.5}
        assert (tmp_path / name / "model/model.safetensors").is_file()
    assert (tmp_path / "timed/model/model.safetensors").is_file()


_HEAD = """
import sys
from pathlib import Path
import torch
from grpo_helpers import SHORT, gradients_of, short, small
from echo_audio.scoring import rewards
from echo_audio.training import grpo

torch.set_num_threads(1)
rewards.REWARDS[SHORT] = short
folder, out = map(Path, sys.argv[1:])
"""
_GRADIENTS = """
ways = {"copies": "train.shard=false", "shares": "train.shard=true"}
found = {name: gradients_of(folder, out / name, way) for name, way in ways.items()}
if torch.distributed.get_rank() == 0:
    torch.save(found, out / "found.pt")
"""
_RUNS = """
def run(name, *how):
    given = ("rollout.exact=false", "train.steps=2", "train.save_every=2", "eval.every=2", *how)
    grpo.train(small(folder, out / name, *given), evaluate=lambda engine, family: {"score": 0.5})

run("whole")
step = grpo.GrpoRun.step
def dies(self):
    raise KeyboardInterrupt
grpo.GrpoRun.step = dies
try:
    run("killed")
except KeyboardInterrupt:
    grpo.GrpoRun.step = step
run("killed")
run("timed", "train.max_seconds=0.1", "train.steps=50")
"""
_TAIL = """
torch.distributed.destroy_process_group()
"""


def _in_two_processes(script: str, folder: Path, out: Path) -> None:
    script = _HEAD + script + _TAIL
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(grpo.__file__).parents[2])])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    logs = [out / f"{rank}.log" for rank in (0, 1)]
    running = list[subprocess.Popen]()
    for rank, log in enumerate(logs):
        with log.open("w") as said:
            env = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            running.append(subprocess.Popen([sys.executable, "-c", script, str(folder), str(out)], stderr=said, env=env))
    try:
        codes = [process.wait(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert codes == [0, 0], "\n".join(log.read_text()[-2000:] for log in logs)


# ---------------------------------------------------------------------------------------------------- small things


class _Rows:
    def __len__(self) -> int:
        return 7


def test_each_pass_asks_every_row_once_in_an_order_of_its_own():
    prompts = Prompts(_Rows(), seed=5, per_step=3)
    asked = [prompts.index(Place(step, slot)) for step in range(14) for slot in range(3)]
    passes = [asked[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(part) == list(range(7)) for part in passes)
    assert len({tuple(part) for part in passes}) > 1
    assert {prompts.index(Place(0, 0, attempt)) for attempt in range(1, 40)} == set(range(7))


def test_kinds_without_choices_are_asked_only_where_they_are_named(folder):
    family, stock = Thinker.load(folder).family, make_stock()
    rows = DrawnRows(PromptSettings(n_rows=60), family, stock)
    kinds = {rows.row(i)[0].kind for i in range(60)}
    assert len(kinds) > 8 and not kinds & {"list", "locate"}
    named = DrawnRows(PromptSettings(n_rows=9, kinds={"locate": 1.0}, only=True), family, stock)
    assert {named.row(i)[0].kind for i in range(9)} == {"locate"}


def test_a_store_of_the_test_split_is_not_trained_on(tmp_path):
    from echo_audio.data.generate import generate_scenes
    from echo_audio.data.scene import Split

    for split in (Split.TRAIN, Split.TEST):
        generate_scenes(tmp_path / split, 3, 5, split=split, banks=(), workers=0)
    settings = GrpoSettings().data
    rows = StoredRows(settings.model_copy(update={"store": str(tmp_path / "train")}))
    row, recording = rows.row(2)
    assert len(rows) == 3 and recording.id == row.audio_id
    with pytest.raises(DataError, match="test split"):
        StoredRows(settings.model_copy(update={"store": str(tmp_path / "test")}))


def test_a_torn_line_is_dropped_and_a_wrong_one_refused(tmp_path):
    written = Written("a\u2028b", Author.MODEL, (1,), (-0.12345678901234567,))
    transcript = Transcript.open(Question("?", "x", 4.0), "?").say(written)
    log = RolloutLog(tmp_path / "log.jsonl")
    log.keep(Key(1, 0, 2), transcript)
    log.write()
    with log.path.open("a") as file:
        file.write('{"slot": 1')
    again = RolloutLog(log.path)
    assert again.done == {Key(1, 0, 2): transcript} and again.n_before == 1
    again.keep(Key(1, 0, 3), transcript)
    again.write()
    assert set(RolloutLog(log.path).done) == {Key(1, 0, 2), Key(1, 0, 3)}
    log.path.write_text("{}\n")
    with pytest.raises(DataError, match="no rollout"):
        RolloutLog(log.path)


def test_a_transcript_with_an_id_that_is_ruled_out_is_not_kept(tmp_path):
    opened = Transcript.open(Question("?", "x", 4.0), "?")
    log = RolloutLog(tmp_path / "log.jsonl")
    for number, token in enumerate((1, 9)):
        log.keep(Key(0, 0, number), opened.say(Written("a", Author.MODEL, (token,), (-0.5,))))
    log.write()
    again = RolloutLog(log.path, ruled_out=(8, 9))
    assert set(again.done) == {Key(0, 0, 0)} and again.n_before == 1
    again.keep(Key(0, 0, 1), opened.say(Written("b", Author.MODEL, (2,), (-0.5,))))
    again.write()
    assert RolloutLog(log.path, ruled_out=(8, 9)).done == again.done and len(again.done) == 2


def test_a_step_with_an_id_that_is_ruled_out_is_made_whole_when_it_is_resumed(folder, tmp_path):
    """Only that transcript is sampled anew, from the same seed; the line that names the id stays and is passed over again."""
    run = run_of(folder, tmp_path)
    groups, _ = run.sample(0)
    before = {rollout.key: rollout.transcript for group in groups for rollout in group.rollouts}
    path = run._rollout_file(0)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    written = next(span for span in lines[2]["transcript"]["spans"] if span.get("author") == "model")
    written["ids"][0] = run.family.audio_token
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for n_kept, n_lines in ((3, 5), (4, 5)):
        groups, _ = run.sample(0)
        assert {rollout.key: rollout.transcript for group in groups for rollout in group.rollouts} == before
        assert run.n_reused == n_kept and len(path.read_text(encoding="utf-8").splitlines()) == n_lines
    run.close()


def test_an_update_that_is_not_finite_names_the_transcript(eight, tmp_path, monkeypatch):
    """One sampled id that the policy may not write: the trainer finds it impossible."""
    run, items = eight
    at = int(items[3].example.sampled.nonzero()[0][2])
    ids = items[3].example.ids.copy()
    ids[at] = run.family.audio_token
    items[3] = replace(items[3], example=replace(items[3].example, ids=ids))
    name = f"slot {items[3].key.slot}, attempt 0, number {items[3].key.number} .sampled token 2 of .*: -inf"
    with pytest.raises(TrainingError, match=f"in 1 of 8 transcripts, the first of them {name}"):
        run.updater.update([items], 0)
    monkeypatch.setattr(run.crew, "gathered", lambda mine: [[""] * 7, mine])
    with pytest.raises(TrainingError, match=f"in 1 of 15 transcripts, the first of them {name}"):  # another process has it
        run.updater.update([items], 0)
    write_evidence(tmp_path / "evidence.jsonl", items)
    lines = [json.loads(line) for line in (tmp_path / "evidence.jsonl").read_text().splitlines()]
    assert [Key(line["slot"], line["attempt"], line["number"]) for line in lines] == [item.key for item in items]
    assert [i for i, line in enumerate(lines) if "-inf" in line["failed"]] == [3] and lines[3]["failed"][2] == "-inf"


def test_what_is_kept_is_written_together(tmp_path):
    transcript = Transcript.open(Question("?", "x", 4.0), "?")
    log = RolloutLog(tmp_path / "log.jsonl")
    assert [log.keep(Key(0, 0, number), transcript) for number in range(3)] == [True, False, False]
    assert not log.path.exists() and len(log.done) == 3
    log.write()
    assert RolloutLog(log.path).done == log.done
    assert log.keep(Key(1, 0, 0), transcript)
    log.write()
    log.write()
    assert RolloutLog(log.path).done == log.done


def test_prompts_made_ahead_are_the_same(folder):
    rows = DrawnRows(PromptSettings(n_rows=9, longest_s=4.5), Thinker.load(folder).family, make_stock())
    prompts, plain = Prompts(rows, seed=5, per_step=2), Prompts(rows, seed=5, per_step=2)
    places = [Place(3, 0), Place(3, 1), Place(3, 1, 1)]
    prompts.prepare([Place(2, 0), Place(2, 1)])
    prompts.prepare(places[:2])
    for place in places:
        made, alone = prompts.at(place), plain.at(place)
        assert (made.row, made.recording.id) == (alone.row, alone.recording.id)
        assert made.encoder(rows.scenes.form.family) is made.encoder(rows.scenes.form.family)
    prompts.prepare(places[:1])
    prompts.close()
    assert prompts.at(places[0]).row == plain.at(places[0]).row


def test_lines_after_a_checkpoint_are_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(5)) + '{"st')
    assert drop_after(path, 2) == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert path.read_text().count("\n") == 3


def test_counts_by_kind_add_up_over_processes(eight, monkeypatch):
    run, _ = eight
    groups = [(group.rollouts, group.flat) for group in run.sample(0)[0]]
    kinds = [rollouts[0].prompt.row.kind for rollouts, _ in groups]
    monkeypatch.setattr(grpo_metrics, "strict_score", lambda *_: SimpleNamespace(correct=True))
    both = grpo_metrics.kind_metrics([grpo_metrics.kind_counts(groups)])
    assert both == grpo_metrics.kind_metrics([grpo_metrics.kind_counts([group]) for group in groups])
    assert {f"accuracy/{kind}" for kind in kinds} <= both.keys() and set(both.values()) <= {0.0, 0.5, 1.0}
    assert grpo_metrics.kind_metrics([{"a": (2, 1, 8, 6)}, {"a": (2, 0, 8, 2), "b": (1, 1, 4, 4)}]) == {
        "accuracy/a": 0.5, "flat/a": 0.25, "accuracy/b": 1.0, "flat/b": 1.0,
    }  # fmt: skip


def line(**values) -> dict:
    usual = {"listens_again": 0.9, "same_segment": 0.2, "repeats": 0.1, "flat_share": 0.3}
    return usual | values


@pytest.mark.parametrize(
    ("late", "says"),
    [
        ({}, None),
        ({"listens_again": 0.3}, "re-listening collapses"),
        ({"same_segment": 0.8}, "one segment for all"),
        ({"repeats": 0.7}, "repeats"),
        ({"flat_share": 0.9}, "no variance"),
    ],
)
def test_alarms(late, says):
    settings = AlarmSettings(window=3)
    told = [line()] * 4 + [line(**late)] * 3
    found = alarms(told, settings, Mode.INTERLEAVED)
    assert [text.partition(":")[0] for text in found] == ([says] if says else [])
    assert not alarms(told[:5], settings, Mode.INTERLEAVED)
    if says and says != "no variance":
        assert not alarms(told, settings, Mode.CONDITIONED), "nothing is asked for there"


def test_one_segment_for_all_prompts_is_seen():
    assert most_common_segment({"0/0": {(0.0, 1.0), (2.0, 3.0)}, "1/0": {(0.0, 1.0)}, "2/0": {(4.0, 5.0)}, "3/0": set()}) == 2 / 3
    assert most_common_segment({"0/0": {(0.0, 1.0)}}) == 0.0
