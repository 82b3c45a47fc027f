"""Audio tokens of clips that were encoded before, by content: no clip is encoded twice while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from torch import Tensor

from echo_audio.audio import Recording
from echo_audio.models.logmel import logmel
from echo_audio.models.thinker import Thinker

BATCH_S = 240.0
"""Seconds of audio that are run through the tower at once; a longer clip goes alone."""


class ClipCache:
    """The audio tower with a memory; of the clips in it, the one not used for longest goes first.

    Args:
        thinker: the model.
        max_tokens: audio tokens kept, over all clips; one is kept in any case.
    """

    def __init__(self, thinker: Thinker, max_tokens: int) -> None:
        self.thinker, self.max_tokens = thinker, max_tokens
        self.n_encoded = self.n_reused = self.n_tokens = 0
        self._tokens: OrderedDict[str, Tensor] = OrderedDict()

    def tokens(self, clips: Iterable[Recording]) -> dict[str, Tensor]:
        """Audio tokens (n_tokens, hidden) of clips, by id. The new ones are encoded together."""
        asked = list(clips)
        wanted = {clip.id: clip for clip in asked}
        new = [clip for clip in wanted.values() if clip.id not in self._tokens]
        self.n_reused += len(asked) - len(new)
        for batch in _batches(new):
            self._encode(batch)
        for name in wanted:
            self._tokens.move_to_end(name)
        found = {name: self._tokens[name] for name in wanted}
        while self.n_tokens > self.max_tokens and len(self._tokens) > 1:
            self.n_tokens -= len(self._tokens.popitem(last=False)[1])
        return found

    def _encode(self, clips: list[Recording]) -> None:
        features = logmel([clip.samples for clip in clips], self.thinker.device)
        for clip, tokens in zip(clips, self.thinker.encode_features(features), strict=True):
            self._tokens[clip.id] = tokens.clone()  # a view would keep the tokens of the whole batch
            self.n_tokens += len(tokens)
        self.n_encoded += len(clips)

    def clear(self) -> None:
        """Forget all clips."""
        self._tokens.clear()
        self.n_tokens = 0


def _batches(clips: list[Recording]) -> Iterator[list[Recording]]:
    """Clips of like length together, so that little is padding."""
    batch: list[Recording] = []
    for clip in sorted(clips, key=lambda c: c.n_samples):
        if batch and (len(batch) + 1) * clip.duration_s > BATCH_S:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch
