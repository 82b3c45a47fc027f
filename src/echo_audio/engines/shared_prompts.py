"""Equal prompts that arrive together: one computes the prompt, the others start when it is in the engine's cache."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable


class SharedPrompt:
    """One prompt on its way into the cache."""

    def __init__(self) -> None:
        self.n_waiting = 0
        self._done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def wait(self) -> bool:
        """Until it is in the cache (True), or who computed it failed."""
        self.n_waiting += 1
        return await asyncio.shield(self._done)

    def settle(self, cached: bool) -> None:
        """The first call counts."""
        if not self._done.done():
            self._done.set_result(cached)


class SharedPrompts:
    """Who computes which prompt now; of one event loop.

    Args:
        window_s: requests that come this close to each other came together. Requests are handed over from other threads,
            one by one, so that "in one turn of the loop" would miss them.
    """

    def __init__(self, window_s: float = 0.001) -> None:
        self.window_s = window_s
        self._computing: dict[Hashable, SharedPrompt] = {}

    async def lead(self, key: Hashable) -> SharedPrompt | None:
        """Wait for whoever computes this prompt.

        Returns:
            None when it is cached. Otherwise the caller leads: it calls `begin` as soon as its first token is there, or at
            once when nobody waits for it, and `end` in any case.
        """
        while (leader := self._computing.get(key)) is not None:
            if await leader.wait():
                return None
        self._computing[key] = leader = SharedPrompt()
        try:
            await asyncio.sleep(self.window_s)  # those who arrive together are waiting then
        except asyncio.CancelledError:
            self.end(key, leader)
            raise
        return leader

    def begin(self, key: Hashable, leader: SharedPrompt) -> None:
        """The prompt is cached: those who wait may go, and nobody waits from now on."""
        if self._computing.get(key) is leader:
            del self._computing[key]
        leader.settle(True)

    def end(self, key: Hashable, leader: SharedPrompt) -> None:
        """The leader is done; had it not begun, a waiting one leads next."""
        if self._computing.get(key) is leader:
            del self._computing[key]
        leader.settle(False)
