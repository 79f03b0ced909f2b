"""Large values are decoded in pieces, with the same result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
import pytest

from redis_state import AgentState, Message, StateDecodeError
from redis_state.codec import Codec
from redis_state.pieces import Pieces
from redis_state.revision import Revision, parsed
from redis_state.state import StateType

if TYPE_CHECKING:
    from redis_state.codec import Format

NOW: Final = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


class Renamed(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    agent_id: str
    session_id: str
    some_text: str = ""
    messages: list[Message] = []


@dataclass
class Plain:
    agent_id: str
    session_id: str
    messages: list[str] = field(default_factory=list[str])


def talk(count: int) -> list[Message]:
    return [Message("user", f'"messages":[{i}],\\ ü\n' * 5, NOW, {"n": i}) for i in range(count)]


def nested(count: int) -> list[Message]:
    """Messages that hold what looks like messages."""
    inner = [{"role": "user", "content": "x" * 50}] * 3
    return [Message("tool", 'a"},{"role":"b', NOW, {"calls": inner, "n": i}) for i in range(count)]


STATES: Final[list[Any]] = [
    pytest.param(AgentState(agent_id="a", session_id="s"), id="no messages"),
    pytest.param(AgentState(agent_id="a", session_id="s", messages=talk(1)), id="one message"),
    pytest.param(
        AgentState(agent_id='"messages":[', session_id="s", messages=talk(3000), context={"messages": [1, 2]}),
        id="many messages",
    ),
    pytest.param(AgentState(agent_id="a", session_id="s", context={"big": ["x" * 1000] * 500}), id="large context"),
    pytest.param(AgentState(agent_id="a", session_id="s", messages=nested(2000)), id="messages inside of messages"),
    pytest.param(Renamed("a", "s", "text", talk(2000)), id="renamed and strict"),
    pytest.param(Plain("a", "s", ["x" * 100] * 5000), id="dataclass"),
]


async def in_pieces(state_type: Any, value: bytes) -> tuple[Any, Revision]:
    types = StateType(state_type)
    state, origin = await Pieces(types, Codec(types, "json")).decode(value, "a", "s")
    return state, parsed(origin)


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("batches", [0, 1, 3000])
@pytest.mark.parametrize("state", STATES)
async def test_pieces_make_the_whole(state: Any, batches: int, format: Format) -> None:
    """Whatever the type, its names and its size, with appended lines and without."""
    cls: Any = state.__class__
    types: StateType[Any] = StateType(cls)
    codec = Codec(types, format)
    value = document = codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))
    more: list[Any] = ["appended"] if isinstance(state, Plain) else [Message("tool", "appended", NOW)]
    for number in range(batches):
        value += b'\n%b%d-BBBBBB,@%d"}' % (codec.encode_batch(more, NOW), number + 2, len(document))
    whole, origin = codec.decode(value, "a", "s")
    assert await in_pieces(cls, value) == (whole, parsed(origin))


async def test_the_loop_has_its_turn_between_pieces() -> None:
    """Others run while a large value is decoded."""
    types = StateType(AgentState)
    codec = Codec(types, "json")
    state = AgentState(agent_id="a", session_id="s", messages=talk(5000))
    value = codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    await Pieces(types, codec).decode(value, "a", "s")
    task.cancel()
    assert turns >= len(value) // (64 * 1024)


T = TypeVar("T")


class Base(msgspec.Struct, Generic[T]):
    agent_id: str
    session_id: str
    messages: list[T] = []


class Talk(Base[Message]):
    pass


async def test_messages_of_a_generic_type() -> None:
    """They are what the class says that fills in the variable, in pieces and in appended lines."""
    types = StateType(Talk)
    codec = Codec(types, "json")
    state = Talk("a", "s", talk(3000))
    value = document = codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))
    value += b'\n%b2-BBBBBB,@%d"}' % (codec.encode_batch(talk(1), NOW), len(document))
    assert (await in_pieces(Talk, value))[0] == Talk("a", "s", [*talk(3000), *talk(1)])


@pytest.mark.parametrize("damage", ["cut", "type", "line", "spaces"])
async def test_what_is_wrong_is_said_as_of_a_small_value(damage: Literal["cut", "type", "line", "spaces"]) -> None:
    """The same error, or, of a document that somebody formatted, the same state."""
    types = StateType(AgentState)
    codec = Codec(types, "json")
    state = AgentState(agent_id="a", session_id="s", messages=talk(2000))
    value = codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))
    match damage:
        case "cut":
            value = value[:-100]
        case "type":
            value = value.replace(b'"n":1999', b'"n":1999},"role":{"x":1')
        case "line":
            value += b'\n{"messages":[1],"_rev":"2-BBBBBB,@%d"}' % len(value)
        case "spaces":
            value = value.replace(b'},{"role"', b'} , {"role"')
            assert await in_pieces(AgentState, value) == (state, Revision(1, b"AAAAAA."))
            return
    with pytest.raises(StateDecodeError) as expected:
        codec.decode(value, "a", "s")
    with pytest.raises(StateDecodeError) as raised:
        await in_pieces(AgentState, value)
    assert str(raised.value) == str(expected.value)
    assert raised.value.__context__ is None


class Log(msgspec.Struct, omit_defaults=True):
    events: list[Message]
    agent_id: str
    session_id: str
    messages: list[Message] = []


class Texts(msgspec.Struct, dict=True):
    agent_id: str
    session_id: str
    messages: list[str] = []
    rows: list[list[int]] = []


class Rows(msgspec.Struct):
    agent_id: str
    session_id: str
    messages: list[list[int]] = []


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize(
    "state",
    [
        pytest.param(Log(talk(3000), "a", "s"), id="no messages, another list in their place"),
        pytest.param(Texts("a", "s", ['{"messages":["x","y"],"z":"'] * 20_000), id="texts that look like the field"),
        pytest.param(Texts("a", "s", ['","', "],[", "\\", '"'] * 20_000), id="texts that look like separators"),
        pytest.param(Rows("a", "s", [[n, n] for n in range(50_000)]), id="arrays"),
        pytest.param(AgentState(agent_id="{", session_id="s", messages=talk(3000)), id="a brace in an id"),
    ],
)
async def test_nothing_is_taken_for_messages_that_is_not(state: Any, format: Format) -> None:
    """Other fields, and texts inside of messages, stay what they are."""
    types: StateType[Any] = StateType(state.__class__)
    codec: Codec[Any] = Codec(types, format)
    value = codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))
    assert (await in_pieces(state.__class__, value))[0] == state


async def test_a_session_that_only_append_has_filled() -> None:
    """Its document is small, and the lines after it come a few at a time."""
    types = StateType(AgentState)
    codec = Codec(types, "json")
    value = document = codec.sealed(codec.encode(AgentState(agent_id="a", session_id="s")), Revision(1, b"AAAAAA."))
    for number in range(200):
        value += b'\n%b%d-BBBBBB,@%d"}' % (codec.encode_batch(talk(20), NOW), number + 2, len(document))
    turns = 0
    task = asyncio.ensure_future(Pieces(types, codec).decode(value, "a", "s"))
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert len((await task)[0].messages) == 4000
    assert turns >= len(value) // (128 * 1024)


async def test_a_field_inside_of_another_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context that has messages of its own costs the decoding of one more piece, not of everything."""
    types = StateType(AgentState)
    codec = Codec(types, "json")
    state = AgentState(agent_id="a", session_id="s", messages=talk(5000), context={"messages": ["x"]})
    value = codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))
    sizes: list[int] = []
    decode = Codec.decode

    def noting(self: Codec[Any], value: bytes, agent_id: str, session_id: str) -> Any:
        sizes.append(len(value))
        return decode(self, value, agent_id, session_id)

    monkeypatch.setattr(Codec, "decode", noting)
    assert (await in_pieces(AgentState, value))[0] == state
    assert max(sizes) < 4 * 64 * 1024 < len(value)


