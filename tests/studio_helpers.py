"""The studio's server in this process, with turns written by the test instead of a model; and recordings to send it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers import noise

from echo_audio.audio import encode_flac
from echo_audio.engines.scripted import Script, ScriptedEngine, ScriptedFamily
from echo_audio.listen import OnPiece, Request, Turn
from echo_audio.transcript import Mode, Question

pytest.importorskip("fastapi", reason="needs the extra serve")
httpx = pytest.importorskip("httpx2", reason="needs httpx2")

from echo_audio.studio.api import make_app  # noqa: E402
from echo_audio.studio.house import House  # noqa: E402

REASONING = ("<think>I look for the bell <seg>1.2, 1.9</seg>", ", and it is bright.</think>\n<answer>a bell</answer>")
RESPONSE = "".join(REASONING)
QUESTION = "What is heard?"
FLAC = encode_flac(noise(4.0))
OTHER = encode_flac(noise(3.0, seed=1))


class Family(ScriptedFamily):
    """The scripted family with the plainest prompt."""

    def prompt(self, question: Question, mode: Mode) -> str:
        return f"{question.text} {' | '.join(question.choices)} {mode}"


@dataclass
class Engine:
    """Says the same turns to every transcript, a piece every `pause_s`, and begins each turn after `begin_s`."""

    turns: Sequence[Script] = REASONING
    pause_s: float = 0.0
    begin_s: float = 0.0
    sessions: dict[str, ScriptedEngine] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    cancelled: int = 0

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        self.requests.append(request)
        own = self.sessions.setdefault(request.session, ScriptedEngine(self.turns))
        await asyncio.sleep(self.begin_s)
        if not self.pause_s:
            return await own.generate(request, on_piece)
        pieces: list[str] = []
        turn = await own.generate(request, pieces.append)
        for piece in pieces:
            try:
                await asyncio.sleep(self.pause_s)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if on_piece is not None:
                on_piece(piece)
        return turn

    def release(self, session: str) -> None:
        self.sessions.pop(session, None)
        self.released.append(session)


Client = Callable[..., contextlib.AbstractAsyncContextManager[Any]]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def asked(**more: Any) -> dict[str, Any]:
    """The body of a question to /v1/listen."""
    return {"question": QUESTION, "audio": b64(FLAC), **more}


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream: name and data."""
    events = []
    for frame in text.split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith(":")]
        if lines:
            (name,) = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
            (data,) = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
            events.append((name, json.loads(data)))
    return events


@dataclass
class Served:
    """A server on a socket of its own, in a thread."""

    url: str
    stop: Callable[[], None]
    studio: Any


@contextlib.contextmanager
def serving(engine: Any, family: Any = None, model: str = "scripted", house: House | None = None) -> Iterator[Served]:
    """Serve an engine on a free port of loopback until the context is left."""
    with serving_app(make_app(engine, family or Family(), model, house)) as served:
        yield served


@contextlib.contextmanager
def serving_app(app: Any) -> Iterator[Served]:
    """Serve an application likewise."""
    import uvicorn

    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
    thread.start()
    for _ in range(1000):
        if server.started:
            break
        time.sleep(0.01)

    def stop() -> None:
        server.should_exit = True
        thread.join(20)
        sock.close()

    try:
        yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}", stop, getattr(app.state, "studio", None))
    finally:
        stop()
