"""A store on a Redis Cluster: where its keys are, how it is reached, and what a wrong slot map costs."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from support.cluster import ClusterServers
from support.states import agent_ids, saved, state

from redis_state import (
    AgentState,
    RedisConfig,
    RedisStateStore,
    ServerRefusedError,
    StateStoreError,
    StoreUnavailableError,
)
from redis_state.testing import RedisServer

Store = RedisStateStore[AgentState]

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
async def store(redis_cluster: ClusterServers, prefix: str) -> AsyncIterator[Store]:
    """A store on the cluster, open."""
    async with RedisStateStore.from_url(f"{redis_cluster.url}?key_prefix={prefix}") as opened:
        yield opened


@pytest.fixture
async def client(redis_cluster: ClusterServers) -> AsyncIterator[Any]:
    """A `RedisCluster` that the test owns, which knows the slot map."""
    async with cluster_client(redis_cluster) as connected:
        yield connected


def cluster_client(cluster: ClusterServers, **options: Any) -> Any:
    """A `RedisCluster` that has not connected yet. redis-py's annotations of it are incomplete."""
    return RedisCluster(host=cluster.nodes[0].host, port=cluster.nodes[0].port, **options)


def calls(nodes: list[RedisServer], name: str) -> int:
    """How often the nodes executed a command. Redis 6.2 counts all subcommands of a command as one."""
    total = 0
    for node in nodes:
        stats = node.info("commandstats")
        found = stats.get(f"cmdstat_{name}") or stats.get(f"cmdstat_{name.partition('|')[0]}", "calls=0,")
        total += int(found.partition("calls=")[2].partition(",")[0])
    return total


def redirects(nodes: list[RedisServer]) -> int:
    """How often the nodes replied MOVED."""
    return sum(int(node.info("errorstats").get("errorstat_MOVED", "count=0")[len("count=") :]) for node in nodes)


def agents_by_node(cluster: ClusterServers, prefix: str, count: int) -> dict[RedisServer, list[str]]:
    """So many agents for each primary."""
    agents: dict[RedisServer, list[str]] = {node: [] for node in cluster.primaries}
    number = 0
    while any(len(each) < count for each in agents.values()):
        owned = agents[cluster.node_for_slot(cluster.slot_of(f"{prefix}sessions:{{agent-{number}}}"))]
        if len(owned) < count:
            owned.append(f"agent-{number}")
        number += 1
    return agents


def one_by_node(cluster: ClusterServers, prefix: str) -> list[str]:
    return [owned[0] for owned in agents_by_node(cluster, prefix, 1).values()]


async def test_a_save_is_one_block_with_state_and_index_in_the_agents_slot(
    redis_cluster: ClusterServers, store: Store, prefix: str
) -> None:
    """MULTI with SET and ZADD on the node that owns it, and nothing else."""
    node = redis_cluster.node_for_slot(redis_cluster.slot_of(f"{prefix}{{a}}:s"))
    names = ("multi", "set", "zadd", "exec", "eval", "evalsha")
    before = [calls(redis_cluster.nodes, name) for name in names]
    await store.save(state())
    after = [calls(redis_cluster.nodes, name) for name in names]
    assert [now - was for now, was in zip(after, before, strict=True)] == [1, 1, 1, 1, 0, 0]
    assert set(node.command("KEYS", f"{prefix}*")) == {f"{prefix}sessions:{{a}}".encode(), f"{prefix}{{a}}:s".encode()}


async def test_blocks_for_many_slots_of_a_node_share_its_writes(redis_cluster: ClusterServers, store: Store) -> None:
    """Three hundred saves to a hundred slots that are called together reach each node in a few reads."""
    states = [state(f"s{i}", agent_id=f"agent-{i % 100}") for i in range(300)]
    await asyncio.gather(*(store.save(each) for each in states[:100]))  # connects to every node
    before = [int(node.info("stats")["total_reads_processed"]) for node in redis_cluster.nodes]
    await asyncio.gather(*(store.save(each) for each in states))
    after = [int(node.info("stats")["total_reads_processed"]) for node in redis_cluster.nodes]
    reads = [late - early for early, late in zip(before, after, strict=True)]
    print(f"300 saves to 100 slots on 3 nodes: {reads} reads by the nodes, one or two of them the test's own")
    assert max(reads) < 30


async def test_reads_reach_every_node(redis_cluster: ClusterServers, store: Store, prefix: str) -> None:
    """`agents` yields the agents of all nodes, each once, and `list`, `load_many` and `count` find theirs."""
    everyone = [each for owned in agents_by_node(redis_cluster, prefix, 5).values() for each in owned]
    for agent_id in everyone:
        await saved(store, "s0", "s1", "s2", "s3", agent_id=agent_id)
        assert await store.list(agent_id) == ["s3", "s2", "s1", "s0"]
        assert list(await store.load_many(agent_id, ["s3", "none", "s0"])) == ["s3", "s0"]
        assert await store.count(agent_id) == 4
    assert await agent_ids(store) == sorted(everyone)
    assert await store.delete_agent(everyone[0]) == 4
    assert await agent_ids(store) == sorted(everyone[1:])


