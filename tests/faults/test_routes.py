"""Operations for which no node can be found: they end in time, and ask for the slot map a few times only."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from support.cluster import ClusterServers
from support.timed import BUDGET, SLACK, Store, calls, messages, opened, outcomes, state, until, url_of

from redis_state import RedisStateStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

HOMELESS = "homeless"  # the agent whose slot no node serves
MAP = ("cluster|slots", "cluster|shards", "cluster")  # the commands that ask for the slot map
FEW = 30  # questions for the map while one budget passes; with a pause from 50 ms up it is a handful a node
NO_ROUTE = {"StoreUnavailableError", "StoreTimeoutError"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """A cluster in which the slot of one agent has no node, and the others are served all the same."""
    with ClusterServers(require_full_coverage=False) as cluster:
        slot = cluster.slot_of(f"{{{HOMELESS}}}")
        for node in cluster.nodes:
            node.command("CLUSTER", "DELSLOTS", slot)
        yield cluster


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


def asked(cluster: ClusterServers) -> int:
    return calls(cluster.nodes, *MAP)


EACH: dict[str, Callable[[Store], Awaitable[object]]] = {
    "save": lambda store: store.save(state(agent_id=HOMELESS)),
    "save if_version": lambda store: store.save(state(agent_id=HOMELESS), if_version=0),
    "load": lambda store: store.load(HOMELESS, "s"),
    "append": lambda store: store.append(HOMELESS, "s", messages("x")),
    "delete": lambda store: store.delete(HOMELESS, "s"),
    "exists": lambda store: store.exists(HOMELESS, "s"),
    "load_many": lambda store: store.load_many(HOMELESS, ["s", "t"]),
    "list": lambda store: store.list(HOMELESS),
    "count": lambda store: store.count(HOMELESS),
    "delete_agent": lambda store: store.delete_agent(HOMELESS),
}


@pytest.mark.parametrize("operation", EACH)
async def test_an_operation_whose_slot_no_node_serves_ends_in_time(
    cluster: ClusterServers, prefix: str, operation: str
) -> None:
    """It fails as unavailable or late, asks for the slot map a few times, and the store goes on and closes."""
    async with opened(url_of(cluster.url, prefix)) as store:
        await store.save(state())
        before = asked(cluster)
        found = await outcomes({operation: EACH[operation](store)})
        questions = asked(cluster) - before
        print(f"{operation}: {questions} questions for the slot map")
        async with asyncio.timeout(BUDGET + SLACK):
            assert (await store.load("a", "s")).version == 1
            await store.delete_agent("a")
    assert found[operation] in NO_ROUTE
    assert questions < FEW


async def test_many_operations_without_a_route_ask_for_the_map_together(cluster: ClusterServers, prefix: str) -> None:
    """However many wait, one task asks."""
    async with opened(url_of(cluster.url, prefix)) as store:
        await store.ping()
        before = asked(cluster)
        found = await outcomes({f"{n}": store.load(HOMELESS, f"{n}") for n in range(100)})
        questions = asked(cluster) - before
        assert set(found.values()) <= NO_ROUTE
        assert questions < FEW


async def test_nobody_asks_for_the_map_for_callers_that_are_gone(cluster: ClusterServers, prefix: str) -> None:
    """A cancelled operation is over, and so are the questions on its behalf."""
    url = url_of(cluster.url, prefix, read_timeout=5, write_timeout=5)
    async with opened(url, 10) as store:
        await store.ping()
        tasks = [asyncio.create_task(store.load(HOMELESS, f"{n}")) for n in range(3)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=SLACK)
        assert all(task.cancelled() for task in tasks)
        await asyncio.sleep(0.2)  # what was on its way
        before = asked(cluster)
        await asyncio.sleep(1.0)
        assert asked(cluster) - before <= 1
        async with asyncio.timeout(SLACK):
            await store.aclose()


async def test_a_close_ends_what_waits_for_a_route(cluster: ClusterServers, prefix: str) -> None:
    """`aclose()` returns within its budget, and nobody asks for the slot map after it."""
    store = RedisStateStore.from_url(url_of(cluster.url, prefix))
    await store.ping()
    waiting = {f"{n}": asyncio.create_task(store.load(HOMELESS, f"{n}")) for n in range(3)}
    await asyncio.sleep(0.2)
    async with asyncio.timeout(BUDGET + SLACK):
        await store.aclose()
    found = await outcomes(dict(waiting), 0)
    assert set(found.values()) <= {*NO_ROUTE, "StoreClosedError"}
    before = asked(cluster)
    await asyncio.sleep(0.5)
    assert asked(cluster) == before


async def test_a_walk_over_the_agents_ends_when_a_primary_is_lost_for_good(prefix: str) -> None:
    """`agents()` fails in its time where no node takes the place of the one that it reads."""
    with ClusterServers(node_timeout=0.5, require_full_coverage=False) as cluster:
        store = RedisStateStore.from_url(url_of(cluster.url, prefix, read_timeout=1, write_timeout=1))
        for first in range(0, 6000, 500):
            await asyncio.gather(*(store.save(state(agent_id=f"agent-{first + n}")) for n in range(500)))
        walk = aiter(store.agents())
        await anext(walk)
        cluster.nodes[0].kill()
        cluster.nodes[1].kill()
        before = asked(cluster)

        async def go_on() -> None:
            async for _ in walk:
                pass

        found = await outcomes({"agents": go_on(), "load": store.load("agent-1", "s")}, 4)
        questions = asked(cluster) - before
        print(f"{questions} questions for the slot map")
        async with asyncio.timeout(2 + SLACK):
            await store.aclose()
        assert found["agents"] in NO_ROUTE
        assert found["load"] in {*NO_ROUTE, "done"}
        assert questions < 4 * FEW


async def test_a_walk_over_the_agents_goes_on_with_the_node_that_takes_a_lost_ones_place(prefix: str) -> None:
    """A primary that is killed while `agents()` reads another costs the walk time, and no agent."""
    with ClusterServers(replicas=1, node_timeout=0.5) as cluster:
        url = url_of(cluster.url, prefix, read_timeout=5, write_timeout=5)
        agents = {f"agent-{n}" for n in range(6000)}
        async with opened(url, 10) as store:
            await asyncio.gather(*(store.save(state(agent_id=agent_id)) for agent_id in agents))
            await until(lambda: all(node.command("WAIT", 1, 1000) == 1 for node in cluster.primaries))
            lost = cluster.primaries[-1]
            found: set[str] = set()
            before = asked(cluster)
            async with asyncio.timeout(20):
                async for agent_id in store.agents():
                    found.add(agent_id)
                    if len(found) > 500 and lost.running:
                        lost.kill()
            assert found >= agents
            assert asked(cluster) - before < 10 * FEW
