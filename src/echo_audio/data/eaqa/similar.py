"""Near-duplicates by MinHash, templates, and questions of known tests."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_audio import tags
from echo_audio.data.eaqa.texts import words_of
from echo_audio.errors import DataError

_N_HASHES, _BANDS = 64, 16
_PRIME = np.uint64((1 << 61) - 1)
_RNG = np.random.default_rng(20_260)
_A = _RNG.integers(1, 1 << 31, _N_HASHES, dtype=np.uint64)
_B = _RNG.integers(0, 1 << 31, _N_HASHES, dtype=np.uint64)

Signature = NDArray[np.uint64]


def shingles(text: str) -> frozenset[str]:
    """Runs of three words or numbers, of which a text is made."""
    words = re.findall(r"[^\W_]+(?:\.\d+)?", text.lower())
    return frozenset(" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def signature(parts: Iterable[str]) -> Signature:
    """MinHash of a set, shape (64,): two signatures agree in about as large a share as the sets have in common."""
    values = [zlib.crc32(part.encode()) for part in parts]
    hashes = np.array(values or [0], dtype=np.uint64)
    return ((hashes[:, None] * _A + _B) % _PRIME).min(axis=0)


def alike(one: frozenset[str], other: frozenset[str]) -> float:
    """What two sets have in common, over what they have together (Jaccard); 1 for two empty ones."""
    return len(one & other) / len(one | other) if one or other else 1.0


class NearDuplicates:
    """Texts seen so far; tells whether another is nearly one of them.

    Args:
        similarity: share of what two texts have in common (Jaccard, of runs of three words) from which they count as one.
    """

    def __init__(self, similarity: float) -> None:
        self.similarity = similarity
        self._sets: list[frozenset[str]] = []
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, text: str) -> bool:
        """Remember the text; False when it is nearly one that was there, and then it is not remembered."""
        own = shingles(text)
        keys = self._keys(own)
        if self._find(own, keys):
            return False
        for key in keys:
            self._bands[key].append(len(self._sets))
        self._sets.append(own)
        return True

    def holds(self, text: str) -> bool:
        """Whether nearly this text is there."""
        own = shingles(text)
        return self._find(own, self._keys(own))

    def _find(self, own: frozenset[str], keys: Sequence[tuple[int, bytes]]) -> bool:
        candidates = {index for key in keys for index in self._bands.get(key, ())}
        return any(alike(own, self._sets[i]) >= self.similarity for i in candidates)

    @staticmethod
    def _keys(own: frozenset[str]) -> list[tuple[int, bytes]]:
        bands = signature(own).reshape(_BANDS, -1)
        return [(band, values.tobytes()) for band, values in enumerate(bands)]


class Templates:
    """Counts reasonings that differ by names and numbers only."""

    def __init__(self, most: int) -> None:
        self.most, self.counts = most, Counter[str]()

    def add(self, reasoning: str, names: Sequence[str]) -> bool:
        """Count it; False when there are enough of its template already."""
        skeleton = template_of(reasoning, names)
        if self.most and self.counts[skeleton] >= self.most:
            return False
        self.counts[skeleton] += 1
        return True


def template_of(reasoning: str, names: Sequence[str]) -> str:
    """A reasoning with its names and numbers taken out."""
    text = " ".join(words_of(tags.without_segments(reasoning)))
    for name in sorted({" ".join(words_of(n)) for n in names}, key=lambda n: (-len(n), n)):
        text = text.replace(name, "#") if name else text
    return text


def known_questions(paths: Iterable[str]) -> Iterator[str]:
    """Question and choices of each question in the files of tests: JSON lists or lines, as MMAU and MMAR publish them.

    Raises:
        DataError: a file does not read, or holds no questions.
    """
    for path in paths:
        found = [text for entry in _entries(Path(path)) if (text := _asked(entry))]
        if not found:
            raise DataError(f"{path} holds no questions; give the JSON file of a test, with `question` and `choices`")
        yield from found


def _entries(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); correct `checks.known`") from None


def _asked(entry: Any) -> str:
    question = entry.get("question") if isinstance(entry, dict) else None
    return " ".join([str(question), *map(str, entry.get("choices", ()))]) if question else ""
