"""Servers of other kinds for the whole test session, each started by the first test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redis_state.testing import RedisServer
from support.cluster import ClusterServers
from support.sentinel import SentinelServers
from support.tls import TlsServer, make_certificates


@pytest.fixture(scope="session")
def redis_cluster(redis_server: RedisServer) -> Iterator[ClusterServers]:
    """A Redis Cluster of three primaries without replicas."""
    with ClusterServers() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel(redis_server: RedisServer) -> Iterator[SentinelServers]:
    """A primary with two replicas and three sentinels."""
    with SentinelServers() as sentinel:
        yield sentinel


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """A server that speaks TLS and asks its clients for certificates."""
    with TlsServer.started(make_certificates(tmp_path_factory.mktemp("tls"))) as server:
        yield server
