"""Model folders: find one, read its small files, refuse what is not of the family. No weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from echo_audio.errors import ModelError

TINY = "tiny"
"""The name of the small model that ships with Echo."""


def tiny_folder() -> Path:
    """Where the shipped small model lies."""
    return Path(__file__).parent / "tiny"


def resolve(source: str | Path) -> Path:
    """The folder of a model: the shipped one by name, a local path, or a hub id (downloaded, safetensors only).

    Raises:
        ModelError: nothing there.
    """
    if str(source) == TINY:
        return tiny_folder()
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if str(source).count("/") != 1 or path.is_absolute():
        known = f"a hub id such as Qwen/Qwen2.5-Omni-7B, or {TINY!r}"
        raise ModelError(f"no model folder at {source}; give a folder, {known}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "merges.txt", "*.jinja", "spk_dict.pt"]  # the last is copied, never opened
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        why = f"{source} is no folder here, and could not be got from the hub ({error})"
        raise ModelError(f"{why}; download it and give its folder") from None


_BLOCK, _N_BLOCKS = 1 << 14, 256


def fingerprint(folder: Path) -> str:
    """A hash of a model folder: names and sizes of its files, the small ones whole, of the weights 256 blocks all over them.

    A training that leaves the audio tower alone changes the end of a file only: its beginning would not tell.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix not in (".json", ".safetensors"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for at in range(0, size, max(_BLOCK, size // _N_BLOCKS)):
                file.seek(at)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def revision(folder: Path) -> str:
    """The commit of a folder that came from the hub; "" for any other."""
    return folder.name if folder.parent.name == "snapshots" else ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the folder.

    Raises:
        ModelError: missing or not JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inside = path.parent / "model"  # of a training's folder
        cure = f"give {inside}" if (inside / path.name).is_file() else "is it a complete model folder?"
        raise ModelError(f"{path.parent} has no {path.name}; {cure}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}); download the model again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object; download the model again")
    return value


def thinker_config(folder: Path) -> dict[str, Any]:
    """The configuration of the thinker, from a full omni folder or a thinker's own.

    Raises:
        ModelError: another family.
    """
    config = read_json(folder / "config.json")
    thinker = config.get("thinker_config", config)
    ours = isinstance(thinker, dict) and thinker.get("model_type") == "qwen2_5_omni_thinker"
    if not ours or not isinstance(thinker.get("text_config"), dict):
        kind = config.get("model_type", "unknown")
        raise ModelError(f"{folder} holds a model of type {kind!r}; Echo drives the Qwen2.5-Omni family")
    return thinker


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, from tokenizer.json or else from vocab.json and merges.txt.

    Raises:
        ModelError: none that loads.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a bad file
            raise ModelError(f"{path} does not load ({error}); download the model again") from None
    if not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise ModelError(f"{folder} has neither tokenizer.json nor vocab.json and merges.txt; download the model again")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} has no tokenizer that loads ({error}); download the model again") from None


def longest_clip_s(folder: Path) -> float:
    """The longest clip of the folder's processor; the family's 300 s where the folder does not say.

    Raises:
        ModelError: what it says is no length.
    """
    path = folder / "preprocessor_config.json"
    length = read_json(path).get("chunk_length", 300) if path.is_file() else 300
    if not isinstance(length, int | float) or not length > 0:
        raise ModelError(f"{path} has the chunk_length {length!r}, which is no number of seconds; download the model again")
    return float(length)


def max_positions(folder: Path) -> int:
    """The context length in tokens; the family's 32,768 where the folder does not say.

    Raises:
        ModelError: what it says is no length.
    """
    length = thinker_config(folder)["text_config"].get("max_position_embeddings", 32_768)
    if not isinstance(length, int) or length < 1:
        what = f"max_position_embeddings {length!r}, which is no number of tokens"
        raise ModelError(f"{folder / 'config.json'} has the {what}; download the model again")
    return length
