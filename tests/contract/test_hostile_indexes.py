"""Whatever somebody writes into an index: every other agent and session is listed, and nothing fails raw."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.timed import messages, state

from redis_state import PartitionsMismatchError, RedisStateStore, ServerRefusedError, SessionInfo, StateStoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis_state import AgentState
    from redis_state.testing import RedisServer

SCORES: Final = [
    "inf",
    "-inf",
    "1e300",
    "-1e18",
    "-1e300",
    "1.7976931348623157e308",
    "5e-324",
    "0.5",
    "-0",
    "253402300800000000",
]
MEMBERS: Final = [
    b"",
    b" ",
    b"a b",
    b"\xff\xfe",
    b"a\x00b",
    b"\x1b[31m",
    "é".encode(),
    b"x" * 5000,
    b"{}",
    b"a/b",
    b"%41",
]
STRANGE_KEYS: Final = [
    "sessions:{}",
    "sessions:{\xff}",
    "sessions:{a b}",
    "sessions:{%zz}",
    "sessions:{a}x",
    "sessions:{" + "x" * 3000 + "}",
]


class Bench:
    """A server, a prefix, and a store."""

    def __init__(self, server: RedisServer, prefix: str, store: RedisStateStore[AgentState]) -> None:
        self.server = server
        self.prefix = prefix
        self.store = store

    def index(self, agent_id: str) -> str:
        return f"{self.prefix}sessions:{{{agent_id}}}"

    async def agents(self) -> set[str]:
        return {agent async for agent in self.store.agents()}

    async def sessions(self, agent_id: str) -> list[SessionInfo]:
        return [info async for info in self.store.sessions(agent_id)]


@pytest.fixture
async def bench(redis_server: RedisServer) -> AsyncIterator[Bench]:
    prefix = f"test-{uuid.uuid4().hex}:"
    try:
        async with RedisStateStore.from_url(f"{redis_server.url}?key_prefix={prefix}") as store:
            yield Bench(redis_server, prefix, store)
    finally:
        keys = redis_server.command("KEYS", f"{prefix}*")
        if keys:
            redis_server.command("DEL", *keys)


@pytest.mark.parametrize("score", SCORES)
async def test_a_score_that_is_no_time_is_shown_as_the_nearest(bench: Bench, score: str) -> None:
    """Its session is listed, counted, paged over and deleted as any other."""
    for name in ("strange", "s1", "s2"):
        await bench.store.save(state(name))
    bench.server.command("ZADD", bench.index("a"), score, "strange")
    infos = await bench.sessions("a")
    assert {info.session_id for info in infos} == {"strange", "s1", "s2"}
    assert set(await bench.store.list("a")) == {"strange", "s1", "s2"}
    assert len(await bench.store.list("a", limit=2)) == 2
    assert await bench.store.count("a") == 3
    assert await bench.agents() == {"a"}
    for info in infos:
        rest = [later.session_id async for later in bench.store.sessions("a", before=info)]
        assert len(rest) <= 3
    await bench.store.append("a", "strange", messages("x"))
    assert (await bench.store.list("a"))[0] in ("strange", "s1", "s2")
    assert await bench.store.delete_agent("a") == 3
    assert await bench.agents() == set()


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: repr(member[:9]))
@pytest.mark.parametrize("score", ["1", "inf"])
async def test_a_member_that_is_no_session_is_shown_nowhere(bench: Bench, member: bytes, score: str) -> None:
    """The sessions beside it are, and with them it goes when the agent is deleted."""
    await bench.store.save(state("s1"))
    bench.server.command("ZADD", bench.index("a"), score, member)
    bench.server.command("ZADD", bench.index("only"), score, member)
    assert [info.session_id for info in await bench.sessions("a")] == ["s1"]
    assert await bench.store.list("a") == ["s1"]
    assert await bench.store.list("a", limit=1) == ["s1"]
    assert await bench.store.count("a") == 1
    assert await bench.agents() == {"a"}
    assert await bench.store.delete_agent("a") == 1
    assert await bench.store.delete_agent("only") == 0
    assert await bench.agents() == set()


@pytest.mark.parametrize("kind", ["string", "list", "hash", "set", "stream"])
async def test_something_else_in_the_place_of_an_index_fails_its_agent_alone(bench: Bench, kind: str) -> None:
    """With an error that says what to look for; all other agents are listed."""
    await bench.store.save(state("s1", agent_id="good"))
    fill: dict[str, list[Any]] = {
        "string": ["SET", bench.index("a"), "x"],
        "list": ["RPUSH", bench.index("a"), "x"],
        "hash": ["HSET", bench.index("a"), "x", "y"],
        "set": ["SADD", bench.index("a"), "x"],
        "stream": ["XADD", bench.index("a"), "*", "x", "y"],
    }
    bench.server.command(*fill[kind])
    assert await bench.agents() == {"good"}
    for operation in (
        bench.store.list("a"),
        bench.store.count("a"),
        bench.sessions("a"),
        bench.store.delete_agent("a"),
    ):
        with pytest.raises(ServerRefusedError, match=r"WRONGTYPE.*key_prefix"):
            await operation


@pytest.mark.parametrize("name", STRANGE_KEYS, ids=lambda name: ascii(name[:15]))
async def test_a_key_that_belongs_to_no_agent_is_passed_over(bench: Bench, name: str) -> None:
    """Though it looks as that of an index, and holds what looks as a session."""
    await bench.store.save(state("s1", agent_id="good"))
    bench.server.command("ZADD", (bench.prefix + name).encode("latin-1"), 1, "s1")
    assert await bench.agents() == {"good"}


@pytest.mark.parametrize("noted", ["x", "", "-1", "0", "1.5", "3 ", "\uff19", "9" * 400, "1e3", "\x1b[31m", "nan"])
async def test_a_number_of_partitions_that_is_none_is_told_by_its_key(redis_server: RedisServer, noted: str) -> None:
    """Whatever stands there instead, of a store with partitions and of one without."""
    prefix = f"test-{uuid.uuid4().hex}:"
    redis_server.command("SET", f"{prefix}partitions", noted)
    try:
        for partitions in (1, 3):
            store = RedisStateStore.from_url(f"{redis_server.url}?key_prefix={prefix}", partitions=partitions)
            with pytest.raises(PartitionsMismatchError, match="partitions") as caught:
                await store.save(state())
            assert str(caught.value).isprintable()
            await store.aclose()
    finally:
        redis_server.command("DEL", f"{prefix}partitions")


async def test_partitions_of_another_type_are_told(redis_server: RedisServer) -> None:
    """As what they are."""
    prefix = f"test-{uuid.uuid4().hex}:"
    redis_server.command("RPUSH", f"{prefix}partitions", "3")
    try:
        store = RedisStateStore.from_url(f"{redis_server.url}?key_prefix={prefix}", partitions=3)
        with pytest.raises(StateStoreError, match="WRONGTYPE"):
            await store.save(state())
        await store.aclose()
    finally:
        redis_server.command("DEL", f"{prefix}partitions")
