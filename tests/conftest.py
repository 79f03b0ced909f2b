"""Fixtures for tests of stores, and the plugins that bring their servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from support.stores import KINDS, Stores, Way

from redis_state import AgentState, SessionStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytest_plugins = ["redis_state.testing.fixtures", "support.fixtures"]

# The machine's speed is no property of the library. A function-scoped fixture is a server or a codec, without a state.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several workers get the folders whose tests take longest first, so that they end together."""
    longest = ("simulation", "topologies", "faults")
    items.sort(key=lambda item: next((n for n, name in enumerate(longest) if name in item.path.parts), len(longest)))


@pytest.fixture(params=[pytest.param(way, id=name) for name, way in KINDS.items()])
def way(request: pytest.FixtureRequest) -> Way:
    """Each of the five kinds of store."""
    return request.param


@pytest.fixture
def server(request: pytest.FixtureRequest, way: Way) -> Any:
    """Its server; None where it needs none."""
    return request.getfixturevalue(way.server) if way.server else None


@pytest.fixture
async def stores(way: Way, server: Any) -> AsyncIterator[Stores]:
    """Opens stores, and fails a test that leaves keys which deleting its agents does not remove."""
    opened = Stores(way, server)
    yield opened
    await opened.aclose()


@pytest.fixture
async def store(stores: Stores) -> SessionStore[AgentState]:
    """A store of `AgentState`, open and empty."""
    return await stores.open()
