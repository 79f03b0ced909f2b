"""Whose the connections are: a client that was handed in stays its owner's, what a store opened it closes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import redis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from support.states import Store, state
from support.stores import eventually

from redis_state import (
    MemoryStateStore,
    RedisConfig,
    RedisStateStore,
    StoreClosedError,
    StoreUnavailableError,
    open_store,
)
from redis_state.testing import RedisServer

LARGE: Final = "x" * 200_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server whose connections are all this module's."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
async def left_alone(server: RedisServer) -> Any:
    """Every test leaves the server without connections, and no warning behind."""
    yield

    async def gone() -> bool:
        return connections(server) == []

    await eventually(gone)
    gc.collect()


def connections(server: RedisServer) -> list[dict[str, str]]:
    """What CLIENT LIST tells of every connection but this one."""
    lines = server.command("CLIENT", "LIST").decode().splitlines()
    found = [dict(pair.partition("=")[::2] for pair in line.split()) for line in lines]
    return [client for client in found if client.get("cmd", "").partition("|")[0] != "client"]


async def answers(client: Any) -> bool:
    """Whether its owner can use a client."""
    return await client.ping()


async def work(store: Store) -> None:
    """Enough at once for a store to open connections for small and for large states."""
    await store.delete_agent("a")
    states = [*(state(f"s{n}") for n in range(50)), *(state(f"large{n}", text=LARGE) for n in range(4))]
    await asyncio.gather(*map(store.save, states))
    assert len(await store.list("a")) == 54
    assert list((await store.load_many("a", [each.session_id for each in states])).values()) == states


async def test_a_client_that_was_handed_in_is_not_closed(server: RedisServer) -> None:
    """It can be used while the store is open and after, and by another store."""
    async with Redis(host=server.host, port=server.port) as client:
        async with RedisStateStore(client) as store:
            await work(store)
            assert await answers(client)
        assert await client.zcard("forge:state:sessions:{a}") == 54
        with pytest.raises(StoreClosedError):
            await store.list("a")
        async with RedisStateStore(client) as another:
            assert len(await another.list("a")) == 54
        assert await answers(client)


async def test_several_stores_may_share_a_client_and_closing_one_disturbs_none(server: RedisServer) -> None:
    async with Redis(host=server.host, port=server.port) as client:
        one, two = RedisStateStore(client, key_prefix="one:"), RedisStateStore(client, key_prefix="two:")
        await asyncio.gather(work(one), work(two))
        await one.aclose()
        await work(two)
        await two.aclose()
        assert [await client.zcard(f"{prefix}:sessions:{{a}}") for prefix in ("one", "two")] == [54, 54]


@pytest.mark.parametrize(
    ("kind", "size"), [(ConnectionPool, 3), (ConnectionPool, 1), (BlockingConnectionPool, 2)], ids=str
)
async def test_a_client_gets_its_connections_back_however_few_it_has(
    server: RedisServer, kind: type[Any], size: int
) -> None:
    """All of them, so that its pool is as large as it was; a store takes no more than there are."""
    options: dict[str, Any] = {"timeout": 1} if kind is BlockingConnectionPool else {}
    pool: Any = kind(host=server.host, port=server.port, max_connections=size, **options)
    async with Redis(connection_pool=pool) as client:
        for _ in range(3):
            async with RedisStateStore(client) as store:
                await work(store)
                assert len(connections(server)) <= size
        held = [await pool.get_connection() for _ in range(size)]
        for connection in held:
            await pool.release(connection)
        assert await answers(client)
    await pool.aclose()


async def test_a_client_without_a_free_connection_is_an_error_that_says_so(server: RedisServer) -> None:
    """What to raise is the client's max_connections."""
    pool = ConnectionPool(host=server.host, port=server.port, max_connections=1)
    taken = await pool.get_connection()
    store = RedisStateStore(Redis(connection_pool=pool))
    with pytest.raises(StoreUnavailableError, match="max_connections"):
        await store.load("a", "s")
    await pool.release(taken)
    await store.save(state())
    await store.aclose()
    await pool.aclose()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_client_keeps_its_settings(server: RedisServer, protocol: int) -> None:
    """Name, database, protocol, retries and callbacks are the owner's, for the store's connections too."""
    settings: dict[str, Any] = {"db": 3, "client_name": "mine", "protocol": protocol}
    retry = Retry(ConstantBackoff(0.01), 7)
    async with Redis(host=server.host, port=server.port, retry=retry, **settings) as client:
        before, retry = dict(client.connection_pool.connection_kwargs), client.get_retry()
        callbacks = dict(client.response_callbacks)
        async with RedisStateStore(client, key_prefix="p:") as store:
            await store.save(state())
            (connection,) = connections(server)
            assert (connection["name"], connection["db"]) == ("mine", "3")
            assert connection.get("resp", str(protocol)) == str(protocol)
        assert client.connection_pool.connection_kwargs == before
        assert client.response_callbacks == callbacks
        assert client.get_retry() is retry
        assert await client.get("p:{a}:s") is not None


