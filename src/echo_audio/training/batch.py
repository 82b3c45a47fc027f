"""Encoded transcripts -> batches of tensors. Shapes: B rows, T positions, A audio tokens, S sampled tokens.

Right-padded, so that causal attention needs no mask: padding stands behind everything that counts. Audio travels as
16-bit samples, or as scenes to be mixed where the model is; log-mel is computed there too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo_audio import tags
from echo_audio.audio import Recording
from echo_audio.data.wording import NUMBERS, ORDINALS, TIMBRES
from echo_audio.listen import Encoded
from echo_audio.models.audio_tower import on_device
from echo_audio.training.mixing import SceneMix, collate_mixes, silence

WHOLE_S = 3.5
"""Clips up to this length are computed apart from longer ones, so that short crops are not padded to recordings."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Audio as samples: int16, one array a clip."""

    clips: tuple[NDArray[np.int16], ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip of a scene: samples `start` to `start + n_samples` of scene number `scene`; None is silence."""

    scene: int | None
    start: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class Mixed:
    """Audio as scenes to be mixed, and the clips cut from them."""

    scenes: tuple[SceneMix, ...]
    cuts: tuple[Cut, ...]


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
        audio: of the clips.
        marks: (n_marks, 4) int64: clip, first token, token behind the last, and what is heard there (a column of the
            auxiliary loss).
    """

    ids: NDArray[np.int64]
    sampled: NDArray[np.bool_]
    weights: NDArray[np.float32]
    answers: NDArray[np.bool_]
    positions: tuple[int, ...]
    n_tokens: tuple[int, ...]
    audio: Stored | Mixed
    marks: NDArray[np.int64]


def example_of(
    encoded: Encoded,
    token_bytes: Sequence[bytes],
    *,
    answer_weight: float = 1.0,
    segment_weight: float = 1.0,
    words: Sequence[tuple[re.Pattern[bytes], float]] = (),
    audio: Mixed | None = None,
    marks: Sequence[tuple[int, int, int, int]] = (),
) -> Example:
    """An example from an encoded transcript; tokens of answer, times and deciding words may weigh more than the others.

    Args:
        words: what finds words that weigh more, and how much; the later ones win, and answer and times win over them.
        audio: of its clips, where the transcript was encoded without any.
    """
    ids = np.array(encoded.ids, np.int64)
    sampled = np.array(encoded.sampled, bool)
    weighed = (*words, (_TIMES, segment_weight), (_ANSWER, answer_weight))
    found = _found(encoded, token_bytes, [pattern for pattern, _ in weighed])
    weights = np.ones(len(ids))
    for marked, (_, weight) in zip(found, weighed, strict=True):
        weights[marked] = weight
    return Example(
        ids=ids,
        sampled=sampled,
        weights=weights.astype(np.float32),
        answers=found[-1],
        positions=tuple(clip.position for clip in encoded.clips),
        n_tokens=tuple(clip.n_tokens for clip in encoded.clips),
        audio=audio or Stored(tuple(_int16(clip.recording) for clip in encoded.clips)),
        marks=np.array(marks, np.int64).reshape(-1, 4),
    )


_ANSWER = re.compile(re.escape(tags.ANSWER_OPEN.encode()) + b"(.*?)" + re.escape(tags.ANSWER_CLOSE.encode()), re.DOTALL)
_TIMES = re.compile(re.escape(tags.SEG_OPEN.encode()) + b"(.*?)" + re.escape(tags.SEG_CLOSE.encode()), re.DOTALL)


def _found(
    encoded: Encoded, token_bytes: Sequence[bytes], patterns: Sequence[re.Pattern[bytes]]
) -> list[NDArray[np.bool_]]:
    """For each pattern the sampled tokens that lie inside its first group, wherever it is found in what was sampled."""
    where = np.flatnonzero(encoded.sampled)
    pieces = [token_bytes[encoded.ids[i]] for i in where]
    text = b"".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces])
    begins = ends - [len(piece) for piece in pieces]
    found = [np.zeros(len(encoded.ids), bool) for _ in patterns]
    for marked, pattern in zip(found, patterns, strict=True):
        for match in pattern.finditer(text):
            first, last = np.searchsorted(ends, match.start(1), "right"), np.searchsorted(begins, match.end(1), "left")
            inside = slice(first, last)
            marked[where[inside]] = (begins[inside] >= match.start(1)) & (ends[inside] <= match.end(1))
    return found


