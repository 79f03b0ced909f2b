"""Errors: which there are, what they carry, and that no password and no payload ever shows in one."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import pickle
import re
import traceback
import uuid
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import redis_state
import redis_state.errors
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

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# Whatever is secret in these tests holds one of them.
PASSWORD: Final = "CANARY-password"
PAYLOAD: Final = "CANARY-payload"
CANARY: Final = "CANARY"

PAUSE: Final = 800  # milliseconds in which a server answers nothing: more than the stores of these tests wait


class TestTheTree:
    def test_is_the_one_that_is_drawn(self) -> None:
        """The docstring of the module shows every class under its base, with what else it is."""
        drawn: dict[str, tuple[str, str]] = {}
        above: list[str] = []
        for line in (redis_state.errors.__doc__ or "").split("\n\n")[1].splitlines():
            indent, name, also = re.fullmatch(r"([│├└─ ]*)(.*?)(?: \(also an? (\w+)\))?", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
            depth = len(indent) // 3
            above = [*above[:depth], name]
            if name.isidentifier():
                base = next((parent for parent in above[-2::-1] if parent.isidentifier()), "Exception")
                drawn[name] = (base, also or "")
        real = {
            name: (value.__bases__[0].__name__, "".join(base.__name__ for base in value.__bases__[1:]))
            for name, value in vars(redis_state.errors).items()
            if inspect.isclass(value)
        }
        assert drawn == real

    def test_has_one_root(self) -> None:
        """Who catches `StateStoreError` catches all that a store raises but for wrong arguments."""
        classes = [getattr(redis_state, name) for name in redis_state.__all__ if name.endswith("Error")]
        assert len(classes) >= 14
        assert all(issubclass(error, StateStoreError) for error in classes)
        assert StateStoreError.__bases__ == (Exception,)

    def test_says_when_each_is_raised(self) -> None:
        """In one sentence."""
        for name in redis_state.__all__:
            if name.endswith("Error") and name != "StateStoreError":
                assert getattr(redis_state, name).__doc__.startswith("Raised when ")


CARRIED: Final[list[tuple[StateStoreError, dict[str, Any]]]] = [
    (StateNotFoundError("a1", "s1"), {"agent_id": "a1", "session_id": "s1"}),
    (StateDecodeError("a1", "s1", "it is nested too deeply"), {"agent_id": "a1", "session_id": "s1"}),
    (VersionConflictError(3, 5), {"expected": 3, "stored": 5}),
    (StateEncodeError("$.context.score", "float would come back as NoneType"), {"path": "$.context.score"}),
    (ServerRefusedError("OOM", "it is out of memory"), {"code": "OOM", "stored": False}),
    (ServerRefusedError("WRONGTYPE", "of another type", stored=True), {"code": "WRONGTYPE", "stored": True}),
    (StateTooLargeError(12, 10), {"size": 12, "limit": 10}),
    (PartitionsMismatchError(4, 2), {"configured": 4, "stored": 2}),
    (NotReplicatedError(2, 1), {"wanted": 2, "confirmed": 1}),
]


@pytest.mark.parametrize(("error", "data"), CARRIED, ids=lambda value: type(value).__name__)
def test_each_carries_its_data(error: StateStoreError, data: dict[str, Any]) -> None:
    """As attributes, which its docstring lists, and in its text."""
    assert vars(error) == data
    for name, value in data.items():
        assert f"    {name}: " in (type(error).__doc__ or "")
        assert isinstance(value, bool) or str(value) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("error", [error for error, _ in CARRIED], ids=lambda error: type(error).__name__)
def test_each_can_be_copied_and_sent_to_another_process(error: StateStoreError) -> None:
    """As a pool of processes does with an error of its work."""
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert (str(twin), vars(twin)) == (str(error), vars(error))


def everything_of(error: BaseException) -> str:
    """All the text that an exception, its causes and its context could bring into a log."""
    texts: list[str] = ["".join(traceback.format_exception(error))]
    waiting: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        texts += [str(one), repr(one), repr(one.args), repr(vars(one)), *getattr(one, "__notes__", ())]
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
    return "\n".join(texts)


def a_state(session_id: str = "s1", **fields: Any) -> AgentState:
    fields.setdefault("context", {"text": PAYLOAD})
    fields.setdefault("messages", [Message("user", PAYLOAD, metadata={"text": PAYLOAD})])
    return AgentState(agent_id="a1", session_id=session_id, **fields)


class Bench:
    """Servers that can be made to fail, and the stores of one provocation.

    Attributes:
        server: Without a password.
        locked: With the password `PASSWORD`.
        prefix: The key prefix of the test.
        stores: Every store that was opened, to be closed after it.
    """

    def __init__(self, server: RedisServer, locked: RedisServer) -> None:
        self.server = server
        self.locked = locked
        self.prefix = f"test-{uuid.uuid4().hex}:"
        self.stores: list[Any] = []
        self.clients: list[Any] = []

    def url(self, url: str, **options: Any) -> Any:
        """A store at a URL, under the test's prefix and with short times."""
        times = "dial_timeout=0.5&read_timeout=0.3&write_timeout=0.3"
        separator = "&" if "?" in url else "?"
        return self.kept(RedisStateStore.from_url(f"{url}{separator}key_prefix={self.prefix}&{times}", **options))

    def client(self, **settings: Any) -> Any:
        """A store on a client of its own."""
        client = Redis(host=self.server.host, retry=Retry(NoBackoff(), 0), **settings)
        self.clients.append(client)
        return self.kept(RedisStateStore(client, key_prefix=self.prefix, read_timeout=0.3, write_timeout=0.3))

    def kept(self, store: Any) -> Any:
        """A store, closed after the test."""
        self.stores.append(store)
        return store

    @property
    def key(self) -> str:
        """Where the session s1 of a1 stands."""
        return f"{self.prefix}{{a1}}:s1"

    @contextmanager
    def setting(self, name: str, value: object) -> Generator[None]:
        """The server with another configuration for a while."""
        before = self.server.command("CONFIG", "GET", name)[1]
        self.server.command("CONFIG", "SET", name, value)
        try:
            yield
        finally:
            self.server.command("CONFIG", "SET", name, before)

    async def aclose(self) -> None:
        """Close everything, and remove what was stored."""
        for store in self.stores:
            await store.aclose()
        for client in self.clients:
            await client.aclose()
        for key in self.server.command("KEYS", f"{self.prefix}*"):
            self.server.command("DEL", key)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    with RedisServer() as server, RedisServer(password=PASSWORD) as locked:
        yield server, locked


