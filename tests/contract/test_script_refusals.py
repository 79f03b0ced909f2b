"""A script that the server refuses half way: it leaves nothing, or the error says that the state was stored."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from redis_state import AgentState, Message, RedisStateStore, ServerRefusedError, StateTooLargeError
from redis_state.codec import Codec, StateType
from redis_state.codec.addition import Addition, Condition
from redis_state.commands.keys import Keys
from redis_state.commands.request import Replay
from redis_state.commands.writes import Append

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

HOUR: Final = timedelta(hours=1)


def a_state(**data: Any) -> AgentState:
    return AgentState(agent_id="a", session_id="s", data=data)


class Limited:
    """A store of a user who lacks some commands, and what stands in the server."""

    def __init__(self, server: RedisServer, name: str) -> None:
        self.server = server
        self.name = name
        self.key, self.index = f"{name}:{{a}}:s", f"{name}:sessions:{{a}}"

    def everything(self) -> list[object]:
        command = self.server.command
        places = command("ZRANGE", self.index, 0, -1, "WITHSCORES")
        return [command("GET", self.key), places, command("PTTL", self.key) > 3_600_000]

    def forbid(self, *commands: str) -> None:
        rules = [f"-{command}" for command in commands]
        self.server.command("ACL", "SETUSER", self.name, "reset", "on", ">pw", "~*", "&*", "+@all", *rules)


@asynccontextmanager
async def limited(server: RedisServer) -> AsyncGenerator[tuple[Limited, RedisStateStore[AgentState]]]:
    user = Limited(server, f"t{uuid.uuid4().hex[:12]}")
    user.forbid()
    url = f"redis://{user.name}:pw@{server.addr}?key_prefix={user.name}:"
    try:
        async with RedisStateStore.from_url(url) as store:
            yield user, store
    finally:
        server.command("DEL", user.key, user.index)
        server.command("ACL", "DELUSER", user.name)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("forbidden", ["zadd", "set"])
async def test_a_conditional_save_that_is_refused_leaves_nothing(
    redis_server: RedisServer,
    forbidden: str,
    fresh: bool,  # noqa: FBT001
) -> None:
    """Neither a state that is not listed nor an entry without a state."""
    async with limited(redis_server) as (user, store):
        state = a_state(n=1)
        if not fresh:
            await store.save(state)
        before = user.everything()
        user.forbid(forbidden)
        state.data["n"] = 2
        with pytest.raises(ServerRefusedError) as caught:
            await store.save(state, if_version=state.version)
        assert (caught.value.code, caught.value.stored) == ("NOPERM", False)
        assert user.everything() == before
        assert state.version == (0 if fresh else 1)


@pytest.mark.parametrize("ttl", [None, 2 * HOUR])
@pytest.mark.parametrize("forbidden", ["zadd", "append", "pexpire"])
async def test_an_append_that_is_refused_leaves_nothing(
    redis_server: RedisServer, forbidden: str, ttl: timedelta | None
) -> None:
    """Neither the line, nor another place in the list, nor another expiry."""
    async with limited(redis_server) as (user, store):
        await store.save(a_state(), ttl=HOUR)
        before = user.everything()
        user.forbid(forbidden)
        append = store.append("a", "s", [Message("user", "hi")], ttl=ttl)
        if forbidden == "pexpire" and ttl is None:
            assert await append == 2
            return
        with pytest.raises(ServerRefusedError) as caught:
            await append
        assert (caught.value.code, caught.value.stored) == ("NOPERM", False)
        assert user.everything() == before


async def test_an_append_that_cannot_be_undone_says_that_it_was_stored(redis_server: RedisServer) -> None:
    """Where the user may neither let a state expire nor replace it."""
    async with limited(redis_server) as (user, store):
        await store.save(a_state())
        user.forbid("pexpire", "set")
        with pytest.raises(ServerRefusedError, match="the state was stored") as caught:
            await store.append("a", "s", [Message("user", "hi")], ttl=HOUR)
        assert (caught.value.code, caught.value.stored) == ("NOPERM", True)
        assert len((await store.load("a", "s")).messages) == 1


def test_an_append_above_the_limit_is_refused_by_the_script(redis_server: RedisServer) -> None:
    """By the length of the value with the line, to the byte; nothing is written."""
    prefix = f"t{uuid.uuid4().hex[:12]}:"
    session = Keys(prefix, 1).session("a", "s")
    codec = Codec(StateType(AgentState), "json")
    revision = b"1-AAAAAA,:013"
    value = codec.unfinished(codec.encode(a_state())) + revision + b'"}'
    line = codec.encode_line([Message("user", "hi")])
    length = len(value) + len(line) + len(b'2-BBBBBB@1767323046678901,+170/170:038"}')
    command, key = redis_server.command, session.key.decode()
    try:
        for limit in (length - 1, length):
            command("SET", key, value)
            write = Append(
                b"", 0, replay=Replay.GUARDED, of=session,
                addition=Addition(line, b"", Condition()), write_id=b"BBBBBB",
                score=1767323046678901, ttl=None, max_state_bytes=limit,
            )  # fmt: skip
            write.become_script()
            reply = call(redis_server, write)
            if limit == length:
                assert write.outcome(reply).revision.version == 2
                assert command("STRLEN", key) == length
            else:
                with pytest.raises(StateTooLargeError) as caught:
                    write.outcome(reply)
                assert (caught.value.size, caught.value.limit) == (length, limit)
                assert command("GET", key) == value
                assert command("EXISTS", session.partition.index.decode()) == 0
    finally:
        command("DEL", key, session.partition.index.decode())


def call(server: RedisServer, write: Append) -> Any:
    """What the server replies to a script."""
    assert write.script
    reader: Any = __import__("hiredis").Reader()
    reader.feed(b"*%d\r\n%b%b" % (write.arguments + 2, write.script.by_text, write.payload))
    return server.command(*reader.gets())