async def test_one_address_of_a_cluster_and_several_lead_to_all_of_it(
    redis_cluster: ClusterServers, prefix: str
) -> None:
    """A plain URL or a single address, as of a managed endpoint, and several of which one is dead."""
    agents = one_by_node(redis_cluster, prefix)
    one = RedisConfig(addrs=[redis_cluster.addrs[1]], key_prefix=prefix)
    several = RedisConfig(addrs=["127.0.0.1:1", *redis_cluster.addrs[1:]], key_prefix=prefix)
    async with (
        RedisStateStore.from_url(f"{redis_cluster.nodes[0].url}?key_prefix={prefix}") as by_url,
        RedisStateStore.from_config(one) as by_config,
        RedisStateStore.from_config(several) as by_several,
    ):
        for agent_id in agents:
            await by_url.save(state("by-url", agent_id=agent_id))
            await by_config.save(state("by-config", agent_id=agent_id))
            assert await by_several.list(agent_id) == ["by-config", "by-url"]
            assert (await by_config.load(agent_id, "by-url")).version == 1
        assert await agent_ids(by_url) == sorted(agents)


async def test_the_first_operation_may_be_any_and_on_any_node(redis_cluster: ClusterServers, prefix: str) -> None:
    """A store that was not opened with `async with` finds out about the cluster in its first operation."""
    url = f"{redis_cluster.nodes[0].url}?key_prefix={prefix}"
    for agent_id in one_by_node(redis_cluster, prefix):
        async with aclosing(RedisStateStore.from_url(url)) as store:
            await asyncio.gather(*(store.save(state(each, agent_id=agent_id)) for each in ("s", "t")))
        async with aclosing(RedisStateStore.from_url(url)) as store:
            assert (await store.load(agent_id, "s")).version == 1
        async with aclosing(RedisStateStore.from_url(url)) as store:
            assert sorted(await store.list(agent_id)) == ["s", "t"]


async def test_a_cluster_client_is_connected_used_on_every_node_and_not_closed(
    redis_cluster: ClusterServers, client: Any, prefix: str
) -> None:
    """After the store is closed its owner goes on using it, also one that was only constructed."""
    nodes = dict(client.nodes_manager.nodes_cache)
    fresh = cluster_client(redis_cluster)
    for each in (client, fresh):
        async with RedisStateStore(each, key_prefix=prefix) as store:
            for agent_id in one_by_node(redis_cluster, prefix):
                await store.save(state(agent_id=agent_id))
                assert await store.list(agent_id) == ["s"]
        assert await each.exists(f"{prefix}{{none}}:s") == 0
    assert client.nodes_manager.nodes_cache == nodes
    await fresh.aclose()


async def test_what_cannot_lead_to_a_cluster_is_refused_with_the_fix(
    redis_cluster: ClusterServers, redis_server: RedisServer
) -> None:
    """A client for one node, one that decodes responses, and a cluster's URL for a plain server."""
    plain: Any = Redis(host=redis_cluster.nodes[0].host, port=redis_cluster.nodes[0].port)
    async with plain:
        for use in (lambda: RedisStateStore(plain).__aenter__(), lambda: RedisStateStore(plain).save(state())):
            with pytest.raises(ServerRefusedError, match=r"redis\.asyncio\.RedisCluster"):
                await use()
        assert await plain.ping()
    async with cluster_client(redis_cluster, decode_responses=True) as decoding:
        with pytest.raises(TypeError, match="decode_responses=True"):
            RedisStateStore(decoding)
    with pytest.raises(StateStoreError, match="is no cluster; give one address"):
        await RedisStateStore.from_url(f"redis+cluster://{redis_server.addr}").__aenter__()


