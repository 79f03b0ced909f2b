"""States to bytes and back: what is stored is what is loaded, or it is refused."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redis_state import AgentState, Message, StateDecodeError, StateEncodeError
from redis_state.codec import Codec, Format, Revision, StateType, finish_line

FORMATS: Final[list[Format]] = ["json", "msgpack"]
CODECS: Final = {format: Codec(StateType(AgentState), format) for format in FORMATS}


def a_state(**fields: Any) -> AgentState:
    """A state that was saved once."""
    return AgentState(agent_id="a", session_id="s", version=1, **fields)


def stored(state: AgentState, format: Format) -> bytes:
    """The bytes of a first save."""
    codec = CODECS[format]
    return codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))


def attempt(state: AgentState, format: Format) -> tuple[bytes, StateEncodeError | None]:
    """The same, or the refusal."""
    try:
        return stored(state, format), None
    except StateEncodeError as error:
        return b"", error


def loaded(value: bytes) -> AgentState:
    """What either format's store loads from them."""
    states = [codec.decode(value, "a", "s")[0] for codec in CODECS.values()]
    assert states[0] == states[1]
    return states[0]


def same(a: Any, b: Any) -> bool:
    """Equality that tells 1 from 1.0 and from True, 0.0 from -0.0, and the order of keys."""
    return a == b and repr(a) == repr(b)


def holds_beyond_64_bits(value: Any) -> bool:
    """Whether there is an integer in it that MessagePack has no form for."""
    if isinstance(value, dict):
        return any(map(holds_beyond_64_bits, cast("dict[Any, Any]", value).values()))
    if isinstance(value, list):
        return any(map(holds_beyond_64_bits, cast("list[Any]", value)))
    return isinstance(value, int) and not -(2**63) <= value < 2**64


class Color(Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int = 0


@dataclass
class Pair:
    left: int = 0


FAITHFUL: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
ANY_TEXT: Final = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
ODD: Final[list[Any]] = [
    *(math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, 10**400, 1j, Decimal("1.5"), "\ud800", "a\udfff"),
    *(b"", b"bytes", bytearray(b"x"), memoryview(b"x"), {1}, set[int](), frozenset({"x"}), (), (1, 2), range(3)),
    *(uuid.UUID(int=1), Color.RED, Color, Point(), Pair(), object(), len, ValueError("x"), timedelta(1)),
    datetime(2026, 1, 1, tzinfo=UTC),
]
ODD_KEYS: Final = st.integers() | st.floats() | st.booleans() | st.none() | st.tuples(st.text())
UNFAITHFUL: Final = (
    st.sampled_from(ODD) | st.integers(min_value=2**64) | st.dictionaries(ODD_KEYS, st.none(), min_size=1, max_size=2)
)
ANYTHING: Final = st.recursive(
    FAITHFUL | UNFAITHFUL | ANY_TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(ANY_TEXT, children, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(context=st.dictionaries(st.text(), FAITHFUL, max_size=4))
def test_what_json_can_say_comes_back_as_it_was(context: dict[str, Any]) -> None:
    """Types, signs and the order of keys included, in both formats."""
    state = a_state(context=context, data={"again": [context]})
    for format in FORMATS:
        back = loaded(stored(state, format))
        assert same(back.context, context)
        assert back == state


@given(value=ANYTHING)
@example(value=[{"a": {"b": math.nan}}])
@example(value={"_rev": "9-AAAAAA"})
def test_the_same_comes_back_or_it_is_refused(value: Any) -> None:
    """For every value: an equal one of the same types is loaded, or the save is refused by its path.

    The formats agree but for integers beyond 64 bits, which JSON can write and MessagePack cannot.
    """
    state = a_state(context={"value": value})
    refusals: list[StateEncodeError | None] = []
    for format in FORMATS:
        document, refusal = attempt(state, format)
        refusals.append(refusal)
        if refusal is None:
            assert same(loaded(document).context["value"], value)
        else:
            assert refusal.path.startswith("$.context")
            assert refusal.__cause__ is None
            assert refusal.__context__ is None
    if refusals[0] is None and holds_beyond_64_bits(value):
        assert refusals[1] is not None
    else:
        assert str(refusals[0]) == str(refusals[1])


@given(
    st.builds(
        Message,
        st.text(),
        st.text(),
        st.datetimes(timezones=st.timezones() | st.none() | st.just(timezone(timedelta(minutes=5, seconds=7)))),
        st.none() | st.dictionaries(st.text(), FAITHFUL, max_size=2),
    )
)
@example(Message("user", "hi", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))))
@example(Message("user", "hi", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(-timedelta(hours=12)))))
@example(Message("user", "hi", datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))))
def test_messages_come_back_whatever_their_time(message: Message) -> None:
    """Any zone, any year: an equal time or a refusal, for a save and for an append."""
    state = a_state(messages=[message])
    for format in FORMATS:
        document, refusal = attempt(state, format)
        if refusal is not None:
            assert refusal.path.startswith("$.messages")
        else:
            line = finish_line(CODECS[format].encode_line([message]), 2, b"BBBBBB@1767323045678901,", 0)
            assert loaded(document + line).messages == [message, message]


