"""What a GRPO run keeps on disk so that it goes on as if it had never been killed.

    checkpoints/step-000010/     training.safetensors (weights that learn, moments of the optimiser), state.json
    rollouts/000010-0.jsonl      transcripts of the step with that number, of process 0
    best/, model/                folders that transformers loads

There is no random state to keep: every draw follows from the seed and its place in the run. A checkpoint is written
beside its place and moved there when it is whole; what is not finite is never written.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from echo_audio.errors import TrainingError
from echo_audio.models import folders
from echo_audio.models.thinker import Thinker, save_folder
from echo_audio.training import adapters
from echo_audio.training.grpo_settings import PolicySettings
from echo_audio.training.parallel import Crew, like, whole
from echo_audio.training.policy import Policy
from echo_audio.training.update import Learned, Updater

_MOMENTS = ("exp_avg", "exp_avg_sq")
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run is.

    Args:
        steps: steps that are done.
        updates: optimiser steps that are done.
        best: the highest score of an evaluation so far.
        elapsed_s: seconds spent.
    """

    steps: int = 0
    updates: int = 0
    best: float | None = None
    elapsed_s: float = 0.0


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: where they are.
        crew: the processes; the first one writes, all must call.
    """

    def __init__(self, folder: Path, crew: Crew) -> None:
        self.folder, self.crew = folder, crew

    def last(self) -> Path | None:
        """The newest that is whole."""
        found = sorted(self.folder.glob("step-[0-9]*/state.json"))
        return found[-1].parent if found else None

    def save(self, updater: Updater, position: Position) -> None:
        """Write one, and delete all but the newest two.

        Raises:
            TrainingError: a weight is not finite, or the disk refuses; older checkpoints stay.
        """
        tensors = _tensors(updater)
        if self.crew.first:
            broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
            if broken:
                raise TrainingError(f"{broken[0]} is not finite after step {position.steps}; no checkpoint of it was written")
            self._write(tensors, position)
        self.crew.wait()

    def _write(self, tensors: dict[str, Tensor], position: Position) -> None:
        place = self.folder / f"step-{position.steps:06d}"
        part = self.folder / f".{place.name}.part"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save_file(tensors, part / "training.safetensors")
            (part / "state.json").write_text(json.dumps(asdict(position)) + "\n", encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)
            part.replace(place)
        except OSError as error:
            raise TrainingError(f"could not write {place} ({error}); is the disk full?") from None
        for old in sorted(self.folder.glob("step-[0-9]*"))[:-_KEPT]:
            shutil.rmtree(old)

    def load(self, updater: Updater) -> Position:
        """Put back the newest one; without any, the run is at its start."""
        place = self.last()
        if place is None:
            return Position()
        tensors = load_file(place / "training.safetensors")
        position = Position(**json.loads((place / "state.json").read_text(encoding="utf-8")))
        with torch.no_grad():
            for name, weight in updater.policy.trained().items():
                weight.copy_(like(tensors[name], weight))
                if f"exp_avg/{name}" in tensors:
                    moments: dict[str, Any] = {kind: like(tensors[f"{kind}/{name}"], weight) for kind in _MOMENTS}
                    updater.optimiser.state[weight] = moments | {"step": torch.tensor(float(position.updates))}
        updater.n_updates = position.updates
        return position


def _tensors(updater: Updater) -> dict[str, Tensor]:
    """Weights that learn and the optimiser's moments, whole and on the CPU, each under its own name."""
    tensors: dict[str, Tensor] = {}
    for name, weight in updater.policy.trained().items():
        tensors[name] = whole(weight).cpu().contiguous()
        state = updater.optimiser.state.get(weight, {})
        tensors |= {f"{kind}/{name}": whole(state[kind]).cpu().contiguous() for kind in _MOMENTS if kind in state}
    return tensors


def export(policy: Policy, folder: Path, settings: PolicySettings, crew: Crew) -> None:
    """The policy as a folder that transformers loads, adapters merged; all processes must call, the first one writes.

    The merge is done on a fresh copy in float32: merging the policy itself and taking it apart again would change it.

    Raises:
        TrainingError: a weight is not finite, or the disk refuses.
    """
    learned = {name: whole(weight).cpu() for name, weight in policy.trained().items()}
    if crew.first:
        thinker = Thinker.load(settings.source)
        if settings.lora_rank:
            adapters.attach(thinker, settings.lora_rank, settings.lora_alpha)
        weights = dict(Policy(thinker).named_parameters())
        with torch.no_grad():
            for name, value in learned.items():
                weights[name].copy_(value)
        adapters.merge(thinker)
        save_folder(thinker, folder, folders.resolve(settings.source))
    crew.wait()


def drop_after(path: Path, steps: int) -> list[dict[str, Any]]:
    """Cut a JSON-lines file of a run back to its first `steps` steps.

    Returns:
        The lines that stay.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    whole_lines = [json.loads(line) for line in lines[:-1]]  # behind the last line feed is a torn line, or nothing
    kept = [line for line in whole_lines if line["step"] <= steps]
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
    part.replace(path)
    return kept


def write_evidence(path: Path, items: Sequence[Learned]) -> None:
    """Name, advantage and log-probabilities of every transcript of a step that failed, a line each.

    What is not finite is written as text: NaN and infinity are not JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            known = {"engine": item.engine, "old": item.old, "reference": item.reference, "failed": item.failed}
            line = {name: _in_json(values) for name, values in known.items() if values is not None}
            file.write(json.dumps({**asdict(item.key), "advantage": item.advantage, **line}) + "\n")


def _in_json(values: Tensor) -> list[float | str]:
    """Numbers, and "nan", "inf" and "-inf", which float() reads."""
    return [value if math.isfinite(value) else str(value) for value in values.tolist()]
