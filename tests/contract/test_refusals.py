"""What a save refuses because it would come back different, in words that say what it is and what was needed."""

from __future__ import annotations

import dataclasses
import sys
from functools import cached_property
from typing import Any

import msgspec
import pytest
from support.stores import Stores, on_kinds

from redis_state import AgentState, MemoryStateStore, Message, SessionStore, StateEncodeError, StateTooLargeError
from redis_state.codec import Codec, StateType

Store = SessionStore[AgentState]


def a_state(**fields: Any) -> AgentState:
    return AgentState(agent_id="a1", session_id="s1", **fields)


class Point(msgspec.Struct):
    x: int = 0


class Loose(msgspec.Struct, dict=True):
    x: int = 0


@dataclasses.dataclass
class Pair:
    left: Any = 0
    note: Any = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass
class Data:
    agent_id: str
    session_id: str
    pair: Pair = dataclasses.field(default_factory=Pair)
    loose: Loose | None = None
    note: Any = dataclasses.field(default=None, compare=False)
    version: int = 0

    @cached_property
    def shown(self) -> str:
        return f"{self.agent_id}/{self.session_id}"


class WithRaw(msgspec.Struct):
    agent_id: str
    session_id: str
    raw: msgspec.Raw = msgspec.Raw(b"null")
    messages: list[msgspec.Raw] = []
    version: int = 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"data": {"p": (1, 2)}}, r"\$\.data\.p .*tuple would come back as list", id="tuple"),
        pytest.param({"data": {"p": Pair()}}, r"\$\.data\.p .*Pair would come back as dict", id="dataclass"),
        pytest.param({"data": {"p": Point()}}, r"\$\.data\.p .*Point would come back as dict", id="struct"),
        pytest.param(
            {"messages": (Message("user", "hi"),)}, r"\$\.messages .*tuple would come back as list", id="list"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "hi"}]},
            r"\$\.messages\[0\] .*dict, but Message is needed",
            id="dict for a message",
        ),
        pytest.param({"messages": [None]}, r"\$\.messages\[0\] .*null, but object is needed", id="None for a message"),
        pytest.param({"version": "1"}, "version", id="text for a version"),
        pytest.param({"data": {"p": {1: 2}}}, r"\$\.data\.p .*keys must be strings", id="key"),
    ],
)
@on_kinds
async def test_a_refusal_says_what_it_is_and_what_was_needed(store: Store, fields: dict[str, Any], words: str) -> None:
    """By its path."""
    with pytest.raises((StateEncodeError, TypeError), match=words):
        await store.save(a_state(**fields))
    assert not await store.exists("a1", "s1")


@on_kinds
async def test_a_refused_message_is_named_as_needed_too(store: Store) -> None:
    """A dict is appended where the type wants a Message."""
    await store.save(a_state())
    mixed: list[Any] = [Message("user", "hi"), {"role": "user", "content": "hi"}]
    with pytest.raises(StateEncodeError, match=r"\$\.messages\[1\] .*dict, but Message is needed"):
        await store.append("a1", "s1", mixed)
    with pytest.raises(StateEncodeError, match=r"\$\.messages\[0\]\.content .*int, but str is needed"):
        await store.append("a1", "s1", [Message("user", 7)])  # pyright: ignore[reportArgumentType]
    assert (await store.load("a1", "s1")).messages == []


@on_kinds
async def test_an_attribute_that_is_no_field_is_refused(store: Store, stores: Stores) -> None:
    """It would be lost; one that can be computed anew is not."""
    state: Any = a_state()
    for version in (0, 1):
        state.foo = 1
        with pytest.raises(StateEncodeError, match=r"\$\.foo .*no field of AgentState"):
            await store.save(state)
        assert state.version == version
        del state.foo
        await store.save(state)
    of_dataclasses: SessionStore[Any] = await stores.open(Data)
    data: Any = Data("a1", "s2", loose=Loose())
    assert data.shown == "a1/s2"
    await of_dataclasses.save(data)
    for holder, path in ((data, "foo"), (data.pair, "pair.foo"), (data.loose, "loose.foo")):
        holder.foo = 1
        with pytest.raises(StateEncodeError, match=rf"\$\.{path} .*no field"):
            await of_dataclasses.save(data)
        del holder.foo
    await of_dataclasses.save(data, if_version=1)
    assert await of_dataclasses.load("a1", "s2") == data


