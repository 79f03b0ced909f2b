"""A store on the primary that Sentinel names, before, while and after another one takes over; and on lone replicas."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from support.load import SLACK, Load, Store, half_writes, messages, state, until
from support.sentinel import SentinelServers

from redis_state import (
    NotReplicatedError,
    RedisConfig,
    RedisStateStore,
    ServerRefusedError,
    StateStoreError,
    StoreUnavailableError,
)
from redis_state.testing import RedisServer

PASSWORD, SENTINEL_PASSWORD = "canary-7f3a9 /:@", "canary-b21c4 /:@"
CANARY = "canary-"
AGENTS = [f"agent-{n}" for n in range(6)]
BUDGET = 3.0  # seconds that an operation of these stores may take: read_timeout and write_timeout
Pair = tuple[RedisServer, RedisServer]


@pytest.fixture(scope="module")
def systems() -> Iterator[dict[str, SentinelServers]]:
    """A system for each way to fail over, since it takes half a minute until one can do it again."""
    names = ("kill", "freeze", "command")
    made = {name: SentinelServers(password=PASSWORD, sentinel_password=SENTINEL_PASSWORD) for name in names}
    with concurrent.futures.ThreadPoolExecutor() as threads, ExitStack() as stack:
        for each, start in [(each, threads.submit(each.__enter__)) for each in made.values()]:
            stack.push(each)
            start.result()
        yield made


@pytest.fixture
def system(systems: dict[str, SentinelServers]) -> SentinelServers:
    """One that the first tests leave as it is; they run before its failover."""
    return systems["command"]


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


def url_of(system: SentinelServers, prefix: str, **options: object) -> str:
    """The URL of a system, with short times and with the password of its sentinels."""
    times = {"dial_timeout": 2, "read_timeout": 1, "write_timeout": BUDGET - 1}
    options = {"sentinel_password": SENTINEL_PASSWORD, "key_prefix": prefix, **times, **options}
    return f"{system.url}?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())


def config_of(system: SentinelServers, prefix: str, **options: Any) -> RedisConfig:
    """The same as a configuration."""
    options = {"sentinel_addrs": system.sentinel_addrs, "dial_timeout": 2.0, "password": PASSWORD, **options}
    sentinel: dict[str, Any] = {"master_name": system.service_name, "sentinel_password": SENTINEL_PASSWORD}
    return RedisConfig(key_prefix=prefix, **sentinel, **options)


async def opening_fails(url: str) -> StateStoreError:
    """The error with which a store fails to open, which it does within its dial_timeout of two seconds."""
    async with asyncio.timeout(2 + SLACK):
        with pytest.raises(StateStoreError) as caught:
            await RedisStateStore.from_url(url).__aenter__()
    return caught.value


async def test_a_url_and_a_config_lead_to_the_primary(system: SentinelServers, prefix: str) -> None:
    """With passwords of their own for the servers and the sentinels, and the database that is named."""
    async with (
        RedisStateStore.from_config(config_of(system, prefix, db=3)) as by_config,
        RedisStateStore.from_url(url_of(system, prefix).replace("/0?", "/3?")) as by_url,
    ):
        await by_config.save(state("s", "hello"))
        assert (await by_url.load("a", "s")).messages[0].content == "hello"
        assert (await system.primary()).info("keyspace")["db3"].startswith("keys=2,")
        assert await by_config.delete_agent("a") == 1


async def test_a_dead_and_a_frozen_sentinel_are_passed_over(system: SentinelServers, prefix: str) -> None:
    """As long as one sentinel answers, the store opens within its dial_timeout."""
    frozen, _, alive = system.sentinels
    addrs = ["127.0.0.1:1", frozen.addr, alive.addr]
    frozen.freeze()
    try:
        async with RedisStateStore.from_config(config_of(system, prefix, sentinel_addrs=addrs)) as store:
            await store.save(state("s"))
    finally:
        frozen.thaw()


async def test_what_keeps_a_store_from_its_primary_is_named(system: SentinelServers, prefix: str) -> None:
    """A name that no sentinel knows, sentinels that are not there, a wrong or missing sentinel_password."""
    unknown = await opening_fails(url_of(system, prefix).replace("/mymaster/", "/yourmaster/"))
    assert isinstance(unknown, StoreUnavailableError)
    for word in ("yourmaster", "check master_name"):
        assert word in str(unknown)
    absent = await opening_fails("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster?dial_timeout=2")
    assert isinstance(absent, StoreUnavailableError)
    assert "sentinel" in str(absent).lower()
    assert "check master_name" not in str(absent)
    for url in (url_of(system, prefix, sentinel_password="wrong"), f"{system.url}?dial_timeout=2"):
        assert "sentinel_password" in str(await opening_fails(url))


async def test_no_error_and_no_log_line_holds_a_password(
    system: SentinelServers, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the servers' nor the sentinels', whichever is refused, also in chained errors and reprs."""
    caplog.set_level(logging.DEBUG)
    right = url_of(system, prefix)
    refused = right.replace(quote(PASSWORD, safe=""), quote(f"{PASSWORD} wrong", safe=""))
    seen: list[str] = []
    for url in (
        right.replace("/mymaster/", "/yourmaster/"),
        refused,
        url_of(system, prefix, sentinel_password=f"{SENTINEL_PASSWORD} wrong"),
        f"redis+sentinel://:{CANARY}@127.0.0.1:1/mymaster?dial_timeout=1&sentinel_password={CANARY}",
    ):
        store = RedisStateStore.from_url(url)
        with pytest.raises(StateStoreError) as caught:
            await store.save(state("s"))
        seen.append(repr(store))
        error: BaseException | None = caught.value
        while error is not None:
            seen += [str(error), repr(error)]
            error = error.__cause__ or error.__context__
        await store.aclose()
    assert CANARY not in "\n".join([*seen, caplog.text])
    assert isinstance(await opening_fails(refused), ServerRefusedError)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_lost_primary_is_replaced_without_a_restart(
    systems: dict[str, SentinelServers], prefix: str, fault: str
) -> None:
    """Writes go on at the server that the sentinels choose, and no operation ends past its deadline."""
    system = systems[fault]
    old = await system.primary()
    async with RedisStateStore.from_url(url_of(system, prefix)) as store:
        async with Load(store, AGENTS) as load:
            await asyncio.sleep(0.5)
            getattr(old, fault)()
            new = await system.wait_for_other_primary(old)
            await on_the_new_primary(store, new, prefix)
            if fault == "freeze":
                old.thaw()  # it believes that it is the primary still
            await asyncio.sleep(1.0)
            failed = load.errors.total()
            await asyncio.sleep(0.5)
        await load.report(f"primary lost by {fault}")
        assert load.errors.total() == failed
        assert "ServerRefusedError" not in load.errors  # READONLY is never the user's problem
        assert load.slowest < BUDGET + SLACK
        assert half_writes([new], prefix) == set()


