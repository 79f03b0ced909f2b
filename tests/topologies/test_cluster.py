"""A store on a Redis Cluster: where its keys are, how it is reached, and what a wrong slot map costs."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis, RedisCluster
from support.cluster import ClusterServers

from redis_state import (
    AgentState,
    RedisConfig,
    RedisStateStore,
    ServerRefusedError,
    StateStoreError,
    StoreUnavailableError,
)
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator

BUDGET = 2.0  # seconds that an operation may take: read_timeout and write_timeout
SLACK = 3.0  # seconds that a busy machine may add to a deadline
CANARY = "canary-7f3a9"


@pytest.fixture
def prefix(redis_cluster: ClusterServers) -> Iterator[str]:
    """A key prefix of the test's own, whose keys are deleted after it."""
    own = f"test-{uuid.uuid4().hex}:"
    yield own
    for node in redis_cluster.primaries:
        for key in node.command("KEYS", f"{own}*"):
            node.command("DEL", key)


@pytest.fixture
async def store(redis_cluster: ClusterServers, prefix: str) -> AsyncIterator[RedisStateStore[AgentState]]:
    """A store on the cluster, open."""
    async with RedisStateStore.from_url(f"{redis_cluster.url}?key_prefix={prefix}") as opened:
        yield opened


@pytest.fixture
async def client(redis_cluster: ClusterServers) -> AsyncIterator[Any]:
    """A `RedisCluster` that the test owns, which knows the slot map."""
    connected: Any = cluster_client(redis_cluster)
    async with connected:
        yield connected


def cluster_client(cluster: ClusterServers, **options: Any) -> Any:
    """A `RedisCluster` that has not connected yet. redis-py's annotations of it are incomplete."""
    return RedisCluster(host=cluster.nodes[0].host, port=cluster.nodes[0].port, **options)


def calls(nodes: Iterable[RedisServer], name: str) -> int:
    """How often the nodes executed a command. Redis 6.2 counts all subcommands of a command as one."""
    total = 0
    for node in nodes:
        stats = node.info("commandstats")
        found = stats.get(f"cmdstat_{name}") or stats.get(f"cmdstat_{name.partition('|')[0]}", "calls=0,")
        total += int(found.partition("calls=")[2].partition(",")[0])
    return total


def redirects(nodes: Iterable[RedisServer]) -> int:
    """How often the nodes replied MOVED."""
    return sum(int(node.info("errorstats").get("errorstat_MOVED", "count=0")[len("count=") :]) for node in nodes)


def state(agent_id: str, session_id: str = "s", **data: Any) -> AgentState:
    return AgentState(agent_id=agent_id, session_id=session_id, data=data)


def agents_by_node(cluster: ClusterServers, prefix: str, count: int) -> dict[RedisServer, list[str]]:
    """So many agents for each primary."""
    slots = {slot: node for node in cluster.primaries for slot in range(*_range(cluster, node))}
    agents: dict[RedisServer, list[str]] = {node: [] for node in cluster.primaries}
    number = 0
    while any(len(each) < count for each in agents.values()):
        owned = agents[slots[cluster.slot_of(f"{prefix}sessions:{{agent-{number}}}")]]
        if len(owned) < count:
            owned.append(f"agent-{number}")
        number += 1
    return agents


def _range(cluster: ClusterServers, node: RedisServer) -> tuple[int, int]:
    """The first range of a primary's slots."""
    for first, last, primary, *_ in node.command("CLUSTER", "SLOTS"):
        if primary[1] == node.port:
            return first, last + 1
    raise LookupError(node)


