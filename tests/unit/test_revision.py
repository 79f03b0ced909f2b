"""Which write a value stems from: as Python writes and reads it, and as the scripts do."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.faulty import state

from redis_state import Message, RedisStateStore, StateDecodeError
from redis_state.codec import Codec, Revision, StateType, finish_line
from redis_state.codec import revision as revisions
from redis_state.codec.revision import UNKNOWN, DamagedRevisionError, ending, make, parse, parsed
from redis_state.codec.write_ids import write_ids

if TYPE_CHECKING:
    from redis_state.codec import Format
    from redis_state.testing import RedisServer

LAST: Final = 2**53 - 1
ID = st.text("ABrevxyz019-_", min_size=6, max_size=6)
VERSION = st.integers(1, LAST)
# Per write that is known: its id, and whether it checked what it replaced.
HISTORY = st.lists(st.tuples(ID, st.booleans()), max_size=revisions.HISTORY)
LUA = files("redis_state.commands.scripts").joinpath("revision.lua").read_text() + """
local found = revision(KEYS[1])
local list = found and history(KEYS[1], found)
if not list then
  return false
end
local ids = ''
for i = 1, math.min(#list, HISTORY) do
  ids = ids .. list[i].id .. list[i].kept .. (list[i].blind and '.' or ',')
end
return {string.format('%d', found.version), ids}
"""  # fmt: skip


class Anything(msgspec.Struct):
    """A type that takes what other programs may write."""

    agent_id: str
    session_id: str
    messages: list[Any] = []
    version: int = 0
    x: Any = None


CODEC: Final = Codec(StateType(Anything), "json")


def made(version: int, history: list[tuple[str, bool]]) -> Revision:
    """The revision after such a history, the newest write first."""
    whole = Revision(version)
    for write_id, guarded in reversed(history):
        whole = make(version, write_id.encode(), whole.ids, guarded=guarded)
    return whole


def written(history: list[tuple[str, bool]]) -> str:
    return "".join(write_id + (",."[not guarded]) for write_id, guarded in history)


def in_python(value: bytes) -> Revision | None:
    """What is read of a value on this side, None where it is no state."""
    try:
        return parsed(CODEC.decode(value, "a", "s")[1])
    except StateDecodeError:
        return None


def in_lua(server: RedisServer, value: bytes) -> Revision | None:
    """What the scripts read of it."""
    key = f"t{uuid.uuid4().hex[:12]}"
    server.command("SET", key, value)
    try:
        found = server.command("EVAL", LUA, 1, key)
        return found and Revision(int(found[0]), found[1])
    finally:
        server.command("DEL", key)


class TestText:
    @given(VERSION, HISTORY.filter(len))
    def test_it_has_the_version_and_the_latest_writes(self, version: int, history: list[tuple[str, bool]]) -> None:
        """What was made can be taken apart again, and the last digits tell how long it is."""
        whole = made(version, history)
        text = f"{version}-{written(history)}"
        assert whole.text.decode() == f"{text}:{len(text) + 4:03}"
        assert parse(whole.text) == whole
        assert (whole.version, whole.newest) == (version, history[0][0].encode())

    @given(st.lists(st.tuples(ID, st.booleans()), min_size=revisions.HISTORY, max_size=40))
    def test_it_remembers_so_many_writes_and_no_more(self, history: list[tuple[str, bool]]) -> None:
        """It stays short however long a session lives, so what a script reads first holds all of it."""
        text = made(LAST, history).text.decode()
        assert text.startswith(f"{LAST}-{written(history[: revisions.HISTORY])}:")
        assert len(f',"_rev":"{text}"}}') < 192

    @pytest.mark.parametrize("version", [0, -1, 2**53, 2**63, 2**64, 10**99])
    def test_versions_run_from_1_to_the_largest_that_lua_counts_exactly(self, version: int) -> None:
        """Anything else is damage, not a revision."""
        text = f"{version}-AAAAAA,"
        with pytest.raises(DamagedRevisionError):
            parse(f"{text}:{len(text) + 4:03}".encode())

    def test_what_was_never_written_has_no_newest_write(self) -> None:
        """As data that somebody else wrote."""
        assert UNKNOWN.newest == b""

    @given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5), st.integers(0, 10**8))
    def test_a_line_says_how_long_it_is_and_how_far_from_the_head_it_ends(self, sizes: list[int], start: int) -> None:
        """The digits of these numbers included, whatever they are."""
        before = start
        for size in sizes:
            text = revisions.line_text(7, b"AAAAAA@1767323045678901,", size, before)
            end = revisions.line_ending(text)
            assert (end.length, end.distance) == (size + len(text), before + size + len(text))
            assert (end.revision, end.time) == (Revision(7, b"AAAAAA,"), 1767323045678901)
            before = end.distance


class TestIds:
    def test_they_are_unique_and_fit_into_a_revision(self) -> None:
        """36 bits each."""
        ids = list(islice(write_ids(), 5000))
        assert len(set(ids)) == 5000
        assert all(len(each) == 6 and each.replace(b"-", b"a").replace(b"_", b"a").isalnum() for each in ids)

    def test_a_seed_does_not_repeat_them(self) -> None:
        """Workers that all seed Python's random numbers alike do not take each other's writes for their own."""
        mine: list[list[bytes]] = []
        for _ in range(2):
            random.seed(42)
            mine.append(list(islice(write_ids(), 300)))
        assert not set(mine[0]) & set(mine[1])

    def test_they_come_from_the_operating_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So a test that hands in bytes replays them."""
        monkeypatch.setattr(os, "urandom", bytes)
        assert list(islice(write_ids(), 200)) == [b"AAAAAA"] * 200

    def test_a_forked_child_draws_its_own(self) -> None:
        """Parent and child share nothing of what was drawn before."""
        ids = write_ids()
        next(ids)
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(sink, b"".join(islice(ids, 50)))
            os._exit(0)
        os.waitpid(child, 0)
        theirs = os.read(source, 300)
        os.close(source)
        os.close(sink)
        assert len(theirs) == 300
        assert not {theirs[i : i + 6] for i in range(0, 300, 6)} & set(islice(ids, 90))


@st.composite
def values(draw: st.DrawFn) -> tuple[bytes, Revision]:
    """A stored value, and its revision by construction."""
    version, history = draw(st.integers(1, LAST - 100)), draw(HISTORY.filter(len))
    codec = CODEC if draw(st.booleans()) else Codec(StateType(Anything), "msgpack")
    body = codec.encode(Anything("a", "s", x=draw(st.text('é",_rev:{}[]\\', max_size=300))))
    head = codec.sealed(body, made(version, history))
    lines = b""
    for write_id in draw(st.lists(ID, max_size=20)):
        text = draw(st.text('\\n",_rev:{}', max_size=200))
        version += 1
        lines += finish_line(codec.encode_line([text]), version, b"%b@%d," % (write_id.encode(), version), len(lines))
        history.insert(0, (write_id, True))
    return head + lines, made(version, history[: revisions.HISTORY])


@given(written=values())
def test_both_sides_read_the_same(redis_server: RedisServer, written: tuple[bytes, Revision]) -> None:
    """Documents of either format, with any number of lines: Python and the scripts see one history of 16 writes."""
    value, expected = written
    assert in_python(value) == expected
    assert in_lua(redis_server, value) == expected


OTHERS: Final[list[tuple[bytes, int | None]]] = [
    (b'{"agent_id":"a","session_id":"s"}', 0),
    (b' {"session_id":"s","version" : 3 ,"agent_id":"a"}\n', 3),
    (b'{"agent_id":"a","session_id":"s","version":9007199254740991}', LAST),
    (b'{"agent_id":"a","session_id":"s","version":1,"version":2}', 2),
    (b'{"agent_id":"a","session_id":"s","x":{"version":"{5"},"version":4}', 4),
    (b'{"agent_id":"a","session_id":"s","x":"\\"version\\":\\"","version":4}', 4),
    (b'{"agent_id":"a","session_id":"s","x":["version",{"version":[7]}],"version":4}', 4),
    (b'{"agent_id":"a","session_id":"s","_rev":"3-825cb35de44c433bfb2df415563a19de"}', 0),
    (b'{"agent_id":"a","session_id":"s","_rev":"3-AAAAAA,BBBBBB.:020" }', 3),
    (b'{"agent_id":"a","session_id":"s","x":{"_rev":"9-AAAAAA,:013"}}', 0),
    (b'{"agent_id":"a","session_id":"s","x":",\\"_rev\\":\\"9-AAAAAA,:013"}', 0),
    (b'{"agent_id":"a","session_id":"s","x\\",\\"_rev":"9-AAAAAA,:013"}', 0),
    (b'{"agent_id":"a","session_id":"s","my_rev":"9-AAAAAA,:013"}', 0),
    (b'{"agent_id":"a","session_id":"s","version":"1"}', None),
    (b'{"agent_id":"a","session_id":"s","version":1.0}', None),
    (b'{"agent_id":"a","session_id":"s","version":1e3}', None),
    (b'{"agent_id":"a","session_id":"s","version":true}', None),
    (b'{"agent_id":"a","session_id":"s","version":null}', None),
    (b'{"agent_id":"a","session_id":"s","version":-5}', None),
    (b'{"agent_id":"a","session_id":"s","version":9007199254740992}', None),
    (b'{"agent_id":"a","session_id":"s","version":1180591620717411303424}', None),
    (b'{"agent_id":"a","session_id":"s","_rev":"0-AAAAAA,:013"}', None),
    (b'{"agent_id":"a","session_id":"s","_rev":"9223372036854775808-AAAAAA,:031"}', None),
    (b'{"agent_id":"a","session_id":"s","_rev":"9007199254740992-AAAAAA,:028"}', None),
    (b'{"agent_id":"a","session_id":"s","_rev":"1-AAAAAA,@100000:020"}', None),
    (b'{"agent_id":"a","session_id":"s","_rev":"1-AAAAAA,+100000/100000:027"}', None),
    (b"", None),
    (b"[1]", None),
    (b"3", None),
    *(
        (msgspec.msgpack.encode({"agent_id": "a", "session_id": "s", **fields}), version)
        for fields, version in (
            ({}, 0),
            ({"version": 3}, 3),
            ({"version": 200}, 200),
            ({"x": [1.5, {"version": b"x"}, None, True, -1, "é" * 99, list(range(99))], "version": LAST}, LAST),
            ({"_rev": "3-AAAAAA,BBBBBB.:020"}, 3),
            ({"version": 3.0}, None),
            ({"version": "3"}, None),
            ({"version": True}, None),
            ({"version": -1}, None),
            ({"version": 2**53}, None),
            ({"version": 2**64 - 1}, None),
        )
    ),
]


@pytest.mark.parametrize(("value", "version"), OTHERS)
def test_what_another_program_wrote_has_the_version_that_it_says(
    redis_server: RedisServer, value: bytes, version: int | None
) -> None:
    """An integer that a store can have given, on both sides, or it is no state to either."""
    for found in (in_python(value), in_lua(redis_server, value)):
        assert (found and found.version) == version


def test_the_scripts_parse_what_another_program_wrote_up_to_a_megabyte(redis_server: RedisServer) -> None:
    """A larger one is none to them, so no command holds the server for long."""
    value = b'{"agent_id":"a","session_id":"s","version":3,"x":"%b"}'
    small, large = value % (b"x" * 1_000_000), value % (b"x" * 1_100_000)
    assert in_lua(redis_server, small) == Revision(3)
    assert in_lua(redis_server, large) is None
    assert in_python(large) == Revision(3)


@given(st.binary(max_size=400))
def test_bytes_without_a_revision_have_none(value: bytes) -> None:
    """Any bytes can be read; what somebody else wrote is a document to its end."""
    try:
        assert ending(value, len(value)) is None
    except DamagedRevisionError:
        assert b"_rev" in value
    assert parsed(revisions.unread(value)) == UNKNOWN


@settings(max_examples=15)
@given(
    steps=st.lists(st.sampled_from(["save", "blind", "conditional", "update", "append"]), min_size=1, max_size=24),
    format=st.sampled_from(["json", "msgpack"]),
)
def test_every_write_leaves_a_history_that_both_sides_read_alike(
    redis_server: RedisServer, steps: list[str], format: Format
) -> None:
    """Versions count the writes, the ids stand newest first, and a plain save shows that it did not check."""
    asyncio.run(_write_and_compare(redis_server, steps, format))


async def _write_and_compare(server: RedisServer, steps: list[str], format: Format) -> None:
    prefix = f"t{uuid.uuid4().hex[:12]}:"
    key = f"{prefix}{{a}}:s"

    def change(loaded: Any) -> None:
        loaded.data["n"] = 1

    async with RedisStateStore.from_url(f"{server.url}?key_prefix={prefix}", format=format) as store:
        try:
            await store.save(state())
            before = in_lua(server, server.command("GET", key))
            assert before
            assert (before.version, len(before.ids)) == (1, 7)
            for step in steps:
                match step:
                    case "save":
                        await store.save(await store.load("a", "s"))
                    case "blind":
                        await store.save(state())
                    case "conditional":
                        loaded = await store.load("a", "s")
                        await store.save(loaded, if_version=loaded.version)
                    case "update":
                        await store.update("a", "s", change)
                    case _:
                        await store.append("a", "s", [Message(role="user", content="hello")])
                value: bytes = server.command("GET", key)
                now = in_lua(server, value)
                assert now
                assert in_python(value) == now
                assert now.ids[6] == ord(",."[step in ("save", "blind")])
                assert now.newest != before.newest
                if step == "blind":
                    assert (now.version, len(now.ids)) == (1, 7)
                else:
                    assert now.version == before.version + 1
                    older = now.ids[7:]
                    assert before.ids.startswith(older)
                    assert len(older) == 7 * min(revisions.HISTORY - 1, len(before.ids) // 7)
                before = now
        finally:
            await store.delete_agent("a")