@given(agent_id=st.text(), session_id=st.text(), version=st.integers(1, 2**53 - 1))
def test_every_field_comes_back(agent_id: str, session_id: str, version: int) -> None:
    """The ids too, whatever they hold."""
    state = AgentState(agent_id=agent_id, session_id=session_id, version=version)
    for codec in CODECS.values():
        value = codec.sealed(codec.encode(state), Revision(version, b"AAAAAA."))
        for reader in CODECS.values():
            assert reader.decode(value, agent_id, session_id)[0] == state


def nested(depth: int, kind: str) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value] if kind == "list" else {"k": value}
    return value


def cyclic() -> Any:
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


def deep_in_the_stack(frames: int, call: Callable[..., Any], *args: Any) -> Any:
    """Call something with so many frames around it."""
    return call(*args) if frames == 0 else deep_in_the_stack(frames - 1, call, *args)


class Rude(str):
    """A value whose comparison fails."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = str.__hash__


CONTEXTS: Final[list[tuple[dict[str, Any], str]]] = [
    *(({"x": value}, "$.context.x") for value in (math.nan, math.inf, {"x"}, (1, 2), 10**5000, Point(), Pair())),
    *(({"x": value}, "$.context.x") for value in (datetime(2026, 1, 1, tzinfo=UTC), Color.RED, object(), Rude("x"))),
    *(({"x": {key: "x"}}, "$.context.x") for key in (1, None, (1, 2), "key \udfff")),
    ({"x": [1.0, math.inf]}, "$.context.x[1]"),
    ({"x": ["ok", "lone \ud800"]}, "$.context.x[1]"),
    ({"a": {"b": [{"c": b"x"}]}}, "$.context.a.b[0].c"),
    # Of what is endlessly deep the path is at least where it begins.
    ({"deep": nested(100_000, "list")}, "$.context.deep..."),
    ({"deep": nested(100_000, "dict")}, "$.context.deep..."),
    ({"me": cyclic()}, "$.context.me..."),
]
FIELDS: Final[list[tuple[str, Any, str]]] = [
    ("context", None, "$.context"),
    ("context", [1], "$.context"),
    ("messages", [None], "$.messages[0]"),
    ("messages", [Message("user", "ok"), {"role": "user"}], "$.messages[1]"),
    ("messages", (), "$.messages"),
    ("messages", [Message("user", 7)], "$.messages[0].content"),  # pyright: ignore[reportArgumentType]
    ("messages", [Message("user", "x", metadata={"n": math.nan})], "$.messages[0].metadata.n"),
    *(("version", value, "$.version") for value in ("1", True)),
    *(("created_at", value, "$.created_at") for value in ("today", 0)),
    ("updated_at", None, "$.updated_at"),
]


@pytest.mark.parametrize(
    ("field", "value", "path"), [*(("context", context, path) for context, path in CONTEXTS), *FIELDS]
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_refusal_names_the_path(field: str, value: Any, path: str, format: Format) -> None:
    """In the error's `path` and in its text, which is short. Python does not check fields; a save does."""
    state = a_state()
    setattr(state, field, value)
    with pytest.raises(StateEncodeError) as caught:
        stored(state, format)
    assert caught.value.path.startswith(path[:-3]) if path.endswith("...") else caught.value.path == path
    assert caught.value.path in str(caught.value)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400, -(10**4000)])
def test_an_integer_beyond_64_bits_is_for_json_only(number: int) -> None:
    """MessagePack has no form for it, and says where one stands."""
    state = a_state(context={"sizes": [1, {"big": number}]})
    assert same(loaded(stored(state, "json")), state)
    with pytest.raises(StateEncodeError) as caught:
        stored(state, "msgpack")
    assert caught.value.path == "$.context.sizes[1].big"
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_key_is_not_quoted_at_length() -> None:
    """A key may hold anything, and be long; an error is one line."""
    with pytest.raises(StateEncodeError) as caught:
        stored(a_state(context={"k" * 1_000_000: {"\n\x1b[31m": math.nan}}), "json")
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["list", "dict"])
def test_nesting_ends_at_200_levels_whatever_the_stack(kind: str, format: Format) -> None:
    """Of the document, which is the first, and its field the second: what is saved from one stack can be loaded from
    any other, and what is deeper is refused from any, though msgspec could read it.
    """
    codec = CODECS[format]
    for depth, is_fit in ((197, True), (198, True), (199, False), (300, False)):
        state = a_state(context={"deep": nested(depth, kind)})
        for frames in (0, 400, 800):
            if is_fit:
                value = deep_in_the_stack(frames, stored, state, format)
                assert deep_in_the_stack(900 - frames, codec.decode, value, "a", "s")[0] == state
            else:
                with pytest.raises(StateEncodeError, match=r"\$\.context\.deep.*200 levels"):
                    deep_in_the_stack(frames, stored, state, format)
    encode: Any = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}[format]
    foreign = {"agent_id": "a", "session_id": "s", "context": {"deep": nested(250, kind)}, "_rev": "1-AAAAAA.:013"}
    for frames in (0, 800):
        with pytest.raises(StateDecodeError, match="200 levels"):
            deep_in_the_stack(frames, codec.decode, encode(foreign), "a", "s")


def test_an_unknown_format_is_a_value_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"json.*msgpack.*yaml"):
        Codec(StateType(AgentState), "yaml")  # pyright: ignore[reportArgumentType]
