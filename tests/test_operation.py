"""The bytes of an operation."""

from __future__ import annotations

from typing import Any, Final

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_state.codec import UNKNOWN, Revision
from redis_state.keys import Keys
from redis_state.operation import Argument, Operation, Replay, command, pack
from redis_state.scripts import APPEND, DELETE, REPAIR, SAVE, Script
from redis_state.writes import Delete, Save

ARGUMENTS = st.one_of(st.binary(), st.text(st.characters(exclude_categories=["Cs"])), st.integers())


def parsed(data: bytes) -> list[list[bytes]]:
    """The commands that a server reads."""
    reader: Any = hiredis.Reader(notEnoughData=Ellipsis)
    reader.feed(data)
    commands: list[list[bytes]] = []
    while (each := reader.gets()) is not Ellipsis:
        commands.append(each)
    assert not reader.has_data()
    return commands


def as_bytes(argument: Argument) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


@given(st.lists(ARGUMENTS, min_size=1))
def test_a_command_is_read_as_it_was_given(args: list[Argument]) -> None:
    """Whatever bytes an argument holds, a server reads it back whole."""
    op = command(7, *args)
    assert parsed(op.payload) == [[as_bytes(argument) for argument in args]]
    assert (op.slot, op.replies, op.replay) == (7, 1, Replay.ALWAYS)


KEYS: Final = Keys("t:", 1)
PARTITION: Final = KEYS.partition("agent ü", "s")
SESSION_ID: Final = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def a_save(session_id: str = "s", document: bytes = b'{"agent_id":"a"}', ttl: int | None = None) -> Save:
    return Save(
        b"",
        PARTITION.slot,
        replay=Replay.GUARDED,
        session=KEYS.session(PARTITION.agent_id, session_id),
        document=document,
        revision=Revision(4, b"CCCCCC.BBBBBB,"),
        parent=Revision(3, b"BBBBBB,"),
        expected=None,
        score=1_234_567_890_123_456,
        ttl=ttl,
        seen=UNKNOWN,
    )


@given(session_id=SESSION_ID, ttl=st.none() | st.integers(1), fresh=st.booleans())
def test_a_save_is_one_block(session_id: str, ttl: int | None, fresh: bool) -> None:  # noqa: FBT001
    """State and index between MULTI and EXEC, with an expiry and a look at what was there where they are asked for."""
    op = a_save(session_id, ttl=ttl)
    op.become_block(fresh=fresh)
    document = b'{"agent_id":"a","_rev":"4-CCCCCC.BBBBBB,:020"}'
    options = [b"PX", b"%d" % ttl] if ttl is not None else []
    place = [b"1234567890123456", session_id.encode()]
    assert parsed(op.payload) == [
        [b"MULTI"],
        [b"SET", PARTITION.state(session_id), document, *options, *([b"GET"] if fresh else [])],
        [b"ZADD", PARTITION.index, *place],
        [b"EXEC"],
    ]
    assert op.replies == 4


@given(st.lists(st.binary(), min_size=1), st.lists(st.binary(), min_size=1))
def test_a_deletion_is_one_block(keys: list[bytes], members: list[bytes]) -> None:
    """States and entries between MULTI and EXEC."""
    op = Delete(b"", PARTITION.slot, replay=Replay.NEVER, partition=PARTITION, keys=keys, members=members)
    op.become_block()
    assert parsed(op.payload) == [[b"MULTI"], [b"DEL", *keys], [b"ZREM", PARTITION.index, *members], [b"EXEC"]]
    assert op.replies == 4


@pytest.mark.parametrize("script", [SAVE, APPEND, DELETE, REPAIR], ids=lambda script: script.name)
@settings(max_examples=25)
@given(keys=st.lists(st.binary()), args=st.lists(ARGUMENTS))
def test_a_call_is_read_whole_by_text_and_by_hash(script: Script, keys: list[bytes], args: list[Argument]) -> None:
    """The heads of EVAL and EVALSHA fit before the same payload."""
    op = Operation(b"", 7).call(script, keys, args)
    count = b"*%d\r\n" % (op.arguments + 2)
    rest = [str(len(keys)).encode(), *keys, *map(as_bytes, args)]
    ((name, text, *arguments),) = parsed(count + script.by_text + op.payload)
    assert (name, arguments) == (b"EVAL", rest)
    assert b"redis.call" in text
    ((name, digest, *arguments),) = parsed(count + script.by_hash + op.payload)
    assert (name, arguments) == (b"EVALSHA", rest)
    assert len(digest) == 40


@pytest.mark.parametrize(("replay", "writes"), [(Replay.ALWAYS, False), (Replay.GUARDED, True), (Replay.NEVER, True)])
def test_what_may_be_repeated_freely_writes_nothing(replay: Replay, *, writes: bool) -> None:
    """Only of an operation that changes something can the outcome be unknown."""
    assert Operation(b"", None, replay=replay).writes is writes


def test_a_save_that_becomes_a_script_keeps_its_journey_and_says_whether_it_was_sent() -> None:
    """A replay is recognised by the script; what was never sent is no replay."""
    op = a_save()
    op.become_block(fresh=True)
    op.deadline, op.attempts = 5.0, 3
    for sent in (False, True):
        op.sent = sent
        op.become_script()
        assert (op.replies, op.script, op.arguments) == (1, SAVE, 13)
        ((_, *arguments),) = parsed(b"*14\r\n$1\r\nX\r\n" + op.payload)
        assert arguments[-1] == b"%d" % sent
        assert (op.deadline, op.attempts, op.sent, op.slot, op.replay) == (5.0, 3, sent, PARTITION.slot, Replay.GUARDED)


def test_a_single_command_is_its_own_script() -> None:
    """There is nothing to turn it into."""
    op = command(7, "GET", "k")
    op.become_script()
    assert (op.payload, op.script) == (pack(("GET", "k")), None)


def test_a_node_can_be_asked_for_by_name() -> None:
    """For commands that have no slot, such as SCAN on every primary."""
    assert command(None, "SCAN", 0, node="n1").node == "n1"
    assert pack(("PING",)) == command(None, "PING").payload
