"""Who a store belongs to, and its end: forks, other event loops, closing with operations in flight."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.faulty import SLACK, Bench, behind_proxy, outcome, state, until

from redis_state import ForeignLoopError, RedisStateStore, StoreClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from redis_state.testing import RedisServer


@pytest.fixture
async def bench(redis_server: RedisServer) -> AsyncGenerator[Bench]:
    async with behind_proxy(redis_server) as bench:
        yield bench
    gc.collect()  # what was left open warns now


def run(script: str, *arguments: str) -> str:
    """What a script prints; it warns of nothing and leaves nothing open."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


# Processes

FORK = """
import asyncio, os, sys
from redis_state import AgentState, ForeignLoopError, RedisStateStore

url, prefix = sys.argv[1:]
url += "?key_prefix=" + prefix

def state(session_id, **data):
    return AgentState(agent_id="a", session_id=session_id, data=data)

async def child(inherited):
    for operation in (inherited.load("a", "parent"), inherited.save(state("x")), inherited.delete("a", "parent"),
                      inherited.list("a"), inherited.ping()):
        try:
            await operation
        except ForeignLoopError as error:
            assert "fork" in str(error), error
        else:
            os._exit(2)
    await inherited.aclose()
    async with RedisStateStore.from_url(url) as own:
        for number in range(100):
            await own.save(state("child", n=number))
        assert (await own.load("a", "parent")).data == {"n": 0}

async def parent():
    async with RedisStateStore.from_url(url) as store:
        await store.save(state("parent", n=0))
        in_flight = [asyncio.ensure_future(store.load("a", "parent")) for _ in range(50)]
        await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0:
            asyncio.events._set_running_loop(None)
            code = 1
            try:
                asyncio.run(child(store))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        for each in await asyncio.gather(*in_flight):
            assert each.data == {"n": 0}
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            for number in range(20):
                await store.save(state("own", n=number))
                assert (await store.load("a", "own")).data == {"n": number}
        print("child", os.waitstatus_to_exitcode(status), "parent", (await store.load("a", "child")).data)

asyncio.run(parent())
"""


async def test_a_store_in_a_fork_is_refused_and_its_parent_goes_on(bench: Bench) -> None:
    """No socket is shared: the child gets an error that says what to do, and opens a store of its own."""
    printed = await asyncio.to_thread(run, FORK, bench.server.url, bench.truth.prefix)
    assert printed == "child 0 parent {'n': 99}\n"


QUIET = """
import asyncio, sys
from redis_state import AgentState, RedisStateStore, StoreClosedError

async def main():
    store = RedisStateStore.from_url(sys.argv[1] + "?key_prefix=" + sys.argv[2])
    tasks = [asyncio.ensure_future(store.save(AgentState(agent_id="a", session_id=str(n)))) for n in range(200)]
    await asyncio.sleep(float(sys.argv[3]))
    for task in tasks[::3]:
        task.cancel()
    await store.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    known = (StoreClosedError, asyncio.CancelledError, type(None))
    print({type(result).__name__ for result in results if not isinstance(result, known)})

asyncio.run(main())
"""


@pytest.mark.parametrize("after", ["0", "0.001", "0.01", "0.1"])
async def test_a_program_that_closes_in_the_middle_ends_without_a_word(bench: Bench, after: str) -> None:
    """No warning, no traceback of a task or a callback that nobody looked at."""
    printed = await asyncio.to_thread(run, QUIET, bench.server.url, bench.truth.prefix, after)
    assert printed == "set()\n"


# Event loops


def in_another_loop(work: Any) -> Any:
    """What work returns or raises in an event loop of another thread."""
    results: list[Any] = []

    def target() -> None:
        try:
            results.append(asyncio.run(work()))
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            results.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return results[0]


async def test_a_second_event_loop_is_refused_and_the_first_goes_on(bench: Bench) -> None:
    """Also for closing, which is the first loop's."""
    await bench.store.save(state(n=1))
    operations = [
        lambda: bench.store.load("a", "s"),
        lambda: bench.store.save(state("other")),
        lambda: bench.store.delete("a", "s"),
        lambda: bench.store.list("a"),
        bench.store.aclose,
    ]
    for operation in operations:
        assert isinstance(await asyncio.to_thread(in_another_loop, operation), ForeignLoopError)
    assert (await bench.store.load("a", "s")).data == {"n": 1}


def test_a_store_whose_event_loop_has_ended_can_be_closed_in_another(redis_server: RedisServer) -> None:
    """It is closed then, and says so."""

    async def use_and_close() -> RedisStateStore[Any]:
        async with RedisStateStore.from_url(redis_server.url) as store:
            await store.exists("a", "s")
        return store

    store = asyncio.run(use_and_close())
    for _ in range(2):
        with pytest.raises(StoreClosedError):
            asyncio.run(store.exists("a", "s"))  # type: ignore[arg-type]
        asyncio.run(store.aclose())


