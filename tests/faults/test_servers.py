"""Servers that freeze, or die and come back with what they had: every operation ends in time, and what was acknowledged
is there. Under load: test_linearizable.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from typing import TYPE_CHECKING, Any

import pytest
from support.faulty import SLACK, Bench, behind_proxy, outcome, state, texts, until
from support.scripted import Deed, ScriptedServer
from support.states import messages

from redis_state import RedisConfig, RedisStateStore
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES = {"StoreTimeoutError", "StoreUnavailableError"}


@contextlib.asynccontextmanager
async def own_server(timeout: float) -> AsyncGenerator[Bench]:  # noqa: ASYNC109 - as in behind_proxy
    """A bench with a server that nobody else uses, and that has kept what it acknowledged when it comes back."""
    async with (
        RedisServer(persistence=True, config={"appendfsync": "always"}) as server,
        behind_proxy(server, timeout=timeout) as bench,
    ):
        await bench.truth.store.ping()
        yield bench


async def under_load(bench: Bench, faults: Callable[[Counter[str]], Awaitable[None]]) -> Counter[str]:
    """How writers' operations end while things go wrong. What was acknowledged is there, once."""
    outcomes: Counter[str] = Counter()
    added: dict[str, str] = {}
    going = True
    await bench.store.save(state("log"))

    async def work(number: int) -> None:
        turn = 0
        while going:
            text = f"{number}-{(turn := turn + 1)}"
            added[text] = await outcome(bench.store.append("a", "log", messages(text)))
            outcomes[added[text]] += 1

    tasks = [asyncio.ensure_future(work(number)) for number in range(20)]
    await until(lambda: outcomes.total() > 100)
    await faults(outcomes)
    before = outcomes["done"]
    await until(lambda: outcomes["done"] > before + 100)
    going = False
    await asyncio.gather(*tasks)
    await bench.quiet()
    stored = await bench.truth.load("log")
    assert stored is not None
    found = Counter(texts(stored))
    assert set(found.values()) == {1}
    assert {text for text, result in added.items() if result == "done"} <= set(found)
    assert {added[text] for text in found} <= {"done", "unknown"}
    assert set(outcomes) <= FAILURES | {"done", "unknown"}
    print(dict(outcomes))
    return outcomes


async def test_a_frozen_server_is_told_within_the_deadline_and_costs_nothing_when_it_thaws() -> None:
    """Loads fail, writes are unknown, none hangs; afterwards everything works again."""
    async with own_server(0.3) as bench:
        await bench.store.save(state("s", n=1))
        bench.server.freeze()
        operations: list[Awaitable[str]] = [bench.in_time(bench.store.load("a", "s")) for _ in range(20)]
        operations += [bench.in_time(bench.store.list("a"))]
        operations += [bench.in_time(bench.store.save(state(str(number)))) for number in range(20)]
        operations += [bench.in_time(bench.store.delete("a", str(number))) for number in range(20)]
        results = await asyncio.gather(*operations)
        bench.server.thaw()
        assert set(results[:21]) <= FAILURES
        assert set(results[21:]) <= FAILURES | {"unknown"}
        assert (await bench.store.load("a", "s")).data == {"n": 1}
        await bench.quiet()
        assert not bench.truth.disagreement()


async def test_a_short_freeze_is_waited_out() -> None:
    """A server that is silent for less than the deadline fails nothing, and connections are kept."""
    async with own_server(3.0) as bench:
        accepted = bench.proxy.accepted

        async def freeze(_: object) -> None:
            bench.server.freeze()
            await asyncio.sleep(0.3)
            bench.server.thaw()

        assert set(await under_load(bench, freeze)) == {"done"}
        assert bench.proxy.accepted <= accepted + 1


async def test_a_freeze_under_load_loses_nothing_and_doubles_nothing() -> None:
    """Connections are given up and their requests run late, when the server thaws: never twice."""
    async with own_server(0.25) as bench:

        async def freeze(_: object) -> None:
            for _ in range(2):
                bench.server.freeze()
                await asyncio.sleep(0.7)
                bench.server.thaw()
                await asyncio.sleep(0.2)

        await under_load(bench, freeze)


@pytest.mark.parametrize("away", [0.0, 1.2])
async def test_a_server_that_is_killed_under_load_keeps_what_was_acknowledged(away: float) -> None:
    """Back within the deadline it fails nobody; one that stays away is unavailable, and welcome when it is back."""
    async with own_server(0.25 if away else 3.0) as bench:

        async def kill(_: object) -> None:
            for _ in range(1 if away else 3):
                bench.server.kill()
                await asyncio.sleep(away)
                await bench.server.start()

        outcomes = await under_load(bench, kill)
        assert ("StoreUnavailableError" in outcomes) == bool(away)


async def test_a_server_that_forgets_its_scripts_gets_them_again(redis_server: RedisServer) -> None:
    """SCRIPT FLUSH between two operations is no error."""
    async with behind_proxy(redis_server) as bench:
        await bench.store.save(state(), if_version=0)
        for _ in range(3):
            redis_server.command("SCRIPT", "FLUSH")
            appends = (outcome(bench.store.append("a", "s", messages(str(n)))) for n in range(10))
            assert await asyncio.gather(*appends) == ["done"] * 10
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
