"""The engine that samples for a run, with the weights of the policy in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file

from echo_audio.engines.local import LocalEngine
from echo_audio.engines.vllm import VllmEngine
from echo_audio.errors import ConfigError
from echo_audio.listen import Engine
from echo_audio.models.thinker import Thinker
from echo_audio.training import adapters
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.parallel import Crew, whole
from echo_audio.training.policy import Policy


class Sampling(Protocol):
    """The policy as an engine, whatever runs it."""

    @property
    def engine(self) -> Engine:
        """Where tokens come from."""
        ...

    @property
    def thinker(self) -> Thinker:
        """The model whose tokens they are; whole, where this process samples."""
        ...

    def sync(self) -> None:
        """Take over the policy's weights; all processes must call."""
        ...

    def close(self) -> None:
        """Stop the engine."""
        ...


def sampling_of(policy: Policy, settings: GrpoSettings, crew: Crew) -> Sampling:
    """The engine that the settings name."""
    if settings.rollout.engine == "vllm":
        return VllmSampling(policy, settings, crew)
    return SamplingEngine(policy, settings, crew)


class VllmSampling:
    """vLLM in a process of its own on the same GPU, with a copy of the weights that is brought up to date in place.

    What training has changed is written into memory that both processes see, and read by vLLM from there: with adapters
    the decoder's projections, else all weights that learn.

    Args:
        policy: what learns.
        settings: of the run; `model.source` must be a folder in the published layout.
        crew: one process.
        load: makes the engine.

    Raises:
        ConfigError: several processes, or bit-for-bit repetition wanted.
    """

    def __init__(
        self, policy: Policy, settings: GrpoSettings, crew: Crew, load: Callable[..., VllmEngine] = VllmEngine.load
    ) -> None:
        if crew.size > 1 or settings.rollout.exact:
            raise ConfigError("rollout.engine=vllm works on one process and without rollout.exact; set rollout.engine=local")
        self.policy = policy
        how = settings.rollout
        self.engine = load(settings.model.source, gpu_memory=how.gpu_memory, max_rows=how.in_flight, enforce_eager=how.eager)

    @property
    def thinker(self) -> Thinker:
        """The policy's; vLLM holds a copy."""
        return self.policy.thinker

    def sync(self) -> None:
        """Hand the policy's weights over; nothing computed with older ones is used again."""
        self.policy.eval()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        with tempfile.TemporaryDirectory(prefix="echo-weights-", dir=memory) as folder, torch.no_grad():
            path = Path(folder) / "weights.safetensors"
            learned = adapters.learned_weights(self.policy.thinker)
            dtype = torch.bfloat16  # vLLM's
            save_file({f"thinker.{name}": weight.to("cpu", dtype).contiguous() for name, weight in learned}, path)
            self.engine.push_weights(path)

    def close(self) -> None:
        """End vLLM's process."""
        self.engine.close()


class SamplingEngine:
    """The policy as an engine of this process.

    The policy's own weights sample where one process holds all of them in the wanted number format; otherwise a copy
    does, which is brought up to date after each update.

    Args:
        policy: what learns.
        settings: of the run.
        crew: the processes; each has an engine.
    """

    def __init__(self, policy: Policy, settings: GrpoSettings, crew: Crew) -> None:
        self.policy = policy
        thinker, wanted = policy.thinker, settings.rollout.dtype
        dtype = getattr(torch, wanted) if wanted else thinker.dtype
        self.shared = dtype == thinker.dtype and not (settings.train.shard and crew.size > 1)
        if not self.shared:
            thinker = Thinker.load(settings.model.source, dtype=dtype).requires_grad_(False)
            if settings.model.lora_rank:
                adapters.attach(thinker, settings.model.lora_rank, settings.model.lora_alpha)
        self.engine = LocalEngine(thinker.to(crew.device), max_rows=settings.rollout.in_flight)

    @property
    def thinker(self) -> Thinker:
        """What the engine runs: the policy's own, or its whole copy."""
        return self.engine.thinker

    def sync(self) -> None:
        """Take over the policy's weights; nothing computed with older ones is used again. All processes must call."""
        self.policy.eval()
        if not self.shared:
            mine = dict(Policy(self.engine.thinker).named_parameters())
            with torch.no_grad():
                for name, weight in self.policy.trained().items():
                    mine[name].copy_(whole(weight))
        self.engine.forget()

    def close(self) -> None:
        """Stop the engine's thread."""
        self.engine.close()
