"""No password and no payload ever shows in an error, a log line or a repr."""

from __future__ import annotations

import asyncio
import logging
import traceback
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from support.states import messages

import redis_state
from redis_state import (
    AgentState,
    ForeignLoopError,
    InvalidIdError,
    MemoryStateStore,
    Message,
    NotReplicatedError,
    OutcomeUnknownError,
    PartitionsMismatchError,
    RedisConfig,
    RedisStateStore,
    ServerRefusedError,
    StateDecodeError,
    StateEncodeError,
    StateNotFoundError,
    StateStoreError,
    StateTooLargeError,
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
    open_store,
)
from redis_state.testing import RedisServer

# Whatever is secret in these tests holds the last of them.
PASSWORD: Final = "CANARY-password"
PAYLOAD: Final = "CANARY-payload"
CANARY: Final = "CANARY"

PAUSE: Final = 800  # milliseconds in which a server answers nothing: more than the stores of these tests wait


def everything_of(error: BaseException | None) -> str:
    """All the text that an exception, its causes and its context could bring into a log."""
    texts: list[str] = []
    waiting, seen = [error], list[BaseException]()
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            texts += [*traceback.format_exception(one), repr(one), repr(one.args), repr(vars(one))]
            waiting += [one.__cause__, one.__context__]
    return "\n".join(texts)


def secret(**fields: Any) -> AgentState:
    """A state whose content is secret."""
    fields = {"context": {"text": PAYLOAD}, "messages": [Message("user", PAYLOAD, metadata={"x": PAYLOAD})], **fields}
    return AgentState(agent_id="a", session_id="s", **fields)


def holding(value: object) -> AgentState:
    """One that cannot be stored for a value in it."""
    return secret(context={"first": PAYLOAD, "here": value, "last": [PAYLOAD]})


class Bench:
    """A server without a password and one with, and the stores of one provocation, which are closed after it."""

    def __init__(self, servers: tuple[RedisServer, RedisServer], closing: AsyncExitStack) -> None:
        self.server, self.locked = servers
        self.prefix = f"test-{uuid.uuid4().hex}:"
        self.key = f"{self.prefix}{{a}}:s"
        self.closing = closing
        self.stores: list[Any] = []

    def kept(self, store: Any) -> Any:
        self.stores.append(store)
        self.closing.push_async_callback(store.aclose)
        return store

    def url(self, url: str = "", **options: Any) -> Any:
        """A store at a URL, under the test's prefix and with short times."""
        url = url or self.server.url
        times = "dial_timeout=0.5&read_timeout=0.3&write_timeout=0.3"
        separator = "&" if "?" in url else "?"
        return self.kept(RedisStateStore.from_url(f"{url}{separator}key_prefix={self.prefix}&{times}", **options))

    def at(self, credentials: str, server: RedisServer) -> Any:
        return self.url(f"redis://{credentials}@{server.addr}")

    def client(self, **settings: Any) -> Any:
        """A store on a client of its own."""
        client = Redis(host=self.server.host, retry=Retry(NoBackoff(), 0), **settings)
        self.closing.push_async_callback(client.aclose)
        return self.kept(RedisStateStore(client, key_prefix=self.prefix, read_timeout=0.3, write_timeout=0.3))

    @contextmanager
    def setting(self, name: str, value: object) -> Generator[None]:
        """The server with another configuration for a while."""
        before = self.server.command("CONFIG", "GET", name)[1]
        self.server.command("CONFIG", "SET", name, value)
        try:
            yield
        finally:
            self.server.command("CONFIG", "SET", name, before)

    async def without(self, rule: str, **options: Any) -> None:
        """A save by a user for whom one more rule holds."""
        user = f"ann-{uuid.uuid4().hex}"
        self.server.command("ACL", "SETUSER", user, "on", f">{PASSWORD}", "&*", "+@all", *rule.split())
        try:
            await self.at(f"{user}:{PASSWORD}", self.server).save(secret(), **options)
        finally:
            self.server.command("ACL", "DELUSER", user)

    async def while_set(self, name: str, value: object, state: AgentState, **options: Any) -> None:
        """A save while the server is set so."""
        store = self.url()
        await store.ping()
        with self.setting(name, value):
            await store.save(state, **options)

    async def while_paused(self, call: Callable[[Any], Awaitable[object]]) -> None:
        """An operation whose reply does not come in time."""
        store = self.url()
        await store.save(secret())
        self.server.command("CLIENT", "PAUSE", PAUSE, "ALL")
        try:
            await call(store)
        finally:
            self.server.command("CLIENT", "UNPAUSE")

    async def over(self, value: bytes, call: Callable[[Any], Awaitable[object]]) -> None:
        """An operation on bytes that are no state."""
        self.server.command("SET", self.key, value)
        await call(self.url())

    async def over_a_list(self, **options: Any) -> None:
        self.server.command("RPUSH", self.key, PAYLOAD)
        await self.url().save(secret(), **options)

    async def another_number_of_partitions(self) -> None:
        await self.url(partitions=3).save(secret())
        await self.url(partitions=2).save(secret())

    async def a_conflict(self, store: Any) -> None:
        await store.save(secret())
        await store.save(secret(), if_version=0)

    async def no_message(self) -> None:
        store = self.url()
        await store.save(secret())
        await store.append("a", "s", [{"role": "user", "content": PAYLOAD}])

    async def closed(self) -> None:
        store = self.at(f":{PASSWORD}", self.locked)
        await store.aclose()
        await store.save(secret())

    async def another_loop(self) -> None:
        store = self.url()
        await store.ping()
        await asyncio.to_thread(lambda: asyncio.run(store.save(secret())))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    with RedisServer() as server, RedisServer(password=PASSWORD) as locked:
        yield server, locked


