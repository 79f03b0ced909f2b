"""What is tried again: only what was not sent, or what the server refused before executing it; and never for longer
than the operation may take."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from support.faulty import SLACK, behind_proxy, outcome, state
from support.scripted import Deed, ScriptedServer

from redis_state import (
    AgentState,
    OutcomeUnknownError,
    RedisConfig,
    RedisStateStore,
    ServerRefusedError,
    StateNotFoundError,
    StoreUnavailableError,
)
from redis_state.transport.connection import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_state.testing import RedisServer

TEMPORARY = [
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-READONLY You can't write against a read only replica.\r\n",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
    b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
    b"-CLUSTERDOWN The cluster is down\r\n",
    b"-NOREPLICAS Not enough good replicas to write.\r\n",
    b"-BUSY Redis is busy running a script.\r\n",
    b"-ERR max number of clients reached\r\n",
]
CODES = [reply[1:].split()[0].decode() if b"max" not in reply else "max-clients" for reply in TEMPORARY]
temporary = pytest.mark.parametrize("refusal", TEMPORARY, ids=CODES)
TIMEOUT = 0.4  # of reading, and of writing


def store_at(server: ScriptedServer, *, password: str | None = None, pool_size: int = 2) -> RedisStateStore[AgentState]:
    config = RedisConfig(
        addrs=[server.addr],
        password=password,
        dial_timeout=TIMEOUT,
        read_timeout=TIMEOUT,
        write_timeout=TIMEOUT,
        pool_size=pool_size,
    )
    return RedisStateStore.from_config(config)


def refusing(name: bytes, refusal: bytes, times: int) -> Callable[[list[bytes]], bytes | None]:
    """Refuses a command so many times."""
    left = times

    def answer(command: list[bytes]) -> bytes | None:
        nonlocal left
        if command[0] == name and left:
            left -= 1
            return refusal
        return None

    return answer


@temporary
async def test_what_was_refused_before_executing_is_tried_again(refusal: bytes) -> None:
    """A load and a save get through when the server is itself again."""
    async with ScriptedServer() as server, store_at(server) as store:
        server.commands.clear()
        server.answer = refusing(b"SET", refusal, 2)
        await store.save(state("s", n=1))
        server.answer = refusing(b"GET", refusal, 2)
        assert (await store.load("a", "s")).data == {"n": 1}
        assert server.names().count(b"SET") == server.names().count(b"EXEC") == 3


@temporary
async def test_a_server_that_goes_on_refusing_is_unavailable_when_the_time_is_up(refusal: bytes) -> None:
    """The error is the server's, never "no such session", and comes within the deadline."""
    async with ScriptedServer() as server, store_at(server) as store:
        server.answer = refusing(b"GET", refusal, 10**6)
        async with asyncio.timeout(2 * TIMEOUT + SLACK):
            with pytest.raises(StoreUnavailableError):
                await store.load("a", "s")
        assert len(server.commands) < 100


async def test_attempts_are_spread_by_jitter() -> None:
    """Operations that were refused together do not come back together."""
    times: list[float] = []

    def answer(command: list[bytes]) -> bytes | None:
        if command[0] != b"GET":
            return None
        times.append(time.monotonic())
        return TEMPORARY[0] if len(times) <= 64 else None

    async with ScriptedServer() as server, store_at(server) as store:
        server.answer = answer
        await asyncio.gather(*(outcome(store.load("a", str(number))) for number in range(64)))
    second = times[64:]
    assert len(second) == 64
    assert max(second) - min(second) > 0.005  # of 20 ms, over which 64 are spread


@pytest.mark.parametrize("pool_size", [1, 2])
async def test_a_replica_is_left_for_a_connection_that_may_lead_to_the_primary(pool_size: int) -> None:
    """READONLY closes that connection, also the only one that the pool allows."""
    async with ScriptedServer() as server, store_at(server, pool_size=pool_size) as store:
        accepted = server.accepted
        server.answer = refusing(b"SET", TEMPORARY[1], 1)
        await asyncio.gather(*(store.save(state(str(number))) for number in range(20)))
        assert server.accepted > accepted


