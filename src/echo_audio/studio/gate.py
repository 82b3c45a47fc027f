"""Who may listen now, who waits, and who is told to come back later."""

from __future__ import annotations

import asyncio
import math

from echo_audio.errors import RequestError


class Gate:
    """So many listen at once; some more wait, in the order they came; the others are refused.

    Args:
        at_once: places.
        waiting: how many may wait for one.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self.at_once, self.most_waiting = at_once, waiting
        self._places = asyncio.Semaphore(at_once)
        self._queue: list[Ticket] = []
        self.n_running = 0
        self._typical_s = 2.0

    @property
    def n_waiting(self) -> int:
        """Tickets that have no place yet."""
        return len(self._queue)

    def ticket(self) -> Ticket:
        """A right to wait for a place.

        Raises:
            RequestError: 429, with the seconds after which a place may be free.
        """
        self.check()
        ticket = Ticket(self)
        self._queue.append(ticket)
        return ticket

    def check(self) -> None:
        """Refuse early, before a recording is received and decoded.

        Raises:
            RequestError: as `ticket`.
        """
        if self.n_running + self.n_waiting >= self.at_once + self.most_waiting:
            after_s = max(1, math.ceil(self._typical_s * self.n_waiting / self.at_once))
            many = f"{self.n_running} questions are being answered and {self.n_waiting} wait"
            raise RequestError(f"{many}; ask again in {after_s} s", 429, "busy", after_s)

    def position(self, ticket: Ticket) -> int:
        """How many wait before this one."""
        return self._queue.index(ticket) if ticket in self._queue else 0

    async def enter(self, ticket: Ticket) -> None:
        """Wait for a place."""
        try:
            await self._places.acquire()
        finally:
            self.forget(ticket)
        self.n_running += 1

    def forget(self, ticket: Ticket) -> None:
        """It does not wait any more."""
        if ticket in self._queue:
            self._queue.remove(ticket)

    def leave(self, took_s: float) -> None:
        """Give a place back."""
        self.n_running -= 1
        self._typical_s += 0.1 * (took_s - self._typical_s)
        self._places.release()


class Ticket:
    """One request's right to a place."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._began_s: float | None = None

    @property
    def position(self) -> int:
        """How many wait before it."""
        return self._gate.position(self)

    def drop(self) -> None:
        """It will not be used. Harmless afterwards."""
        self._gate.forget(self)

    async def enter(self) -> None:
        """Wait for the place."""
        await self._gate.enter(self)
        self._began_s = asyncio.get_running_loop().time()

    def leave(self) -> None:
        """Give the place back."""
        assert self._began_s is not None
        self._gate.leave(asyncio.get_running_loop().time() - self._began_s)
