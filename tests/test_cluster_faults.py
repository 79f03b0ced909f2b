"""A store on a Redis Cluster while slots move and nodes die: what is acknowledged stays, and no write is half there.

`Load` is the measure of all of it: it writes without a pause, and knows afterwards what must be there.
"""

from __future__ import annotations

import asyncio
import gc
import random
import uuid
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pytest

from redis_state import (
    AgentState,
    Message,
    RedisConfig,
    RedisStateStore,
    StateStoreError,
    StoreUnavailableError,
)
from redis_state.testing import ClusterServers, RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence

Store = RedisStateStore[AgentState]

BUDGET = 3.0  # seconds that an operation of these stores may take: read_timeout and write_timeout
SLACK = 1.0  # seconds that a busy machine may add to a deadline
PASSWORD = "p w:@/%"


def messages(*contents: str) -> list[Message]:
    return [Message(role="user", content=content) for content in contents]


def state_of(agent_id: str, session_id: str, *contents: str) -> AgentState:
    return AgentState(agent_id=agent_id, session_id=session_id, messages=messages(*contents))


class Load:
    """Writers that save a session, append to it and save it again if its version is theirs, then start another.

    Args:
        store: Where to.
        agents: Whose sessions. Each has one writer at least.
        writers: How many at once.

    Attributes:
        acknowledged: The version that the store said it has, by agent and session.
        tried: The version that it may have.
        errors: How often each error was raised.
        slowest: How long the longest operation took, in seconds.
    """

    def __init__(self, store: Store, agents: Sequence[str], *, writers: int = 12) -> None:
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.tried: dict[tuple[str, str], int] = {}
        self.errors: Counter[str] = Counter()
        self.slowest = 0.0
        self._store = store
        self._writers = [agents[n % len(agents)] for n in range(max(writers, len(agents)))]
        self._successes: dict[str, list[float]] = {agent_id: [] for agent_id in agents}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._clock = asyncio.get_running_loop().time

    async def __aenter__(self) -> Self:
        for times in self._successes.values():
            times.append(self._clock())
        self._tasks = [asyncio.create_task(self._write(n, agent_id)) for n, agent_id in enumerate(self._writers)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        for times in self._successes.values():
            times.append(self._clock())

    @property
    def gap(self) -> float:
        """The longest time in which an agent had no write acknowledged, in seconds."""
        return max(late - early for times in self._successes.values() for early, late in pairwise(times))

    async def _write(self, writer: int, agent_id: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            session = (agent_id, f"{writer}-{number}")
            if (
                await self._do(session, 1, self._store.save(state_of(*session, "saved")))
                and await self._do(session, 2, self._store.append(*session, messages("appended")))
                and (stored := await self._do(session, 0, self._store.load(*session)))
            ):
                stored.data["saved"] = "again"
                await self._do(session, 3, self._store.save(stored, if_version=2))
            await asyncio.sleep(0.005)

    async def _do(self, session: tuple[str, str], version: int, operation: Awaitable[Any]) -> Any:
        """The result of a write that makes a version, or of a read for 0: None after an error, True for nothing."""
        started = self._clock()
        if version:
            self.tried[session] = version
        try:
            result = await operation
        except StateStoreError as error:
            self.errors[type(error).__name__] += 1
            return None
        finally:
            self.slowest = max(self.slowest, self._clock() - started)
        if version:
            self.acknowledged[session] = version
            self._successes[session[0]].append(self._clock())
        return True if result is None else result

    async def lost(self, but: Collection[tuple[str, str]] = ()) -> int:
        """How many acknowledged writes are not there, leaving out some sessions. What is there was written once."""
        gone = 0
        for agent_id in self._successes:
            tried = {key[1]: version for key, version in self.tried.items() if key[0] == agent_id and key not in but}
            stored = await self._store.load_many(agent_id, tried)
            for session_id, version in tried.items():
                acknowledged = self.acknowledged.get((agent_id, session_id), 0)
                state = stored.get(session_id)
                gone += max(0, acknowledged - (state.version if state else 0))
                if state is not None:
                    assert state.version <= version
                    assert [message.content for message in state.messages] == ["saved", "appended"][: state.version]
                    assert state.data == ({"saved": "again"} if state.version == 3 else {})
        return gone

    async def report(self, what: str) -> int:
        """Print the figures. Returns how many acknowledged writes were lost."""
        lost = await self.lost()
        acknowledged = sum(self.acknowledged.values())
        print(
            f"{what}: {acknowledged} writes acknowledged, {lost} of them lost, write gap {self.gap:.2f} s, slowest "
            f"operation {self.slowest:.2f} s, errors {dict(self.errors)}"
        )
        return lost


def half_writes(nodes: Sequence[RedisServer], prefix: str) -> set[bytes]:
    """Sessions with a state and no index entry, or the other way round."""
    states: set[bytes] = set()
    entries: set[bytes] = set()
    indexes = f"{prefix}sessions:".encode()
    for node in nodes:
        for key in node.command("KEYS", f"{prefix}*"):
            if key.startswith(indexes):
                tag = key.removeprefix(indexes)
                entries |= {prefix.encode() + tag + b":" + member for member in node.command("ZRANGE", key, 0, -1)}
            else:
                states.add(key)
    return states ^ entries


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something that blocks for a moment says yes."""
    async with asyncio.timeout(seconds):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a test left open warns in this test and not in a later one, and no callback of the loop has failed."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"] == []


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    """Three primaries with a replica each. Every test leaves all of them running."""
    with ClusterServers(3, 1, password=PASSWORD) as servers:
        yield servers


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


def open_store(cluster: ClusterServers, prefix: str, **options: Any) -> Store:
    """A store whose operations take `BUDGET` at most."""
    config = RedisConfig(
        addrs=cluster.addrs,
        password=cluster.password,
        key_prefix=prefix,
        dial_timeout=2.0,
        read_timeout=1.0,
        write_timeout=BUDGET - 1.0,
    )
    return RedisStateStore.from_config(config, **options)


def agents_of(cluster: ClusterServers, prefix: str, node: RedisServer, count: int) -> list[str]:
    """Agents whose slots a primary owns."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if cluster.node_for_slot(cluster.slot_of(f"{prefix}sessions:{{agent-{number}}}")) is node:
            found.append(f"agent-{number}")
    return found


@dataclass
class Move:
    """A slot, which the test's agent has, where it is, and where it goes."""

    cluster: ClusterServers
    slot: int
    source: RedisServer
    target: RedisServer

    async def begin(self, keys: Sequence[str]) -> None:
        await self.cluster.begin_migration(self.slot, self.source, self.target)
        await self.cluster.migrate_keys(self.slot, self.source, self.target, keys)

    async def finish(self) -> None:
        while keys := self.source.command("CLUSTER", "GETKEYSINSLOT", self.slot, 100_000):
            for key in random.sample(keys, len(keys)):
                await self.cluster.migrate_keys(self.slot, self.source, self.target, [key])
        await self.cluster.finish_migration(self.slot, self.source, self.target)


class TestMigration:
    @pytest.fixture
    async def move(self, cluster: ClusterServers, prefix: str) -> AsyncIterator[Move]:
        slot = cluster.slot_of(f"{prefix}sessions:{{agent}}")
        source = cluster.node_for_slot(slot)
        yield Move(cluster, slot, source, next(node for node in cluster.primaries if node is not source))
        await cluster.wait_until_ready()

    @pytest.mark.parametrize("moved", ["neither", "state", "index", "both"])
    async def test_operations_on_a_slot_that_moves_succeed_when_it_has_moved(
        self, cluster: ClusterServers, prefix: str, move: Move, moved: str
    ) -> None:
        """Wherever the keys are, each operation succeeds at once or when the migration ends, and is done once."""
        names = ("replaced", "conditional", "appended", "deleted", "loaded")
        states = {name: state_of("agent", name, name) for name in names}
        keys = [f"{prefix}{{agent}}:{name}" for name in names] * (moved in {"state", "both"})
        keys += [f"{prefix}sessions:{{agent}}"] * (moved in {"index", "both"})
        async with open_store(cluster, prefix) as store:
            for each in states.values():
                await store.save(each)
            await move.begin(keys)
            writes = asyncio.gather(
                store.save(states["replaced"]),
                store.save(states["conditional"], if_version=1),
                store.append("agent", "appended", messages("more")),
                store.delete("agent", "deleted"),
                store.save(state_of("agent", "new")),
            )
            reads = asyncio.gather(
                store.load("agent", "loaded"),
                store.exists("agent", "loaded"),
                store.load_many("agent", ["loaded", "replaced"]),
                store.list("agent"),
            )
            done, _ = await asyncio.wait([reads], timeout=0.3)
            print(f"{moved} moved: {'every read was answered' if done else 'some reads waited for the end'}")
            await move.finish()
            _, _, appended, deleted, _ = await writes
            loaded, exists, many, listed = await reads
            assert (appended, deleted, loaded.version, exists) == (2, True, 1, True)
            assert list(many) == ["loaded", "replaced"]
            assert {"replaced", "conditional", "appended", "loaded"} <= {*listed} <= {*names, "new"}
            assert half_writes(cluster.primaries, prefix) == set()
            left = await store.load_many("agent", [*names, "new"])
            versions = {name: state.version for name, state in left.items()}
            assert versions == {"replaced": 2, "conditional": 2, "appended": 2, "loaded": 1, "new": 1}
            assert [message.content for message in left["appended"].messages] == ["appended", "more"]

    async def test_a_slot_that_never_ends_moving_is_unavailable_at_the_deadline(
        self, cluster: ClusterServers, prefix: str, move: Move
    ) -> None:
        """With one of two keys moved, a save ends in StoreUnavailableError in its time, and has written nothing."""
        [other] = agents_of(cluster, prefix, move.target, 1)
        async with open_store(cluster, prefix) as store:
            state = state_of("agent", "s")
            await store.save(state)
            await move.begin([f"{prefix}{{agent}}:s"])
            async with asyncio.timeout(BUDGET + SLACK):
                stuck = asyncio.gather(store.save(state), store.save(state_of("agent", "t")), return_exceptions=True)
                for _ in range(10):
                    await store.save(state_of(other, "s"))  # the rest of the cluster does not notice
                errors = await stuck
            assert [type(error) for error in errors] == [StoreUnavailableError, StoreUnavailableError]
            assert state.version == 1
            await move.finish()
            assert half_writes(cluster.primaries, prefix) == set()
            assert (await store.load("agent", "s")).version == 1
            await store.save(state)
            assert await store.list("agent") == ["s"]

    async def test_a_slot_that_moves_key_by_key_under_load_loses_nothing(
        self, cluster: ClusterServers, prefix: str, move: Move
    ) -> None:
        """Nothing acknowledged is lost, nothing is half written, and when it has moved all is as before."""
        others = agents_of(cluster, prefix, move.source, 2) + agents_of(cluster, prefix, move.target, 2)
        async with open_store(cluster, prefix) as store:
            async with Load(store, ["agent", *others]) as load:
                await asyncio.sleep(0.3)
                await move.begin([])
                await asyncio.sleep(0.2)
                await move.finish()
                failed = load.errors.total()
                await asyncio.sleep(0.5)
            assert await load.report("a slot moved key by key") == 0
            assert half_writes(cluster.primaries, prefix) == set()
            assert set(load.errors) <= {"StoreUnavailableError"}
            assert load.errors.total() == failed
            assert load.slowest < BUDGET + SLACK


class TestNodeLoss:
    @pytest.mark.parametrize("replicas", [0, 1])
    @pytest.mark.parametrize("fault", ["kill", "freeze"])
    async def test_a_lost_primary_is_replaced_without_a_restart(
        self, cluster: ClusterServers, prefix: str, fault: str, replicas: int
    ) -> None:
        """Writes go on at the replica, none ends past its deadline; with `replicas=1` no acknowledged one is lost."""
        victim = cluster.primaries[0]
        slot = cluster.slot_of(f"{prefix}sessions:{{{(mine := agents_of(cluster, prefix, victim, 4))[0]}}}")
        others = agents_of(cluster, prefix, cluster.primaries[1], 2)
        async with open_store(cluster, prefix, replicas=replicas) as store:
            async with Load(store, [*mine, *others]) as load:
                await asyncio.sleep(0.5)
                getattr(victim, fault)()
                try:
                    await until(lambda: cluster.node_for_slot(slot) is not victim)
                    if not replicas:
                        await recovered(store, mine)  # the new primary has no replica that could confirm
                finally:
                    await bring_back(cluster, victim, fault)
                await recovered(store, mine)
                await asyncio.sleep(0.5)
            lost = await load.report(f"primary lost by {fault} with replicas={replicas}")
            assert half_writes(cluster.primaries, prefix) == set()
            assert load.slowest < BUDGET + SLACK
            if replicas:
                assert lost == 0

    async def test_a_frozen_replica_stream_and_a_killed_primary_lose_nothing_that_was_confirmed(
        self, cluster: ClusterServers, prefix: str
    ) -> None:
        """With `replicas=1` a write that the replica never had is never acknowledged, so its loss is no lie."""
        victim = cluster.primaries[0]
        [replica] = cluster.replicas_of(victim)
        mine = agents_of(cluster, prefix, victim, 4)
        slot = cluster.slot_of(f"{prefix}sessions:{{{mine[0]}}}")
        async with open_store(cluster, prefix, replicas=1) as store:
            async with Load(store, mine) as load:
                await asyncio.sleep(0.5)
                replica.freeze()
                await asyncio.sleep(0.8)
                victim.kill()
                replica.thaw()
                try:
                    await until(lambda: cluster.node_for_slot(slot) is replica)
                finally:
                    await bring_back(cluster, victim, "kill")
                await recovered(store, mine)
                await asyncio.sleep(0.5)
            assert await load.report("replica stream frozen, primary killed, replicas=1") == 0
            assert load.acknowledged
            assert half_writes(cluster.primaries, prefix) == set()


async def bring_back(cluster: ClusterServers, victim: RedisServer, fault: str) -> None:
    """End a fault, and wait until the victim follows its successor."""
    if fault == "kill":
        await victim.start()
    else:
        victim.thaw()
    await cluster.wait_until_ready()


async def recovered(store: Store, agents: Sequence[str]) -> None:
    """Wait until a save succeeds for each agent."""
    async with asyncio.timeout(20):
        for agent_id in agents:
            while True:
                try:
                    await store.save(state_of(agent_id, "recovered"))
                except StateStoreError:
                    continue
                break
