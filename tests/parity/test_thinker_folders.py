"""What loads: a thinker's folder, a published omni folder, tied and untied; and what is refused, with a cure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import noise, opened
from safetensors.torch import load_file, save_file
from torch import Tensor

from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import ModelError, TrainingError
from echo_audio.models import folders, tiny
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.models.thinker import Thinker, save_folder, save_weights

PUBLISHED_PREFIXES = {"audio_tower", "visual", "model"}


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def publish(folder: Path, out: Path, *, untied: bool) -> dict[str, Tensor]:
    """A folder like the published Qwen2.5-Omni: three models in two shards with an index, small files beside them."""
    out.mkdir()
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, out)
    thinker = load_file(folder / "model.safetensors")
    if untied:
        thinker["lm_head.weight"] = torch.randn_like(thinker["model.embed_tokens.weight"])
    weights = {f"thinker.{name}": weight for name, weight in thinker.items()}
    weights["talker.model.embed_tokens.weight"] = torch.full((7, 3), torch.nan)
    weights["talker.thinker_to_talker_proj.weight"] = torch.zeros(3, 3)
    weights["token2wav.code2wav_dit_model.norm_out.linear.weight"] = torch.zeros(2)
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, some in shards.items():
        save_file({name: weights[name] for name in some}, out / shard, metadata={"format": "pt"})
    where = {name: shard for shard, some in shards.items() for name in some}
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    config = json.loads((folder / "config.json").read_text())
    if untied:
        config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    omni = {
        "model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "enable_audio_output": True,
        "enable_talker": True, "thinker_config": config, "talker_config": {"model_type": "qwen2_5_omni_talker"},
        "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"},
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(omni))
    torch.save({"Ethan": {"spk": torch.zeros(2)}}, out / "spk_dict.pt")
    return thinker


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A thinker folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


def assert_equal_models(ours: Thinker, expected: Thinker) -> None:
    recording = noise(2.0)
    encoded = TranscriptEncoder(expected.family, recording).encode(opened(recording))
    pairs = zip(ours.state_dict().items(), expected.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    with torch.inference_mode():
        assert torch.equal(ours.score(encoded), expected.score(encoded))


def test_weights_are_stored_under_published_names(folder: Path) -> None:
    names = load_file(folder / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == PUBLISHED_PREFIXES
    assert {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"} <= names
    assert "audio_tower.layers.1.self_attn.k_proj.weight" in names
    assert not [name for name in names if "language_model" in name or name.startswith(("thinker", "model.audio"))]


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied_as_7B"])
def test_a_published_omni_folder_loads(folder: Path, thinker: Thinker, tmp_path: Path, untied: bool) -> None:
    weights = publish(folder, tmp_path / "omni", untied=untied)
    loaded = Thinker.load(tmp_path / "omni")
    assert loaded.family.tokenizer.to_str() == thinker.family.tokenizer.to_str()
    assert loaded.family.max_positions == thinker.family.max_positions
    embeddings, head = loaded.decoder.embed_tokens.weight, loaded.model.lm_head.weight
    assert (head is embeddings) is not untied
    if untied:
        assert torch.equal(head, weights["lm_head.weight"])
        assert torch.equal(embeddings, weights["model.embed_tokens.weight"])
    else:
        assert_equal_models(loaded, thinker)


def test_rope_settings_of_published_configs_are_understood(copied: Path) -> None:
    """They are written as transformers 4 did: `rope_theta` beside a `rope_scaling` without it."""

    def as_published(config: dict[str, Any]) -> None:
        text = config["text_config"]
        del text["rope_parameters"]
        text["rope_theta"] = 1_000_000.0
        text["rope_scaling"] = {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}

    edit_json(copied / "config.json", as_published)
    frequencies = Thinker.load(copied).decoder.rotary_emb.inv_freq
    expected = 1e6 ** (-torch.arange(len(frequencies)) / len(frequencies))
    torch.testing.assert_close(frequencies, expected)


def test_what_was_trained_from_an_omni_folder_is_a_thinker_folder(folder: Path, tmp_path: Path) -> None:
    publish(folder, tmp_path / "omni", untied=True)
    loaded = Thinker.load(tmp_path / "omni")
    save_folder(loaded, tmp_path / "saved", tmp_path / "omni", torch.float32)
    assert_equal_models(Thinker.load(tmp_path / "saved"), loaded)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni_thinker"
    assert (tmp_path / "saved" / "spk_dict.pt").is_file()
    assert not (tmp_path / "saved" / "model.safetensors.index.json").exists()


def test_saving_and_loading_changes_nothing(thinker: Thinker, folder: Path, tmp_path: Path) -> None:
    save_folder(thinker, tmp_path, folder, torch.float32)
    assert_equal_models(Thinker.load(tmp_path), thinker)
    small = {path.name for path in folder.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == small
    for name in small - {"config.json", "model.safetensors"}:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    save_folder(thinker, tmp_path, tmp_path)  # over itself, in bfloat16
    assert load_file(tmp_path / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert Thinker.load(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
def test_no_nan_is_ever_saved(folder: Path, tmp_path: Path, value: float) -> None:
    thinker = Thinker.load(folder)
    save_folder(thinker, tmp_path, folder)
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        thinker.decoder.norm.weight[3] = value  # 3.4e38 fits float32 but not bfloat16
    with pytest.raises(TrainingError, match=r"model\.norm\.weight"):
        save_folder(thinker, tmp_path, folder)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def test_a_folder_that_cannot_be_written_says_so(thinker: Thinker, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="could not write"):
        save_folder(thinker, tmp_path / "file" / "model", folder)
    with pytest.raises(TrainingError, match="could not write"):
        save_weights(thinker, tmp_path / "no" / "model.safetensors")


def test_a_random_folder_is_reproducible(folder: Path, tmp_path: Path) -> None:
    tokenizer = folders.tokenizer(folder)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tiny.write_folder(tmp_path / name, tokenizer, tiny.RANDOM, seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def refused(path: Path | str, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        Thinker.load(path)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    publish(folder, tmp_path / "omni", untied=False)
    (tmp_path / "omni" / "model-00002-of-00002.safetensors").unlink()
    refused(tmp_path / "omni", "model-00002-of-00002.safetensors", "download")


def test_missing_weights_are_named(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    refused(copied, "lacks 1 weights", "up_proj", "shard")


def test_weights_of_another_size_are_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(65)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    refused(copied, "download")


def test_truncated_weights_are_refused(copied: Path) -> None:
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50_000])
    refused(copied, "do not load", "download")


def test_pickles_are_never_opened(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    refused(copied, "safetensors", "download")


def test_no_weights_at_all(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    refused(copied, "safetensors", "download")


@pytest.mark.parametrize("text", ["", "{", "[]", "{'a': 1}", "\x00"])
def test_damaged_json(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text)
    refused(copied, "config.json", "download the model again")


def test_another_family(copied: Path) -> None:
    (copied / "config.json").write_text('{"model_type": "qwen2_audio", "text_config": {}}')
    refused(copied, "'qwen2_audio'", "Qwen2.5-Omni")


@pytest.mark.parametrize(
    ("where", "value"),
    [("text_config", []), ("hidden_size", "x"), ("num_attention_heads", 0), ("max_position_embeddings", None),
     ("rope_scaling", {"rope_type": "none such"}), ("num_hidden_layers", -1)],
)  # fmt: skip
def test_a_config_that_describes_no_model(copied: Path, where: str, value: object) -> None:
    def damage(config: dict[str, Any]) -> None:
        config["text_config"].pop("rope_parameters")
        (config if where == "text_config" else config["text_config"])[where] = value

    edit_json(copied / "config.json", damage)
    with pytest.raises(ModelError):
        Thinker.load(copied)


@pytest.mark.parametrize("length", [None, "x", 0, []])
def test_a_processor_without_a_length(copied: Path, length: object) -> None:
    edit_json(copied / "preprocessor_config.json", lambda value: value.update(chunk_length=length))
    refused(copied, "chunk_length", "download")


def test_a_tokenizer_that_is_larger_than_the_model(copied: Path) -> None:
    many = [a + b + c for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    tiny.train_tokenizer([" ".join(many)] * 3, 900).save(str(copied / "tokenizer.json"))
    refused(copied, "tokenizer has", "not of one model")


def test_a_tokenizer_of_another_family(copied: Path) -> None:
    edit_json(copied / "tokenizer.json", lambda value: value.update(added_tokens=value["added_tokens"][:3]))
    refused(copied, "<|AUDIO|>", "not a Qwen2.5-Omni tokenizer")


def test_a_damaged_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    refused(copied, "tokenizer.json", "download")


def test_no_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    refused(copied, "tokenizer", "download")


def test_vocabulary_and_merges_do_as_well(copied: Path, thinker: Thinker) -> None:
    """Published folders may hold vocab.json and merges.txt instead of tokenizer.json."""
    model = json.loads((copied / "tokenizer.json").read_text())["model"]
    (copied / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (copied / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = json.loads((copied / "tokenizer.json").read_text())["added_tokens"]
    decoder = {str(token.pop("id")): token for token in added}
    edit_json(copied / "tokenizer_config.json", lambda value: value.update(added_tokens_decoder=decoder))
    (copied / "tokenizer.json").unlink()
    family = Qwen25Omni.load(copied)
    assert family.specials == thinker.family.specials
    for text in ("<think>I listen to the bell <seg>1.2, 3.4</seg>.", "a <|im_end|> b", "été 12 345"):
        assert family.text_ids(text) == thinker.family.text_ids(text)


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "hub id", "tiny")
    refused(tmp_path, "config.json")
    refused("just-a-word", "just-a-word", "hub id")


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/no-such-model", "nobody/no-such-model", "no folder here", "give its folder")


def test_what_is_got_from_the_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Weights as safetensors, the small files, and the speakers' file, which a trained folder must hold again."""
    asked: dict[str, Any] = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert folders.resolve("Qwen/Qwen2.5-Omni-7B") == folder
    assert asked["name"] == "Qwen/Qwen2.5-Omni-7B"
    assert {"*.safetensors", "*.json", "merges.txt", "spk_dict.pt"} <= set(asked["patterns"])
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked["patterns"])


def test_loading_is_quiet_and_leaves_logging_as_it_was(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    Thinker.load(folder)
    assert logging.get_verbosity() == verbosity
    out, err = capfd.readouterr()
    assert out + err == ""


def test_a_fresh_buffer_of_allowed_ids(thinker: Thinker) -> None:
    vocabulary = thinker.model.config.text_config.vocab_size
    allowed = thinker.allowed.tolist()
    assert len(allowed) == vocabulary
    assert not any(allowed[len(thinker.family.token_bytes) :])
    assert not any(allowed[token] for token in thinker.family.never_sampled)
    assert all(allowed[token] for token in thinker.family.ends)
