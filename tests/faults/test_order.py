"""Operations of one session that are started one after the other: they take effect in that order."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from support.cluster import ClusterServers
from support.proxy import FaultProxy
from support.scripted import Command, ScriptedServer
from support.timed import Store, messages, opened, state, texts, url_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from redis_state.testing import RedisServer

LARGE = "x" * 1_000_000
TIMES = {"read_timeout": 2, "write_timeout": 2}


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncGenerator[Store]:
    async with opened(url_of(redis_server.url, f"test-{uuid.uuid4().hex}:", **TIMES), 4) as store:
        yield store
        await store.delete_agent("a")


async def test_a_small_save_lands_after_a_large_one_that_was_started_before_it(store: Store) -> None:
    """What is stored in the end is what was saved last, whatever the sizes."""
    older = 0
    for number in range(10):
        mine = state(f"s-{number}", padding=LARGE)
        await store.save(state(f"warm-{number}"))
        large = asyncio.create_task(store.save(mine))
        await asyncio.sleep(0)
        mine.data.clear()
        small = asyncio.create_task(store.save(mine))
        await asyncio.gather(large, small)
        stored = await store.load("a", f"s-{number}")
        older += stored.data != {}
    assert older == 0


async def test_a_load_sees_the_large_save_that_was_started_before_it(store: Store) -> None:
    """Small save, large save, load: the load returns the large one."""
    for number in range(10):
        session_id = f"s-{number}"
        small = asyncio.create_task(store.save(state(session_id, n=1)))
        large = asyncio.create_task(store.save(state(session_id, padding=LARGE)))
        load = asyncio.create_task(store.load("a", session_id))
        await asyncio.gather(small, large)
        loaded = await load
        assert "padding" in loaded.data


async def test_a_save_waits_for_an_append_whose_script_the_server_has_forgotten(
    redis_server: RedisServer, store: Store
) -> None:
    """The append is tried again before the save that was started after it takes effect."""
    await store.save(state("s"))
    await store.append("a", "s", messages("known"))
    mine = await store.load("a", "s")
    mine.messages.clear()
    redis_server.command("SCRIPT", "FLUSH")
    append = asyncio.create_task(store.append("a", "s", messages("appended")))
    save = asyncio.create_task(store.save(mine))
    await asyncio.gather(append, save)
    assert texts(await store.load("a", "s")) == []


async def test_a_load_waits_for_a_save_that_a_loading_server_refused() -> None:
    """A refusal that passes does not let what comes later overtake."""
    refusals = 2

    def answer(command: Command) -> bytes | None:
        nonlocal refusals
        if command[0] == b"SET" and b"the save" in command[2] and refusals:
            refusals -= 1
            return b"-LOADING Redis is loading the dataset in memory\r\n"
        return None

    async with ScriptedServer(answer) as server:
        url = url_of(f"redis://{server.addr}/0", "test:", **TIMES)
        async with opened(url, 4) as store:
            await store.ping()
            mine = state("s", text="the save")
            save, load = asyncio.create_task(store.save(mine)), asyncio.create_task(store.load("a", "s"))
            await asyncio.wait({save, load})
            assert refusals == 0
            assert save.exception() is None
            assert load.exception() is None
            assert load.result() == mine


@pytest.fixture
def own_cluster() -> Iterator[ClusterServers]:
    """A cluster whose slots are moved."""
    with ClusterServers() as cluster:
        yield cluster


async def test_a_save_waits_for_an_append_that_a_moving_slot_refused(own_cluster: ClusterServers) -> None:
    """TRYAGAIN is answered to a write of two keys of which one has moved; a load started after it sees the write."""
    prefix = f"test-{uuid.uuid4().hex}:"
    cluster = own_cluster
    async with opened(url_of(cluster.url, prefix, **TIMES), 4) as store:
        await store.save(state("s"))
        slot = cluster.slot_of("{a}")
        source = cluster.node_for_slot(slot)
        target = next(node for node in cluster.primaries if node is not source)
        await cluster.begin_migration(slot, source, target)
        append = asyncio.create_task(store.append("a", "s", messages("first")))
        await append
        await cluster.migrate_keys(slot, source, target, [f"{prefix}sessions:{{a}}"])
        append = asyncio.create_task(store.append("a", "s", messages("appended")))
        load = asyncio.create_task(store.load("a", "s"))
        await asyncio.sleep(0.3)
        keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        await cluster.migrate_keys(slot, source, target, keys)
        await cluster.finish_migration(slot, source, target)
        await append
        assert texts(await load) == ["first", "appended"]
        await store.delete_agent("a")


async def test_a_cancelled_large_save_never_lands_after_a_later_small_one(redis_server: RedisServer) -> None:
    """Its caller is gone while half of it is on the way; what was saved later stays."""
    prefix = f"test-{uuid.uuid4().hex}:"
    async with (
        FaultProxy(redis_server.host, redis_server.port) as proxy,
        opened(url_of(proxy.url, prefix, **TIMES), 4) as store,
    ):
        await store.ping()
        for number in range(4):
            session_id = f"s-{number}"
            await store.save(state(session_id))
            proxy.delay = 0.005
            large = asyncio.create_task(store.save(state(session_id, padding=LARGE)))
            await asyncio.sleep(0.02 * number)
            large.cancel()
            await asyncio.wait({large})
            await store.save(state(session_id, n=number))
            proxy.delay = 0.0
            await asyncio.sleep(0.2)
            assert (await store.load("a", session_id)).data == {"n": number}
        await store.delete_agent("a")


@pytest.mark.parametrize("connecting", [False, True])
async def test_a_save_that_is_cancelled_before_it_was_sent_uses_no_version(
    redis_server: RedisServer, store: Store, *, connecting: bool
) -> None:
    """The next save makes the version that the cancelled one would have made."""
    mine = state("s")
    await store.save(mine)
    async with (
        FaultProxy(redis_server.host, redis_server.port) as proxy,
        opened(url_of(proxy.url, f"test-{uuid.uuid4().hex}:", **TIMES), 4) as other,
    ):
        cancelled = asyncio.create_task((other if connecting else store).save(mine))
        if connecting:
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait({cancelled})
    assert cancelled.cancelled()
    del cancelled  # a task that was cancelled before it began keeps its save alive
    await store.save(mine)
    assert mine.version == 2
    assert (await store.load("a", "s")).version == 2


async def test_a_cancelled_save_uses_its_version_where_a_later_one_was_called(store: Store) -> None:
    """The later save has its version already."""
    mine = state("s")
    await store.save(mine)
    cancelled, later = asyncio.create_task(store.save(mine)), asyncio.create_task(store.save(mine))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait({cancelled, later})
    await later
    assert mine.version == 3
    assert (await store.load("a", "s")).version == 3