def decisive_words(labels: Sequence[str]) -> re.Pattern[bytes]:
    """Finds what a reasoning decides: names of sounds, numbers and qualities, each with the space before it."""
    words = {label.removeprefix("the ") for label in labels} | set(NUMBERS) | set(ORDINALS) | set(TIMBRES) | set(_QUALITIES)
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"((?: |(?<![a-z]))(?:{'|'.join(map(re.escape, longest_first))}|\d))(?![a-z])".encode())


VERDICT_WORDS = re.compile(rb", (?:against|beside) [^:]{1,12}:((?: [a-z]+)+)")
"""Finds the judgement behind two values (`wording.VERDICTS`): few of a reasoning's words, and the hardest to learn."""
COUNTED = re.compile(b"At [0-9.]+ s the [a-z ]+?( " + re.escape(tags.SEG_OPEN.encode()) + b"|[:,])")
"""Finds what says whether the event just named is the one that is counted: a segment, or that it is not."""

_QUALITIES = (
    "steady", "speeding up", "slowing down", "shorter", "longer", "equal", "evenly", "faster", "slower", "closest",
    "same", "different", "louder", "softer", "higher", "lower", "earlier", "later", "before", "after",
)  # fmt: skip


@functools.lru_cache(maxsize=16)
def _int16(recording: Recording) -> NDArray[np.int16]:
    """The transcripts of a group follow each other, and hear the same."""
    return np.clip(np.rint(recording.samples * 32_768), -32_768, 32_767).astype(np.int16)


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """One batch.

    Returns:
        ids (B, T); hidden_at, rows, targets, weights, answers (S,): flat position before each sampled token, its row,
        its id, its weight, whether it belongs to the answer; n_real: tokens that are not padding; n_rows. With audio also
        audio_at (A,): flat positions of placeholders, clip after clip, long clips first; lengths of the clips in that
        order, n_long: how many of them are long; marks (n_marks, 3): first audio token, token behind the last, column;
        clock_at, clock: flat positions of the first hearing's placeholders, and the how-manieth each is in its
        recording. And the samples: `samples`, all clips end to end, int16, or the scenes of `collate_mixes`; starts:
        of each clip in them.
    """
    longest = max(len(e.ids) for e in examples)
    ids = np.zeros((len(examples), longest), np.int64)
    hidden_at: list[NDArray[np.int64]] = []
    rows: list[NDArray[np.int64]] = []
    for b, e in enumerate(examples):
        ids[b, : len(e.ids)] = e.ids
        hidden_at.append(np.flatnonzero(e.sampled) + b * longest - 1)
        rows.append(np.full(int(e.sampled.sum()), b))
    batch: dict[str, Any] = {
        "ids": torch.from_numpy(ids),
        "hidden_at": torch.from_numpy(np.concatenate(hidden_at)),
        "rows": torch.from_numpy(np.concatenate(rows)),
        "targets": torch.from_numpy(np.concatenate([e.ids[e.sampled] for e in examples])),
        "weights": torch.from_numpy(np.concatenate([e.weights[e.sampled] for e in examples])),
        "answers": torch.from_numpy(np.concatenate([e.answers[e.sampled] for e in examples])),
        "n_real": sum(len(e.ids) for e in examples),
        "n_rows": len(examples),
    }
    return batch | _audio(examples, longest)


