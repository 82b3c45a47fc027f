"""The local engine: transformers' thinker on the CPU or one GPU, many transcripts at once.

Every transcript keeps a row of the key-value cache between its turns. When it stops at its `</seg>`, the audio it asked
for is all that is computed next; the other rows go on decoding meanwhile. A tick is: admit, prefill what waits, decode
one token for every row that can.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import sys
import threading
import time
from collections import deque
from pathlib import Path

import torch
from torch import Tensor

from echo_audio.engines.clips import ClipCache
from echo_audio.engines.jobs import Counters, Job
from echo_audio.engines.rows import PATIENCE_S, RowCache, Rows, context_keys, shared_prefix
from echo_audio.engines.sampling import draw, random_state
from echo_audio.errors import EngineError
from echo_audio.listen import Clip, OnPiece, Request, Turn, TurnStop
from echo_audio.models.thinker import Thinker

_NOT_FINITE = (
    "the model's output is not finite: its weights hold NaN, or overflow in this number format; "
    "take an earlier checkpoint, or load it in float32"
)


class LocalEngine:
    """An `Engine` over a Thinker.

    Args:
        thinker: the model.
        max_rows: transcripts in flight at once; more wait.
        max_prefill_tokens: positions computed in one prefill, so that decoding rows are not held up for long.
        max_cached_audio_tokens: audio tokens kept in the encoder cache.
    """

    def __init__(
        self,
        thinker: Thinker,
        *,
        max_rows: int = 64,
        max_prefill_tokens: int = 8192,
        max_cached_audio_tokens: int = 200_000,
    ) -> None:
        self.thinker = thinker
        self.max_prefill_tokens = max_prefill_tokens
        text = thinker.decoder.config
        width = text.hidden_size // text.num_attention_heads
        self._cache = RowCache(text.num_hidden_layers, text.num_key_value_heads, width, thinker.dtype, thinker.device)
        self._rows = Rows(self._cache, max_rows)
        self._clips = ClipCache(thinker, max_cached_audio_tokens)
        self._n_ticks = self._n_prefilled = self._n_decoded = 0
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._inbox: deque[Job | str] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        max_rows: int = 64,
    ) -> LocalEngine:
        """The engine for a model folder or hub id: the GPU and bfloat16 where there is one, else CPU and float32."""
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        kind = dtype or (torch.bfloat16 if where.startswith("cuda") else torch.float32)
        return cls(Thinker.load(source, dtype=kind, device=where), max_rows=max_rows)

    @property
    def counters(self) -> Counters:
        """What has been computed so far."""
        rows, clips = self._rows, self._clips
        return Counters(
            self._n_prefilled, self._n_decoded, rows.n_copied, clips.n_encoded, clips.n_reused, self._n_ticks
        )

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        """Sample one turn; see `Engine`.

        Raises:
            EngineError: the context is full, or the model failed.
        """
        n_max = self.thinker.family.max_positions
        if len(request.encoded.ids) >= n_max:
            raise EngineError(f"the context holds {len(request.encoded.ids)} tokens and the model takes {n_max}")
        if request.max_new_tokens < 1:
            return Turn((), (), (), TurnStop.LENGTH)
        state = random_state(request.sampling, request.turn)
        job = Job(request, on_piece, concurrent.futures.Future(), context_keys(request.encoded), state)
        self._post(job)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            job.future.cancel()

    def release(self, session: str) -> None:
        """The transcript is done: its row may be overwritten. Harmless on a closed engine."""
        if not self._closed:
            self._post(session)

    def forget(self) -> None:
        """Nothing computed so far counts any more: the weights have changed, or a run must repeat bit for bit.

        Raises:
            EngineError: a request is in flight; what it has computed cannot be mixed with what comes.
        """
        with self._wake:
            self._receive(list(self._inbox))  # sessions released since the last tick
            self._inbox.clear()
            if self._active or self._waiting:
                raise EngineError("the engine is at work; let every request end before its weights change")
            self._rows.forget()
            self._clips.clear()

    def close(self) -> None:
        """Stop the worker thread; requests in flight fail."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    def _post(self, message: Job | str) -> None:
        with self._wake:
            if self._closed:
                raise EngineError("the engine is closed; make a new one")
            self._inbox.append(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="echo-local-engine", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _work(self) -> None:
        """The worker: tick while there is something to do, sleep otherwise."""
        try:
            while True:
                with self._wake:
                    while not (self._inbox or self._active or self._closed):
                        if not self._wake.wait(PATIENCE_S / 4 if self._waiting else None):
                            break  # a row may have been idle for long enough
                    if self._closed:
                        return
                    messages = list(self._inbox)
                    self._inbox.clear()
                self._receive(messages)
                try:
                    self._tick()
                except RuntimeError as error:  # out of memory, a CUDA fault: these requests fail, the engine goes on
                    self._fail(f"the model failed: {error}")
        finally:  # also when a bug ends the thread: nobody may wait for ever
            with self._wake:
                self._closed = True
            self._fail(f"the engine stopped: {sys.exc_info()[1] or 'it was closed'}")

    def _receive(self, messages: list[Job | str]) -> None:
        for message in messages:
            if isinstance(message, Job):
                self._waiting.append(message)
            else:
                self._rows.release(message)

    def _fail(self, why: str) -> None:
        jobs = [*self._active, *self._waiting]
        self._active.clear()
        self._waiting.clear()
        if self._closed:  # else what has just come in may still succeed
            with self._wake:
                jobs += [message for message in self._inbox if isinstance(message, Job)]
                self._inbox.clear()
        self._rows.forget()
        for job in jobs:
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
                job.future.set_exception(EngineError(why))

    @torch.inference_mode()
    def _tick(self) -> None:
        self._n_ticks += 1
        self._active = [job for job in self._active if not job.future.cancelled()]
        self._admit()
        long = [job for job in self._active if job.pending > 1]
        if long:
            self._prefill(long)
        ready = [job for job in self._active if job.pending == 1]
        if ready:
            self._decode(ready)

    def _admit(self) -> None:
        """Give waiting requests a row. One that would share a prefix still being computed waits for it a tick."""
        still: deque[Job] = deque()
        busy = {job.row for job in self._active if job.row is not None}
        for job in self._waiting:
            if job.future.cancelled():
                continue
            if not self._has_twin(job):
                job.row = self._rows.take(job.keys, job.request.session, busy)
            if job.row is None:
                still.append(job)
                continue
            busy.add(job.row)
            self._active.append(job)
        self._waiting = still

    def _has_twin(self, job: Job) -> bool:
        """Whether an admitted request is about to compute the same long beginning."""
        if self._rows.of_session(job.request.session) is not None:
            return False
        head = job.keys[: len(job.keys) - 1]
        return any(
            other.row is not None and not other.ids and other.pending > 1
            and shared_prefix(other.keys, head) > max(len(other.row.keys), len(head) // 2)
            for other in self._active
        )

    def _prefill(self, jobs: list[Job]) -> None:
        """Compute what is pending for some of the jobs, the shortest first, padded into one batch."""
        jobs = sorted(jobs, key=lambda j: j.pending)
        longest, batch = 0, []
        for job in jobs:
            longest = max(longest, job.pending)
            if batch and longest * (len(batch) + 1) > self.max_prefill_tokens:
                break
            batch.append(job)
        batch.sort(key=lambda j: j.row.slot if j.row else 0)
        longest = max(job.pending for job in batch)
        tokens = self._clips.tokens(clip.recording for job in batch for clip in _pending_clips(job))
        embeds = [self._pending_embeds(job, tokens) for job in batch]
        padded = torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True)
        self._ensure(batch)
        positions = torch.full((len(batch), longest), self._cache.trash)
        for line, job in zip(positions, batch, strict=True):
            line[: job.pending] = torch.arange(len(job.keys) - job.pending, len(job.keys))
        self._n_prefilled += sum(job.pending for job in batch)
        hidden = self._forward([j.row.slot for j in batch if j.row], padded, positions, batch)
        last = torch.tensor([job.pending - 1 for job in batch], device=hidden.device)
        self._sample(batch, hidden[torch.arange(len(batch), device=hidden.device), last])

    def _decode(self, jobs: list[Job]) -> None:
        """One token for every ready job. All rows up to the last ready one take part; the others write to the trash."""
        self._ensure(jobs)
        by_slot = {job.row.slot: job for job in jobs if job.row}
        slots = list(range(min(by_slot), max(by_slot) + 1))
        if len(slots) > 2 * len(jobs):
            slots = sorted(by_slot)
        ids = torch.zeros((len(slots), 1), dtype=torch.long)
        positions = torch.full((len(slots), 1), self._cache.trash)
        for i, slot in enumerate(slots):
            if slot in by_slot:
                ids[i, 0], positions[i, 0] = by_slot[slot].keys[-1], len(by_slot[slot].keys) - 1
        hidden = self._forward(slots, self.thinker.embed(ids.to(self.thinker.device)), positions, jobs)
        ordered = [by_slot[slot] for slot in slots if slot in by_slot]
        where = torch.tensor([i for i, slot in enumerate(slots) if slot in by_slot], device=hidden.device)
        self._sample(ordered, hidden[where, 0])

    def _ensure(self, jobs: list[Job]) -> None:
        self._cache.reserve(self._cache.n_slots, max(len(job.keys) for job in jobs) + 1)

    def _forward(self, slots: list[int], embeds: Tensor, positions: Tensor, jobs: list[Job]) -> Tensor:
        device = self.thinker.device
        n_visible = min(self._cache.trash, -(-max(len(job.keys) for job in jobs) // 64) * 64)
        where = positions.to(device)
        mask = self._cache.aim(slots, where, n_visible)
        # The position that only sits out rotates nothing that anybody sees: any valid rope position will do.
        return self.thinker.decode(embeds, where.clamp(max=n_visible), mask, self._cache)

    def _pending_embeds(self, job: Job, tokens_of: dict[str, Tensor]) -> Tensor:
        """Embeddings (pending, hidden) of the positions still to compute; the audio tokens of clips are given by id."""
        start = len(job.keys) - job.pending
        ids = torch.tensor(job.request.encoded.ids[start:] + tuple(job.ids), device=self.thinker.device)
        embeds = self.thinker.embed(ids[: job.pending])
        for clip in _pending_clips(job):
            offset = max(0, start - clip.position)
            tokens = tokens_of[clip.recording.id][offset:]
            at = clip.position + offset - start
            embeds[at : at + len(tokens)] = tokens
        return embeds

    def _sample(self, jobs: list[Job], hidden_BH: Tensor) -> None:
        ids, logprobs = self._draw(jobs, self.thinker.logits(hidden_BH))
        now = time.monotonic()
        for job, token, logprob in zip(jobs, ids, logprobs, strict=True):
            assert job.row is not None
            job.row.keys.extend(job.keys[len(job.row.keys) :])
            job.row.used_at = now
            self._n_decoded += 1
            if math.isfinite(logprob):
                self._take(job, token, logprob)
            else:
                self._rows.spoil(job.row)
                self._refuse(job, EngineError(_NOT_FINITE))

    def _draw(self, jobs: list[Job], logits_BV: Tensor) -> tuple[list[int], list[float]]:
        """The next id of each job and its log-probability. Benchmarks and tests dictate here."""
        return draw(logits_BV, [job.request.sampling for job in jobs], [job.state for job in jobs])

    def _take(self, job: Job, token: int, logprob: float) -> None:
        """Record a drawn token; finish the turn if it ends it."""
        family = self.thinker.family
        job.ids.append(token)
        job.logprobs.append(min(0.0, logprob))
        job.keys.append(token)
        piece = "" if token in family.ends else job.utf8.decode(family.token_bytes[token])
        job.pieces.append(piece)
        before, job.tail = job.tail, (job.tail + piece)[-64:] if len(piece) < 32 else job.tail + piece
        stop = self._stop(job, token)
        if stop is TurnStop.TEXT:  # a character begun behind the stop text: show that the token overshoots
            job.pieces[-1] += job.utf8.decode(b"", final=True)
        told = self._tell(job, piece, before, stop)
        if stop is not None and told:
            self._active.remove(job)
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
                job.future.set_result(Turn(tuple(job.ids), tuple(job.logprobs), tuple(job.pieces), stop))

    def _stop(self, job: Job, token: int) -> TurnStop | None:
        if token in self.thinker.family.ends:
            return TurnStop.END
        if any(stop in job.tail for stop in job.request.stop):
            return TurnStop.TEXT
        full = len(job.keys) >= self.thinker.family.max_positions
        return TurnStop.LENGTH if full or len(job.ids) >= job.request.max_new_tokens else None

    def _tell(self, job: Job, piece: str, before: str, stop: TurnStop | None) -> bool:
        """Report a piece, without what overshoots a stop text. An error of the callback is handed to who gave it."""
        if job.on_piece is None or not piece:
            return True
        if stop is TurnStop.TEXT:
            text = before + piece
            end = min(text.index(s) + len(s) for s in job.request.stop if s in text)
            piece = text[len(before) : end]
        try:
            job.on_piece(piece)
        except Exception as error:  # noqa: BLE001 - the caller's code may raise anything, and the others must go on
            self._refuse(job, error)
            return False
        return True

    def _refuse(self, job: Job, error: Exception) -> None:
        """Fail one request; the others go on."""
        self._active.remove(job)
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # cancelled meanwhile
            job.future.set_exception(error)


def _pending_clips(job: Job) -> list[Clip]:
    """The clips of which some positions are still to compute."""
    start = len(job.keys) - job.pending
    return [clip for clip in job.request.encoded.clips if clip.position + clip.n_tokens > start]