Provocation = Callable[[Bench], Awaitable[object]]
PROVOCATIONS: Final[dict[str, tuple[type[Exception], str, Provocation]]] = {}


def provokes(error: type[Exception], words: str = ".") -> Callable[[Provocation], Provocation]:
    """Register what must raise an error whose text holds some words."""

    def register(provocation: Provocation) -> Provocation:
        PROVOCATIONS[getattr(provocation, "__name__", "")] = (error, words, provocation)
        return provocation

    return register


# Of passwords, while connecting


@provokes(ServerRefusedError, "does not accept the username and password")
async def a_wrong_password(bench: Bench) -> None:
    await bench.url(f"redis://:{PASSWORD}x@{bench.locked.addr}").load("a1", "s1")


@provokes(ServerRefusedError, "does not accept the username and password")
async def a_wrong_user(bench: Bench) -> None:
    await bench.url(f"redis://ann:{PASSWORD}@{bench.locked.addr}").save(a_state())


@provokes(ServerRefusedError)
async def a_password_for_a_server_that_has_none(bench: Bench) -> None:
    await bench.url(f"redis://ann:{PASSWORD}@{bench.server.addr}").save(a_state())


@provokes(ServerRefusedError, "NOAUTH")
async def no_password(bench: Bench) -> None:
    await bench.url(f"redis://{bench.locked.addr}").save(a_state())


@provokes(ServerRefusedError, "does not accept the username and password")
async def a_wrong_password_of_a_client(bench: Bench) -> None:
    await bench.client(port=bench.locked.port, password=f"{PASSWORD}x").save(a_state())


@provokes(ServerRefusedError, "does not accept the username and password")
async def a_wrong_password_on_entry(bench: Bench) -> None:
    async with bench.url(f"redis://:{PASSWORD}x@{bench.locked.addr}"):
        pass


@provokes(ServerRefusedError, "does not accept the username and password")
async def a_wrong_password_of_a_config(bench: Bench) -> None:
    config = RedisConfig(addrs=[bench.locked.addr], username="ann", password=PASSWORD, dial_timeout=2)
    assert CANARY not in repr(config)
    await bench.kept(RedisStateStore.from_config(config)).ping()


