"""The pytest plugin: servers for the whole test session, each started by the first test that asks for it.

They belong to no event loop, so tests of every loop scope can use them. Tests share a server: give each its
own key prefix. Without a server binary such tests are skipped, or fail where the environment has `CI`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_state.testing import ClusterServers, RedisServer, SentinelServers

__all__ = ["redis_cluster", "redis_sentinel", "redis_server", "redis_url"]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running server without password or persistence."""
    from redis_state.testing.server import RedisServer  # noqa: PLC0415 - nothing is imported before it is used

    _require_server()
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """The URL of `redis_server`, `redis://127.0.0.1:port/0`."""
    return redis_server.url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[ClusterServers]:
    """A Redis Cluster of three primaries without replicas."""
    from redis_state.testing.cluster import ClusterServers  # noqa: PLC0415 - as above

    _require_server()
    with ClusterServers() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[SentinelServers]:
    """A primary with two replicas and three sentinels."""
    from redis_state.testing.sentinel import SentinelServers  # noqa: PLC0415 - as above

    _require_server()
    with SentinelServers() as sentinel:
        yield sentinel


def _require_server() -> None:
    from redis_state.testing.binaries import find_server  # noqa: PLC0415 - as above
    from redis_state.testing.errors import ServerNotFoundError  # noqa: PLC0415 - as above

    try:
        find_server()
    except ServerNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
