"""The policy and its reference: log-probabilities of sampled tokens by one forward over whole transcripts, audio included.

Shapes: S sampled tokens of a batch, H width of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from echo_audio.models.thinker import Thinker
from echo_audio.training import adapters
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.losses import chosen_logprobs, entropy
from echo_audio.training.model import audio_tokens, hidden_before_sampled
from echo_audio.training.parallel import Crew, share_out
from echo_audio.training.sft import recompute_activations

_LOGITS = 2**27
"""Logits computed at once: half a GB in float32. More tokens are taken in parts, made again on the way back."""


class Policy(nn.Module):
    """A thinker that says how likely it finds what was sampled.

    Args:
        thinker: the model.
        bf16: compute in bfloat16; the logits are widened to float32 before their softmax.
    """

    def __init__(self, thinker: Thinker, *, bf16: bool = False) -> None:
        super().__init__()
        self.thinker, self.bf16 = thinker, bf16

    def forward(self, batch: dict[str, Any], *, entropy_counts: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probability of each sampled token and entropy of where it was drawn from, both (S,) float32.

        Args:
            batch: from `batch.collate`, on the policy's device.
            entropy_counts: whether the entropy needs a gradient.
        """
        with torch.autocast(batch["ids"].device.type, torch.bfloat16, enabled=self.bf16):
            audio = audio_tokens(self.thinker, batch["samples"], batch) if batch["lengths"] else None
            hidden_SH = hidden_before_sampled(self.thinker, batch, audio)
            return self._scores(hidden_SH, batch["targets"], entropy_counts)

    def _scores(self, hidden_SH: Tensor, targets_S: Tensor, entropy_counts: bool) -> tuple[Tensor, Tensor]:
        """In parts, where the logits of all would not fit."""
        at_once = max(1, _LOGITS // len(self.thinker.allowed))
        parts = list(zip(hidden_SH.split(at_once), targets_S.split(at_once), strict=True))
        if len(parts) > 1 and torch.is_grad_enabled():
            scores = [checkpoint(self._score, *part, entropy_counts, use_reentrant=False) for part in parts]
        else:
            scores = [self._score(*part, entropy_counts) for part in parts]
        logprobs, entropies = zip(*scores, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _score(self, hidden_SH: Tensor, targets_S: Tensor, entropy_counts: bool) -> tuple[Tensor, Tensor]:
        logits_SV = self.thinker.logits(hidden_SH)
        with torch.set_grad_enabled(entropy_counts and torch.is_grad_enabled()):
            spread = entropy(logits_SV)
        return chosen_logprobs(logits_SV, targets_S), spread

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}


def make_policy(settings: GrpoSettings, crew: Crew) -> Policy:
    """The policy as it starts: what learns in float32, adapters attached, shared out where that is wanted."""
    model, train = settings.model, settings.train
    dtype = torch.bfloat16 if model.lora_rank and model.dtype == "bfloat16" else torch.float32
    thinker = Thinker.load(model.source, dtype=dtype)
    thinker.requires_grad_(False)
    if model.lora_rank:
        torch.manual_seed(train.seed)
        adapters.attach(thinker, model.lora_rank, model.lora_alpha)
        adapters.widen(thinker)
    else:
        thinker.decoder.requires_grad_(True)
        thinker.model.lm_head.requires_grad_(True)
        thinker.audio_tower.requires_grad_(not model.freeze_audio)
        thinker.audio_tower.audio_bos_eos_token.requires_grad_(False)  # nothing uses it, and decay would change it
    policy = Policy(thinker.to(crew.device), bf16=train.bf16)
    if train.gradient_checkpointing:
        recompute_activations(thinker)
    if train.shard and crew.size > 1:
        share_out(policy, thinker.decoder.layers, bf16=train.bf16)
    return policy


class Reference:
    """The policy before training, to which the KL is measured.

    Args:
        policy: with adapters it is its own reference, with them switched off.
        settings: of the run; a full training loads the source once more.
    """

    def __init__(self, policy: Policy, settings: GrpoSettings, crew: Crew) -> None:
        self.policy, self.device = policy, crew.device
        self.copy: Policy | None = None
        self.waits_on_cpu = settings.model.reference == "cpu" and not settings.train.shard
        if not settings.model.lora_rank:
            dtype = getattr(torch, settings.model.dtype)
            thinker = Thinker.load(settings.model.source, dtype=dtype).requires_grad_(False)
            self.copy = Policy(thinker if self.waits_on_cpu else thinker.to(crew.device), bf16=settings.train.bf16)
            if settings.train.shard and crew.size > 1:
                share_out(self.copy, thinker.decoder.layers, bf16=settings.train.bf16)

    @contextmanager
    def ready(self) -> Iterator[Policy]:
        """The reference, on the device; off it again afterwards where it waits on the CPU."""
        if self.copy is None:
            with adapters.switched_off(self.policy.thinker):
                yield self.policy
            return
        if self.waits_on_cpu:
            self.copy.to(self.device)
        try:
            yield self.copy
        finally:
            if self.waits_on_cpu:
                self.copy.to("cpu")
