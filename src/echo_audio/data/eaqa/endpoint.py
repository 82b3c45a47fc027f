"""A chat endpoint that speaks OpenAI's protocol: cached, rate-limited, patient, and silent about its key."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2

from echo_audio.data.eaqa.calls import Calls, Reply, key_of
from echo_audio.data.eaqa.settings import EndpointSettings
from echo_audio.errors import ConfigError, EngineError

LONGEST_WAIT_S = 60.0
MOST_BYTES = 16 * 2**20
"""Of one reply."""
_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_HIDDEN = "[key]"

Message = Mapping[str, Any]


def check_url(url: str) -> str:
    """The base url, when it holds no secret: it is written into the run's config.

    Raises:
        ConfigError: no web address, or one with a password or a query. The message does not repeat it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("an endpoint's url must be a web address like https://host/v1, or 'test'")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("an endpoint's url must hold no password and no query; put the key where key_env says")
    return url.rstrip("/")


class Pace:
    """At most so many starts a minute, evenly spread."""

    def __init__(self, per_minute: float) -> None:
        self._every_s = 60.0 / per_minute if per_minute else 0.0
        self._next_s = 0.0

    async def wait(self) -> None:
        """Until it is one's turn."""
        now_s = time.monotonic()
        turn_s = max(now_s, self._next_s)
        self._next_s = turn_s + self._every_s
        if turn_s > now_s:
            await asyncio.sleep(turn_s - now_s)


class ChatEndpoint:
    """Chat completions over HTTP.

    Args:
        settings: which endpoint, and how patiently.
        calls: the cache.
        url: the base url in use (that of the test endpoint is known only when it runs).
        key: sent as bearer token; appears in no message and no file.
    """

    def __init__(self, settings: EndpointSettings, calls: Calls, url: str, key: str = "") -> None:
        self.settings, self.calls, self._key = settings, calls, key
        self._url = check_url(url) + "/chat/completions"
        self._pace = Pace(settings.requests_per_minute)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=None)  # how many there are at once is the run's business
        self._client = httpx2.AsyncClient(headers=headers, timeout=settings.timeout_s, limits=limits)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def chat(
        self, stage: str, messages: Sequence[Message], seed: int, schema: Mapping[str, Any] | None = None, name: str = ""
    ) -> Reply:
        """The reply to these messages, from the cache where it was given before.

        Args:
            stage: what it is for, on the bill.
            seed: another one asks for another reply.
            schema: JSON schema of the reply.
            name: of what is heard, instead of the audio, in the address of the request.

        Raises:
            EngineError: the endpoint failed at every try.
            ConfigError: it refuses the key, the model or the request.
        """
        body = self._body(messages, seed, schema)
        key = key_of(body if not name else {**body, "messages": [name, _texts(messages)]})
        known = self.calls.get(key)
        if known is not None:
            return known
        reply = await self._asked(body)
        reply = replace(reply, text=self.hidden(reply.text))
        self.calls.put(key, stage, self.settings.model, reply)
        return reply

    def _body(self, messages: Sequence[Message], seed: int, schema: Mapping[str, Any] | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": list(messages),
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": seed,
        }
        if schema is not None and self.settings.output == "schema":
            told = {"name": "reply", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": told}
        elif schema is not None and self.settings.output == "object":
            body["response_format"] = {"type": "json_object"}
        return body

    async def _asked(self, body: Mapping[str, Any]) -> Reply:
        """Try until there is a reply."""
        why = ""
        for attempt in range(self.settings.tries):
            await self._pace.wait()
            wait_s = min(LONGEST_WAIT_S, self.settings.wait_s * 2.0**attempt * random.uniform(0.75, 1.25))
            try:
                async with asyncio.timeout(self.settings.timeout_s):  # for all of it: a reply may also come drop by drop
                    status, headers, content = await self._post(body)
            except (httpx2.TimeoutException, TimeoutError):
                why = f"no reply within {self.settings.timeout_s:g} s"
            except httpx2.HTTPError as error:
                why = f"the connection failed ({type(error).__name__}: {error})"
            else:
                if status == 200:
                    reply = _read(content)
                    if reply is not None:
                        return reply
                    why = "its reply is no chat completion"
                elif status in _TRY_AGAIN:
                    why = f"HTTP {status}"
                    wait_s = max(wait_s, _retry_after_s(headers))
                else:
                    raise self._refused(status, content.decode(errors="replace"))
            if attempt + 1 < self.settings.tries:
                await asyncio.sleep(wait_s)
        raise EngineError(self.hidden(f"the endpoint for {self.settings.model} failed {self.settings.tries} times; last: {why}"))

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and content, of which no more is read than any reply has."""
        content = bytearray()
        async with self._client.stream("POST", self._url, json=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    break
        return response.status_code, response.headers, bytes(content[:MOST_BYTES])

    def _refused(self, status: int, text: str) -> ConfigError:
        said = self.hidden(" ".join(text.split()))[:300]
        cure = {
            401: f"put a valid key into the environment variable {self.settings.key_env or '(set key_env)'}",
            403: f"the key in {self.settings.key_env or '(set key_env)'} may not use this model",
            404: "check url and model",
        }.get(status, "check model, max_tokens and output")
        return ConfigError(f"the endpoint for {self.settings.model} refuses the request (HTTP {status}): {cure}. It says: {said}")

    def hidden(self, text: str) -> str:
        """The text without the key: some endpoints repeat it in their errors."""
        return text.replace(self._key, _HIDDEN) if self._key else text


def _texts(messages: Sequence[Message]) -> list[Any]:
    """Messages without audio."""
    parts = [m["content"] if isinstance(m["content"], list) else [{"text": m["content"]}] for m in messages]
    return [part["text"] for content in parts for part in content if "text" in part]


def _read(content: bytes) -> Reply | None:
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        text = choice["message"]["content"]
        usage = body.get("usage") or {}
        whole = choice.get("finish_reason") != "length"
        n_in, n_out = (max(0, int(usage.get(name) or 0)) for name in ("prompt_tokens", "completion_tokens"))
        reply = Reply(text, whole, n_in, n_out)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return reply if isinstance(text, str) else None


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return min(LONGEST_WAIT_S, max(0.0, float(headers.get("retry-after", "0"))))
    except ValueError:  # a date
        return 0.0
