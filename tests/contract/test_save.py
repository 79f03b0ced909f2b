"""Saving: what is stored is what was given at the call, and what it is worth is stamped on the object."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.states import Store, saved, state

from redis_state import AgentState, InvalidIdError, Message, StateEncodeError


async def test_load_returns_an_equal_object_and_a_new_one_on_every_load(store: Store) -> None:
    mine = state("s", "hi", "hello", plan={"step": 3})
    mine.messages[1].metadata = {"n": 1}
    mine.context = {"user_id": "user-456", "tags": ["a", None, True, 1.5], "Ünïcode": "💡"}
    assert await store.save(mine) is None
    loaded = await store.load("a", "s")
    assert loaded == mine
    assert loaded is not mine
    assert loaded is not await store.load("a", "s")


async def test_a_save_stamps_its_object(store: Store) -> None:
    """`version` goes up by one, `updated_at` becomes now, aware, in UTC, and moves on; `created_at` stays."""
    long_ago = datetime(2001, 2, 3, tzinfo=UTC)
    mine = AgentState(agent_id="a", session_id="s", created_at=long_ago, updated_at=long_ago)
    before = datetime.now(UTC)
    await store.save(mine)
    first = mine.updated_at
    assert before - timedelta(seconds=1) <= first <= datetime.now(UTC) + timedelta(seconds=1)
    assert first.utcoffset() == timedelta(0)
    await store.save(mine)
    assert (mine.version, mine.updated_at > first, mine.created_at) == (2, True, long_ago)
    assert await store.load("a", "s") == mine


async def test_the_last_plain_save_wins_whatever_version_it_carries(store: Store) -> None:
    """The stamp is one higher than what the object says."""
    await store.save(state(version=41, by="one"))
    mine, yours = await store.load("a", "s"), await store.load("a", "s")
    mine.data["by"], yours.data["by"] = "me", "you"
    await store.save(mine)
    await store.save(yours)
    loaded = await store.load("a", "s")
    assert (loaded.data, loaded.version) == ({"by": "you"}, 43)
    yours.version = 0
    await store.save(yours)
    assert (await store.load("a", "s")).version == yours.version == 1


@pytest.mark.parametrize("wait", [False, True])
async def test_a_change_after_the_call_is_not_saved(store: Store, *, wait: bool) -> None:
    """The call makes the bytes: before its first turn of the event loop, and where it is awaited much later."""
    mine = state(n=1)
    saving = store.save(mine) if wait else asyncio.ensure_future(store.save(mine))
    mine.data["n"] = 2
    await asyncio.sleep(0.005 if wait else 0)
    mine.data["n"] = 3
    await saving
    assert ((await store.load("a", "s")).data, mine.version) == ({"n": 1}, 1)


async def test_a_save_that_never_begins_leaves_the_object_and_stores_nothing(store: Store) -> None:
    """Closed, cancelled or timed out before it began; a refusal belongs to who awaits."""
    mine = state()
    before = copy.copy(mine)
    store.save(mine).close()
    saving = asyncio.ensure_future(store.save(mine))
    saving.cancel()
    await asyncio.wait([saving])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.save(mine), 0)
    refused = store.save(state(""))
    with pytest.raises(InvalidIdError):
        await refused
    assert mine == before
    await store.save(mine, if_version=0)
    assert mine.version == 1


async def test_saves_of_one_object_at_once_all_count(store: Store) -> None:
    mine = state()
    await asyncio.gather(*(store.save(mine) for _ in range(5)))
    assert mine.version == (await store.load("a", "s")).version == 5


async def test_many_sessions_at_once_are_not_mixed_up(store: Store) -> None:
    """A megabyte among them arrives whole."""
    states = [*(state(f"s{n}", n=n) for n in range(300)), state("large", text="0123456789" * 100_000)]
    await asyncio.gather(*map(store.save, states))
    assert await asyncio.gather(*(store.load("a", each.session_id) for each in states)) == states
    assert await store.count("a") == 301


class Special(AgentState):
    extra: int = 1


@pytest.mark.parametrize(
    "wrong", [None, {"agent_id": "a"}, Message("user", "hi"), "state", Special(agent_id="a", session_id="s")]
)
async def test_what_is_no_state_of_the_stores_type_is_a_type_error_that_names_both(store: Store, wrong: Any) -> None:
    """A subclass would come back without its own fields."""
    with pytest.raises(TypeError, match=f"AgentState.*{type(wrong).__name__}"):
        await store.save(wrong)


async def test_a_refused_state_leaves_object_store_and_list_as_they_were(store: Store) -> None:
    """StateEncodeError names the path; a field that was deleted is one as well."""
    mine, _ = await saved(store, "s", "newer")
    stored = await store.load("a", "s")
    mine.context["scores"] = [1.0, {"a": float("nan")}]
    before = copy.copy(mine)
    for condition in (None, 1):
        with pytest.raises(StateEncodeError) as caught:
            await store.save(mine, if_version=condition)
        assert caught.value.path == "$.context.scores[1].a"
        assert caught.value.path in str(caught.value)
    assert (mine.version, mine.updated_at) == (before.version, before.updated_at)
    del mine.context
    with pytest.raises(StateEncodeError):
        await store.save(mine)
    assert await store.load("a", "s") == stored
    assert await store.list("a") == ["newer", "s"]
