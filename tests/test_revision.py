"""Which write a value stems from: as Python writes and reads it, and as the scripts do."""

from __future__ import annotations

import asyncio
import uuid
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from faulty import state
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_state import Message, RedisStateStore, revision
from redis_state.revision import Revision

if TYPE_CHECKING:
    from redis_state.codec import Format
    from redis_state.testing import RedisServer

ID = st.text("ABCxyz019-_", min_size=6, max_size=6)
VERSION = st.integers(0, 2**53)
# Per write that is known: its id, and whether it looked.
HISTORY = st.lists(st.tuples(ID, st.booleans()), max_size=revision.HISTORY)
LUA = files("redis_state.scripts").joinpath("revision.lua").read_text() + """
local version, list, base = revision(KEYS[1])
if not version then
  return false
end
if base then
  list = history(KEYS[1], base)
end
local ids = ''
for i = 1, math.min(#list, HISTORY) do
  ids = ids .. list[i].id .. (list[i].blind and '.' or ',')
end
return {string.format('%d', version), ids, base or -1}
"""  # fmt: skip


def made(version: int, history: list[tuple[str, bool]]) -> Revision:
    """The revision after such a history, the newest write first."""
    made = Revision(version)
    for write_id, looked in reversed(history):
        made = revision.make(version, write_id.encode(), made.ids, looked=looked)
    return made


def written(history: list[tuple[str, bool]]) -> str:
    return "".join(write_id + (",."[not looked]) for write_id, looked in history)


@given(VERSION, HISTORY.filter(len))
def test_a_revision_has_the_version_and_the_latest_writes(version: int, history: list[tuple[str, bool]]) -> None:
    """What was made can be taken apart again."""
    whole = made(version, history)
    assert whole.text.decode() == f"{version}-{written(history)}"
    assert revision.parse(whole.text) == whole
    assert (whole.version, whole.newest) == (version, history[0][0].encode())


@given(st.lists(st.tuples(ID, st.booleans()), min_size=revision.HISTORY, max_size=40))
def test_a_revision_remembers_so_many_writes_and_no_more(history: list[tuple[str, bool]]) -> None:
    """It stays short however long a session lives, so the end of a value always holds all of it."""
    text = made(2**53, history).text.decode()
    assert text == f"{2**53}-{written(history[: revision.HISTORY])}"
    assert len(f'"_rev":"{text}@{10**9}"}}') < 192


def test_ids_of_writes_are_unique_and_fit_into_a_revision() -> None:
    """Within a store no id comes twice for a long time; two stores begin elsewhere."""
    mine = list(islice(revision.write_ids(), 20_000))
    others = set(islice(revision.write_ids(), 20_000))
    assert len(set(mine[:4096])) == 4096
    assert all(len(each) == 6 and each.replace(b"-", b"a").replace(b"_", b"a").isalnum() for each in mine)
    assert len(others & set(mine)) <= 4096 * 2


def test_what_was_never_written_has_no_newest_write() -> None:
    """An empty revision, and one of data that somebody else wrote."""
    assert revision.UNKNOWN.newest == b""
    assert revision.parse(b"4-").newest == b""


@st.composite
def values(draw: st.DrawFn) -> tuple[bytes, str, int]:
    """A stored value, and its revision and length of document by construction."""
    version, history = draw(VERSION.filter(lambda n: n < 2**53 - 100)), draw(HISTORY)
    text = f"{version}-{written(history)}"
    tail = b"\xa4_rev\xd9%c%b" % (len(text), text.encode())
    if draw(st.booleans()):
        filler = draw(st.text("abc\u00e9 ", max_size=300)).encode()
        colon, end = draw(st.sampled_from([(b":", b"}"), (b": ", b"}"), (b":", b"\n}\n")]))
        tail = b'{"x":"%b","_rev"%b"%b"%b' % (filler, colon, text.encode(), end)
    else:
        tail = b"\x82\xa1x\xc4\x05" + draw(st.binary(min_size=5, max_size=5)) + tail
    value, base = tail, len(tail)
    appended = draw(st.lists(ID, max_size=20))
    for number, write_id in enumerate(appended, 1):
        line = draw(st.text("abc\\n", max_size=20)).encode()
        value += b'\n{"messages":["%b"],"_rev":"%d-%b,@%d"}' % (
            line.replace(b"\\", b"\\\\"), version + number, write_id.encode(), base,
        )  # fmt: skip
    history = [*((write_id, True) for write_id in reversed(appended)), *history][: revision.HISTORY]
    return value, f"{version + len(appended)}-{written(history)}", base


