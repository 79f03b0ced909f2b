"""A store on a Redis Cluster while slots move and nodes die: what is acknowledged stays, and no write is half there."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support.cluster import ClusterServers
from support.load import BUDGET, SLACK, Load, Store, half_writes, messages, state, until

from redis_state import (
    RedisConfig,
    RedisStateStore,
    StateStoreError,
    StoreUnavailableError,
)
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

PASSWORD = "p w:@/%"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """Three primaries with a replica each. Every test leaves all of them running."""
    with ClusterServers(3, 1, password=PASSWORD) as servers:
        yield servers


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


def open_store(cluster: ClusterServers, prefix: str, **options: Any) -> Store:
    """A store whose operations take `BUDGET` at most."""
    config = RedisConfig(
        addrs=cluster.addrs,
        password=cluster.password,
        key_prefix=prefix,
        dial_timeout=2.0,
        read_timeout=1.0,
        write_timeout=BUDGET - 1.0,
    )
    return RedisStateStore.from_config(config, **options)


def agents_of(cluster: ClusterServers, prefix: str, node: RedisServer, count: int) -> list[str]:
    """Agents whose slots a primary owns."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if cluster.node_for_slot(cluster.slot_of(f"{prefix}sessions:{{agent-{number}}}")) is node:
            found.append(f"agent-{number}")
    return found


@dataclass
class Move:
    """A slot, which the test's agent has, where it is, and where it goes."""

    cluster: ClusterServers
    slot: int
    source: RedisServer
    target: RedisServer

    async def begin(self, keys: Sequence[str]) -> None:
        await self.cluster.begin_migration(self.slot, self.source, self.target)
        await self.cluster.migrate_keys(self.slot, self.source, self.target, keys)

    async def finish(self) -> None:
        while keys := self.source.command("CLUSTER", "GETKEYSINSLOT", self.slot, 100_000):
            for key in random.sample(keys, len(keys)):
                await self.cluster.migrate_keys(self.slot, self.source, self.target, [key])
        await self.cluster.finish_migration(self.slot, self.source, self.target)


@pytest.fixture
async def move(cluster: ClusterServers, prefix: str) -> AsyncIterator[Move]:
    slot = cluster.slot_of(f"{prefix}sessions:{{agent}}")
    source = cluster.node_for_slot(slot)
    yield Move(cluster, slot, source, next(node for node in cluster.primaries if node is not source))
    await cluster.wait_until_ready()


@pytest.mark.parametrize("moved", ["neither", "state", "index", "both"])
async def test_operations_on_a_slot_that_moves_succeed_when_it_has_moved(
    cluster: ClusterServers, prefix: str, move: Move, moved: str
) -> None:
    """Wherever the keys are, each operation succeeds at once or when the migration ends, and is done once."""
    names = ("replaced", "conditional", "appended", "deleted", "loaded")
    states = {name: state(name, name, agent_id="agent") for name in names}
    keys = [f"{prefix}{{agent}}:{name}" for name in names] * (moved in {"state", "both"})
    keys += [f"{prefix}sessions:{{agent}}"] * (moved in {"index", "both"})
    async with open_store(cluster, prefix) as store:
        for each in states.values():
            await store.save(each)
        await move.begin(keys)
        writes = asyncio.gather(
            store.save(states["replaced"]),
            store.save(states["conditional"], if_version=1),
            store.append("agent", "appended", messages("more")),
            store.delete("agent", "deleted"),
            store.save(state("new", agent_id="agent")),
        )
        reads = asyncio.gather(
            store.load("agent", "loaded"),
            store.exists("agent", "loaded"),
            store.load_many("agent", ["loaded", "replaced"]),
            store.list("agent"),
        )
        done, _ = await asyncio.wait([reads], timeout=0.3)
        print(f"{moved} moved: {'every read was answered' if done else 'some reads waited for the end'}")
        await move.finish()
        _, _, appended, deleted, _ = await writes
        loaded, exists, many, listed = await reads
        assert (appended, deleted, loaded.version, exists) == (2, True, 1, True)
        assert list(many) == ["loaded", "replaced"]
        assert {"replaced", "conditional", "appended", "loaded"} <= {*listed} <= {*names, "new"}
        assert half_writes(cluster.primaries, prefix) == set()
        left = await store.load_many("agent", [*names, "new"])
        versions = {name: state.version for name, state in left.items()}
        assert versions == {"replaced": 2, "conditional": 2, "appended": 2, "loaded": 1, "new": 1}
        assert [message.content for message in left["appended"].messages] == ["appended", "more"]


