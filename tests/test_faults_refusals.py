"""What the server refuses: the operation fails alone, nothing of it is stored, and its neighbours succeed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from faulty import Bench, behind_proxy, outcome, state

from redis_state import AgentState, Message, OutcomeUnknownError, RedisConfig, RedisStateStore, ServerRefusedError
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from redis_state.errors import StateStoreError

MB = 1024 * 1024


@pytest.fixture
async def bench(redis_server: RedisServer) -> AsyncGenerator[Bench]:
    async with behind_proxy(redis_server) as bench:
        yield bench


async def refused(operation: Awaitable[object]) -> str:
    """The code with which the server refuses it."""
    with pytest.raises(ServerRefusedError) as error:
        await operation
    return error.value.code


def neighbours(store: RedisStateStore[AgentState], count: int = 20) -> list[Awaitable[str]]:
    return [outcome(store.save(state(f"n{number}"))) for number in range(count)]


async def test_a_load_of_a_list_fails_alone(bench: Bench) -> None:
    """WRONGTYPE is that operation's own, the others of its batch have their results."""
    bench.server.command("RPUSH", bench.truth.state_key("list"), "x")
    await bench.store.save(state("s", n=1))
    before, *loads, after = await asyncio.gather(
        bench.store.load("a", "s"),
        *(outcome(bench.store.load("a", "list" if number % 3 == 0 else "s")) for number in range(30)),
        bench.store.load("a", "s"),
    )
    assert before == after
    assert loads == ["ServerRefusedError" if number % 3 == 0 else "done" for number in range(30)]
    assert await refused(bench.store.load("a", "list")) == "WRONGTYPE"


async def plain(bench: Bench, saved: AgentState) -> None:
    await bench.store.save(state("s", n=2))


async def plain_of_saved(bench: Bench, saved: AgentState) -> None:
    await bench.store.save(saved)


async def with_ttl(bench: Bench, saved: AgentState) -> None:
    await bench.store.save(state("s", n=2), ttl=timedelta(seconds=50))


async def conditional(bench: Bench, saved: AgentState) -> None:
    await bench.store.save(saved, if_version=1)


async def append(bench: Bench, saved: AgentState) -> None:
    await bench.store.append("a", "s", [Message(role="user", content="x")])


async def delete(bench: Bench, saved: AgentState) -> None:
    await bench.store.delete("a", "s")


@pytest.mark.parametrize("write", [plain, plain_of_saved, with_ttl, conditional, append])
async def test_a_write_to_a_key_of_another_type_changes_nothing(
    bench: Bench, write: Callable[[Bench, AgentState], Awaitable[None]]
) -> None:
    """Neither that key nor the index is touched, also where the index knows the session."""
    saved = state("s", n=1)
    await bench.store.save(saved)
    bench.server.command("DEL", bench.truth.state_key())
    bench.server.command("RPUSH", bench.truth.state_key(), "x")
    before = bench.truth.keys()
    assert await refused(write(bench, saved)) == "WRONGTYPE"
    assert bench.truth.keys() == before
    assert saved.version == 1


@pytest.mark.parametrize("stored", ["nothing", "a state", "a state that expires"])
@pytest.mark.parametrize("write", [plain, plain_of_saved, with_ttl, conditional, append, delete])
async def test_a_write_beside_an_index_of_another_type_changes_nothing(
    bench: Bench, write: Callable[[Bench, AgentState], Awaitable[None]], stored: str
) -> None:
    """A state that no listing would show is not left behind; one that was there stays, with its expiry."""
    saved = state("s", n=1)
    await bench.store.save(saved, ttl=timedelta(seconds=100) if stored == "a state that expires" else None)
    if stored == "nothing":
        bench.server.command("DEL", bench.truth.state_key())
        if write in (conditional, append):
            pytest.skip("needs a state")
    bench.server.command("DEL", bench.truth.index_key())
    bench.server.command("RPUSH", bench.truth.index_key(), "x")
    before = bench.truth.keys()
    assert await refused(write(bench, saved)) == "WRONGTYPE"
    assert bench.truth.keys() == before