def in_lua(server: RedisServer, key: str) -> tuple[str, int]:
    """What the scripts read: the revision, and the length of the document, -1 where no batches follow it."""
    version, ids, base = server.command("EVAL", LUA, 1, key)
    return f"{version.decode()}-{ids.decode()}", base


@given(written=values())
def test_both_sides_read_the_same(redis_server: RedisServer, written: tuple[bytes, str, int]) -> None:
    """Documents of either format, with any number of batches: Python and the scripts see one history."""
    value, expected, base = written
    key = f"t{uuid.uuid4().hex[:12]}"
    redis_server.command("SET", key, value)
    try:
        assert revision.read(value) == (revision.parse(expected.encode()), base)
        if unread := revision.unread(value):
            assert revision.parsed(unread) == revision.parse(expected.encode())
            assert base == len(value)
            assert revision.starts_with(unread, revision.parsed(unread).version)
            assert not revision.starts_with(unread, revision.parsed(unread).version + 1)
        assert in_lua(redis_server, key) == (expected, base if base < len(value) else -1)
    finally:
        redis_server.command("DEL", key)


@given(st.binary(max_size=400))
def test_bytes_without_a_revision_have_none(value: bytes) -> None:
    """Any bytes can be read; what somebody else wrote is a document to its end."""
    assert revision.read(value) == (revision.UNKNOWN, len(value))
    assert revision.parsed(revision.unread(value)) == revision.UNKNOWN


@pytest.mark.parametrize(
    "value",
    [
        b'{"n":1}',
        b'{"_rev":1}',
        b'{"_rev":"x"}',
        b'{"_rev":"-AAAAAA."}',
        b'{"_rev":"1-AAAAAA.","n":1}',
        b'{"my_rev":"1-AAAAAA."}',
        b'{"n":"\\"_rev\\":\\"1-AAAAAA.\\""}',
        b'{"_rev":"1-AAAAAA.@x"}',
        b'{"_rev":"1-AAAAAA.@"}x',
        b"",
    ],
)
def test_what_only_looks_like_a_revision_is_none(value: bytes) -> None:
    """A revision stands last in its document and is well formed, or there is none."""
    assert revision.read(value) == (revision.UNKNOWN, len(value))
    assert revision.parsed(revision.unread(value)) == revision.UNKNOWN


@settings(max_examples=15)
@given(
    steps=st.lists(st.sampled_from(["save", "blind", "conditional", "update", "append"]), min_size=1, max_size=24),
    format=st.sampled_from(["json", "msgpack"]),
)
def test_every_write_leaves_a_history_that_both_sides_read_alike(
    redis_server: RedisServer, steps: list[str], format: Format
) -> None:
    """Versions count the writes, the ids stand newest first, and a plain save shows that it did not look."""
    asyncio.run(_write_and_compare(redis_server, steps, format))


async def _write_and_compare(server: RedisServer, steps: list[str], format: Format) -> None:
    prefix = f"t{uuid.uuid4().hex[:12]}:"
    key = f"{prefix}{{a}}:s"

    def change(loaded: Any) -> None:
        loaded.data["n"] = 1

    async with RedisStateStore.from_url(f"{server.url}?key_prefix={prefix}", format=format) as store:
        try:
            await store.save(state())
            before, looked = revision.read(server.command("GET", key))[0], False
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
                now, base = revision.read(value)
                assert in_lua(server, key) == (now.text.decode(), base if base < len(value) else -1)
                looked = step not in ("save", "blind")
                assert now.ids[6] == ord(",."[not looked])
                assert now.newest != before.newest
                if step == "blind":
                    assert (now.version, len(now.ids)) == (1, 7)
                else:
                    assert now.version == before.version + 1
                    older = now.ids[7:]
                    assert before.ids.startswith(older)
                    assert len(older) == 7 * min(revision.HISTORY - 1, len(before.ids) // 7)
                before = now
        finally:
            await store.delete_agent("a")
