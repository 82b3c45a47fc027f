"""Export: any run becomes a folder that transformers loads; what was not trained keeps its bytes; a wrong base is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from grpo_helpers import SHORT, short, small
from helpers import noise, opened
from omni import SPEAKERS, write_omni
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import checkpoint
from transformers import AutoTokenizer, Qwen2_5OmniForConditionalGeneration, WhisperFeatureExtractor

from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import ConfigError, ModelError, TrainingError
from echo_audio.models import published
from echo_audio.models.thinker import Thinker, published_weights
from echo_audio.scoring import rewards
from echo_audio.training import adapters, grpo
from echo_audio.training.export import Run, agreement, probe, round_weights
from echo_audio.training.settings import SftSettings


@pytest.fixture(scope="module")
def omni(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole model at tiny sizes."""
    path = tmp_path_factory.mktemp("omni") / "base"
    write_omni(path, folder)
    return path


def all_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def exported(run: Run, out: Path, take: str = "", base: Path | None = None, **how) -> Thinker:
    """Export, and hand back the model that was exported."""
    thinker = run.load(run.place(take))
    published.write(published_weights(thinker, torch.float32), published.Base.read(base or run.source), out, **how)
    return thinker


def scores(thinker: Thinker) -> Tensor:
    recording = noise(3.0)
    with torch.inference_mode():
        return thinker.score(TranscriptEncoder(thinker.family, recording).encode(opened(recording)))


def sft_run(out: Path, source: Path, thinker: Thinker, rank: int = 0, *, shares: bool = False) -> Run:
    """What a supervised run leaves after step 7, killed before its end."""
    settings = SftSettings.parse("", [f"out={out}", f"model.source={source}", f"model.lora_rank={rank}", "model.lora_alpha=16"])
    place = out / "checkpoints" / "checkpoint-7"
    place.mkdir(parents=True)
    (out / "config.toml").write_text(settings.to_toml())
    trained = nn.ModuleDict({"thinker": thinker, "head": nn.Linear(4, 2)}).state_dict()
    tensors = {name: tensor.clone() for name, tensor in trained.items()}
    if shares:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint.save({"model": tensors}, checkpoint_id=place / "pytorch_model_fsdp_0", no_dist=True)
    else:
        save_file(tensors, place / "training.safetensors")
    (place / "trainer_state.json").write_text('{"global_step": 7}')
    return Run.read(out)


def changed(source: Path, rank: int = 0) -> Thinker:
    """A model that has learned something."""
    thinker = Thinker.load(source)
    if rank:
        torch.manual_seed(3)
        adapters.attach(thinker, rank, 16.0)
    with torch.no_grad():
        for name, weight in thinker.named_parameters():
            if "lora_B" in name or (not rank and name.endswith("layers.1.mlp.up_proj.weight")):
                weight.add_(torch.randn_like(weight) * 0.05)
    return thinker


@pytest.mark.parametrize(
    ("rank", "shares"), [(0, False), (4, False), (0, True), (4, True)], ids=["full", "lora", "shares", "both"]
)
def test_a_supervised_run_on_the_whole_model(omni: Path, tmp_path: Path, rank: int, shares: bool) -> None:
    trained = changed(omni, rank)
    run = sft_run(tmp_path / "run", omni, trained, rank, shares=shares)
    thinker = exported(run, tmp_path / "out", dtype=torch.float32)
    expected = scores(trained.eval())
    torch.testing.assert_close(scores(thinker), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(scores(Thinker.load(tmp_path / "out")), expected, atol=1e-4, rtol=0)
    assert not torch.equal(expected, scores(Thinker.load(omni)))
    published.check(tmp_path / "out")


def test_what_was_not_trained_keeps_its_bytes(omni: Path, tmp_path: Path) -> None:
    exported(sft_run(tmp_path / "run", omni, changed(omni)), tmp_path / "out")
    before, after = all_tensors(omni), all_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    differing = [n for n in before if not torch.equal(before[n], after[n]) or before[n].dtype != after[n].dtype]
    assert differing == ["thinker.model.layers.1.mlp.up_proj.weight"]
    small = ("spk_dict.pt", "tokenizer.json", "preprocessor_config.json", "chat_template.json", "generation_config.json")
    for name in ("model-00003-of-00003.safetensors", *small):
        assert (tmp_path / "out" / name).read_bytes() == (omni / name).read_bytes(), name
    assert (tmp_path / "out" / "spk_dict.pt").read_bytes() == SPEAKERS
    told = json.loads((tmp_path / "out" / published.MANIFEST).read_text())
    assert told["tensors"] == {"changed": 1, "same": sum(n.startswith("thinker.") for n in before) - 1, "others": 153}
    assert set(told["files"]) == {path.name for path in (tmp_path / "out").iterdir()} - {published.MANIFEST}


def test_transformers_loads_the_whole_model(omni: Path, tmp_path: Path) -> None:
    exported(Run.read(omni), tmp_path / "out")
    model = Qwen2_5OmniForConditionalGeneration
    (tmp_path / "out" / "spk_dict.pt").unlink()  # its loader opens it; here it is bytes that nobody may open
    torch.save({}, tmp_path / "out" / "spk_dict.pt")
    loaded = model.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.has_talker
    stored = all_tensors(tmp_path / "out")
    for name, tensor in loaded.talker.state_dict().items():
        assert torch.equal(tensor, stored[f"talker.{name}"]), name
    assert torch.equal(loaded.thinker.lm_head.weight, stored["thinker.lm_head.weight"])
    assert WhisperFeatureExtractor.from_pretrained(tmp_path / "out").feature_size == 128
    template = json.loads((tmp_path / "out" / "chat_template.json").read_text())["chat_template"]
    messages = [{"role": "user", "content": [{"type": "audio", "audio": "x"}, {"type": "text", "text": "What?"}]}]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "<|AUDIO|>" in tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)


