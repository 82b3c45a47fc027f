"""From a run folder to its trained thinker, whatever the run kept: a model folder, a checkpoint, or shares of one."""

from __future__ import annotations

import math
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.local import LocalEngine
from echo_audio.errors import ConfigError, ModelError, TrainingError
from echo_audio.listen import Encoded, Limits, Sampling, listen
from echo_audio.models import folders
from echo_audio.models.thinker import Thinker
from echo_audio.training import adapters
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.settings import SftSettings
from echo_audio.transcript import Transcript

_WEIGHTS = "training.safetensors"
_TRAINED = "thinker."
"""What both trainers call the model inside: `SftModel.thinker`, `Policy.thinker`."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, or a model folder that is taken for a finished run.

    Args:
        folder: where it lies.
        source: the model that the run started from.
        lora_rank, lora_alpha: of its adapters; rank 0 for none.
    """

    folder: Path
    source: Path
    lora_rank: int = 0
    lora_alpha: float = 0.0

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Look at a folder.

        Raises:
            ConfigError: the run's config.toml has a problem.
            ModelError: neither a run nor a model.
        """
        path = Path(folder)
        if not (path / "config.toml").is_file():
            found = folders.resolve(folder)
            folders.thinker_config(found)
            return cls(found, found)
        text = (path / "config.toml").read_text(encoding="utf-8")
        settings = (GrpoSettings if _is_grpo(text) else SftSettings).parse(text).model
        source = path / "new" if settings.source == "new" else folders.resolve(settings.source)
        return cls(path, source, settings.lora_rank, settings.lora_alpha)

    @property
    def is_model(self) -> bool:
        """Whether it is a model folder only."""
        return self.folder == self.source

    def place(self, which: str) -> Path:
        """The folder that holds the wanted weights.

        Args:
            which: "model" (how the run ended), "best", "last" (the newest checkpoint), a step's number, or "" for the
                first of model and last that there is.

        Raises:
            ConfigError: the run has none of these.
        """
        if self.is_model:
            if which:
                raise ConfigError(f"{self.folder} is a model folder, not a run: there is no {which!r} to choose")
            return self.folder
        ended, steps = self.folder / "model", self._checkpoints()
        found = {"model": ended, "best": self.folder / "best"} | {str(step): path for step, path in steps.items()}
        found = {name: path for name, path in found.items() if path.is_dir()}
        if steps:
            found["last"] = steps[max(steps)]
        wanted = which or ("model" if "model" in found else "last")
        if wanted not in found:
            have = ", ".join(found) or "nothing that was saved yet"
            raise ConfigError(f"{self.folder} has no {wanted!r} to export; it has {have}")
        return found[wanted]

    def _checkpoints(self) -> dict[int, Path]:
        """Whole checkpoints, by step: those of supervised and of reinforcement runs."""
        folder = self.folder / "checkpoints"
        whole = [*folder.glob("checkpoint-[0-9]*/trainer_state.json"), *folder.glob("step-[0-9]*/state.json")]
        return {int(path.parent.name.split("-")[1]): path.parent for path in whole}

    def load(self, place: Path) -> Thinker:
        """The trained thinker in float32 on the CPU, adapters merged.

        Raises:
            ModelError: what is there does not load, or belongs to another model.
        """
        if (place / "config.json").is_file():
            return Thinker.load(place)
        thinker = Thinker.load(self.source)
        if self.lora_rank:
            adapters.attach(thinker, self.lora_rank, self.lora_alpha)
        _take_over(thinker, _trained(place), place)
        adapters.merge(thinker)
        return thinker.eval()


def _is_grpo(text: str) -> bool:
    try:
        return "rollout" in tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the run's config.toml is not valid TOML: {error}") from None


def _trained(place: Path) -> dict[str, Tensor]:
    """What a checkpoint says of the thinker's weights, by name inside the thinker."""
    shares = [path.parent for path in sorted(place.glob("**/.metadata"))]
    if (place / _WEIGHTS).is_file():
        try:
            tensors = load_file(place / _WEIGHTS)
        except SafetensorError as error:
            raise ModelError(f"{place / _WEIGHTS} does not load ({error}); export an earlier checkpoint") from None
    elif shares:
        tensors = {name: tensor for folder in shares for name, tensor in read_shares(folder).items()}
    else:
        raise ModelError(f"{place} holds neither {_WEIGHTS} nor shares of weights; export an earlier checkpoint")
    inside = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {name.removeprefix(_TRAINED): tensor for name, tensor in inside.items() if name.startswith(_TRAINED)}


