"""Views: many types over one set of connections, none of which sees anything of another."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from support.states import Store, agent_ids, saved, session_ids, state
from support.stores import Stores, delete_agents, on, on_one_server, on_server_indexes, on_servers

from redis_state import (
    AgentState,
    NotReplicatedError,
    PartitionsMismatchError,
    SessionStore,
    StateNotFoundError,
    StateTooLargeError,
    StoreClosedError,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

HOUR: Final = timedelta(hours=1)


class Note(msgspec.Struct):
    """A type of the users' own."""

    agent_id: str
    session_id: str
    text: str = ""


@dataclass
class Plan:
    """Another one."""

    agent_id: str
    session_id: str
    steps: list[str]


@asynccontextmanager
async def cleaned(*views: SessionStore[Any]) -> AsyncGenerator[None]:
    """Removes what views have stored."""
    yield
    for view in views:
        await delete_agents(view)


async def contents(store: SessionStore[Any]) -> tuple[list[str], list[str], list[str], int]:
    """What a store shows of agent `a` and of all agents."""
    return await agent_ids(store), await store.list("a"), await session_ids(store), await store.count("a")


async def test_each_has_its_own_type_and_none_sees_another(store: Store) -> None:
    """Neither agents nor sessions, of a view, of its store, of a view of it; and nobody deletes another's."""
    notes = store.view(Note, namespace="notes")
    plans = store.view(Plan, namespace="plans")
    nested = notes.view(Plan, namespace="plans")
    async with cleaned(notes, plans, nested):
        await saved(store, "s")
        await notes.save(Note("a", "s", "mine"))
        await notes.save(Note("n", "other"))
        await plans.save(Plan("a", "s", ["one"]))
        await nested.save(Plan("a", "s", ["two"]))
        await nested.save(Plan("deep", "s", []))
        assert await notes.load("a", "s") == Note("a", "s", "mine")
        assert (await plans.load("a", "s")).steps == ["one"]
        assert (await nested.load("a", "s")).steps == ["two"]
        one = (["s"], ["s"], 1)
        assert await contents(store) == (["a"], *one)
        assert await contents(notes) == (["a", "n"], *one)
        assert await contents(plans) == (["a"], *one)
        assert await contents(nested) == (["a", "deep"], *one)
        for each, others in (notes, (store, plans, nested)), (store, (plans, nested)), (nested, (plans,)):
            assert await each.delete_agent("a") == 1
            assert await each.list("a") == []
            for other in others:
                assert await other.list("a") == ["s"]


async def test_the_same_namespace_is_the_same_data(store: Store) -> None:
    """Also of another view, and after the first one was closed."""
    first = store.view(Note, namespace="notes")
    await first.save(Note("a", "s", "kept"))
    await first.aclose()
    second = store.view(Note, namespace="notes")
    async with cleaned(second):
        assert (await second.load("a", "s")).text == "kept"


@on_servers
async def test_its_keys_stand_under_its_namespace(store: Store, stores: Stores) -> None:
    """As those of a store with that prefix, which reads them."""
    notes = store.view(Note, namespace="notes.v-1_a")
    async with cleaned(notes):
        await notes.save(Note("a", "s"))
        prefix = f"{stores.prefix}notes.v-1_a:".encode()
        assert len(stores.keys()) == 2
        assert all(key.startswith(prefix) for key in stores.keys())  # noqa: SIM118  # not a mapping


@on_servers
async def test_it_has_the_options_of_its_store_or_its_own(stores: Stores) -> None:
    """In whatever it is not told otherwise."""
    store: Store = await stores.open(ttl=HOUR)
    same = store.view(Note, namespace="same")
    other = store.view(Note, namespace="other", ttl=None, format="msgpack", max_state_bytes=300)
    async with cleaned(same, other):
        for view in (same, other):
            await view.save(Note("a", "s"))
        left = {key: stores.command("PTTL", key.decode()) for key in stores.keys() if b"sessions:" not in key}  # noqa: SIM118
        assert len(left) == 2
        for key, milliseconds in left.items():
            assert (milliseconds == -1) == (b"other:" in key)
            value: bytes = stores.command("GET", key.decode())
            if b"other:" in key:
                assert not value.startswith(b"{")
        with pytest.raises(StateTooLargeError):
            await other.save(Note("a", "s", "x" * 300))
        await same.save(Note("a", "s", "x" * 300))


