"""Equal prompts that arrive together: one leads; nobody waits for a leader that failed, or for one that has begun."""

from __future__ import annotations

import asyncio

import pytest

from echo_audio.engines.shared_prompts import SharedPrompts

KEY = "prompt"


async def member(prompts: SharedPrompts, order: list[str], name: str, *, fails: bool = False) -> None:
    leader = await prompts.lead(KEY)
    order.append(f"{name} {'follows' if leader is None else 'leads'}")
    if leader is None:
        return
    try:
        await asyncio.sleep(0)
        if fails:
            raise RuntimeError(name)
        order.append(f"{name} is cached")
        prompts.begin(KEY, leader)
    finally:
        prompts.end(KEY, leader)


def test_the_first_leads_and_the_others_follow_when_it_has_begun() -> None:
    order: list[str] = []

    async def group() -> None:
        prompts = SharedPrompts()
        await asyncio.gather(*(member(prompts, order, name) for name in "abc"))

    asyncio.run(group())
    assert order == ["a leads", "a is cached", "b follows", "c follows"]


def test_when_the_leader_fails_another_leads() -> None:
    order: list[str] = []

    async def group() -> list[BaseException | None]:
        prompts = SharedPrompts()
        members = (member(prompts, order, name, fails=name == "a") for name in "abc")
        return await asyncio.gather(*members, return_exceptions=True)

    results = asyncio.run(group())
    assert [type(result) for result in results] == [RuntimeError, type(None), type(None)]
    assert order == ["a leads", "b leads", "b is cached", "c follows"]


def test_a_cancelled_leader_leaves_nobody_waiting() -> None:
    order: list[str] = []

    async def group() -> None:
        prompts = SharedPrompts()
        first = asyncio.create_task(member(prompts, order, "a"))
        second = asyncio.create_task(member(prompts, order, "b"))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(second, 1)

    asyncio.run(group())
    assert order[-1] == "b is cached"


def test_the_lonely_see_nobody_waiting() -> None:
    async def alone() -> int:
        prompts = SharedPrompts()
        leader = await prompts.lead(KEY)
        assert leader is not None
        prompts.begin(KEY, leader)
        later = await prompts.lead(KEY)  # the engine's own cache knows this prompt now
        assert later is not None and later is not leader
        return leader.n_waiting

    assert asyncio.run(alone()) == 0
