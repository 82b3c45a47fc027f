"""Can the answer be told by its place or its length? Checked over all rows of a run, for each number of choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from echo_audio.data.rows import Row

_LOUD = 4.0
"""Standard deviations from chance that are worth a word."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Rows with the same number of choices.

    Args:
        n_choices, n_rows: of these rows.
        places: share of rows whose answer is the first, the second, ... choice.
        longest: share of rows whose answer is a longest choice; by_chance: what guessing would give.
    """

    n_choices: int
    n_rows: int
    places: tuple[float, ...]
    longest: float
    by_chance: float

    def remarks(self) -> Iterator[str]:
        """What is out of balance, in words."""
        for place, share in enumerate(self.places, 1):
            if _far(share, 1 / self.n_choices, self.n_rows):
                yield f"of rows with {self.n_choices} choices, {100 * share:.0f} % have their answer in place {place}"
        if _far(self.longest, self.by_chance, self.n_rows):
            yield (
                f"of rows with {self.n_choices} choices, {100 * self.longest:.0f} % have a longest choice as their answer, where "
                f"chance gives {100 * self.by_chance:.0f} %"
            )


def _far(share: float, chance: float, n: int) -> bool:
    return abs(share - chance) > _LOUD * math.sqrt(max(chance * (1 - chance), 1e-9) / n)


def balances(rows: Sequence[Row]) -> list[Balance]:
    """One for each number of choices; rows with a free answer are left out."""
    closed = [row for row in rows if row.answer in row.choices]
    found: list[Balance] = []
    for n in sorted({len(row.choices) for row in closed}):
        some = [row for row in closed if len(row.choices) == n]
        counts = Counter(row.choices.index(row.answer) for row in some)
        places = tuple(counts[i] / len(some) for i in range(n))
        longest = sum(len(row.answer) == _longest(row) for row in some) / len(some)
        by_chance = sum(sum(len(choice) == _longest(row) for choice in row.choices) / n for row in some) / len(some)
        found.append(Balance(n, len(some), places, longest, by_chance))
    return found


def _longest(row: Row) -> int:
    return max(map(len, row.choices))
