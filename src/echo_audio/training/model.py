"""The thinker as a model to train: a batch in, a loss out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echo_audio.errors import TrainingError
from echo_audio.models.audio_tower import Features, RunLayer, encode_features, tower_layer
from echo_audio.models.logmel import logmel_padded
from echo_audio.models.qwen2_5_omni import n_frames
from echo_audio.models.thinker import Thinker
from echo_audio.training.batch import padded_clips
from echo_audio.training.mixing import Mixer

SECONDS, TENTHS = 31, 10
"""Classes of the clock: whole seconds of a recording, and tenths."""
_TOKENS_PER_S = 25


class SftModel(nn.Module):
    """Cross entropy on the tokens the transcript marks as sampled, and help for a model that starts from nothing.

    The help are two auxiliary losses on linear heads that are not part of the saved model. Each audio token of the tower
    tells what sounds there (`marks`, binary cross entropy); half-way through the decoder, each audio token of the first
    hearing tells what time it is (cross entropy of seconds and tenths). Text alone teaches both many times more slowly.

    Args:
        thinker: the model; trained in place.
        n_columns: of the auxiliary loss on what sounds; 0 for no auxiliary losses.
        auxiliary_weight: of both losses.
        freeze_audio: train the decoder only, as the paper's first stage does.
        mixer: makes the audio of batches that hold scenes.
    """

    def __init__(
        self,
        thinker: Thinker,
        *,
        n_columns: int = 0,
        auxiliary_weight: float = 0.0,
        freeze_audio: bool = False,
        mixer: Mixer | None = None,
    ) -> None:
        super().__init__()
        self.thinker, self.mixer = thinker, mixer
        self.auxiliary_weight = auxiliary_weight
        width = thinker.decoder.config.hidden_size
        self.head = nn.Linear(width, n_columns) if n_columns else None
        self.clock = nn.Linear(width, SECONDS + TENTHS) if n_columns else None
        if self.head is not None:  # at first nothing sounds anywhere: a trained tower is not torn apart by a new head
            nn.init.normal_(self.head.weight, std=0.002)
            nn.init.constant_(self.head.bias, -4.0)
        self.totals: dict[str, float | Tensor] = {}
        self._run_layer = tower_layer
        self._halfway: list[Tensor] = []
        if n_columns:
            middle = thinker.decoder.layers[len(thinker.decoder.layers) // 2 - 1]
            middle.register_forward_hook(lambda *seen: self._halfway.append(seen[-1]))
        thinker.train()
        thinker.model.get_submodule(_visual_path(thinker)).requires_grad_(False)
        if freeze_audio:
            thinker.audio_tower.requires_grad_(False)

    def compile_layers(self) -> None:
        """Compile every layer, one program for all of a kind and for all shapes; the first batches then take a minute."""
        self._run_layer = torch.compile(tower_layer, dynamic=True)
        for layer in self.thinker.decoder.layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)

    def forward(self, num_items: Tensor | float | None = None, **batch: Any) -> Tensor:
        """The loss of a batch (see `batch.collate`), divided by `num_items` or else by the batch's own weight."""
        audio = self._audio(batch)
        self._halfway.clear()
        logits = self.thinker.logits(hidden_before_sampled(self.thinker, batch, audio))
        losses = F.cross_entropy(logits, batch["targets"], reduction="none")
        divisor = batch["weights"].sum() if num_items is None else num_items
        loss = (losses * batch["weights"]).sum() / divisor
        self._count(batch, logits, losses)
        if audio is not None and self.head is not None:
            loss = loss + self.auxiliary_weight * self._auxiliary(audio, batch) * (batch["weights"].sum() / divisor)
        return loss

    def _audio(self, batch: dict[str, Any]) -> Tensor | None:
        """Audio tokens of all clips, (A, hidden)."""
        if not batch["lengths"]:
            return None
        samples = batch["samples"] if "samples" in batch else self._mixed(batch)
        return audio_tokens(self.thinker, samples, batch, self._run_layer)

    @torch.no_grad()
    def _mixed(self, batch: dict[str, Any]) -> Tensor:
        if self.mixer is None:
            raise TrainingError("the rows are scenes to be mixed; give the model a mixer")
        return self.mixer(batch).view(-1)

    def _auxiliary(self, audio: Tensor, batch: dict[str, Any]) -> Tensor:
        assert self.head is not None and self.clock is not None
        guesses = self.head(audio).float()
        sounds = F.binary_cross_entropy_with_logits(guesses, _painted(batch["marks"], *guesses.shape))
        sounds = sounds * self.head.out_features
        halfway = self._halfway.pop()
        seconds, tenths = self.clock(halfway.reshape(-1, halfway.shape[-1])[batch["clock_at"]]).float().split(
            (SECONDS, TENTHS), dim=-1
        )
        at = batch["clock"]
        second = (at // _TOKENS_PER_S).clamp(max=SECONDS - 1)
        clock = F.cross_entropy(seconds, second)
        clock = clock + F.cross_entropy(tenths, at % _TOKENS_PER_S * TENTHS // _TOKENS_PER_S)
        self.add("sounds_loss", sounds.detach())
        self.add("clock_loss", clock.detach())
        return sounds + clock

    @torch.no_grad()
    def _count(self, batch: dict[str, Any], logits: Tensor, losses: Tensor) -> None:
        right = logits.argmax(-1) == batch["targets"]
        answers = batch["answers"]
        self.add("answer_tokens", answers.sum())
        self.add("answer_tokens_right", (right & answers).sum())
        self.add("tokens_right", right.sum())
        self.add("loss_sum", losses.sum())
        self.add("sampled", float(len(losses)))
        self.add("rows", float(batch["n_rows"]))
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


def audio_tokens(thinker: Thinker, samples: Tensor, batch: dict[str, Any], run_layer: RunLayer = tower_layer) -> Tensor:
    """Audio tokens of all clips of a batch (see `batch.collate`), (A, hidden).

    Args:
        samples: where the clips are cut from, all recordings end to end.
        run_layer: `tower_layer`, perhaps compiled.
    """
    groups: list[Features] = []
    for part in (slice(0, batch["n_long"]), slice(batch["n_long"], None)):
        if lengths := batch["lengths"][part]:
            groups.append(_features(samples, batch["starts"][part], lengths))
    return encode_features(thinker.audio_tower, groups, run_layer)[0]


@torch.no_grad()
def _features(samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> Features:
    with torch.autocast(samples.device.type, enabled=False):
        padded = logmel_padded(padded_clips(samples, starts, lengths))
    return Features(padded, [n_frames(n) for n in lengths])


def hidden_before_sampled(thinker: Thinker, batch: dict[str, Any], audio: Tensor | None) -> Tensor:
    """One forward over whole sequences, audio in place: the states from which each sampled token follows, (S, hidden)."""
    embeds = thinker.embed(batch["ids"])
    if audio is not None:
        flat = embeds.reshape(-1, embeds.shape[-1])
        embeds = flat.index_copy(0, batch["audio_at"], audio.to(flat.dtype)).view_as(embeds)
    positions = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
    hidden = thinker.decode(embeds, positions)
    return hidden.reshape(-1, hidden.shape[-1])[batch["hidden_at"]]


def _painted(marks: Tensor, n_tokens: int, n_columns: int) -> Tensor:
    """What sounds in each audio token, (tokens, columns) of 0 and 1: marks give first token, token behind the last, column."""
    # columns outside while summing: a sum along the outer axis of a GPU tensor is one thread a column, 30 ms a batch
    width = n_tokens + 1
    edges = torch.zeros(n_columns * width, device=marks.device)
    begin, end, column = marks.T
    one = torch.ones(len(marks), device=marks.device)
    edges.index_add_(0, column * width + begin, one)
    edges.index_add_(0, column * width + end, -one)
    return (edges.view(n_columns, width).cumsum(1)[:, :-1] > 0.5).T.float()


def _visual_path(thinker: Thinker) -> str:
    """The unused image tower: it gets no gradient, and must not be decayed."""
    return next(name for name, _ in thinker.model.named_modules() if name.split(".")[-1] == "visual")
