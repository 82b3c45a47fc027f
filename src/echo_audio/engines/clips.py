"""Audio tokens of clips that were encoded before, by content: no clip is encoded twice while there is room."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from echo_audio.audio import Recording
from echo_audio.models.logmel import logmel
from echo_audio.models.thinker import Thinker


class ClipCache:
    """The audio tower with a memory; of the clips in it, the one not used for longest goes first.

    Args:
        thinker: the model.
        max_tokens: audio tokens kept, over all clips; the clip just encoded is kept in any case.
    """

    def __init__(self, thinker: Thinker, max_tokens: int) -> None:
        self.thinker, self.max_tokens = thinker, max_tokens
        self.n_encoded = self.n_reused = self.n_tokens = 0
        self._tokens: OrderedDict[str, Tensor] = OrderedDict()

    def tokens(self, clip: Recording) -> Tensor:
        """Audio tokens (n_tokens, hidden) of a clip."""
        if clip.id in self._tokens:
            self._tokens.move_to_end(clip.id)
            self.n_reused += 1
            return self._tokens[clip.id]
        tokens = self.thinker.encode_features(logmel([clip.samples], self.thinker.device))[0]
        self.n_encoded += 1
        self.n_tokens += len(tokens)
        self._tokens[clip.id] = tokens
        while self.n_tokens > self.max_tokens and len(self._tokens) > 1:
            self.n_tokens -= len(self._tokens.popitem(last=False)[1])
        return tokens

    def clear(self) -> None:
        """Forget all clips."""
        self._tokens.clear()
        self.n_tokens = 0
