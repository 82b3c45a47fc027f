"""Running an application under uvicorn: bounded, patient with nobody, gone quickly when it is told to go."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from echo_audio.errors import ConfigError
from echo_audio.studio.house import House

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine to itself."""


def patient(head_s: float) -> type[H11Protocol]:
    """uvicorn's protocol, which closes connections whose next request does not begin, or whose head does not arrive, in time."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(head_s, self._look, True)

        def _look(self, was_waiting: bool) -> None:
            if self.transport.is_closing():
                return
            idle = self.cycle is None or self.cycle.response_complete
            waiting = idle and (self.cycle is None or self.conn.trailing_data[0] != b"")  # a part of a head counts as none
            if waiting and was_waiting:
                self.transport.close()
            else:
                self.loop.call_later(head_s, self._look, waiting)

    return Protocol


def is_loopback(host: str) -> bool:
    """Whether a server on this address can be reached from this machine only."""
    return host in ("localhost", "::1") or host.startswith("127.")


def bound(host: str, port: int) -> socket.socket:
    """A socket on an address; port 0 takes any free one.

    Raises:
        ConfigError: the address is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {why}; give another --port, or 0 for any free one") from None
    return sock


def serve(app: FastAPI, sock: socket.socket, house: House, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM; what is being answered then has some seconds to end.

    Args:
        ready: called when requests are taken.
    """
    config = uvicorn.Config(
        app,
        http=patient(house.head_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=64 << 10,
        backlog=1024,
        limit_concurrency=1000,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    asyncio.run(Server(config).serve([sock]))