@provokes(StoreUnavailableError, "Connection refused")
async def a_refused_port(bench: Bench) -> None:
    await bench.url(f"redis://ann:{PASSWORD}@127.0.0.1:1").save(a_state())


@provokes(StoreUnavailableError, "cannot be resolved")
async def a_host_that_does_not_exist(bench: Bench) -> None:
    await bench.url(f"redis://ann:{PASSWORD}@nowhere.invalid").save(a_state())


@provokes(StoreUnavailableError, "No such file")
async def a_socket_that_does_not_exist(bench: Bench) -> None:
    await bench.url(f"unix://ann:{PASSWORD}@/nowhere/redis.sock").save(a_state())


@provokes(StoreUnavailableError, "dial_timeout|TLS")
async def tls_with_a_server_that_has_none(bench: Bench) -> None:
    await bench.url(f"rediss://ann:{PASSWORD}@{bench.server.addr}").save(a_state())


@provokes(StoreUnavailableError, "no cluster")
async def a_cluster_that_is_none(bench: Bench) -> None:
    await bench.url(f"redis+cluster://:{PASSWORD}@{bench.locked.addr}").save(a_state())


@provokes(StoreUnavailableError)
async def a_cluster_that_is_not_there(bench: Bench) -> None:
    await bench.url(f"redis+cluster://:{PASSWORD}@127.0.0.1:1,127.0.0.1:2").save(a_state())


@provokes(StateStoreError)
async def a_cluster_with_another_password(bench: Bench) -> None:
    await bench.url(f"redis+cluster://:{PASSWORD}x@{bench.locked.addr}").save(a_state())


@provokes(StoreUnavailableError, "Sentinel")
async def sentinels_that_are_not_there(bench: Bench) -> None:
    url = f"redis+sentinel://:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/mymaster?sentinel_password={PASSWORD}"
    await bench.url(url).save(a_state())


@provokes(StateStoreError)
async def a_sentinel_that_is_none(bench: Bench) -> None:
    url = f"redis+sentinel://:{PASSWORD}@{bench.server.addr}/mymaster?sentinel_password={PASSWORD}"
    await bench.url(url).save(a_state())


@provokes(ServerRefusedError, "no database")
async def a_database_that_does_not_exist(bench: Bench) -> None:
    await bench.url(f"redis://:{PASSWORD}@{bench.locked.addr}/9999").save(a_state())


@provokes(ValueError)
async def an_unknown_scheme(bench: Bench) -> None:
    bench.url(f"http://ann:{PASSWORD}@a")


@provokes(ValueError, "percent-encoded")
async def a_password_that_is_not_encoded(bench: Bench) -> None:
    open_store(f"redis://ann:x?{PASSWORD}@a")


@provokes(ValueError, "unknown option")
async def an_unknown_option(bench: Bench) -> None:
    bench.url(f"redis://ann:{PASSWORD}@a?passwd={PASSWORD}")


@provokes(ValueError)
async def an_option_that_cannot_be_read(bench: Bench) -> None:
    bench.url(f"redis://ann:{PASSWORD}@a?pool_size={PASSWORD}")


@provokes(TypeError)
async def a_password_that_is_no_url(bench: Bench) -> None:
    RedisStateStore(PASSWORD)  # pyright: ignore[reportArgumentType]


# Of payloads that are refused before they are sent


def refuses(value: object, expected: str) -> Provocation:
    """A save of a context with a value that cannot be stored, beside one that is secret."""

    async def provocation(bench: Bench) -> None:
        state = a_state(context={"first": PAYLOAD, "here": value, "last": [PAYLOAD]})
        with pytest.raises(StateEncodeError) as caught:
            await bench.url(bench.server.url).save(state)
        assert caught.value.path == expected
        raise caught.value

    return provocation


