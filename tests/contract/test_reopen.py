"""`reopen` and `LoopLocal`: a store for each event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from support.states import Store, agent_ids, saved, state
from support.stores import Stores, on, on_one_server

from redis_state import (
    AgentState,
    ForeignLoopError,
    LoopLocal,
    MemoryStateStore,
    RedisStateStore,
    SessionStore,
    StateNotFoundError,
    StateStoreError,
    StoreClosedError,
    StoreUnavailableError,
    open_store,
)
from redis_state.testing import RedisServer

HOUR: Final = timedelta(hours=1)


def in_a_thread(work: Callable[[], Any]) -> Any:
    """What a function returns or raises in a thread of its own."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # it is raised below
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


async def use(store: SessionStore[AgentState], session_id: str) -> list[str]:
    """Enough for connections to be opened."""
    async with store:
        await store.save(state(session_id))
        return await store.list("a")


async def test_another_store_has_the_same_data_and_settings(stores: Stores) -> None:
    """And is open and closed by itself."""
    store: Store = await stores.open(ttl=HOUR)
    await saved(store, "s")
    async with store.reopen() as another:
        assert type(another) is type(store)
        assert (await another.load("a", "s")).version == 1
        assert await another.touch("a", "s"), "it has the ttl"
        await another.append("a", "s", [])
    with pytest.raises(StoreClosedError):
        await another.list("a")
    assert (await store.load("a", "s")).version == 2


async def test_it_works_in_the_loop_of_another_thread(store: Store) -> None:
    """Where the store itself is refused, with the remedy."""
    await saved(store, "s")
    listed = await asyncio.to_thread(lambda: asyncio.run(use(store.reopen(), "other")))
    assert listed == ["other", "s"]
    assert await store.list("a") == ["other", "s"]


async def test_of_a_view_it_has_the_views_data(store: Store) -> None:
    """It is closed by itself, not with the view or its store."""
    view = store.view(AgentState, namespace="v")
    await saved(store, "s")
    await saved(view, "of-the-view")
    async with view.reopen() as another:
        await view.aclose()
        assert await agent_ids(another) == ["a"]
        assert await another.list("a") == ["of-the-view"]
        assert await another.delete_agent("a") == 1
    assert await store.list("a") == ["s"]


async def test_a_closed_store_can_be_reopened(stores: Stores) -> None:
    """Its settings are still known."""
    store: Store = await stores.open()
    await store.aclose()
    async with store.reopen() as another:
        assert await another.list("nobody") == []


@on("client-resp3")
async def test_a_store_of_a_callers_client_cannot(store: Store) -> None:
    """Its connections belong to the caller and to one loop; the error says what to do."""
    with pytest.raises(TypeError, match=r"a client of yours.*from_url or from_config"):
        store.reopen()
    with pytest.raises(TypeError, match="a client of yours"):
        store.view(AgentState, namespace="v").reopen()


@on_one_server
async def test_another_loop_is_refused_with_the_remedy(store: Store) -> None:
    with pytest.raises(ForeignLoopError, match=r"redis_state\.LoopLocal"):
        await asyncio.to_thread(lambda: asyncio.run(store.list("a")))
    assert "LoopLocal" in (ForeignLoopError.__doc__ or "")


