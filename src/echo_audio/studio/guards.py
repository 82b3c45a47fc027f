"""What stands before every route: who may come in, from where, and what is said about it afterwards."""

from __future__ import annotations

import hmac
import logging
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo_audio.errors import RequestError
from echo_audio.studio.house import House
from echo_audio.studio.metrics import Metrics
from echo_audio.studio.openai import complaint

log = logging.getLogger("echo_audio.studio")

_OPEN = ("/health", "/", "/page/")
"""Without a key: the page itself, which holds nothing and asks for the key; and whether the server lives."""
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def refusal(error: RequestError) -> JSONResponse:
    """An error as a response."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(complaint(error), error.status, headers)


def broken(error: Exception) -> RequestError:
    """What a client is told of a fault in the server; the log gets its cause under the same name."""
    name = uuid.uuid4().hex[:8]
    log.error("failure %s", name, exc_info=error)
    return RequestError(f"something broke in the server; its log tells what, under {name}", 500, "broken")


class Guard:
    """Checks a request before its route sees it, and writes one line about it afterwards: no audio, no keys, no questions.

    Args:
        app: what is guarded.
        house: the key and the host names.
        metrics: counts it.
    """

    def __init__(self, app: ASGIApp, house: House, metrics: Metrics | None = None) -> None:
        self._app, self._house, self._metrics = app, house, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        status, began_s = 0, time.monotonic()

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            try:
                self._check(scope)
            except RequestError as error:
                await refusal(error)(scope, receive, told)
            else:
                await self._app(scope, receive, told)
        except Exception:
            status = status or 500  # what broke is logged, and answered, outside of this
            raise
        finally:
            self._record(scope, status, time.monotonic() - began_s)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._house.hosts and _bare(host) not in self._house.hosts:
            known = " or ".join(self._house.hosts)
            raise RequestError(f"this server answers to {known} only; open it under that name", 421, "wrong_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RequestError("this server takes no requests from pages of other sites", 403, "wrong_origin")
        path = scope["path"]
        is_open = any(path == way or (len(way) > 1 and way.endswith("/") and path.startswith(way)) for way in _OPEN)
        if self._house.key is not None and not is_open:
            given = headers.get("authorization", "")
            kind, _, key = given.partition(" ")
            same = hmac.compare_digest(key.strip().encode(), self._house.key.encode())
            if kind.lower() != "bearer" or not same:
                raise RequestError("this server wants its API key, as `Authorization: Bearer KEY`", 401, "invalid_api_key")

    def _record(self, scope: MutableMapping[str, Any], status: int, took_s: float) -> None:
        route = scope.get("route")
        name = getattr(route, "path", "none") if route is not None else "none"
        shown = str(status) if status else "gone"
        if self._metrics is not None:
            self._metrics.requests.labels(name, shown).inc()
            self._metrics.request_s.labels(name).observe(took_s)
        log.info("%s %s %s %.0f ms", scope["method"] if scope["method"].isalpha() else "?", name, shown, took_s * 1000)


def _bare(host: str) -> str:
    """A host without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
