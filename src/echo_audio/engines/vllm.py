"""The vLLM engine: many transcripts on vLLM's asynchronous engine, ids in and ids out.

vLLM's own way from a request to its engine decodes, hashes and pads audio and expands placeholders, one request after
another. Here all of that is known already: the ids hold their placeholders, a clip's hash is its recording's id, and its
log-mel is computed once, in a thread. What is sent is the ids, and the features of clips that the engine has not seen.

A turn comes back whole (`vllm_turns`): what a step writes stays in vLLM's process until its turn ends.

Works with vLLM 0.23. Everything of vLLM that is used is named in `vllm_library.Library`, `vllm_scheduler`,
`vllm_worker` and `vllm_hearing`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from echo_audio.audio import Recording
from echo_audio.engines import interpreter
from echo_audio.engines.sampling import seed_of
from echo_audio.engines.shared_prompts import SharedPrompts
from echo_audio.engines.vllm_library import AUDIO, Library, arguments_of, check_hearing, keeps_turns, logprobs_of, params_of
from echo_audio.engines.writing import Writing
from echo_audio.errors import EngineError, ModelError
from echo_audio.listen import Clip, OnPiece, Request, Turn, TurnStop
from echo_audio.models import folders
from echo_audio.models.logmel import logmel
from echo_audio.models.qwen2_5_omni import Qwen25Omni

T = TypeVar("T")

_KEPT_FEATURES = 1024


class VllmEngine:
    """An `Engine` over vLLM's AsyncLLM, which lives on an event loop of its own in a thread.

    Args:
        make: makes the AsyncLLM; called on that loop.
        family: tokens of its model.
        library: vLLM's classes.
        max_positions: longest context; never more than the family's.
        workers: threads that compute log-mel.
        seeded: whether every draw follows from the request's seed. vLLM then draws row by row, which costs a little of
            each step; without, results differ from run to run.
        whole: whether vLLM's scheduler keeps turns (`vllm_scheduler`); if not, every token is sent here, and read here.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        family: Qwen25Omni,
        library: Library,
        *,
        max_positions: int | None = None,
        workers: int = 2,
        seeded: bool = True,
        whole: bool = False,
    ) -> None:
        interpreter.share()
        self.family, self.library, self.seeded, self.whole = family, library, seeded, whole
        self.max_positions = min(family.max_positions, max_positions or family.max_positions)
        self._why_closed = ""
        self._n_running = self._n_computed = self._n_sent = 0
        self._computing: OrderedDict[str, asyncio.Future[Tensor]] = OrderedDict()
        self._prompts = SharedPrompts()
        self._threads = concurrent.futures.ThreadPoolExecutor(workers, "echo-logmel", interpreter.alone)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="echo-vllm", daemon=True)
        self._thread.start()
        try:
            self.llm = self._call(self._start(make))
        except BaseException:
            self._stop_loop()
            raise

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        max_positions: int = 8192,
        max_rows: int = 256,
        gpu_memory: float = 0.85,
        workers: int = 2,
        seeded: bool = True,
        whole: bool = True,
        runner: int = 2,
        **options: Any,
    ) -> VllmEngine:
        """The engine for a model folder in the published layout.

        Args:
            gpu_memory: share of the GPU's memory that vLLM takes for weights and cache.
            whole: keep turns in vLLM's process until they end, where vLLM's scheduler is as we know it.
            runner: which of vLLM's two model runners (`vllm_second`).
            options: of vLLM's AsyncEngineArgs, on top.

        Raises:
            MissingExtraError: vLLM is not installed.
            ModelError: the folder is a thinker's alone.
        """
        library = Library.load()
        from vllm import AsyncEngineArgs  # pyright: ignore[reportMissingImports]
        from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]

        folder = folders.resolve(source)
        if "thinker_config" not in folders.read_json(folder / "config.json"):
            cure = f"vLLM wants the published layout: echo-audio export {source} OUT"
            raise ModelError(f"{folder} holds a thinker alone, and {cure}")
        family = Qwen25Omni.load(folder)
        length = int(options.get("max_model_len", min(max_positions, family.max_positions)))
        whole = whole and "scheduler_cls" not in options and keeps_turns()
        arguments = arguments_of(folder, length, max_rows, gpu_memory, whole=whole, runner=runner) | options

        def make() -> Any:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

        engine = cls(make, family, library, max_positions=length, workers=workers, seeded=seeded, whole=whole)
        engine._call(engine._asked(engine.llm.collective_rpc("echo_settle")))
        forbidden = forbidden_ids(family, _vocabulary(folder))
        engine._call(engine._asked(engine.llm.collective_rpc("echo_forbid", args=(forbidden,))))
        check_hearing(engine._call(engine._asked(engine.llm.collective_rpc("echo_hear")))[0])
        interpreter.keep()
        return engine

    async def _start(self, make: Callable[[], Any]) -> Any:
        llm = make()
        await llm.get_supported_tasks()  # from now on vLLM sends a request without giving the loop away in between
        return llm

    # ------------------------------------------------------------------------------------------ the protocol

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        """Sample one turn; see `Engine`.

        Raises:
            EngineError: the context is full, vLLM refused the request, failed on it, or has died.
        """
        if self._why_closed:
            raise EngineError(self._why_closed)
        n_ids = len(request.encoded.ids)
        if n_ids >= self.max_positions:
            raise EngineError(f"the context holds {n_ids} tokens and the engine takes {self.max_positions}")
        if request.max_new_tokens < 1:
            return Turn((), (), (), TurnStop.LENGTH)
        future = asyncio.run_coroutine_threadsafe(self._generate(request, on_piece), self._loop)
        try:
            return await asyncio.wrap_future(future)
        finally:
            future.cancel()

    def release(self, session: str) -> None:
        """vLLM keeps prefixes by their content, not by session: nothing to forget."""

    async def _generate(self, request: Request, on_piece: OnPiece | None) -> Turn:
        self._n_running += 1
        try:
            return await self._sample(request, on_piece)
        except self.library.dead as error:
            cause = error.__cause__ or error.__context__ or error
            self._why_closed = f"the vLLM engine died ({cause}); its log above says why. Make a new engine"
            raise EngineError(self._why_closed) from error
        except ValueError as error:
            if request.encoded.clips and self._n_running == 1:  # what was counted as sent was not
                await self.llm.reset_mm_cache()
            raise EngineError(f"vLLM refused the request: {error}") from error
        except _Told as told:
            raise told.error from None
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"vLLM failed on a request: {error.__cause__ or error}") from error
        finally:
            self._n_running -= 1

    async def _sample(self, request: Request, on_piece: OnPiece | None) -> Turn:
        key = (request.encoded.ids, tuple(clip.recording.id for clip in request.encoded.clips))
        leader = await self._prompts.lead(key)
        if leader is None:
            return await self._ask(request, on_piece)
        begin = partial(self._prompts.begin, key, leader)
        try:
            if leader.n_waiting:
                return await self._ask(request, on_piece, begin)
            begin()
            return await self._ask(request, on_piece)
        finally:
            self._prompts.end(key, leader)

    async def _ask(self, request: Request, on_piece: OnPiece | None, begin: Callable[[], None] | None = None) -> Turn:
        """One request, sent and read; `begin` is called at its first token."""
        allowance = min(request.max_new_tokens, self.max_positions - len(request.encoded.ids))
        writing = Writing(self.family, request.stop, allowance, None if on_piece is None else _guarded(on_piece))
        params = self._params(request, allowance, streaming=on_piece is not None, announced=begin is not None)
        prompt = await self._prompt(request)
        outputs = self.llm.generate(prompt, params, uuid.uuid4().hex)
        try:
            async for output in outputs:
                if begin is not None:
                    begin()
                completion = output.outputs[0]
                ids = list(completion.token_ids)
                if completion.finish_reason in ("error", "abort"):
                    raise EngineError(f"vLLM broke a request off ({completion.finish_reason}); ask again")
                if writing.take(ids, logprobs_of(output, len(writing.ids))):
                    break
        finally:
            await outputs.aclose()  # a request that is not finished is taken back
        return writing.turn()

    # ------------------------------------------------------------------------------------------ requests

    def _params(self, request: Request, allowance: int, *, streaming: bool, announced: bool) -> Any:
        turn = {"stop": list(request.stop), "announced": announced}
        seed = seed_of(request.sampling, request.turn) if self.seeded and request.sampling.temperature > 0 else None
        return params_of(
            self.library, request, seed, turn if self.whole and not streaming else None,
            max_tokens=allowance, stop_token_ids=sorted(self.family.ends),
            output_kind=self.library.delta if streaming or announced else self.library.final_only,
        )  # fmt: skip

    async def _prompt(self, request: Request) -> Any:
        """The finished input; by the time this returns, vLLM counts its clips as sent, so it must be sent at once."""
        ids, clips = list(request.encoded.ids), request.encoded.clips
        if not clips:
            return self.library.tokens_input(ids)
        have: dict[str, Tensor] = {}
        cache = self.llm.renderer.mm_processor_cache
        while missing := self._missing(clips, have, cache):
            found = await asyncio.gather(*(self._features(recording) for recording in missing))
            have |= {recording.id: features for recording, features in zip(missing, found, strict=True)}
        names = [clip.recording.id for clip in clips]
        for name in names:  # in the order in which the engine's own cache will see them
            if cache is not None:
                cache.touch_sender_cache_item(name)
        items = [self._item(name, have.get(name), cache) for name in names]
        places = [self.library.placeholder(offset=clip.position, length=clip.n_tokens) for clip in clips]
        return self.library.mm_input(ids, {AUDIO: items}, {AUDIO: names}, {AUDIO: places})

    @staticmethod
    def _missing(clips: Sequence[Clip], have: dict[str, Tensor], cache: Any) -> list[Recording]:
        """Recordings whose features must be sent, each once."""
        wanted = {clip.recording.id: clip.recording for clip in clips if clip.recording.id not in have}
        return [r for name, r in wanted.items() if cache is None or not cache.is_cached_item(name)]

    def _item(self, name: str, features: Tensor | None, cache: Any) -> Any:
        """What is sent for a clip: its features, or None where the engine has them."""
        if cache is not None and cache.is_cached_item(name):
            return cache.get_and_update_item(None, name)[0]
        assert features is not None
        item = self.library.audio_item(features)
        self._n_sent += 1
        self._computing.pop(name, None)
        return item if cache is None else cache.get_and_update_item((item, []), name)[0]

    async def _features(self, recording: Recording) -> Tensor:
        """Log-mel (128, n_frames) of a clip, computed once however many ask for it before it is sent."""
        if recording.id not in self._computing:
            self._n_computed += 1
            self._computing[recording.id] = self._loop.run_in_executor(self._threads, _logmel_of, recording)
            while len(self._computing) > _KEPT_FEATURES:  # of requests that were cancelled before they were sent
                self._computing.popitem(last=False)
        try:
            return await asyncio.shield(self._computing[recording.id])
        except RuntimeError:
            self._computing.pop(recording.id, None)
            raise

    # ------------------------------------------------------------------------------------------ weights, end

    @property
    def clips_computed(self) -> int:
        """Clips whose log-mel was computed here."""
        return self._n_computed

    @property
    def clips_sent(self) -> int:
        """Clips whose features travelled to vLLM's process."""
        return self._n_sent

    def forget(self) -> None:
        """Nothing computed so far counts any more: the weights have changed.

        Raises:
            EngineError: a request is in flight, or vLLM failed.
        """
        self._call(self._forget())

    def push_weights(self, path: Path) -> int:
        """Read new weights into the live engine, in place, and forget what the old ones computed.

        Args:
            path: a safetensors file under published names (`thinker.`...), best in memory (/dev/shm).

        Returns:
            The number of tensors.

        Raises:
            EngineError: a request is in flight, or vLLM failed.
        """
        return self._call(self._push(path))

    async def _push(self, path: Path) -> int:
        self._must_rest()
        counts = await self._asked(self.llm.collective_rpc("echo_take_weights", args=(str(path),)))
        await self._forget()
        return int(counts[0])

    async def _forget(self) -> None:
        self._must_rest()
        for wait_s in (0.0, 0.01, 0.1, 1.0):  # a row that ended a moment ago may still be in a step
            await asyncio.sleep(wait_s)
            if await self._asked(self.llm.reset_prefix_cache()):
                break
        else:
            raise EngineError("vLLM still holds what the old weights computed: is anybody else using it?")
        await self._asked(self.llm.reset_encoder_cache())

    def _must_rest(self) -> None:
        if self._n_running:
            raise EngineError("the engine is at work; let every request end before its weights change")

    async def _asked(self, answer: Coroutine[Any, Any, T]) -> T:
        try:
            return await answer
        except Exception as error:
            raise EngineError(f"vLLM could not change its state: {error}") from error

    def close(self) -> None:
        """End vLLM's process; requests in flight fail."""
        if not self._why_closed:
            self._why_closed = "the engine is closed; make a new one"
        if self._loop.is_closed():
            return
        self._call(self._end())
        self._stop_loop()

    async def _end(self) -> None:
        """Give those in flight a chance to be told."""
        mine = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not mine and getattr(task.get_coro(), "__name__", "") == "_generate":
                task.cancel()
        await asyncio.sleep(0)
        self.llm.shutdown()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._threads.shutdown(cancel_futures=True)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the engine's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Told(Exception):  # noqa: N818 - carries an error, is none
    """An error of the caller's own `on_piece`, on its way back to the caller."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _guarded(on_piece: OnPiece) -> OnPiece:
    """The callback, whose errors are handed to who gave it instead of being taken for vLLM's."""

    def told(piece: str) -> None:
        try:
            on_piece(piece)
        except Exception as error:
            raise _Told(error) from error

    return told


def _logmel_of(recording: Recording) -> Tensor:
    return logmel([recording.samples])[0]


def forbidden_ids(family: Qwen25Omni, vocabulary: int) -> list[int]:
    """Ids that no policy may write: control ids, and those that no text has."""
    return sorted({*family.never_sampled, *range(len(family.token_bytes), vocabulary)})


def _vocabulary(folder: Path) -> int:
    return int(folders.thinker_config(folder)["text_config"]["vocab_size"])
