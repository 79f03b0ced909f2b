"""States to bytes and back: what is stored is what is loaded, or it is refused."""

from __future__ import annotations

import math
import string
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


class TestRoundTrip:
    @settings(max_examples=30)
    @given(context=st.dictionaries(st.text(), FAITHFUL, max_size=4))
    def test_what_json_can_say_comes_back_as_it_was(self, context: dict[str, Any]) -> None:
        """Types, signs and the order of keys included, in both formats."""
        state = a_state(context=context, data={"again": [context]})
        for format in FORMATS:
            back = loaded(stored(state, format))
            assert same(back.context, context)
            assert back == state

    @given(value=ANYTHING)
    @example(value=[{"a": {"b": math.nan}}])
    @example(value={"_rev": "9-AAAAAA"})
    def test_the_same_comes_back_or_it_is_refused(self, value: Any) -> None:
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
    def test_messages_come_back_whatever_their_time(self, message: Message) -> None:
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
    def test_every_field_comes_back(self, agent_id: str, session_id: str, version: int) -> None:
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


REFUSED: Final = [
    pytest.param({"score": math.nan}, "$.context.score", id="nan"),
    pytest.param({"score": [1.0, math.inf]}, "$.context.score[1]", id="inf"),
    pytest.param({"a": {"b": [{"c": b"x"}]}}, "$.context.a.b[0].c", id="bytes"),
    pytest.param({"tags": {"x"}}, "$.context.tags", id="set"),
    pytest.param({"pair": (1, 2)}, "$.context.pair", id="tuple"),
    pytest.param({"n": {1: "x"}}, "$.context.n", id="int key"),
    pytest.param({"n": {None: "x"}}, "$.context.n", id="None key"),
    pytest.param({"n": {(1, 2): "x"}}, "$.context.n", id="tuple key"),
    pytest.param({"text": ["ok", "lone \ud800"]}, "$.context.text[1]", id="lone surrogate"),
    pytest.param({"n": {"key \udfff": 1}}, "$.context.n", id="lone surrogate in a key"),
    pytest.param({"big": 10**5000}, "$.context.big", id="int of 5000 digits"),
    pytest.param({"when": datetime(2026, 1, 1, tzinfo=UTC)}, "$.context.when", id="datetime"),
    pytest.param({"what": Point()}, "$.context.what", id="struct"),
    pytest.param({"what": Pair()}, "$.context.what", id="dataclass"),
    pytest.param({"what": Color.RED}, "$.context.what", id="enum"),
    pytest.param({"what": object()}, "$.context.what", id="object"),
    pytest.param({"deep": nested(100_000, "list")}, "$.context.deep", id="100,000 lists deep"),
    pytest.param({"deep": nested(100_000, "dict")}, "$.context.deep", id="100,000 objects deep"),
    pytest.param({"me": cyclic()}, "$.context.me", id="cyclic"),
]