@pytest.mark.parametrize("code", [b"WRONGPASS invalid username-password pair", b"NOAUTH Authentication required."])
async def test_an_authentication_error_is_reported_at_once_and_never_retried(code: bytes) -> None:
    """One attempt, one error that says what is wrong; the password is not in it."""
    async with ScriptedServer(lambda command: b"-%b\r\n" % code if command[0] == b"AUTH" else None) as server:
        store = store_at(server, password="secret-word")
        with pytest.raises(ServerRefusedError) as error:
            await store.load("a", "s")
        assert error.value.code == code.split()[0].decode()
        assert "secret-word" not in f"{error.value!r} {store!r} {server!r}"
        assert server.names() == [b"AUTH"]
        await store.aclose()


async def test_a_password_that_was_changed_does_not_hide_that_a_write_was_sent() -> None:
    """The save was carried out, its reply lost, and the new connection refused: its outcome is unknown."""
    saved = False

    def answer(command: list[bytes]) -> bytes | Deed | None:
        nonlocal saved
        if command[0] == b"AUTH" and saved:
            return b"-WRONGPASS invalid username-password pair\r\n"
        if command[0] == b"EXEC":
            saved = True
            return Deed.CUT
        return None

    async with ScriptedServer() as server, store_at(server, password="x") as store:
        server.answer = answer
        with pytest.raises(OutcomeUnknownError):
            await store.save(state())


@pytest.mark.parametrize("greeted", [True, False])
async def test_max_clients_is_waited_out(*, greeted: bool) -> None:
    """A server that turns a connection away has executed nothing, also where redis-py said nothing before."""
    async with ScriptedServer() as server, Redis(port=server.port, protocol=2, driver_info=None) as client:
        silent = RedisStateStore(client, read_timeout=TIMEOUT, write_timeout=TIMEOUT)
        async with store_at(server) if greeted else silent as store:
            server.greeting = TEMPORARY[-1]
            server.cut()
            load = asyncio.ensure_future(store.load("a", "s"))
            await asyncio.sleep(0.1)
            server.greeting = None
            with pytest.raises(StateNotFoundError):
                await load
        await silent.aclose()


async def test_what_was_not_sent_is_sent_on_the_next_connection(redis_server: RedisServer) -> None:
    """As many deletes as fit were in flight on the only connection when it was lost; those behind them are done."""
    async with behind_proxy(redis_server, pool_size=1, timeout=2.0) as bench:
        last = str(MAX_BATCH + 43)
        await bench.store.save(state(last))
        bench.proxy.stall()
        deletes = [
            asyncio.ensure_future(outcome(bench.store.delete("a", str(number)))) for number in range(MAX_BATCH + 44)
        ]
        await asyncio.sleep(0.3)
        bench.proxy.release()
        bench.proxy.cut()
        async with asyncio.timeout(bench.budget):
            assert await asyncio.gather(*deletes) == ["unknown"] * MAX_BATCH + ["done"] * 44
        assert await bench.truth.load(last) is None


# The first connection


async def test_a_first_connect_that_is_refused_is_reported_at_once() -> None:
    """Nothing was ever there, so nothing is waited for."""
    async with ScriptedServer() as server:
        pass
    store = store_at(server)
    async with asyncio.timeout(SLACK):
        with pytest.raises(StoreUnavailableError, match="Connection refused"):
            async with store:
                raise AssertionError
    await store.aclose()


@pytest.mark.parametrize("deed", [Deed.SILENCE, Deed.CUT])
async def test_a_server_that_is_silent_or_hangs_up_is_reported_within_dial_timeout(deed: Deed) -> None:
    """Also to many callers at once: none of them waits for another's attempt to fail first."""
    async with ScriptedServer(lambda _: deed) as server:
        store = store_at(server)
        async with asyncio.timeout(TIMEOUT + SLACK):
            results = await asyncio.gather(*(outcome(store.load("a", str(number))) for number in range(20)))
        assert set(results) <= {"StoreUnavailableError", "StoreTimeoutError"}
        await store.aclose()
