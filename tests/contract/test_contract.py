"""What every store promises, over every way to open one. `redis_state/protocol.py` is the specification."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
from support.stores import Stores, eventually, on_kinds, on_server_kinds, on_servers

from redis_state import (
    AgentState,
    InvalidIdError,
    Message,
    ServerRefusedError,
    SessionInfo,
    SessionStore,
    StateDecodeError,
    StateEncodeError,
    StateNotFoundError,
    StoreClosedError,
    VersionConflictError,
)

Store = SessionStore[AgentState]


def a_state(session_id: str = "s1", agent_id: str = "a1", **fields: Any) -> AgentState:
    return AgentState(agent_id=agent_id, session_id=session_id, **fields)


def a_conversation(session_id: str = "s1") -> AgentState:
    return a_state(
        session_id,
        messages=[Message(role="user", content="hi"), Message(role="assistant", content="hello", metadata={"n": 1})],
        context={"user_id": "user-456", "tags": ["a", None, True, 1.5], "Ünïcode": "💡"},
        data={"plan": {"step": 3}},
    )


async def saved(store: Store, *session_ids: str, agent_id: str = "a1") -> list[AgentState]:
    states = [a_state(session_id, agent_id) for session_id in session_ids]
    for state in states:
        await store.save(state)
    return states


async def infos(store: Store, agent_id: str = "a1", **options: Any) -> list[SessionInfo]:
    return [info async for info in store.sessions(agent_id, **options)]


async def session_ids(store: Store, agent_id: str = "a1", **options: Any) -> list[str]:
    return [info.session_id for info in await infos(store, agent_id, **options)]


async def agent_ids(store: SessionStore[Any]) -> list[str]:
    return sorted([agent_id async for agent_id in store.agents()])


def unchanged(state: Any) -> None:
    """The change that changes nothing."""


def never(state: Any) -> None:
    """The change that is not asked for."""
    pytest.fail("it was called")


# Every operation as a call with two ids; those that take one id ignore the second.
Call = Callable[[Store, Any, Any], Awaitable[object]]
OF_A_SESSION: Final[dict[str, Call]] = {
    "save": lambda store, agent, session: store.save(a_state(session, agent)),
    "save if_version": lambda store, agent, session: store.save(a_state(session, agent), if_version=0),
    "load": lambda store, agent, session: store.load(agent, session),
    "delete": lambda store, agent, session: store.delete(agent, session),
    "exists": lambda store, agent, session: store.exists(agent, session),
    "update": lambda store, agent, session: store.update(agent, session, unchanged),
    "append": lambda store, agent, session: store.append(agent, session, []),
    "touch": lambda store, agent, session: store.touch(agent, session, ttl=timedelta(hours=1)),
    "load_many": lambda store, agent, session: store.load_many(agent, [session]),
}
OF_AN_AGENT: Final[dict[str, Call]] = {
    "list": lambda store, agent, _: store.list(agent),
    "list limit=0": lambda store, agent, _: store.list(agent, limit=0),
    "sessions": lambda store, agent, _: infos(store, agent),
    "sessions limit=0": lambda store, agent, _: infos(store, agent, limit=0),
    "count": lambda store, agent, _: store.count(agent),
    "delete_agent": lambda store, agent, _: store.delete_agent(agent),
    "load_many of none": lambda store, agent, _: store.load_many(agent, []),
}
OF_THE_STORE: Final[dict[str, Call]] = {
    "agents": lambda store, _, __: agent_ids(store),
    "ping": lambda store, _, __: store.ping(),
}


async def outcome_of(call: Awaitable[object]) -> object:
    """What it returns or raises."""
    return (await asyncio.gather(call, return_exceptions=True))[0]


NO_IDS: Final = ["", None, 7, b"bytes", ("t",), "x" * 513, "é" * 257, "\ud800", "a\udfff"]


class TestIds:
    async def test_what_is_no_agent_id_is_refused(self, store: Store) -> None:
        """Empty, not a string, over 512 bytes or not UTF-8: InvalidIdError, which is a ValueError too."""
        for no_id in NO_IDS:
            for name, call in {**OF_A_SESSION, **OF_AN_AGENT}.items():
                outcome = await outcome_of(call(store, no_id, "s1"))
                assert isinstance(outcome, InvalidIdError), (name, no_id)
                assert isinstance(outcome, ValueError)
                assert "agent_id" in str(outcome)

    async def test_what_is_no_session_id_is_refused(self, store: Store) -> None:
        """As for agents, and nothing is stored."""
        for no_id in NO_IDS:
            for name, call in OF_A_SESSION.items():
                outcome = await outcome_of(call(store, "a1", no_id))
                assert isinstance(outcome, InvalidIdError), (name, no_id)
                assert "session_id" in str(outcome)
        assert await store.list("a1") == []

    async def test_every_other_string_is_an_id(self, store: Store) -> None:
        """Ids of up to 512 bytes with any characters are kept apart and come back as they were."""
        ids = [
            *(
                "x" * 512,
                "é" * 256,
                "a:b",
                "{a}",
                "a}b",
                "*",
                "?",
                "[a]",
                "\\",
                "^",
                "%",
                "%7B",
                "%25",
                " ",
                "\n",
                "\x00",
            ),
            *("\x7f", "a b", "😀", "e\u0301", "é", "sessions:", "partitions", "../..", "\u2028", "A", "a", "a:0", "-1"),
        ]
        for number, hostile in enumerate(ids):
            await store.save(a_state(hostile, "a1", data={"n": number}))
            await store.save(a_state("s1", hostile, data={"n": -number}))
        for number, hostile in enumerate(ids):
            assert (await store.load("a1", hostile)).data == {"n": number}
            assert (await store.load(hostile, "s1")).data == {"n": -number}
            assert await store.list(hostile) == ["s1"]
        assert await store.list("a1") == ids[::-1]
        assert await agent_ids(store) == sorted([*ids, "a1"])


class TestSave:
    async def test_load_returns_what_was_saved(self, store: Store) -> None:
        """An equal object, and a new one on every load."""
        state = a_conversation()
        assert await store.save(state) is None
        loaded = await store.load("a1", "s1")
        assert loaded == state
        assert loaded is not state
        assert loaded is not await store.load("a1", "s1")

    async def test_stamps_the_object(self, store: Store) -> None:
        """`version` goes up by one and `updated_at` becomes now, aware, in UTC; `created_at` stays."""
        state = a_state(created_at=datetime(2001, 2, 3, tzinfo=UTC), updated_at=datetime(2001, 2, 3, tzinfo=UTC))
        before = datetime.now(UTC)
        await store.save(state)
        assert state.version == 1
        assert before - timedelta(seconds=1) <= state.updated_at <= datetime.now(UTC) + timedelta(seconds=1)
        assert state.updated_at.utcoffset() == timedelta(0)
        assert state.created_at == datetime(2001, 2, 3, tzinfo=UTC)
        first = state.updated_at
        await store.save(state)
        assert state.version == 2
        assert state.updated_at > first
        assert await store.load("a1", "s1") == state

    async def test_a_save_refused_for_its_ttl_counts_for_nothing(self, store: Store) -> None:
        """The object is as it was, and the next save makes the version that this one would have made."""
        state = a_state()
        with pytest.raises(ValueError, match="ttl"):
            await store.save(state, ttl=timedelta(0))
        assert state.version == 0
        await store.save(state)
        assert state.version == 1

    async def test_last_write_wins(self, store: Store) -> None:
        """Without `if_version` nobody's save is refused, whatever version it carries."""
        await store.save(a_state(data={"by": "one"}, version=41))
        mine, yours = await store.load("a1", "s1"), await store.load("a1", "s1")
        mine.data["by"], yours.data["by"] = "me", "you"
        await store.save(mine)
        await store.save(yours)
        loaded = await store.load("a1", "s1")
        assert (loaded.data, loaded.version) == ({"by": "you"}, 43)

    async def test_saves_the_state_as_it_was_when_save_was_called(self, store: Store) -> None:
        """A change between the call and its first turn of the event loop is not saved."""
        state = a_state(data={"n": 1})
        saving = asyncio.ensure_future(store.save(state))
        state.data["n"] = 2
        await saving
        assert (await store.load("a1", "s1")).data == {"n": 1}

    async def test_the_call_itself_takes_the_state(self, store: Store) -> None:
        """Also where the save is awaited much later: the call returns a coroutine, and has made the bytes by then."""
        state = a_state(data={"n": 1})
        saving = store.save(state)
        assert state.version == 0
        state.data["n"] = 2
        await asyncio.sleep(0.01)
        await saving
        assert ((await store.load("a1", "s1")).data, state.version) == ({"n": 1}, 1)

    async def test_a_save_that_is_not_awaited_leaves_the_object_as_it_was(self, store: Store) -> None:
        """Closed or cancelled before it began: nothing is stored."""
        state = a_state()
        before = msgspec.structs.replace(state)
        store.save(state).close()
        assert state == before
        saving = asyncio.ensure_future(store.save(state))
        saving.cancel()
        await asyncio.wait([saving])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.save(state), 0)
        assert state == before
        assert not await store.exists("a1", "s1")
        await store.save(state, if_version=0)
        assert state.version == 1

    async def test_a_version_that_was_set_by_hand_is_counted_on(self, store: Store) -> None:
        """The stamp is one higher than what the object says."""
        (state,) = await saved(store, "s1")
        await store.save(state)
        state.version = 0
        await store.save(state)
        assert state.version == 1
        state.version = 40
        await store.save(state)
        assert ((await store.load("a1", "s1")).version, state.version) == (41, 41)

    async def test_a_refusal_belongs_to_who_awaits(self, store: Store) -> None:
        """The call itself raises nothing."""
        saving = store.save(a_state(""))
        with pytest.raises(InvalidIdError):
            await saving

    async def test_a_change_while_the_save_is_under_way_is_not_saved(self, store: Store) -> None:
        """The bytes are made before the first wait."""
        state = a_state(data={"n": 1})
        saving = asyncio.ensure_future(store.save(state))
        await asyncio.sleep(0)
        state.data["n"] = 2
        await saving
        assert (await store.load("a1", "s1")).data == {"n": 1}

    async def test_saves_of_one_object_at_once_all_count(self, store: Store) -> None:
        """Each has a version of its own, and the last one is what is stored."""
        state = a_state()
        await asyncio.gather(*(store.save(state) for _ in range(5)))
        assert state.version == 5
        assert (await store.load("a1", "s1")).version == 5

    async def test_many_sessions_at_once(self, store: Store) -> None:
        """Operations in flight together do not mix up their results."""
        states = [a_state(f"s{n}", data={"n": n}) for n in range(300)]
        await asyncio.gather(*map(store.save, states))
        loaded = await asyncio.gather(*(store.load("a1", state.session_id) for state in states))
        assert loaded == states
        assert await store.count("a1") == 300

    async def test_a_large_state_arrives_whole(self, store: Store) -> None:
        """A megabyte is loaded as it was saved, while small ones pass."""
        large = a_state("large", data={"text": "0123456789" * 100_000})
        await asyncio.gather(store.save(large), *(store.save(a_state(f"s{n}")) for n in range(20)))
        assert await store.load("a1", "large") == large
        assert await store.count("a1") == 21

    @on_kinds
    @pytest.mark.parametrize("wrong", [None, {"agent_id": "a1", "session_id": "s1"}, Message("user", "hi"), "state"])
    async def test_what_is_no_state_is_a_type_error(self, store: Store, wrong: Any) -> None:
        """The message names both types."""
        with pytest.raises(TypeError, match=f"AgentState.*{type(wrong).__name__}"):
            await store.save(wrong)

    async def test_a_subclass_is_another_type(self, store: Store) -> None:
        """It would come back as the store's own type, without its own fields."""

        class Special(AgentState):
            extra: int = 1

        with pytest.raises(TypeError, match="Special"):
            await store.save(Special(agent_id="a1", session_id="s1"))

    @on_kinds
    @pytest.mark.parametrize(
        ("ttl", "error"),
        [
            (timedelta(0), ValueError),
            (timedelta(seconds=-1), ValueError),
            (timedelta(microseconds=999), ValueError),
            (60, TypeError),
            (1.5, TypeError),
        ],
    )
    async def test_what_is_no_time_to_live_is_refused(self, store: Store, ttl: Any, error: type[Exception]) -> None:
        """Below a millisecond it is a ValueError, and no timedelta is a TypeError. Nothing is saved or changed."""
        state = a_state()
        before = msgspec.structs.replace(state)
        with pytest.raises(error, match="ttl"):
            await store.save(state, ttl=ttl)
        assert state == before
        assert not await store.exists("a1", "s1")
        await saved(store, "s1")
        for call in (
            store.append("a1", "s1", [], ttl=ttl),
            store.touch("a1", "s1", ttl=ttl),
            store.update("a1", "s1", unchanged, ttl=ttl),
        ):
            with pytest.raises(error, match="ttl"):
                await call
        assert (await store.load("a1", "s1")).version == 1

    async def test_a_refused_state_leaves_everything_as_it_was(self, store: Store) -> None:
        """StateEncodeError names the path; the object keeps its stamps, the store its state."""
        await saved(store, "s0")
        state = a_state("s1")
        await store.save(state)
        stored = await store.load("a1", "s1")
        state.context["scores"] = [1.0, {"a": float("nan")}]
        version, updated_at = state.version, state.updated_at
        await saved(store, "s2")
        with pytest.raises(StateEncodeError) as caught:
            await store.save(state)
        assert caught.value.path == "$.context.scores[1].a"
        assert caught.value.path in str(caught.value)
        assert (state.version, state.updated_at) == (version, updated_at)
        assert await store.load("a1", "s1") == stored
        assert await store.list("a1") == ["s2", "s1", "s0"]

    async def test_a_refused_id_leaves_the_object_as_it_was(self, store: Store) -> None:
        """The stamp is for what was saved."""
        state = a_state("")
        before = msgspec.structs.replace(state)
        with pytest.raises(InvalidIdError):
            await store.save(state)
        assert state == before

    async def test_an_object_without_a_field_is_refused_as_a_state(self, store: Store) -> None:
        """A field that was deleted is a StateEncodeError like any other state that cannot be stored."""
        state = a_state()
        del state.context
        with pytest.raises(StateEncodeError):
            await store.save(state)


