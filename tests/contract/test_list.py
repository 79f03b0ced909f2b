"""Lists and iterations of an agent's sessions: which, in which order, from where and how many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest
from support.states import Store, infos, saved, session_ids
from support.stores import Stores, on_servers

from redis_state import SessionInfo


async def test_sessions_are_listed_newest_first(store: Store) -> None:
    """A write puts its session in front, a load does not; an agent without sessions has an empty list."""
    assert await store.list("a") == await store.list("a", limit=5) == []
    s1, s2, _ = await saved(store, "s1", "s2", "s3")
    assert await store.list("a") == ["s3", "s2", "s1"]
    await store.load("a", "s2")
    await store.save(s1)
    assert await store.list("a") == ["s1", "s3", "s2"]
    await store.save(s2, if_version=1)
    await store.append("a", "s3", [])
    assert await store.list("a") == ["s3", "s2", "s1"]
    await saved(store, "s", agent_id="b")
    assert (await store.count("a"), await store.count("b"), await store.count("nobody")) == (3, 1, 0)


async def test_sessions_tells_the_exact_time_of_the_last_write(store: Store) -> None:
    states = await saved(store, "s1", "s2", "s3")
    assert await infos(store) == [SessionInfo(each.session_id, each.updated_at) for each in reversed(states)]
    assert await infos(store, "nobody") == []


async def test_a_limit_is_at_most(store: Store) -> None:
    """The newest so many; 0 is none, None is all, and a negative one is a ValueError."""
    await saved(store, "s1", "s2", "s3", "s4")
    for limit in (*range(6), None):
        expected = ["s4", "s3", "s2", "s1"][:limit]
        assert await store.list("a", limit=limit) == await session_ids(store, limit=limit) == expected
    for refused in (store.list("a", limit=-1), infos(store, limit=-1)):
        with pytest.raises(ValueError, match="limit"):
            await refused


async def test_sessions_goes_on_after_a_session_or_from_a_time(store: Store) -> None:
    """Also where that session is gone or was saved since. One written at that very time is not older."""
    names = [f"s{n}" for n in range(10)]
    states = await saved(store, *names)
    first = await infos(store, limit=4)
    assert await session_ids(store, before=first[-1]) == names[5::-1]
    assert await session_ids(store, before=first[-1], limit=2) == ["s5", "s4"]
    await store.delete("a", "s6")
    assert await session_ids(store, before=first[-1]) == names[5::-1]
    await store.save(states[6])
    assert await session_ids(store, before=first[-1]) == names[5::-1]
    assert await infos(store, before=(await infos(store))[-1]) == []
    assert await session_ids(store, before=states[2].updated_at) == ["s1", "s0"]
    assert await session_ids(store, before=states[2].updated_at + timedelta(microseconds=1)) == ["s2", "s1", "s0"]
    with pytest.raises(ValueError, match="aware"):
        await infos(store, before=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_what_is_saved_or_deleted_during_an_iteration_disturbs_nobody_else(store: Store) -> None:
    """What was there throughout is shown exactly once."""
    names = [f"s{n:02}" for n in range(20)]
    states = await saved(store, *names)
    shown: list[str] = []
    async for info in store.sessions("a"):
        shown.append(info.session_id)
        if len(shown) == 5:
            await store.delete("a", "s19")
            await store.delete("a", "s00")
        elif 1 <= (saved_now := len(shown) * 7 % 20) < 19:
            await store.save(states[saved_now])
    assert sorted(set(shown) - {"s00"}) == names[1:]
    assert len(shown) in (19, 20)


@on_servers
async def test_what_was_deleted_by_hand_is_not_listed_and_leaves_the_index(store: Store, stores: Stores) -> None:
    """Each operation finds out by itself, and a limit is filled from what is left."""
    names = [f"s{n}" for n in range(10)]
    alive = ["s7", "s6", "s4", "s3", "s2", "s1", "s0"]
    looks: list[Callable[[int | None], Awaitable[list[str]]]] = [
        lambda limit: store.list("a", limit=limit),
        lambda limit: session_ids(store, limit=limit),
    ]
    for look in looks:
        for limit in (None, 1, 2, 3, 4, 7, 8):
            await saved(store, *names)
            for name in ("s9", "s8", "s5"):
                stores.command("DEL", stores.state_key("a", name))
            assert await look(limit) == alive[:limit]
            assert await store.count("a") == 7
    for name in alive:
        stores.command("DEL", stores.state_key("a", name))
    assert await store.list("a") == []
    assert stores.keys() == []
