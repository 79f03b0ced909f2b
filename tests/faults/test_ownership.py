"""Whose a store is: the process and the event loop that opened its connections, and no other."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import pytest
from support.faulty import Bench, behind_proxy, state

from redis_state import ForeignLoopError, RedisStateStore, StoreClosedError

if TYPE_CHECKING:
    from redis_state.testing import RedisServer


@pytest.fixture
async def bench(redis_server: RedisServer) -> AsyncGenerator[Bench]:
    async with behind_proxy(redis_server) as bench:
        yield bench
    gc.collect()  # what was left open warns now


async def run(script: str, *arguments: str) -> str:
    """What a script prints; it warns of nothing and leaves nothing open."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


FORK = """
import asyncio, os, sys
from redis_state import AgentState, ForeignLoopError, RedisStateStore

url = sys.argv[1]

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

QUIET = """
import asyncio, sys
from redis_state import AgentState, RedisStateStore, StoreClosedError

async def main():
    store = RedisStateStore.from_url(sys.argv[1])
    tasks = [asyncio.ensure_future(store.save(AgentState(agent_id="a", session_id=str(n)))) for n in range(200)]
    await asyncio.sleep(float(sys.argv[2]))
    for task in tasks[::3]:
        task.cancel()
    await store.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    known = (StoreClosedError, asyncio.CancelledError, type(None))
    print({type(result).__name__ for result in results if not isinstance(result, known)})

asyncio.run(main())
"""


async def test_a_store_in_a_fork_is_refused_and_its_parent_goes_on(bench: Bench) -> None:
    """No socket is shared: the child gets an error that says what to do, and opens a store of its own."""
    printed = await run(FORK, f"{bench.server.url}?key_prefix={bench.truth.prefix}")
    assert printed == "child 0 parent {'n': 99}\n"


@pytest.mark.parametrize("after", ["0", "0.001", "0.01", "0.1"])
async def test_a_program_that_closes_in_the_middle_ends_without_a_word(bench: Bench, after: str) -> None:
    """No warning, no traceback of a task or a callback that nobody looked at."""
    assert await run(QUIET, f"{bench.server.url}?key_prefix={bench.truth.prefix}", after) == "set()\n"


async def test_a_second_event_loop_is_refused_and_the_first_goes_on(bench: Bench) -> None:
    """Every operation says so and does nothing; also closing, which is the first loop's."""
    mine = state(n=1)
    await bench.store.save(mine)
    store = bench.store
    for operation in (
        lambda: store.load("a", "s"),
        lambda: store.save(mine),
        lambda: store.save(mine, if_version=1),
        lambda: store.delete("a", "s"),
        lambda: store.list("a"),
        lambda: store.exists("a", "s"),
        store.ping,
        store.aclose,
    ):

        async def elsewhere(operation: Any = operation) -> None:
            with pytest.raises(ForeignLoopError, match="event loop"):
                await operation()

        await asyncio.to_thread(asyncio.run, elsewhere())
    assert mine.version == (await store.load("a", "s")).version == 1


def test_a_store_stays_with_a_loop_that_went_to_another_thread(redis_server: RedisServer) -> None:
    """Its thread runs another loop now: the store still belongs to the one that left."""
    store = RedisStateStore.from_url(redis_server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.exists("a", "s"))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for _ in range(3):
            with pytest.raises(ForeignLoopError, match="event loop"):
                asyncio.run(store.save(state()))
        assert asyncio.run_coroutine_threadsafe(store.exists("a", "s"), loop).result(10) is False
        asyncio.run_coroutine_threadsafe(store.aclose(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_store_belongs_to_the_loop_of_its_first_operation_and_is_closed_in_every_loop(
    redis_server: RedisServer,
) -> None:
    """Making it is no use; once closed, nothing opens it again, and closing it again is fine anywhere."""
    store = RedisStateStore.from_url(redis_server.url)

    async def use() -> bool:
        async with store:
            return await store.exists("a", "s")

    assert asyncio.run(use()) is False
    for _ in range(2):
        with pytest.raises(StoreClosedError):
            asyncio.run(store.ping())
        asyncio.run(store.aclose())