class TestKeys:
    async def test_a_state_and_its_index_share_a_slot_and_are_written_in_one_block(
        self, redis_cluster: ClusterServers, store: RedisStateStore[AgentState], prefix: str
    ) -> None:
        """A save is one MULTI with SET and ZADD on the node that owns the agent's slot, and nothing else."""
        agent_id = "agent-1"
        node = redis_cluster.node_for_slot(redis_cluster.slot_of(f"{prefix}{{{agent_id}}}:s"))
        nodes = redis_cluster.nodes
        names = ("multi", "set", "zadd", "exec", "eval", "evalsha")
        before = [calls(nodes, name) for name in names]
        await store.save(state(agent_id))
        assert [calls(nodes, name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 1, 1, 0, 0]
        assert (
            sorted(node.command("KEYS", f"{prefix}*"))
            == [
                f"{prefix}sessions:{{{agent_id}}}".encode(),
                f"{prefix}{{{agent_id}}}:s".encode(),
            ][:: 1 if f"{prefix}s" < f"{prefix}{{" else -1]
        )

    async def test_blocks_for_many_slots_of_a_node_share_its_writes(
        self, redis_cluster: ClusterServers, store: RedisStateStore[AgentState]
    ) -> None:
        """Three hundred saves to a hundred slots that are called together reach each node in a few reads."""
        await store.save(state("agent-0"))
        states = [state(f"agent-{i % 100}", f"s{i}") for i in range(300)]
        await asyncio.gather(*(store.save(each) for each in states[:100]))  # connects to every node
        before = [int(node.info("stats")["total_reads_processed"]) for node in redis_cluster.nodes]
        await asyncio.gather(*(store.save(each) for each in states))
        after = [int(node.info("stats")["total_reads_processed"]) for node in redis_cluster.nodes]
        reads = [late - early for early, late in zip(before, after, strict=True)]
        print(f"300 saves to 100 slots on 3 nodes: {reads} reads by the nodes, one or two of them the test's own")
        assert max(reads) < 30

    async def test_reads_reach_every_node(
        self, redis_cluster: ClusterServers, store: RedisStateStore[AgentState], prefix: str
    ) -> None:
        """`agents` yields the agents of all nodes, each once, and `list`, `load_many` and `count` find theirs."""
        agents = agents_by_node(redis_cluster, prefix, 5)
        everyone = [agent_id for owned in agents.values() for agent_id in owned]
        await asyncio.gather(*(store.save(state(agent_id, f"s{n}")) for agent_id in everyone for n in range(4)))
        assert await everybody(store) == sorted(everyone)
        for agent_id in everyone:
            assert sorted(await store.list(agent_id)) == ["s0", "s1", "s2", "s3"]
            assert list(await store.load_many(agent_id, ["s3", "none", "s0"])) == ["s3", "s0"]
            assert await store.count(agent_id) == 4
        assert await store.delete_agent(everyone[0]) == 4
        assert await everybody(store) == sorted(everyone[1:])


class TestWaysIn:
    async def test_one_address_of_a_cluster_just_works(self, redis_cluster: ClusterServers, prefix: str) -> None:
        """A plain URL or a single address, as of a managed endpoint, leads to the whole cluster."""
        agents = [owned[0] for owned in agents_by_node(redis_cluster, prefix, 1).values()]
        config = RedisConfig(addrs=[redis_cluster.addrs[1]], key_prefix=prefix)
        async with (
            RedisStateStore.from_url(f"{redis_cluster.nodes[0].url}?key_prefix={prefix}") as by_url,
            RedisStateStore.from_config(config) as by_config,
        ):
            for agent_id in agents:
                await by_url.save(state(agent_id, "by-url"))
                await by_config.save(state(agent_id, "by-config"))
                assert await by_url.list(agent_id) == ["by-config", "by-url"]
                assert (await by_config.load(agent_id, "by-url")).version == 1
            assert await everybody(by_url) == sorted(agents)

    async def test_the_first_operation_may_be_any_and_on_any_node(
        self, redis_cluster: ClusterServers, prefix: str
    ) -> None:
        """A store that was not opened with `async with` finds out about the cluster in its first operation."""
        url = f"{redis_cluster.nodes[0].url}?key_prefix={prefix}"
        for owned in agents_by_node(redis_cluster, prefix, 1).values():
            async with aclosing(RedisStateStore.from_url(url)) as store:
                await asyncio.gather(store.save(state(owned[0], "s")), store.save(state(owned[0], "t")))
            async with aclosing(RedisStateStore.from_url(url)) as store:
                assert (await store.load(owned[0], "s")).version == 1
            async with aclosing(RedisStateStore.from_url(url)) as store:
                assert sorted(await store.list(owned[0])) == ["s", "t"]

    async def test_several_addresses_are_a_cluster(self, redis_cluster: ClusterServers, prefix: str) -> None:
        """`RedisConfig(addrs=[a, b, c])` is a cluster, also where one of them is dead."""
        config = RedisConfig(addrs=["127.0.0.1:1", *redis_cluster.addrs[1:]], key_prefix=prefix)
        async with RedisStateStore.from_config(config) as store:
            for owned in agents_by_node(redis_cluster, prefix, 1).values():
                await store.save(state(owned[0]))
                assert await store.exists(owned[0], "s")

    async def test_a_handed_in_client_for_one_node_is_refused_with_the_fix(self, redis_cluster: ClusterServers) -> None:
        """A plain client cannot follow redirects: opening the store names the class that can."""
        plain: Any = Redis(host=redis_cluster.nodes[0].host, port=redis_cluster.nodes[0].port)
        async with plain:
            with pytest.raises(ServerRefusedError, match=r"redis\.asyncio\.RedisCluster"):
                await RedisStateStore(plain).__aenter__()
            with pytest.raises(ServerRefusedError, match=r"redis\.asyncio\.RedisCluster"):
                await RedisStateStore(plain).save(state("agent-1"))
            assert await plain.ping()

    async def test_a_handed_in_cluster_client_is_used_and_not_closed(
        self, redis_cluster: ClusterServers, client: Any, prefix: str
    ) -> None:
        """It works on every node, and after the store is closed its owner goes on using it."""
        nodes = dict(client.nodes_manager.nodes_cache)
        async with RedisStateStore(client, key_prefix=prefix) as store:
            for owned in agents_by_node(redis_cluster, prefix, 1).values():
                await store.save(state(owned[0]))
                assert await store.list(owned[0]) == ["s"]
        assert client.nodes_manager.nodes_cache == nodes
        assert await client.get(f"{prefix}{{none}}:s") is None

    async def test_a_cluster_client_that_has_not_connected_is_connected(
        self, redis_cluster: ClusterServers, prefix: str
    ) -> None:
        """A client that was only constructed is as good as one that was used."""
        client = cluster_client(redis_cluster)
        async with RedisStateStore(client, key_prefix=prefix) as store:
            await store.save(state("agent-1"))
        assert await client.exists(f"{prefix}{{agent-1}}:s") == 1
        await client.aclose()

    async def test_a_cluster_client_that_decodes_responses_is_refused_at_construction(
        self, redis_cluster: ClusterServers
    ) -> None:
        """States are bytes; the message says what to change."""
        async with cluster_client(redis_cluster, decode_responses=True) as client:
            with pytest.raises(TypeError, match="decode_responses=True"):
                RedisStateStore(client)

    async def test_a_cluster_url_for_a_plain_server_says_so(self, redis_server: RedisServer) -> None:
        """The error names the URL that fits."""
        with pytest.raises(StateStoreError, match="is no cluster; give one address"):
            await RedisStateStore.from_url(f"redis+cluster://{redis_server.addr}").__aenter__()

    async def test_no_error_and_no_log_line_holds_the_password(
        self, redis_cluster: ClusterServers, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Dead nodes and a refused login are reported without the secret, also in chained errors and reprs."""
        caplog.set_level(logging.DEBUG)
        seen: list[str] = []
        for addrs in ("127.0.0.1:1,127.0.0.1:2", ",".join(redis_cluster.addrs)):
            url = f"redis+cluster://somebody:{CANARY}@{addrs}?dial_timeout=1"
            store = RedisStateStore.from_url(url)
            with pytest.raises((ServerRefusedError, StoreUnavailableError)) as caught:
                await store.save(state("agent-1"))
            seen.append(repr(store))
            error: BaseException | None = caught.value
            while error is not None:
                seen += [str(error), repr(error)]
                error = error.__cause__ or error.__context__
            await store.aclose()
        assert CANARY not in "\n".join([*seen, caplog.text])


class TestSlotMap:
    async def test_a_moved_slot_costs_only_its_operations_and_one_refresh(
        self, redis_cluster: ClusterServers, store: RedisStateStore[AgentState], prefix: str
    ) -> None:
        """Two hundred operations that meet a moved slot together are redirected, and the map is read once for all."""
        nodes = redis_cluster.nodes
        by_node = agents_by_node(redis_cluster, prefix, 3)
        everyone = [agent_id for owned in by_node.values() for agent_id in owned]
        await asyncio.gather(*(store.save(state(agent_id)) for agent_id in everyone))
        (source, (moving, *_)), (target, _), _ = by_node.items()
        slot = redis_cluster.slot_of(f"{prefix}sessions:{{{moving}}}")
        await redis_cluster.migrate_slot(slot, target)
        try:
            await self._check_costs(store, nodes, moving, everyone)
            assert (await store.load(moving, "s199")).version == 2
        finally:
            await redis_cluster.migrate_slot(slot, source)

    async def _check_costs(
        self, store: RedisStateStore[AgentState], nodes: list[RedisServer], moving: str, everyone: list[str]
    ) -> None:
        refreshes, moved, blocks = calls(nodes, "cluster|slots"), redirects(nodes), calls(nodes, "set")
        others = [agent_id for agent_id in everyone if agent_id != moving]
        saves = [state(moving, f"s{n}") for n in range(200)] + [
            state(other, f"s{n}") for n in range(25) for other in others
        ]
        await asyncio.gather(*(store.save(each) for each in saves))
        moved = redirects(nodes) - moved
        assert calls(nodes, "set") - blocks == len(saves)  # a redirected block is retried alone, and once
        assert 1 <= moved <= 2 * 200  # SET and ZADD of each block
        async with asyncio.timeout(5):
            while calls(nodes, "cluster|slots") == refreshes:  # it goes on beside the operations
                await store.save(saves[0])
        settled, blocks = redirects(nodes), calls(nodes, "set")
        await asyncio.gather(*(store.save(each) for each in saves))
        refreshes = calls(nodes, "cluster|slots") - refreshes
        print(f"{len(saves)} saves, 200 of them to a moved slot: {moved} MOVED replies, {refreshes} map refreshes")
        assert refreshes == 1
        assert redirects(nodes) == settled
        assert calls(nodes, "set") - blocks == len(saves)

    async def test_a_map_that_is_wrong_everywhere_is_read_again_once(
        self, redis_cluster: ClusterServers, client: Any, prefix: str
    ) -> None:
        """With every slot believed on the wrong node all operations succeed, for a refresh or two of the map."""
        agents = [agent_id for owned in agents_by_node(redis_cluster, prefix, 20).values() for agent_id in owned]
        async with RedisStateStore(client, key_prefix=prefix) as store:
            cache = client.nodes_manager.slots_cache
            turned = {slot: cache[(slot + 16384 // 3) % 16384] for slot in cache}
            client.nodes_manager.slots_cache = turned
            before = calls(redis_cluster.nodes, "cluster|slots")
            await asyncio.gather(*(store.save(state(agent_id)) for agent_id in agents))
            async with asyncio.timeout(5):
                while calls(redis_cluster.nodes, "cluster|slots") == before:  # it goes on beside the operations
                    await store.save(state(agents[0]))
            moved = redirects(redis_cluster.nodes)
            assert await everybody(store) == sorted(agents)
            for agent_id in agents:
                assert await store.list(agent_id) == ["s"]
            assert redirects(redis_cluster.nodes) == moved
            refreshes = calls(redis_cluster.nodes, "cluster|slots") - before
            print(f"{len(agents)} saves with a map that is wrong for every slot: {refreshes} refreshes")
            assert refreshes <= 3  # a slow machine may learn of the last slot when it has read the map already


class TestCoverage:
    async def test_lost_slots_are_unavailable_until_they_are_back(self) -> None:
        """A node's loss is StoreUnavailableError at the deadline: of all slots, or without full coverage of its own.

        A listing of all agents is then an error as well, never a part of them. No restart of the store is needed.
        """
        async with ClusterServers(3, persistence=True) as cluster:
            agents = {node: owned[0] for node, owned in agents_by_node(cluster, "test:", 1).items()}
            victim, *alive = cluster.primaries
            url = f"{cluster.url}?key_prefix=test:&dial_timeout=2&read_timeout=1&write_timeout={BUDGET - 1}"
            async with RedisStateStore.from_url(url) as store:
                for agent_id in agents.values():
                    await store.save(state(agent_id))
                victim.kill()
                async with asyncio.timeout(20):
                    while b"cluster_state:ok" in alive[0].command("CLUSTER", "INFO"):  # noqa: ASYNC110 - a server's
                        await asyncio.sleep(0.02)
                await self._unavailable(*(store.save(state(agent_id, "t")) for agent_id in agents.values()))
                await self._back(cluster, store, victim)
                for node in cluster.nodes:
                    node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
                victim.kill()
                gone = agents[victim]
                lost = (store.save(state(gone, "t")), store.load(gone, "s"), store.list(gone), everybody(store))
                unavailable = asyncio.create_task(self._unavailable(*lost))
                for node in alive * 20:
                    await store.save(state(agents[node]))
                await unavailable
                await self._back(cluster, store, victim)

    @staticmethod
    async def _unavailable(*operations: Awaitable[object]) -> None:
        async with asyncio.timeout(BUDGET + SLACK):
            errors = await asyncio.gather(*operations, return_exceptions=True)
        assert [type(error) for error in errors] == [StoreUnavailableError] * len(operations)

    @staticmethod
    async def _back(cluster: ClusterServers, store: RedisStateStore[AgentState], victim: RedisServer) -> None:
        await victim.start()
        await cluster.wait_until_ready()
        found = await everybody(store)
        assert len(found) == 3
        for agent_id in found:
            assert await store.list(agent_id) == ["s"]


async def everybody(store: RedisStateStore[AgentState]) -> list[str]:
    """All agents of a store, sorted."""
    return sorted([agent_id async for agent_id in store.agents()])
