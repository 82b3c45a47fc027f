"""From rewarded rollouts to a changed policy: micro-batches, log-probabilities, gradients, one optimiser step a mini-batch.

Shapes: S sampled tokens of a micro-batch. Every rollout is forwarded whole, its audio in place (paper: x', section 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from echo_audio.errors import TrainingError
from echo_audio.training.batch import Example, collate, example_of
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.losses import Diagnostics, Step, Tokens, policy_loss
from echo_audio.training.parallel import Crew
from echo_audio.training.policy import Policy, Reference
from echo_audio.training.rollouts import Key, Rollout


@dataclass
class Learned:
    """A rollout as the update sees it. Tensors are float32 on the CPU, one number for each sampled token.

    Args:
        example: ready to be batched.
        advantage: of the whole transcript.
        engine: log-probabilities by the engine.
        key: its name in the step.
        old: by the trainer before the step's updates; None where the step has one update only.
        reference: by the reference; None without KL.
        failed: by the trainer in an update that was not finite; None before there is one.
    """

    example: Example
    advantage: float
    engine: Tensor
    key: Key
    old: Tensor | None = None
    reference: Tensor | None = None
    failed: Tensor | None = None

    def blame(self) -> str:
        """Its first sampled token whose log-probability in the failed update is not finite; empty where all are."""
        if self.failed is None or bool(self.failed.isfinite().all()):
            return ""
        at = int((~self.failed.isfinite()).nonzero()[0])
        token, value = int(self.example.ids[self.example.sampled][at]), float(self.failed[at])
        name = f"slot {self.key.slot}, attempt {self.key.attempt}, number {self.key.number}"
        return f"{name} (sampled token {at} of {len(self.failed)}, id {token}: {value})"


def learned(rollout: Rollout, advantage: float, token_bytes: Sequence[bytes]) -> Learned:
    """A rollout and its advantage, ready for the update."""
    encoded = rollout.encoded
    engine = torch.tensor([p for p, s in zip(encoded.logprobs, encoded.sampled, strict=True) if s])
    return Learned(example_of(encoded, token_bytes), advantage, engine, rollout.key)


def micro_batches(items: Sequence[Learned], budget: int) -> list[list[Learned]]:
    """Cut into forwards of at most `budget` positions, padding included; a longer transcript goes alone."""
    return [[items[i] for i in part] for part in micro_batches_of([len(item.example.ids) for item in items], budget)]


def micro_batches_of(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The same for rows of these lengths: their indices, short ones first."""
    parts: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if parts and lengths[i] * (len(parts[-1]) + 1) <= budget:  # none before it is longer
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one update says.

    Args:
        loss: of all processes.
        grad_norm: before clipping.
        learning_rate: of this update.
        seen: sums over this process's tokens, to log.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    seen: Diagnostics


