"""The stored format, byte by byte. What stands here can be read by every version of this library.

A change of these bytes is a change of the format: the old ones must stay readable, so add to the golden values and
replace none.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from support.states import Store
from support.stores import Stores, on_one_server, on_servers

from redis_state import AgentState, Message, RedisStateStore
from redis_state.codec import Codec, Format, StateType, finish_line
from redis_state.codec.revision import parse, parsed
from redis_state.codec.schema import Schema

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

THEN: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER: Final = THEN + timedelta(seconds=1)
SECONDS: Final = 1767323045
STATE: Final = AgentState(
    agent_id="agent-1",
    session_id="session-123",
    messages=[
        Message("user", "hi", THEN),
        Message("assistant", 'line\nfeed "quoted" ☃', THEN, {"tokens": 3, "cost": 0.5}),
    ],
    context={"user_id": "user-456", "tags": [None, True, -1, 1.5]},
    data={},
    version=1,
    created_at=THEN,
    updated_at=THEN,
)
MORE: Final = Message("tool", "42", LATER)

JSON_BODY: Final = (
    '{"agent_id":"agent-1","session_id":"session-123","messages":['
    '{"role":"user","content":"hi","timestamp":"2026-01-02T03:04:05.678901Z","metadata":null},'
    '{"role":"assistant","content":"line\\nfeed \\"quoted\\" ☃","timestamp":"2026-01-02T03:04:05.678901Z",'
    '"metadata":{"tokens":3,"cost":0.5}}],'
    '"context":{"user_id":"user-456","tags":[null,true,-1,1.5]},"data":{},'
    '"version":1,"created_at":"2026-01-02T03:04:05.678901Z","updated_at":"2026-01-02T03:04:05.678901Z",'
    '"_rev":"'
).encode()
MSGPACK_BODY: Final = bytes.fromhex(
    "89"
    "a86167656e745f6964 a76167656e742d31"  # agent_id: agent-1
    "aa73657373696f6e5f6964 ab73657373696f6e2d313233"  # session_id: session-123
    "a86d65737361676573 92"  # messages: two of them
    "84 a4726f6c65 a475736572"  # role: user
    "a7636f6e74656e74 a26869"  # content: hi
    "a974696d657374616d70 d7ffa1dcd420695735a5"  # timestamp, nanoseconds and seconds
    "a86d65746164617461 c0"  # metadata: nil
    "84 a4726f6c65 a9617373697374616e74"
    "a7636f6e74656e74 b66c696e650a66656564202271756f7465642220e29883"
    "a974696d657374616d70 d7ffa1dcd420695735a5"
    "a86d65746164617461 82 a6746f6b656e73 03 a4636f7374 cb3fe0000000000000"
    "a7636f6e74657874 82"  # context
    "a7757365725f6964 a8757365722d343536"
    "a474616773 94c0c3ffcb3ff8000000000000"
    "a464617461 80"  # data
    "a776657273696f6e 01"  # version
    "aa637265617465645f6174 d7ffa1dcd420695735a5"
    "aa757064617465645f6174 d7ffa1dcd420695735a5"
    "a45f726576 da"  # _rev: the length of its text follows in two bytes
)
LINE: Final = (
    b'\n{"messages":[{"role":"tool","content":"42","timestamp":"2026-01-02T03:04:06.678901Z","metadata":null}],"_rev":"'
)
LINES: Final = (
    LINE + b'2-p0LmXw@1767323046678901,+152/152:038"}',
    LINE + b'3-91bQ_e@1767323046678901,+152/304:038"}',
)
BODIES: Final[dict[Format, bytes]] = {"json": JSON_BODY, "msgpack": MSGPACK_BODY}


def document(format: Format, text: bytes) -> bytes:
    """The golden document with the text of a revision at its end."""
    return b'%b%b"}' % (JSON_BODY, text) if format == "json" else b"%b\0%c%b" % (MSGPACK_BODY, len(text), text)


def plain(state: AgentState | Message) -> Any:
    """All that it holds."""
    return msgspec.to_builtins(state)


FORMATS: Final[list[Format]] = ["json", "msgpack"]
in_each_format = pytest.mark.parametrize("format", FORMATS)


@in_each_format
def test_a_document_is_its_fields_as_declared_and_then_the_revision(format: Format) -> None:
    """Version, the writes' ids and signs, and how long it is."""
    codec = Codec(StateType(AgentState), format)
    body = codec.encode(STATE)
    assert codec.unfinished(body) == BODIES[format]
    for text in (b"1-Zk3x0A.:013", b"17-" + b"abc-_9," * 16 + b":119"):
        assert codec.sealed(body, parse(text)) == document(format, text)


