"""Real Redis or Valkey servers for tests, benchmarks and demos: private, quick to start and sure to end.

    async with RedisServer() as server:
        client = redis.asyncio.from_url(server.url)

Nothing here needs redis-py or pytest. With pytest, the fixtures `redis_server`, `redis_url`, `redis_cluster`
and `redis_sentinel` are there wherever this library is installed.
"""

from redis_state.testing.binaries import find_server, server_version
from redis_state.testing.cluster import ClusterServers
from redis_state.testing.errors import (
    CommandError,
    LocalServerError,
    ServerNotFoundError,
    ServerStartError,
    TlsNotSupportedError,
)
from redis_state.testing.sentinel import Sentinel, SentinelServers
from redis_state.testing.server import RedisServer
from redis_state.testing.tls import KeyPair, TlsFiles, make_certificates

__all__ = [
    # Servers.
    "ClusterServers",
    "RedisServer",
    "Sentinel",
    "SentinelServers",
    # TLS.
    "KeyPair",
    "TlsFiles",
    "make_certificates",
    # Binaries.
    "find_server",
    "server_version",
    # Errors.
    "CommandError",
    "LocalServerError",
    "ServerNotFoundError",
    "ServerStartError",
    "TlsNotSupportedError",
]