class TestConditionalSave:
    async def test_saves_over_the_version_it_names(self, store: Store) -> None:
        """The stamp is one higher."""
        (state,) = await saved(store, "s1")
        state.data["n"] = 1
        assert await store.save(state, if_version=1) is None
        assert state.version == 2
        assert await store.load("a1", "s1") == state

    async def test_another_version_is_a_conflict(self, store: Store) -> None:
        """It tells both versions; object, state and list stay as they were."""
        mine, other = await saved(store, "s1", "s2")
        yours = await store.load("a1", "s1")
        await store.save(yours)
        await store.save(other)
        before = msgspec.structs.replace(mine)
        with pytest.raises(VersionConflictError) as caught:
            await store.save(mine, if_version=1)
        assert (caught.value.expected, caught.value.stored) == (1, 2)
        assert mine == before
        assert await store.load("a1", "s1") == yours
        assert await store.list("a1") == ["s2", "s1"]

    async def test_version_0_saves_only_where_nothing_is(self, store: Store) -> None:
        """So a session is created once."""
        first, second = a_state(), a_state()
        await store.save(first, if_version=0)
        with pytest.raises(VersionConflictError) as caught:
            await store.save(second, if_version=0)
        assert (caught.value.expected, caught.value.stored) == (0, 1)
        assert (first.version, second.version) == (1, 0)
        assert await store.load("a1", "s1") == first

    async def test_version_0_saves_again_after_a_delete(self, store: Store) -> None:
        """Nothing is stored then, whatever was."""
        (state,) = await saved(store, "s1")
        await store.delete("a1", "s1")
        await store.save(state, if_version=0)
        assert state.version == 1
        assert await store.load("a1", "s1") == state

    async def test_a_deleted_session_is_not_resurrected(self, store: Store) -> None:
        """The conflict says that nothing is stored."""
        (state,) = await saved(store, "s1")
        await store.delete("a1", "s1")
        with pytest.raises(VersionConflictError) as caught:
            await store.save(state, if_version=1)
        assert (caught.value.expected, caught.value.stored) == (1, 0)
        assert not await store.exists("a1", "s1")
        assert await store.list("a1") == []

    async def test_of_many_at_once_one_wins(self, store: Store) -> None:
        """The others get the conflict."""
        await saved(store, "s1")
        holders = [await store.load("a1", "s1") for _ in range(10)]
        for number, holder in enumerate(holders):
            holder.data["by"] = number
        results = await asyncio.gather(
            *(store.save(holder, if_version=1) for holder in holders), return_exceptions=True
        )
        winners = [holder for holder, result in zip(holders, results, strict=True) if result is None]
        assert len(winners) == 1
        assert sum(isinstance(result, VersionConflictError) for result in results) == 9
        assert await store.load("a1", "s1") == winners[0]

    @pytest.mark.parametrize("if_version", [7, 2**52])
    async def test_a_version_that_never_was_is_a_conflict(self, store: Store, if_version: int) -> None:
        """Also where nothing is stored."""
        with pytest.raises(VersionConflictError) as caught:
            await store.save(a_state(), if_version=7)
        assert (caught.value.expected, caught.value.stored) == (7, 0)

    async def test_a_negative_version_is_a_value_error(self, store: Store) -> None:
        """None was ever stored."""
        with pytest.raises(ValueError, match="version"):
            await store.save(a_state(), if_version=-1)

    async def test_an_expiry_is_set_with_it(self, store: Store) -> None:
        """`ttl` is the same as for a plain save."""
        (state,) = await saved(store, "s1")
        await store.save(state, if_version=1, ttl=timedelta(milliseconds=30))
        await eventually(lambda: gone(store, "s1"))

    async def test_a_type_without_version_cannot_be_saved_so(self, stores: Stores) -> None:
        """A TypeError that says what is missing."""
        store = await stores.open(Bare)
        with pytest.raises(TypeError, match=r"'version'.*Bare"):
            await store.save(Bare("a1", "s1"), if_version=0)  # pyright: ignore[reportArgumentType]


