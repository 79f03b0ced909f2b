"""The bytes of an operation."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_state.operation import EXEC, MULTI, Argument, Operation, Replay, block, call, command, pack
from redis_state.scripts import APPEND, DELETE, REPAIR, SAVE, Script

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


@given(st.lists(st.lists(ARGUMENTS, min_size=1).map(tuple), min_size=1))
def test_a_block_stands_between_multi_and_exec_and_counts_its_replies(commands: list[tuple[Argument, ...]]) -> None:
    """There is one reply for each command and the two around them."""
    op = block(7, commands, Replay.NEVER, lambda: command(7, "PING"))
    inside = [[as_bytes(argument) for argument in each] for each in commands]
    assert parsed(op.payload) == [[b"MULTI"], *inside, [b"EXEC"]]
    assert op.payload.startswith(MULTI)
    assert op.payload.endswith(EXEC)
    assert op.replies == len(commands) + 2


@pytest.mark.parametrize("script", [SAVE, APPEND, DELETE, REPAIR], ids=lambda script: script.name)
@settings(max_examples=25)
@given(keys=st.lists(st.binary()), args=st.lists(ARGUMENTS))
def test_a_call_is_read_whole_by_text_and_by_hash(script: Script, keys: list[bytes], args: list[Argument]) -> None:
    """The heads of EVAL and EVALSHA fit before the same payload."""
    op = call(script, 7, keys, args)
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


def test_an_operation_that_becomes_its_fallback_keeps_its_journey_and_has_no_other() -> None:
    """The replay of a replay is the same script again."""
    fallback = call(SAVE, 7, [b"k"], ["a"], replay=Replay.GUARDED)
    op = block(7, [("SET", "k", "v")], Replay.GUARDED, lambda: fallback)
    op.deadline, op.attempts, op.sent = 5.0, 3, True
    op.become(fallback)
    assert (op.payload, op.replies, op.script, op.arguments) == (fallback.payload, 1, SAVE, 3)
    assert op.fallback is None
    assert (op.deadline, op.attempts, op.sent, op.slot, op.replay) == (5.0, 3, True, 7, Replay.GUARDED)


def test_a_node_can_be_asked_for_by_name() -> None:
    """For commands that have no slot, such as SCAN on every primary."""
    assert command(None, "SCAN", 0, node="n1").node == "n1"
    assert pack(("PING",)) == command(None, "PING").payload
