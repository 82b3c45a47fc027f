"""A chat endpoint on this machine that speaks OpenAI's protocol: rules instead of a model behind it, faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from echo_audio.data.eaqa import rules

MOST_BYTES = 64 * 2**20
"""Of one request."""


class Fault(StrEnum):
    """What may go wrong, each with its share of the requests."""

    SLOW = "slow"
    """No reply before the client gives up (`slow_s`)."""
    BUSY = "busy"
    """HTTP 429 with Retry-After."""
    DOWN = "down"
    """HTTP 500."""
    HALF = "half"
    """The connection ends within the reply."""
    BROKEN = "broken"
    """HTTP 200 with a body that is no JSON."""
    GARBLED = "garbled"
    """A proper reply whose text breaks off within its JSON."""
    LANGUAGE = "language"
    """A proper reply in another language."""
    MISTAKE = "mistake"
    """A proper reply with something wrong in it."""


@dataclass(slots=True)
class Behaviour:
    """How the endpoint behaves.

    Args:
        faults: share of requests, by fault. A request that failed once is answered when it is repeated, so that patience pays.
        slow_s: how long a slow reply takes.
        key: where given, requests must bear it.
    """

    faults: Mapping[Fault, float] = field(default_factory=dict)
    slow_s: float = 5.0
    key: str = ""


class TestEndpoint(ThreadingHTTPServer):
    """The server.

    Args:
        behaviour: how it behaves.
        port: 0 takes a free one.

    Attributes:
        counts: requests by what was answered.
    """

    daemon_threads = True
    request_queue_size = 512
    __test__ = False  # for pytest: no test, whatever its name

    def __init__(self, behaviour: Behaviour | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.behaviour = behaviour or Behaviour()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._failed: set[str] = set()
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """Its base url."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def count(self, what: str) -> None:
        """One more of these."""
        with self._lock:
            self.counts[what] += 1

    def fault_for(self, body: bytes) -> Fault | None:
        """What goes wrong with this request; it follows from the request alone, and each fails at most once on its way."""
        digest = hashlib.blake2b(body, digest_size=8).digest()
        chance, at = int.from_bytes(digest, "little") / 2**64, 0.0
        for fault, share in self.behaviour.faults.items():
            if fault in (Fault.LANGUAGE, Fault.MISTAKE):
                continue
            at += share
            if chance < at:
                if fault is Fault.GARBLED:
                    return fault
                with self._lock:
                    again = digest.hex() in self._failed
                    self._failed.add(digest.hex())
                return None if again else fault
        return None


@contextmanager
def serving(behaviour: Behaviour | None = None, port: int = 0) -> Iterator[TestEndpoint]:
    """The endpoint, served by a thread while the block lasts."""
    with TestEndpoint(behaviour, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: TestEndpoint  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: requests hold keys."""

    def do_POST(self) -> None:
        """One request."""
        n_bytes = int(self.headers.get("Content-Length") or 0)
        if not 0 < n_bytes <= MOST_BYTES:
            self._send(413, {"error": {"message": "too large"}})
            return
        body = self.rfile.read(n_bytes)
        behaviour = self.server.behaviour
        if behaviour.key and self.headers.get("Authorization") != f"Bearer {behaviour.key}":
            self.server.count("refused")
            self._send(401, {"error": {"message": f"bad key: {self.headers.get('Authorization')}"}})
            return
        if not self.path.endswith("/chat/completions"):
            self._send(404, {"error": {"message": "there is only /v1/chat/completions here"}})
            return
        fault = self.server.fault_for(body)
        self.server.count(str(fault or "well"))
        self._fail(fault, body) if fault else self._reply(body)

    def _fail(self, fault: Fault, body: bytes) -> None:
        if fault is Fault.SLOW:
            self.server.stopping.wait(self.server.behaviour.slow_s)
            self.close_connection = True
        elif fault is Fault.BUSY:
            self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"})
        elif fault is Fault.DOWN:
            self._send(500, {"error": {"message": "something broke"}})
        elif fault is Fault.GARBLED:
            self._reply(body, garbled=True)
        else:
            self._reply(body, cut=fault)

    def _reply(self, body: bytes, garbled: bool = False, cut: Fault | None = None) -> None:
        try:
            request = json.loads(body)
            shares = self.server.behaviour.faults
            mistakes, language = shares.get(Fault.MISTAKE, 0.0), shares.get(Fault.LANGUAGE, 0.0)
            text = rules.reply_to(request["messages"], int(request.get("seed") or 0), mistakes, language)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._send(400, {"error": {"message": f"not a request: {error!r}"}})
            return
        text = text[: len(text) // 2] if garbled else text
        n_in = rules.n_tokens(request["messages"])
        reply = {
            "id": "test",
            "object": "chat.completion",
            "model": str(request.get("model")),
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": n_in, "completion_tokens": len(text) // 4, "total_tokens": n_in + len(text) // 4},
        }
        self._send(200, reply, cut=cut)

    def _send(self, status: int, value: object, more: Mapping[str, str] | None = None, cut: Fault | None = None) -> None:
        content = json.dumps(value).encode()
        sent = content[: len(content) // 2] if cut else content
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if cut is Fault.HALF else len(sent)))
        for name, said in (more or {}).items():
            self.send_header(name, said)
        self.end_headers()
        self.wfile.write(sent)
        if cut is Fault.HALF:
            self.close_connection = True
