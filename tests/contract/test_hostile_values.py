"""Whatever stands under a key: a state or one of our errors comes of it, and a refused write changes nothing."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_state import RedisStateStore, StateStoreError
from redis_state.codec import Codec, Revision, StateType, finish_line

if TYPE_CHECKING:
    from redis_state.testing import RedisServer


class Anything(msgspec.Struct, dict=True):
    """A type that takes what other programs may write."""

    agent_id: str
    session_id: str
    messages: list[Any] = []
    version: int = 0
    x: Any = None


IDS: Final = st.text("ABrev_-19", min_size=6, max_size=6)
TEXTS: Final = st.text(st.sampled_from('é",_rev:{}[]\\+*/@#=.-0123456789'), max_size=40)
VERSIONS: Final = st.sampled_from(
    [0, 1, 7, -1, -5, 2**53 - 2, 2**53 - 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1, 1.0, 1e300, True, None, "1", "x", []]
)


@st.composite
def ours(draw: st.DrawFn) -> bytes:
    """A value as stores write it, of either format, with lines."""
    version = draw(st.sampled_from([1, 5, 2**53 - 4]))
    codec = Codec(StateType(Anything), draw(st.sampled_from(["json", "msgpack"])))
    body = codec.encode(Anything("a", "s", x=draw(TEXTS)))
    ids = "".join(each + draw(st.sampled_from(",.")) for each in draw(st.lists(IDS, min_size=1, max_size=16)))
    value = codec.sealed(body, Revision(version, ids.encode()))
    before = 0
    for number, write_id in enumerate(draw(st.lists(IDS, max_size=3)), 1):
        line = finish_line(codec.encode_line([draw(TEXTS)]), version + number, f"{write_id}@17,".encode(), before)
        before += len(line)
        value += line
    return value


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One of them with a few bytes replaced, inserted or cut out, most often at its end."""
    value = draw(ours())
    at = draw(st.integers(0, len(value)) | st.integers(max(0, len(value) - 60), len(value)))
    end = min(len(value), at + draw(st.integers(0, 4)))
    return (
        value[:at]
        + draw(st.binary(max_size=4) | st.text('0123456789-,.:+/@#="}', max_size=4).map(str.encode))
        + value[end:]
    )


@st.composite
def foreign(draw: st.DrawFn) -> bytes:
    """A document that another program wrote, with fields of ours."""
    fields: dict[str, Any] = {"agent_id": "a", "session_id": "s"}
    for name, strategy in (
        ("version", VERSIONS),
        (
            "x",
            TEXTS | st.lists(VERSIONS) | st.dictionaries(st.sampled_from(["version", "_rev", "{"]), VERSIONS | TEXTS),
        ),
        ("_rev", TEXTS | VERSIONS | st.just("3-AAAAAA,BBBBBB.:020")),
    ):
        if draw(st.booleans()):
            fields[name] = draw(strategy)
    if draw(st.booleans()):
        return msgspec.msgpack.encode(fields)
    value = msgspec.json.encode(fields)
    if draw(st.booleans()):
        value = msgspec.json.format(value)
    return draw(st.sampled_from([b"", b" ", b"\n"])) + value + draw(st.sampled_from([b"", b"\n", b"\r\n "]))


@st.composite
def any_revision(draw: st.DrawFn) -> bytes:
    """A document with anything in its revision's place."""
    text = draw(
        TEXTS | st.from_regex(r"\A\d{1,20}-(\w{6}|\w{16}=\d{1,20})(@\d{1,20})?[,.](#\d{1,3})?([+*]\d{1,3}/\d{1,3})?\Z")
    )
    text = f"{text}:{len(text.encode()) + 4:03}"
    if draw(st.booleans()):
        return b'{"agent_id":"a","session_id":"s","_rev":%b}' % msgspec.json.encode(text)
    raw = text.encode()
    return b"\x83\xa8agent_id\xa1a\xaasession_id\xa1s\xa4_rev\xda\0%c%b" % (len(raw), raw)


HOSTILE: Final = st.one_of(ours(), damaged(), foreign(), any_revision(), st.binary(max_size=80))


async def attempt(call: Any) -> Any:
    """Its result, or the refusal; anything else is raised."""
    try:
        return await call
    except StateStoreError as error:
        return error


@settings(max_examples=400)
@given(
    value=HOSTILE, writes=st.lists(st.sampled_from(["append", "if_version", "save", "update"]), min_size=1, max_size=3)
)
def test_a_value_is_read_or_refused_and_a_refused_write_changes_nothing(
    redis_server: RedisServer, value: bytes, writes: list[str]
) -> None:
    """For any bytes: what could be loaded before a write can be loaded after it, one version on."""
    asyncio.run(_write_over(redis_server, value, writes))


async def _write_over(server: RedisServer, value: bytes, writes: list[str]) -> None:
    prefix = f"t{uuid.uuid4().hex[:12]}:"
    key, index = f"{prefix}{{a}}:s", f"{prefix}sessions:{{a}}"
    async with RedisStateStore.from_url(f"{server.url}?key_prefix={prefix}", state_type=Anything) as store:
        try:
            server.command("SET", key, value)
            for write in writes:
                stored = server.command("GET", key)
                before = await attempt(store.load("a", "s"))
                fit = isinstance(before, Anything)
                match write:
                    case "append":
                        call = store.append("a", "s", ["more"])
                    case "update":
                        call = store.update("a", "s", lambda _: None)
                    case "if_version":
                        call = store.save(
                            before if fit else Anything("a", "s"), if_version=before.version if fit else 0
                        )
                    case _:
                        call = store.save(before if fit else Anything("a", "s"))
                try:
                    result = await attempt(call)
                except ValueError:  # the last version, which no save can count up
                    assert fit
                    assert before.version == 2**53 - 1
                    result = ValueError()
                after = await attempt(store.load("a", "s"))
                if isinstance(result, Exception):
                    assert server.command("GET", key) == stored
                    assert isinstance(after, Anything) == fit
                elif fit:
                    assert isinstance(after, Anything), after
                    assert 1 <= after.version <= 2**53 - 1
                    assert after.x == before.x
                    if write == "append":
                        assert after.version == result == before.version + 1
                        assert after.messages == [*before.messages, "more"]
        finally:
            server.command("DEL", key, index)