@pytest.mark.parametrize(
    "before", ['"context":{"messages":[%b]},', '"messages":[],', '"data":{"x":{}},', '"x\\"messages":[%b],']
)
@pytest.mark.parametrize(
    "after",
    ['"data":{"messages":[%b]},', '"messages":[],', '"messages": [],', '"m\\u0065ssages":[],', '"version":2,'],
)
async def test_fields_in_another_order(before: str, after: str) -> None:
    """What somebody else has written loads as a small value of that form does, with fields twice as well."""
    messages = b",".join([b'{"role":"user","content":"%b"}' % (b"x" * 100)] * 3000)
    parts = b'{"agent_id":"a",', before.encode(), b'"messages":[%b],', after.encode(), b'"session_id":"s"}'
    value = b"".join(parts).replace(b"%b", messages)
    whole, origin = Codec(StateType(AgentState), "json").decode(value, "a", "s")
    for each in whole.messages:
        each.timestamp = NOW
    state, revision = await in_pieces(AgentState, value)
    for each in state.messages:
        each.timestamp = NOW
    whole.created_at = whole.updated_at = state.created_at = state.updated_at = NOW
    assert (state, revision) == (whole, parsed(origin))


def test_types_that_look_at_themselves_are_decoded_whole() -> None:
    """A `__post_init__` and a limit see all messages, or would work with some of them."""

    class Counted(AgentState):
        def __post_init__(self) -> None:
            self.data["count"] = len(self.messages)

    class Few(msgspec.Struct):
        agent_id: str
        session_id: str
        messages: Annotated[list[str], msgspec.Meta(max_length=3)] = []

    assert not Pieces.suit(StateType(Counted))
    assert not Pieces.suit(StateType(Few))
    assert Pieces.suit(StateType(AgentState))
