"""One agent over several slots: spread evenly, listed as one, and never split by stores that disagree."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot
from support.cluster import ClusterServers

from redis_state import AgentState, PartitionsMismatchError, RedisStateStore, SessionInfo
from redis_state.commands.keys import Keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

Store = RedisStateStore[AgentState]

PARTITIONS = 4


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


def state(session_id: str, agent_id: str = "agent") -> AgentState:
    return AgentState(agent_id=agent_id, session_id=session_id)


async def save_in_order(store: Store, count: int, agent_id: str = "agent") -> list[str]:
    """Save sessions one after the other. Returns them newest first."""
    ids = [f"session-{n}" for n in range(count)]
    for session_id in ids:
        await store.save(state(session_id, agent_id))
    return ids[::-1]


def stored(cluster: ClusterServers, prefix: str) -> set[bytes]:
    """Every key under a prefix, with what DUMP says of it."""
    return {
        key + b" " + node.command("DUMP", key)
        for node in cluster.primaries
        for key in node.command("KEYS", f"{prefix}*")
    }


class TestSpread:
    def test_ten_thousand_ids_are_spread_evenly(self, redis_cluster: ClusterServers) -> None:
        """Each of 16 partitions gets its share within a fifth, and the partitions of an agent are on all nodes."""
        keys = Keys("forge:state:", 16)
        partitions = Counter(keys.partition("agent-1", f"session-{n}") for n in range(10_000))
        nodes: Counter[str] = Counter()
        for partition, count in partitions.items():
            nodes[redis_cluster.node_for_slot(partition.slot).addr] += count
        print(f"10,000 ids over 16 partitions: {sorted(partitions.values())}; over 3 nodes: {sorted(nodes.values())}")
        assert len(partitions) == 16
        assert min(partitions.values()) > 625 * 0.8
        assert max(partitions.values()) < 625 * 1.2
        assert len(nodes) == 3

    @pytest.mark.parametrize(
        ("session_id", "partition"), [("session-1", 2), ("session-2", 0), ("session-3", 2), ("ü", 1), ("a:b{c}", 3)]
    )
    def test_the_hash_is_stable(self, session_id: str, partition: int) -> None:
        """The partition of an id is part of the stored format and never changes."""
        assert (
            Keys("p:", PARTITIONS).partition("agent", session_id).index == f"p:sessions:{{agent:{partition}}}".encode()
        )

    async def test_a_session_and_its_index_share_the_slot_of_their_partition(
        self, redis_cluster: ClusterServers, store: Store, prefix: str
    ) -> None:
        """Every state stands beside the index that names it, in as many slots as there are partitions."""
        await save_in_order(store, 40)
        keys = {key for node in redis_cluster.primaries for key in node.command("KEYS", f"{prefix}*{{*")}
        assert len(keys) == 40 + PARTITIONS
        assert len({key_slot(key) for key in keys}) == PARTITIONS
        assert {key_slot(key) for key in keys if key.startswith(f"{prefix}sessions:".encode())} == {
            key_slot(key) for key in keys
        }


class TestAsOne:
    async def test_a_listing_is_merged_newest_first(self, store: Store) -> None:
        """As if there were one index, whole or up to any limit, also after sessions were saved again."""
        newest = await save_in_order(store, 30)
        assert await store.list("agent") == newest
        await store.save(await store.load("agent", "session-3"))
        newest = ["session-3", *(session_id for session_id in newest if session_id != "session-3")]
        for limit in (0, 1, 7, 29, 30, 99):
            assert await store.list("agent", limit=limit) == newest[:limit]
        assert await store.count("agent") == 30

    async def test_pages_continue_where_the_last_one_ended(self, store: Store) -> None:
        """`sessions` in pages of any size shows each session once, newest first, and so does one iteration."""
        newest = await save_in_order(store, 25)
        assert [info.session_id async for info in store.sessions("agent")] == newest
        for size in (1, 4, 25, 26):
            shown: list[SessionInfo] = []
            while page := [
                each async for each in store.sessions("agent", limit=size, before=shown[-1] if shown else None)
            ]:
                shown += page
            assert [info.session_id for info in shown] == newest
        times = [info.updated_at for info in shown]
        assert times == sorted(times, reverse=True)
        middle = [info.session_id async for info in store.sessions("agent", before=times[9])]
        assert middle == newest[10:]

    async def test_states_of_all_partitions_load_together(self, store: Store) -> None:
        """`load_many` returns what is there in the order that was asked for."""
        await save_in_order(store, 20)
        wanted = ["session-7", "none", "session-19", "session-0"]
        assert list(await store.load_many("agent", wanted)) == ["session-7", "session-19", "session-0"]

    async def test_an_agent_is_shown_once_and_deleted_whole(
        self, redis_cluster: ClusterServers, store: Store, prefix: str
    ) -> None:
        """However many partitions hold it; an agent whose name starts the same stays."""
        await asyncio.gather(save_in_order(store, 40, "agent"), save_in_order(store, 40, "agent:1"))
        assert sorted([agent_id async for agent_id in store.agents()]) == ["agent", "agent:1"]
        assert await store.delete_agent("agent") == 40
        assert await store.list("agent") == []
        assert [agent_id async for agent_id in store.agents()] == ["agent:1"]
        assert await store.count("agent:1") == 40
        assert await store.delete_agent("agent:1") == 40
        assert {each.partition(b" ")[0] for each in stored(redis_cluster, prefix)} == {f"{prefix}partitions".encode()}


class TestMismatch:
    @pytest.mark.parametrize(("configured", "existing"), [(1, 4), (4, 1), (2, 4), (4, 2)])
    async def test_another_number_than_the_datas_is_refused_before_anything_is_written(
        self, redis_cluster: ClusterServers, prefix: str, configured: int, existing: int
    ) -> None:
        """Every operation of such a store is refused with both numbers, and the data stays as it is."""
        async with open_store(redis_cluster, prefix, existing) as right:
            await save_in_order(right, 8)
        before = stored(redis_cluster, prefix)
        async with aclosing(open_store(redis_cluster, prefix, configured)) as wrong:
            operations: list[Callable[[], Awaitable[Any]]] = [
                lambda: wrong.save(state("session-0")),
                lambda: wrong.load("agent", "session-0"),
                lambda: wrong.list("agent"),
                lambda: wrong.append("agent", "session-0", []),
                lambda: wrong.delete_agent("agent"),
            ]
            for operation in operations:
                with pytest.raises(PartitionsMismatchError) as caught:
                    await operation()
                assert (caught.value.configured, caught.value.stored) == (configured, existing)
        assert stored(redis_cluster, prefix) == before
        async with open_store(redis_cluster, prefix, existing) as right:
            assert await right.count("agent") == 8

    @pytest.mark.parametrize(("first", "second"), [(4, 1), (2, 4)])
    async def test_two_stores_that_open_before_there_is_data_cannot_disagree(
        self, redis_cluster: ClusterServers, prefix: str, first: int, second: int
    ) -> None:
        """Whichever opens first decides: a split that nobody notices is not possible later either."""
        async with (
            aclosing(open_store(redis_cluster, prefix, second)) as wrong,
            open_store(redis_cluster, prefix, first) as right,
        ):
            with pytest.raises(PartitionsMismatchError):
                await wrong.save(state("session-1"))
            await right.save(state("session-2"))
            assert await right.list("agent") == ["session-2"]

    async def test_many_stores_that_open_at_once_agree(self, redis_cluster: ClusterServers, prefix: str) -> None:
        """Of stores with different numbers that open at the same moment, one kind opens and the other is refused."""
        stores = [open_store(redis_cluster, prefix, 2 + n % 2) for n in range(10)]
        results = await asyncio.gather(*(each.ping() for each in stores), return_exceptions=True)
        await asyncio.gather(*(each.aclose() for each in stores))
        kinds = [{type(result) for result in results[first::2]} for first in (0, 1)]
        assert {type(None)} in kinds
        assert {PartitionsMismatchError} in kinds