async def test_a_key_that_the_user_may_not_touch_fails_alone(redis_server: RedisServer) -> None:
    """NOPERM for one session is no failure of another's."""
    async with behind_proxy(redis_server) as bench:
        prefix = bench.truth.prefix
        allowed = [f"~{prefix}{each}" for each in ("partitions", "sessions:*", "{a}:n*")]
        redis_server.command("ACL", "SETUSER", "half", "on", ">pw", "+@all", *allowed)
        config = RedisConfig(addrs=[redis_server.addr], username="half", password="pw", key_prefix=prefix)
        async with RedisStateStore.from_config(config) as store:
            results = await asyncio.gather(outcome(store.save(state("forbidden"))), *neighbours(store))
            assert results == ["ServerRefusedError", *["done"] * 20]
            assert await refused(store.save(state("forbidden"))) == "NOPERM"
            assert await refused(store.load("a", "forbidden")) == "NOPERM"
        assert not bench.truth.disagreement()
        assert redis_server.command("EXISTS", bench.truth.state_key("forbidden")) == 0
        redis_server.command("ACL", "DELUSER", "half")


async def test_a_user_without_transactions_writes_nothing(redis_server: RedisServer) -> None:
    """Where MULTI is refused, what follows it must not be carried out on its own."""
    redis_server.command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-multi")
    try:
        async with behind_proxy(redis_server, username="plain", password="pw") as bench:
            await bench.truth.store.save(state("other"))
            before = bench.truth.keys()
            assert await refused(bench.store.save(state("s"))) == "NOPERM"
            assert await refused(bench.store.delete("a", "other")) == "NOPERM"
            assert bench.truth.keys() == before
    finally:
        redis_server.command("ACL", "DELUSER", "plain")


async def test_out_of_memory_fails_writes_alone(redis_server: RedisServer) -> None:
    """OOM is told as such, nothing is half written, and loads in the same batch succeed."""
    async with behind_proxy(redis_server) as bench:
        await asyncio.gather(*(bench.store.save(state(f"s{number}")) for number in range(5)))
        saved = await bench.store.load("a", "s0")
        before = bench.truth.keys()
        redis_server.command("CONFIG", "SET", "maxmemory", "1mb")
        try:
            results = await asyncio.gather(
                outcome(bench.store.save(state("new"))),
                outcome(bench.store.load("a", "s1")),
                outcome(bench.store.save(saved)),
                outcome(bench.store.save(saved, if_version=1)),
                outcome(bench.store.append("a", "s2", [Message(role="user", content="x")])),
                outcome(bench.store.load("a", "s2")),
            )
            code = await refused(bench.store.save(state("new")))
            unchanged = bench.truth.keys() == before
        finally:
            redis_server.command("CONFIG", "SET", "maxmemory", "0")
        refusal = "ServerRefusedError"
        assert results == [refusal, "done", refusal, refusal, refusal, "done"]
        assert code == "OOM"
        assert unchanged
        assert not bench.truth.disagreement()


async def test_a_value_over_the_servers_limit_fails_alone() -> None:
    """The server hangs up on a value it finds too large; only its own operation notices."""
    async with RedisServer(config={"proto-max-bulk-len": MB}) as server, behind_proxy(server) as bench:
        store = bench.truth.store  # without the proxy, which loses what a server says before it resets a connection
        for size in (1, 2, 3, 8):
            big = store.save(state("big", "x" * size * MB))
            results = await asyncio.gather(*neighbours(store), outcome(big), *neighbours(store))
            assert results == [*["done"] * 20, "ServerRefusedError", *["done"] * 20]
        with pytest.raises(ServerRefusedError, match="proto-max-bulk-len"):
            await store.save(state("big", "x" * 3 * MB))
        assert await bench.truth.load("big") is None
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
