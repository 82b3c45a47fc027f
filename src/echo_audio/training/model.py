"""The thinker as a model to train: a batch in, a loss out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_audio.models.audio_tower import Features, encode_features
from echo_audio.models.logmel import logmel_padded
from echo_audio.models.qwen2_5_omni import n_frames
from echo_audio.models.thinker import Thinker
from echo_audio.training.batch import padded_clips


class SftModel(nn.Module):
    """Cross entropy on the tokens the transcript marks as sampled.

    Args:
        thinker: the model; trained in place.
        n_labels: labels of the auxiliary loss; 0 for none. It asks each audio token of a recording which known events
            sound there (binary cross entropy on a linear head that is not part of the saved model): it teaches a tower
            that starts from random weights what and when, many times faster than the text does.
        auxiliary_weight: of that loss.
        freeze_audio: train the decoder only, as the paper's first stage does.
    """

    def __init__(
        self, thinker: Thinker, *, n_labels: int = 0, auxiliary_weight: float = 0.0, freeze_audio: bool = False
    ) -> None:
        super().__init__()
        self.thinker = thinker
        self.auxiliary_weight = auxiliary_weight
        self.head = nn.Linear(thinker.decoder.config.hidden_size, n_labels) if n_labels else None
        self.totals: dict[str, float | Tensor] = {}
        thinker.train()
        thinker.model.get_submodule(_visual_path(thinker)).requires_grad_(False)
        if freeze_audio:
            thinker.audio_tower.requires_grad_(False)

    def forward(self, num_items: Tensor | float | None = None, **batch: Any) -> Tensor:
        """The loss of a batch (see `batch.collate`), divided by `num_items` or else by the batch's own weight."""
        embeds = self.thinker.embed(batch["ids"])
        audio = self._audio(batch)
        if audio is not None:
            flat = embeds.reshape(-1, embeds.shape[-1])
            embeds = flat.index_copy(0, batch["audio_at"], audio.to(flat.dtype)).view_as(embeds)
        positions = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
        hidden = self.thinker.decode(embeds, positions)
        chosen = hidden.reshape(-1, hidden.shape[-1])[batch["hidden_at"]]
        logits = self.thinker.logits(chosen)
        losses = F.cross_entropy(logits, batch["targets"], reduction="none")
        divisor = batch["weights"].sum() if num_items is None else num_items
        loss = (losses * batch["weights"]).sum() / divisor
        self._count(batch, logits, losses)
        if self.head is not None and audio is not None and "frames" in batch:
            loss = loss + self.auxiliary_weight * self._auxiliary(audio, batch) * (batch["weights"].sum() / divisor)
        return loss

    def _audio(self, batch: dict[str, Any]) -> Tensor | None:
        """Audio tokens of all clips, (A, hidden)."""
        if not batch["lengths"]:
            return None
        groups: list[Features] = []
        for part in (slice(0, batch["n_long"]), slice(batch["n_long"], None)):
            if lengths := batch["lengths"][part]:
                groups.append(self._features(batch["samples"], batch["starts"][part], lengths))
        return encode_features(self.thinker.audio_tower, groups)[0]

    @torch.no_grad()
    def _features(self, samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> Features:
        with torch.autocast(samples.device.type, enabled=False):
            padded = logmel_padded(padded_clips(samples, starts, lengths))
        return Features(padded, [n_frames(n) for n in lengths])

    def _auxiliary(self, audio: Tensor, batch: dict[str, Any]) -> Tensor:
        assert self.head is not None
        guesses = self.head(audio[batch["frames_at"]]).float()
        loss = F.binary_cross_entropy_with_logits(guesses, batch["frames"].float())
        self.add("auxiliary", loss.detach())
        return loss * self.head.out_features

    @torch.no_grad()
    def _count(self, batch: dict[str, Any], logits: Tensor, losses: Tensor) -> None:
        right = logits.argmax(-1) == batch["targets"]
        answers = batch["answers"]
        self.add("answer_tokens", answers.sum())
        self.add("answer_tokens_right", (right & answers).sum())
        self.add("tokens_right", right.sum())
        self.add("loss_sum", losses.sum())
        self.add("sampled", float(len(losses)))
        self.add("rows", float(len(batch["ids"])))
        self.add("padded", float(batch["ids"].numel()))
        self.add("real", float(batch["n_real"]))
        self.add("audio_s", sum(batch["lengths"]) / 16_000)
        self.add("batches", 1.0)

    def add(self, name: str, value: float | Tensor) -> None:
        """Count something until the next `drain`."""
        self.totals[name] = self.totals.get(name, 0.0) + value

    def drain(self) -> dict[str, float]:
        """What was counted since the last call; this is where the device is waited for."""
        totals = {name: float(value) for name, value in self.totals.items()}
        self.totals = {}
        return totals


def _visual_path(thinker: Thinker) -> str:
    """The unused image tower: it gets no gradient, and must not be decayed."""
    return next(name for name, _ in thinker.model.named_modules() if name.split(".")[-1] == "visual")