class TestRefusals:
    @pytest.mark.parametrize(("context", "path"), REFUSED)
    @pytest.mark.parametrize("format", FORMATS)
    def test_it_names_the_path(self, context: dict[str, Any], path: str, format: Format) -> None:
        """In the error's `path` and in its text; of what is endlessly deep at least where it begins."""
        state = a_state(context=context)
        with pytest.raises(StateEncodeError) as caught:
            stored(state, format)
        if "deep" in path or "me" in path:
            assert caught.value.path.startswith(path)
        else:
            assert caught.value.path == path
        assert caught.value.path in str(caught.value)
        assert len(str(caught.value)) < 1000
        str(caught.value).encode()

    @pytest.mark.parametrize(
        ("field", "value", "path"),
        [
            ("context", None, "$.context"),
            ("context", [1], "$.context"),
            ("messages", [None], "$.messages[0]"),
            ("messages", [Message("user", "ok"), {"role": "user"}], "$.messages[1]"),
            ("messages", (), "$.messages"),
            ("messages", [Message("user", 7)], "$.messages[0].content"),  # pyright: ignore[reportArgumentType]
            ("messages", [Message("user", "x", metadata={"n": math.nan})], "$.messages[0].metadata.n"),
            ("version", "1", "$.version"),
            ("version", True, "$.version"),
            ("created_at", "today", "$.created_at"),
            ("created_at", 0, "$.created_at"),
            ("updated_at", None, "$.updated_at"),
        ],
    )
    @pytest.mark.parametrize("format", FORMATS)
    def test_a_field_of_another_type_is_refused(self, field: str, value: Any, path: str, format: Format) -> None:
        """Python does not check fields; a save does."""
        state = a_state()
        setattr(state, field, value)
        with pytest.raises(StateEncodeError) as caught:
            stored(state, format)
        assert caught.value.path == path

    @pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400, -(10**4000)])
    def test_an_integer_beyond_64_bits(self, number: int) -> None:
        """JSON holds integers of any size; MessagePack does not, and says where one stands."""
        state = a_state(context={"sizes": [1, {"big": number}]})
        assert same(loaded(stored(state, "json")), state)
        with pytest.raises(StateEncodeError) as caught:
            stored(state, "msgpack")
        assert caught.value.path == "$.context.sizes[1].big"
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    def test_a_key_is_not_quoted_at_length(self) -> None:
        """A key may hold anything, and be long; an error is one line."""
        state = a_state(context={"k" * 1_000_000: {"\n\x1b[31m": math.nan}})
        with pytest.raises(StateEncodeError) as caught:
            stored(state, "json")
        assert len(str(caught.value)) < 2000
        assert str(caught.value).isprintable()

    def test_a_value_whose_comparison_fails_is_refused(self) -> None:
        """What goes wrong inside of a value is no reason for another error."""

        class Rude(str):
            __slots__ = ()

            def __eq__(self, other: object) -> bool:
                raise ZeroDivisionError

            __hash__ = str.__hash__

        state = a_state(context={"rude": Rude("x")})
        with pytest.raises(StateEncodeError):
            stored(state, "json")

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("kind", ["list", "dict"])
    def test_nesting_ends_at_200_levels_whatever_the_stack(self, kind: str, format: Format) -> None:
        """Of the document, which is the first, and its field the second: what is saved from one stack can be loaded
        from any other, and what is deeper is refused from any.
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

    @pytest.mark.parametrize("format", FORMATS)
    def test_what_is_stored_deeper_than_200_levels_is_no_state(self, format: Format) -> None:
        """Though msgspec could read it."""
        encode: Any = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}[format]
        context = {"deep": nested(250, "list")}
        value = encode({"agent_id": "a", "session_id": "s", "context": context, "_rev": "1-AAAAAA.:013"})
        for frames in (0, 800):
            with pytest.raises(StateDecodeError, match="200 levels"):
                deep_in_the_stack(frames, CODECS[format].decode, value, "a", "s")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    agent_id: str
    session_id: str
    context: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    messages: list[str] = msgspec.field(default_factory=list[str])
    version: int = 0


@dataclass
class Plain:
    agent_id: str
    session_id: str
    score: float | None = None


HOSTILE_CODECS: Final[dict[str, Codec[Any]]] = {
    "AgentState": CODECS["json"],
    "Strict": Codec(StateType(Strict), "json"),
    "Plain": Codec(StateType(Plain), "msgpack"),
}
VALID: Final = a_state(messages=[Message("user", "hi")], context={"k": [1, 2.5, None]})
JSON_VALUE: Final = stored(VALID, "json")
MSGPACK_VALUE: Final = stored(VALID, "msgpack")
# How one value follows another in MessagePack: a document up to a value, which can be anything.
MSGPACK_HEAD: Final = b"\x84\xa8agent_id\xa1a\xaasession_id\xa1s\xa7context\x81\xa1k"
MSGPACK_TAIL: Final = b"\xa4_rev\xda\0\r1-AAAAAA.:013"


def only_decode_errors(value: bytes) -> None:
    """Decode bytes in every way; nothing but a StateDecodeError may come of it, which quotes nothing of them."""
    for codec in HOSTILE_CODECS.values():
        error: StateDecodeError | None = None
        try:
            codec.decode(value, "a", "s")
        except StateDecodeError as refusal:
            error = refusal
        if error is not None:
            assert error.__cause__ is None
            assert error.__context__ is None


class TestHostileBytes:
    @settings(max_examples=300)
    @given(st.binary(max_size=64))
    def test_any_bytes(self, value: bytes) -> None:
        """As a value, as an end of one, and inside of a MessagePack document."""
        for hostile in (
            value,
            b"{" + value,
            JSON_VALUE + value,
            JSON_VALUE + b"\n" + value,
            MSGPACK_HEAD + value + MSGPACK_TAIL,
            value + MSGPACK_TAIL,
        ):
            only_decode_errors(hostile)

    @settings(max_examples=300)
    @given(st.sampled_from([JSON_VALUE, MSGPACK_VALUE]), st.data())
    def test_any_change_of_a_value(self, value: bytes, data: st.DataObject) -> None:
        """A few bytes replaced, inserted or cut out."""
        start = data.draw(st.integers(0, len(value)))
        end = data.draw(st.integers(start, min(len(value), start + 8)))
        only_decode_errors(value[:start] + data.draw(st.binary(max_size=8)) + value[end:])

    @given(st.text(string.digits + '-_,@"{} \n\\', max_size=40), st.sampled_from([JSON_VALUE, MSGPACK_VALUE]))
    def test_any_end_of_a_value(self, end: str, value: bytes) -> None:
        """What should be a revision can be anything."""
        start = value.rindex(b"_rev")
        for hostile in (
            value[:start] + b'_rev":"' + end.encode(),
            value[:start] + b'_rev":"' + end.encode() + b'"}',
            value + b'\n{"messages":[],"updated_at":"2026-01-01T00:00:00Z","_rev":"2-' + end.encode() + b'"}',
        ):
            only_decode_errors(hostile)

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"\x92\xa4_rev\xd9\x081-AAAAAA", id="an array with a revision"),
            pytest.param(b"\xa4_rev\xd9\x081-AAAAAA", id="a text with a revision"),
            pytest.param(MSGPACK_HEAD + b"\xc7\x01\x05\x01" + MSGPACK_TAIL, id="an extension type"),
            pytest.param(MSGPACK_HEAD + b"\xd6\xff\xff\xff\xff\xff" + MSGPACK_TAIL, id="a timestamp"),
            pytest.param(MSGPACK_HEAD + b"\xc7\x0c\xff" + b"\xff" * 12 + MSGPACK_TAIL, id="an impossible timestamp"),
            pytest.param(MSGPACK_HEAD + b"\x81\x80\x01" + MSGPACK_TAIL, id="a map as a key"),
            pytest.param(MSGPACK_HEAD + b"\x81\x91\x91\x80\x01" + MSGPACK_TAIL, id="a map in an array as a key"),
            pytest.param(MSGPACK_HEAD + b"\x81\xc0\x01" + MSGPACK_TAIL, id="nil as a key"),
            pytest.param(MSGPACK_HEAD + b"\x81\xc4\x01\xff\x01" + MSGPACK_TAIL, id="bytes as a key"),
            pytest.param(MSGPACK_HEAD + b"\xc4\x02\xff\xfe" + MSGPACK_TAIL, id="bytes"),
            pytest.param(MSGPACK_HEAD + b"\xcb\x7f\xf8\0\0\0\0\0\0" + MSGPACK_TAIL, id="not a number"),
            pytest.param(MSGPACK_HEAD + b"\xa2\xff\xfe" + MSGPACK_TAIL, id="a text that is no UTF-8"),
            pytest.param(MSGPACK_HEAD + b"\xdd\xff\xff\xff\xff", id="an array of four thousand million"),
            pytest.param(MSGPACK_HEAD + b"\xdf\xff\xff\xff\xff", id="a map of four thousand million"),
            pytest.param(MSGPACK_HEAD + b"\xdb\xff\xff\xff\xff", id="a text of four gigabytes"),
            pytest.param(MSGPACK_HEAD + b"\x91" * 100_000 + b"\xc0" + MSGPACK_TAIL, id="deep arrays"),
            pytest.param(b"[" * 100_000, id="deep JSON arrays"),
            pytest.param(b'{"context":{"k":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", id="a deep document"),
            pytest.param(b'{"agent_id":"\xff"}', id="JSON that is no UTF-8"),
            pytest.param(b'{"agent_id":"\\ud800"}', id="JSON with a lone surrogate"),
            pytest.param(b'{"agent_id":"a","session_id":"s","version":' + b"9" * 10_000 + b"}", id="a long number"),
            pytest.param(b'{"agent_id":"a","session_id":"s","version":1e400}', id="a large exponent"),
            pytest.param(JSON_VALUE[:-2] + b"@0" + JSON_VALUE[-2:], id="a document of no length"),
            pytest.param(JSON_VALUE[:-2] + b"@" + b"9" * 40 + JSON_VALUE[-2:], id="a document of any length"),
            pytest.param(JSON_VALUE[:-2] + b"@7" + JSON_VALUE[-2:], id="a document that ends early"),
        ],
    )
    def test_bytes_that_are_hostile_on_purpose(self, value: bytes) -> None:
        """What a decoder might raise other errors for."""
        only_decode_errors(value)

    def test_the_reason_quotes_nothing(self) -> None:
        """A ValueError tells where and why, never what."""
        secret = "S3CRET"
        for value in (
            b'{"agent_id":"a","session_id":"s","version":"%b"}' % secret.encode(),
            b'{"agent_id":"a","session_id":"s","context":{"%b":' % secret.encode(),
            b'{"agent_id":"a","session_id":"s","created_at":"%b"}' % secret.encode(),
            b'{"agent_id":"a","session_id":"s","messages":[{"role":"%b"}]}' % secret.encode(),
            secret.encode(),
        ):
            with pytest.raises(StateDecodeError) as caught:
                CODECS["json"].decode(value, "a", "s")
            assert secret not in str(caught.value)


def test_an_unknown_format_is_a_value_error() -> None:
    """It names those there are."""
    with pytest.raises(ValueError, match=r"json.*msgpack.*yaml"):
        Codec(StateType(AgentState), "yaml")  # pyright: ignore[reportArgumentType]
