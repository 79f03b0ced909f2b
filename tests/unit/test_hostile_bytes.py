"""Bytes that no store of ours wrote: a state or a StateDecodeError comes of them, which quotes nothing."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_state import AgentState, Message, StateDecodeError
from redis_state.codec import Codec, Format, Revision, StateType


def stored(format: Format) -> bytes:
    """The bytes of a first save."""
    state = AgentState(
        agent_id="a", session_id="s", version=1, messages=[Message("user", "hi")], context={"k": [1, 2.5]}
    )
    codec = Codec(StateType(AgentState), format)
    return codec.sealed(codec.encode(state), Revision(1, b"AAAAAA."))


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


HOSTILE_CODECS: Final[list[Codec[Any]]] = [
    Codec(StateType(AgentState), "json"),
    Codec(StateType(Strict), "json"),
    Codec(StateType(Plain), "msgpack"),
]
JSON_VALUE: Final = stored("json")
MSGPACK_VALUE: Final = stored("msgpack")
# A document in MessagePack up to a value, which can be anything, and what follows it.
HEAD: Final = b"\x84\xa8agent_id\xa1a\xaasession_id\xa1s\xa7context\x81\xa1k"
TAIL: Final = b"\xa4_rev\xda\0\r1-AAAAAA.:013"
JSON_HEAD: Final = b'{"agent_id":"a","session_id":"s",'


def only_decode_errors(value: bytes) -> None:
    """Decode bytes in every way; nothing but a StateDecodeError may come of it, which quotes nothing of them."""
    for codec in HOSTILE_CODECS:
        error: StateDecodeError | None = None
        try:
            codec.decode(value, "a", "s")
        except StateDecodeError as refusal:
            error = refusal
        assert error is None or error.__cause__ is error.__context__ is None


@settings(max_examples=300)
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(value: bytes) -> None:
    """As a value, as an end of one, and inside of a MessagePack document."""
    for whole in (b"{%b", JSON_VALUE + b"%b", JSON_VALUE + b"\n%b", HEAD + b"%b" + TAIL, b"%b" + TAIL, b"%b"):
        hostile = whole.replace(b"%b", value)
        only_decode_errors(hostile)


@settings(max_examples=300)
@given(st.sampled_from([JSON_VALUE, MSGPACK_VALUE]), st.data())
def test_any_change_of_a_value_is_read_or_refused(value: bytes, data: st.DataObject) -> None:
    """A few bytes replaced, inserted or cut out, and any text where a revision should be."""
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, min(len(value), start + 8)))
    only_decode_errors(value[:start] + data.draw(st.binary(max_size=8)) + value[end:])
    text = data.draw(st.text(string.digits + '-_,@"{} \n\\', max_size=40)).encode()
    head = value[: value.rindex(b"_rev")]
    for hostile in (
        head + b'_rev":"' + text,
        head + b'_rev":"' + text + b'"}',
        value + b'\n{"messages":[],"updated_at":"2026-01-01T00:00:00Z","_rev":"2-' + text + b'"}',
    ):
        only_decode_errors(hostile)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"\x92\xa4_rev\xd9\x081-AAAAAA", b"\xa4_rev\xd9\x081-AAAAAA"),
        *(HEAD + extension + TAIL for extension in (b"\xc7\x01\x05\x01", b"\xd6\xff\xff\xff\xff\xff")),
        HEAD + b"\xc7\x0c\xff" + b"\xff" * 12 + TAIL,  # an impossible timestamp
        *(HEAD + b"\x81" + key + b"\x01" + TAIL for key in (b"\x80", b"\x91\x91\x80", b"\xc0", b"\xc4\x01\xff")),
        *(HEAD + odd + TAIL for odd in (b"\xc4\x02\xff\xfe", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xa2\xff\xfe")),
        *(HEAD + huge + b"\xff\xff\xff\xff" for huge in (b"\xdd", b"\xdf", b"\xdb")),
        HEAD + b"\x91" * 100_000 + b"\xc0" + TAIL,
        b"[" * 100_000,
        b'{"context":{"k":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        *(b'{"agent_id":"\xff"}', b'{"agent_id":"\\ud800"}'),
        *(JSON_HEAD + b'"version":' + number + b"}" for number in (b"9" * 10_000, b"1e400")),
        *(JSON_VALUE[:-2] + length + JSON_VALUE[-2:] for length in (b"@0", b"@" + b"9" * 40, b"@7")),
    ],
    ids=lambda value: repr(value[:60]),
)
def test_bytes_that_are_hostile_on_purpose_are_refused(value: bytes) -> None:
    """What a decoder might raise other errors for: extensions, odd keys, absurd lengths, depth, numbers, no UTF-8."""
    only_decode_errors(value)


@pytest.mark.parametrize(
    "value",
    [
        b"S3CRET",
        JSON_HEAD + b'"version":"S3CRET"}',
        JSON_HEAD + b'"context":{"S3CRET":',
        JSON_HEAD + b'"created_at":"S3CRET"}',
        JSON_HEAD + b'"messages":[{"role":"S3CRET"}]}',
    ],
)
def test_the_reason_says_where_and_why_and_never_what(value: bytes) -> None:
    with pytest.raises(StateDecodeError) as caught:
        HOSTILE_CODECS[0].decode(value, "a", "s")
    assert "S3CRET" not in str(caught.value)
