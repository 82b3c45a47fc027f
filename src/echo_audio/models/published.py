"""Writing trained weights as a folder of the published form: shard by shard after a base, audited, with a manifest of hashes.

A published folder holds three models (`thinker.`, `talker.`, `token2wav.`); Echo trains the first. Whatever is not the
thinker's leaves this module with the bytes it came with. A shard of which nothing changed is copied as a file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from echo_audio.errors import ConfigError, ModelError, TrainingError
from echo_audio.models import folders

MANIFEST = "echo-manifest.json"
_THINKER = "thinker."
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SPEAKERS = "spk_dict.pt"
_SIDE_FILES = ("*.json", "merges.txt", "*.jinja", _SPEAKERS, "LICENSE*")
_NOT_COPIED = ("config.json", _INDEX, MANIFEST)
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class Layout(StrEnum):
    """What the folder says it is."""

    OMNI = "omni"
    """The whole model, as published: transformers and vLLM load it. Without a talker in the base, its audio output is off."""
    THINKER = "thinker"
    """The thinker alone, under its own names: smaller, for transformers and Echo."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the tensors of the base.

    Args:
        changed: the thinker's, with other values than in the base.
        same: the thinker's, as they were.
        others: those of the talker and token2wav, untouched.
        copied_shards: weight files that are the base's byte for byte.
    """

    changed: int = 0
    same: int = 0
    others: int = 0
    copied_shards: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Together."""
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Base:
    """The folder that the trained model came from.

    Args:
        folder: with safetensors, in one file or in shards.
        config: its config.json.
        shards: names of the tensors in each weight file.
    """

    folder: Path
    config: dict[str, Any]
    shards: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path) -> Base:
        """Look at a folder, without its weights.

        Raises:
            ModelError: no safetensors, or an index that names files that are not there.
        """
        folders.thinker_config(folder)  # of the family, or an error
        shards: dict[str, tuple[str, ...]] = {}
        for name in _shard_names(folder):
            try:
                with safe_open(folder / name, "pt") as file:
                    shards[name] = tuple(file.keys())
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{folder / name} does not open ({error}); download the base again") from None
        return cls(folder, folders.read_json(folder / "config.json"), shards)

    @property
    def is_omni(self) -> bool:
        """Whether its tensors carry the names of the whole model."""
        return "thinker_config" in self.config

    def inner(self, key: str) -> str | None:
        """The thinker's own name of a tensor; None for what is not of the thinker."""
        if not self.is_omni:
            return key
        return key.removeprefix(_THINKER) if key.startswith(_THINKER) else None

    def dtype(self) -> torch.dtype:
        """The number format of its token embeddings, and so of the folder."""
        for name, keys in self.shards.items():
            for key in keys:
                if self.inner(key) == _EMBEDDING:
                    with safe_open(self.folder / name, "pt") as file:
                        return file.get_tensor(key).dtype
        raise ModelError(f"{self.folder} has no {_EMBEDDING}; is a shard missing? Download the base again")


def _shard_names(folder: Path) -> list[str]:
    if (folder / _INDEX).is_file():
        where = folders.read_json(folder / _INDEX).get("weight_map")
        names = sorted(set(where.values())) if isinstance(where, dict) else []
    else:
        names = [_SINGLE] if (folder / _SINGLE).is_file() else []
    if not names:
        raise ModelError(f"{folder} has no safetensors to take the names of the weights from; give --base FOLDER")
    odd = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if odd:
        raise ModelError(f"{folder} lacks the weight file {odd[0]}; download the base again")
    return names


def audit(weights: Mapping[str, Tensor], base: Base) -> None:
    """Compare names and shapes of trained weights with those of the base.

    Raises:
        ModelError: one is missing, is too many, or has another shape.
    """
    shapes: dict[str, list[int]] = {}
    for name, keys in base.shards.items():
        with safe_open(base.folder / name, "pt") as file:
            inner = {key: base.inner(key) for key in keys}
            shapes |= {own: file.get_slice(key).get_shape() for key, own in inner.items() if own is not None}
    ours = {name: list(tensor.shape) for name, tensor in weights.items()}
    if _HEAD in shapes and _HEAD not in ours:  # tied, and the base stores it all the same
        ours[_HEAD] = ours.get(_EMBEDDING, [])
    problems = [f"{name} is not in the base" for name in ours.keys() - shapes.keys()]
    problems += [f"{name} is in the base only" for name in shapes.keys() - ours.keys()]
    both = sorted(ours.keys() & shapes.keys())
    problems += [f"{n} has the shape {ours[n]}, in the base {shapes[n]}" for n in both if ours[n] != shapes[n]]
    if problems:
        some = "; ".join(sorted(problems)[:3])
        what = f"{len(problems)} weights do not fit the base {base.folder} ({some})"
        raise ModelError(f"{what}; give the --base it was trained from")