class Rude(str):
    """A value whose own errors hold what it holds."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ValueError(str(self))

    __hash__ = str.__hash__


UNSTORABLE: Final[dict[str, tuple[object, str]]] = {
    "nan": (float("nan"), "$.context.here"),
    "bytes": (PAYLOAD.encode(), "$.context.here"),
    "a_set": ({PAYLOAD}, "$.context.here"),
    "a_tuple": ((PAYLOAD,), "$.context.here"),
    "a_key": ({(PAYLOAD,): PAYLOAD}, "$.context.here"),
    "an_object": (ValueError(PAYLOAD), "$.context.here"),
    "a_lone_surrogate": (f"{PAYLOAD}\ud800", "$.context.here"),
    "a_set_further_down": ({"deep": [[PAYLOAD], {"here": {PAYLOAD}}]}, "$.context.here.deep[1].here"),
    "an_error_of_its_own": (Rude(PAYLOAD), "$.context.here"),
}
for kind, (odd, where) in UNSTORABLE.items():
    PROVOCATIONS[f"a_state_with_{kind}"] = (StateEncodeError, "cannot be stored", refuses(odd, where))


@provokes(StateTooLargeError, "max_state_bytes")
async def a_state_above_the_limit_of_its_store(bench: Bench) -> None:
    async with MemoryStateStore(max_state_bytes=100) as store:
        await store.save(a_state())


@provokes(StateEncodeError)
async def an_integer_that_messagepack_cannot_hold(bench: Bench) -> None:
    await bench.url(bench.server.url, format="msgpack").save(a_state(data={"text": PAYLOAD, "big": 10**40}))


@provokes(StateEncodeError, r"\$\.messages\[0\]\.content")
async def a_field_of_another_type(bench: Bench) -> None:
    await bench.url(bench.server.url).save(a_state(messages=[Message("user", PAYLOAD.encode())]))  # pyright: ignore[reportArgumentType]


@provokes(StateEncodeError)
async def a_field_that_was_deleted(bench: Bench) -> None:
    state = a_state()
    del state.data
    await bench.url(bench.server.url).save(state)


@provokes(StateEncodeError)
async def an_append_of_what_is_no_message(bench: Bench) -> None:
    store = bench.url(bench.server.url)
    await store.save(a_state())
    await store.append("a1", "s1", [{"role": "user", "content": PAYLOAD}])


@provokes(TypeError, "AgentState")
async def a_state_that_is_none(bench: Bench) -> None:
    await bench.url(bench.server.url).save(PAYLOAD)


@provokes(TypeError, "ttl")
async def a_time_to_live_that_is_none(bench: Bench) -> None:
    await bench.url(bench.server.url).save(a_state(), ttl=PAYLOAD)


@provokes(ValueError)
async def a_version_that_is_none(bench: Bench) -> None:
    await bench.url(bench.server.url).save(a_state(version=-1))


@provokes(InvalidIdError)
async def an_id_that_is_none(bench: Bench) -> None:
    await bench.url(bench.server.url).load("a1", PAYLOAD * 1000)


# Of payloads that are stored


def stores(value: bytes) -> Provocation:
    """A load of bytes that are no state."""

    async def provocation(bench: Bench) -> None:
        bench.server.command("SET", bench.key, value)
        store = bench.url(bench.server.url)
        with pytest.raises(StateDecodeError) as caught:
            await store.load_many("a1", ["s1"])
        assert CANARY not in everything_of(caught.value)
        await store.load("a1", "s1")

    return provocation


for kind, foreign in {
    "nonsense": PAYLOAD.encode(),
    "a_text": f'"{PAYLOAD}"'.encode(),
    "another_type": f'{{"agent_id":"a1","session_id":"s1","version":"{PAYLOAD}"}}'.encode(),
    "a_wrong_time": f'{{"agent_id":"a1","session_id":"s1","created_at":"{PAYLOAD}"}}'.encode(),
    "half_a_document": f'{{"agent_id":"a1","session_id":"s1","context":{{"x":"{PAYLOAD}'.encode(),
    "no_utf_8": f'{{"agent_id":"{PAYLOAD}\\ud800","session_id":"s1"}}'.encode() + b"\xff",
    "depth": f'{{"agent_id":"{PAYLOAD}","context":{{"x":'.encode() + b"[" * 20_000,
    "a_wrong_line": (
        f'{{"agent_id":"a1","session_id":"s1"}}\n{{"messages":["{PAYLOAD}"],"_rev":"2-AAAAAA,@35"}}'.encode()
    ),
    "messagepack": b"\x82\xa8agent_id\xae" + PAYLOAD.encode() + b"\xaasession_id\x01\xa4_rev\xa91-AAAAAA.",
}.items():
    PROVOCATIONS[f"stored_{kind}"] = (StateDecodeError, "is no state", stores(foreign))


@provokes(StateDecodeError)
async def an_append_to_what_is_no_state(bench: Bench) -> None:
    bench.server.command("SET", bench.key, PAYLOAD)
    await bench.url(bench.server.url).append("a1", "s1", [Message("user", PAYLOAD)])


@provokes(StateDecodeError)
async def a_conditional_save_over_what_is_no_state(bench: Bench) -> None:
    bench.server.command("SET", bench.key, PAYLOAD)
    await bench.url(bench.server.url).save(a_state(), if_version=1)


# Of payloads that the server refuses


@provokes(ServerRefusedError, "WRONGTYPE.*key_prefix")
async def a_key_of_another_type(bench: Bench) -> None:
    bench.server.command("RPUSH", bench.key, PAYLOAD)
    await bench.url(bench.server.url).save(a_state())


@provokes(ServerRefusedError, "WRONGTYPE")
async def a_conditional_save_to_a_key_of_another_type(bench: Bench) -> None:
    bench.server.command("RPUSH", bench.key, PAYLOAD)
    await bench.url(bench.server.url).save(a_state(), if_version=0)


@provokes(ServerRefusedError, "OOM.*maxmemory")
async def a_server_that_is_full(bench: Bench) -> None:
    store = bench.url(bench.server.url)
    await store.ping()
    with bench.setting("maxmemory", 1):
        await store.save(a_state())


@provokes(ServerRefusedError, "OOM")
async def a_conditional_save_to_a_server_that_is_full(bench: Bench) -> None:
    store = bench.url(bench.server.url)
    await store.ping()
    with bench.setting("maxmemory", 1):
        await store.save(a_state(), if_version=0)


@provokes(ServerRefusedError, "proto-max-bulk-len")
async def a_state_that_is_too_large(bench: Bench) -> None:
    with bench.setting("proto-max-bulk-len", 1024 * 1024):
        await bench.url(bench.server.url).save(a_state(data={"text": PAYLOAD * 200_000}))


@provokes(ServerRefusedError, "NOPERM.*permission")
async def a_user_without_the_permission(bench: Bench) -> None:
    user = f"ann-{uuid.uuid4().hex}"
    bench.server.command("ACL", "SETUSER", user, "on", f">{PASSWORD}", "~*", "&*", "+@all", "-set")
    try:
        await bench.url(f"redis://{user}:{PASSWORD}@{bench.server.addr}").save(a_state())
    finally:
        bench.server.command("ACL", "DELUSER", user)


@provokes(ServerRefusedError, "NOPERM")
async def a_user_without_scripts(bench: Bench) -> None:
    user = f"ann-{uuid.uuid4().hex}"
    bench.server.command("ACL", "SETUSER", user, "on", f">{PASSWORD}", "~*", "&*", "+@all", "-@scripting")
    try:
        await bench.url(f"redis://{user}:{PASSWORD}@{bench.server.addr}").save(a_state(), if_version=0)
    finally:
        bench.server.command("ACL", "DELUSER", user)


@provokes(ServerRefusedError, "NOPERM")
async def a_user_without_the_keys(bench: Bench) -> None:
    user = f"ann-{uuid.uuid4().hex}"
    bench.server.command("ACL", "SETUSER", user, "on", f">{PASSWORD}", "~other:*", "&*", "+@all")
    try:
        await bench.url(f"redis://{user}:{PASSWORD}@{bench.server.addr}").save(a_state())
    finally:
        bench.server.command("ACL", "DELUSER", user)


@provokes(StoreUnavailableError, "NOREPLICAS|replicas")
async def a_server_without_enough_replicas(bench: Bench) -> None:
    with bench.setting("min-replicas-to-write", 1):
        await bench.url(bench.server.url).save(a_state())


@provokes(NotReplicatedError, "0 of 1")
async def a_write_that_no_replica_confirms(bench: Bench) -> None:
    await bench.url(bench.server.url, replicas=1).save(a_state())


@provokes(OutcomeUnknownError)
async def a_write_whose_reply_never_comes(bench: Bench) -> None:
    store = bench.url(bench.server.url)
    await store.save(a_state())
    bench.server.command("CLIENT", "PAUSE", PAUSE, "ALL")
    try:
        await store.save(a_state())
    finally:
        bench.server.command("CLIENT", "UNPAUSE")


@provokes(StateStoreError)
async def a_read_whose_reply_never_comes(bench: Bench) -> None:
    store = bench.url(bench.server.url)
    await store.save(a_state())
    bench.server.command("CLIENT", "PAUSE", PAUSE, "ALL")
    try:
        await store.load("a1", "s1")
    finally:
        bench.server.command("CLIENT", "UNPAUSE")


@provokes(PartitionsMismatchError)
async def another_number_of_partitions(bench: Bench) -> None:
    await bench.url(bench.server.url, partitions=3).save(a_state())
    await bench.url(bench.server.url, partitions=2).save(a_state())


# Of a caller's mistakes


@provokes(VersionConflictError)
async def a_conflict(bench: Bench) -> None:
    store = bench.url(bench.server.url)
    await store.save(a_state())
    await store.save(a_state(), if_version=0)


@provokes(VersionConflictError)
async def a_conflict_in_memory(bench: Bench) -> None:
    store = bench.kept(MemoryStateStore())
    await store.save(a_state())
    await store.save(a_state(), if_version=0)


@provokes(StateEncodeError)
async def a_refusal_in_memory(bench: Bench) -> None:
    await bench.kept(MemoryStateStore()).save(a_state(data={"text": PAYLOAD, "x": {PAYLOAD}}))


@provokes(StateNotFoundError)
async def nothing_there(bench: Bench) -> None:
    await bench.url(bench.server.url).append("a1", "s1", [Message("user", PAYLOAD)])


@provokes(StoreClosedError)
async def a_closed_store(bench: Bench) -> None:
    store = bench.url(f"redis://:{PASSWORD}@{bench.locked.addr}")
    await store.ping()
    await store.aclose()
    await store.save(a_state())


@provokes(ForeignLoopError)
async def another_event_loop(bench: Bench) -> None:
    store = bench.url(bench.server.url)
    await store.ping()
    await asyncio.to_thread(lambda: asyncio.run(store.save(a_state())))


@pytest.mark.parametrize("name", PROVOCATIONS)
async def test_no_error_shows_what_is_secret(
    servers: tuple[RedisServer, RedisServer], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in its text, data, cause or context, not in a line of any log, and not in the repr of its store."""
    expected, words, provocation = PROVOCATIONS[name]
    caplog.set_level(logging.DEBUG)
    bench = Bench(*servers)
    try:
        with pytest.raises(expected, match=words) as caught:
            await provocation(bench)
        assert CANARY not in "\n".join(map(repr, bench.stores))
    finally:
        await bench.aclose()
    error = caught.value
    assert type(error).__module__ in {"redis_state.errors", "builtins"}
    assert isinstance(error, StateStoreError | TypeError | ValueError)
    assert CANARY not in everything_of(error)
    assert "\n" not in str(error)
    for record in caplog.records:
        logged = [record.getMessage(), repr(record.args), repr(record.msg), record.exc_text or ""]
        if record.exc_info and record.exc_info[1]:
            logged.append(everything_of(record.exc_info[1]))
        assert CANARY not in "\n".join(logged)


