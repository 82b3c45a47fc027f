"""The engine that samples for a run, with the weights of the policy in it."""

from __future__ import annotations

import torch

from echo_audio.engines.local import LocalEngine
from echo_audio.models.thinker import Thinker
from echo_audio.training import adapters
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.parallel import Crew, whole
from echo_audio.training.policy import Policy


class SamplingEngine:
    """The policy as an engine.

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