async def test_closing_it_closes_it_alone(store: Store) -> None:
    """And views of it; its store and other views go on."""
    notes, plans = store.view(Note, namespace="notes"), store.view(Plan, namespace="plans")
    nested = notes.view(Plan, namespace="deep")
    async with cleaned(plans):
        await notes.aclose()
        await notes.aclose()
        for closed in (notes, nested):
            for call in (closed.ping(), closed.list("a"), closed.delete_agent("a"), closed.load_many("a", ["s"])):
                with pytest.raises(StoreClosedError):
                    await call
            with pytest.raises(StoreClosedError):
                closed.view(Note, namespace="more")
        await plans.save(Plan("a", "s", []))
        await saved(store, "s")
        assert await store.list("a") == await plans.list("a") == ["s"]
        await nested.aclose()


async def test_closing_its_store_closes_it(stores: Stores) -> None:
    store: Store = await stores.open()
    notes = store.view(Note, namespace="notes")
    nested = notes.view(Note, namespace="deep")
    await notes.ping()
    await store.aclose()
    for view in (notes, nested):
        with pytest.raises(StoreClosedError):
            await view.list("a")
        with pytest.raises(StoreClosedError):
            await view.save(Note("a", "s"))
    with pytest.raises(StoreClosedError, match="make the view of one that is open"):
        store.view(Note, namespace="more")
    await notes.aclose()


async def test_what_was_taken_is_carried_out_when_it_is_closed(store: Store) -> None:
    """Every save, the first ones included."""
    notes = store.view(Note, namespace="notes")
    saving = [asyncio.ensure_future(notes.save(Note("a", f"s{number}"))) for number in range(30)]
    await asyncio.sleep(0)
    await notes.aclose()
    assert await asyncio.gather(*saving) == [None] * 30
    again = store.view(Note, namespace="notes")
    async with cleaned(again):
        assert await again.count("a") == 30


async def test_what_was_taken_is_carried_out_when_its_store_is_closed(stores: Stores) -> None:
    """Steps of an operation of several steps as well."""
    store: Store = await stores.open()
    states = store.view(AgentState, namespace="states")
    await states.save(state())
    updating = asyncio.ensure_future(states.update("a", "s", lambda of: of.data.update(n=1)))
    deleting = asyncio.ensure_future(states.delete_agent("b"))
    await asyncio.sleep(0)
    await store.aclose()
    assert (await updating).data == {"n": 1}
    assert await deleting == 0
    another: Store = await stores.open()
    async with cleaned(another.view(AgentState, namespace="states")):
        pass


async def test_everything_works_in_it(store: Store) -> None:
    """Conditions, updates, appends, merges, expiry."""
    async with store.view(AgentState, namespace="states") as states, cleaned(states):
        mine = state("s")
        await states.save(mine, if_version=0)
        await states.append("a", "s", [])
        await states.merge("a", "s", {"data": {"n": 1}})
        assert (await states.update("a", "s", lambda of: of.context.update(n=2))).version == 4
        assert await states.touch("a", "s", ttl=HOUR)
        assert await states.touch_agent("a", ttl=HOUR) == 1
        assert await states.exists("a", "s")
        assert await states.delete("a", "s")
        with pytest.raises(StateNotFoundError):
            await states.load("a", "s")
        with pytest.raises(StateNotFoundError):
            await store.load("a", "s")


@on_server_indexes
async def test_its_partitions_are_checked_at_its_first_operation(store: Store, stores: Stores) -> None:
    """Against those of its own data. Nothing is written, and its store and other views go on."""
    many = store.view(Note, namespace="notes", partitions=5)
    async with cleaned(many):
        await many.save(Note("a", "s"))
        wrong = store.view(Note, namespace="notes", partitions=2)
        right = store.view(Note, namespace="notes", partitions=5)
        for call in (wrong.save(Note("a", "t")), wrong.load("a", "s"), wrong.ping()):
            with pytest.raises(PartitionsMismatchError) as caught:
                await call
            assert (caught.value.configured, caught.value.stored) == (2, 5)
        failed = await asyncio.gather(*(wrong.load("a", f"s{n}") for n in range(5)), return_exceptions=True)
        assert {type(error) for error in failed} == {PartitionsMismatchError}
        assert await right.list("a") == ["s"]
        await saved(store, "s")
        await wrong.aclose()


@on("standalone", "cluster")
async def test_its_first_operations_keep_their_order(store: Store) -> None:
    """Although they wait for the check of its data."""
    states = store.view(AgentState, namespace="states")
    async with cleaned(states):
        mine = state()
        calls: list[Any] = [states.save(mine), states.save(mine), states.load("a", "s"), states.delete("a", "s")]
        _, _, loaded, deleted, exists = await asyncio.gather(*calls, states.exists("a", "s"))
        assert (loaded.version, deleted, exists) == (2, True, False)


