"""Streams to clients that stop reading, go away before anything is sent, or hear nothing for a while."""

from __future__ import annotations

import asyncio
import time

from echo_audio.errors import RequestError
from echo_audio.studio.gate import Gate
from echo_audio.studio.house import House
from echo_audio.studio.story import Told
from echo_audio.studio.streams import EventStream


class Client:
    """An ASGI client: reads so many messages, then no more; goes away after some seconds."""

    def __init__(self, reads: int = 1000, leaves_s: float = 1000.0) -> None:
        self.reads, self.leaves_s = reads, leaves_s
        self.got: list[str] = []

    async def receive(self) -> dict:
        await asyncio.sleep(self.leaves_s)
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        self.reads -= 1
        if self.reads < 0:
            await asyncio.sleep(1000)
        self.got.append(message.get("body", b"").decode())


def stream(house: House, work) -> tuple[EventStream, list[str]]:
    ended: list[str] = []

    async def watched(tell) -> None:
        try:
            await work(tell)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    return EventStream(house, watched, Told.frame, lambda error: f"error {error}", "end", lambda: ended.append("after")), ended


def run(client: Client, response: EventStream) -> float:
    began = time.monotonic()
    asyncio.run(asyncio.wait_for(response({"type": "http"}, client.receive, client.send), 10))
    return time.monotonic() - began


async def talk(tell) -> None:
    while True:
        tell(Told("text", {"text": "a"}))
        await asyncio.sleep(0.01)


def test_a_client_that_stops_reading_is_given_up() -> None:
    response, ended = stream(House(send_s=0.2), talk)
    assert run(Client(reads=5), response) < 2
    assert ended == ["cancelled", "after"]


def test_a_client_that_is_gone_ends_the_work() -> None:
    response, ended = stream(House(), talk)
    assert run(Client(leaves_s=0.2), response) < 2
    assert ended == ["cancelled", "after"]


def test_silence_is_broken_by_signs_of_life() -> None:
    client = Client()
    response, ended = stream(House(silence_s=0.05), lambda _: asyncio.sleep(0.3))
    run(client, response)
    assert 2 <= client.got.count(": still at it\n\n") <= 6
    assert client.got[-1] == "end" and ended == ["after"]


def test_a_refusal_in_mid_stream_is_written_into_it() -> None:
    async def refuse(tell) -> None:
        tell(Told("text", {"text": "a"}))
        raise RequestError("too long")

    client = Client()
    response, _ = stream(House(), refuse)
    run(client, response)
    assert client.got[-2:] == ["error too long", "end"]


def test_a_ticket_that_is_dropped_leaves_the_queue() -> None:
    async def scene() -> None:
        gate = Gate(1, 2)
        first, second, third = gate.ticket(), gate.ticket(), gate.ticket()
        await first.enter()
        waiting = asyncio.create_task(second.enter())
        await asyncio.sleep(0)
        assert (gate.n_running, gate.n_waiting, third.position) == (1, 2, 1)
        third.drop()
        third.drop()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.n_waiting == 0
        first.leave()
        await gate.ticket().enter()
        assert gate.n_running == 1

    asyncio.run(scene())
