"""Types that change while old workers still run: schemas and migrations."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from support.stores import Stores

from redis_state import MemoryStateStore, RedisStateStore, SessionStore, StateDecodeError

Document = dict[str, Any]


class First(msgspec.Struct, kw_only=True, dict=True):
    agent_id: str
    session_id: str
    messages: list[str] = []
    data: dict[str, int] = {}
    name: str = ""
    version: int = 0


class Said(msgspec.Struct):
    text: str


class Third(msgspec.Struct, kw_only=True, dict=True):
    agent_id: str
    session_id: str
    messages: list[Said] = []
    data: dict[str, str] = {}
    first: str = ""
    last: str = ""
    version: int = 0


def to_second(document: Document) -> Document:
    document["messages"] = [{"text": text} for text in document.get("messages", [])]
    document["data"] = {key: str(value) for key, value in document.get("data", {}).items()}
    return document


def to_third(document: Document) -> Document:
    if name := document.pop("name", ""):
        document["first"], _, document["last"] = name.partition(" ")
    return document


async def opened(stores: Stores, state_type: type[Any], **options: Any) -> SessionStore[Any]:
    """A store of another type on the same data, in memory too."""
    if stores.server is not None:
        return await stores.open(state_type=state_type, **options)
    parent: Any = stores.__dict__.get("parent") or await stores.open()
    stores.__dict__["parent"] = parent
    return parent.view(state_type, namespace="types", **options)


async def both(stores: Stores) -> tuple[SessionStore[First], SessionStore[Third]]:
    """An older worker's store and a newer one's."""
    migrations = {1: to_second, 2: to_third}
    return await opened(stores, First), await opened(stores, Third, schema=3, migrations=migrations)


async def test_an_old_state_is_loaded_as_a_new_one_and_nothing_is_rewritten(stores: Stores) -> None:
    """With what was appended and merged since, by either worker, in its order."""
    old, new = await both(stores)
    await old.save(First(agent_id="a", session_id="s", messages=["1"], name="Ada L", data={"k": 1}))
    await old.append("a", "s", ["2"])
    await old.merge("a", "s", {"data": {"m": 2}, "name": "Bob B"})
    loaded = await new.load("a", "s")
    assert (loaded.first, loaded.last, loaded.data) == ("Bob", "B", {"k": "1", "m": "2"})
    assert ([said.text for said in loaded.messages], loaded.version) == (["1", "2"], 3)
    assert (await old.load("a", "s")).name == "Bob B"
    await new.append("a", "s", [Said("3")])
    await old.append("a", "s", ["4"])
    assert [said.text for said in (await new.load("a", "s")).messages] == ["1", "2", "3", "4"]
    assert await new.load_messages("a", "s", limit=2) == [Said("3"), Said("4")]


async def test_a_newer_state_is_no_state_for_an_older_worker(stores: Stores) -> None:
    """So that it never drops what it does not know. The error names both schemas."""
    old, new = await both(stores)
    middle = await opened(stores, Third, schema=2, migrations={1: to_second})
    await new.save(Third(agent_id="a", session_id="s", first="Ada"))
    for store, words in ((old, "schema 3.* schema 1"), (middle, "schema 3.* schema 2")):
        with pytest.raises(StateDecodeError, match=words):
            await store.load("a", "s")


async def test_what_either_worker_adds_to_the_others_document_is_kept(stores: Stores) -> None:
    """An older one's merge of a field that has another name now too; what a newer one adds is not for an older one."""
    old, new = await both(stores)
    await old.save(First(agent_id="a", session_id="s", name="Ada L"))
    await new.merge("a", "s", {"data": {"new": "1"}})
    for call in (old.load("a", "s"), old.update("a", "s", lambda state: None)):
        with pytest.raises(StateDecodeError, match="schema 3"):
            await call
    assert await new.migrate("a") == 1
    await old.merge("a", "s", {"data": {"old": 2}, "name": "Bob B"})
    loaded = await new.load("a", "s")
    assert (loaded.data, loaded.first, loaded.last, loaded.version) == ({"new": "1", "old": "2"}, "Bob", "B", 3)


async def test_a_migration_that_changes_the_ids_rewrites_nothing(stores: Stores) -> None:
    old, _ = await both(stores)
    await old.save(First(agent_id="a", session_id="s"))

    def to_another(document: Document) -> Document:
        return {**document, "session_id": "other"}

    new = await opened(stores, First, schema=2, migrations={1: to_another})
    for call in (new.load("a", "s"), new.migrate("a")):
        with pytest.raises(StateDecodeError):
            await call
    assert (await old.load("a", "s")).session_id == "s"


async def test_a_missing_or_failing_step_is_named_and_nothing_of_the_state(stores: Stores) -> None:
    old, _ = await both(stores)
    await old.save(First(agent_id="a", session_id="s", name="secret"))

    def fails(document: Document) -> Document:
        raise KeyError(document["name"])

    def returns_nothing(document: Document) -> Any:
        document.clear()

    for migrations, words in (
        ({2: to_third}, "schema 1.*schema 3.*from 1 to 2"),
        ({1: fails, 2: to_third}, "from schema 1 to 2 failed with KeyError"),
        ({1: returns_nothing, 2: to_third}, "returned no dict"),
    ):
        store = await opened(stores, Third, schema=3, migrations=migrations)
        for call in (store.load("a", "s"), store.migrate("a")):
            with pytest.raises(StateDecodeError, match=words) as caught:
                await call
            assert "secret" not in repr(caught.value)
            assert caught.value.__context__ is None or "secret" not in repr(caught.value.__context__)


async def test_migrating_rewrites_what_is_older_and_is_no_write(stores: Stores) -> None:
    """What is loaded is the same before and after; versions, places and conditions stay; beside live traffic."""
    old, new = await both(stores)
    for number in range(70):
        await old.save(First(agent_id="a", session_id=f"s{number}", messages=["1"], name="Ada L"))
        if number % 2:
            await old.append("a", f"s{number}", ["2"])
    order = await new.list("a")
    before = await new.load_many("a", order)
    live = (new.append("a", f"s{number}", [Said("live")]) for number in range(0, 70, 7))
    changed, *_ = await asyncio.gather(new.migrate("a"), *live)
    assert changed == 70
    assert await new.migrate("a") == 0
    after = await new.load_many("a", order)
    for session_id, state in before.items():
        number = int(session_id[1:])
        if number % 7:
            assert after[session_id] == state
            assert await new.append("a", session_id, [], if_version=state) == state.version + 1
        else:
            assert [said.text for said in after[session_id].messages][-1] == "live"
    with pytest.raises(StateDecodeError):
        await old.load("a", "s1")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"schema": 0}, ValueError),
        ({"schema": "1"}, TypeError),
        ({"schema": True}, TypeError),
        ({"schema": 1, "migrations": {1: to_second}}, ValueError),
        ({"schema": 3, "migrations": {1: to_second}}, ValueError),
        ({"schema": 4, "migrations": {1: to_second, 3: to_third}}, ValueError),
        ({"schema": 2, "migrations": {0: to_second, 1: to_second}}, ValueError),
        ({"schema": 2, "migrations": {1: 5}}, TypeError),
        ({"schema": 2, "migrations": {"1": to_second}}, TypeError),
        ({"schema": 2, "migrations": [to_second]}, TypeError),
    ],
)
def test_migrations_that_are_no_chain_are_refused(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        RedisStateStore.from_url("redis://localhost", **options)
    with pytest.raises(error):
        MemoryStateStore(**options)
