"""What the server refuses: the operation fails alone, nothing of it is stored, and its neighbours succeed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from support.faulty import Bench, behind_proxy, outcome, state

from redis_state import AgentState, Message, OutcomeUnknownError, RedisConfig, RedisStateStore, ServerRefusedError
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

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
    await bench.store.save(saved, if_version=saved.version)


async def append(bench: Bench, saved: AgentState) -> None:
    await bench.store.append("a", "s", [Message(role="user", content="x")])


async def delete(bench: Bench, saved: AgentState) -> None:
    await bench.store.delete("a", "s")


Write = Callable[[Bench, AgentState], Awaitable[None]]


@pytest.mark.parametrize("write", [plain, with_ttl, conditional, append])
async def test_a_write_to_a_key_of_another_type_changes_nothing(bench: Bench, write: Write) -> None:
    """Neither that key nor the index is touched, and the object is as it was."""
    await bench.store.save(state("other"))
    bench.server.command("RPUSH", bench.truth.state_key(), "x")
    before = bench.truth.keys()
    saved = state("s", n=1)
    assert await refused(write(bench, saved)) == "WRONGTYPE"
    assert bench.truth.keys() == before
    assert saved.version == 0


@pytest.mark.parametrize("write", [plain, with_ttl, conditional, append])
async def test_a_write_to_a_key_that_was_given_another_type_by_hand_leaves_it_alone(bench: Bench, write: Write) -> None:
    """Where the index knows the session, it goes on doing so."""
    saved = state("s", n=1)
    await bench.store.save(saved)
    bench.server.command("DEL", bench.truth.state_key())
    bench.server.command("RPUSH", bench.truth.state_key(), "x")
    assert await refused(write(bench, saved)) == "WRONGTYPE"
    assert bench.server.command("LRANGE", bench.truth.state_key(), 0, -1) == [b"x"]
    assert not bench.truth.disagreement()
    assert saved.version == 1


async def test_a_save_of_a_loaded_object_replaces_whatever_took_its_place(bench: Bench) -> None:
    """Last write wins, also over what somebody else put under the session's key."""
    saved = state("s", n=1)
    await bench.store.save(saved)
    bench.server.command("DEL", bench.truth.state_key())
    bench.server.command("RPUSH", bench.truth.state_key(), "x")
    await bench.store.save(saved)
    assert await bench.truth.load() == saved
    assert not bench.truth.disagreement()


@pytest.mark.parametrize("write", [conditional, append])
async def test_a_script_beside_an_index_that_was_broken_later_changes_nothing(bench: Bench, write: Write) -> None:
    """A script looks at the index every time."""
    saved = state("s", n=1)
    await bench.store.save(saved)
    bench.server.command("DEL", bench.truth.index_key())
    bench.server.command("RPUSH", bench.truth.index_key(), "x")
    before = bench.truth.keys()
    assert await refused(write(bench, saved)) == "WRONGTYPE"
    assert bench.truth.keys() == before


@pytest.mark.parametrize("write", [plain, plain_of_saved, with_ttl])
async def test_a_plain_save_beside_an_index_of_another_type_says_that_the_state_was_stored(
    bench: Bench, write: Write
) -> None:
    """It cannot be listed, but loaded; the object's version is the stored one."""
    saved = state("s", n=1)
    bench.server.command("RPUSH", bench.truth.index_key(), "x")
    with pytest.raises(ServerRefusedError, match="the state was stored") as caught:
        await write(bench, saved)
    assert caught.value.stored
    assert caught.value.code == "WRONGTYPE"
    assert bench.server.command("LRANGE", bench.truth.index_key(), 0, -1) == [b"x"]
    assert (await bench.truth.load()) is not None


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


async def test_a_user_without_transactions_is_refused_from_the_first_operation_on(redis_server: RedisServer) -> None:
    """Where MULTI is refused, what follows it would be carried out on its own, so nothing is sent."""
    redis_server.command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-multi")
    try:
        async with behind_proxy(redis_server) as bench:
            await bench.truth.store.save(state("other"))
            before = bench.truth.keys()
            addrs, prefix = [redis_server.addr], bench.truth.prefix
            config = RedisConfig(addrs=addrs, username="plain", password="pw", key_prefix=prefix)
            async with contextlib.aclosing(RedisStateStore.from_config(config)) as store:
                for operation in (store.save(state("s")), store.delete("a", "other"), store.load("a", "other")):
                    assert await refused(operation) == "NOPERM"
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


async def test_a_full_server_can_be_relieved(redis_server: RedisServer) -> None:
    """A delete succeeds where every other write is refused, and tells the truth."""
    async with behind_proxy(redis_server) as bench:
        await asyncio.gather(*(bench.store.save(state(f"s{number}")) for number in range(5)))
        redis_server.command("CONFIG", "SET", "maxmemory", "1mb")
        try:
            deleted = await asyncio.gather(*(bench.store.delete("a", f"s{number}") for number in range(3, 8)))
            code = await refused(bench.store.save(state("new")))
        finally:
            redis_server.command("CONFIG", "SET", "maxmemory", "0")
        assert deleted == [True, True, False, False, False]
        assert code == "OOM"
        assert await bench.store.list("a") == ["s2", "s1", "s0"]
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
