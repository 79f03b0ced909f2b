"""Whose the connections are: a client that was handed in stays its owner's, what a store opened it closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from support.stores import eventually

from redis_state import (
    AgentState,
    ForeignLoopError,
    MemoryStateStore,
    RedisConfig,
    RedisStateStore,
    StoreClosedError,
    StoreUnavailableError,
    open_store,
)
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_state import SessionStore

LARGE: Final = "x" * 200_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server whose connections are all this module's."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def left_alone(server: RedisServer) -> Iterator[None]:
    """Every test leaves the server without connections, and no warning behind."""
    yield
    gc.collect()
    assert connections(server) == []


def connections(server: RedisServer) -> list[dict[str, str]]:
    """What CLIENT LIST tells of every connection but this one."""
    lines = server.command("CLIENT", "LIST").decode().splitlines()
    found = [dict(pair.partition("=")[::2] for pair in line.split()) for line in lines]
    return [client for client in found if client.get("cmd", "").partition("|")[0] != "client"]


async def disconnected(server: RedisServer) -> None:
    """Wait until the server has noticed that nobody is there any more."""

    async def gone() -> bool:
        return connections(server) == []

    await eventually(gone)


def a_state(session_id: str = "s1", **fields: Any) -> AgentState:
    return AgentState(agent_id="a1", session_id=session_id, **fields)


async def answers(client: Any) -> bool:
    """Whether its owner can use a client."""
    return await client.ping()


async def work(store: SessionStore[AgentState]) -> None:
    """Enough at once for a store to open connections for small and for large states."""
    await store.delete_agent("a1")
    await asyncio.gather(
        *(store.save(a_state(f"s{number}")) for number in range(50)),
        *(store.save(a_state(f"large{number}", data={"text": LARGE})) for number in range(4)),
    )
    assert len(await store.list("a1")) == 54
    loaded = await asyncio.gather(*(store.load("a1", f"large{number}") for number in range(4)))
    assert all(state.data["text"] == LARGE for state in loaded)


class TestAClientThatWasHandedIn:
    async def test_is_not_closed(self, server: RedisServer) -> None:
        """It can be used while the store is open, and after."""
        async with Redis(host=server.host, port=server.port) as client:
            async with RedisStateStore(client) as store:
                await work(store)
                assert await answers(client)
            assert await answers(client)
            assert await client.zcard("forge:state:sessions:{a1}") == 54
            with pytest.raises(StoreClosedError):
                await store.list("a1")
            async with RedisStateStore(client) as another:
                assert len(await another.list("a1")) == 54
            assert await answers(client)
        await disconnected(server)

    async def test_gets_its_connections_back(self, server: RedisServer) -> None:
        """All of them, so that its pool is as large as it was."""
        pool = ConnectionPool(host=server.host, port=server.port, max_connections=3)
        async with Redis(connection_pool=pool) as client:
            for _ in range(5):
                async with RedisStateStore(client) as store:
                    await work(store)
            held = [await pool.get_connection() for _ in range(3)]
            for connection in held:
                await pool.release(connection)
            assert await answers(client)
        await pool.aclose()
        await disconnected(server)

    async def test_may_have_a_pool_of_one(self, server: RedisServer) -> None:
        """Large states then travel with the small ones; the owner has it back when the store is closed."""
        async with Redis(host=server.host, port=server.port, max_connections=1) as client:
            async with RedisStateStore(client) as store:
                await work(store)
                assert len(connections(server)) == 1
            assert await answers(client)
        await disconnected(server)

    async def test_may_have_a_pool_that_waits(self, server: RedisServer) -> None:
        """A store takes what is free and waits for no more than it needs."""
        pool = BlockingConnectionPool(host=server.host, port=server.port, max_connections=2, timeout=1)
        client = Redis(connection_pool=pool)
        async with RedisStateStore(client) as store:
            await work(store)
            assert len(connections(server)) <= 2
        assert await answers(client)
        await client.aclose()
        await pool.aclose()
        await disconnected(server)

    async def test_without_a_free_connection_is_an_error_that_says_so(self, server: RedisServer) -> None:
        """What to raise is the client's max_connections."""
        pool = ConnectionPool(host=server.host, port=server.port, max_connections=1)
        taken = await pool.get_connection()
        store = RedisStateStore(Redis(connection_pool=pool))
        with pytest.raises(StoreUnavailableError, match="max_connections"):
            await store.load("a1", "s1")
        await store.aclose()
        await pool.release(taken)
        await pool.aclose()
        await disconnected(server)

    @pytest.mark.parametrize("protocol", [2, 3])
    async def test_keeps_its_settings(self, server: RedisServer, protocol: int) -> None:
        """Name, database, protocol, retries and callbacks are the owner's, for the store's connections too."""
        settings: dict[str, Any] = {"db": 3, "client_name": "mine", "protocol": protocol}
        retry = Retry(ConstantBackoff(0.01), 7)
        async with Redis(host=server.host, port=server.port, retry=retry, **settings) as client:
            before, retry = dict(client.connection_pool.connection_kwargs), client.get_retry()
            callbacks = dict(client.response_callbacks)
            async with RedisStateStore(client, key_prefix="p:") as store:
                await store.save(a_state())
                (connection,) = connections(server)
                assert (connection["name"], connection["db"]) == ("mine", "3")
                if "resp" in connection:
                    assert connection["resp"] == str(protocol)
            assert client.connection_pool.connection_kwargs == before
            assert client.response_callbacks == callbacks
            assert client.get_retry() is retry
            assert await client.get("p:{a1}:s1") is not None
            assert await client.zcard("p:sessions:{a1}") == 1
        await disconnected(server)

    async def test_may_serve_several_stores(self, server: RedisServer) -> None:
        """Closing one of them disturbs none."""
        async with Redis(host=server.host, port=server.port) as client:
            one, two = RedisStateStore(client, key_prefix="one:"), RedisStateStore(client, key_prefix="two:")
            await asyncio.gather(work(one), work(two))
            await one.aclose()
            await work(two)
            await two.aclose()
            assert [await client.zcard(f"{prefix}:sessions:{{a1}}") for prefix in ("one", "two")] == [54, 54]
        await disconnected(server)

    async def test_is_not_needed_before_the_first_operation(self) -> None:
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
    async def test_that_decodes_responses_is_refused(self, make: Callable[[], Any]) -> None:
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
    def test_that_is_none_is_refused(self, wrong: Any) -> None:
        """A client that is not asyncio's, a URL, a pool: the message says what it takes and what it was given."""
        with pytest.raises(TypeError, match=rf"redis\.asyncio.*{type(wrong).__name__}"):
            RedisStateStore(wrong)


