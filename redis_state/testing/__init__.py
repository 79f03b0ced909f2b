"""A real Redis or Valkey server for tests and demos: private, quick to start and sure to end.

    async with RedisServer() as server:
        store = RedisStateStore.from_url(server.url)

Nothing here needs redis-py or pytest. `redis_state.testing.fixtures` has the pytest fixtures `redis_server` and
`redis_url`; `pytest_plugins = ["redis_state.testing.fixtures"]` in a conftest.py loads them.
"""

from redis_state.testing.errors import CommandError, LocalServerError, ServerNotFoundError, ServerStartError
from redis_state.testing.server import RedisServer

__all__ = [
    "RedisServer",
    # Errors.
    "CommandError",
    "LocalServerError",
    "ServerNotFoundError",
    "ServerStartError",
]
