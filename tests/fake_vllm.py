"""vLLM's asynchronous engine as Echo sees it, computed by the tiny thinker on the CPU.

It keeps what the real one keeps: the features of a clip by its hash, once sent, on both sides of a process boundary; and
fails where the real one would: a clip that is neither sent nor known, a prompt that is too long, an engine that is dead.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echo_audio.engines.vllm_library import Library
from echo_audio.engines.vllm_turns import Turns
from echo_audio.models.thinker import Thinker


class Dead(Exception):  # noqa: N818 - named as vLLM's is used here
    """The engine's process is gone."""


class Params(SimpleNamespace):
    """A request's settings."""


FAKE = Library(
    Params,
    "final",
    "delta",
    lambda ids: {"type": "token", "prompt_token_ids": ids},
    lambda ids, kwargs, hashes, places: {
        "type": "multimodal", "prompt_token_ids": ids, "mm_kwargs": kwargs, "mm_hashes": hashes, "mm_placeholders": places,
    },
    SimpleNamespace,
    lambda features: features,
    Dead,
)  # fmt: skip


class Known:
    """The sending side's cache: which hashes the other side has, the one not used for longest goes first."""

    def __init__(self, size: int) -> None:
        self.size, self.names = size, OrderedDict[str, None]()

    def is_cached_item(self, name: str) -> bool:
        return name in self.names

    def touch_sender_cache_item(self, name: str) -> None:
        if name in self.names:
            self.names.move_to_end(name)

    def get_and_update_item(self, item: tuple[Any, list[Any]] | None, name: str) -> tuple[Any, list[Any]]:
        if name in self.names:
            return None, []
        assert item is not None
        self.names[name] = None
        if len(self.names) > self.size:
            self.names.popitem(last=False)
        return item


@dataclass
class FakeLLM:
    """The engine.

    Args:
        dictation: ids to write at the beginning of a turn, by the number of clips in its prompt.
        size: clips that the caches hold.
    """

    thinker: Thinker
    dictation: dict[int, tuple[int, ...]] = field(default_factory=dict)
    size: int = 100
    die_after: int | None = None
    deaf: bool = False
    max_len: int = 4096
    resets: bool = True

    def __post_init__(self) -> None:
        self.renderer = SimpleNamespace(mm_processor_cache=Known(self.size))
        self.held = OrderedDict[str, Tensor]()
        self.calls: list[Any] = []
        self.requests: list[tuple[dict[str, Any], Params]] = []
        self.taken_back: list[str] = []
        self.n_tokens = 0
        self.turns = Turns(self.thinker.family.token_bytes)

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def reset_prefix_cache(self) -> bool:
        self.calls.append("prefix")
        return self.resets

    async def reset_encoder_cache(self) -> None:
        self.calls.append("encoder")

    async def reset_mm_cache(self) -> None:
        self.calls.append("mm")

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        self.calls.append((method, *args))
        return [3]

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    async def generate(self, prompt: dict[str, Any], params: Params, request_id: str) -> AsyncIterator[Any]:
        if len(prompt["prompt_token_ids"]) >= self.max_len:
            raise ValueError("the prompt is too long")
        self.requests.append((prompt, params))
        embeds = self._embeds(prompt)
        self.turns.begin(request_id, getattr(params, "extra_args", None))
        written: list[int] = []
        logprobs: list[float] = []
        state = np.random.default_rng(params.seed)
        text, done = "", False
        try:
            while not done:
                await asyncio.sleep(0)
                self.n_tokens += 1
                if self.die_after is not None and self.n_tokens > self.die_after:
                    raise Dead("see the log") from MemoryError("the GPU is full")
                token, logprob = self._draw(embeds, written, prompt, params, state)
                written.append(token)
                logprobs.append(logprob)
                embeds = torch.cat([embeds, self.thinker.embed(torch.tensor([token]))])
                text = self.thinker.family.decode(written)
                stopped = token in params.stop_token_ids or any(stop in text for stop in getattr(params, "stop", ()))
                stopped = stopped or self.turns.completed(request_id, written)
                done = stopped or len(written) >= params.max_tokens
                output = self._step(request_id, token, ("stop" if stopped else "length") if done else None)
                if not self.turns.passes(output, [logprob]):
                    continue
                if done or params.output_kind == "delta":
                    whole = output.kv_transfer_params is not None
                    new = output.new_token_ids if params.output_kind == "delta" else written
                    told = [] if whole else logprobs[-len(new) :]
                    yield self._output(new, told, output.finish_reason, output.kv_transfer_params)
        except (asyncio.CancelledError, GeneratorExit):
            if not done:
                self.taken_back.append(request_id)
                self.turns.forget([request_id])
            raise

    def _embeds(self, prompt: dict[str, Any]) -> Tensor:
        embeds = self.thinker.embed(torch.tensor(prompt["prompt_token_ids"])).detach().clone()
        if prompt["type"] == "token":
            return embeds
        names, items, places = (prompt[key]["audio"] for key in ("mm_hashes", "mm_kwargs", "mm_placeholders"))
        for name in names:
            if name in self.held:
                self.held.move_to_end(name)
        for name, item, place in zip(names, items, places, strict=True):
            if name not in self.held:
                assert item is not None, f"the engine's process has never seen {name}: it dies"
                self.held[name] = item
                if len(self.held) > self.size:
                    self.held.popitem(last=False)
            features = self.held[name]
            with torch.no_grad():
                tokens = self.thinker.encode_features([features])[0]
            assert len(tokens) == place.length
            if not self.deaf:
                embeds[place.offset : place.offset + place.length] = tokens
        return embeds

    def _draw(self, embeds: Tensor, written: list[int], prompt: dict[str, Any], params: Params, state: Any) -> tuple[int, float]:
        with torch.no_grad():
            positions = torch.arange(len(embeds))[None]
            logits = self.thinker.logits(self.thinker.decode(embeds[None], positions)[0, -1])
        logprobs = logits.log_softmax(-1)
        n_clips = len(prompt["mm_hashes"]["audio"]) if prompt["type"] == "multimodal" else 0
        dictated = self.dictation.get(n_clips, ())
        if len(written) < len(dictated):
            token = dictated[len(written)]
        elif params.temperature == 0:
            token = int(logits.argmax())
        else:
            chances = (logits / params.temperature).softmax(-1).double().numpy()
            token = int(state.choice(len(chances), p=chances / chances.sum()))
        return token, float(logprobs[token])

    @staticmethod
    def _step(request_id: str, token: int, reason: str | None) -> Any:
        return SimpleNamespace(
            request_id=request_id, new_token_ids=[token], finish_reason=reason, prefill_stats=None, kv_transfer_params=None
        )

    @staticmethod
    def _output(ids: list[int], logprobs: list[float], reason: str | None, more: Any = None) -> Any:
        flat = SimpleNamespace(start_indices=list(range(len(logprobs))), logprobs=list(logprobs))
        completion = SimpleNamespace(token_ids=list(ids), logprobs=flat, finish_reason=reason)
        return SimpleNamespace(outputs=[completion], finished=reason is not None, kv_transfer_params=more)
