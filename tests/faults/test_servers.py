"""Servers that freeze, or die and come back with what they had: every operation ends in time, and what was acknowledged
is there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from support.faulty import SLACK, Bench, behind_proxy, outcome, state, texts, until
from support.scripted import Deed, ScriptedServer

from redis_state import AgentState, Message, RedisConfig, RedisStateStore
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

FAILURES = {"StoreTimeoutError", "StoreUnavailableError"}


@contextlib.asynccontextmanager
async def own_server(timeout: float, *, persistence: bool = False) -> AsyncGenerator[Bench]:  # noqa: ASYNC109 - as in behind_proxy
    """A bench with a server that nobody else uses."""
    config = {"appendfsync": "always"} if persistence else {}
    async with (
        RedisServer(persistence=persistence, config=config) as server,
        behind_proxy(server, timeout=timeout) as bench,
    ):
        await bench.truth.store.ping()
        yield bench


class Load:
    """Callers that save, append, add and load for as long as they are let, and what they know."""

    def __init__(self, bench: Bench, callers: int) -> None:
        self.bench = bench
        self.store = bench.store
        self.callers = callers
        self.going = True
        self.outcomes: list[str] = []
        self.longest = 0.0
        self.violations: list[str] = []
        self.saved: dict[str, set[int]] = {}  # what each session may hold
        self.appended: dict[str, int] = {}
        self.added = self.unknown = 0

    async def __aenter__(self) -> Self:
        await self.store.save(state("counter", n=0))
        await self.store.save(state("log"))
        self._tasks = [asyncio.ensure_future(self._work(number)) for number in range(self.callers)]
        await until(lambda: len(self.outcomes) > self.callers * 4)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.going = False
        await asyncio.gather(*self._tasks)

    async def _do(self, operation: Awaitable[Any]) -> str:
        started = time.monotonic()
        result = await outcome(operation)
        self.longest = max(self.longest, time.monotonic() - started)
        self.outcomes.append(result)
        return result

    async def _work(self, number: int) -> None:
        session_id = f"own-{number}"
        turn = 0
        while self.going:
            turn += 1
            result = await self._do(self.store.save(state(session_id, n=turn)))
            possible = self.saved.setdefault(session_id, {0})
            if result == "done":
                possible.clear()
            if result in ("done", "unknown"):
                possible.add(turn)
            await self._check(session_id)
            text = f"{number}-{turn}"
            if await self._do(self.store.append("a", "log", [Message(role="user", content=text)])) == "done":
                self.appended[text] = 1
            result = await self._do(self.store.update("a", "counter", _add))
            self.added += result == "done"
            self.unknown += result == "unknown"

    async def _check(self, session_id: str) -> None:
        loaded: AgentState | None = None

        async def load() -> None:
            nonlocal loaded
            loaded = await self.store.load("a", session_id)

        result = await self._do(load())
        if result == "StateNotFoundError":
            if 0 not in self.saved[session_id]:
                self.violations.append(f"{session_id} is gone")
        elif loaded is not None and (loaded.session_id != session_id or loaded.data["n"] not in self.saved[session_id]):
            self.violations.append(f"{session_id} holds {loaded}, not one of {self.saved[session_id]}")

    async def verify(self) -> None:
        """What was acknowledged is there, once."""
        truth = self.bench.truth
        counter, log = await truth.load("counter"), await truth.load("log")
        assert counter is not None
        assert log is not None
        print(f"{len(self.outcomes)} operations, {self.outcomes.count('unknown')} unknown")
        assert self.violations == []
        assert self.added <= counter.data["n"] <= self.added + self.unknown
        found = texts(log)
        assert len(found) == len(set(found))
        assert set(self.appended) <= set(found)
        for session_id, possible in self.saved.items():
            stored = await truth.load(session_id)
            assert (0 if stored is None else stored.data["n"]) in possible
        assert not truth.disagreement()
        assert self.longest < 2 * self.bench.budget + SLACK  # an update is a load and a save
        assert set(self.outcomes) <= FAILURES | {"done", "unknown", "StateNotFoundError"}


def _add(loaded: AgentState) -> None:
    loaded.data["n"] += 1


async def test_a_frozen_server_is_told_within_the_deadline_and_costs_nothing_when_it_thaws() -> None:
    """Loads fail, writes are unknown, none hangs; afterwards everything works again."""
    async with own_server(0.3) as bench:
        await bench.store.save(state("s", n=1))
        bench.server.freeze()
        operations: list[Awaitable[str]] = [bench.in_time(bench.store.load("a", "s")) for _ in range(20)]
        operations += [bench.in_time(bench.store.save(state(str(number)))) for number in range(20)]
        operations += [bench.in_time(bench.store.delete("a", str(number))) for number in range(20)]
        operations += [bench.in_time(bench.store.list("a"))]
        results = await asyncio.gather(*operations)
        bench.server.thaw()
        assert set(results[:20]) <= FAILURES
        assert set(results[20:60]) <= FAILURES | {"unknown"}
        assert results[60] in FAILURES
        assert (await bench.store.load("a", "s")).data == {"n": 1}
        await bench.quiet()
        assert not bench.truth.disagreement()


async def test_a_short_freeze_is_waited_out() -> None:
    """A server that is silent for less than the deadline fails nothing, and connections are kept."""
    async with own_server(2.0) as bench, Load(bench, 10) as load:
        accepted = bench.proxy.accepted
        bench.server.freeze()
        await asyncio.sleep(0.3)
        bench.server.thaw()
        load.going = False
        await bench.quiet()
        assert set(load.outcomes) == {"done"}
        assert bench.proxy.accepted == accepted


async def test_a_freeze_under_load_loses_nothing_and_doubles_nothing() -> None:
    """Connections are given up and their requests run late, when the server thaws: never twice."""
    async with own_server(0.25) as bench:
        async with Load(bench, 20) as load:
            for _ in range(2):
                bench.server.freeze()
                await asyncio.sleep(0.7)
                bench.server.thaw()
                await asyncio.sleep(0.2)
        await bench.quiet()
        await asyncio.sleep(0.1)
        await load.verify()
        assert load.outcomes.count("done") > 0


async def test_a_server_that_is_killed_under_load_keeps_what_was_acknowledged() -> None:
    """It comes back within the deadline: what was not sent is sent then, and what was in flight is settled."""
    async with own_server(2.0, persistence=True) as bench:
        async with Load(bench, 20) as load:
            for _ in range(3):
                await bench.server.restart()
                before = len(load.outcomes)
                await until(lambda before=before: len(load.outcomes) > before + 100)
        await load.verify()
        assert set(load.outcomes) <= {"done", "unknown"}


async def test_a_server_that_stays_away_is_unavailable_and_welcome_when_it_is_back() -> None:
    """Every operation ends in time meanwhile."""
    async with own_server(0.25, persistence=True) as bench:
        async with Load(bench, 20) as load:
            bench.server.kill()
            await asyncio.sleep(1.2)
            await bench.server.start()
            before = load.outcomes.count("done")
            await until(lambda: load.outcomes.count("done") > before + 100)
        await load.verify()
        assert "StoreUnavailableError" in load.outcomes


async def test_a_server_that_forgets_its_scripts_gets_them_again(redis_server: RedisServer) -> None:
    """SCRIPT FLUSH between two operations is no error."""
    async with behind_proxy(redis_server) as bench:
        await bench.store.save(state(), if_version=0)
        for _ in range(3):
            redis_server.command("SCRIPT", "FLUSH")
            results = await asyncio.gather(
                *(outcome(bench.store.append("a", "s", [Message(role="user", content=str(n))])) for n in range(10))
            )
            assert results == ["done"] * 10
        stored = await bench.truth.load()
        assert stored is not None
        assert sorted(texts(stored)) == sorted(str(n) for n in range(10) for _ in range(3))


@pytest.mark.parametrize("late", [0.5, 0.9])
async def test_a_connection_whose_callers_are_all_gone_is_given_up_in_time(late: float) -> None:
    """A server that falls silent on what was tried again keeps no connection, though nobody waits for its reply."""
    timeout = 0.5
    surprises: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    silent = False

    def answer(command: list[bytes]) -> bytes | Deed | None:
        return Deed.SILENCE if silent and command[0] in (b"GET", b"INFO") else None

    async with ScriptedServer(answer) as server:
        config = RedisConfig(addrs=[server.addr], read_timeout=timeout, write_timeout=timeout, pool_size=1)
        async with RedisStateStore.from_config(config) as store:
            silent = True
            load = asyncio.ensure_future(outcome(store.load("a", "s")))
            await asyncio.sleep(late * timeout)
            server.cut()
            async with asyncio.timeout(2 * timeout + SLACK):
                assert await load in FAILURES
            await until(lambda: "1 connections" not in repr(store), seconds=timeout + SLACK)
            silent = False
            assert await outcome(store.load("a", "s")) == "StateNotFoundError"
    assert surprises == []
