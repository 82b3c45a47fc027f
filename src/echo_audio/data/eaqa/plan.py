"""Which kind of question is asked about which recording, steered so that what is kept has the wanted mix.

Recordings are dealt in blocks. The kinds of a block follow from what was kept of all blocks but the one before it, and from
what was planned for that one: so blocks overlap and nobody waits, yet the same run always makes the same plan, however
often it was stopped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from echo_audio.data.eaqa.prompts import QuestionKind
from echo_audio.errors import ConfigError

BLOCK = 64
"""Recordings in a block."""


def shares(mix: Mapping[str, float], kinds: Mapping[str, QuestionKind]) -> dict[str, float]:
    """The share of each kind, summing to 1.

    Raises:
        ConfigError: the mix names a kind that there is no prompt for, or nothing is left.
    """
    unknown = sorted(set(mix) - set(kinds))
    if unknown:
        raise ConfigError(f"write.mix names {', '.join(unknown)}; kinds.toml has {', '.join(kinds)}")
    weights = {name: max(0.0, mix.get(name, 0.0)) if mix else 1.0 for name in kinds}
    total = sum(weights.values())
    if not total > 0:
        raise ConfigError("write.mix gives no kind a share; give one more than 0, or leave it out")
    return {name: weight / total for name, weight in weights.items() if weight > 0}


def seed_of(*parts: object) -> int:
    """A number of 31 bits that follows from what it is for."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "little") >> 1


class Mix:
    """Deals kinds of question.

    Args:
        kinds: what there is, with the events that each needs.
        mix: wanted share of each; empty for equal shares.
    """

    def __init__(self, kinds: Mapping[str, QuestionKind], mix: Mapping[str, float]) -> None:
        self.kinds, self.shares = kinds, shares(mix, kinds)

    def deal(self, n_events: int, counts: Counter[str], n: int, seed: int) -> list[str]:
        """`n` kinds for a recording, the most wanted first; `counts` goes up by each. Fewer where it has few events."""
        rng = np.random.default_rng(seed)
        possible = [name for name in self.shares if self.kinds[name].events <= n_events]
        dealt: list[str] = []
        for _ in range(n):
            left = [name for name in possible if name not in dealt] or possible
            if not left:
                break
            order = rng.permutation(len(left))
            total = sum(counts.values()) + 1
            lack = [self.shares[left[i]] * total - counts[left[i]] for i in order]
            name = left[int(order[int(np.argmax(lack))])]
            dealt.append(name)
            counts[name] += 1
        return dealt

    def others(self, kind: str, n_events: int, seed: int) -> Sequence[str]:
        """Kinds to ask instead, where the recording turns out to have too few events for this one."""
        rng = np.random.default_rng(seed)
        left = [name for name in self.shares if name != kind and self.kinds[name].events <= n_events]
        return [left[int(i)] for i in rng.permutation(len(left))]