async def gone(store: SessionStore[Any], session_id: str) -> bool:
    return not await store.exists("a1", session_id)


class TestLoad:
    async def test_nothing_is_not_found(self, store: Store) -> None:
        """Never saved and deleted look the same; the error carries the ids."""
        await saved(store, "s2")
        await store.delete("a1", "s2")
        for session_id in ("s1", "s2"):
            with pytest.raises(StateNotFoundError) as caught:
                await store.load("a1", session_id)
            assert (caught.value.agent_id, caught.value.session_id) == ("a1", session_id)

    async def test_a_session_is_its_agents(self, store: Store) -> None:
        """Another agent's session of that name is another session."""
        await saved(store, "s1")
        with pytest.raises(StateNotFoundError):
            await store.load("a2", "s1")

    @on_server_kinds
    @pytest.mark.parametrize("value", ["", "nonsense", "[]", "{}", '{"agent_id":1}', "\x00", "{" * 10_000])
    async def test_foreign_bytes_are_no_state(self, store: Store, stores: Stores, value: str) -> None:
        """StateDecodeError with the ids, never "not found"; the bytes stay."""
        key = stores.state_key("a1", "s1")
        stores.command("SET", key, value)
        with pytest.raises(StateDecodeError) as caught:
            await store.load("a1", "s1")
        assert (caught.value.agent_id, caught.value.session_id) == ("a1", "s1")
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        with pytest.raises(StateDecodeError):
            await store.load_many("a1", ["s1"])
        assert stores.command("GET", key) == value.encode()
        stores.command("DEL", key)