class Updater:
    """Changes the policy.

    Args:
        policy: what learns.
        reference: to measure the KL to; None where it has no weight.
        settings: of the run.
        crew: the processes; each updates on its own rollouts, and gradients are summed.
    """

    def __init__(self, policy: Policy, reference: Reference | None, settings: GrpoSettings, crew: Crew) -> None:
        self.policy, self.reference, self.settings, self.crew = policy, reference, settings, crew
        self.parameters = list(policy.trained().values())
        train = settings.train
        self.optimiser = AdamW(self.parameters, lr=train.learning_rate, weight_decay=train.weight_decay)
        self.n_updates = 0
        self.share_of_time = 0.0
        """How much of the time was gone when this step began; a cosine has come down when all is."""

    # ------------------------------------------------------------------------------------------ log-probabilities

    @torch.no_grad()
    def score(self, items: Sequence[Learned]) -> None:
        """Fill in `old`, where the step has several updates, and `reference`, where the KL has a weight."""
        if self.settings.n_updates > 1:
            self._fill(self.policy, self._teaching(items), "old")
        if self.reference is not None:
            with self.reference.ready() as reference:
                self._fill(reference, items, "reference")

    def _teaching(self, items: Sequence[Learned]) -> Sequence[Learned]:
        """Those that move the policy: without KL and entropy, the transcripts of a group without variance do not.

        They count in every mean all the same, and need no forward. At least one, for each process must do some.
        """
        loss = self.settings.loss
        if loss.kl_weight or loss.entropy_weight:
            return items
        return [item for item in items if item.advantage] or items[:1]

    def _fill(self, policy: Policy, items: Sequence[Learned], name: str) -> None:
        policy.eval()
        for part, _ in self._parts(items):
            logprobs, _ = policy(self._batch(part))
            sizes = [len(item.engine) for item in part]
            for item, values in zip(part, logprobs.float().cpu().split(sizes), strict=True):
                setattr(item, name, values)

    def _parts(self, items: Sequence[Learned]) -> Iterator[tuple[list[Learned], bool]]:
        """Micro-batches, and whether each counts: with shared weights all processes must forward equally often."""
        parts = micro_batches(items, self.settings.train.batch_tokens)
        n = int(self.crew.most(len(parts)))
        for i in range(n):
            yield parts[i % len(parts)], i < len(parts)

    def _batch(self, part: Sequence[Learned]) -> dict[str, Any]:
        batch = collate([item.example for item in part])
        return {name: v.to(self.crew.device) if isinstance(v, Tensor) else v for name, v in batch.items()}

    # ------------------------------------------------------------------------------------------ updates

    def update(self, groups: Sequence[Sequence[Learned]], step: int) -> list[Outcome]:
        """All updates of a step.

        Args:
            groups: this process's rollouts, by prompt.
            step: number of the step, which the order of mini-batches follows from.

        Raises:
            TrainingError: a loss or a gradient is not finite; the policy is as it was before that update.
        """
        train, outcomes = self.settings.train, list[Outcome]()
        n_parts = self.settings.n_updates // train.epochs
        for epoch in range(train.epochs):
            order = np.random.default_rng([train.seed, 20, step, epoch]).permutation(len(groups))
            for part in np.array_split(order, n_parts):
                items = [item for i in part for item in groups[int(i)]]
                outcomes.append(self._update(items))
        return outcomes

    def _update(self, items: Sequence[Learned]) -> Outcome:
        loss, seen = self.accumulate(items)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.train.max_grad_norm)
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self.optimiser.zero_grad(set_to_none=True)
            failure = f"the loss of an update is {loss} and its gradient has the norm {grad_norm}"
            raise TrainingError(f"{failure}; {self._blame(self._teaching(items))}")
        rate = self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.n_updates += 1
        return Outcome(loss, grad_norm, rate, seen)

    @torch.no_grad()
    def _blame(self, items: Sequence[Learned]) -> str:
        """Fill in `failed`, by one more forward, and say which transcript is to blame, whoever of the processes has it."""
        self._fill(self.policy, items, "failed")
        said = [blame for some in self.crew.gathered([item.blame() for item in items]) for blame in some]
        blamed = [blame for blame in said if blame]
        if not blamed:
            return "every log-probability of it is finite, so it comes from the loss or from the way back"
        return f"a log-probability is not finite in {len(blamed)} of {len(said)} transcripts, the first of them {blamed[0]}"

    def _rate(self) -> float:
        """The learning rate of the coming update."""
        train = self.settings.train
        if self.n_updates < train.warmup_steps:
            return train.learning_rate * (self.n_updates + 1) / train.warmup_steps
        if train.decay == "constant":
            return train.learning_rate
        last = train.steps * self.settings.n_updates
        share = max((self.n_updates - train.warmup_steps) / max(1, last - train.warmup_steps), self.share_of_time)
        return train.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    def accumulate(self, items: Sequence[Learned]) -> tuple[float, Diagnostics]:
        """Gradients of one update, over all micro-batches and processes.

        Returns:
            The loss of the whole update, and what to log of this process's part.
        """
        self.policy.train()
        n_rows, n_tokens = self.crew.total([len(items), sum(len(item.engine) for item in items)])
        size = Step(int(n_rows), max(1, int(n_tokens)))
        loss_sum, seen = 0.0, None
        for part, counts in self._parts(self._teaching(items)):
            loss, some = self._loss(part, size)
            (loss if counts else loss * 0.0).backward()
            if counts:
                loss_sum, seen = loss_sum + loss.item(), some if seen is None else seen + some
        self.crew.add_up_gradients(self.parameters)
        assert seen is not None
        return self.crew.total([loss_sum])[0], seen

    def _loss(self, part: Sequence[Learned], size: Step) -> tuple[Tensor, Diagnostics]:
        batch, device = self._batch(part), self.crew.device
        logprobs, entropies = self.policy(batch, entropy_counts=self.settings.loss.entropy_weight != 0)
        advantages = torch.tensor([item.advantage for item in part], device=device)
        tokens = Tokens(
            logprobs=logprobs,
            advantages=advantages[batch["rows"]],
            rows=batch["rows"],
            old=_joined([item.old for item in part], device),
            engine=_joined([item.engine for item in part], device),
            reference=_joined([item.reference for item in part], device),
            entropy=entropies,
        )
        return policy_loss(tokens, size, self.settings.loss)


def _joined(values: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """The tensors of all rows end to end; None where they are not known."""
    known = [value for value in values if value is not None]
    return torch.cat(known).to(device) if len(known) == len(values) else None
