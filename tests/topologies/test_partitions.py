"""One agent over several slots: spread evenly, listed as one, and never split by stores that disagree."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from redis.crc import key_slot
from support.cluster import ClusterServers
from support.states import agent_ids, infos, saved, session_ids, state

from redis_state import AgentState, PartitionsMismatchError, RedisStateStore, SessionInfo
from redis_state.commands.keys import Keys

Store = RedisStateStore[AgentState]

PARTITIONS = 4
NAMES = [f"session-{n}" for n in range(30)]


@pytest.fixture
def prefix(redis_cluster: ClusterServers) -> Iterator[str]:
    """A key prefix of the test's own, whose keys are deleted after it."""
    own = f"test-{uuid.uuid4().hex}:"
    yield own
    for node in redis_cluster.primaries:
        for key in node.command("KEYS", f"{own}*"):
            node.command("DEL", key)


def open_store(cluster: ClusterServers, prefix: str, partitions: int) -> Store:
    return RedisStateStore.from_url(f"{cluster.url}?key_prefix={prefix}", partitions=partitions)


@pytest.fixture
async def store(redis_cluster: ClusterServers, prefix: str) -> AsyncIterator[Store]:
    async with open_store(redis_cluster, prefix, PARTITIONS) as opened:
        yield opened


def stored(cluster: ClusterServers, prefix: str) -> dict[bytes, bytes]:
    """Every key under a prefix, with what DUMP says of it."""
    keys = [(node, key) for node in cluster.primaries for key in node.command("KEYS", f"{prefix}*")]
    return {key: node.command("DUMP", key) for node, key in keys}


def test_ten_thousand_ids_are_spread_evenly(redis_cluster: ClusterServers) -> None:
    """Each of 16 partitions gets its share within a fifth, and the partitions of an agent are on all nodes."""
    keys = Keys("forge:state:", 16)
    partitions = Counter(keys.partition("agent-1", f"session-{n}") for n in range(10_000))
    print(f"10,000 ids over 16 partitions: {sorted(partitions.values())}")
    assert len(partitions) == 16
    assert min(partitions.values()) > 625 * 0.8
    assert max(partitions.values()) < 625 * 1.2
    assert len({redis_cluster.node_for_slot(partition.slot).addr for partition in partitions}) == 3


@pytest.mark.parametrize(
    ("session_id", "partition"), [("session-1", 2), ("session-2", 0), ("session-3", 2), ("ü", 1), ("a:b{c}", 3)]
)
def test_the_partition_of_an_id_never_changes(session_id: str, partition: int) -> None:
    """It is part of the stored format."""
    index = Keys("p:", PARTITIONS).partition("agent", session_id).index
    assert index == f"p:sessions:{{agent:{partition}}}".encode()


async def test_every_state_stands_beside_the_index_that_names_it(
    redis_cluster: ClusterServers, store: Store, prefix: str
) -> None:
    """In as many slots as there are partitions."""
    await saved(store, *NAMES)
    keys = {key for key in stored(redis_cluster, prefix) if b"{" in key}
    indexes = {key for key in keys if key.startswith(f"{prefix}sessions:".encode())}
    assert (len(keys), len(indexes)) == (len(NAMES) + PARTITIONS, PARTITIONS)
    assert {key_slot(key) for key in indexes} == {key_slot(key) for key in keys}


async def test_a_listing_is_merged_newest_first_and_goes_on_page_by_page(store: Store) -> None:
    """As if there were one index, whole or up to any limit, also after sessions were saved again."""
    await saved(store, *NAMES)
    await store.save(await store.load("a", "session-3"))
    newest = ["session-3", *(name for name in NAMES[::-1] if name != "session-3")]
    for limit in (0, 1, 7, 29, 30, 99, None):
        assert await store.list("a", limit=limit) == await session_ids(store, limit=limit) == newest[:limit]
    for size in (1, 4, 30, 31):
        shown: list[SessionInfo] = []
        while page := await infos(store, limit=size, before=shown[-1] if shown else None):
            shown += page
        assert [info.session_id for info in shown] == newest
    times = [info.updated_at for info in await infos(store)]
    assert times == sorted(times, reverse=True)
    assert await session_ids(store, before=times[9]) == newest[10:]
    assert list(await store.load_many("a", ["session-7", "none", "session-0"])) == ["session-7", "session-0"]


async def test_an_agent_is_shown_once_and_deleted_whole(
    redis_cluster: ClusterServers, store: Store, prefix: str
) -> None:
    """However many partitions hold it; an agent whose name starts the same stays."""
    await asyncio.gather(saved(store, *NAMES), saved(store, *NAMES, agent_id="a:1"))
    assert await agent_ids(store) == ["a", "a:1"]
    assert await store.delete_agent("a") == 30
    assert await store.list("a") == []
    assert (await agent_ids(store), await store.count("a:1")) == (["a:1"], 30)
    assert await store.delete_agent("a:1") == 30
    assert set(stored(redis_cluster, prefix)) == {f"{prefix}partitions".encode()}


@pytest.mark.parametrize(("configured", "existing"), [(1, 4), (4, 1), (2, 4), (4, 2)])
async def test_another_number_than_the_datas_is_refused_before_anything_is_written(
    redis_cluster: ClusterServers, prefix: str, configured: int, existing: int
) -> None:
    """Every operation of such a store is refused with both numbers, and the data stays as it is."""
    async with open_store(redis_cluster, prefix, existing) as right:
        await saved(right, *NAMES[:8])
    before = stored(redis_cluster, prefix)
    async with aclosing(open_store(redis_cluster, prefix, configured)) as wrong:
        operations: list[Callable[[], Awaitable[Any]]] = [
            lambda: wrong.save(state("session-0")),
            lambda: wrong.load("a", "session-0"),
            lambda: wrong.list("a"),
            lambda: wrong.append("a", "session-0", []),
            lambda: wrong.delete_agent("a"),
        ]
        for operation in operations:
            with pytest.raises(PartitionsMismatchError) as caught:
                await operation()
            assert (caught.value.configured, caught.value.stored) == (configured, existing)
    assert stored(redis_cluster, prefix) == before


@pytest.mark.parametrize(("first", "second"), [(4, 1), (2, 4)])
async def test_of_two_stores_that_open_before_there_is_data_the_first_decides(
    redis_cluster: ClusterServers, prefix: str, first: int, second: int
) -> None:
    """A split that nobody notices is not possible later either."""
    async with (
        aclosing(open_store(redis_cluster, prefix, second)) as wrong,
        open_store(redis_cluster, prefix, first) as right,
    ):
        with pytest.raises(PartitionsMismatchError):
            await wrong.save(state("session-1"))
        await right.save(state("session-2"))
        assert await right.list("a") == ["session-2"]


async def test_many_stores_that_open_at_once_agree(redis_cluster: ClusterServers, prefix: str) -> None:
    """Of stores with different numbers that open at the same moment, one kind opens and the other is refused."""
    stores = [open_store(redis_cluster, prefix, 2 + n % 2) for n in range(10)]
    results = await asyncio.gather(*(each.ping() for each in stores), return_exceptions=True)
    await asyncio.gather(*(each.aclose() for each in stores))
    kinds = [{type(result) for result in results[first::2]} for first in (0, 1)]
    assert {type(None)} in kinds
    assert {PartitionsMismatchError} in kinds