@on_servers
class TestForeignTypes:
    """Where another program's key stands in the place of one of the store's, WRONGTYPE says so.

    A key that is there before the store's first write to the agent, or under that of a fresh object, is not touched.
    """

    async def refused(self, call: Awaitable[object], *, stored: bool = False) -> None:
        with pytest.raises(ServerRefusedError) as caught:
            await call
        assert caught.value.stored is stored
        assert caught.value.code == "WRONGTYPE"
        assert "key_prefix" in str(caught.value)

    async def test_under_a_new_state(self, store: Store, stores: Stores) -> None:
        """No operation works there, and the session is not listed."""
        key = stores.state_key("a1", "s1")
        stores.command("RPUSH", key, "foreign")
        state = a_state()
        await self.refused(store.save(state))
        await self.refused(store.save(state, if_version=0))
        await self.refused(store.load("a1", "s1"))
        await self.refused(store.append("a1", "s1", [Message("user", "hi")]))
        assert state.version == 0
        assert stores.command("LRANGE", key, 0, -1) == [b"foreign"]
        assert stores.command("EXISTS", stores.index_key("a1", "s1")) == 0
        stores.command("DEL", key)

    async def test_under_a_new_state_of_a_known_agent(self, store: Store, stores: Stores) -> None:
        """The agent's other sessions stay listed, this one is not."""
        await saved(store, "s2")
        key = stores.state_key("a1", "s1")
        stores.command("RPUSH", key, "foreign")
        await self.refused(store.save(a_state()))
        assert stores.command("LRANGE", key, 0, -1) == [b"foreign"]
        stores.command("DEL", key)
        assert await store.list("a1") == ["s2"]

    async def test_in_the_place_of_a_state(self, store: Store, stores: Stores) -> None:
        """What looks before it writes leaves it; a plain save of an object that was stored there replaces it."""
        (state,) = await saved(store, "s1")
        key = stores.state_key("a1", "s1")
        stores.command("DEL", key)
        stores.command("RPUSH", key, "foreign")
        await self.refused(store.save(a_state()))
        await self.refused(store.save(state, if_version=1))
        await self.refused(store.append("a1", "s1", [Message("user", "hi")]))
        assert state.version == 1
        assert stores.command("LRANGE", key, 0, -1) == [b"foreign"]
        await store.save(state)
        assert await store.load("a1", "s1") == state

    async def test_in_the_place_of_the_index_of_a_new_state(self, store: Store, stores: Stores) -> None:
        """A script writes nothing; a plain save says that the state was stored, and cannot be listed."""
        index = stores.index_key("a1", "s1")
        stores.command("SET", index, "foreign")
        state = a_state()
        await self.refused(store.save(state, if_version=0))
        assert state.version == 0
        assert not await store.exists("a1", "s1")
        await self.refused(store.save(state), stored=True)
        assert state.version == 1
        await self.refused(store.list("a1"))
        assert await store.load("a1", "s1") == state
        assert stores.command("GET", index) == b"foreign"
        stores.command("DEL", index)
        await store.save(state, if_version=1)
        assert await store.list("a1") == ["s1"]

    async def test_in_the_place_of_the_index_of_a_stored_state(self, store: Store, stores: Stores) -> None:
        """What looks before it writes changes nothing: the stored state and its expiry stay."""
        state = a_state(data={"n": 1})
        await store.save(state, ttl=timedelta(hours=1))
        stored = await store.load("a1", "s1")
        index, key = stores.index_key("a1", "s1"), stores.state_key("a1", "s1")
        stores.command("SET", index, "foreign")
        other = await stores.open()
        mine = await other.load("a1", "s1")
        for write in (
            lambda: other.save(mine, if_version=1),
            lambda: other.append("a1", "s1", [Message("user", "hi")]),
        ):
            await self.refused(write())
            assert mine == stored
            assert await other.load("a1", "s1") == stored
            assert 0 < stores.command("PTTL", key) <= 3_600_000
        assert stores.command("GET", index) == b"foreign"
        stores.command("DEL", index)
        await other.save(mine)
        assert await other.list("a1") == ["s1"]

    async def test_an_index_that_is_broken_between_two_writes(self, store: Store, stores: Stores) -> None:
        """Every write says so. Those that check first change nothing; a plain save says that it has stored the state,
        and its object stays advanced. The next one after a repair is whole.
        """
        (state,) = await saved(store, "s1")
        stored = await store.load("a1", "s1")
        index = stores.index_key("a1", "s1")
        stores.command("DEL", index)
        stores.command("SET", index, "foreign")
        await self.refused(store.save(state, if_version=1))
        await self.refused(store.append("a1", "s1", [Message("user", "hi")]))
        assert await store.load("a1", "s1") == stored
        await self.refused(store.save(state), stored=True)
        assert state.version == 2
        assert await store.load("a1", "s1") == state
        assert stores.command("GET", index) == b"foreign"
        stores.command("DEL", index)
        await store.save(state)
        assert await store.list("a1") == ["s1"]

    async def test_delete_beside_a_foreign_index(self, store: Store, stores: Stores) -> None:
        """It says that the state was deleted; what stands in the place of the index is not touched."""
        await saved(store, "s1")
        index = stores.index_key("a1", "s1")
        stores.command("DEL", index)
        stores.command("SET", index, "foreign")
        with pytest.raises(ServerRefusedError, match="the state was deleted") as caught:
            await store.delete("a1", "s1")
        assert caught.value.code == "WRONGTYPE"
        assert not await store.exists("a1", "s1")
        assert stores.command("GET", index) == b"foreign"
        stores.command("DEL", index)

    async def test_a_type_without_version_over_a_foreign_index(self, stores: Stores) -> None:
        """It is told as well that the state was stored."""
        store = await stores.open(Bare)
        index = stores.index_key("a1", "s1")
        stores.command("SET", index, "foreign")
        await self.refused(store.save(Bare("a1", "s1")), stored=True)
        assert await store.exists("a1", "s1")
        stores.command("DEL", index)
        await store.delete("a1", "s1")


class TestDelete:
    async def test_removes_state_and_place(self, store: Store) -> None:
        """It tells whether there was a state, and leaves the others alone."""
        await saved(store, "s1", "s2")
        await saved(store, "s1", agent_id="a2")
        assert await store.delete("a1", "s1") is True
        assert await store.delete("a1", "s1") is False
        assert await store.delete("a3", "s1") is False
        assert not await store.exists("a1", "s1")
        assert await store.list("a1") == ["s2"]
        assert await store.list("a2") == ["s1"]

    async def test_a_deleted_session_starts_anew(self, store: Store) -> None:
        """A new object over it has version 1."""
        await saved(store, "s1")
        await store.delete("a1", "s1")
        await saved(store, "s1")
        assert (await store.load("a1", "s1")).version == 1

    @on_servers
    async def test_leaves_no_key(self, store: Store, stores: Stores) -> None:
        """The last session takes the index along."""
        await saved(store, "s1", "s2")
        await store.delete("a1", "s1")
        await store.delete("a1", "s2")
        assert stores.keys() == []


class TestList:
    async def test_an_agent_without_sessions_has_an_empty_list(self, store: Store) -> None:
        """It is no error: an agent is what has sessions."""
        assert await store.list("a1") == []
        assert await store.list("a1", limit=5) == []

    async def test_newest_first(self, store: Store) -> None:
        """A save puts its session in front, a load does not."""
        s1, s2, _ = await saved(store, "s1", "s2", "s3")
        assert await store.list("a1") == ["s3", "s2", "s1"]
        await store.load("a1", "s2")
        await store.save(s1)
        assert await store.list("a1") == ["s1", "s3", "s2"]
        await store.save(s2, if_version=1)
        assert await store.list("a1") == ["s2", "s1", "s3"]
        await store.append("a1", "s3", [])
        assert await store.list("a1") == ["s3", "s2", "s1"]

    async def test_limit_is_at_most(self, store: Store) -> None:
        """The newest so many; 0 is none, None is all."""
        await saved(store, "s1", "s2", "s3", "s4")
        for limit in range(6):
            assert await store.list("a1", limit=limit) == ["s4", "s3", "s2", "s1"][:limit]
        assert len(await store.list("a1", limit=None)) == 4

    async def test_a_negative_limit_is_a_value_error(self, store: Store) -> None:
        """For lists and for iterations."""
        await saved(store, "s1")
        with pytest.raises(ValueError, match="limit"):
            await store.list("a1", limit=-1)
        with pytest.raises(ValueError, match="limit"):
            await infos(store, limit=-1)

    async def test_what_has_expired_is_not_listed(self, store: Store) -> None:
        """By any operation, and a limit is filled from what is left."""
        await saved(store, "s1", "s2")
        await store.save(a_state("s3"), ttl=timedelta(milliseconds=30))
        await eventually(lambda: gone(store, "s3"))
        assert await store.list("a1", limit=2) == ["s2", "s1"]
        assert await store.list("a1") == ["s2", "s1"]
        assert await session_ids(store) == ["s2", "s1"]
        assert await store.count("a1") == 2

    @on_servers
    async def test_what_was_deleted_by_hand_is_not_listed(self, store: Store, stores: Stores) -> None:
        """Each operation finds out by itself, and a limit is filled from what is left."""

        async def listed_by_sessions(agent_id: str, *, limit: int | None = None) -> list[str]:
            return await session_ids(store, agent_id, limit=limit)

        names = [f"s{n}" for n in range(10)]
        for look in (store.list, listed_by_sessions):
            for limit in (None, 1, 2, 3, 4, 7, 8):
                await saved(store, *names)
                for name in ("s9", "s8", "s5"):
                    stores.command("DEL", stores.state_key("a1", name))
                assert await look("a1", limit=limit) == ["s7", "s6", "s4", "s3", "s2", "s1", "s0"][:limit]
                assert await store.count("a1") == 7

    @on_servers
    async def test_listing_removes_what_dangles(self, store: Store, stores: Stores) -> None:
        """The entry of a state that is gone is removed from the index by the listing that met it."""
        await saved(store, "s1")
        stores.command("DEL", stores.state_key("a1", "s1"))
        assert await store.list("a1") == []
        assert stores.keys() == []

    @on_servers
    async def test_an_agent_whose_states_are_all_gone_is_none(self, store: Store, stores: Stores) -> None:
        """Only agents with a session that can be loaded are shown."""
        await saved(store, "s1")
        await saved(store, "s1", agent_id="a2")
        stores.command("DEL", stores.state_key("a1", "s1"))
        assert await agent_ids(store) == ["a2"]


