"""The key-value cache of the local engine: one row a transcript, each row at its own length; and who holds which row.

A row remembers what it holds as a list of keys, one for each position: a token id, or a number derived from the content
of a clip. So a prompt that another row has already computed is recognised by content and copied, not computed again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from echo_audio.listen import Encoded

PATIENCE_S = 1.0
"""So long a transcript between two turns keeps its row, although others wait for one."""


def context_keys(encoded: Encoded) -> list[int]:
    """One key for each position: its id, or a negative number that names the clip and the offset in it."""
    keys = list(encoded.ids)
    for clip in encoded.clips:
        base = int.from_bytes(hashlib.blake2b(clip.recording.id.encode(), digest_size=7).digest()) << 20
        keys[clip.position : clip.position + clip.n_tokens] = [-(base + j + 1) for j in range(clip.n_tokens)]
    return keys


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
    """Keys and values (slots, kv_heads, capacity, head_dim) for each layer, written at per-row positions.

    It stands where transformers expects a Cache: the attention layers call `update`. `aim` says beforehand which rows
    and positions the coming forward is about. The last position is never read: rows that sit out write there.
    """

    def __init__(self, n_layers: int, n_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = (n_heads, head_dim)
        self.dtype, self.device = dtype, device
        self.n_slots, self.capacity = 0, 0
        self.keys: list[Tensor] = [torch.empty(0) for _ in range(n_layers)]
        self.values: list[Tensor] = [torch.empty(0) for _ in range(n_layers)]
        self._slots: Tensor | slice = slice(0, 0)
        self._index = (torch.empty(0), torch.empty(0))
        self._n_visible = 0

    @property
    def trash(self) -> int:
        """The position that is written by rows that sit out, and never read."""
        return self.capacity - 1

    def reserve(self, n_slots: int, n_positions: int) -> None:
        """Make room for so many rows of so many positions; what is there stays."""
        slots = max(self.n_slots, n_slots)
        capacity = self.capacity
        while capacity < n_positions + 1:
            capacity = max(256, capacity * 2)
        if (slots, capacity) == (self.n_slots, self.capacity):
            return
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                heads, width = self.shape
                new = torch.zeros((slots, heads, capacity, width), dtype=self.dtype, device=self.device)
                if old.numel():
                    new[: self.n_slots, :, : self.capacity] = old
                store[layer] = new
        self.n_slots, self.capacity = slots, capacity

    def copy_prefix(self, source: int, target: int, n_positions: int) -> None:
        """Let one row begin like another."""
        for store in (self.keys, self.values):
            for layer in store:
                layer[target, :, :n_positions] = layer[source, :, :n_positions]

    def wipe(self, slot: int) -> None:
        """Zeros in a row. What is masked must be finite all the same: nothing times NaN is NaN."""
        for store in (self.keys, self.values):
            for layer in store:
                layer[slot].zero_()

    def aim(self, slots: list[int], positions_BT: Tensor, n_visible: int) -> Tensor:
        """Point the coming forward at rows and positions.

        Returns:
            The boolean mask (batch, 1, T, n_visible): a token sees every position of its row up to its own.
        """
        contiguous = slots == list(range(slots[0], slots[0] + len(slots)))
        rows = torch.tensor(slots, device=self.device)
        self._slots = slice(slots[0], slots[0] + len(slots)) if contiguous else rows
        self._index = (rows[:, None], positions_BT)
        self._n_visible = n_visible
        return torch.arange(n_visible, device=self.device) <= positions_BT[:, None, :, None]

    def update(
        self, key_BHTD: Tensor, value_BHTD: Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values; hand back all visible ones of the aimed rows."""
        rows, positions = self._index
        for store, new in ((self.keys, key_BHTD), (self.values, value_BHTD)):
            store[layer_idx][rows, :, positions] = new.transpose(1, 2)
        visible = slice(0, self._n_visible)
        return self.keys[layer_idx][self._slots, :, visible], self.values[layer_idx][self._slots, :, visible]

    def get_seq_length(self, *_args: object) -> int:
        """Part of transformers' Cache interface; positions are always given explicitly here."""
        return self._n_visible


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

    def of_session(self, session: str) -> Row | None:
        """The row that a session keeps."""
        return next((row for row in self.all if row.session == session), None) if session else None

    def release(self, session: str) -> None:
        """The session has ended: its row may be overwritten, but what it holds may still be copied."""
        for row in self.all:
            if row.session == session:
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
            best = max(self.all, key=lambda r: shared_prefix(r.keys, keys), default=None)
            row = self._free(busy, best)
            if row is None:
                return None
            shared = min(shared_prefix(best.keys, keys), usable) if best is not None else 0
            if best is not None and best is not row and shared:
                self.cache.copy_prefix(best.slot, row.slot, shared)
                self.n_copied += shared
            row.keys = keys[:shared]
        row.used_at, row.session = time.monotonic(), session
        return row

    def _free(self, busy: Collection[Row], keep: Row | None) -> Row | None:
        """A row that nobody holds, rather not `keep`; else a new one; else one that was left alone for long."""
        free = [row for row in self.all if not row.session and row not in busy]
        if free:
            return min(free, key=lambda row: (row is keep and len(free) > 1, row.slot))
        if len(self.all) < self.max_rows:
            self.all.append(Row(len(self.all)))
            if len(self.all) > self.cache.n_slots:
                self.cache.reserve(min(self.max_rows, max(8, 2 * self.cache.n_slots)), self.cache.capacity - 1)
            return self.all[-1]
        given_up = time.monotonic() - PATIENCE_S
        idle = [row for row in self.all if row not in busy and row.used_at < given_up]
        return min(idle, key=lambda row: row.used_at, default=None)
