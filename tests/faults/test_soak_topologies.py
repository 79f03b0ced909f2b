"""Random operations under random faults of servers that have replicas: alone, as a cluster, and under Sentinel.

Run with ``pytest -m soak -s``. REDIS_STATE_SOAK_SECONDS is shared by the five systems, REDIS_STATE_SOAK_SEED repeats
the choices of an earlier run, though not their timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.cluster import ClusterServers
from support.faulty import SLACK, state, texts, until
from support.liveness import Rest, works
from support.sentinel import SentinelServers

from redis_state import AgentState, RedisStateStore, StateNotFoundError
from redis_state.testing import CommandError, RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Sequence

SYSTEMS = [("standalone", 1), ("cluster", 0), ("cluster", 1), ("sentinel", 0), ("sentinel", 1)]
SECONDS = float(os.environ.get("REDIS_STATE_SOAK_SECONDS", "120")) / len(SYSTEMS)
SEED = int(os.environ.get("REDIS_STATE_SOAK_SEED", str(time.time_ns() % 1_000_000)))
TIMEOUT = 0.5  # seconds to read and to write, each
BUDGET = 2 * TIMEOUT
CALLERS = 16
PATIENCE = 5.0  # seconds of silence before servers call each other lost, which no freeze here lasts
NOTHING_WRITTEN = {"StoreTimeoutError", "StoreUnavailableError"}
IN_DOUBT = {"cancelled", "OutcomeUnknownError", "NotReplicatedError"}
EXPECTED = NOTHING_WRITTEN | IN_DOUBT | {"done", "StateNotFoundError", "VersionConflictError"}

System = RedisServer | ClusterServers | SentinelServers
Store = RedisStateStore[AgentState]


@contextlib.asynccontextmanager
async def started(kind: str) -> AsyncGenerator[tuple[System, list[RedisServer]]]:
    """A system and its servers that hold states, each primary with a replica at least."""
    match kind:
        case "cluster":
            async with ClusterServers(3, 1, node_timeout=PATIENCE) as cluster:
                yield cluster, cluster.nodes
        case "sentinel":
            async with SentinelServers(down_after=PATIENCE) as sentinel:
                yield sentinel, sentinel.servers
        case _:
            async with (
                RedisServer() as primary,
                RedisServer(config={"replicaof": f"{primary.host} {primary.port}"}) as replica,
            ):
                await until(lambda: replica.info("replication")["master_link_status"] == "up")
                yield primary, [primary, replica]


class Run:
    """What was done, and how it ended."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.going = True
        self.operations: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self.logs: dict[tuple[str, str], dict[str, str]] = {}  # by agent and session: the outcome of each message

    async def do(self, dice: random.Random, name: str, operation: Awaitable[Any], *, budgets: int = 1) -> str:
        """The outcome of an operation, which is cancelled now and then."""
        self.operations[name] += 1
        started = time.monotonic()
        task = asyncio.ensure_future(operation)
        if dice.random() < 0.04:
            await asyncio.sleep(dice.choice((0, 0, 0.001, 0.01)))
            task.cancel()
        await asyncio.wait({task}, timeout=2 * budgets * BUDGET + SLACK)
        if (took := time.monotonic() - started) > budgets * BUDGET + SLACK:
            self.violations.append(f"{name} took {took:.1f} seconds")
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        error = None if task.cancelled() else task.exception()
        result = "cancelled" if task.cancelled() else "done" if error is None else type(error).__name__
        self.outcomes[result] += 1
        if result not in EXPECTED:
            self.violations.append(f"{name}: {error!r}")
        return result

    async def call(self, number: int, dice: random.Random) -> None:
        """One caller's work, on sessions of its own and on its logs, which are only ever appended to."""
        store, agent = self.store, f"agent-{number}"
        turn, log = 0, ""

        def add_one(loaded: AgentState) -> None:
            loaded.data["n"] = loaded.data.get("n", 0) + 1

        async def save_again(session: str) -> None:
            loaded = await store.load(agent, session)
            await store.save(loaded, if_version=loaded.version)

        while self.going:
            turn += 1
            if turn % 2000 == 1:  # a log that only grows would slow the run down
                log, result = f"log-{turn}", ""
                while self.going and result not in {"done", "VersionConflictError"}:  # never over what was appended
                    result = await self.do(dice, "create", store.save(state(log, agent_id=agent), if_version=0))
                self.logs[agent, log] = {}
            session = f"s-{dice.randrange(3)}"
            mine = state(session, agent_id=agent, n=turn, padding="x" * dice.choice((0, 200, 20_000)))
            name = dice.choice(("save", "if_version", "again", "append", "append", "update", "load", "list", "delete"))
            match name:
                case "append":
                    text, seen = f"m-{turn}", self.logs[agent, log]
                    seen[text] = await self.do(dice, name, store.append(agent, log, state("", text).messages))
                case "save" | "if_version":
                    await self.do(dice, name, store.save(mine, if_version=0 if name == "if_version" else None))
                case "again":
                    await self.do(dice, name, save_again(session), budgets=2)
                case "update":
                    await self.do(dice, name, store.update(agent, session, add_one), budgets=4)
                case "load":
                    await self.do(dice, name, store.load(agent, session))
                case "list":
                    await self.do(dice, name, store.list(agent), budgets=4)
                case _:
                    await self.do(dice, name, store.delete(agent, session), budgets=2)
            await asyncio.sleep(0)

    async def verify(self) -> None:
        """What was acknowledged is there once, and what failed is not there."""
        for (agent, log), outcomes in self.logs.items():
            try:
                found = Counter(texts(await self.store.load(agent, log)))
            except StateNotFoundError:
                found = Counter[str]()
            lost = [text for text, result in outcomes.items() if result == "done" and not found[text]]
            wrong = [text for text in found if found[text] > 1 or outcomes.get(text, "") in {"", *NOTHING_WRITTEN}]
            if lost or wrong:
                self.violations.append(f"{agent} {log} of {len(outcomes)}: lost {lost[:5]}, wrong {wrong[:5]}")