class TestSessions:
    async def test_tells_what_a_listing_knows(self, store: Store) -> None:
        """Newest first, with the exact time of the last write."""
        states = await saved(store, "s1", "s2", "s3")
        assert await infos(store) == [SessionInfo(s.session_id, s.updated_at) for s in reversed(states)]
        assert await infos(store, "a2") == []

    async def test_limit_is_at_most(self, store: Store) -> None:
        """As for lists."""
        await saved(store, "s1", "s2", "s3")
        for limit in range(5):
            assert await session_ids(store, limit=limit) == ["s3", "s2", "s1"][:limit]

    async def test_goes_on_after_a_session(self, store: Store) -> None:
        """`before` starts where an earlier iteration ended, also when that session is gone or was saved since."""
        names = [f"s{n}" for n in range(10)]
        states = await saved(store, *names)
        first = await infos(store, limit=4)
        assert await session_ids(store, before=first[-1]) == names[5::-1]
        assert await session_ids(store, before=first[-1], limit=2) == ["s5", "s4"]
        await store.delete("a1", "s6")
        assert await session_ids(store, before=first[-1]) == names[5::-1]
        await store.save(states[6])
        assert await session_ids(store, before=first[-1]) == names[5::-1]
        last = (await infos(store))[-1]
        assert await infos(store, before=last) == []

    async def test_starts_with_what_is_older_than_a_time(self, store: Store) -> None:
        """A session written at that very time is not older."""
        states = await saved(store, "s1", "s2", "s3")
        assert await session_ids(store, before=states[2].updated_at) == ["s2", "s1"]
        assert await session_ids(store, before=states[2].updated_at + timedelta(microseconds=1)) == ["s3", "s2", "s1"]
        assert await session_ids(store, before=states[0].updated_at) == []

    async def test_a_naive_time_is_a_value_error(self, store: Store) -> None:
        """Nobody can tell when that was."""
        with pytest.raises(ValueError, match="aware"):
            await infos(store, before=datetime(2026, 1, 1))  # noqa: DTZ001

    async def test_a_session_that_is_saved_meanwhile_is_shown_once(self, store: Store) -> None:
        """Those that stay where they are, too."""
        states = await saved(store, *(f"s{n}" for n in range(20)))
        shown: list[str] = []
        async for info in store.sessions("a1"):
            shown.append(info.session_id)
            await store.save(states[len(shown) * 7 % 20])
        assert sorted(shown) == sorted(state.session_id for state in states)

    async def test_a_session_that_is_deleted_meanwhile_stops_nothing(self, store: Store) -> None:
        """The others are shown once each."""
        await saved(store, *(f"s{n}" for n in range(10)))
        shown: list[str] = []
        async for info in store.sessions("a1"):
            shown.append(info.session_id)
            if info.session_id == "s5":
                await store.delete("a1", "s9")
                await store.delete("a1", "s0")
        assert [name for name in shown if name != "s0"] == [f"s{n}" for n in range(9, 0, -1)]
        assert len(shown) in (9, 10)


class TestLoadMany:
    async def test_the_states_by_id_in_the_order_asked(self, store: Store) -> None:
        """Ids without a state are left out, twice is once."""
        s1, s2, s3 = await saved(store, "s1", "s2", "s3")
        found = await store.load_many("a1", iter(["s3", "nobody", "s1", "s3", "s2"]))
        assert list(found.items()) == [("s3", s3), ("s1", s1), ("s2", s2)]
        assert await store.load_many("a1", []) == {}
        assert await store.load_many("a2", ["s1"]) == {}

    async def test_more_than_one_command_takes(self, store: Store) -> None:
        """Hundreds are loaded as one is."""
        names = [f"s{n}" for n in range(450)]
        await asyncio.gather(*(store.save(a_state(name, data={"name": name})) for name in names))
        found = await store.load_many("a1", names)
        assert [(name, state.data["name"]) for name, state in found.items()] == [(name, name) for name in names]

    async def test_a_loaded_state_can_be_saved_on(self, store: Store) -> None:
        """Its version is the stored one, and it stems from what is stored."""
        await saved(store, "s1")
        state = (await store.load_many("a1", ["s1"]))["s1"]
        await store.save(state, if_version=1)
        assert state.version == 2


