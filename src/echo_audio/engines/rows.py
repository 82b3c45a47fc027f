"""The key-value cache of the local engine: one row a transcript, each row at its own length; and who holds which row.

A row remembers what it holds as a list of keys, one for each position: a token id, or a number derived from the content
of a clip. So a prompt that another row has already computed is recognised by content and copied, not computed again.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from echo_audio.errors import EngineError
from echo_audio.listen import Encoded

PATIENCE_S = 1.0
"""So long a transcript between two turns keeps its row, although others wait for one."""


def context_keys(encoded: Encoded) -> list[int]:
    """One key for each position: its id, or a negative number that names the clip and the offset in it."""
    keys = list(encoded.ids)
    for clip in encoded.clips:
        keys[clip.position : clip.position + clip.n_tokens] = _clip_keys(clip.recording.id, clip.n_tokens)
    return keys


@functools.lru_cache(maxsize=256)
def _clip_keys(name: str, n_tokens: int) -> tuple[int, ...]:
    base = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest()) << 20
    return tuple(range(-base - 1, -base - 1 - n_tokens, -1))


def shared_prefix(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix, by bisection over slices (which compare at C speed)."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


@dataclass(slots=True, eq=False)
class Row:
    """What one cache row holds.

    Args:
        slot: index in the cache tensors.
        keys: of the positions computed so far.
        session: the transcript it belongs to.
        used_at: time of last use (monotonic seconds); of the idle rows the one not used for longest is taken first.
    """

    slot: int
    keys: list[int] = field(default_factory=list)
    session: str = ""
    used_at: float = 0.0


class RowCache:
    """Keys and values (slots, capacity, kv_heads, head_dim) for each layer, written at per-row positions.

    Behind the slots lies one more, which nobody holds: lanes that only fill up a batch write there. The last position of
    every row is never read: a row that overshoots its end writes there.

    Args:
        limit_bytes: how much the cache may take; asked whenever it wants to grow.
    """

    def __init__(
        self, n_layers: int, n_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device,
        limit_bytes: Callable[[int], int] | None = None,
    ) -> None:  # fmt: skip
        self.shape = (n_heads, head_dim)
        self.dtype, self.device = dtype, device
        self.n_slots, self.capacity, self.version = 0, 0, 0
        self.keys: list[Tensor] = [torch.empty(0) for _ in range(n_layers)]
        self.values: list[Tensor] = [torch.empty(0) for _ in range(n_layers)]
        self._limit_bytes = limit_bytes
        self._least = 1024 if device.type == "cuda" else 256

    @property
    def trash(self) -> int:
        """The position that is written by rows that sit out, and never read."""
        return self.capacity - 1

    @property
    def trash_slot(self) -> int:
        """The row that nobody holds."""
        return self.n_slots

    def n_bytes(self, slots: int, capacity: int) -> int:
        """Memory of a cache of this size."""
        heads, width = self.shape
        return 2 * len(self.keys) * (slots + 1) * capacity * heads * width * self.dtype.itemsize

    def affords(self, slots: int, n_positions: int) -> bool:
        """Whether there may be so many slots of so many positions."""
        capacity = max(self._least, self.capacity, -(-(n_positions + 1) // 256) * 256)
        return self._limit_bytes is None or self.n_bytes(slots, capacity) <= self._limit_bytes(self.n_bytes_now)

    @property
    def n_bytes_now(self) -> int:
        """Memory that the cache takes."""
        return self.n_bytes(self.n_slots, self.capacity) if self.n_slots else 0

    def reserve(self, n_slots: int, n_positions: int) -> None:
        """Make room for so many rows of so many positions; what is there stays.

        Raises:
            EngineError: the memory is too small.
        """
        slots, capacity = max(self.n_slots, n_slots), self.capacity
        while capacity < n_positions + 1:
            capacity = max(self._least, capacity * 2)
        if (slots, capacity) == (self.n_slots, self.capacity):
            return
        if self._limit_bytes is not None:
            may = self._limit_bytes(self.n_bytes_now)
            if self.n_bytes(slots, capacity) > may:  # not twice as much, then: just enough
                capacity = max(self.capacity, -(-(n_positions + 1) // 256) * 256)
            if (needed := self.n_bytes(slots, capacity)) > may:
                raise EngineError(
                    f"the key-value cache of {slots} transcripts of up to {capacity} positions needs {needed / 1e9:.1f} GB "
                    f"and may take {may / 1e9:.1f} GB; let fewer transcripts run at once, or give shorter recordings"
                )
        self._grow(slots, capacity)

    def fewer(self, kept: list[int], n_positions: int) -> None:
        """Only these slots stay, as the first ones, each with room for so many positions, which must be affordable."""
        index = torch.tensor(kept, device=self.device)
        capacity = max(self.capacity, -(-(n_positions + 1) // 256) * 256)
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                store[layer] = torch.empty(0)  # what goes makes room for what comes
                new = torch.zeros((len(kept) + 1, capacity, *self.shape), dtype=self.dtype, device=self.device)
                new[: len(kept), : self.capacity] = old[index]
                store[layer] = new
        self.n_slots, self.capacity = len(kept), capacity
        self.version += 1

    def _grow(self, slots: int, capacity: int) -> None:
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = torch.zeros((slots + 1, capacity, *self.shape), dtype=self.dtype, device=self.device)
                if old.numel():
                    new[: self.n_slots, : self.capacity] = old[: self.n_slots]
                store[layer] = new
        self.n_slots, self.capacity = slots, capacity
        self.version += 1

    def copy_prefix(self, source: int, target: int, n_positions: int) -> None:
        """Let one row begin like another."""
        stores = [*self.keys, *self.values]
        begins = [store[source, :n_positions] for store in stores]
        torch._foreach_copy_([store[target, :n_positions] for store in stores], begins)  # pyright: ignore[reportPrivateImportUsage]

    def wipe(self, slot: int) -> None:
        """Zeros in a row. What is masked must be finite all the same: nothing times NaN is NaN."""
        for store in (self.keys, self.values):
            for layer in store:
                layer[slot].zero_()


def gpu_limit(device: torch.device, share: float) -> Callable[[int], int]:
    """What a cache may take of a GPU so that `share` of its memory is used at most, whoever uses the rest."""

    def limit_bytes(now: int) -> int:
        free, total = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused + now - (1 - share) * total)

    return limit_bytes


class Rows:
    """Hands out the rows of a cache: a session gets its own back, anybody else one that begins alike, if there is one.

    Args:
        cache: where the rows lie; it grows with them.
        max_rows: no more than so many.
    """

    def __init__(self, cache: RowCache, max_rows: int) -> None:
        self.cache, self.max_rows = cache, max_rows
        self.all: list[Row] = []
        self.n_copied = 0
        self._kept: dict[str, Row] = {}
        self._begun: dict[int, Row] = {}

    def of_session(self, session: str) -> Row | None:
        """The row that a session keeps."""
        return self._kept.get(session)

    def release(self, session: str) -> None:
        """The session has ended: its row may be overwritten, but what it holds may still be copied."""
        if (row := self._kept.pop(session, None)) is not None:
            row.session = ""

    def forget(self) -> None:
        """Nothing that the rows hold counts any more."""
        for row in self.all:
            row.keys.clear()

    def spoil(self, row: Row) -> None:
        """What the row holds is not finite, and must not reach who takes it next."""
        row.keys.clear()
        self.cache.wipe(row.slot)

    def take(self, keys: list[int], session: str, busy: Collection[Row]) -> Row | None:
        """A row whose keys begin like `keys`, at least one short of them, for its logits; None when all are busy."""
        usable = len(keys) - 1
        row = self.of_session(session)
        if row is not None:
            del row.keys[min(shared_prefix(row.keys, keys), usable) :]
        else:
            best, shared = self._most_alike(keys, usable)
            row = self._free(busy, best, len(keys))
            if row is None:
                return None
            if best is not None and best is not row and shared:
                self.cache.copy_prefix(best.slot, row.slot, shared)
                self.n_copied += shared
            row.keys = keys[:shared]
            if len(self._begun) > 4 * self.max_rows:
                self._begun.clear()
            self._begun[keys[usable // 2]] = row
        self._kept.pop(row.session, None)
        row.used_at, row.session = time.monotonic(), session
        if session:
            self._kept[session] = row
        return row

    def make_room(self, n_positions: int, busy: Collection[Row]) -> bool:
        """Give up rows that nobody computes with, so that those that stay may hold so many positions.

        No work on the rows may be in flight: those that stay move.

        Returns:
            Whether that was enough.
        """
        self.all.sort(key=lambda row: (row in busy, bool(row.session), row.used_at), reverse=True)
        n = len(self.all)
        while n > 1 and not self.cache.affords(n, n_positions):
            n -= 1
        if n < len(busy) or not self.cache.affords(n, n_positions):
            self.all.sort(key=lambda row: row.slot)
            return False
        kept = sorted(self.all[:n], key=lambda row: row.slot)
        self.cache.fewer([row.slot for row in kept], n_positions)
        for slot, row in enumerate(kept):
            row.slot = slot
        self.all = kept
        self._begun.clear()
        self._kept = {row.session: row for row in kept if row.session}
        return True

    def _most_alike(self, keys: list[int], usable: int) -> tuple[Row | None, int]:
        """The row that begins most like `keys`, if any does, and how far."""
        known = self._begun.get(keys[usable // 2])  # mostly the one before it in its group
        if known is not None and shared_prefix(known.keys, keys) >= usable:
            return known, usable
        best, most = None, 0
        for row in self.all:
            if len(row.keys) > most and row.keys[most] == keys[most] and row.keys[:most] == keys[:most]:
                best, most = row, shared_prefix(row.keys, keys)
                if most >= usable:
                    return best, usable
        return best, most

    def _free(self, busy: Collection[Row], keep: Row | None, n_positions: int) -> Row | None:
        """A row that nobody holds, rather not `keep`; else a new one; else one that was left alone for long."""
        free = [row for row in self.all if not row.session and row not in busy]
        if free:
            return min(free, key=lambda row: (row is keep and len(free) > 1, row.slot))
        if len(self.all) < self.max_rows and (row := self._new(n_positions)) is not None:
            return row
        given_up = time.monotonic() - PATIENCE_S
        idle = [row for row in self.all if row not in busy and row.used_at < given_up]
        return min(idle, key=lambda row: row.used_at, default=None)

    def _new(self, n_positions: int) -> Row | None:
        """A row more, if memory has room for it; where nobody has one, the lack of room is an error."""
        n = len(self.all)
        if n == self.cache.n_slots:
            wanted = min(self.max_rows, max(8, 2 * n))
            while wanted > n + 1 and not self.cache.affords(wanted, n_positions):
                wanted -= max(1, (wanted - n) // 2)
            if n and not self.cache.affords(wanted, n_positions):
                return None
            self.cache.reserve(wanted, n_positions)
        self.all.append(Row(n))
        return self.all[-1]
