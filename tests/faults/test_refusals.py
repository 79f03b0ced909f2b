"""What the server refuses: the operation fails alone, nothing of it is stored, and its neighbours succeed.

A key of another type where a state or an index should be: tests/contract/test_foreign_types.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Generator
from typing import TYPE_CHECKING

import pytest
from support.faulty import Bench, behind_proxy, outcome, state
from support.states import messages

from redis_state import AgentState, OutcomeUnknownError, RedisStateStore, ServerRefusedError
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from redis_state.errors import StateStoreError

MB = 1024 * 1024
REFUSED = "ServerRefusedError"


@pytest.fixture
async def bench(redis_server: RedisServer) -> AsyncGenerator[Bench]:
    async with behind_proxy(redis_server) as bench:
        yield bench


async def refused(operation: Awaitable[object]) -> str:
    """The code with which the server refuses it."""
    with pytest.raises(ServerRefusedError) as error:
        await operation
    return error.value.code


@contextlib.contextmanager
def full(server: RedisServer) -> Generator[None]:
    """The server without room for another write."""
    server.command("CONFIG", "SET", "maxmemory", "1mb")
    try:
        yield
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")


@contextlib.asynccontextmanager
async def limited(bench: Bench, *rules: str) -> AsyncGenerator[RedisStateStore[AgentState]]:
    """A store of a user of whom the server knows these rules."""
    name = bench.truth.prefix.strip(":")
    bench.server.command("ACL", "SETUSER", name, "on", ">pw", "+@all", *rules)
    url = f"redis://{name}:pw@{bench.server.addr}?key_prefix={bench.truth.prefix}"
    async with contextlib.aclosing(RedisStateStore.from_url(url)) as store:
        yield store
    bench.server.command("ACL", "DELUSER", name)


def neighbours(store: RedisStateStore[AgentState], count: int = 20) -> list[Awaitable[str]]:
    return [outcome(store.save(state(f"n{number}"))) for number in range(count)]


async def test_a_load_of_a_list_fails_alone_in_its_batch(bench: Bench) -> None:
    """Before and after it the others have their results."""
    bench.server.command("RPUSH", bench.truth.state_key("list"), "x")
    await bench.store.save(state())
    loads = [outcome(bench.store.load("a", "s" if number % 3 else "list")) for number in range(31)]
    assert await asyncio.gather(*loads) == ["done" if number % 3 else REFUSED for number in range(31)]


async def test_a_key_that_the_user_may_not_touch_fails_alone(bench: Bench) -> None:
    """NOPERM for one session is no failure of another's."""
    prefix = bench.truth.prefix
    async with limited(bench, *(f"~{prefix}{each}" for each in ("partitions", "sessions:*", "{a}:n*"))) as store:
        results = await asyncio.gather(outcome(store.save(state("forbidden"))), *neighbours(store))
        assert results == [REFUSED, *["done"] * 20]
        assert await refused(store.save(state("forbidden"))) == await refused(store.load("a", "forbidden")) == "NOPERM"
    assert not bench.truth.disagreement()
    assert bench.server.command("EXISTS", bench.truth.state_key("forbidden")) == 0


async def test_a_user_without_transactions_is_refused_from_the_first_operation_on(bench: Bench) -> None:
    """Where MULTI is refused, what follows it would be carried out on its own, so nothing is sent."""
    await bench.truth.store.save(state("other"))
    before = bench.truth.keys()
    async with limited(bench, "~*", "-multi") as store:
        for operation in (store.save(state("s")), store.delete("a", "other"), store.load("a", "other")):
            assert await refused(operation) == "NOPERM"
    assert bench.truth.keys() == before


async def test_out_of_memory_fails_writes_alone_and_can_be_relieved(bench: Bench) -> None:
    """Nothing is half written, loads in the same batch succeed, and a delete does and tells the truth."""
    store = bench.store
    await asyncio.gather(*(store.save(state(f"s{number}")) for number in range(5)))
    saved = await store.load("a", "s0")
    before = bench.truth.keys()
    with full(bench.server):
        results = await asyncio.gather(
            *map(
                outcome,
                (
                    store.save(state("new")),
                    store.load("a", "s1"),
                    store.save(saved),
                    store.save(saved, if_version=1),
                    store.append("a", "s2", messages("x")),
                    store.load("a", "s2"),
                ),
            )
        )
        assert bench.truth.keys() == before
        assert await refused(store.save(state("new"))) == "OOM"
        deleted = await asyncio.gather(*(store.delete("a", f"s{number}") for number in range(3, 8)))
    assert results == [REFUSED, "done", REFUSED, REFUSED, REFUSED, "done"]
    assert deleted == [True, True, False, False, False]
    assert await store.list("a") == ["s2", "s1", "s0"]
    assert not bench.truth.disagreement()


async def test_a_value_over_the_servers_limit_fails_alone() -> None:
    """The server hangs up on a value it finds too large; only its own operation notices, and says why."""
    async with RedisServer(config={"proto-max-bulk-len": MB}) as server, behind_proxy(server) as bench:
        store = bench.truth.store  # without the proxy, which loses what a server says before it resets a connection
        for size in (1, 3, 8):
            big = store.save(state("big", "x" * size * MB))
            results = await asyncio.gather(*neighbours(store), outcome(big), *neighbours(store))
            assert results == [*["done"] * 20, REFUSED, *["done"] * 20]
        with pytest.raises(ServerRefusedError, match="proto-max-bulk-len"):
            await store.save(state("big", "x" * 3 * MB))
        assert await bench.truth.load("big") is None
        await store.save(state("long"))
        await store.append("a", "long", messages("x" * 600_000))
        with pytest.raises(ServerRefusedError, match="proto-max-bulk-len"):
            await store.append("a", "long", messages("x" * 600_000))
        assert (await store.load("a", "long")).version == 2
        assert not bench.truth.disagreement()


async def test_a_refusal_after_a_lost_reply_does_not_claim_that_nothing_happened(bench: Bench) -> None:
    """The write landed the first time; that its replay is refused proves nothing."""
    error: StateStoreError | None = None

    async def save() -> None:
        nonlocal error
        try:
            await bench.store.save(state("s", n=1), if_version=0)
        except (ServerRefusedError, OutcomeUnknownError) as raised:
            error = raised

    async def run_out_of_memory() -> None:
        bench.server.command("CONFIG", "SET", "maxmemory", "1mb")
        bench.server.command("DEL", bench.truth.state_key(), bench.truth.index_key())

    try:
        await bench.replayed(save(), b"EVAL", run_out_of_memory)
    finally:
        bench.server.command("CONFIG", "SET", "maxmemory", "0")
    assert type(error) is OutcomeUnknownError