@pytest.mark.parametrize("layout", published.Layout)
def test_a_thinker_folder_in_either_layout(folder: Path, tmp_path: Path, layout: published.Layout) -> None:
    thinker = exported(Run.read(folder), tmp_path / "out", layout=layout)
    assert torch.equal(scores(Thinker.load(tmp_path / "out")), scores(thinker))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    names = all_tensors(tmp_path / "out")
    assert all(name.startswith("thinker.") for name in names) == (layout is published.Layout.OMNI) == ("thinker_config" in config)
    if layout is published.Layout.OMNI:
        loaded = Qwen2_5OmniForConditionalGeneration.from_pretrained(tmp_path / "out")
        assert not loaded.has_talker
        assert torch.equal(loaded.thinker.get_input_embeddings().weight, names["thinker.model.embed_tokens.weight"])


def test_the_thinker_alone_of_the_whole_model(omni: Path, tmp_path: Path) -> None:
    thinker = exported(Run.read(omni), tmp_path / "out", layout=published.Layout.THINKER)
    assert torch.equal(scores(Thinker.load(tmp_path / "out")), scores(thinker))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert not [name for name in index["weight_map"] if name.startswith(("thinker", "talker", "token2wav"))]
    assert not (tmp_path / "out" / "model-00003-of-00003.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_a_grpo_run_killed_on_its_way(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setitem(rewards.REWARDS, SHORT, short)
    settings = small(folder, tmp_path / "run", "train.steps=2", "train.save_every=1", f"model.lora_rank={rank}")
    grpo.train(settings)
    run = Run.read(tmp_path / "run")
    ended = exported(run, tmp_path / "ended")
    newest = exported(run, tmp_path / "newest", "last", dtype=torch.float32)
    first = run.load(run.place("1"))
    torch.testing.assert_close(scores(newest), scores(ended), atol=0.5, rtol=0)  # `model/` is in bfloat16
    assert not torch.equal(scores(first), scores(newest))
    assert torch.equal(scores(Thinker.load(tmp_path / "newest")), scores(newest))
    shutil.rmtree(tmp_path / "run" / "model")
    assert run.place("") == tmp_path / "run" / "checkpoints" / "step-000002"
    with pytest.raises(ConfigError, match="it has 1, 2, last"):
        run.place("best")


def test_a_base_that_does_not_fit_is_refused(folder: Path, omni: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lm_head"):  # the whole model's head is its own, the thinker's is tied
        exported(Run.read(omni), tmp_path / "out", base=folder)
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    tensors = load_file(wrong / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight has the shape \[64\], in the base \[3\]"):
        exported(Run.read(folder), tmp_path / "out", base=wrong)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_folder_with_something_in_it_and_broken_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    thinker = Run.read(folder).load(folder)
    weights = published_weights(thinker, torch.float32)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        published.write(weights, published.Base.read(folder), tmp_path / "full")
    weights["model.norm.weight"] = torch.full((64,), 3.4e38)  # fits float32, not bfloat16
    with pytest.raises(TrainingError, match=r"model\.norm\.weight"):
        published.write(weights, published.Base.read(folder), tmp_path / "out", dtype=torch.bfloat16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_weights_of_another_model_are_refused(omni: Path, tmp_path: Path) -> None:
    run = sft_run(tmp_path / "run", omni, changed(omni, 4))  # adapters, and settings that know of none
    with pytest.raises(ModelError, match="weights that the model does not have"):
        run.load(run.place("last"))


@pytest.mark.parametrize("damage", ["change", "remove", "add"])
def test_the_manifest_finds_every_change(folder: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    exported(Run.read(folder), out)
    assert published.check(out) == len(list(out.iterdir())) - 1
    weights = out / "model.safetensors"
    if damage == "change":
        raw = bytearray(weights.read_bytes())
        raw[-5] ^= 1
        weights.write_bytes(raw)
    elif damage == "remove":
        weights.unlink()
    else:
        (out / "more.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.safetensors|more\.json"):
        published.check(out)


def test_a_folder_that_answers_otherwise_is_found(folder: Path) -> None:
    recording = noise(3.0)
    thinker = Thinker.load(folder)
    encoder = TranscriptEncoder(thinker.family, recording)
    before = [asyncio.run(probe(thinker, opened(recording), encoder, 8))]
    agreement(thinker, before, before).check(1e-4)
    other = Thinker.load(folder)
    with torch.no_grad():
        other.decoder.norm.weight[0] *= 3
    with pytest.raises(TrainingError, match="does not answer as the run does"):
        agreement(other, before, [asyncio.run(probe(other, opened(recording), encoder, 8))]).check(1e-4)


def test_rounding_leaves_what_is_not_saved(folder: Path) -> None:
    thinker = Thinker.load(folder)
    frequencies = thinker.decoder.rotary_emb.inv_freq.clone()
    round_weights(thinker, torch.bfloat16)
    assert torch.equal(thinker.decoder.rotary_emb.inv_freq, frequencies)
    weight = thinker.decoder.norm.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, weight.bfloat16().float())