async def test_a_slot_that_never_ends_moving_is_unavailable_at_the_deadline(
    cluster: ClusterServers, prefix: str, move: Move
) -> None:
    """With one of two keys moved, a save ends in StoreUnavailableError in its time, and has written nothing."""
    [other] = agents_of(cluster, prefix, move.target, 1)
    async with open_store(cluster, prefix) as store:
        mine = state("s", agent_id="agent")
        await store.save(mine)
        await move.begin([f"{prefix}{{agent}}:s"])
        async with asyncio.timeout(BUDGET + SLACK):
            stuck = asyncio.gather(store.save(mine), store.save(state("t", agent_id="agent")), return_exceptions=True)
            for _ in range(10):
                await store.save(state("s", agent_id=other))  # the rest of the cluster does not notice
            errors = await stuck
        assert [type(error) for error in errors] == [StoreUnavailableError, StoreUnavailableError]
        assert mine.version == 1
        await move.finish()
        assert half_writes(cluster.primaries, prefix) == set()
        assert (await store.load("agent", "s")).version == 1
        await store.save(mine)
        assert await store.list("agent") == ["s"]


async def test_a_slot_that_moves_key_by_key_under_load_loses_nothing(
    cluster: ClusterServers, prefix: str, move: Move
) -> None:
    """Nothing acknowledged is lost, nothing is half written, and when it has moved all is as before."""
    others = agents_of(cluster, prefix, move.source, 2) + agents_of(cluster, prefix, move.target, 2)
    async with open_store(cluster, prefix) as store:
        async with Load(store, ["agent", *others]) as load:
            await asyncio.sleep(0.3)
            await move.begin([])
            await asyncio.sleep(0.2)
            await move.finish()
            failed = load.errors.total()
            await asyncio.sleep(0.5)
        assert await load.report("a slot moved key by key") == 0
        assert half_writes(cluster.primaries, prefix) == set()
        assert set(load.errors) <= {"StoreUnavailableError"}
        assert load.errors.total() == failed
        assert load.slowest < BUDGET + SLACK


@pytest.mark.parametrize("replicas", [0, 1])
@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_lost_primary_is_replaced_without_a_restart(
    cluster: ClusterServers, prefix: str, fault: str, replicas: int
) -> None:
    """Writes go on at the replica, none ends past its deadline; with `replicas=1` no acknowledged one is lost."""
    victim = cluster.primaries[0]
    slot = cluster.slot_of(f"{prefix}sessions:{{{(mine := agents_of(cluster, prefix, victim, 4))[0]}}}")
    others = agents_of(cluster, prefix, cluster.primaries[1], 2)
    async with open_store(cluster, prefix, replicas=replicas) as store:
        async with Load(store, [*mine, *others]) as load:
            await asyncio.sleep(0.5)
            getattr(victim, fault)()
            try:
                await until(lambda: cluster.node_for_slot(slot) is not victim)
                if not replicas:
                    await recovered(store, mine)  # the new primary has no replica that could confirm
            finally:
                await bring_back(cluster, victim, fault)
            await recovered(store, mine)
            await asyncio.sleep(0.5)
        lost = await load.report(f"primary lost by {fault} with replicas={replicas}")
        assert half_writes(cluster.primaries, prefix) == set()
        assert load.slowest < BUDGET + SLACK
        if replicas:
            assert lost == 0


async def test_a_frozen_replica_stream_and_a_killed_primary_lose_nothing_that_was_confirmed(
    cluster: ClusterServers, prefix: str
) -> None:
    """With `replicas=1` a write that the replica never had is never acknowledged, so its loss is no lie."""
    victim = cluster.primaries[0]
    [replica] = cluster.replicas_of(victim)
    mine = agents_of(cluster, prefix, victim, 4)
    slot = cluster.slot_of(f"{prefix}sessions:{{{mine[0]}}}")
    async with open_store(cluster, prefix, replicas=1) as store:
        async with Load(store, mine) as load:
            await asyncio.sleep(0.5)
            replica.freeze()
            await asyncio.sleep(0.8)
            victim.kill()
            replica.thaw()
            try:
                await until(lambda: cluster.node_for_slot(slot) is replica)
            finally:
                await bring_back(cluster, victim, "kill")
            await recovered(store, mine)
            await asyncio.sleep(0.5)
        assert await load.report("replica stream frozen, primary killed, replicas=1") == 0
        assert load.acknowledged
        assert half_writes(cluster.primaries, prefix) == set()


async def bring_back(cluster: ClusterServers, victim: RedisServer, fault: str) -> None:
    """End a fault, and wait until the victim follows its successor."""
    if fault == "kill":
        await victim.start()
    else:
        victim.thaw()
    await cluster.wait_until_ready()


async def recovered(store: Store, agents: Sequence[str]) -> None:
    """Wait until a save succeeds for each agent."""
    async with asyncio.timeout(20):
        for agent_id in agents:
            while True:
                try:
                    await store.save(state("recovered", agent_id=agent_id))
                except StateStoreError:
                    continue
                break
