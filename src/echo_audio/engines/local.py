"""The local engine: transformers' thinker on the CPU or one GPU, many transcripts at once.

Every transcript keeps a row of the key-value cache between its turns. When it stops at its `</seg>`, the audio it asked
for is all that is computed next; the other rows go on decoding meanwhile. A tick is: admit, prefill what waits, decode
a block of tokens for every row that can, then read what was drawn. On a GPU reading stays a tick behind, so that the device
works while the host looks for the ends of turns; what a row drew behind the end of its turn is dropped.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch

from echo_audio.engines import interpreter
from echo_audio.engines.clips import ClipCache
from echo_audio.engines.jobs import Counters, Job, Reply, hand_over
from echo_audio.engines.rows import PATIENCE_S, RowCache, Rows, context_keys, gpu_limit
from echo_audio.engines.sampling import random_state
from echo_audio.engines.steps import Flight, Steps
from echo_audio.engines.writing import Writing
from echo_audio.errors import EngineError
from echo_audio.listen import OnPiece, Request, Turn, TurnStop
from echo_audio.models.merged import merge_projections
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
        block: tokens that a row draws before the host reads them; 1 on the CPU, more on a GPU, most for a small model.
        ahead: whether the host reads what was drawn while the device draws the next; not on the CPU, which is both.
        graphs: capture decoding as CUDA graphs.
        kernels: use the Triton kernels.
        gpu_memory: share of the GPU's memory that may be in use once the key-value cache has grown.
    """

    def __init__(
        self,
        thinker: Thinker,
        *,
        max_rows: int = 64,
        max_prefill_tokens: int = 8192,
        max_cached_audio_tokens: int = 200_000,
        block: int | None = None,
        ahead: bool | None = None,
        graphs: bool = True,
        kernels: bool = True,
        gpu_memory: float = 0.9,
    ) -> None:
        interpreter.share()
        self.thinker = thinker
        self.max_prefill_tokens = max_prefill_tokens
        on_gpu = thinker.device.type == "cuda"
        self.ahead = on_gpu if ahead is None else ahead
        self.block = block or (1 if not on_gpu else 8 if _is_small(thinker) else 4)
        text = thinker.decoder.config
        width = text.hidden_size // text.num_attention_heads
        limit = gpu_limit(thinker.device, gpu_memory) if on_gpu else None
        shape = text.num_hidden_layers, text.num_key_value_heads, width
        self._cache = RowCache(*shape, thinker.dtype, thinker.device, limit)
        self._rows = Rows(self._cache, max_rows)
        self._clips = ClipCache(thinker, max_cached_audio_tokens)
        with torch.inference_mode():
            self._steps = Steps(
                thinker, self._cache, max_rows, self.block, self._dictate, graphs=graphs, kernels=kernels
            )
        self._flights: deque[Flight] = deque()
        self._n_ticks = self._n_prefilled = self._n_decoded = self._n_discarded = 0
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        self._inbox: deque[Job | str] = deque()
        self._ended: list[Reply] = []
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
        thinker = Thinker.load(source, dtype=kind, device=where)
        if where.startswith("cuda"):
            merge_projections(thinker.decoder)
        return cls(thinker, max_rows=max_rows)

    @property
    def counters(self) -> Counters:
        """What has been computed so far."""
        rows, clips = self._rows, self._clips
        return Counters(
            self._n_prefilled, self._n_decoded, rows.n_copied, clips.n_encoded, clips.n_reused,
            self._n_ticks, self._n_discarded,
        )  # fmt: skip

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
        allowance = min(request.max_new_tokens, n_max - len(request.encoded.ids))
        writing = Writing(self.thinker.family, request.stop, allowance, on_piece)
        state = random_state(request.sampling, request.turn)
        loop = asyncio.get_running_loop()
        reply = Reply(loop, loop.create_future())
        self._post(Job(request, reply, context_keys(request.encoded), state, writing))
        try:
            return await reply.future
        finally:
            reply.cancelled = True

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
            self._flights.clear()
            self._rows.forget()
            self._clips.clear()
            self._steps.weights_changed()

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
        if self.thinker.device.type == "cuda":
            torch.cuda.set_device(self.thinker.device)  # of this thread; kernels and events take it from there
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
        self._flights.clear()
        if self._closed:  # else what has just come in may still succeed
            with self._wake:
                jobs += [message for message in self._inbox if isinstance(message, Job)]
                self._inbox.clear()
        self._rows.forget()
        for job in jobs:
            self._end(job, EngineError(why))
        self._hand_over()

    @torch.inference_mode()
    def _tick(self) -> None:
        self._n_ticks += 1
        for job in self._active:
            job.over = job.reply.cancelled
        self._active = [job for job in self._active if not job.over]
        self._admit()
        n_launched = 0
        long = self._with_room(lambda job: job.needs_prefill, 0)
        for jobs in ([job for job in long if job.begins], [job for job in long if not job.begins]):
            if jobs:  # by kinds, which need different attention
                self._flights.append(self._prefill(jobs))
                n_launched += 1
        if not self.ahead:
            self._collect(0)
        ready = self._with_room(lambda job: job.can_decode, self.block)
        if ready:
            n_steps = min(self.block, max(job.remaining for job in ready))
            self._flights.append(self._steps.decode(ready, n_steps))
            n_launched += 1
        self._collect(n_launched if self.ahead else 0)
        self._hand_over()

    def _with_room(self, wanted: Callable[[Job], bool], n_steps: int) -> list[Job]:
        """The active jobs of a kind for whose next positions the cache has room."""
        found = [job for job in list(self._active) if wanted(job) and self._reserve(job, n_steps)]
        active = set(self._active)
        return [job for job in found if job in active and wanted(job)]  # making room may have ended some

    def _reserve(self, job: Job, n_steps: int) -> bool:
        """Room in the cache for what a job computes next. One that finds none waits for others to end, or fails alone."""
        n_positions = len(job.keys) + job.in_flight + n_steps
        if n_positions < self._cache.capacity:
            return True
        try:
            self._cache.reserve(self._cache.n_slots, n_positions)
        except EngineError as error:
            self._collect(0)
            if job not in self._active:
                return False
            if self._rows.make_room(n_positions, {other.row for other in self._active if other.row is not None}):
                return True
            if len(self._active) == 1:
                self._refuse(job, error)
            else:  # what it has so far is computed again
                self._active.remove(job)
                job.row = None
                self._waiting.append(job)
            return False
        return True

    def _admit(self) -> None:
        """Give waiting requests a row. One that would share a prefix still being computed waits for it a tick."""
        still: deque[Job] = deque()
        busy = {job.row for job in self._active if job.row is not None}
        fresh = [job for job in self._active if job.needs_prefill and not job.ids]
        full = False
        for job in self._waiting:
            if job.reply.cancelled:
                continue
            if (full and self._rows.of_session(job.request.session) is None) or self._has_twin(job, fresh):
                still.append(job)
                continue
            try:
                job.row = self._rows.take(job.keys, job.request.session, busy)
            except EngineError as error:  # not even one row finds room
                self._refuse(job, error)
                continue
            if job.row is None:
                full = True
                still.append(job)
                continue
            busy.add(job.row)
            self._active.append(job)
            if job.needs_prefill:
                fresh.append(job)
        self._waiting = still

    def _has_twin(self, job: Job, fresh: list[Job]) -> bool:
        """Whether an admitted request (one of `fresh`) is about to compute the same long beginning."""
        if self._rows.of_session(job.request.session) is not None:
            return False
        usable = len(job.keys) - 1

        def shares(other: Job) -> bool:
            assert other.row is not None
            n = max(len(other.row.keys), usable // 2) + 1
            return n <= usable and other.keys[:n] == job.keys[:n]

        at = usable // 2  # what shares more than half is the same there, and others mostly are not
        return any(shares(other) for other in fresh if len(other.keys) > at and other.keys[at] == job.keys[at])

    def _prefill(self, jobs: list[Job]) -> Flight:
        """Compute what is pending for some of the jobs, the shortest first."""
        longest, batch = 0, []
        for job in sorted(jobs, key=lambda j: j.pending):
            longest = max(longest, job.pending)
            if batch and longest * (len(batch) + 1) > self.max_prefill_tokens:
                break
            batch.append(job)
        batch.sort(key=lambda j: j.slot)
        tokens = self._clips.tokens(clip.recording for job in batch for clip in job.pending_clips())
        self._n_prefilled += sum(job.pending for job in batch)
        flight = self._steps.prefill(batch, tokens)
        for job in batch:  # who comes next may copy it: the device does one thing after another
            assert job.row is not None
            job.row.keys.extend(job.keys[len(job.row.keys) :])
        return flight

    def _collect(self, n_left: int) -> None:
        """Read what was drawn, until only so many flights are under way."""
        while len(self._flights) > n_left:
            flight = self._flights.popleft()
            now, n_steps = time.monotonic(), flight.n_steps
            for job, ids, logprobs in zip(flight.jobs, *flight.read(), strict=True):
                job.in_flight -= n_steps
                if job.over or job.reply.cancelled:
                    self._n_discarded += n_steps
                else:
                    self._accept(job, ids, logprobs, now)

    def _accept(self, job: Job, ids: list[int], logprobs: list[float], now: float) -> None:
        """Add what was drawn to a job, up to the end of its turn."""
        assert job.row is not None
        n_before = len(job.ids)
        n_finite = len(ids)
        if not all(map(math.isfinite, logprobs)):
            n_finite = next(i for i, logprob in enumerate(logprobs) if not math.isfinite(logprob))
        try:
            ended = job.writing.take(ids[:n_finite], logprobs[:n_finite])
        except Exception as error:  # noqa: BLE001 - the caller's code may raise anything, and the others must go on
            self._refuse(job, error)
            return
        job.keys.extend(job.ids[n_before:])
        job.row.keys.extend(job.keys[len(job.row.keys) : -1])  # the last id is computed with the next draw
        job.row.used_at = now
        n_taken = len(job.ids) - n_before
        self._n_decoded += n_taken
        self._n_discarded += len(ids) - n_taken
        if ended:
            self._leave(job)
            self._end(job, job.writing.turn())
        elif n_finite < len(ids):
            self._rows.spoil(job.row)
            self._refuse(job, EngineError(_NOT_FINITE))

    def _dictate(self, job: Job, number: int) -> int:
        """The id to write as this token of the turn, or -1 to draw one. Benchmarks and tests dictate here."""
        del job, number
        return -1

    def _leave(self, job: Job) -> None:
        job.over = True
        if job in self._active:
            self._active.remove(job)

    def _refuse(self, job: Job, error: Exception) -> None:
        """Fail one request; the others go on."""
        self._leave(job)
        self._end(job, error)

    def _end(self, job: Job, outcome: Turn | Exception) -> None:
        """What a request came to; its caller hears of it with those that end in the same tick."""
        job.reply.outcome = outcome
        self._ended.append(job.reply)

    def _hand_over(self) -> None:
        hand_over(self._ended)
        self._ended.clear()


def _is_small(thinker: Thinker) -> bool:
    """Whether a step is so short that the host should look at it rarely."""
    return sum(weight.numel() for weight in thinker.decoder.parameters()) < 1e9