class TestInMemory:
    async def test_the_data_is_kept_until_all_are_closed(self) -> None:
        """In whichever order."""
        store = MemoryStateStore()
        another = store.reopen()
        await saved(store, "s")
        await store.aclose()
        await store.aclose()
        third = another.reopen()
        await another.aclose()
        assert await third.list("a") == ["s"]
        await third.aclose()
        assert await store.reopen().list("a") == []

    def test_threads_lose_nothing(self) -> None:
        """Of what they do to one session at the same time."""
        store = MemoryStateStore()

        async def add(times: int) -> None:
            async with store.reopen() as mine:
                for _ in range(times):
                    await mine.append("a", "s", [], create=state())
                    await mine.update("a", "s", lambda of: of.data.update(n=of.data.get("n", 0) + 1))

        threads = [threading.Thread(target=lambda: asyncio.run(add(50))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        loaded = asyncio.run(store.load("a", "s"))
        assert (loaded.data["n"], loaded.version) == (200, 400)


class TestLoopLocal:
    async def test_each_loop_has_one_store(self, store: Store) -> None:
        """The same as often as it is asked for, by however many at once."""
        local = LoopLocal(store.reopen)
        mine, *same = await asyncio.gather(*(local.get() for _ in range(10)))
        assert all(each is mine for each in same)
        await saved(mine, "s")
        assert await asyncio.to_thread(lambda: asyncio.run(self.list_by(local))) == (["s"], True)
        assert await local.get() is mine
        assert await mine.list("a") == ["s"]
        await local.aclose()

    @staticmethod
    async def list_by(local: LoopLocal[AgentState]) -> tuple[list[str], bool]:
        store = await local.get()
        return await store.list("a"), store is await local.get()

    async def test_the_store_is_closed_by_aclose(self, store: Store) -> None:
        """Which may be called again, and where there is none; the next one is another."""
        local = LoopLocal(store.reopen)
        await local.aclose()
        first = await local.get()
        await local.aclose()
        await local.aclose()
        with pytest.raises(StoreClosedError):
            await first.list("a")
        second = await local.get()
        assert second is not first
        assert await second.list("nobody") == []
        await local.aclose()

    async def test_the_store_is_closed_with_its_loop(self, store: Store) -> None:
        """What is under way when the program ends is no reason to leave it open."""
        local = LoopLocal(store.reopen)
        kept: list[Store] = []

        async def begin() -> None:
            kept.append(await local.get())
            waiting = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            assert not waiting.done()

        await asyncio.to_thread(lambda: asyncio.run(begin()))
        with pytest.raises(StateStoreError):
            await kept[0].list("a")
        assert repr(local) == "<LoopLocal: 0 stores>"

    def test_what_cannot_be_opened_is_tried_again(self) -> None:
        """And everybody who waits gets the error."""
        attempts = 0

        def fail_once() -> SessionStore[AgentState]:
            nonlocal attempts
            attempts += 1
            return open_store("redis://127.0.0.1:1" if attempts == 1 else "memory://")

        async def run() -> None:
            local = LoopLocal(fail_once)
            failed = await asyncio.gather(*(local.get() for _ in range(3)), return_exceptions=True)
            assert {type(error) for error in failed} == {StoreUnavailableError}
            assert attempts == 1
            assert await (await local.get()).list("a") == []

        asyncio.run(run())

    def test_a_cancelled_call_stops_no_other(self) -> None:
        async def run() -> None:
            local = LoopLocal(partial(open_store, "memory://"))
            first, second = asyncio.ensure_future(local.get()), asyncio.ensure_future(local.get())
            await asyncio.sleep(0)
            first.cancel()
            assert await second is await local.get()

        asyncio.run(run())

    def test_a_loop_that_was_closed_without_asyncio_run_is_forgotten(self) -> None:
        local = LoopLocal(partial(open_store, "memory://"))
        loop = asyncio.new_event_loop()
        loop.run_until_complete(local.get())
        loop.close()
        assert repr(local) == "<LoopLocal: 1 stores>"

        async def get() -> str:
            await local.get()
            return repr(local)

        assert asyncio.run(get()) == "<LoopLocal: 1 stores>"
        assert repr(local) == "<LoopLocal: 0 stores>"

    @pytest.mark.parametrize("wrong", [None, "redis://", MemoryStateStore()])
    def test_what_is_no_function_is_refused(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match="open must be a function"):
            LoopLocal(wrong)

    def test_a_function_that_makes_no_store_is_refused(self) -> None:
        """With what it must return."""
        shared = MemoryStateStore()

        async def coroutine() -> SessionStore[AgentState]:
            return shared

        async def get(open: Any) -> None:
            await LoopLocal(open).get()

        with pytest.raises(TypeError, match="not a coroutine"):
            asyncio.run(get(coroutine))
        with pytest.raises(TypeError, match="must return a store, not str"):
            asyncio.run(get(lambda: "redis://"))

        async def twice() -> None:
            local: LoopLocal[AgentState] = LoopLocal(lambda: shared)
            await local.get()
            await asyncio.to_thread(lambda: asyncio.run(self.list_by(local)))

        with pytest.raises(TypeError, match="give LoopLocal its `reopen` instead"):
            asyncio.run(twice())


class TestConnections:
    @pytest.fixture
    def server(self) -> Any:
        """A server whose connections are all this test's."""
        with RedisServer() as server:
            yield server

    @staticmethod
    def connections(server: RedisServer) -> int:
        lines = server.command("CLIENT", "LIST").decode().splitlines()
        return len([line for line in lines if "cmd=client" not in line])

    def until_none(self, server: RedisServer) -> None:
        """The server notices the end of a connection a moment later."""
        for _ in range(1000):
            if self.connections(server) == 0:
                return
            threading.Event().wait(0.01)
        pytest.fail(f"{self.connections(server)} connections are left")

    @pytest.mark.parametrize("threads", [False, True])
    def test_loops_one_after_the_other_leave_none_and_no_warning(self, server: RedisServer, *, threads: bool) -> None:
        """As frameworks call storage: `asyncio.run` for each call, in the main thread or in others."""
        local = LoopLocal(partial(open_store, server.url, read_timeout=2))

        async def call(number: int) -> list[str]:
            store = await local.get()
            await asyncio.gather(*(store.save(state(f"s{number}")) for _ in range(5)))
            return await store.list("a")

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for number in range(8):
                run = partial(asyncio.run, call(number))
                listed = in_a_thread(run) if threads else run()
                assert len(listed) == number + 1
            gc.collect()
        self.until_none(server)
        assert repr(local) == "<LoopLocal: 0 stores>"

    def test_loops_at_the_same_time_each_have_their_own(self, server: RedisServer) -> None:
        local = LoopLocal(partial(open_store, server.url))
        errors: list[BaseException] = []

        async def call(number: int) -> None:
            for _ in range(20):
                store = await local.get()
                await store.save(state(f"s{number}"))

        def run(number: int) -> None:
            try:
                asyncio.run(call(number))
            except BaseException as error:  # noqa: BLE001  # it is looked at below
                errors.append(error)

        running = [threading.Thread(target=run, args=(number,)) for number in range(6)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert errors == []
        self.until_none(server)

    def test_a_call_that_fails_leaves_none(self, server: RedisServer) -> None:
        local = LoopLocal(partial(open_store, server.url))

        async def call() -> None:
            await (await local.get()).load("a", "nobody")

        for _ in range(3):
            with pytest.raises(StateNotFoundError):
                asyncio.run(call())
        self.until_none(server)

    async def test_a_client_of_the_callers_in_each_loop_works_too(self, server: RedisServer) -> None:
        """Where its settings are more than a URL says; the client is closed by who made it."""

        async def call() -> list[str]:
            async with Redis(host=server.host, port=server.port) as client:
                local = LoopLocal(lambda: RedisStateStore(client))
                await (await local.get()).save(state())
                listed = await (await local.get()).list("a")
                await local.aclose()
                return listed

        assert await asyncio.to_thread(lambda: asyncio.run(call())) == ["s"]
        await asyncio.to_thread(self.until_none, server)
