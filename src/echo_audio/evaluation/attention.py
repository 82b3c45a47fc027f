"""How much attention falls on audio while a reasoning is written: on the first hearing, and on what was heard again.

Each saved transcript goes through the model once, teacher-forced, so that nothing is sampled and every number can be had again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from echo_audio.encoding import TranscriptEncoder
from echo_audio.errors import DataError
from echo_audio.evaluation import statistics
from echo_audio.evaluation.base import Item
from echo_audio.evaluation.run import Hear, heard_recording
from echo_audio.listen import Encoded
from echo_audio.models.attention import attention_mass
from echo_audio.models.thinker import Thinker
from echo_audio.transcript import Heard, Played, Transcript, Why

PARTS = ("first", "again")
"""The first hearing, and what was heard again: columns 0 and 1 of every array here."""
N_BINS = 10

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Masses:
    """Attention on audio in one transcript, mean over the heads, at the moment each of its T tokens was chosen.

    Args:
        by_token: (T, 2), mean over the layers; 0 to 1.
        by_layer: (n_layers, 2), mean over the tokens.
        uniform: (T, 2), what attention without any preference would put there: the share of the visible positions.
        after: (T,), whether a segment had been heard again by then.
    """

    by_token: Array
    by_layer: Array
    uniform: Array
    after: NDArray[np.bool_]


def audio_positions(transcript: Transcript, encoded: Encoded) -> Array:
    """(n, 2), 1 where a position holds audio of the first hearing, and of what was heard again."""
    heard = [span.why for span in transcript.spans if isinstance(span, Heard) and span.played is not Played.WITHHELD]
    out = np.zeros((len(encoded.ids), len(PARTS)))
    for why, clip in zip(heard, encoded.clips, strict=True):
        out[clip.position : clip.position + clip.n_tokens, int(why is Why.ASKED)] = 1
    return out


def masses_of(thinker: Thinker, transcript: Transcript, encoded: Encoded) -> Masses | None:
    """Attention on audio in one transcript; None where the model wrote nothing.

    A token is chosen at the position before it: that query's attention is the token's.
    """
    queries = np.flatnonzero(encoded.sampled) - 1
    if not len(queries):
        return None
    groups_NG = audio_positions(transcript, encoded)
    mass_LNG = attention_mass(thinker, encoded, torch.from_numpy(groups_NG)).double().numpy()[:, queries]
    seen_NG = groups_NG.cumsum(0)[queries]
    return Masses(mass_LNG.mean(0), mass_LNG.mean(1), seen_NG / (queries[:, None] + 1), seen_NG[:, 1] > 0)


def encoder_of(thinker: Thinker, item: Item, hear: Hear) -> TranscriptEncoder:
    """What encodes a transcript about an item as it was encoded when it was asked."""
    return TranscriptEncoder(thinker.family, heard_recording(item, hear), item.other)


class Tally:
    """Gathers transcripts one by one; its memory does not grow with their length."""

    def __init__(self) -> None:
        self.rows: list[tuple[Array, Array | None]] = []
        self.by_layer: list[Array] = []
        self.uniform: list[Array] = []
        self.tenths = np.zeros((N_BINS, 2 * len(PARTS)))
        self.counts = np.zeros(N_BINS, int)

    def add(self, masses: Masses) -> None:
        """One transcript more."""
        after = masses.by_token[masses.after].mean(0) if masses.after.any() else None
        self.rows.append((masses.by_token.mean(0), after))
        self.by_layer.append(masses.by_layer)
        self.uniform.append(masses.uniform.mean(0))
        tenth = np.arange(len(masses.by_token)) * N_BINS // len(masses.by_token)
        np.add.at(self.tenths, tenth, np.hstack([masses.by_token, masses.uniform]))
        np.add.at(self.counts, tenth, 1)

    def to_json(self) -> dict[str, Any]:
        """All numbers. Means are over transcripts, of the mean over a transcript's tokens; tenths are over all tokens.

        Raises:
            DataError: there was no transcript.
        """
        if not self.rows:
            raise DataError("no transcript of this run has tokens that a model sampled; evaluate some questions first")
        after = [row for _, row in self.rows if row is not None]
        tenths = self.tenths / np.maximum(1, self.counts)[:, None]
        return {
            "n": len(self.rows),
            "n_tokens": int(self.counts.sum()),
            **_parts([row for row, _ in self.rows]),
            "after_listening_again": _parts(after) if after else None,
            "uniform": _rounded(dict(zip(PARTS, np.mean(self.uniform, 0), strict=True))),
            "by_tenth": _rounded({name: tenths[:, i] for i, name in enumerate(PARTS)})
            | {"uniform": _rounded({name: tenths[:, i + len(PARTS)] for i, name in enumerate(PARTS)})},
            "by_layer": _rounded({name: np.mean(self.by_layer, 0)[:, i] for i, name in enumerate(PARTS)}),
        }


def _parts(rows: Sequence[Array]) -> dict[str, Any]:
    """Both parts and their sum, with intervals over transcripts."""
    out = {name: statistics.mean([float(row[i]) for row in rows]) for i, name in enumerate(PARTS)}
    out["audio"] = statistics.mean([float(row.sum()) for row in rows])
    return {name: estimate.to_json() for name, estimate in out.items()}


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: np.round(value, 4).tolist() for name, value in values.items()}


def tally(thinker: Thinker, asked: Iterable[tuple[Transcript, Item]], hear: Hear = Hear.RECORDING) -> Tally:
    """Every transcript through the model, one at a time.

    Args:
        asked: transcripts with the item each is about.
        hear: what stood in place of the recordings.
    """
    out = Tally()
    for transcript, item in asked:
        masses = masses_of(thinker, transcript, encoder_of(thinker, item, hear).encode(transcript))
        if masses is not None:
            out.add(masses)
    return out
