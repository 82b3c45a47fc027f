"""Encoded transcripts -> batches of tensors. Shapes: B rows, T positions, A audio tokens, S sampled tokens.

Right-padded, so that causal attention needs no mask: padding stands behind everything that counts. Audio travels as
16-bit samples; log-mel is computed where the model is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from echo_audio import tags
from echo_audio.listen import Encoded
from echo_audio.models.audio_tower import on_device

WHOLE_S = 3.5
"""Clips up to this length are computed apart from longer ones, so that short crops are not padded to recordings."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready to be batched.

    Args:
        ids: (n,) int64.
        sampled: (n,) bool, the mask of the transcript.
        weights: (n,) float32, of each token in the loss.
        answers: (n,) bool, True on the tokens between the answer tags.
        positions: where each clip's placeholders begin.
        n_tokens: how many each clip has.
        clips: the samples, int16.
        frames: (tokens of the first clip, n_labels) uint8, which labels sound when; None without known events.
    """

    ids: NDArray[np.int64]
    sampled: NDArray[np.bool_]
    weights: NDArray[np.float32]
    answers: NDArray[np.bool_]
    positions: tuple[int, ...]
    n_tokens: tuple[int, ...]
    clips: tuple[NDArray[np.int16], ...]
    frames: NDArray[np.uint8] | None = None


def example_of(
    encoded: Encoded,
    token_bytes: Sequence[bytes],
    *,
    answer_weight: float = 1.0,
    segment_weight: float = 1.0,
    frames: NDArray[np.uint8] | None = None,
) -> Example:
    """An example from an encoded transcript; the tokens of answer and times may weigh more than the others."""
    ids = np.array(encoded.ids, np.int64)
    sampled = np.array(encoded.sampled, bool)
    answers, times = _answers_and_times(encoded, token_bytes)
    weights = np.where(answers, answer_weight, np.where(times, segment_weight, 1.0)).astype(np.float32)
    clips = tuple(_int16(clip.recording.samples) for clip in encoded.clips)
    positions = tuple(clip.position for clip in encoded.clips)
    n_tokens = tuple(clip.n_tokens for clip in encoded.clips)
    return Example(ids, sampled, weights, answers, positions, n_tokens, clips, frames)


_ANSWER = re.compile(re.escape(tags.ANSWER_OPEN.encode()) + b"(.*?)" + re.escape(tags.ANSWER_CLOSE.encode()), re.DOTALL)
_TIMES = re.compile(re.escape(tags.SEG_OPEN.encode()) + b"(.*?)" + re.escape(tags.SEG_CLOSE.encode()), re.DOTALL)


def _answers_and_times(encoded: Encoded, token_bytes: Sequence[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which sampled tokens lie between the answer tags, and which between segment tags; found by their bytes."""
    where = np.flatnonzero(encoded.sampled)
    pieces = [token_bytes[encoded.ids[i]] for i in where]
    text = b"".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces])
    begins = ends - [len(piece) for piece in pieces]
    marks: list[NDArray[np.bool_]] = []
    for pattern in (_ANSWER, _TIMES):
        mark = np.zeros(len(encoded.ids), bool)
        for found in pattern.finditer(text):
            mark[where[(begins >= found.start(1)) & (ends <= found.end(1)) & (begins < ends)]] = True
        marks.append(mark)
    return marks[0], marks[1]


def _int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)


