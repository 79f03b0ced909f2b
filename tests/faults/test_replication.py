"""Writes that wait for replicas: for ever, and only for replicas that have them."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest
from support.proxy import FaultProxy
from support.timed import SLACK, Store, messages, state, texts, until, url_of
from support.waiting import wait_until

from redis_state import NotReplicatedError, RedisStateStore
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

Pair = tuple[RedisServer, RedisServer]


def acknowledged(primary: RedisServer) -> int:
    """How far the replica has told that it has come; 0 where none is linked."""
    fields = dict(pair.split("=") for pair in primary.info("replication").get("slave0", "offset=0").split(","))
    return int(fields["offset"]) if fields.get("state") == "online" else 0


@pytest.fixture(scope="module")
def linked() -> Iterator[Pair]:
    """A primary and its replica."""
    with (
        RedisServer(config={"repl-ping-replica-period": 1}) as primary,
        RedisServer(config={"replicaof": f"{primary.host} {primary.port}"}) as replica,
    ):
        # A WAIT counts a replica whose link is up only when it has told its offset: so a write is acknowledged first.
        wait_until(lambda: acknowledged(primary) > 0, what="A replica that is linked", timeout=20)
        primary.command("SET", "linked", "")
        offset = int(primary.info("replication")["master_repl_offset"])
        wait_until(lambda: acknowledged(primary) >= offset, what="A replica that acknowledges", timeout=20)
        yield primary, replica


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


async def save_plainly(store: Store) -> None:
    await store.save(state("s", "unconfirmed"))


async def save_conditionally(store: Store) -> None:
    await store.save(state("s", "unconfirmed"), if_version=0)


async def append(store: Store) -> None:
    await store.append("a", "other", messages("unconfirmed"))


EACH = pytest.mark.parametrize("write", [save_plainly, save_conditionally, append])


@pytest.mark.parametrize("callers", [1, 32])
async def test_confirmed_writes_go_on_for_thousands(linked: Pair, prefix: str, callers: int) -> None:
    """What a connection has read while it waited for replicas never keeps it from what comes next, loads included."""
    url = url_of(linked[0].url, prefix, pool_size=1, read_timeout=1, write_timeout=1)
    async with RedisStateStore.from_url(url, replicas=1) as store:

        async def work(caller: int) -> None:
            mine = state(f"s-{caller}")
            for number in range(4000 // callers):
                mine.data["n"] = number
                await store.save(mine)
            assert await store.load("a", f"s-{caller}") == mine

        await asyncio.gather(*(work(caller) for caller in range(callers)))
        assert await store.delete_agent("a") == callers


async def test_confirmed_writes_of_many_bytes_go_on(linked: Pair, prefix: str) -> None:
    """Large states and small ones pass over one connection, each confirmed."""
    url = url_of(linked[0].url, prefix, pool_size=1, read_timeout=2, write_timeout=2)
    async with RedisStateStore.from_url(url, replicas=1) as store:
        for number in range(30):
            await asyncio.gather(
                store.save(state("large", padding="x" * 300_000, n=number)),
                *(store.save(state(f"small-{each}", n=number)) for each in range(20)),
            )
            assert (await store.load("a", "large")).data["n"] == number
        assert await store.delete_agent("a") == 21


@EACH
async def test_a_replay_is_not_confirmed_by_a_replica_that_is_stopped(
    linked: Pair, prefix: str, write: Callable[[Store], Awaitable[None]]
) -> None:
    """A write that landed before its reply was lost is unconfirmed when its replay finds it there."""
    primary, replica = linked
    async with (
        FaultProxy(primary.host, primary.port) as proxy,
        RedisStateStore.from_url(url_of(proxy.url, prefix), replicas=1) as store,
    ):
        await store.save(state("other"))
        replica.freeze()
        try:
            proxy.drop_reply(to=b"unconfirmed")
            async with asyncio.timeout(1 + SLACK):
                with pytest.raises(NotReplicatedError):
                    await write(store)
        finally:
            replica.thaw()
        assert proxy.cuts == 1
        await until(lambda: replica.info("replication")["master_link_status"] == "up")
        await store.delete_agent("a")


@EACH
async def test_a_replay_is_confirmed_by_a_replica_that_has_it(
    linked: Pair, prefix: str, write: Callable[[Store], Awaitable[None]]
) -> None:
    """A lost reply costs a confirmed write nothing but time, and it is there once."""
    primary, _ = linked
    async with (
        FaultProxy(primary.host, primary.port) as proxy,
        RedisStateStore.from_url(url_of(proxy.url, prefix), replicas=1) as store,
    ):
        await store.save(state("other"))
        proxy.drop_reply(to=b"unconfirmed")
        await write(store)
        assert proxy.cuts == 1
        stored = await store.load_many("a", ["s", "other"])
        assert [text for each in stored.values() for text in texts(each)] == ["unconfirmed"]
        await store.delete_agent("a")