async def test_a_client_is_not_needed_before_the_first_operation() -> None:
    """Making a store connects nothing; closing one that was never used touches nothing."""
    client = Redis(host="nowhere.invalid", port=1)
    await RedisStateStore(client).aclose()
    await client.aclose()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Redis(decode_responses=True), id="Redis"),
        pytest.param(lambda: RedisCluster(host="localhost", decode_responses=True), id="RedisCluster"),
        pytest.param(lambda: Redis(connection_pool=ConnectionPool(decode_responses=True)), id="a pool"),
    ],
)
async def test_a_client_that_decodes_responses_is_refused(make: Callable[[], Any]) -> None:
    """At once, with the fix in the message: states are bytes."""
    client = make()
    with pytest.raises(TypeError, match=r"decode_responses=True.*without"):
        RedisStateStore(client)
    await client.aclose()


@pytest.mark.parametrize(
    "wrong",
    [None, "redis://localhost", redis.Redis(), ConnectionPool(), MemoryStateStore(), Redis],
    ids=lambda wrong: type(wrong).__name__,
)
def test_what_is_no_asyncio_client_is_refused(wrong: Any) -> None:
    """The message says what it takes and what it was given."""
    with pytest.raises(TypeError, match=rf"redis\.asyncio.*{type(wrong).__name__}"):
        RedisStateStore(wrong)


WAYS: Final[dict[str, Callable[[RedisServer], Store]]] = {
    "url": lambda server: RedisStateStore.from_url(server.url),
    "unix": lambda server: RedisStateStore.from_url(server.unix_url),
    "config": lambda server: RedisStateStore.from_config(RedisConfig(addrs=[server.addr])),
    "open_store": lambda server: open_store(server.url),
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_store_opened_is_closed_with_it(server: RedisServer, way: str) -> None:
    """No connection is left, whichever way it was opened and closed, also after an error in the block."""
    make = WAYS[way]
    store = make(server)
    await work(store)
    assert connections(server)
    await store.aclose()
    await make(server).aclose()

    async def fail() -> None:
        async with make(server) as store:
            await store.save(state())
            raise LookupError

    with pytest.raises(LookupError):
        await fail()


async def test_what_a_store_opened_is_closed_where_entering_fails() -> None:
    """There is no block that could close it."""
    with RedisServer(password="right") as locked:
        store = RedisStateStore.from_url(f"redis://:wrong@{locked.addr}")
        with pytest.raises(Exception, match="username and password"):
            await store.__aenter__()
        with pytest.raises(StoreClosedError):
            await store.ping()


@pytest.mark.parametrize("pool_size", [1, 2, 3])
async def test_a_store_opens_no_more_than_it_may_and_no_more_than_it_needs(server: RedisServer, pool_size: int) -> None:
    """`pool_size` connections, however much there is to do; small operations share one."""
    async with RedisStateStore.from_url(f"{server.url}?pool_size={pool_size}") as store:
        await asyncio.gather(*(store.save(state(f"s{number}")) for number in range(200)))
        assert len(connections(server)) == 1
        await work(store)
        assert 1 <= len(connections(server)) <= pool_size