async def test_a_demoted_primary_is_left_when_the_sentinels_name_another(system: SentinelServers, prefix: str) -> None:
    """After SENTINEL FAILOVER the old primary takes writes for half a minute: none of them is acknowledged.

    Whatever is acknowledged later than an operation's time after the sentinels agreed is on the new primary.
    """
    old = await system.primary()
    async with RedisStateStore.from_url(url_of(system, prefix)) as store:
        async with Load(store, AGENTS) as load:
            await asyncio.sleep(0.5)
            new = await system.failover()
            await on_the_new_primary(store, new, prefix)
            before = set(load.tried)
            await asyncio.sleep(1.0)
        await load.report("SENTINEL FAILOVER")
        assert set(load.errors) <= {"StateNotFoundError", "VersionConflictError", "StoreUnavailableError"}
        assert load.slowest < BUDGET + SLACK
        assert set(load.tried) > before
        assert await load.lost(before) == 0
        assert half_writes([new], prefix) == set()
        # A server that is demoted with its connections open answers READONLY, which nobody gets to see.
        old.command("REPLICAOF", new.host, new.port)
        for agent_id in AGENTS:
            await store.save(state("demoted", agent_id=agent_id))
            assert new.command("EXISTS", f"{prefix}{{{agent_id}}}:demoted") == 1