class TestUpdate:
    async def test_changes_what_is_stored(self, store: Store) -> None:
        """The function changes the object in place; what it returns means nothing."""
        await saved(store, "s1")

        def change(state: AgentState) -> str:
            state.data["n"] = state.data.get("n", 0) + 1
            return "ignored"

        result = await store.update("a1", "s1", change)
        assert (result.data, result.version) == ({"n": 1}, 2)
        assert await store.load("a1", "s1") == result

    async def test_takes_an_async_function(self, store: Store) -> None:
        """It is awaited before the state is saved."""
        await saved(store, "s1")

        async def change(state: AgentState) -> None:
            await asyncio.sleep(0)
            state.data["n"] = 1

        await store.update("a1", "s1", change)
        assert (await store.load("a1", "s1")).data == {"n": 1}

    async def test_none_is_lost(self, store: Store) -> None:
        """Whoever changes at the same time changes what the other has made."""
        await saved(store, "s1")

        def count(state: AgentState) -> None:
            state.data["n"] = state.data.get("n", 0) + 1

        await asyncio.gather(*(store.update("a1", "s1", count) for _ in range(20)))
        loaded = await store.load("a1", "s1")
        assert (loaded.data, loaded.version) == ({"n": 20}, 21)

    async def test_tries_again_on_what_is_stored_then(self, store: Store) -> None:
        """The function runs again, on a new object."""
        await saved(store, "s1")
        seen: list[AgentState] = []

        async def change(state: AgentState) -> None:
            seen.append(state)
            if len(seen) == 1:
                other = await store.load("a1", "s1")
                other.data["other"] = 1
                await store.save(other)
            state.data["mine"] = 1

        result = await store.update("a1", "s1", change)
        assert result is seen[1]
        assert (result.data, result.version) == ({"other": 1, "mine": 1}, 3)

    async def test_gives_up_after_its_attempts(self, store: Store) -> None:
        """The last conflict is raised, and nothing of the change is stored."""
        await saved(store, "s1")
        calls = 0

        async def change(state: AgentState) -> None:
            nonlocal calls
            calls += 1
            state.data["mine"] = 1
            await store.save(await store.load("a1", "s1"))

        with pytest.raises(VersionConflictError) as caught:
            await store.update("a1", "s1", change, attempts=3)
        assert (calls, caught.value.expected, caught.value.stored) == (3, 3, 4)
        assert (await store.load("a1", "s1")).data == {}

    @pytest.mark.parametrize("attempts", [0, -1])
    async def test_at_least_one_attempt(self, store: Store, attempts: int) -> None:
        """Fewer is a ValueError."""
        with pytest.raises(ValueError, match="attempts"):
            await store.update("a1", "s1", unchanged, attempts=attempts)

    async def test_nothing_is_not_found(self, store: Store) -> None:
        """The function is not called."""
        with pytest.raises(StateNotFoundError):
            await store.update("a1", "s1", never)

    async def test_does_not_resurrect(self, store: Store) -> None:
        """A session that is deleted while the function runs stays deleted."""
        await saved(store, "s1")

        async def change(state: AgentState) -> None:
            await store.delete("a1", "s1")

        with pytest.raises(StateNotFoundError):
            await store.update("a1", "s1", change)
        assert await store.list("a1") == []

    async def test_an_error_of_the_function_changes_nothing(self, store: Store) -> None:
        """It is the caller's and reaches the caller."""
        await saved(store, "s1")

        def change(state: AgentState) -> None:
            state.data["n"] = 1
            raise LookupError

        with pytest.raises(LookupError):
            await store.update("a1", "s1", change)
        loaded = await store.load("a1", "s1")
        assert (loaded.data, loaded.version) == ({}, 1)

    async def test_an_expiry_is_set_with_it(self, store: Store) -> None:
        """`ttl` is the same as for a save."""
        await saved(store, "s1")
        await store.update("a1", "s1", unchanged, ttl=timedelta(milliseconds=30))
        await eventually(lambda: gone(store, "s1"))

    async def test_a_type_without_version_cannot_be_updated(self, stores: Stores) -> None:
        """A TypeError that says what is missing, before anything is loaded."""
        store = await stores.open(Bare)
        with pytest.raises(TypeError, match=r"'version'.*Bare"):
            await store.update("a1", "s1", never)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


class TestAppend:
    async def test_adds_to_the_messages(self, store: Store) -> None:
        """In order, after those of the state, as one version for each call."""
        state = a_conversation()
        await store.save(state)
        more = [Message("user", "more"), Message("assistant", "yes", metadata={"k": [1, None]})]
        assert await store.append("a1", "s1", iter(more)) == 2
        assert await store.append("a1", "s1", [Message("user", "last")]) == 3
        loaded = await store.load("a1", "s1")
        assert loaded.messages[:-1] == [*state.messages, *more]
        assert loaded.messages[-1].content == "last"
        assert loaded.version == 3
        assert loaded.updated_at > state.updated_at
        assert (loaded.context, loaded.data, loaded.created_at) == (state.context, state.data, state.created_at)

    async def test_no_messages_are_a_write_as_well(self, store: Store) -> None:
        """Version and place change."""
        await saved(store, "s1", "s2")
        assert await store.append("a1", "s1", []) == 2
        assert (await store.load("a1", "s1")).messages == []
        assert await store.list("a1") == ["s1", "s2"]

    async def test_the_list_tells_its_time(self, store: Store) -> None:
        """What `sessions` shows is the loaded state's `updated_at`."""
        await saved(store, "s1")
        await store.append("a1", "s1", [Message("user", "hi")])
        assert await infos(store) == [SessionInfo("s1", (await store.load("a1", "s1")).updated_at)]

    async def test_nothing_is_not_found(self, store: Store) -> None:
        """Nothing is stored by it."""
        with pytest.raises(StateNotFoundError) as caught:
            await store.append("a1", "s1", [Message("user", "hi")])
        assert (caught.value.agent_id, caught.value.session_id) == ("a1", "s1")
        assert await store.list("a1") == []

    async def test_at_once_each_is_added_once(self, store: Store) -> None:
        """Every call has a version of its own."""
        await saved(store, "s1")
        versions = await asyncio.gather(*(store.append("a1", "s1", [Message("user", f"m{n}")]) for n in range(30)))
        assert sorted(versions) == list(range(2, 32))
        loaded = await store.load("a1", "s1")
        assert sorted(message.content for message in loaded.messages) == sorted(f"m{n}" for n in range(30))
        assert loaded.version == 31

    async def test_a_save_takes_the_appended_along(self, store: Store) -> None:
        """Load, save, append and load again: all messages, in order, once."""
        await saved(store, "s1")
        await store.append("a1", "s1", [Message("user", "one")])
        state = await store.load("a1", "s1")
        await store.save(state, if_version=2)
        assert state.version == 3
        await store.append("a1", "s1", [Message("user", "two")])
        assert [message.content for message in (await store.load("a1", "s1")).messages] == ["one", "two"]

    async def test_a_conditional_save_notices_it(self, store: Store) -> None:
        """It counts as a version."""
        (state,) = await saved(store, "s1")
        await store.append("a1", "s1", [Message("user", "hi")])
        with pytest.raises(VersionConflictError) as caught:
            await store.save(state, if_version=1)
        assert (caught.value.expected, caught.value.stored) == (1, 2)

    @on_kinds
    @pytest.mark.parametrize(
        ("messages", "path"),
        [
            (
                [Message("user", "a"), Message("user", "b", metadata={"x": [float("nan")]})],
                "$.messages[1].metadata.x[0]",
            ),
            ([Message("user", "lone \ud800")], "$.messages[0].content"),
            ([{"role": "user", "content": "hi"}], "$.messages[0]"),
            ("hi", "$.messages[0]"),
        ],
    )
    async def test_what_would_come_back_different_is_refused(self, store: Store, messages: Any, path: str) -> None:
        """StateEncodeError names the path, and nothing is added."""
        await saved(store, "s1")
        with pytest.raises(StateEncodeError) as caught:
            await store.append("a1", "s1", messages)
        assert caught.value.path == path
        assert (await store.load("a1", "s1")).version == 1

    async def test_a_type_without_messages_has_none(self, stores: Stores) -> None:
        """A TypeError that says what is missing."""
        store = await stores.open(Bare)
        with pytest.raises(TypeError, match=r"'messages'.*Bare"):
            await store.append("a1", "s1", [])  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


