"""Conditional saves: what they compare, and that nobody's write is lost to them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.stores import Stores, on_kinds, on_server_kinds

from redis_state import (
    AgentState,
    Message,
    SessionStore,
    StateDecodeError,
    StateEncodeError,
    VersionConflictError,
)

Store = SessionStore[AgentState]


def a_state(**fields: Any) -> AgentState:
    return AgentState(agent_id="a1", session_id="s1", **fields)


class Noted(msgspec.Struct, dict=True):
    """A Struct of the user's with room for a note of the write that an object stems from."""

    agent_id: str
    session_id: str
    version: int = 0


@dataclasses.dataclass
class Data:
    """A dataclass, which has that room."""

    agent_id: str
    session_id: str
    version: int = 0


async def is_a_conflict(store: SessionStore[Any], state: Any, stored: int) -> None:
    before = state.version
    with pytest.raises(VersionConflictError) as caught:
        await store.save(state, if_version=before)
    assert (caught.value.expected, caught.value.stored) == (before, stored)
    assert state.version == before


@on_kinds
class TestLineage:
    """A version alone can come back. What a conditional save compares is the write that the object stems from."""

    async def test_a_new_object_saved_over_it_is_noticed(self, store: Store) -> None:
        """It brings version 1 back, for one that was saved and for those that were loaded."""
        saved = a_state()
        await store.save(saved)
        loaded = await store.load("a1", "s1")
        loaded_with_others = (await store.load_many("a1", ["s1"]))["s1"]
        await store.save(a_state(data={"by": "other"}))
        for state in (saved, loaded, loaded_with_others):
            await is_a_conflict(store, state, stored=1)
        assert (await store.load("a1", "s1")).data == {"by": "other"}

    async def test_an_older_object_saved_over_it_is_noticed(self, store: Store) -> None:
        """Two plain saves from version 1 both make version 2."""
        await store.save(a_state())
        mine, yours = await store.load("a1", "s1"), await store.load("a1", "s1")
        await store.save(mine)
        await store.save(yours)
        await is_a_conflict(store, mine, stored=2)
        await store.save(yours, if_version=2)

    async def test_a_session_that_was_deleted_and_made_again_is_noticed(self, store: Store) -> None:
        """It is another session of the same name."""
        state = a_state()
        await store.save(state)
        await store.delete("a1", "s1")
        await store.save(a_state(), if_version=0)
        await is_a_conflict(store, state, stored=1)

    async def test_an_append_that_made_the_same_version_is_noticed(self, store: Store) -> None:
        """A save and an append both make version 2."""
        await store.save(a_state())
        mine, yours = await store.load("a1", "s1"), await store.load("a1", "s1")
        await store.save(mine)
        await store.save(a_state())
        await store.append("a1", "s1", [Message("user", "hi")])
        await is_a_conflict(store, mine, stored=2)
        await is_a_conflict(store, yours, stored=2)
        await store.save(await store.load("a1", "s1"), if_version=2)

    @pytest.mark.parametrize("state_type", [Noted, Data])
    async def test_types_with_room_for_a_note_notice_it_too(self, stores: Stores, state_type: Any) -> None:
        """A Struct with dict=True, and a dataclass."""
        store: SessionStore[Any] = await stores.open(state_type)
        await store.save(state_type("a1", "s1"))
        loaded = await store.load("a1", "s1")
        await store.save(state_type("a1", "s1"))
        await is_a_conflict(store, loaded, stored=1)

    async def test_an_object_that_no_store_made_is_compared_by_its_number(self, store: Store) -> None:
        """There is nothing else to compare."""
        await store.save(a_state())
        state = a_state(version=1)
        await store.save(state, if_version=1)
        assert state.version == 2

    async def test_a_failed_save_does_not_change_where_the_object_stems_from(self, store: Store) -> None:
        """After a conflict and a refusal it can still be saved over what it was loaded from."""
        await store.save(a_state())
        state = await store.load("a1", "s1")
        with pytest.raises(VersionConflictError):
            await store.save(state, if_version=7)
        state.data["n"] = float("nan")
        with pytest.raises(StateEncodeError):
            await store.save(state, if_version=1)
        state.data["n"] = 1
        await store.save(state, if_version=1)
        assert (await store.load("a1", "s1")).data == {"n": 1}

    async def test_the_note_is_no_part_of_the_state(self, store: Store) -> None:
        """It is neither stored nor compared nor shown."""
        state = a_state()
        await store.save(state)
        twin = msgspec.structs.replace(state)
        assert twin == state
        assert repr(twin) == repr(state)
        assert msgspec.json.encode(twin) == msgspec.json.encode(state)


