"""Where another program's key stands in the place of one of the store's, WRONGTYPE says so, and it is not touched."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from support.states import Store, messages, saved, state
from support.stores import Stores, on_servers

from redis_state import ServerRefusedError

pytestmark = on_servers


class Bare(msgspec.Struct):
    agent_id: str
    session_id: str


async def refused(call: Awaitable[object], *, stored: bool = False) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        await call
    assert (caught.value.code, caught.value.stored) == ("WRONGTYPE", stored)
    assert "key_prefix" in str(caught.value)


@pytest.mark.parametrize("known", [False, True])
async def test_no_operation_works_on_a_key_of_another_type(store: Store, stores: Stores, *, known: bool) -> None:
    """The session is not listed, and the agent's others stay so."""
    if known:
        await saved(store, "other")
    key = stores.state_key("a", "s")
    stores.command("RPUSH", key, "foreign")
    mine = state()
    for call in (
        store.save(mine),
        store.save(mine, if_version=0),
        store.load("a", "s"),
        store.append("a", "s", messages("hi")),
    ):
        await refused(call)
    assert mine.version == 0
    assert stores.command("LRANGE", key, 0, -1) == [b"foreign"]
    stores.command("DEL", key)
    assert await store.list("a") == (["other"] if known else [])


async def test_only_a_plain_save_of_what_was_stored_there_replaces_another_type(store: Store, stores: Stores) -> None:
    (mine,) = await saved(store, "s")
    key = stores.state_key("a", "s")
    stores.command("DEL", key)
    stores.command("RPUSH", key, "foreign")
    for call in (store.save(state()), store.save(mine, if_version=1), store.append("a", "s", messages("hi"))):
        await refused(call)
    assert stores.command("LRANGE", key, 0, -1) == [b"foreign"]
    await store.save(mine)
    assert await store.load("a", "s") == mine


@pytest.mark.parametrize("fresh", [False, True])
async def test_beside_a_foreign_index_scripts_change_nothing_and_a_plain_save_says_that_it_stored(
    store: Store, stores: Stores, *, fresh: bool
) -> None:
    """Whether the index was broken before the first write or later; the expiry stays. After a repair all is whole."""
    mine = state(n=1)
    if not fresh:
        await store.save(mine, ttl=timedelta(hours=1))
    index, key = stores.index_key("a", "s"), stores.state_key("a", "s")
    stores.command("DEL", index)
    stores.command("SET", index, "foreign")
    before = stores.command("GET", key)
    await refused(store.save(mine, if_version=mine.version))
    if not fresh:
        await refused(store.append("a", "s", messages("hi")))
        assert 0 < stores.command("PTTL", key) <= 3_600_000
    assert stores.command("GET", key) == before
    version = mine.version
    await refused(store.save(mine), stored=True)
    assert mine.version == version + 1
    await refused(store.list("a"))
    assert await store.load("a", "s") == mine
    assert stores.command("GET", index) == b"foreign"
    stores.command("DEL", index)
    await store.save(mine, if_version=mine.version)
    assert await store.list("a") == ["s"]


async def test_a_delete_beside_a_foreign_index_says_that_the_state_was_deleted(stores: Stores) -> None:
    """For a type without a version a save says as well that the state was stored."""
    store: Any = await stores.open(Bare)
    index = stores.index_key("a", "s")
    stores.command("SET", index, "foreign")
    await refused(store.save(Bare("a", "s")), stored=True)
    assert await store.exists("a", "s")
    with pytest.raises(ServerRefusedError, match="the state was deleted") as caught:
        await store.delete("a", "s")
    assert caught.value.code == "WRONGTYPE"
    assert not await store.exists("a", "s")
    assert stores.command("GET", index) == b"foreign"
    stores.command("DEL", index)