def _audio(examples: Sequence[Example], longest: int) -> dict[str, Any]:
    """Clips, long ones first; `order` holds (row, clip) of each."""
    samples, starts, lengths = _samples(examples)
    order = sorted(lengths, key=lambda clip: lengths[clip] / 16_000 <= WHOLE_S)
    if not order:
        return {"n_long": 0, "starts": [], "lengths": []}
    counts = [examples[b].n_tokens[i] for b, i in order]
    before = dict(zip(order, np.cumsum([0, *counts[:-1]]).tolist(), strict=True))
    audio_at = [b * longest + examples[b].positions[i] + np.arange(n) for (b, i), n in zip(order, counts, strict=True)]
    n_long = sum(lengths[clip] / 16_000 > WHOLE_S for clip in order)
    whole = [at for at, (_, i) in zip(audio_at, order, strict=True) if i == 0]
    return samples | {
        "audio_at": torch.from_numpy(np.concatenate(audio_at)),
        "starts": [starts[clip] for clip in order],
        "lengths": [lengths[clip] for clip in order],
        "n_long": n_long,
        "clock_at": torch.from_numpy(np.concatenate(whole)),
        "clock": torch.from_numpy(np.concatenate([np.arange(len(at)) for at in whole])),
        "marks": torch.from_numpy(_marks(examples, before)),
    }


def _marks(examples: Sequence[Example], before: dict[tuple[int, int], int]) -> NDArray[np.int64]:
    """The marks of all rows, counted in audio tokens of the batch."""
    out: list[NDArray[np.int64]] = []
    for b, e in enumerate(examples):
        begin = np.array([before[b, int(i)] for i in e.marks[:, 0]], np.int64)
        out.append(np.stack([e.marks[:, 1] + begin, e.marks[:, 2] + begin, e.marks[:, 3]], axis=1))
    return np.concatenate(out)


Clips = dict[tuple[int, int], int]


def _samples(examples: Sequence[Example]) -> tuple[dict[str, Any], Clips, Clips]:
    """The audio of a batch, and start and length of every (row, clip) in it.

    Raises:
        TypeError: rows with samples and rows to be mixed in one batch.
    """
    starts: Clips = {}
    lengths: Clips = {}
    stored: list[NDArray[np.int16]] = []
    scenes: dict[int, tuple[int, SceneMix]] = {}
    cuts: dict[tuple[int, int], tuple[SceneMix, Cut]] = {}
    at = 0
    for b, e in enumerate(examples):
        if isinstance(e.audio, Stored):
            for i, clip in enumerate(e.audio.clips):
                starts[b, i], lengths[b, i] = at, len(clip)
                at += len(clip)
                stored.append(clip)
        else:
            for i, cut in enumerate(e.audio.cuts):
                scene = silence() if cut.scene is None else e.audio.scenes[cut.scene]
                scenes.setdefault(id(scene), (len(scenes), scene))
                cuts[b, i], lengths[b, i] = (scene, cut), cut.n_samples
    if stored and cuts:
        raise TypeError("a batch holds either stored audio or scenes to be mixed")
    if not cuts:
        return ({"samples": torch.from_numpy(np.concatenate(stored))} if stored else {}), starts, lengths
    mixed = collate_mixes([scene for _, scene in scenes.values()])
    for clip, (scene, cut) in cuts.items():
        starts[clip] = scenes[id(scene)][0] * mixed["mix_longest"] + cut.start
    return mixed, starts, lengths


def padded_clips(samples: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Cut clips out of one long tensor: float32 (clips, longest), zero behind each end. int16 is brought to 1.0."""
    reach = torch.arange(max(lengths), device=samples.device)
    begin, size = (on_device(values, samples.device)[:, None] for values in (starts, lengths))
    cut = samples[(begin + reach).clamp_(max=len(samples) - 1)]
    cut = cut.float() / 32_768 if cut.dtype == torch.int16 else cut
    return cut * (reach < size)