@on_kinds
async def test_a_field_that_is_not_compared_comes_back_all_the_same(stores: Stores) -> None:
    """Or is refused: what a comparison leaves out is no less a part of the state."""
    store: SessionStore[Any] = await stores.open(Data)
    await store.save(Data("a1", "s1", Pair(note=["kept"]), note={"is": "kept"}))
    loaded = await store.load("a1", "s1")
    assert (loaded.pair.note, loaded.note) == (["kept"], {"is": "kept"})
    for data, path in (
        (Data("a1", "s2", note=(1, 2)), r"\$\.note .*tuple would come back as list"),
        (Data("a1", "s2", Pair(note=b"x")), r"\$\.pair\.note .*bytes would come back as str"),
    ):
        with pytest.raises(StateEncodeError, match=path):
            await store.save(data)


@on_kinds
async def test_raw_json_is_kept_or_refused(stores: Stores) -> None:
    """MessagePack has no place for it, and a line feed in it is no end of a line."""
    store: SessionStore[Any] = await stores.open(WithRaw, format="json")
    state = WithRaw("a1", "s1", msgspec.Raw(b'{"a":\n[1]}'))
    await store.save(state)
    await store.append("a1", "s1", [msgspec.Raw(b'{"b":\n[2]}'), msgspec.Raw(b"3")])
    loaded = await store.load("a1", "s1")
    assert [bytes(raw) for raw in (loaded.raw, *loaded.messages)] == [b'{"a":\n[1]}', b'{"b":\n[2]}', b"3"]
    for raw in (b"[" * 250 + b"]" * 250, b'1,"x":2', b"{"):
        with pytest.raises(StateEncodeError):
            await store.save(WithRaw("a1", "s1", msgspec.Raw(raw)))
    packed: SessionStore[Any] = await stores.open(WithRaw, format="msgpack")
    with pytest.raises(StateEncodeError, match=r"\$\.raw"):
        await packed.save(WithRaw("a1", "s2", msgspec.Raw(b'{"a":[1]}')))
    with pytest.raises(StateEncodeError, match=r"\$\.raw"):
        await packed.save(WithRaw("a1", "s2", msgspec.Raw(msgspec.msgpack.encode({"a": 1}))))


async def test_a_state_above_the_limit_is_refused_before_it_is_stored() -> None:
    """By a save and by an append alike, with both sizes."""
    async with MemoryStateStore(max_state_bytes=2000) as store:
        state = a_state(data={"text": "x" * 1000})
        await store.save(state)
        with pytest.raises(StateTooLargeError) as caught:
            await store.save(a_state(data={"text": "x" * 2000}))
        assert (caught.value.limit, caught.value.size > 2000) == (2000, True)
        await store.append("a1", "s1", [Message("user", "x" * 100)])
        with pytest.raises(StateTooLargeError):
            await store.append("a1", "s1", [Message("user", "x" * 1000)])
        assert len((await store.load("a1", "s1")).messages) == 1


@pytest.mark.parametrize("odd", [{1, 2}, object(), "\ud800", float("nan")], ids=["set", "object", "surrogate", "nan"])
def test_to_find_the_place_looks_at_every_value_once(odd: object) -> None:
    """Not at all before it again on every level: the steps grow with the size, not with its square."""
    codec = Codec(StateType(AgentState), "json")
    steps: list[int] = []
    for size in (1000, 2000):
        state = a_state(messages=[Message("user", "x") for _ in range(size)])
        state.messages[-1].metadata = {"deep": {"er": [odd]}}
        steps.append(0)

        def count(*_: object) -> None:
            steps[-1] += 1

        sys.setprofile(count)
        try:
            with pytest.raises(StateEncodeError) as caught:
                codec.encode(state)
        finally:
            sys.setprofile(None)
        assert caught.value.path == f"$.messages[{size - 1}].metadata.deep.er[0]"
    assert steps[1] < 2.2 * steps[0]