class TestExistsAndCount:
    async def test_exists_says_whether_there_is_a_state(self, store: Store) -> None:
        """A bool."""
        assert await store.exists("a1", "s1") is False
        await saved(store, "s1")
        assert await store.exists("a1", "s1") is True
        assert await store.exists("a1", "s2") is False
        await store.delete("a1", "s1")
        assert await store.exists("a1", "s1") is False

    async def test_count_says_how_many(self, store: Store) -> None:
        """Of this agent."""
        assert await store.count("a1") == 0
        await saved(store, "s1", "s2", "s1")
        await saved(store, "s1", agent_id="a2")
        assert await store.count("a1") == 2


class TestTouch:
    async def test_sets_the_expiry_and_nothing_else(self, store: Store) -> None:
        """Version and place stay; it tells whether there is a state."""
        await saved(store, "s1", "s2")
        assert await store.touch("a1", "s1", ttl=timedelta(hours=1)) is True
        assert await store.list("a1") == ["s2", "s1"]
        assert (await store.load("a1", "s1")).version == 1
        assert await store.touch("a1", "s1", ttl=timedelta(milliseconds=30)) is True
        await eventually(lambda: gone(store, "s1"))
        assert await store.touch("a1", "s1", ttl=timedelta(hours=1)) is False
        assert await store.list("a1") == ["s2"]

    async def test_needs_a_time(self, store: Store, stores: Stores) -> None:
        """Of the call or of the store; neither is a ValueError."""
        await saved(store, "s1")
        with pytest.raises(ValueError, match="ttl"):
            await store.touch("a1", "s1")
        expiring = await stores.open(ttl=timedelta(milliseconds=30))
        await saved(expiring, "s2")
        await expiring.touch("a1", "s2", ttl=timedelta(hours=1))
        assert await expiring.touch("a1", "s2") is True
        await eventually(lambda: gone(expiring, "s2"))


class TestDeleteAgent:
    async def test_deletes_exactly_this_agent(self, store: Store) -> None:
        """Also where other agents' ids look like patterns or prefixes of its own."""
        others = ["a", "a11", "a1:0", "a1:s1", "{a1}", "a1}", "*", "a?", "a%31", "A1"]
        for other in others:
            await saved(store, "s1", agent_id=other)
        await saved(store, "s1", "s2", "s3")
        assert await store.delete_agent("a1") == 3
        assert await store.delete_agent("a1") == 0
        assert await store.list("a1") == []
        assert await agent_ids(store) == sorted(others)
        for hostile in ("*", "a?", "a%31"):
            assert await store.delete_agent(hostile) == 1
        assert await agent_ids(store) == sorted(set(others) - {"*", "a?", "a%31"})

    async def test_tells_its_progress(self, store: Store) -> None:
        """Growing numbers of which the last is the result; none for an agent without sessions."""
        await asyncio.gather(*(store.save(a_state(f"s{n}")) for n in range(1200)))
        told: list[int] = []
        assert await store.delete_agent("a1", progress=told.append) == 1200
        assert told == sorted(set(told))
        assert told[-1] == 1200
        told.clear()
        assert await store.delete_agent("a1", progress=told.append) == 0
        assert told == []

    @on_servers
    async def test_counts_only_what_was_there(self, store: Store, stores: Stores) -> None:
        """A dangling entry is removed and not counted."""
        await saved(store, "s1", "s2")
        stores.command("DEL", stores.state_key("a1", "s1"))
        assert await store.delete_agent("a1") == 1
        assert stores.keys() == []


class TestAgents:
    async def test_each_agent_with_a_session_once(self, store: Store) -> None:
        """In no order."""
        assert await agent_ids(store) == []
        names = [f"agent-{n}" for n in range(40)]
        await asyncio.gather(*(store.save(a_state(f"s{n}", name)) for name in names for n in range(3)))
        assert await agent_ids(store) == sorted(names)
        await store.delete("agent-0", "s0")
        assert len(await agent_ids(store)) == 40
        await store.delete("agent-0", "s1")
        await store.delete("agent-0", "s2")
        await store.delete_agent("agent-1")
        assert await agent_ids(store) == sorted(names[2:])

    @on_servers
    async def test_other_prefixes_are_other_stores(self, store: Store, stores: Stores) -> None:
        """Even one that looks like this one's index."""
        await saved(store, "s1")
        other = Stores(stores.way, stores.server)
        other.prefix = f"{stores.prefix}sessions:"
        neighbour = await other.open()
        await saved(neighbour, "s2", agent_id="a2")
        assert await agent_ids(store) == ["a1"]
        assert await agent_ids(neighbour) == ["a2"]
        await store.delete_agent("a1")
        assert await agent_ids(neighbour) == ["a2"]
        await other.aclose()


class TestLifetime:
    async def test_ping_answers_nothing(self, store: Store) -> None:
        """It raises where there is no life."""
        assert await store.ping() is None

    async def test_entering_returns_the_store(self, store: Store) -> None:
        """`async with` binds what it opened."""
        async with store as entered:
            assert entered is store
        with pytest.raises(StoreClosedError):
            await store.ping()

    async def test_a_closed_store_says_so(self, store: Store) -> None:
        """Every operation raises StoreClosedError, one that would have nothing to do as well."""
        await saved(store, "s1")
        await store.delete("a1", "s1")
        await store.aclose()
        for name, call in {**OF_A_SESSION, **OF_AN_AGENT, **OF_THE_STORE}.items():
            assert isinstance(await outcome_of(call(store, "a1", "s1")), StoreClosedError), name

    async def test_a_closed_store_is_not_entered(self, store: Store) -> None:
        """Nor opened again."""
        await store.aclose()
        with pytest.raises(StoreClosedError):
            async with store:
                pytest.fail("entered")

    async def test_a_save_to_a_closed_store_leaves_the_object_as_it_was(self, store: Store) -> None:
        """As any save that fails."""
        await store.aclose()
        state = a_state()
        before = msgspec.structs.replace(state)
        with pytest.raises(StoreClosedError):
            await store.save(state)
        assert state == before

    async def test_closing_again_does_nothing(self, store: Store) -> None:
        """Also at the same time."""
        await asyncio.gather(store.aclose(), store.aclose())
        await store.aclose()

    async def test_what_is_in_flight_ends_before_the_store_is_closed(self, store: Store) -> None:
        """None of it is lost and none of it fails."""
        states = [a_state(f"s{n}") for n in range(50)]
        saving = [asyncio.ensure_future(store.save(state)) for state in states]
        await asyncio.sleep(0)
        await store.aclose()
        assert await asyncio.gather(*saving) == [None] * 50
        assert {state.version for state in states} == {1}

    async def test_its_repr_tells_what_it_is(self, store: Store) -> None:
        """The class and the state type."""
        await saved(store, "s1")
        assert type(store).__name__ in repr(store)
        assert "AgentState" in repr(store)


# State types of the user's own


class Bare(msgspec.Struct):
    """The least that can be a state."""

    agent_id: str
    session_id: str


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """A Struct that refuses fields which it does not know, such as the store's own."""

    agent_id: str
    session_id: str
    messages: list[str] = msgspec.field(default_factory=list[str])
    blob: bytes = b""
    when: datetime | None = None
    by_number: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    version: int = 0


class Camel(msgspec.Struct, rename="camel", omit_defaults=True, tag=True):
    """A Struct whose fields have other names in the document."""

    agent_id: str
    session_id: str
    messages: list[Message] = msgspec.field(default_factory=list[Message])
    version: int = 0
    updated_at: datetime | None = None