def write(
    weights: Mapping[str, Tensor],
    base: Base,
    out: Path,
    *,
    layout: Layout = Layout.OMNI,
    dtype: torch.dtype | None = None,
    about: Mapping[str, str] | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> Counts:
    """Write a model folder; `out` appears when it is whole.

    Args:
        weights: the thinker's, under published names (see `thinker.published_weights`).
        base: what names, shards, small files and everything beside the thinker are taken from.
        out: must not exist, or be empty.
        layout: see `Layout`.
        dtype: of the thinker's tensors; that of the base unless given.
        about: what else the manifest says.
        told: of each file that is written.

    Raises:
        ModelError: the weights do not fit the base.
        ConfigError: `out` holds something.
        TrainingError: the disk refuses.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; give a new folder, or delete that one")
    audit(weights, base)
    part = out.with_name(f".{out.name}.part")
    kind = dtype or base.dtype()
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        counts = _write_weights(weights, base, part, layout, kind, told)
        _copy_side_files(base.folder, part)
        if layout is Layout.OMNI and not (part / _SPEAKERS).exists():
            torch.save({}, part / _SPEAKERS)  # transformers asks for it even where the audio output is off
        _dump(part / "config.json", _config(base, layout, kind))
        files = {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in sorted(part.iterdir())}
        tensors = {"changed": counts.changed, "same": counts.same, "others": counts.others}
        said = {"layout": str(layout), "dtype": _name(kind), **(about or {})}
        _dump(part / MANIFEST, {**said, "tensors": tensors, "files": files})
        if out.exists():
            out.rmdir()
        part.replace(out)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"could not write {out} ({error}); is the disk full?") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def _write_weights(
    weights: Mapping[str, Tensor], base: Base, part: Path, layout: Layout, dtype: torch.dtype, told: Callable[[str], None]
) -> Counts:
    """All shards, and their index where the base has one."""
    counts, where, size = Counts(), dict[str, str](), 0
    for name, keys in base.shards.items():
        tensors, some = _shard(weights, base, name, keys, layout, dtype)
        if not tensors:
            continue
        told(name)
        if not some.changed and set(tensors) == set(keys):
            shutil.copyfile(base.folder / name, part / name)
            some += Counts(copied_shards=1)
        else:
            save_file(tensors, part / name, metadata={"format": "pt"})
            (part / name).chmod(0o644)
        counts += some
        where |= dict.fromkeys(tensors, name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if (base.folder / _INDEX).is_file():
        _dump(part / _INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))})
    return counts


def _shard(
    weights: Mapping[str, Tensor], base: Base, name: str, keys: tuple[str, ...], layout: Layout, dtype: torch.dtype
) -> tuple[dict[str, Tensor], Counts]:
    """The tensors of one weight file."""
    tensors: dict[str, Tensor] = {}
    changed = same = others = 0
    with safe_open(base.folder / name, "pt") as file:
        for key in keys:
            inner = base.inner(key)
            if inner is None:
                if layout is Layout.OMNI:
                    tensors[key] = file.get_tensor(key)
                    others += 1
                continue
            before = file.get_tensor(key)
            new = _finite(inner, weights.get(inner, weights[_EMBEDDING]), dtype)
            equal = before.dtype == new.dtype and torch.equal(before, new)
            changed, same = changed + (not equal), same + equal
            tensors[_THINKER + inner if layout is Layout.OMNI else inner] = before if equal else new
    return tensors, Counts(changed, same, others)


def _finite(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in its number format.

    Raises:
        TrainingError: NaN or infinity.
    """
    new = tensor.detach().to("cpu", dtype).contiguous()
    if not bool(new.isfinite().all()):
        raise TrainingError(f"{name} holds NaN or infinity; nothing was exported, take an earlier checkpoint")
    return new


def _copy_side_files(source: Path, part: Path) -> None:
    """Tokenizer, processor, templates, speakers. As bytes: `spk_dict.pt` is a pickle, and nobody here opens it."""
    for path in sorted({path for pattern in _SIDE_FILES for path in source.glob(pattern)}):
        if path.is_file() and path.name not in _NOT_COPIED:
            shutil.copyfile(path, part / path.name)


def _config(base: Base, layout: Layout, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json for a layout; that of the base as far as possible."""
    kind = {"dtype": _name(dtype)}
    if layout is Layout.THINKER:
        thinker = folders.thinker_config(base.folder)
        return thinker | kind | {"architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"]}
    if base.is_omni:
        has = [key for key in ("dtype", "torch_dtype") if key in base.config]
        return base.config | dict.fromkeys(has or ["dtype"], _name(dtype))
    return {
        "model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniForConditionalGeneration"],
        "enable_audio_output": False, "enable_talker": False, "thinker_config": base.config, **kind,
    }  # fmt: skip


def check(folder: Path) -> int:
    """Compare a folder with its manifest.

    Returns:
        The number of files that were compared.

    Raises:
        ModelError: no manifest, or a file is missing, too many, or has other bytes.
    """
    files = folders.read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict):
        raise ModelError(f"{folder / MANIFEST} names no files; export the model again")
    here = {path.name for path in folder.iterdir() if path.name != MANIFEST}
    problems = [f"{name} is missing" for name in files.keys() - here]
    problems += [f"{name} is not in the manifest" for name in here - files.keys()]
    both = sorted(files.keys() & here)
    problems += [f"{name} has other bytes" for name in both if sha256(folder / name) != files[name]["sha256"]]
    if problems:
        raise ModelError(f"{folder} is not what was exported: {'; '.join(sorted(problems)[:4])}; export or copy it again")
    return len(files)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dump(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