@in_each_format
def test_an_append_adds_a_line_of_json_whatever_the_document_is(format: Format) -> None:
    """Messages, and a revision that says how long the line is and how far its end is from the document's."""
    line = Codec(StateType(AgentState), format).encode_line([MORE])
    assert line == LINE
    assert finish_line(line, 2, b"p0LmXw@1767323046678901,", 0) == LINES[0]
    assert finish_line(line, 3, b"91bQ_e@1767323046678901,", len(LINES[0])) == LINES[1]


@pytest.mark.parametrize("reader", FORMATS)
@in_each_format
@pytest.mark.parametrize(
    ("head", "lines", "revision"),
    [
        (b"1-Zk3x0A.:013", (), b"1-Zk3x0A.:013"),
        (b"3-p0LmXw,91bQ_e,Zk3x0A.:027", (), b"3-p0LmXw,91bQ_e,Zk3x0A.:027"),
        (b"1-Zk3x0A,:013", LINES[:1], b"2-p0LmXw,Zk3x0A,:020"),
        (b"1-Zk3x0A.:013", LINES, b"3-91bQ_e,p0LmXw,Zk3x0A.:027"),
    ],
)
def test_golden_values_are_read_by_a_store_of_either_format(
    format: Format, reader: Format, head: bytes, lines: tuple[bytes, ...], revision: bytes
) -> None:
    value = document(format, head) + b"".join(lines)
    state, origin = Codec(StateType(AgentState), reader).decode(value, "agent-1", "session-123")
    assert parsed(origin).text == revision
    expected = plain(STATE)
    expected["version"] = int(revision[:1])
    expected["messages"] += [plain(MORE)] * len(lines)
    if lines:
        expected["updated_at"] = LATER.isoformat().replace("+00:00", "Z")
    assert plain(state) == expected


@in_each_format
def test_what_later_versions_write_in_the_same_format_is_read(format: Format) -> None:
    """A head whose newest write says its time, as a fold leaves it; ids of callers' keys, with the versions and
    times that they made; schema numbers; a block of several writes.
    """
    codec = Codec(StateType(AgentState), format, schema=Schema(3))
    key = b"AbCdEfGhIjKlMnOp=4@1767323045000000,"
    head = b"5-Zk3x0A@1767323046678901,%b#3:068" % key
    state, origin = codec.decode(document(format, head), "agent-1", "session-123")
    assert parsed(origin).ids == b"Zk3x0A,%b" % key
    assert (state.version, state.updated_at) == (5, LATER)
    block = LINE + b'7-p0LmXw@1767323046678901,91bQ_e,%b#3*197/197:083"}' % key
    state, origin = codec.decode(document(format, head) + block, "agent-1", "session-123")
    assert parsed(origin).ids == b"p0LmXw,91bQ_e,%b" % key  # what was before is among them
    assert (state.version, state.updated_at, state.messages[2:]) == (7, LATER, [MORE])


def frozen(monkeypatch: pytest.MonkeyPatch, moment: datetime = THEN) -> None:
    """Let the clock stand at a moment."""
    nanoseconds = SECONDS * 10**9 + moment.microsecond * 1000 + (moment - THEN) // timedelta(seconds=1) * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)


