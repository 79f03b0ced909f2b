"""Updating: load, change, save, and again where somebody else was faster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from support.states import Store, messages, never, saved, state, texts

from redis_state import AgentState, StateNotFoundError, VersionConflictError


async def test_it_changes_what_is_stored_by_a_function_plain_or_async(store: Store) -> None:
    """In place; what the function returns means nothing."""
    await saved(store, "s")

    def count(of: AgentState) -> int:
        of.data["n"] = of.data.get("n", 0) + 1
        return of.data["n"]

    async def count_slowly(of: AgentState) -> None:
        await asyncio.sleep(0)
        count(of)

    assert (await store.update("a", "s", count)).data == {"n": 1}
    result = await store.update("a", "s", count_slowly)
    assert (result.data, result.version) == ({"n": 2}, 3)
    assert await store.load("a", "s") == result


async def test_updates_and_appends_at_once_lose_nothing(store: Store) -> None:
    """Whoever changes at the same time changes what the other has made."""
    await saved(store, "s")

    def add(number: int) -> Callable[[AgentState], None]:
        return lambda of: of.messages.extend(messages(f"update {number}"))

    await asyncio.gather(
        *(store.update("a", "s", add(number)) for number in range(10)),
        *(store.append("a", "s", messages(f"append {number}")) for number in range(10)),
    )
    loaded = await store.load("a", "s")
    assert sorted(texts(loaded)) == sorted(f"{how} {number}" for how in ("update", "append") for number in range(10))
    assert loaded.version == 21


async def test_it_tries_again_on_a_new_object_of_what_is_stored_then_and_gives_up_after_its_attempts(
    store: Store,
) -> None:
    """Where it gives up, the last conflict is raised, and nothing of the change is stored."""
    await saved(store, "s")
    seen: list[AgentState] = []

    async def disturbed(of: AgentState) -> None:
        seen.append(of)
        if len(seen) != 2:
            await store.update("a", "s", lambda other: other.data.update(other=len(seen)))
        of.data["mine"] = 1

    result = await store.update("a", "s", disturbed)
    assert result is seen[1]
    assert (result.data, result.version) == ({"other": 1, "mine": 1}, 3)
    with pytest.raises(VersionConflictError) as caught:
        await store.update("a", "s", disturbed, attempts=3)
    assert (len(seen), caught.value.expected, caught.value.stored) == (5, 5, 6)
    assert (await store.load("a", "s")).data == {"other": 5, "mine": 1}
    for attempts in (0, -1):
        with pytest.raises(ValueError, match="attempts"):
            await store.update("a", "s", never, attempts=attempts)


async def test_it_neither_creates_nor_resurrects_a_session(store: Store) -> None:
    """Where nothing is stored the function is not called; one that is deleted meanwhile stays deleted."""
    with pytest.raises(StateNotFoundError):
        await store.update("a", "s", never)
    await saved(store, "s")

    async def delete(of: AgentState) -> None:
        await store.delete("a", "s")

    with pytest.raises(StateNotFoundError):
        await store.update("a", "s", delete)
    assert await store.list("a") == []


async def test_an_error_of_the_function_reaches_the_caller_and_changes_nothing(store: Store) -> None:
    await store.save(state(n=0))

    def fail(of: AgentState) -> None:
        of.data["n"] = 1
        raise LookupError

    with pytest.raises(LookupError):
        await store.update("a", "s", fail, ttl=timedelta(hours=1))
    loaded = await store.load("a", "s")
    assert (loaded.data, loaded.version) == ({"n": 0}, 1)