def collate(groups: Sequence[Sequence[Example]]) -> dict[str, Any]:
    """One batch of rows with their companions.

    Returns:
        ids (B, T); hidden_at, targets, weights, answers (S,): flat position before each sampled token, its id, its
        weight, whether it belongs to the answer; audio_at (A,): flat positions of placeholders, clip after clip, long
        clips first; samples: all clips end to end, int16; starts, lengths: of each clip in it, in that order; n_long:
        how many of them are long; frames (tokens, labels) and frames_at: known events and the audio tokens they
        belong to; n_real: tokens that are not padding.
    """
    examples = [example for group in groups for example in group]
    longest = max(len(e.ids) for e in examples)
    ids = np.zeros((len(examples), longest), np.int64)
    hidden_at: list[NDArray[np.int64]] = []
    for b, e in enumerate(examples):
        ids[b, : len(e.ids)] = e.ids
        hidden_at.append(np.flatnonzero(e.sampled) + b * longest - 1)
    batch: dict[str, Any] = {
        "ids": torch.from_numpy(ids),
        "hidden_at": torch.from_numpy(np.concatenate(hidden_at)),
        "targets": torch.from_numpy(np.concatenate([e.ids[e.sampled] for e in examples])),
        "weights": torch.from_numpy(np.concatenate([e.weights[e.sampled] for e in examples])),
        "answers": torch.from_numpy(np.concatenate([e.answers[e.sampled] for e in examples])),
        "n_real": sum(len(e.ids) for e in examples),
    }
    return batch | _audio(examples, longest)


def _audio(examples: Sequence[Example], longest: int) -> dict[str, Any]:
    clips = [
        (len(clip) / 16_000 <= WHOLE_S, b, i, clip) for b, e in enumerate(examples) for i, clip in enumerate(e.clips)
    ]
    if not clips:
        return {"n_long": 0, "starts": [], "lengths": []}
    clips.sort(key=lambda c: c[0])
    lengths = [len(clip) for *_, clip in clips]
    audio_at = [b * longest + examples[b].positions[i] + np.arange(examples[b].n_tokens[i]) for _, b, i, _ in clips]
    before = np.cumsum([0, *(len(at) for at in audio_at)])
    first = {b: before[n] for n, (_, b, i, _) in enumerate(clips) if i == 0}
    known = [(first[b], e.frames) for b, e in enumerate(examples) if e.frames is not None and b in first]
    audio: dict[str, Any] = {
        "audio_at": torch.from_numpy(np.concatenate(audio_at)),
        "samples": torch.from_numpy(np.concatenate([clip for *_, clip in clips])),
        "starts": np.cumsum([0, *lengths[:-1]]).tolist(),
        "lengths": lengths,
        "n_long": sum(not short for short, *_ in clips),
    }
    if known:
        audio["frames"] = torch.from_numpy(np.concatenate([frames for _, frames in known]))
        audio["frames_at"] = torch.from_numpy(np.concatenate([at + np.arange(len(frames)) for at, frames in known]))
    return audio


def padded_clips(samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Cut clips out of one long int16 tensor: float32 (clips, longest), zero behind each end."""
    reach = torch.arange(max(lengths), device=samples.device)
    begin, size = (on_device(values, samples.device)[:, None] for values in (starts, lengths))
    index = (begin + reach).clamp_(max=len(samples) - 1)
    return (samples[index].float() / 32_768) * (reach < size)


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of rows of similar length, as many rows as fit a budget of padded tokens; the same for the same seed.

    Args:
        lengths: tokens of each row.
        budget: padded tokens in a batch.
        seed: of the order.
        epochs: passes over the rows, each in an order of its own; the last may be cut short.
        pool: rows sorted against each other at a time; larger pads less and mixes less.
    """

    def __init__(
        self, lengths: NDArray[np.integer], budget: int, seed: int, epochs: float = 1.0, pool: int = 8192
    ) -> None:
        self.batches: list[list[int]] = []
        rng = np.random.default_rng(seed)
        passes = [rng.permutation(len(lengths)) for _ in range(math.ceil(epochs))]
        order = np.concatenate(passes)[: round(epochs * len(lengths))]
        for begin in range(0, len(order), pool):
            part = order[begin : begin + pool]
            cut = list(_cut(part[np.argsort(lengths[part], kind="stable")], lengths, budget))
            self.batches += [cut[i] for i in rng.permutation(len(cut))]

    def __iter__(self) -> Iterator[list[int]]:
        """The batches, in order."""
        return iter(self.batches)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)


def _cut(rows: NDArray[np.integer], lengths: NDArray[np.integer], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for row in rows.tolist():
        if batch and lengths[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