class Defaults(msgspec.Struct, omit_defaults=True):
    """A Struct whose document can be empty."""

    agent_id: str = "a1"
    session_id: str = "s1"


class Frozen(msgspec.Struct, frozen=True):
    """A Struct that cannot be stamped and need not be."""

    agent_id: str
    session_id: str
    text: str = ""


class Wide(msgspec.Struct, kw_only=True):
    """A Struct with as many fields as fit MessagePack's small map, so that the store's own makes it a large one."""

    agent_id: str
    session_id: str
    f01: int = 1
    f02: int = 2
    f03: int = 3
    f04: int = 4
    f05: int = 5
    f06: int = 6
    f07: int = 7
    f08: int = 8
    f09: int = 9
    f10: int = 10
    f11: int = 11
    f12: int = 12
    f13: int = 13


@dataclasses.dataclass
class Data:
    """A dataclass with all that a store stamps."""

    agent_id: str
    session_id: str
    messages: list[str] = dataclasses.field(default_factory=list[str])
    version: int = 0
    updated_at: datetime | None = None


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass without room for notes."""

    agent_id: str
    session_id: str
    score: float = 0.0
    version: int = 0


@dataclasses.dataclass(frozen=True)
class FrozenData:
    """A dataclass that cannot be stamped."""

    agent_id: str
    session_id: str
    tags: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()


EXAMPLES: Final[dict[str, Any]] = {
    "bare": Bare("a1", "s1"),
    "strict": Strict("a1", "s1", ["m"], b"\xff\x00", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), {1: "one"}),
    "camel": Camel("a1", "s1", [Message("user", "hi")]),
    "defaults": Defaults(),
    "frozen": Frozen("a1", "s1", "text"),
    "wide": Wide(agent_id="a1", session_id="s1", f13=0),
    "wider": msgspec.defstruct(
        "Wider", [("agent_id", str), ("session_id", str), *((f"f{n}", int, n) for n in range(20))]
    )(agent_id="a1", session_id="s1"),
    "data": Data("a1", "s1", ["m"]),
    "slotted": Slotted("a1", "s1", 0.5),
    "frozen data": FrozenData("a1", "s1", ("x", "y"), frozenset({"z"})),
}


def class_of(state: object) -> type[Any]:
    return type(state)


def copy_of(example: Any) -> Any:
    return copy.copy(example)


class TestStateTypes:
    """A store over the user's own class does what it does over `AgentState`, as far as the class has the fields."""

    @on_kinds
    @pytest.mark.parametrize("example", EXAMPLES)
    async def test_load_returns_what_was_saved(self, stores: Stores, example: str) -> None:
        """Saved twice, listed and deleted, whatever the class is."""
        state = copy_of(EXAMPLES[example])
        store: SessionStore[Any] = await stores.open(class_of(state))
        await store.save(state)
        loaded = await store.load("a1", "s1")
        assert loaded == state
        assert type(loaded) is type(state)
        await store.save(loaded)
        again = await store.load("a1", "s1")
        assert again == loaded
        if hasattr(state, "version"):
            assert (state.version, again.version) == (1, 2)
        if hasattr(state, "updated_at"):
            assert again.updated_at > state.updated_at
        assert await store.list("a1") == ["s1"]
        assert await store.load_many("a1", ["s1"]) == {"s1": again}
        assert await store.delete("a1", "s1")

    @on_kinds
    @pytest.mark.parametrize("example", ["strict", "camel", "data", "slotted"])
    async def test_conditional_saves(self, stores: Stores, example: str) -> None:
        """A class with a version can be saved conditionally and updated."""
        state = copy_of(EXAMPLES[example])
        store: SessionStore[Any] = await stores.open(class_of(state))
        await store.save(state, if_version=0)
        with pytest.raises(VersionConflictError):
            await store.save(copy_of(EXAMPLES[example]), if_version=0)
        assert (await store.update("a1", "s1", lambda _: None)).version == 2
        with pytest.raises(VersionConflictError) as caught:
            await store.save(state, if_version=1)
        assert (caught.value.stored, state.version) == (2, 1)

    @on_kinds
    @pytest.mark.parametrize(
        ("example", "more"), [("strict", "m2"), ("camel", Message("user", "more")), ("data", "m2")]
    )
    async def test_appends(self, stores: Stores, example: str, more: Any) -> None:
        """A class with messages can be appended to, whatever a message is."""
        state = copy_of(EXAMPLES[example])
        store: SessionStore[Any] = await stores.open(class_of(state))
        await store.save(state)
        assert await store.append("a1", "s1", [more]) == 2
        loaded = await store.load("a1", "s1")
        assert loaded.messages == [*state.messages, more]
        assert loaded.version == 2
        with pytest.raises(StateEncodeError):
            await store.append("a1", "s1", [7])

    @on_server_kinds
    async def test_types_that_share_their_fields_share_their_data(self, stores: Stores) -> None:
        """What one type saved another one loads, if the fields fit; if not it is a StateDecodeError."""
        store = await stores.open()
        await store.save(a_conversation())
        bare = await stores.open(Bare)
        assert await bare.load("a1", "s1") == Bare("a1", "s1")
        data = await stores.open(Data)
        with pytest.raises(StateDecodeError, match=r"\$\.messages"):
            await data.load("a1", "s1")
        strict = await stores.open(Strict)
        with pytest.raises(StateDecodeError):
            await strict.load("a1", "s1")

    async def test_what_cannot_be_a_state_type(self, stores: Stores) -> None:
        """A TypeError when the store is made, which says why."""

        class NoIds(msgspec.Struct):
            agent_id: str

        class Arrays(msgspec.Struct, array_like=True):
            agent_id: str
            session_id: str

        class Identity(msgspec.Struct, eq=False):
            agent_id: str
            session_id: str

        class FrozenVersion(msgspec.Struct, frozen=True):
            agent_id: str
            session_id: str
            version: int = 0

        class TextVersion(msgspec.Struct):
            agent_id: str
            session_id: str
            version: str = ""

        class TextTime(msgspec.Struct):
            agent_id: str
            session_id: str
            updated_at: str = ""

        class TupleMessages(msgspec.Struct):
            agent_id: str
            session_id: str
            messages: tuple[str, ...] = ()

        class OurOwn(msgspec.Struct):
            agent_id: str
            session_id: str
            rev: str = msgspec.field(default="", name="_rev")

        class TaggedSo(msgspec.Struct, tag_field="_rev"):
            agent_id: str
            session_id: str

        class Plain:
            agent_id: str
            session_id: str

        for wrong, why in [
            (NoIds, "session_id"),
            (Arrays, "array_like"),
            (Identity, "compare"),
            (FrozenVersion, "frozen"),
            (TextVersion, "version"),
            (TextTime, "updated_at"),
            (TupleMessages, "messages"),
            (OurOwn, "_rev"),
            (TaggedSo, "_rev"),
            (Plain, "Struct or a dataclass"),
            (dict, "Struct or a dataclass"),
            (Bare("a1", "s1"), "Struct or a dataclass"),
            (None, "Struct or a dataclass"),
        ]:
            with pytest.raises(TypeError, match=why):
                await stores.open(wrong)  # pyright: ignore[reportArgumentType]