@asynccontextmanager
async def opened(servers: tuple[RedisServer, RedisServer]) -> AsyncGenerator[Bench]:
    async with AsyncExitStack() as closing:
        bench = Bench(servers, closing)
        yield bench
    for key in bench.server.command("KEYS", f"{bench.prefix}*"):
        bench.server.command("DEL", key)


class Rude(str):
    """A value whose own errors hold what it holds."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ValueError(str(self))

    __hash__ = str.__hash__


Provocation = Callable[[Bench], Any]
LOADS: Final[list[Callable[[Any], Awaitable[object]]]] = [
    lambda store: store.load("a", "s"),
    lambda store: store.load_many("a", ["s"]),
]


async def over(value: bytes, call: Callable[[Any], Awaitable[object]], bench: Bench) -> None:
    """An operation on bytes that are no state."""
    await bench.over(value, call)


LOGIN: Final = "does not accept the username and password"
SENTINELS: Final = f"mymaster?sentinel_password={PASSWORD}"
PROVOCATIONS: Final[list[tuple[type[Exception], str, Provocation]]] = [
    # Of passwords, while connecting
    (ServerRefusedError, LOGIN, lambda b: b.at(f":{PASSWORD}x", b.locked).load("a", "s")),
    (ServerRefusedError, LOGIN, lambda b: b.at(f"ann:{PASSWORD}", b.locked).save(secret())),
    (ServerRefusedError, LOGIN, lambda b: b.at(f":{PASSWORD}x", b.locked).__aenter__()),
    (ServerRefusedError, LOGIN, lambda b: b.client(port=b.locked.port, password=f"{PASSWORD}x").save(secret())),
    (
        ServerRefusedError,
        LOGIN,
        lambda b: b.kept(
            RedisStateStore.from_config(RedisConfig(addrs=[b.locked.addr], username="ann", password=PASSWORD))
        ).ping(),
    ),
    (ServerRefusedError, ".", lambda b: b.at(f"ann:{PASSWORD}", b.server).save(secret())),
    (ServerRefusedError, "NOAUTH", lambda b: b.url(f"redis://{b.locked.addr}").save(secret())),
    (ServerRefusedError, "no database", lambda b: b.url(f"redis://:{PASSWORD}@{b.locked.addr}/9999").save(secret())),
    (StoreUnavailableError, "refused", lambda b: b.url(f"redis://ann:{PASSWORD}@127.0.0.1:1").save(secret())),
    (StoreUnavailableError, "resolved", lambda b: b.url(f"redis://ann:{PASSWORD}@nowhere.invalid").save(secret())),
    (StoreUnavailableError, "No such file", lambda b: b.url(f"unix://ann:{PASSWORD}@/nowhere/redis.sock").ping()),
    (StoreUnavailableError, "TLS", lambda b: b.url(f"rediss://ann:{PASSWORD}@{b.server.addr}").save(secret())),
    (StoreUnavailableError, "no cluster", lambda b: b.url(f"redis+cluster://:{PASSWORD}@{b.locked.addr}").ping()),
    (StoreUnavailableError, ".", lambda b: b.url(f"redis+cluster://:{PASSWORD}@127.0.0.1:1,127.0.0.1:2").ping()),
    (StateStoreError, ".", lambda b: b.url(f"redis+cluster://:{PASSWORD}x@{b.locked.addr}").save(secret())),
    (
        StoreUnavailableError,
        "Sentinel",
        lambda b: b.url(f"redis+sentinel://:{PASSWORD}@127.0.0.1:1/{SENTINELS}").ping(),
    ),
    (StateStoreError, ".", lambda b: b.url(f"redis+sentinel://:{PASSWORD}@{b.server.addr}/{SENTINELS}").ping()),
    (ValueError, ".", lambda b: b.url(f"http://ann:{PASSWORD}@a")),
    (ValueError, "percent-encoded", lambda b: open_store(f"redis://ann:x?{PASSWORD}@a")),
    (ValueError, "unknown option", lambda b: b.url(f"redis://ann:{PASSWORD}@a?passwd={PASSWORD}")),
    (ValueError, ".", lambda b: b.url(f"redis://ann:{PASSWORD}@a?pool_size={PASSWORD}")),
    (TypeError, ".", lambda b: RedisStateStore(PASSWORD)),  # pyright: ignore[reportArgumentType]
    # Of payloads that are refused before they are sent
    *(
        (StateEncodeError, r"cannot be stored.*\$\.context\.here|\$\.context\.here.*", lambda b, v=v: b.url().save(v))
        for v in map(
            holding,
            (
                *(float("nan"), PAYLOAD.encode(), {PAYLOAD}, (PAYLOAD,), {(PAYLOAD,): PAYLOAD}, ValueError(PAYLOAD)),
                *(f"{PAYLOAD}\ud800", {"deep": [[PAYLOAD], {"here": {PAYLOAD}}]}, Rude(PAYLOAD)),
            ),
        )
    ),
    (StateEncodeError, ".", lambda b: b.url(format="msgpack").save(secret(data={"text": PAYLOAD, "big": 10**40}))),
    (StateEncodeError, r"\[0\]\.content", lambda b: b.url().save(secret(messages=[Message("user", PAYLOAD.encode())]))),  # pyright: ignore[reportArgumentType]
    (StateEncodeError, ".", lambda b: b.no_message()),
    (StateEncodeError, ".", lambda b: b.kept(MemoryStateStore()).save(secret(data={"text": PAYLOAD, "x": {PAYLOAD}}))),
    (StateTooLargeError, "max_state_bytes", lambda b: b.kept(MemoryStateStore(max_state_bytes=100)).save(secret())),
    (TypeError, "AgentState", lambda b: b.url().save(PAYLOAD)),
    (TypeError, "ttl", lambda b: b.url().save(secret(), ttl=PAYLOAD)),
    (ValueError, ".", lambda b: b.url().save(secret(version=-1))),
    (InvalidIdError, ".", lambda b: b.url().load("a", PAYLOAD * 1000)),
    # Of payloads that are stored
    *(
        (StateDecodeError, "is no state", partial(over, v, call))
        for v in (
            PAYLOAD.encode(),
            f'{{"agent_id":"a","session_id":"s","version":"{PAYLOAD}"}}'.encode(),
            f'{{"agent_id":"a","session_id":"s","created_at":"{PAYLOAD}"}}'.encode(),
            f'{{"agent_id":"a","session_id":"s","context":{{"x":"{PAYLOAD}'.encode(),
            f'{{"agent_id":"{PAYLOAD}\\ud800","session_id":"s"}}'.encode() + b"\xff",
            f'{{"agent_id":"{PAYLOAD}","context":{{"x":'.encode() + b"[" * 20_000,
            f'{{"agent_id":"a","session_id":"s"}}\n{{"messages":["{PAYLOAD}"],"_rev":"2-AAAAAA,@35"}}'.encode(),
            b"\x82\xa8agent_id\xae" + PAYLOAD.encode() + b"\xaasession_id\x01\xa4_rev\xa91-AAAAAA.",
        )
        for call in LOADS
    ),
    (StateDecodeError, ".", lambda b: b.over(PAYLOAD.encode(), lambda s: s.append("a", "s", messages(PAYLOAD)))),
    (StateDecodeError, ".", lambda b: b.over(PAYLOAD.encode(), lambda s: s.save(secret(), if_version=1))),
    # Of payloads that the server refuses
    (ServerRefusedError, "WRONGTYPE.*key_prefix", lambda b: b.over_a_list()),
    (ServerRefusedError, "WRONGTYPE", lambda b: b.over_a_list(if_version=0)),
    (ServerRefusedError, "OOM.*maxmemory", lambda b: b.while_set("maxmemory", 1, secret())),
    (ServerRefusedError, "OOM", lambda b: b.while_set("maxmemory", 1, secret(), if_version=0)),
    (
        ServerRefusedError,
        "proto-max-bulk-len",
        lambda b: b.while_set("proto-max-bulk-len", 1024 * 1024, secret(data={"text": PAYLOAD * 200_000})),
    ),
    (ServerRefusedError, "NOPERM.*permission", lambda b: b.without("~* -set")),
    (ServerRefusedError, "NOPERM", lambda b: b.without("~* -@scripting", if_version=0)),
    (ServerRefusedError, "NOPERM", lambda b: b.without("~other:*")),
    (StoreUnavailableError, "NOREPLICAS|replicas", lambda b: b.while_set("min-replicas-to-write", 1, secret())),
    (NotReplicatedError, "0 of 1", lambda b: b.url(replicas=1).save(secret())),
    (OutcomeUnknownError, ".", lambda b: b.while_paused(lambda store: store.save(secret()))),
    (StoreTimeoutError, ".", lambda b: b.while_paused(lambda store: store.load("a", "s"))),
    (PartitionsMismatchError, ".", lambda b: b.another_number_of_partitions()),
    # Of a caller's mistakes
    (VersionConflictError, ".", lambda b: b.a_conflict(b.url())),
    (VersionConflictError, ".", lambda b: b.a_conflict(b.kept(MemoryStateStore()))),
    (StateNotFoundError, ".", lambda b: b.url().append("a", "s", messages(PAYLOAD))),
    (StoreClosedError, ".", lambda b: b.closed()),
    (ForeignLoopError, ".", lambda b: b.another_loop()),
]


@pytest.mark.parametrize("number", range(len(PROVOCATIONS)), ids=str)
async def test_no_error_shows_what_is_secret(
    servers: tuple[RedisServer, RedisServer], number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in its text, data, cause or context, not in a line of any log, and not in the repr of its store."""
    expected, words, provocation = PROVOCATIONS[number]
    caplog.set_level(logging.DEBUG)
    async with opened(servers) as bench:
        with pytest.raises(expected, match=words) as caught:
            await provocation(bench)
        assert CANARY not in "\n".join(map(repr, bench.stores))
    error = caught.value
    assert type(error).__module__ in {"redis_state.errors", "builtins"}
    assert CANARY not in everything_of(error)
    assert "\n" not in str(error)
    for record in caplog.records:
        logged = [record.getMessage(), repr(record.args), repr(record.msg), record.exc_text or ""]
        if record.exc_info and record.exc_info[1]:
            logged.append(everything_of(record.exc_info[1]))
        assert CANARY not in "\n".join(logged)


def test_every_error_is_provoked() -> None:
    """The table above has a case for each class that an operation raises; a timeout is Python's too."""
    every = {getattr(redis_state, name) for name in redis_state.__all__ if name.endswith("Error")}
    assert every <= {error for error, _, _ in PROVOCATIONS}
    assert issubclass(StoreTimeoutError, TimeoutError)