def fresh() -> AgentState:
    """The golden state, never saved."""
    return msgspec.structs.replace(STATE, messages=list(STATE.messages), version=0)


@on_one_server
@in_each_format
async def test_a_plain_save_is_the_golden_document_and_a_full_stop(
    stores: Stores, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden document, its revision ending in a full stop."""
    frozen(monkeypatch)
    store = await stores.open(format=format)
    await store.save(fresh())
    value = stores.command("GET", stores.state_key("agent-1", "session-123"))
    text = re.search(rb"1-[\w-]{6}\.:013", value)
    assert text
    assert value == document(format, text[0])


@on_one_server
@in_each_format
async def test_a_conditional_save_keeps_the_ids_before_and_ends_its_own_in_a_comma(
    stores: Stores, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of the writes before follow, newest first; a comma tells one that looked what it replaced."""
    frozen(monkeypatch)
    store = await stores.open(format=format)
    state = fresh()
    key = stores.state_key("agent-1", "session-123")
    revisions: list[bytes] = []
    for condition in (0, None, 2):
        await store.save(state, if_version=condition)
        value = stores.command("GET", key).removesuffix(b'"}')
        revisions.append(value[-int(value[-3:]) :])
    first, second, third = (revision.partition(b"-")[2][:6] for revision in revisions)
    assert revisions == [
        b"1-%b,:013" % first,
        b"2-%b.%b,:020" % (second, first),
        b"3-%b,%b.%b,:027" % (third, second, first),
    ]


@on_one_server
@in_each_format
async def test_appends_are_lines_behind_a_document_that_stays(
    stores: Stores, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line each after the document, which stays as it was."""
    frozen(monkeypatch)
    store = await stores.open(format=format)
    await store.save(fresh())
    key = stores.state_key("agent-1", "session-123")
    before = stores.command("GET", key)
    frozen(monkeypatch, LATER)
    await store.append("agent-1", "session-123", [MORE])
    monkeypatch.undo()
    value: bytes = stores.command("GET", key)
    write_id = value[len(before) + len(LINE) :][2:8]
    assert value == before + LINES[0].replace(b"p0LmXw", write_id)
    loaded = await store.load("agent-1", "session-123")
    assert (loaded.messages, loaded.updated_at) == ([*STATE.messages, MORE], LATER)


@on_one_server
@in_each_format
async def test_the_index_has_ids_by_microseconds_since_1970(
    stores: Stores, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Session ids in UTF-8, by microseconds since 1970."""
    frozen(monkeypatch)
    store = await stores.open(format=format)
    state = fresh()
    state.session_id = "s:é 💡"
    await store.save(state)
    index = stores.command("ZRANGE", stores.index_key("agent-1", "s"), 0, -1, "WITHSCORES")
    assert index == ["s:é 💡".encode(), b"1767323045678901"]


@on_one_server
async def test_golden_values_are_taken_up_by_stores_of_both_formats(stores: Stores) -> None:
    """Put there by hand, they are loaded, saved conditionally and appended to by stores of both formats."""
    one, two = [await stores.open(format=format) for format in FORMATS]
    key = stores.state_key("agent-1", "session-123")
    for format in FORMATS:
        stores.command("SET", key, document(format, b"1-Zk3x0A.:013") + LINES[0])
        for store in (one, two):
            state = await store.load("agent-1", "session-123")
            assert state.messages == [*STATE.messages, *[MORE] * (state.version - 1)]
            assert await store.append("agent-1", "session-123", [MORE]) == state.version + 1
        await one.save(await two.load("agent-1", "session-123"), if_version=4)
        assert [m.content for m in (await two.load("agent-1", "session-123")).messages[2:]] == ["42"] * 3


@on_servers
async def test_a_plain_save_is_json(stores: Stores) -> None:
    """One document, with the fields of the state and the revision."""
    store = await stores.open(format="json")
    state = fresh()
    await store.save(state)
    document = json.loads(stores.command("GET", stores.state_key("agent-1", "session-123")))
    revision = document.pop("_rev")
    assert re.fullmatch(r"1-[A-Za-z0-9_-]{6}\.:013", revision)
    assert document == plain(state)


@on_servers
async def test_appended_lines_are_json_each(stores: Stores) -> None:
    """`jq` reads such a value as a stream."""
    store = await stores.open(format="json")
    await store.save(fresh())
    await store.append("agent-1", "session-123", [Message("user", "a\nb")])
    await store.append("agent-1", "session-123", [])
    value = stores.command("GET", stores.state_key("agent-1", "session-123"))
    base, first, second = map(json.loads, value.split(b"\n"))
    assert len(base["messages"]) == 2
    assert [message["content"] for message in first["messages"]] == ["a\nb"]
    assert second["messages"] == []
    assert set(first) == set(second) == {"messages", "_rev"}


@on_one_server
async def test_a_session_is_a_string_and_a_sorted_set_with_the_agent_as_hash_tag(store: Store, stores: Stores) -> None:
    """A string and a sorted set, with the agent as their hash tag, and nothing else."""
    await store.save(AgentState(agent_id="agent-1", session_id="session-123"))
    state, index = f"{stores.prefix}{{agent-1}}:session-123", f"{stores.prefix}sessions:{{agent-1}}"
    assert stores.keys() == sorted([state.encode(), index.encode()])
    assert stores.command("TYPE", state) == "string"
    assert stores.command("TYPE", index) == "zset"
    assert stores.command("EXISTS", f"{stores.prefix}partitions") == 0


@on_one_server
async def test_ids_that_mean_something_are_percent_escaped(store: Store, stores: Stores) -> None:
    """Percent-escaped as in URLs, so that they mean nothing."""
    await store.save(AgentState(agent_id="a:{b}", session_id="50% *?\n"))
    assert stores.keys() == sorted(
        [
            f"{stores.prefix}{{a%3A%7Bb%7D}}:50%25%20%2A%3F%0A".encode(),
            f"{stores.prefix}sessions:{{a%3A%7Bb%7D}}".encode(),
        ]
    )


async def test_the_partition_stands_in_the_hash_tag_and_their_number_beside_the_data(redis_server: RedisServer) -> None:
    """The partition stands in the hash tag, their number beside the data: crc32(session) modulo that number."""
    prefix = f"test-{uuid.uuid4().hex}:"
    url = f"{redis_server.url}?key_prefix={prefix}"
    async with RedisStateStore.from_url(url, partitions=4) as store:
        for session_id in ("session-123", "é", "b"):
            await store.save(AgentState(agent_id="agent-1", session_id=session_id))
        try:
            assert set(redis_server.command("KEYS", f"{prefix}*")) == {
                key.encode()
                for key in (
                    f"{prefix}partitions",
                    f"{prefix}{{agent-1:3}}:session-123",
                    f"{prefix}sessions:{{agent-1:3}}",
                    f"{prefix}{{agent-1:2}}:é",
                    f"{prefix}sessions:{{agent-1:2}}",
                    f"{prefix}{{agent-1:1}}:b",
                    f"{prefix}sessions:{{agent-1:1}}",
                )
            }
            assert redis_server.command("GET", f"{prefix}partitions") == b"4"
        finally:
            await store.delete_agent("agent-1")
            redis_server.command("DEL", f"{prefix}partitions")


async def test_the_default_prefix_is_forge_state(redis_server: RedisServer) -> None:
    """`forge:state:`."""
    agent = f"agent-{uuid.uuid4().hex}"
    async with RedisStateStore.from_url(redis_server.url) as store:
        await store.save(AgentState(agent_id=agent, session_id="session-123"))
        keys = [f"forge:state:{{{agent}}}:session-123", f"forge:state:sessions:{{{agent}}}"]
        assert redis_server.command("EXISTS", *keys) == 2
        await store.delete_agent(agent)
        assert redis_server.command("EXISTS", *keys) == 0