async def on_the_new_primary(store: Store, new: RedisServer, prefix: str) -> None:
    """Check that within an operation's time what is acknowledged is on the new primary, and stays so."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BUDGET + SLACK
    found = 0
    while found < 20:
        session_id = uuid.uuid4().hex
        try:
            await store.save(state(session_id, agent_id=AGENTS[0]))
        except StateStoreError:
            there = 0
        else:
            there = new.command("EXISTS", f"{prefix}{{{AGENTS[0]}}}:{session_id}")
        found = found + 1 if there else 0
        assert loop.time() < deadline, "the old primary is still written to"
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary and a replica without Sentinel."""
    with RedisServer() as primary, RedisServer(config={"replicaof": f"{primary.host} {primary.port}"}) as replica:
        yield primary, replica


@asynccontextmanager
async def confirmed(pair: Pair, prefix: str) -> AsyncGenerator[Store]:
    """A store that waits for the replica, which is frozen inside; afterwards it follows, and writes are confirmed."""
    primary, replica = pair
    await until(lambda: replica.info("replication")["master_link_status"] == "up")
    url = f"{primary.url}?key_prefix={prefix}&read_timeout=2&write_timeout=2"
    async with RedisStateStore.from_url(url, replicas=1) as store:
        await store.save(state("before"))
        replica.freeze()
        try:
            yield store
        finally:
            primary.command("REPLICAOF", "NO", "ONE")
            replica.thaw()
        await until(lambda: replica.info("replication")["master_link_status"] == "up")
        await store.save(state("after"))
        assert await store.delete_agent("a") == 3


async def test_writes_to_a_replica_end_in_an_error_that_names_the_fix(pair: Pair, prefix: str) -> None:
    """Behind a plain address there is no other server to ask for: it says that this is a replica."""
    primary, replica = pair
    async with RedisStateStore.from_url(f"{primary.url}?key_prefix={prefix}") as store:
        await store.save(state("s"))
    await until(lambda: replica.command("EXISTS", f"{prefix}{{a}}:s") == 1)
    url = f"{replica.url}?key_prefix={prefix}&read_timeout=0.5&write_timeout=0.5"
    async with RedisStateStore.from_url(url) as store, asyncio.timeout(2 + 2 * SLACK):
        for write in (lambda: store.save(state("s")), lambda: store.append("a", "s", messages("more"))):
            with pytest.raises((StoreUnavailableError, ServerRefusedError), match="it is a replica; connect to the pr"):
                await write()
        assert await store.list("a") == ["s"]


async def test_a_write_that_no_replica_confirmed_says_so(pair: Pair, prefix: str) -> None:
    """NotReplicatedError within the deadline: applied, and not replicated. Reads are not concerned."""
    async with confirmed(pair, prefix) as store:
        async with asyncio.timeout(4 + SLACK):
            with pytest.raises(NotReplicatedError) as caught:
                await store.save(state("unconfirmed"))
        assert (caught.value.wanted, caught.value.confirmed) == (1, 0)
        assert (await store.load("a", "unconfirmed")).version == 1


async def test_a_primary_that_is_demoted_before_replicas_confirmed_leaves_the_write_unconfirmed(
    pair: Pair, prefix: str
) -> None:
    """The server refuses the WAIT that it had begun: the write is NotReplicatedError, at once."""
    primary, _ = pair
    async with confirmed(pair, prefix) as store:
        write = asyncio.create_task(store.save(state("unconfirmed")))
        await until(lambda: primary.info("clients")["blocked_clients"] == "1")
        primary.command("REPLICAOF", "127.0.0.1", 1)
        async with asyncio.timeout(SLACK):
            with pytest.raises(NotReplicatedError):
                await write
