"""Answers that come bit by bit, to clients that may read slowly, say nothing, or be gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from echo_audio.errors import RequestError
from echo_audio.studio.guards import broken
from echo_audio.studio.house import House
from echo_audio.studio.story import Told

Result = TypeVar("Result")

Work = Callable[[Callable[[Told], None]], Coroutine[Any, Any, object]]
"""Does the work, telling what happens."""
Write = Callable[[Told], str]
"""How an event is written: one or more frames, or nothing."""
Complain = Callable[[RequestError], str]


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of some work, cancelled when its client goes away (then None)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _end(task, gone)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Server-sent events of some work. The work is cancelled when the client goes away or stops reading.

    Args:
        house: how long to be silent, and to wait for the client.
        work: told events are written as they come.
        write: an event as frames.
        complain: the frames for a refusal; the status has been sent by then.
        last: what ends the stream.
        after: called when it is over, however that came.
    """

    media_type = "text/event-stream"

    def __init__(
        self, house: House, work: Work, write: Write, complain: Complain, last: str = "",
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._after = after
        self._house, self._work, self._write, self._complain, self._last = house, work, write, complain, last
        self.status_code, self.background = 200, None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all, or as much as there is somebody to read."""
        gone = asyncio.ensure_future(_gone(receive))
        sending = asyncio.ensure_future(self._send_all(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(sending, gone)
            self._after()

    async def _send_all(self, send: Send) -> None:
        try:
            await self._patiently(send({"type": "http.response.start", "status": 200, "headers": self.raw_headers}))
            async with aclosing(self._texts()) as texts:
                async for text in texts:
                    await self._patiently(send({"type": "http.response.body", "body": text.encode(), "more_body": True}))
            await self._patiently(send({"type": "http.response.body", "body": self._last.encode(), "more_body": False}))
        except TimeoutError:  # the client has stopped reading; leaving here closes the connection
            return

    async def _patiently(self, sent: Awaitable[None]) -> None:
        async with asyncio.timeout(self._house.send_s):
            await sent

    async def _texts(self) -> AsyncGenerator[str]:
        """The frames, as far as they have come; several at once when the client reads slowly."""
        queue: asyncio.Queue[Told | None] = asyncio.Queue()
        task = asyncio.ensure_future(self._work(queue.put_nowait))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            over = False
            while not over:
                try:
                    async with asyncio.timeout(self._house.silence_s):  # wait_for of Python 3.11 may lose a cancellation
                        told = [await queue.get()]
                except TimeoutError:
                    yield ": still at it\n\n"
                    continue
                while not queue.empty():
                    told.append(queue.get_nowait())
                over = None in told
                if text := "".join(self._write(one) for one in told if one is not None):
                    yield text
            try:
                task.result()
            except RequestError as error:
                yield self._complain(error)
            except Exception as error:  # noqa: BLE001 - the status has been sent: all that is left is to say so, and log why
                yield self._complain(broken(error))
        finally:
            await _end(task)
