"""Pytest fixtures: a server for the whole test session, started by the first test that asks for it.

    pytest_plugins = ["redis_state.testing.fixtures"]  # in conftest.py

The server belongs to no event loop, so tests of every loop scope can use it. Tests share it: give each its own key
prefix. Without a server binary such tests are skipped, or fail where the environment has `CI`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from redis_state.testing.binaries import find_server
from redis_state.testing.errors import ServerNotFoundError
from redis_state.testing.server import RedisServer

__all__ = ["redis_server", "redis_url"]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A running server without password or persistence."""
    try:
        find_server()
    except ServerNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """The URL of `redis_server`, `redis://127.0.0.1:port/0`."""
    return redis_server.url