@on_kinds
class TestLongLives:
    async def test_a_hundred_saves_in_turn(self, store: Store) -> None:
        """Plain and conditional ones; the version counts them all."""
        state = a_state()
        for number in range(100):
            await store.save(state, if_version=number if number % 2 else None)
            if number % 5 == 0:
                state = await store.load("a1", "s1")
        assert state.version == 100
        assert (await store.load("a1", "s1")).version == 100

    async def test_updates_and_appends_at_once_lose_nothing(self, store: Store) -> None:
        """An append that comes between load and save makes the update run again."""
        await store.save(a_state())

        def add(number: int) -> Callable[[AgentState], None]:
            return lambda state: state.messages.append(Message("user", f"update {number}"))

        await asyncio.gather(
            *(store.update("a1", "s1", add(number)) for number in range(10)),
            *(store.append("a1", "s1", [Message("user", f"append {number}")]) for number in range(10)),
        )
        loaded = await store.load("a1", "s1")
        assert loaded.version == 21
        assert sorted(message.content for message in loaded.messages) == sorted(
            f"{how} {number}" for how in ("update", "append") for number in range(10)
        )

    @pytest.mark.parametrize("version", [-5, -1, 2**53 - 1, 2**53, 2**63, 2**64 - 1, 2**64, 10**30])
    async def test_a_version_that_no_store_gave(self, store: Store, version: int) -> None:
        """Negative, or too large to be counted on exactly: a ValueError, and nothing is stored."""
        state = a_state(version=version)
        for if_version in (None, 0):
            with pytest.raises(ValueError, match="version"):
                await store.save(state, if_version=if_version)
        assert state.version == version
        assert not await store.exists("a1", "s1")

    async def test_a_version_that_is_very_large(self, store: Store) -> None:
        """Up to 2**53 - 1 it is counted and compared exactly; nothing is written beyond."""
        state = a_state(version=2**53 - 3)
        await store.save(state)
        await store.save(state, if_version=2**53 - 2)
        assert state.version == 2**53 - 1
        await is_a_conflict(store, a_state(version=2**53 - 2), stored=2**53 - 1)
        with pytest.raises(StateEncodeError, match="version"):
            await store.append("a1", "s1", [])
        loaded = await store.load("a1", "s1")
        assert (loaded.version, loaded) == (2**53 - 1, state)
        for condition in (None, 2**53 - 1):
            with pytest.raises(ValueError, match="version"):
                await store.save(loaded, if_version=condition)
        assert await store.load("a1", "s1") == state


@on_server_kinds
class TestSharedData:
    """Stores of any format work on the same states, and so do people with redis-cli."""

    @pytest.mark.parametrize(("first", "second"), [("json", "msgpack"), ("msgpack", "json"), ("msgpack", "msgpack")])
    async def test_formats_mix(self, stores: Stores, first: Any, second: Any) -> None:
        """Saved in one, appended to, saved conditionally and loaded by another."""
        one, two = await stores.open(format=first), await stores.open(format=second)
        await one.save(a_state(data={"n": 1}))
        await two.append("a1", "s1", [Message("user", "one")])
        state = await two.load("a1", "s1")
        await two.save(state, if_version=2)
        await one.append("a1", "s1", [Message("user", "two")])
        again = await one.load("a1", "s1")
        assert ([message.content for message in again.messages], again.data, again.version) == (
            ["one", "two"],
            {"n": 1},
            4,
        )
        await is_a_conflict(two, state, stored=4)
        await one.save(again, if_version=4)

    async def test_a_document_without_a_revision(self, store: Store, stores: Stores) -> None:
        """JSON that another program wrote is loaded, has the version that it says, and can be saved over."""
        key = stores.state_key("a1", "s1")
        stores.command("SET", key, '{"agent_id": "a1", "session_id": "s1", "version": 5, "data": {"n": 1}}')
        state = await store.load("a1", "s1")
        assert (state.version, state.data) == (5, {"n": 1})
        await is_a_conflict(store, a_state(version=4), stored=5)
        await store.save(state, if_version=5)
        assert (await store.load("a1", "s1")).version == 6
        stores.command("SET", key, '{"agent_id": "a1", "session_id": "s1"}\n')
        assert await store.append("a1", "s1", [Message("user", "hi")]) == 1
        loaded = await store.load("a1", "s1")
        assert ([message.content for message in loaded.messages], loaded.version) == (["hi"], 1)
        await store.save(loaded, if_version=1)

    async def test_a_document_that_was_edited_by_hand(self, stores: Stores) -> None:
        """Written anew with other white space and a line feed, it keeps its version and can be gone on with."""
        store = await stores.open(format="json")
        key = stores.state_key("a1", "s1")
        for indent in (None, 2):
            state = a_state()
            await store.save(state)
            document = json.loads(stores.command("GET", key))
            document["data"] = {"by": "hand"}
            stores.command("SET", key, json.dumps(document, indent=indent) + "\n")
            assert (await store.load("a1", "s1")).data == {"by": "hand"}
            await store.append("a1", "s1", [Message("user", "hi")])
            loaded = await store.load("a1", "s1")
            assert (loaded.data, loaded.version, len(loaded.messages)) == ({"by": "hand"}, 2, 1)
            await store.save(loaded, if_version=2)

    @pytest.mark.parametrize("value", [b"nonsense", b"\x00", b"{", b"3", b'"text"', b"[" * 100_000])
    async def test_what_is_no_document_has_no_version(self, store: Store, stores: Stores, value: bytes) -> None:
        """A conditional save and an append raise StateDecodeError and leave it; a plain save replaces it."""
        key = stores.state_key("a1", "s1")
        stores.command("SET", key, value)
        for call in (
            store.save(a_state(), if_version=0),
            store.save(a_state(), if_version=1),
            store.append("a1", "s1", [Message("user", "hi")]),
            store.update("a1", "s1", lambda _: None),
        ):
            with pytest.raises(StateDecodeError):
                await call
        assert stores.command("GET", key) == value
        await store.save(a_state())
        assert (await store.load("a1", "s1")).version == 1

    async def test_an_append_adds_nothing_to_what_is_no_object(self, store: Store, stores: Stores) -> None:
        """A JSON array is no state, so it is refused as one."""
        key = stores.state_key("a1", "s1")
        stores.command("SET", key, "[1]")
        with pytest.raises(StateDecodeError):
            await store.append("a1", "s1", [Message("user", "hi")])
        assert stores.command("GET", key) == b"[1]"
        stores.command("DEL", key)
