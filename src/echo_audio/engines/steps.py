"""What the local engine does on the device: prefills, and blocks of decoding steps. Nothing here waits for the device.

A block of steps works on static buffers: the host writes down beforehand what each row needs for all of them (its row and
place, how to draw, its random numbers), each step draws on the device and hands its ids to the next there, and what was
drawn is read when it has long been ready. So a step is always the same launches, and one CUDA graph where there is a GPU.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echo_audio.engines.graphs import Graphs
from echo_audio.engines.jobs import Job
from echo_audio.engines.rows import RowCache
from echo_audio.engines.sampling import Draw, chances, choose, logprobs_of
from echo_audio.models.rows import (
    Aim,
    Attend,
    Padding,
    attend_many,
    attend_single,
    rotate_and_store,
    rotation_table,
)
from echo_audio.models.thinker import Thinker

Dictate = Callable[[Job, int], int]
"""For a job and the number of a token in its turn: the id to write there, or -1 to draw it."""

_SLOT, _PLACE, _GIVEN, _FORCED = 0, 1, 2, 3  # columns of whole numbers; what is dictated takes one for each step
_TEMPERATURE, _TOP_P, _CHANCE = 0, 1, 2  # columns of fractions; so do the random numbers


def bucket_of(n_rows: int) -> int:
    """The batch size that so many rows are filled up to: 1, 2, 4, 8, then steps of 8, 16 and 32."""
    if n_rows <= 8:
        return 1 << (n_rows - 1).bit_length()
    step = 8 if n_rows <= 64 else 16 if n_rows <= 128 else 32
    return -(-n_rows // step) * step


@dataclass(frozen=True, slots=True)
class Flight:
    """Draws on their way: of each job, so many tokens.

    Args:
        jobs: whose they are.
        lanes: where each job is in the tensors.
        ids: (steps, lanes), on the host once `ready`.
        logprobs: the same.
        ready: what to wait for.
    """

    jobs: Sequence[Job]
    lanes: Sequence[int]
    ids: Tensor
    logprobs: Tensor
    ready: torch.cuda.Event | None

    @property
    def n_steps(self) -> int:
        """Tokens of each job."""
        return len(self.ids)

    def read(self) -> tuple[list[list[int]], list[list[float]]]:
        """Wait; then ids and log-probabilities, by job and step."""
        if self.ready is not None:
            self.ready.synchronize()
        ids, logprobs = self.ids.T.tolist(), self.logprobs.T.tolist()
        return [ids[lane] for lane in self.lanes], [logprobs[lane] for lane in self.lanes]


class Steps:
    """Prefills and decoding steps of a thinker over a cache.

    Args:
        thinker: the model.
        cache: where keys and values are kept.
        max_rows: rows in one batch at most.
        block: steps in one block at most.
        graphs: capture decoding steps as CUDA graphs; on a GPU only.
        kernels: use the Triton kernels; on a GPU only.
        dictate: decides over tokens instead of the draw.
        fill_up: bring batches to one of few sizes with lanes that nobody reads, so that there are few different graphs;
            else batches are laid out so that the cache can be read in place.
    """

    def __init__(
        self, thinker: Thinker, cache: RowCache, max_rows: int, block: int, dictate: Dictate,
        *, graphs: bool, kernels: bool, fill_up: bool | None = None,
    ) -> None:  # fmt: skip
        self.thinker, self.cache, self.block = thinker, cache, block
        self.device = thinker.device
        self.on_gpu = self.device.type == "cuda"
        self.fill_up = self.on_gpu if fill_up is None else fill_up
        self.kernels = _kernels(thinker) if kernels and self.on_gpu else None
        self.drawing = _drawing() if self.kernels else None
        self.graphs = Graphs(enabled=graphs and self.on_gpu)
        self._dictate = dictate
        text = thinker.decoder.config
        self._n_shared = text.num_attention_heads // text.num_key_value_heads
        most = bucket_of(max_rows)
        numbers = {"dtype": torch.long, "device": self.device}
        self._ints = torch.zeros((most, _FORCED + block), **numbers)
        self._floats = torch.zeros((most, _CHANCE + block), device=self.device)
        self._at = torch.zeros(1, **numbers)
        self._last_ids = torch.zeros(max_rows + 1, **numbers)
        self._ids = torch.zeros((block, most), **numbers)
        self._logprobs = torch.zeros((block, most), device=self.device)
        self._version = -1
        self._rotation = (torch.empty(0), torch.empty(0))
        self._weights: tuple[int, ...] = ()

    def refresh(self) -> None:
        """The cache may have grown, or weights moved: what depends on their place is made anew."""
        if self._version == self.cache.version:
            return
        self._version = self.cache.version
        self._rotation = rotation_table(self.thinker.decoder, self.cache.capacity, self.thinker.dtype, self.device)
        self.graphs.clear()

    def weights_changed(self) -> None:
        """Weights have changed; graphs hold if they did in place."""
        where = tuple(weight.data_ptr() for weight in self.thinker.model.parameters())
        if where != self._weights:
            self._weights = where
            self.graphs.clear()

    # Prefill

    def prefill(self, jobs: Sequence[Job], tokens_of: Mapping[str, Tensor]) -> Flight:
        """Compute what is pending for some jobs, and draw the next token of each.

        Args:
            jobs: by slot; best all at the beginning of their rows, or none.
            tokens_of: audio tokens of the clips that are pending, by recording.
        """
        self.refresh()
        counts = np.array([job.pending for job in jobs])
        starts = np.array([len(job.keys) for job in jobs]) - counts
        rows = np.repeat(np.arange(len(jobs)), counts)
        firsts = counts.cumsum() - counts
        inner = np.arange(counts.sum()) - firsts[rows]
        slots = np.array([job.slot for job in jobs])
        longest = int(counts.max())
        numbers = np.stack([
            np.concatenate([(job.request.encoded.ids + tuple(job.ids))[start:] for job, start in zip(jobs, starts, strict=True)]),
            slots[rows], starts[rows] + inner, rows * longest + inner,
        ])  # fmt: skip
        ids, slots_N, positions_N, index_N = self._upload(numbers)
        mask = None
        if starts.any():
            places = np.zeros((len(jobs), longest), np.int64)
            places[rows, inner] = numbers[2]
            mask = self._mask(self._upload(places), self._visible(int((starts + counts).max()), 64))
        padding = Padding(index_N, len(jobs), longest, mask)
        embeds = self._hear(self.thinker.embed(ids), jobs, starts, firsts, tokens_of)
        attend = self._attend_many(slots_N, positions_N, self._chosen(slots), padding)
        hidden = self.thinker.decode_rows(embeds, attend, self.kernels)
        last = hidden.index_select(0, self._upload(firsts + counts - 1))
        return self._draw_once(jobs, slots, self.thinker.logits(last))

    def _hear(
        self, embeds: Tensor, jobs: Sequence[Job], starts: np.ndarray, firsts: np.ndarray, tokens_of: Mapping[str, Tensor]
    ) -> Tensor:
        """Put audio tokens at their places in the flat list."""
        where: list[np.ndarray] = []
        heard: list[Tensor] = []
        for job, start, first in zip(jobs, starts, firsts, strict=True):
            for clip in job.pending_clips():
                offset = max(0, int(start) - clip.position)
                at = int(first) + clip.position + offset - int(start)
                where.append(np.arange(at, at + clip.n_tokens - offset))
                heard.append(tokens_of[clip.recording.id][offset:])
        if not heard:
            return embeds
        return embeds.index_copy(0, self._upload(np.concatenate(where)), torch.cat(heard).to(embeds.dtype))

    def _mask(self, places_JL: Tensor, n_visible: int) -> Tensor:
        """What is added to scores: a position sees its row up to itself; once for each query that shares a key head."""
        seen_JLT = torch.arange(n_visible, device=self.device) <= places_JL[..., None]
        bias = torch.zeros(seen_JLT.shape, dtype=self.thinker.dtype, device=self.device)
        bias = bias.masked_fill_(~seen_JLT, float("-inf"))[:, None, None]
        return bias.expand(-1, 1, self._n_shared, -1, -1).flatten(2, 3)

    def _attend_many(self, slots_N: Tensor, positions_N: Tensor, chosen: Tensor | slice, padding: Padding) -> Attend:
        aim = self._aim(slots_N, positions_N)
        keys, values = self.cache.keys, self.cache.values
        store = self.kernels.rotate_and_store if self.kernels else rotate_and_store

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            rotated = store(query, key, value, aim, keys[layer], values[layer])
            return attend_many(rotated, keys[layer], values[layer], chosen, padding)

        return attend

    def _draw_once(self, jobs: Sequence[Job], slots: np.ndarray, logits: Tensor) -> Flight:
        numbers = np.stack([slots, [self._dictate(job, len(job.ids)) for job in jobs]])
        fractions = self._fractions(jobs, 1)
        (slots_B, forced), how = self._upload(numbers), self._upload(fractions)
        draw = Draw(how[:, _TEMPERATURE], how[:, _CHANCE], how[:, _TOP_P], self._nucleus(jobs, range(len(jobs))), _hot(jobs))
        ids = torch.where(forced >= 0, forced, choose(logits, draw))
        self._last_ids.index_copy_(0, slots_B, ids)
        return self._flight(jobs, range(len(jobs)), ids[None], logprobs_of(logits, ids)[None])

    # Decoding

    def decode(self, jobs: Sequence[Job], n_steps: int) -> Flight:
        """So many tokens of each job, one step after another."""
        self.refresh()
        jobs = sorted(jobs, key=lambda job: job.slot)
        slots, lanes = self._lay_out([job.slot for job in jobs])
        n, hot, nucleus = len(slots), _hot(jobs), self._nucleus(jobs, lanes)
        numbers = np.full((n, _FORCED + self.block), -1)
        fractions = np.zeros((n, _CHANCE + self.block), np.float32)
        numbers[:, _SLOT], numbers[:, _PLACE] = slots, 0 if self.fill_up else self.cache.trash
        numbers[lanes, _PLACE] = [job.position for job in jobs]
        numbers[lanes, _GIVEN] = [-1 if job.in_flight else job.keys[-1] for job in jobs]
        numbers[lanes, _FORCED : _FORCED + n_steps] = [self._dictated(job, n_steps) for job in jobs]
        fractions[lanes, : _CHANCE + n_steps] = self._fractions(jobs, n_steps)
        self._ints[:n].copy_(self._staged(numbers), non_blocking=True)
        self._floats[:n].copy_(self._staged(fractions), non_blocking=True)
        self._at.zero_()
        n_visible = 0 if self.kernels else self._visible(max(job.position for job in jobs) + n_steps, 256 if self.fill_up else 64)
        chosen = None if self.fill_up else self._chosen(np.array(slots))

        def step() -> Tensor | None:
            return self._step(n, n_visible, hot, nucleus is None, chosen)

        if nucleus is not None:  # sorting is not captured
            for _ in range(n_steps):
                self._draw(self.graphs.run((n, n_visible, "logits"), step), hot, nucleus)
        elif n_steps == self.block:  # the rule: one launch for the whole block
            self.graphs.run((n, n_visible, hot, n_steps), lambda: [step() for _ in range(n_steps)])
        else:
            for _ in range(n_steps):
                self.graphs.run((n, n_visible, hot, 1), step)
        return self._flight(jobs, lanes, self._ids[:n_steps, :n], self._logprobs[:n_steps, :n])

    def _lay_out(self, slots: list[int]) -> tuple[list[int], list[int]]:
        """The rows of a batch, and where in it the wanted ones are.

        It is filled up to one of few sizes; or rows that sit out take part, if that leaves no gap: the cache can then be
        read in place.
        """
        if self.fill_up:
            return slots + [self.cache.trash_slot] * (bucket_of(len(slots)) - len(slots)), list(range(len(slots)))
        if slots[-1] - slots[0] < 2 * len(slots):
            return list(range(slots[0], slots[-1] + 1)), [slot - slots[0] for slot in slots]
        return slots, list(range(len(slots)))

    def _step(self, n: int, n_visible: int, hot: bool, drawn: bool, chosen: Tensor | slice | None) -> Tensor | None:
        """One token for each lane; or only its logits, to be drawn from outside.

        Reads and writes static buffers only; `_at` says the how manieth step of its block it is.
        """
        numbers = self._ints[:n]
        slots, given = numbers[:, _SLOT].contiguous(), numbers[:, _GIVEN]
        places = (numbers[:, _PLACE] + self._at).clamp(max=self.cache.trash)
        ids = torch.where((given >= 0) & (self._at == 0), given, self._last_ids.index_select(0, slots))
        attend = self._attend_single(slots, places, n_visible, chosen)
        hidden = self.thinker.decode_rows(self.thinker.embed(ids), attend, self.kernels)
        if not drawn:
            return self.thinker.logits(hidden)
        if self.drawing is None:
            return self._draw(self.thinker.logits(hidden), hot, None)
        self.drawing.draw(self.thinker.model.lm_head(hidden), self.thinker.allowed, self._buffers(n))
        self._at.add_(1)
        return None

    def _attend_single(self, slots: Tensor, places: Tensor, n_visible: int, chosen: Tensor | slice | None) -> Attend:
        aim = self._aim(slots, places)
        keys, values, kernels = self.cache.keys, self.cache.values, self.kernels
        if kernels is not None:

            def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                rotated = kernels.rotate_and_store(query, key, value, aim, keys[layer], values[layer])
                return kernels.attend_single(rotated, keys[layer], values[layer], slots, places)

            return attend
        mask = (torch.arange(n_visible, device=self.device) <= places[:, None])[:, None, None]
        where = slots if chosen is None else chosen

        def attend_plainly(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            rotated = rotate_and_store(query, key, value, aim, keys[layer], values[layer])
            return attend_single(rotated, keys[layer], values[layer], where, mask)

        return attend_plainly

    def _draw(self, logits: Tensor, hot: bool, nucleus: Tensor | None) -> None:
        n, at = len(logits), self._at
        numbers, fractions = self._ints[:n], self._floats[:n]
        chance = fractions.index_select(1, at + _CHANCE)[:, 0]
        drawn = choose(logits, Draw(fractions[:, _TEMPERATURE], chance, fractions[:, _TOP_P], nucleus, hot))
        forced = numbers.index_select(1, at + _FORCED)[:, 0]
        ids = torch.where(forced >= 0, forced, drawn)
        self._last_ids.index_copy_(0, numbers[:, _SLOT], ids)
        self._ids[:, :n].index_copy_(0, at, ids[None])
        self._logprobs[:, :n].index_copy_(0, at, logprobs_of(logits, ids)[None])
        at.add_(1)

    def _buffers(self, n: int) -> Any:
        assert self.drawing is not None
        return self.drawing.Buffers(
            self._ints[:n], self._floats[:n], self._at, self._last_ids, self._ids, self._logprobs, _FORCED, _CHANCE
        )

    # Between host and device

    def _aim(self, slots_N: Tensor, positions_N: Tensor) -> Aim:
        return Aim(slots_N, positions_N, *(table.index_select(0, positions_N) for table in self._rotation))

    def _chosen(self, slots: np.ndarray) -> Tensor | slice:
        """Rows of the cache, by slot; a slice where they are neighbours."""
        if len(slots) == slots[-1] - slots[0] + 1:
            return slice(int(slots[0]), int(slots[-1]) + 1)
        return self._upload(slots)

    def _visible(self, n_positions: int, step: int) -> int:
        return min(self.cache.trash, -(-n_positions // step) * step)

    def _dictated(self, job: Job, n: int) -> list[int]:
        begin = len(job.ids) + job.in_flight
        return [self._dictate(job, begin + i) for i in range(n)]

    def _fractions(self, jobs: Sequence[Job], n: int) -> np.ndarray:
        """How each job draws, and its next random numbers: float32 (jobs, _CHANCE + n)."""
        fractions = np.zeros((len(jobs), _CHANCE + n), np.float32)
        how = [job.request.sampling for job in jobs]
        fractions[:, _TEMPERATURE], fractions[:, _TOP_P] = [s.temperature for s in how], [s.top_p for s in how]
        hot = [i for i, s in enumerate(how) if s.temperature > 0]
        if hot:
            fractions[hot, _CHANCE:] = chances([jobs[i].state for i in hot], n)
        return fractions

    def _nucleus(self, jobs: Sequence[Job], lanes: Sequence[int]) -> Tensor | None:
        how = [job.request.sampling for job in jobs]
        cut = [lane for lane, s in zip(lanes, how, strict=True) if s.temperature > 0 and s.top_p < 1]
        return self._upload(np.array(cut)) if cut else None

    def _staged(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.on_gpu else tensor

    def _upload(self, values: np.ndarray) -> Tensor:
        """A copy on the device, which does not wait for the work in flight."""
        return self._staged(values).to(self.device, non_blocking=True)

    def _flight(self, jobs: Sequence[Job], lanes: Sequence[int], ids: Tensor, logprobs: Tensor) -> Flight:
        for job in jobs:
            job.in_flight += len(ids)
        if not self.on_gpu:
            return Flight(jobs, lanes, ids.clone(), logprobs.clone(), None)
        ids, logprobs = (value.contiguous().to("cpu", non_blocking=True) for value in (ids, logprobs))
        ready = torch.cuda.Event()
        ready.record()
        return Flight(jobs, lanes, ids, logprobs, ready)


def _hot(jobs: Sequence[Job]) -> bool:
    return any(job.request.sampling.temperature > 0 for job in jobs)


def _drawing() -> Any:
    from echo_audio.engines import draw_kernels

    return draw_kernels


def _kernels(thinker: Thinker) -> Any:
    """The Triton kernels, if there is Triton and they take this model."""
    if importlib.util.find_spec("triton") is None:
        return None
    from echo_audio.models import row_kernels

    text = thinker.decoder.config
    if text.hidden_act != "silu":
        return None
    shape = text.num_attention_heads, text.num_key_value_heads, text.hidden_size // text.num_attention_heads
    why = row_kernels.trial(*shape, thinker.dtype, thinker.device)
    if why:
        warnings.warn(f"decoding is slower than it could be, for Triton's kernels do not run here ({why})", stacklevel=4)
        return None
    return row_kernels
