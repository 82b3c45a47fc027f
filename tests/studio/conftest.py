"""The fixtures of the studio's tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from studio_helpers import Client, Engine, Family, httpx

from echo_audio.studio.api import make_app
from echo_audio.studio.house import House


@pytest.fixture
def engine() -> Engine:
    """The engine every request leads to; set its `turns`."""
    return Engine()


@pytest.fixture
def client(engine: Engine) -> Client:
    """A client of the application, without a socket between them."""

    @contextlib.asynccontextmanager
    async def made(house: House | None = None, **headers: str) -> AsyncIterator[Any]:
        app = make_app(engine, Family(), "scripted", house)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            client.studio = app.state.studio
            yield client

    return made