WAYS: Final[dict[str, Callable[[RedisServer], SessionStore[AgentState]]]] = {
    "url": lambda server: RedisStateStore.from_url(server.url),
    "unix": lambda server: RedisStateStore.from_url(server.unix_url),
    "config": lambda server: RedisStateStore.from_config(RedisConfig(addrs=[server.addr])),
    "open_store": lambda server: open_store(server.url),
}


class TestWhatAStoreOpened:
    @pytest.mark.parametrize("way", WAYS)
    async def test_is_closed_with_it(self, server: RedisServer, way: str) -> None:
        """No connection is left, whichever way it was opened and closed."""
        make = WAYS[way]
        async with make(server) as store:
            await work(store)
            assert connections(server)
        await disconnected(server)
        store = make(server)
        await work(store)
        await store.aclose()
        await disconnected(server)
        await make(server).aclose()

    async def test_is_closed_after_an_error_in_the_block(self, server: RedisServer) -> None:
        """The error is the caller's and comes through."""

        async def fail() -> None:
            async with RedisStateStore.from_url(server.url) as store:
                await store.save(a_state())
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        await disconnected(server)

    async def test_is_closed_where_entering_fails(self) -> None:
        """There is no block that could close it."""
        with RedisServer(password="right") as locked:
            store = RedisStateStore.from_url(f"redis://:wrong@{locked.addr}")
            with pytest.raises(Exception, match="username and password"):
                await store.__aenter__()
            with pytest.raises(StoreClosedError):
                await store.ping()

    @pytest.mark.parametrize("pool_size", [1, 2, 3])
    async def test_is_no_more_than_it_may(self, server: RedisServer, pool_size: int) -> None:
        """`pool_size` connections, however much there is to do."""
        async with RedisStateStore.from_url(f"{server.url}?pool_size={pool_size}") as store:
            await work(store)
            assert 1 <= len(connections(server)) <= pool_size
        await disconnected(server)

    async def test_is_no_more_than_it_needs(self, server: RedisServer) -> None:
        """Small operations share one connection."""
        async with RedisStateStore.from_url(server.url) as store:
            await asyncio.gather(*(store.save(a_state(f"s{number}")) for number in range(200)))
            assert len(connections(server)) == 1
        await disconnected(server)


class TestOneLoopEach:
    def test_a_store_belongs_to_the_loop_that_first_used_it(self, server: RedisServer) -> None:
        """In another one every operation says so, and does nothing."""
        store = RedisStateStore.from_url(server.url)
        runner, other = asyncio.Runner(), asyncio.Runner()
        with contextlib.closing(runner), contextlib.closing(other):
            runner.run(store.save(a_state()))

            async def elsewhere() -> None:
                state = a_state(data={"n": 1})
                for call in (
                    store.save(state),
                    store.save(state, if_version=1),
                    store.load("a1", "s1"),
                    store.delete("a1", "s1"),
                    store.list("a1"),
                    store.exists("a1", "s1"),
                    store.ping(),
                ):
                    with pytest.raises(ForeignLoopError, match="event loop"):
                        await call
                assert state.version == 0

            other.run(elsewhere())
            assert runner.run(store.load("a1", "s1")).version == 1
            runner.run(store.aclose())
            runner.run(disconnected(server))

    def test_a_loop_that_went_to_another_thread(self, server: RedisServer) -> None:
        """Its thread runs another loop now: the store still belongs to the one that left."""
        store = RedisStateStore.from_url(server.url)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(store.save(a_state()))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            for _ in range(3):
                with pytest.raises(ForeignLoopError, match="event loop"):
                    asyncio.run(store.save(a_state()))
            saved = asyncio.run_coroutine_threadsafe(store.load("a1", "s1"), loop).result(10)
            assert saved.version == 1
            asyncio.run_coroutine_threadsafe(store.aclose(), loop).result(10)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def test_a_closed_store_is_closed_in_every_loop(self, server: RedisServer) -> None:
        """Nothing opens it again."""
        store = RedisStateStore.from_url(server.url)

        async def use() -> None:
            async with store:
                await store.save(a_state())
            await disconnected(server)

        asyncio.run(use())
        for _ in range(2):
            with pytest.raises((StoreClosedError, ForeignLoopError)):
                asyncio.run(store.ping())