async def test_no_error_and_no_log_line_holds_the_password(
    redis_cluster: ClusterServers, caplog: pytest.LogCaptureFixture
) -> None:
    """Dead nodes and a refused login are reported without the secret, also in chained errors and reprs."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    for addrs in ("127.0.0.1:1,127.0.0.1:2", ",".join(redis_cluster.addrs)):
        store = RedisStateStore.from_url(f"redis+cluster://somebody:{CANARY}@{addrs}?dial_timeout=1")
        with pytest.raises((ServerRefusedError, StoreUnavailableError)) as caught:
            await store.save(state())
        seen.append(repr(store))
        error: BaseException | None = caught.value
        while error is not None:
            seen += [str(error), repr(error)]
            error = error.__cause__ or error.__context__
        await store.aclose()
    assert CANARY not in "\n".join([*seen, caplog.text])


async def refreshed(store: Store, nodes: list[RedisServer], agent_id: str, before: int) -> None:
    """Wait until the map was read again, which goes on beside the operations."""
    async with asyncio.timeout(10):
        while calls(nodes, "cluster|slots") == before:
            await store.save(state(agent_id=agent_id))


async def test_a_moved_slot_costs_only_its_operations_and_one_refresh(
    redis_cluster: ClusterServers, store: Store, prefix: str
) -> None:
    """Two hundred operations that meet a moved slot together are redirected, and the map is read once for all."""
    nodes = redis_cluster.nodes
    by_node = agents_by_node(redis_cluster, prefix, 3)
    everyone = [agent_id for owned in by_node.values() for agent_id in owned]
    await asyncio.gather(*(store.save(state(agent_id=agent_id)) for agent_id in everyone))
    (source, (moving, *others)), (target, more), _ = by_node.items()
    slot = redis_cluster.slot_of(f"{prefix}sessions:{{{moving}}}")
    await redis_cluster.migrate_slot(slot, target)
    try:
        refreshes, moved, blocks = calls(nodes, "cluster|slots"), redirects(nodes), calls(nodes, "set")
        saves = [state(f"s{n}", agent_id=moving) for n in range(200)]
        saves += [state(f"s{n}", agent_id=other) for n in range(25) for other in (*others, *more)]
        await asyncio.gather(*(store.save(each) for each in saves))
        assert calls(nodes, "set") - blocks == len(saves)  # a redirected block is retried alone, and once
        assert 1 <= redirects(nodes) - moved <= 2 * 200  # SET and ZADD of each block
        await refreshed(store, nodes, moving, refreshes)
        settled, blocks = redirects(nodes), calls(nodes, "set")
        await asyncio.gather(*(store.save(each) for each in saves))
        assert calls(nodes, "cluster|slots") - refreshes == 1
        assert redirects(nodes) == settled
        assert calls(nodes, "set") - blocks == len(saves)
        assert (await store.load(moving, "s199")).version == 2
    finally:
        await redis_cluster.migrate_slot(slot, source)


async def test_a_map_that_is_wrong_everywhere_is_read_again_once(
    redis_cluster: ClusterServers, client: Any, prefix: str
) -> None:
    """With every slot believed on the wrong node all operations succeed, for a refresh or two of the map."""
    nodes = redis_cluster.nodes
    agents = [agent_id for owned in agents_by_node(redis_cluster, prefix, 20).values() for agent_id in owned]
    async with RedisStateStore(client, key_prefix=prefix) as store:
        cache = client.nodes_manager.slots_cache
        client.nodes_manager.slots_cache = {slot: cache[(slot + 16384 // 3) % 16384] for slot in cache}
        before = calls(nodes, "cluster|slots")
        await asyncio.gather(*(store.save(state(agent_id=agent_id)) for agent_id in agents))
        await refreshed(store, nodes, agents[0], before)
        moved = redirects(nodes)
        assert await agent_ids(store) == sorted(agents)
        for agent_id in agents:
            assert await store.list(agent_id) == ["s"]
        assert redirects(nodes) == moved
        refreshes = calls(nodes, "cluster|slots") - before
        print(f"{len(agents)} saves with a map that is wrong for every slot: {refreshes} refreshes")
        assert refreshes <= 3  # a slow machine may learn of the last slot when it has read the map already


async def unavailable(*operations: Awaitable[object]) -> None:
    async with asyncio.timeout(BUDGET + SLACK):
        errors = await asyncio.gather(*operations, return_exceptions=True)
    assert [type(error) for error in errors] == [StoreUnavailableError] * len(operations)


async def test_lost_slots_are_unavailable_until_they_are_back() -> None:
    """A node's loss is StoreUnavailableError at the deadline: of all slots, or without full coverage of its own.

    A listing of all agents is then an error as well, never a part of them. No restart of the store is needed.
    """
    async with ClusterServers(3, persistence=True) as cluster:
        agents = {node: owned[0] for node, owned in agents_by_node(cluster, "test:", 1).items()}
        victim, *alive = cluster.primaries
        gone = agents[victim]
        url = f"{cluster.url}?key_prefix=test:&dial_timeout=2&read_timeout=1&write_timeout={BUDGET - 1}"
        async with RedisStateStore.from_url(url) as store:

            async def back() -> None:
                await victim.start()
                await cluster.wait_until_ready()
                assert await agent_ids(store) == sorted(agents.values())
                assert [await store.list(agent_id) for agent_id in agents.values()] == [["s"]] * 3

            for agent_id in agents.values():
                await store.save(state(agent_id=agent_id))
            victim.kill()
            async with asyncio.timeout(20):
                while b"cluster_state:ok" in alive[0].command("CLUSTER", "INFO"):  # noqa: ASYNC110 - a server's
                    await asyncio.sleep(0.02)
            await unavailable(*(store.save(state("t", agent_id=agent_id)) for agent_id in agents.values()))
            await back()
            for node in cluster.nodes:
                node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
            victim.kill()
            lost = (store.save(state("t", agent_id=gone)), store.load(gone, "s"), store.list(gone), agent_ids(store))
            failing = asyncio.create_task(unavailable(*lost))
            for node in alive * 20:
                await store.save(state(agent_id=agents[node]))
            await failing
            await back()
