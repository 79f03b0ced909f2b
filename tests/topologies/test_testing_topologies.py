"""The servers of tests/support come together, fail over, move slots and speak TLS as their methods say."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.cluster import ClusterServers
from support.sentinel import SentinelServers
from support.tls import TlsServer, make_certificates

from redis_state.testing import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers(3, 1, password="p w") as cluster:
        yield cluster


class TestClusterServers:
    async def test_every_primary_has_a_replica_which_takes_over(self, cluster: ClusterServers) -> None:
        assert cluster.url == "redis+cluster://:p%20w@" + ",".join(node.addr for node in cluster.nodes)
        primaries = cluster.primaries
        assert [len(cluster.replicas_of(primary)) for primary in primaries] == [1, 1, 1]
        [replica] = cluster.replicas_of(primaries[0])
        assert await cluster.failover(primaries[0]) is replica
        assert primaries[0] not in cluster.primaries
        assert cluster.replicas_of(replica) == [primaries[0]]

    @pytest.mark.parametrize("key", ["key", "{a}b", "a{}b", "{}", "a{b}{c}", "{{a}}", "é{ü}"])
    def test_slots_are_those_of_the_server(self, cluster: ClusterServers, key: str) -> None:
        slot = cluster.slot_of(key)
        assert slot == cluster.nodes[0].command("CLUSTER", "KEYSLOT", key)
        assert cluster.node_for_slot(slot).command("EXISTS", key) == 0

    async def test_a_slot_migrates_step_by_step_and_as_a_whole(self, cluster: ClusterServers) -> None:
        slot = cluster.slot_of("{step}")
        source = cluster.node_for_slot(slot)
        target = next(node for node in cluster.primaries if node is not source)
        source.command("MSET", "{step}1", "one", "{step}2", "two")
        await cluster.begin_migration(slot, source, target)
        await cluster.migrate_keys(slot, source, target, ["{step}1", "{step}missing"])
        with pytest.raises(CommandError, match=f"ASK {slot} {target.addr}"):
            source.command("GET", "{step}1")
        with pytest.raises(CommandError, match="TRYAGAIN" if source.version >= (7, 0) else "ASK"):
            source.command("MGET", "{step}1", "{step}2")
        await cluster.migrate_keys(slot, source, target, ["{step}2"])
        await cluster.finish_migration(slot, source, target)
        with pytest.raises(CommandError, match=f"MOVED {slot} {target.addr}"):
            source.command("GET", "{step}1")
        await cluster.wait_until_ready()
        await cluster.migrate_slot(slot, source)
        assert source.command("MGET", "{step}1", "{step}2") == [b"one", b"two"]


async def test_sentinels_know_the_primary_its_replicas_and_each_other_and_name_another_primary() -> None:
    async with SentinelServers(password="p w", sentinel_password="s") as system:
        assert system.url == "redis+sentinel://:p%20w@" + ",".join(system.sentinel_addrs) + "/mymaster/0"
        old = await system.primary()
        for each in system.sentinels:
            assert each.command("SENTINEL", "CKQUORUM", "mymaster").startswith("OK 3 usable Sentinels")
            assert len(each.command("SENTINEL", "REPLICAS", "mymaster")) == 2
        new = await system.failover()
        assert new is not old
        assert new.info("replication")["role"] == "master"


@pytest.mark.parametrize(("shown", "trusted"), [("server", True), ("expired", False), ("stranger", False)])
def test_only_a_good_certificate_is_trusted(tmp_path: Path, shown: str, *, trusted: bool) -> None:
    files = make_certificates(tmp_path)
    context = ssl.create_default_context(cafile=str(files.ca))
    with (
        TlsServer.started(dataclasses.replace(files, server=getattr(files, shown))) as server,
        socket.create_connection((server.host, server.tls_port), 5) as plain,
    ):
        assert server.tls_url == f"rediss://127.0.0.1:{server.tls_port}/0"
        try:
            connection = context.wrap_socket(plain, server_hostname=server.host)
        except ssl.SSLCertVerificationError:
            assert not trusted
        else:
            with connection:
                connection.sendall(b"PING\r\n")
                assert trusted
                assert connection.recv(100) == b"+PONG\r\n"
