"""After faults have stopped: every kind of server serves everything in time, and a close leaves nothing."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from support.cluster import ClusterServers
from support.liveness import Rest, works
from support.sentinel import SentinelServers
from support.timed import Store, messages, outcomes, state, url_of

from redis_state import RedisStateStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_state.testing import RedisServer

SECONDS = 3.0  # that an operation may take


@pytest.fixture(params=["redis_server", "redis_cluster", "redis_sentinel"])
def system(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def servers_of(system: Any) -> Sequence[RedisServer]:
    """The servers that hold states."""
    match system:
        case ClusterServers():
            return system.nodes
        case SentinelServers():
            return system.servers
        case _:
            return [system]


async def test_a_store_serves_and_closes_as_ever_after_its_servers_were_silent(system: Any) -> None:
    """Operations that failed meanwhile are over; those that come later know nothing of it."""
    servers = servers_of(system)
    rest = Rest.of(servers)
    url = url_of(system.url, f"test-{uuid.uuid4().hex}:", read_timeout=SECONDS / 2, write_timeout=SECONDS / 2)
    store: Store = RedisStateStore.from_url(url)
    await works(store, SECONDS)
    for server in servers:
        server.freeze()
    try:
        running = asyncio.create_task(
            outcomes(
                {
                    **{f"save-{n}": store.save(state(f"s-{n}")) for n in range(100)},
                    **{f"load-{n}": store.load("a", f"s-{n}") for n in range(100)},
                    **{f"append-{n}": store.append("a", f"s-{n}", messages("x")) for n in range(100)},
                },
                SECONDS,
            )
        )
        await asyncio.sleep(0.3)
    finally:
        for server in servers:
            server.thaw()
    assert "pending" not in set((await running).values())
    await works(store, SECONDS)
    await store.delete_agent("a")
    await store.aclose()
    await rest.returns()
