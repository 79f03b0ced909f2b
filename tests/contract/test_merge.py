"""Merging: fields that are set apart from each other, proved before they are sent, folded and never lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from support.states import Store, messages, saved, state, texts
from support.stores import Stores

from redis_state import Message, StateEncodeError, StateNotFoundError, VersionConflictError


class Odd(msgspec.Struct, kw_only=True, dict=True, rename="camel"):
    agent_id: str
    session_id: str
    messages: list[str] = []
    optional_map: dict[str, bytes] | None = None
    some_bytes: bytes = b""
    at: datetime | None = None
    version: int = 0


async def test_entries_of_mappings_are_set_and_removed_and_other_fields_replaced(store: Store) -> None:
    """On the first level: a nested mapping is replaced. Each merge is one version."""
    first = state("s", "hi", kept=1, gone=2, nested={"a": 1})
    await store.save(first)
    await saved(store, "other")
    assert await store.merge("a", "s", {"data": {"new": [1, {"b": None}], "gone": msgspec.UNSET}}) == 2
    changes = {"data": {"nested": {"c": 2}, "never": msgspec.UNSET}, "context": {"k": "v"}}
    assert await store.merge("a", "s", changes) == 3
    loaded = await store.load("a", "s")
    assert loaded.data == {"kept": 1, "new": [1, {"b": None}], "nested": {"c": 2}}
    assert (loaded.context, texts(loaded), loaded.version) == ({"k": "v"}, ["hi"], 3)
    assert loaded.updated_at > first.updated_at
    assert await store.list("a") == ["s", "other"]


async def test_fields_are_named_as_in_python_and_keep_their_types(stores: Stores) -> None:
    """In either format, before and after a fold; None in an optional mapping counts as empty."""
    store = await stores.open(state_type=Odd)
    await store.save(Odd(agent_id="a", session_id="s"))
    at = datetime(2026, 1, 2, tzinfo=UTC)
    for number in range(100):
        changes = {"optional_map": {"k": b"\x00\xff", f"n{number % 3}": b"x" * 50}, "some_bytes": b"\xfe", "at": at}
        await store.merge("a", "s", changes)
    loaded = await store.load("a", "s")
    assert loaded.optional_map == {"k": b"\x00\xff", "n0": b"x" * 50, "n1": b"x" * 50, "n2": b"x" * 50}
    assert (loaded.some_bytes, loaded.at, loaded.version) == (b"\xfe", at, 101)
    await store.merge("a", "s", {"optional_map": None})
    assert (await store.load("a", "s")).optional_map is None


async def test_many_at_once_lose_nothing(store: Store) -> None:
    """Tools that run side by side each set their own entry, while messages come in."""
    await saved(store, "s")
    merges = (store.merge("a", "s", {"data": {f"tool{n}": n}}) for n in range(40))
    appends = (store.append("a", "s", messages(f"{n}"), merge={"context": {f"turn{n}": n}}) for n in range(10))
    versions = await asyncio.gather(*merges, *appends)
    assert sorted(versions) == list(range(2, 52))
    loaded = await store.load("a", "s")
    assert loaded.data == {f"tool{n}": n for n in range(40)}
    assert loaded.context == {f"turn{n}": n for n in range(10)}
    assert sorted(texts(loaded)) == sorted(map(str, range(10)))


async def test_a_session_that_is_only_merged_into_does_not_grow(stores: Stores) -> None:
    """The write that crosses the threshold folds; the state, its versions and its time are as if it had not."""
    store = await stores.open()
    await store.save(state("s", "hi"))
    for number in range(1000):
        await store.merge("a", "s", {"data": {f"k{number % 10}": number}})
    loaded = await store.load("a", "s")
    assert loaded.data == {f"k{n}": 990 + n for n in range(10)}
    assert (loaded.version, texts(loaded)) == (1001, ["hi"])
    await store.save(loaded, if_version=1001)
    if stores.server is not None:
        assert stores.command("STRLEN", stores.state_key("a", "s")) < 10_000


async def test_a_fold_is_noticed_by_nothing(store: Store) -> None:
    """Not by a condition on a loaded state, nor by a key, nor by who loads the newest messages."""
    await store.save(state("s"))
    await store.merge("a", "s", {"data": {"first": 1}}, key="job")
    for number in range(10):
        await store.append("a", "s", messages("x" * 600 + str(number)))
    loaded = await store.load("a", "s")
    assert await store.merge("a", "s", {"data": {"first": 2}}, key="job") == 2
    assert await store.append("a", "s", messages("last"), if_version=loaded) == 13
    assert texts(await store.load("a", "s"))[-2:] == ["x" * 600 + "9", "last"]
    assert (await store.load("a", "s")).data == {"first": 1}
    newest = await store.load_messages("a", "s", limit=3)
    assert [message.content[-1] for message in newest] == ["8", "9", "t"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ([1], TypeError, "mapping"),
        (5, TypeError, "mapping"),
        ({"nope": 1}, ValueError, "no field"),
        ({1: 1}, ValueError, "no field"),
        ({"version": 5}, ValueError, "version"),
        ({"agent_id": "b"}, ValueError, "agent_id"),
        ({"updated_at": datetime.now(UTC)}, ValueError, "updated_at"),
        ({"messages": []}, ValueError, r"append\(\)"),
        ({"data": msgspec.UNSET}, ValueError, "whole field"),
        ({"data": 5}, StateEncodeError, r"\$\.data .*int, but a mapping"),
        ({"data": None}, StateEncodeError, r"\$\.data .*mapping is needed"),
        ({"data": {"k": (1,)}}, StateEncodeError, r"\$\.data\.k .*tuple"),
        ({"data": {1: 1}}, StateEncodeError, "keys must be strings"),
        ({"data": {"\ud800": 1}}, StateEncodeError, "surrogate"),
        ({"data": {"k": float("nan")}}, StateEncodeError, r"\$\.data\.k"),
    ],
)
async def test_what_cannot_be_merged_is_refused_and_nothing_is_written(
    store: Store, changes: Any, error: type[Exception], words: str
) -> None:
    await saved(store, "s")
    with pytest.raises(error, match=words):
        await store.merge("a", "s", changes)
    with pytest.raises(error, match=words):
        await store.append("a", "s", messages("hi"), merge=changes)
    loaded = await store.load("a", "s")
    assert (loaded.version, loaded.data, loaded.messages) == (1, {}, [])


@dataclass
class Checked:
    agent_id: str
    session_id: str
    low: int = 0
    high: int = 1
    version: int = 0
    messages: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        assert self.low <= self.high


async def test_a_type_that_checks_its_fields_together_is_not_changed_in_part(stores: Stores) -> None:
    store = await stores.open(state_type=Checked)
    await store.save(Checked("a", "s"))
    for call in (store.merge("a", "s", {"low": 5}), store.append("a", "s", ["x"])):
        with pytest.raises(TypeError, match="checks its fields together"):
            await call
    assert (await store.load("a", "s")).version == 1


async def test_conditions_and_creation_are_those_of_append(store: Store) -> None:
    with pytest.raises(StateNotFoundError):
        await store.merge("a", "s", {"data": {"k": 1}})
    assert await store.merge("a", "s", {"data": {"k": 1, "x": msgspec.UNSET}}, create=state("s", "hi", x=1, y=2)) == 1
    loaded = await store.load("a", "s")
    assert (loaded.data, texts(loaded), loaded.version) == ({"k": 1, "y": 2}, ["hi"], 1)
    assert await store.merge("a", "s", {"data": {"k": 2}}, if_version=loaded) == 2
    with pytest.raises(VersionConflictError) as caught:
        await store.merge("a", "s", {"data": {"k": 3}}, if_version=1)
    assert (caught.value.expected, caught.value.stored) == (1, 2)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, -(10**4299)])
async def test_a_number_that_a_later_save_would_refuse_is_refused_at_once(stores: Stores, value: int) -> None:
    """In MessagePack, and where no reader takes so many digits: it would stand there for ever, and no fold succeed."""
    store = await stores.open(format="msgpack")
    await store.save(state("s"))
    for call in (
        store.merge("a", "s", {"data": {"n": value}}),
        store.append("a", "s", [Message("user", "hi", metadata={"n": value})]),
        store.save(state("s", n=value)),
    ):
        with pytest.raises(StateEncodeError):
            await call
    plain = await stores.open(format="json")
    with pytest.raises(StateEncodeError):
        await plain.save(state("s", n=-(10**4299)))
    assert (await store.load("a", "s")).version == 1


class HoldsRaw(msgspec.Struct, kw_only=True, dict=True):
    agent_id: str
    session_id: str
    parts: dict[str, msgspec.Raw] = {}
    version: int = 0


async def test_raw_bytes_are_merged_only_where_they_are_of_one_format(stores: Stores) -> None:
    """What is merged is JSON: a store of MessagePack refuses it, one of JSON keeps it after a fold."""
    packed = await stores.open(state_type=HoldsRaw, format="msgpack")
    await packed.save(HoldsRaw(agent_id="a", session_id="s"))
    with pytest.raises(TypeError, match="Raw"):
        await packed.merge("a", "s", {"parts": {"k": msgspec.Raw(b"1")}})
    plain = await stores.open(state_type=HoldsRaw, format="json")
    await plain.save(HoldsRaw(agent_id="a", session_id="s"))
    for number in range(150):
        await plain.merge("a", "s", {"parts": {f"k{number % 3}": msgspec.Raw(b"[%d]" % number)}})
    loaded = await plain.load("a", "s")
    assert loaded.parts == {f"k{n}": msgspec.Raw(b"[%d]" % (147 + n)) for n in range(3)}