def test_every_error_is_provoked() -> None:
    """The table above has a case for each class that an operation raises."""
    provoked = {error for error, _, _ in PROVOCATIONS.values()}
    every = {getattr(redis_state, name) for name in redis_state.__all__ if name.endswith("Error")}
    assert every - provoked <= {StoreTimeoutError}


async def test_a_timeout_is_a_timeout_error(servers: tuple[RedisServer, RedisServer]) -> None:
    """So that code which knows nothing of this library treats it as one."""
    bench = Bench(*servers)
    store = bench.url(bench.server.url)
    await store.save(a_state())
    bench.server.command("CLIENT", "PAUSE", PAUSE, "ALL")
    try:
        with pytest.raises(TimeoutError) as caught:
            await store.load("a1", "s1")
    finally:
        bench.server.command("CLIENT", "UNPAUSE")
        await bench.aclose()
    assert isinstance(caught.value, StoreTimeoutError)


async def test_logs_are_for_debugging_only(
    servers: tuple[RedisServer, RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever happens, nothing is logged above DEBUG, and all of it to `redis_state` or to the logger given."""
    caplog.set_level(logging.DEBUG)
    bench = Bench(*servers)
    mine = logging.getLogger("mine")
    try:
        store = bench.url(bench.server.url, logger=mine)
        await store.save(a_state())
        with pytest.raises(ServerRefusedError):
            await bench.url(f"redis://:{PASSWORD}x@{bench.locked.addr}").load("a1", "s1")
    finally:
        await bench.aclose()
    ours = [record for record in caplog.records if record.name in ("mine", "redis_state")]
    assert {record.name for record in ours} == {"mine", "redis_state"}
    assert {record.levelno for record in ours} == {logging.DEBUG}