async def hurt(run: Run, system: System, servers: Sequence[RedisServer], dice: random.Random) -> None:
    """Let one thing go wrong after the other; what is frozen is thawed before the next."""
    end = time.monotonic() + SECONDS
    ways = ["freeze", "freeze", "kill_clients", "forget_scripts"]
    if not isinstance(system, RedisServer):
        ways.append("fail_over")
    while time.monotonic() < end:
        server, way = dice.choice(servers), dice.choice(ways)
        match way:
            case "freeze":
                server.freeze()
                await asyncio.sleep(dice.uniform(0.2, 1.0))
                server.thaw()
            case "kill_clients":
                await asyncio.to_thread(server.command, "CLIENT", "KILL", "TYPE", "normal")
            case "forget_scripts":
                await asyncio.to_thread(server.command, "SCRIPT", "FLUSH")
            case _:
                way += await fail_over(system, dice)
        run.faults[way] += 1
        await asyncio.sleep(dice.uniform(0.1, 0.6))


async def fail_over(system: System, dice: random.Random) -> str:
    """Let a replica that is in step take over; where none is, say so instead."""
    try:
        if isinstance(system, SentinelServers):
            await system.wait_until_ready(0.5)
            await asyncio.sleep(0.5)  # what a replica missed while it was frozen reaches it
            await system.failover()
        elif isinstance(system, ClusterServers):
            await system.wait_until_ready()
            await system.failover(dice.choice(await asyncio.to_thread(lambda: system.primaries)))
    except (CommandError, LookupError, OSError):  # a TimeoutError is an OSError
        return " (not ready)"
    return ""


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "replicas"), SYSTEMS)
async def test_random_faults_violate_nothing_where_there_are_replicas(kind: str, replicas: int) -> None:
    """Every operation ends in time, what was acknowledged is kept, and after the faults all works and is at rest."""
    print(f"\n{kind}, replicas={replicas}, seed {SEED} for {SECONDS:.0f} seconds")
    dice = random.Random(f"{SEED} {kind} {replicas}")
    async with started(kind) as (system, servers):
        rest = Rest.of(servers)
        url = f"{system.url}?key_prefix=t{uuid.uuid4().hex[:12]}:&read_timeout={TIMEOUT}&write_timeout={TIMEOUT}"
        store: Store = RedisStateStore.from_url(url, replicas=replicas)
        async with store:
            run = Run(store)
            tasks = [asyncio.create_task(run.call(number, random.Random(dice.random()))) for number in range(CALLERS)]
            await hurt(run, system, servers, random.Random(dice.random()))
            run.going = False
            await asyncio.gather(*tasks)
            if isinstance(system, ClusterServers | SentinelServers):
                await system.wait_until_ready()
            # An asynchronous failover of a cluster's node promises nothing that no replica has confirmed.
            if replicas or kind != "cluster" or not run.faults["fail_over"]:
                await run.verify()
            await works(store, BUDGET + SLACK)
            client: Any = store._client  # pyright: ignore[reportPrivateUsage]
            dispatcher = client._dispatcher
            assert dispatcher is not None
            await until(lambda: not dispatcher.pending)
        for title, counts in ("operations", run.operations), ("outcomes", run.outcomes), ("faults", run.faults):
            print(f"{title}: {counts.total()} ({', '.join(f'{key} {count}' for key, count in sorted(counts.items()))})")
        print("\n".join([f"violations: {len(run.violations)}", *run.violations[:20]]))
        await rest.returns()
    assert run.violations == []
    assert run.outcomes["done"] > run.operations.total() / 4
