"""Conditional saves: what they compare, and that nobody's write is lost to them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import msgspec
import pytest
from support.states import Store, messages, never, saved, state, texts
from support.stores import Stores, on_servers

from redis_state import SessionStore, StateEncodeError, VersionConflictError


class Bare(msgspec.Struct):
    agent_id: str
    session_id: str


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


async def conflicts(store: SessionStore[Any], of: Any, *, stored: int, expected: int | None = None) -> None:
    """Check that a save over its version is a conflict that tells both versions and leaves the object."""
    before = of.version
    condition = before if expected is None else expected
    with pytest.raises(VersionConflictError) as caught:
        await store.save(of, if_version=condition)
    assert (caught.value.expected, caught.value.stored) == (condition, stored)
    assert of.version == before


async def test_it_saves_over_the_version_it_names_only(store: Store) -> None:
    """After a conflict object, state and list are as they were."""
    mine, other = await saved(store, "s", "other")
    yours = await store.load("a", "s")
    assert await store.save(yours, if_version=1) is None
    await store.save(other)
    assert yours.version == 2
    before = msgspec.structs.replace(mine)
    await conflicts(store, mine, stored=2)
    assert mine == before
    assert await store.load("a", "s") == yours
    assert await store.list("a") == ["other", "s"]


async def test_version_0_saves_only_where_nothing_is(store: Store) -> None:
    """So a session is created once, and again after a delete."""
    first = state()
    await store.save(first, if_version=0)
    await conflicts(store, state(), stored=1)
    assert await store.load("a", "s") == first
    await store.delete("a", "s")
    await store.save(first, if_version=0)
    assert first.version == 1


async def test_a_deleted_session_is_not_resurrected(store: Store) -> None:
    """Nor is one that never was: the conflict says that nothing is stored."""
    (mine,) = await saved(store, "s")
    await store.delete("a", "s")
    await conflicts(store, mine, stored=0)
    for number in (7, 2**52):
        await conflicts(store, state(), expected=number, stored=0)
    assert await store.list("a") == []


async def test_of_many_at_once_one_wins(store: Store) -> None:
    await saved(store, "s")
    holders = [await store.load("a", "s") for _ in range(10)]
    results = await asyncio.gather(*(store.save(holder, if_version=1) for holder in holders), return_exceptions=True)
    (winner,) = [holder for holder, result in zip(holders, results, strict=True) if result is None]
    assert sum(isinstance(result, VersionConflictError) for result in results) == 9
    assert await store.load("a", "s") == winner


async def test_a_type_without_version_is_told_what_is_missing(stores: Stores) -> None:
    """By conditional saves and updates, before anything is loaded."""
    store: Any = await stores.open(Bare)
    for call in (store.save(Bare("a", "s"), if_version=0), store.update("a", "s", never)):
        with pytest.raises(TypeError, match=r"'version'.*Bare"):
            await call


# A version alone can come back: what is compared is the write that the object stems from


async def test_a_save_that_brought_the_version_back_is_noticed(store: Store) -> None:
    """By a new object, by an older one, by an append; for one that was saved and for those that were loaded."""
    (mine,) = await saved(store, "s")
    loaded, with_others = await store.load("a", "s"), (await store.load_many("a", ["s"]))["s"]
    await store.save(state(by="other"))
    for each in (mine, loaded, with_others):
        await conflicts(store, each, stored=1)
    one, two, three = [await store.load("a", "s") for _ in range(3)]
    await store.save(one)
    await store.save(two)
    await conflicts(store, one, stored=2)
    await store.save(state())
    await store.append("a", "s", messages("hi"))
    for each in (one, two):
        await conflicts(store, each, stored=2)
    await conflicts(store, three, stored=2)
    await store.save(await store.load("a", "s"), if_version=2)


async def test_a_session_that_was_deleted_and_made_again_is_another(store: Store) -> None:
    (mine,) = await saved(store, "s")
    await store.delete("a", "s")
    await store.save(state(), if_version=0)
    await conflicts(store, mine, stored=1)


@pytest.mark.parametrize("state_type", [Noted, Data])
async def test_a_struct_with_a_dict_and_a_dataclass_notice_it_too(stores: Stores, state_type: Any) -> None:
    store: SessionStore[Any] = await stores.open(state_type)
    await store.save(state_type("a", "s"))
    loaded = await store.load("a", "s")
    await store.save(state_type("a", "s"))
    await conflicts(store, loaded, stored=1)


async def test_an_object_that_no_store_made_is_compared_by_its_number(store: Store) -> None:
    await saved(store, "s")
    mine = state(version=1)
    await store.save(mine, if_version=1)
    assert mine.version == 2


async def test_a_failed_save_does_not_change_where_the_object_stems_from(store: Store) -> None:
    """After a conflict and a refusal it can still be saved over what it was loaded from."""
    await saved(store, "s")
    mine = await store.load("a", "s")
    await conflicts(store, mine, expected=7, stored=1)
    mine.data["n"] = float("nan")
    with pytest.raises(StateEncodeError):
        await store.save(mine, if_version=1)
    mine.data["n"] = 1
    await store.save(mine, if_version=1)
    assert (await store.load("a", "s")).data == {"n": 1}


async def test_the_note_is_no_part_of_the_state(store: Store) -> None:
    """It is neither compared nor shown nor stored."""
    (mine,) = await saved(store, "s")
    twin = msgspec.structs.replace(mine)
    assert (twin, repr(twin), msgspec.json.encode(twin)) == (mine, repr(mine), msgspec.json.encode(mine))


async def test_a_hundred_saves_in_turn_are_a_hundred_versions(store: Store) -> None:
    mine = state()
    for number in range(100):
        await store.save(mine, if_version=number if number % 2 else None)
        if number % 5 == 0:
            mine = await store.load("a", "s")
    assert (await store.load("a", "s")).version == mine.version == 100


@pytest.mark.parametrize("version", [-5, -1, 2**53 - 1, 2**53, 2**63, 2**64, 10**30])
async def test_a_version_that_no_store_gives_is_a_value_error(store: Store, version: int) -> None:
    """Negative, or too large to be counted on exactly; nothing is stored."""
    mine = state(version=version)
    for condition in (None, 0):
        with pytest.raises(ValueError, match="version"):
            await store.save(mine, if_version=condition)
    with pytest.raises(ValueError, match="version"):
        await store.save(state(), if_version=-1)
    assert mine.version == version
    assert not await store.exists("a", "s")


async def test_versions_are_exact_up_to_the_last_one_and_nothing_is_written_beyond(store: Store) -> None:
    mine = state(version=2**53 - 3)
    await store.save(mine)
    await store.save(mine, if_version=2**53 - 2)
    assert mine.version == 2**53 - 1
    await conflicts(store, state(version=2**53 - 2), stored=2**53 - 1)
    with pytest.raises(StateEncodeError, match="version"):
        await store.append("a", "s", [])
    for condition in (None, 2**53 - 1):
        with pytest.raises(ValueError, match="version"):
            await store.save(mine, if_version=condition)
    assert await store.load("a", "s") == mine


@on_servers
@pytest.mark.parametrize(("first", "second"), [("json", "msgpack"), ("msgpack", "json"), ("msgpack", "msgpack")])
async def test_stores_of_both_formats_work_on_the_same_states(stores: Stores, first: Any, second: Any) -> None:
    """Saved in one, appended to, saved conditionally and loaded by another."""
    one, two = await stores.open(format=first), await stores.open(format=second)
    await one.save(state(n=1))
    await two.append("a", "s", messages("one"))
    mine = await two.load("a", "s")
    await two.save(mine, if_version=2)
    await one.append("a", "s", messages("two"))
    again = await one.load("a", "s")
    assert (texts(again), again.data, again.version) == (["one", "two"], {"n": 1}, 4)
    await conflicts(two, mine, expected=3, stored=4)
    await one.save(again, if_version=4)


@on_servers
async def test_json_that_another_program_wrote_has_the_version_that_it_says(store: Store, stores: Stores) -> None:
    """It is loaded, appended to and saved over; without a version it has none."""
    key = stores.state_key("a", "s")
    stores.command("SET", key, '{"agent_id": "a", "session_id": "s", "version": 5, "data": {"n": 1}}')
    mine = await store.load("a", "s")
    assert (mine.version, mine.data) == (5, {"n": 1})
    await conflicts(store, state(version=4), stored=5)
    await store.save(mine, if_version=5)
    stores.command("SET", key, '{"agent_id": "a", "session_id": "s"}\n')
    assert await store.append("a", "s", messages("hi")) == 1
    loaded = await store.load("a", "s")
    assert (texts(loaded), loaded.version) == (["hi"], 1)
    await store.save(loaded, if_version=1)


@on_servers
@pytest.mark.parametrize("indent", [None, 2])
async def test_a_document_that_was_edited_by_hand_keeps_its_version(stores: Stores, indent: int | None) -> None:
    store = await stores.open(format="json")
    key = stores.state_key("a", "s")
    await store.save(state())
    document = {**json.loads(stores.command("GET", key)), "data": {"by": "hand"}}
    stores.command("SET", key, json.dumps(document, indent=indent) + "\n")
    await store.append("a", "s", messages("hi"))
    loaded = await store.load("a", "s")
    assert (loaded.data, loaded.version, texts(loaded)) == ({"by": "hand"}, 2, ["hi"])
    await store.save(loaded, if_version=2)