def read_shares(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder that several processes wrote their shares into (torch's distributed checkpoint).

    The folder's description is a pickle: read only what your own runs wrote.

    Raises:
        ModelError: a share is missing or damaged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        known = FileSystemReader(folder).read_metadata().state_dict_metadata
        kinds = {name: kind for name, kind in known.items() if isinstance(kind, TensorStorageMetadata)}
        tensors: dict[str, Any] = {n: torch.empty(kind.size, dtype=kind.properties.dtype) for n, kind in kinds.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process only is meant
            load(tensors, checkpoint_id=folder, no_dist=True)
    except (OSError, ValueError, RuntimeError, CheckpointException) as error:
        raise ModelError(f"the shares of weights in {folder} do not load ({error}); export an earlier checkpoint") from None
    return tensors


def _take_over(thinker: Thinker, tensors: dict[str, Tensor], place: Path) -> None:
    """Put trained weights in; what was not trained stays."""
    own = thinker.state_dict()
    strange = sorted(tensors.keys() - own.keys())
    if not tensors or strange:
        what = f"e.g. {strange[0]}" if strange else "nothing of the model"
        cure = "use the transformers version and the config.toml it was trained with"
        raise ModelError(f"{place} holds weights that the model does not have ({what}); {cure}")
    odd = [name for name, tensor in tensors.items() if tensor.shape != own[name].shape]
    if odd:
        raise ModelError(f"{place} has {odd[0]} in another shape than the model it started from; put that model back")
    thinker.load_state_dict(tensors, strict=False)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a model says to a question: its greedy reasoning, and how likely it finds each token.

    Args:
        encoded: prompt, audio and what was written.
        logprobs: (n,) of every token given those before.
    """

    encoded: Encoded
    logprobs: Tensor


async def probe(thinker: Thinker, opened: Transcript, encoder: TranscriptEncoder, max_new_tokens: int) -> Probe:
    """Ask a model greedily."""
    engine = LocalEngine(thinker, max_rows=1)
    try:
        limits = Limits(max_new_tokens=max_new_tokens, force_answer=False)
        transcript = await listen(opened, engine, encoder, limits, Sampling())
    finally:
        engine.close()
    encoded = encoder.encode(transcript)
    with torch.inference_mode():
        return Probe(encoded, thinker.score(encoded))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two models agree on the same questions.

    Args:
        equal_ids: share of greedy tokens up to the first that differs.
        mean, largest: absolute difference of the log-probabilities of the first model's transcripts.
        n_tokens: tokens compared.
    """

    equal_ids: float
    mean: float
    largest: float
    n_tokens: int

    def check(self, tolerance: float) -> None:
        """Whether this is the same model.

        Raises:
            TrainingError: it is not.
        """
        if self.equal_ids < 1 or not self.largest <= tolerance:
            raise TrainingError(
                f"the exported folder does not answer as the run does: {self.equal_ids:.1%} of greedy tokens are equal, "
                f"log-probabilities differ by up to {self.largest:.2g}; delete it and report this"
            )


def agreement(thinker: Thinker, before: list[Probe], after: list[Probe]) -> Agreement:
    """Compare a model's probes with those made before, and its scores of what was written then."""
    equal = total = 0
    gaps: list[Tensor] = []
    for first, second in zip(before, after, strict=True):
        total += sum(first.encoded.sampled)
        pairs = zip(first.encoded.ids, second.encoded.ids, first.encoded.sampled, strict=False)
        for ours, theirs, sampled in pairs:
            if ours != theirs:
                break
            equal += sampled
        with torch.inference_mode():
            gaps.append((thinker.score(first.encoded) - first.logprobs).abs())
    gap = torch.cat(gaps)
    gap = gap[~gap.isnan()]  # -inf on both sides: what no policy may write is equally impossible
    largest = float(gap.max()) if len(gap) else math.nan
    return Agreement(equal / max(1, total), float(gap.mean()), largest, len(gap))


def round_weights(thinker: Thinker, dtype: torch.dtype) -> None:
    """Round every weight that is saved to a number format, in place; it keeps its own."""
    with torch.no_grad():
        for weight in thinker.model.state_dict().values():
            weight.copy_(weight.to(dtype).to(weight.dtype))
