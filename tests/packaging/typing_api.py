"""The types that users see. This file is checked by pyright and by mypy, never run.

Each checker has its own comment for what it must refuse, and reports a comment on a line that it takes.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_type

import msgspec

from redis_state import (
    AgentState,
    LoopLocal,
    MemoryStateStore,
    Message,
    NotReplicatedError,
    OpenOptions,
    PartitionsMismatchError,
    RedisConfig,
    RedisStateStore,
    ServerRefusedError,
    SessionInfo,
    SessionStore,
    StateDecodeError,
    StateEncodeError,
    StateNotFoundError,
    StateStore,
    StoreOptions,
    VersionConflictError,
    ViewOptions,
    open_store,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster


class MyState(msgspec.Struct):
    """A Struct of the user's."""

    agent_id: str
    session_id: str
    score: float = 0.0


class Texts(msgspec.Struct):
    """Whose messages are texts."""

    agent_id: str
    session_id: str
    messages: list[str] = []


@dataclass
class MyData:
    """A dataclass of the user's."""

    agent_id: str
    session_id: str
    version: int = 0


def states() -> None:
    """Fields, and what they hold."""
    state = AgentState(agent_id="agent-1", session_id="session-123", messages=[Message(role="user", content="hi")])
    assert_type(state.agent_id, str)
    assert_type(state.session_id, str)
    assert_type(state.messages, list[Message])
    assert_type(state.context, dict[str, Any])
    assert_type(state.data, dict[str, Any])
    assert_type(state.version, int)
    assert_type(state.created_at, datetime)
    assert_type(state.updated_at, datetime)
    message = state.messages[0]
    assert_type(message.role, str)
    assert_type(message.content, str)
    assert_type(message.timestamp, datetime)
    assert_type(message.metadata, dict[str, Any] | None)
    AgentState("agent-1", "session-123")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AgentState(agent_id="agent-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def ways_in(client: Redis, cluster: RedisCluster, config: RedisConfig) -> None:
    """A store is one of `AgentState` unless it is told another type."""
    assert_type(RedisStateStore(client), RedisStateStore[AgentState])
    assert_type(RedisStateStore(cluster), RedisStateStore[AgentState])
    assert_type(RedisStateStore(client, state_type=MyState), RedisStateStore[MyState])
    assert_type(RedisStateStore(client, state_type=MyData), RedisStateStore[MyData])
    assert_type(RedisStateStore.from_url("redis://"), RedisStateStore[AgentState])
    assert_type(RedisStateStore.from_url("redis://", state_type=MyState), RedisStateStore[MyState])
    assert_type(RedisStateStore.from_config(config), RedisStateStore[AgentState])
    assert_type(RedisStateStore.from_config(config, state_type=MyState), RedisStateStore[MyState])
    assert_type(MemoryStateStore(), MemoryStateStore[AgentState])
    assert_type(MemoryStateStore(state_type=MyState), MemoryStateStore[MyState])
    assert_type(open_store("memory://"), SessionStore[AgentState])
    assert_type(open_store("redis://", state_type=MyState), SessionStore[MyState])


def options(client: Redis) -> None:
    """By keyword, known and of their types."""
    every: StoreOptions = {
        "ttl": timedelta(hours=1),
        "refresh_ttl": True,
        "format": "msgpack",
        "partitions": 4,
        "replicas": 1,
        "meter_provider": None,
        "logger": None,
    }
    RedisStateStore(client, key_prefix="p:", dial_timeout=1, **every)
    RedisStateStore.from_url("rediss://", tls_verify=False, **every)
    open_store("redis://", **every)
    RedisStateStore(client, ttl=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RedisStateStore(client, format="yaml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RedisStateStore(client, unknown=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RedisStateStore(client, AgentState)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RedisStateStore("redis://")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fields: OpenOptions = {"key_prefix": "p:", "db": 1, "username": "ann", "pool_size": 2, "tls": True}
    RedisStateStore.from_url("redis://", **fields)
    open_store("redis://", read_timeout=1, password=None, sentinel_addrs=["s:26379"], **every)
    open_store("redis://", pool_size="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    open_store("redis://", addrs=["a:6379"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RedisStateStore.from_url("redis://", unix_socket="/s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RedisStateStore.from_config(RedisConfig(), db=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    MemoryStateStore(ttl=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    MemoryStateStore(state_type=dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    RedisStateStore(client, state_type=Message)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    open_store("memory://", state_type=dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    RedisConfig(["localhost:6379"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RedisConfig(adrs=["localhost:6379"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def operations(store: SessionStore[AgentState], state: AgentState) -> None:
    """What each of them takes and returns."""
    saving = assert_type(store.save(state), Coroutine[Any, Any, None])
    assert_type(await saving, None)
    assert_type(await store.save(state, if_version=0, ttl=timedelta(seconds=1)), None)
    assert_type(await store.load("agent-1", "session-123"), AgentState)
    assert_type(await store.load_many("agent-1", ["session-123"]), dict[str, AgentState])
    assert_type(await store.delete("agent-1", "session-123"), bool)
    assert_type(await store.list("agent-1", limit=10), list[str])
    assert_type(store.sessions("agent-1", limit=10, before=datetime.now(UTC)), AsyncIterator[SessionInfo])
    async for info in store.sessions("agent-1"):
        assert_type(info.session_id, str)
        assert_type(info.updated_at, datetime)
        store.sessions("agent-1", before=info)
    async for agent_id in store.agents():
        assert_type(agent_id, str)
    assert_type(await store.append("agent-1", "session-123", [Message(role="user", content="hi")]), int)
    assert_type(await store.count("agent-1"), int)
    assert_type(await store.exists("agent-1", "session-123"), bool)
    assert_type(await store.touch("agent-1", "session-123", ttl=timedelta(seconds=1)), bool)
    assert_type(await store.touch_agent("agent-1", ttl=timedelta(days=1)), int)
    assert_type(await store.delete_agent("agent-1", progress=print), int)
    assert_type(await store.ping(), None)
    assert_type(await store.aclose(), None)
    async with store as entered:
        assert_type(entered, SessionStore[AgentState])
    await store.save(MyState("agent-1", "session-123"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await store.save(state, 0)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await store.list("agent-1", 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def views_and_stores_for_other_loops(
    store: SessionStore[AgentState], redis: RedisStateStore, memory: MemoryStateStore
) -> None:
    """Of their own types."""
    options: ViewOptions = {"ttl": timedelta(days=1), "format": "msgpack", "partitions": 2, "replicas": 1}
    assert_type(store.view(MyState, namespace="mine", **options), SessionStore[MyState])
    assert_type(redis.view(MyData, namespace="mine", ttl=None), RedisStateStore[MyData])
    assert_type(memory.view(MyState, namespace="mine").view(MyData, namespace="more"), MemoryStateStore[MyData])
    store.view(MyState)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    store.view(dict, namespace="mine")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    store.view(MyState, namespace="mine", pool_size=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(store.reopen(), SessionStore[AgentState])
    assert_type(redis.reopen(), RedisStateStore[AgentState])
    assert_type(memory.reopen(), MemoryStateStore[AgentState])


async def a_store_for_each_loop(mine: RedisStateStore[MyState]) -> None:
    """Of the type of the stores that it opens."""
    assert_type(await LoopLocal(lambda: open_store("redis://")).get(), SessionStore[AgentState])
    assert_type(await LoopLocal(mine.reopen).get(), SessionStore[MyState])
    assert_type(await LoopLocal(mine.reopen).aclose(), None)
    LoopLocal(mine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def one_message_or_several(
    store: SessionStore[AgentState], redis: RedisStateStore, memory: MemoryStateStore
) -> None:
    """Those of the state's type, in anything that can be iterated; and ids that are no text."""
    message = Message(role="user", content="hi")
    for each in (store, redis, memory):
        assert_type(await each.append("agent-1", "session-123", message), int)
        await each.append("agent-1", "session-123", (message, message))
        await each.append("agent-1", "session-123", [])
        await each.append("agent-1", "session-123", (message for _ in range(3)), ttl=timedelta(days=1))
        await each.append("agent-1", "session-123", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await each.append("agent-1", "session-123", [{"role": "user"}])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
        await each.append("agent-1", "session-123", {"role": "user"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
        await each.load_many("agent-1", {"session-123"})
        await each.load_many("agent-1", (f"session-{n}" for n in range(3)))
        await each.load_many("agent-1", "session-123")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await each.load_many("agent-1", [1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def messages_of_the_users_own(texts: SessionStore[Texts], anything: SessionStore[Any]) -> None:
    """What one message is depends on the state type; a store of anything takes anything."""
    await texts.append("agent-1", "session-123", "text")
    await texts.append("agent-1", "session-123", ["text"])
    await texts.append("agent-1", "session-123", [Message(role="user", content="hi")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await anything.append("agent-1", "session-123", "text")
    await anything.save(MyState("agent-1", "session-123"), if_version=1)


async def what_a_type_lacks(redis: RedisStateStore[MyState], memory: MemoryStateStore[MyState]) -> None:
    """Neither appended to without messages, nor saved by version without one."""
    mine: SessionStore[MyState] = redis
    state = MyState("agent-1", "session-123")
    for each in (mine, redis, memory):
        await each.save(state, ttl=timedelta(days=1))
        await each.save(state, if_version=None)
        await each.save(state, if_version=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await each.append("agent-1", "session-123", [])  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        await each.update("agent-1", "session-123", print)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def updates(store: SessionStore[MyData]) -> None:
    """The function is given the store's type, and may be plain or async."""

    def plain(state: MyData) -> None:
        state.version += 1

    async def patient(state: MyData) -> str:
        return state.agent_id

    def another(state: MyState) -> None:
        state.score += 1

    assert_type(await store.update("agent-1", "session-123", plain), MyData)
    assert_type(await store.update("agent-1", "session-123", patient, attempts=3), MyData)
    assert_type(await store.update("agent-1", "session-123", lambda state: state.version), MyData)
    await store.update("agent-1", "session-123", another)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def types_of_the_users_own(client: Redis) -> None:
    """They come back from every operation that loads."""
    store = RedisStateStore(client, state_type=MyState)
    assert_type(await store.load("agent-1", "session-123"), MyState)
    assert_type(await store.load_many("agent-1", []), dict[str, MyState])
    async with RedisStateStore(client, state_type=MyData) as entered:
        assert_type(entered, RedisStateStore[MyData])
        assert_type(await entered.update("agent-1", "session-123", print), MyData)
    async with open_store("memory://", state_type=MyState) as opened:
        assert_type(await opened.load("agent-1", "session-123"), MyState)


def protocols(client: Redis) -> None:
    """Both stores are both protocols, of their own type only."""
    core: list[StateStore[AgentState]] = [RedisStateStore(client), MemoryStateStore()]
    every: list[SessionStore[AgentState]] = [RedisStateStore(client), MemoryStateStore()]
    core = [*every]
    mine: SessionStore[MyState] = MemoryStateStore(state_type=MyState)
    core = [mine]  # type: ignore[list-item]  # pyright: ignore[reportAssignmentType]
    assert_type(core, list[StateStore[AgentState]])


def unnamed(store: StateStore) -> None:
    """A protocol without a type is one of `AgentState`."""
    assert_type(store, StateStore[AgentState])


def errors(error: Exception) -> None:
    """What each carries."""
    match error:
        case StateNotFoundError() | StateDecodeError():
            assert_type(error.agent_id, str)
            assert_type(error.session_id, str)
        case VersionConflictError():
            assert_type(error.expected, int)
            assert_type(error.stored, int)
        case StateEncodeError():
            assert_type(error.path, str)
        case ServerRefusedError():
            assert_type(error.code, str)
        case NotReplicatedError():
            assert_type(error.wanted, int)
            assert_type(error.confirmed, int)
        case PartitionsMismatchError():
            assert_type(error.configured, int)
            assert_type(error.stored, int | None)
        case _:
            pass