@on_one_server
async def test_it_opens_no_connections_of_its_own(store: Store, server: Any) -> None:
    """However many there are."""

    def connections() -> int:
        return int(server.info("clients")["connected_clients"])

    await saved(store, "s")
    before = connections()
    views = [store.view(Note, namespace=f"v{number}") for number in range(20)]
    for view in views:
        assert await view.list("a") == []
    assert connections() <= before


@on("sentinel")
async def test_it_may_ask_for_other_replicas_than_its_store(stores: Stores, server: Any) -> None:
    """The writes of each wait for as many as it asks for, also while others are under way."""
    async with open_store(server.url, key_prefix=stores.prefix, read_timeout=1) as store:
        one = store.view(Note, namespace="one", replicas=1)
        five = store.view(Note, namespace="five", replicas=5)
        async with cleaned(one, store.view(Note, namespace="five"), store):
            five_fail = [asyncio.ensure_future(five.save(Note("a", f"s{n}"))) for n in range(3)]
            await asyncio.gather(*(one.save(Note("a", f"s{n}")) for n in range(3)), *(saved(store, "s") for _ in "12"))
            failures = await asyncio.gather(*five_fail, return_exceptions=True)
            assert {type(error) for error in failures} == {NotReplicatedError}
            assert {error.wanted for error in failures if isinstance(error, NotReplicatedError)} == {5}


@on("sentinel")
@pytest.mark.parametrize(("of_store", "of_view"), [(1, 5), (5, 1), (5, 0)])
async def test_its_store_does_not_say_how_many_replicas_it_waits_for(
    stores: Stores, server: Any, of_store: int, of_view: int
) -> None:
    """Neither fewer nor more, and not after its first write either; nor does it say that for its store."""
    async with open_store(server.url, key_prefix=stores.prefix, replicas=of_store, read_timeout=1) as store:
        view = store.view(Note, namespace="v", replicas=of_view)
        async with cleaned(store.view(Note, namespace="v", replicas=0), store.view(Note, namespace="w", replicas=0)):
            parent = store.view(Note, namespace="w")
            for number in range(3):
                for asked, one in ((of_view, view), (of_store, parent)):
                    if asked < 5:
                        await one.save(Note("a", f"s{number}"))
                        continue
                    with pytest.raises(NotReplicatedError) as caught:
                        await one.save(Note("a", f"s{number}"))
                    assert caught.value.wanted == 5


async def test_a_cancelled_first_operation_stops_no_other(store: Store) -> None:
    notes = store.view(Note, namespace="notes")
    async with cleaned(notes):
        first = asyncio.ensure_future(notes.save(Note("a", "cancelled")))
        second = asyncio.ensure_future(notes.save(Note("a", "s")))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert "s" in await notes.list("a")


@pytest.mark.parametrize(
    ("namespace", "error"),
    [
        *((name, ValueError) for name in ("", "a:b", "{a}", "a b", "é", "x" * 65, "a\n", "sessions", "partitions")),
        *((name, TypeError) for name in (None, b"notes", 7)),
    ],
)
async def test_what_is_no_namespace_is_refused(store: Store, namespace: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="namespace"):
        store.view(Note, namespace=namespace)


@pytest.mark.parametrize(
    ("option", "error", "says"),
    [
        ({"pool_size": 2}, TypeError, "does not take 'pool_size': connections, limits and metrics"),
        ({"meter_provider": None}, TypeError, "'meter_provider'"),
        ({"logger": None}, TypeError, "'logger'"),
        ({"key_prefix": "x:"}, TypeError, "'key_prefix'"),
        ({"tttl": HOUR}, TypeError, "'tttl'.*it takes ttl"),
        ({"ttl": 60}, TypeError, "ttl"),
        ({"ttl": timedelta(0)}, ValueError, "ttl"),
        ({"format": "yaml"}, ValueError, "format"),
        ({"partitions": 0}, ValueError, "partitions"),
        ({"replicas": -1}, ValueError, "replicas"),
        ({"max_state_bytes": 0}, ValueError, "max_state_bytes"),
    ],
)
async def test_what_is_no_option_of_a_view_is_refused(
    store: Store, option: dict[str, Any], error: type[Exception], says: str
) -> None:
    """By its name, and with what may be given."""
    with pytest.raises(error, match=says):
        store.view(Note, namespace="notes", **option)


async def test_what_is_no_state_type_is_refused(store: Store) -> None:
    with pytest.raises(TypeError):
        store.view(dict, namespace="notes")  # pyright: ignore[reportArgumentType]