def test_a_store_that_was_never_used_is_of_no_event_loop(redis_server: RedisServer) -> None:
    """Making it is no use; the first operation decides."""
    store = RedisStateStore.from_url(redis_server.url)

    async def use() -> bool:
        async with store:
            return await store.exists("a", "s")

    assert asyncio.run(use()) is False


# The end


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 10])
async def test_operations_in_flight_end_before_a_store_is_closed(bench: Bench, turns: int) -> None:
    """Each is carried out and says so, or was not taken any more; nothing is left over."""
    await bench.store.save(state("warm"))
    saves = [asyncio.ensure_future(outcome(bench.store.save(state(str(number))))) for number in range(300)]
    lists = [asyncio.ensure_future(outcome(bench.store.list("a"))) for _ in range(10)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await bench.store.aclose()
    results = await asyncio.gather(*saves, *lists)
    assert set(results) <= {"done", "StoreClosedError"}
    if turns > 1:
        assert results == ["done"] * 310
    assert len(await bench.truth.store.list("a")) == results[:300].count("done") + 1
    assert bench.pending == 0
    with pytest.raises(StoreClosedError):
        await bench.store.load("a", "s")


@pytest.mark.parametrize("read", ["load", "list"])
async def test_a_store_that_is_being_closed_takes_nothing_new(bench: Bench, read: str) -> None:
    """Whatever it still waits for, of one step or of several."""
    await bench.store.save(state())
    bench.proxy.stall()
    last = asyncio.ensure_future(outcome(bench.store.load("a", "s") if read == "load" else bench.store.list("a")))
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(bench.store.aclose())
    await asyncio.sleep(0.01)
    later = [
        asyncio.ensure_future(outcome(bench.store.load("a", "s"))),
        asyncio.ensure_future(outcome(bench.store.list("a"))),
    ]
    await asyncio.sleep(0.01)
    bench.proxy.release()
    await closing
    assert await last == "done"
    assert await asyncio.gather(*later) == ["StoreClosedError"] * 2


async def test_closing_takes_no_longer_than_an_operation_may(bench: Bench) -> None:
    """A server that does not answer is not waited for beyond the deadline of what is in flight."""
    await bench.store.save(state())
    bench.proxy.stall()
    saves = [asyncio.ensure_future(outcome(bench.store.save(state(str(number))))) for number in range(20)]
    await asyncio.sleep(0.01)
    async with asyncio.timeout(bench.budget + SLACK):
        await bench.store.aclose()
        assert await asyncio.gather(*saves) == ["unknown"] * 20
    bench.proxy.release()
    await until(lambda: bench.proxy.open_connections <= 1)


async def test_a_store_may_be_closed_again_and_by_several_at_once(bench: Bench) -> None:
    """All of them return when it is closed."""
    loads = [asyncio.ensure_future(outcome(bench.store.load("a", "s"))) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.gather(*(bench.store.aclose() for _ in range(5)))
    await bench.store.aclose()
    assert set(await asyncio.gather(*loads)) <= {"StateNotFoundError", "StoreClosedError"}


async def test_a_close_that_is_cancelled_goes_on_and_can_be_waited_for_again(bench: Bench) -> None:
    """Who gives up waiting stops nothing."""
    await bench.store.save(state())
    bench.proxy.stall()
    load = asyncio.ensure_future(outcome(bench.store.load("a", "s")))
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(bench.store.aclose())
    for _ in range(2):
        await asyncio.sleep(0.01)
        closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    bench.proxy.release()
    assert await load == "done"
    await bench.store.aclose()
    assert bench.pending == 0
    await until(lambda: bench.proxy.open_connections == 0)


async def test_a_store_may_be_closed_while_it_connects(redis_server: RedisServer) -> None:
    """The caller is told at once or has a result, and no connection is left, whenever the close comes."""
    async with behind_proxy(redis_server) as bench:
        before = bench.proxy.open_connections
        for turns in range(60):
            store = RedisStateStore.from_url(bench.proxy.url + f"?key_prefix={bench.truth.prefix}")
            save = asyncio.ensure_future(outcome(store.save(state(str(turns)))))
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(SLACK):
                await store.aclose()
                assert await save in ("done", "StoreClosedError", "StoreUnavailableError"), f"after {turns} turns"
            with pytest.raises(StoreClosedError):
                await store.load("a", "s")
            await until(lambda: bench.proxy.open_connections == before, seconds=SLACK)


async def test_a_body_that_is_cancelled_closes_its_store(redis_server: RedisServer) -> None:
    """No connection outlives `async with`."""
    async with behind_proxy(redis_server) as bench:

        async def body() -> None:
            async with RedisStateStore.from_url(bench.proxy.url + f"?key_prefix={bench.truth.prefix}") as store:
                while True:
                    await asyncio.gather(*(store.save(state(str(number))) for number in range(50)))

        before = bench.proxy.open_connections
        task = asyncio.ensure_future(body())
        await until(lambda: bench.proxy.open_connections > before)
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: bench.proxy.open_connections == before)
        assert not bench.truth.disagreement()
