"""A store on the primary that Sentinel names, before, while and after another one takes over; and on lone replicas."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from support.load import SLACK, Load, Store, half_writes, messages, state, until
from support.proxy import FaultProxy
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

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD, SENTINEL_PASSWORD = "canary-7f3a9 /:@", "canary-b21c4 /:@"
CANARY = "canary-"
AGENTS = [f"agent-{n}" for n in range(6)]
BUDGET = 3.0  # seconds that an operation of these stores may take: read_timeout and write_timeout


@pytest.fixture(autouse=True)
def nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What a test left open warns in this test and not in a later one, and no callback of the loop has failed."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"] == []


@pytest.fixture(scope="module")
def systems() -> Iterator[dict[str, SentinelServers]]:
    """A system for each way to fail over, since it takes half a minute until one can do it again."""
    made = {
        name: SentinelServers(password=PASSWORD, sentinel_password=SENTINEL_PASSWORD)
        for name in ("kill", "freeze", "command")
    }
    with concurrent.futures.ThreadPoolExecutor() as threads:
        starts = [threads.submit(each.__enter__) for each in made.values()]
    try:
        for start in starts:
            start.result()
        yield made
    finally:
        for each in made.values():
            each.__exit__(None, None, None)


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


def url_of(system: SentinelServers, prefix: str, **options: object) -> str:
    """The URL of a system, with short times and with the password of its sentinels."""
    options = {
        "sentinel_password": SENTINEL_PASSWORD,
        "key_prefix": prefix,
        "dial_timeout": 2,
        "read_timeout": 1,
        "write_timeout": BUDGET - 1,
        **options,
    }
    return f"{system.url}?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())


async def opens_in_time(url: str, seconds: float) -> StateStoreError:
    """The error with which a store fails to open, which it does in its time."""
    async with asyncio.timeout(seconds + SLACK):
        with pytest.raises(StateStoreError) as caught:
            await RedisStateStore.from_url(url).__aenter__()
    return caught.value


class TestConnecting:
    @pytest.fixture
    def system(self, systems: dict[str, SentinelServers]) -> SentinelServers:
        """One that the tests below leave as it is; they run before its failover."""
        return systems["command"]

    async def test_a_url_and_a_config_lead_to_the_primary(self, system: SentinelServers, prefix: str) -> None:
        """With passwords of their own for the servers and the sentinels, and the database that is named."""
        config = RedisConfig(
            master_name=system.service_name,
            sentinel_addrs=system.sentinel_addrs,
            sentinel_password=SENTINEL_PASSWORD,
            password=PASSWORD,
            key_prefix=prefix,
            db=3,
        )
        async with (
            RedisStateStore.from_config(config) as by_config,
            RedisStateStore.from_url(url_of(system, prefix).replace("/0?", "/3?")) as by_url,
        ):
            await by_config.save(state("s", "hello", agent_id="agent"))
            assert (await by_url.load("agent", "s")).messages[0].content == "hello"
        primary = await system.primary()
        assert primary.info("keyspace")["db3"].startswith("keys=2,")
        async with RedisStateStore.from_config(config) as store:
            assert await store.delete_agent("agent") == 1

    async def test_a_dead_and_a_frozen_sentinel_are_passed_over(self, system: SentinelServers, prefix: str) -> None:
        """As long as one sentinel answers, the store opens within its dial_timeout."""
        frozen, _, alive = system.sentinels
        config = RedisConfig(
            master_name=system.service_name,
            sentinel_addrs=["127.0.0.1:1", frozen.addr, alive.addr],
            sentinel_password=SENTINEL_PASSWORD,
            password=PASSWORD,
            key_prefix=prefix,
            dial_timeout=2.0,
        )
        frozen.freeze()
        try:
            async with RedisStateStore.from_config(config) as store:
                await store.save(state("s", agent_id="agent"))
        finally:
            frozen.thaw()

    async def test_a_name_that_no_sentinel_knows_says_what_to_check(self, system: SentinelServers, prefix: str) -> None:
        """The error names the service and the two settings, within dial_timeout."""
        url = url_of(system, prefix).replace("/mymaster/", "/yourmaster/")
        error = await opens_in_time(url, 2)
        assert isinstance(error, StoreUnavailableError)
        assert "yourmaster" in str(error)
        assert "check master_name" in str(error)

    async def test_sentinels_that_are_not_there_are_not_a_wrong_name(self, prefix: str) -> None:
        """Where no sentinel answers, the error says that and does not blame the name."""
        error = await opens_in_time("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster?dial_timeout=2", 2)
        assert isinstance(error, StoreUnavailableError)
        assert "sentinel" in str(error).lower()
        assert "check master_name" not in str(error)

    async def test_a_wrong_sentinel_password_is_named_as_such(self, system: SentinelServers, prefix: str) -> None:
        """It is the sentinels' password that is wrong, not the server's and not the name of the service."""
        error = await opens_in_time(url_of(system, prefix, sentinel_password="wrong"), 2)
        assert "sentinel_password" in str(error)
        missing = await opens_in_time(f"{system.url}?dial_timeout=2", 2)
        assert "sentinel_password" in str(missing)

    async def test_no_error_and_no_log_line_holds_a_password(
        self, system: SentinelServers, prefix: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither the servers' nor the sentinels', whichever is refused, also in chained errors and reprs."""
        caplog.set_level(logging.DEBUG)
        right = url_of(system, prefix)
        urls = [
            right.replace("/mymaster/", "/yourmaster/"),
            right.replace(quote(PASSWORD, safe=""), quote(f"{PASSWORD} wrong", safe="")),
            url_of(system, prefix, sentinel_password=f"{SENTINEL_PASSWORD} wrong"),
            f"redis+sentinel://:{CANARY}@127.0.0.1:1/mymaster?dial_timeout=1&sentinel_password={CANARY}",
        ]
        seen: list[str] = []
        for url in urls:
            store = RedisStateStore.from_url(url)
            with pytest.raises(StateStoreError) as caught:
                await store.save(state("s", agent_id="agent"))
            seen.append(repr(store))
            error: BaseException | None = caught.value
            while error is not None:
                seen += [str(error), repr(error)]
                error = error.__cause__ or error.__context__
            await store.aclose()
        assert CANARY not in "\n".join([*seen, caplog.text])
        assert isinstance(await opens_in_time(urls[1], 2), ServerRefusedError)


class TestFailover:
    @pytest.mark.parametrize("fault", ["kill", "freeze"])
    async def test_a_lost_primary_is_replaced_without_a_restart(
        self, systems: dict[str, SentinelServers], prefix: str, fault: str
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

    async def test_a_demoted_primary_is_left_when_the_sentinels_name_another(
        self, systems: dict[str, SentinelServers], prefix: str
    ) -> None:
        """After SENTINEL FAILOVER the old primary takes writes for half a minute: none of them is acknowledged.

        Whatever is acknowledged later than an operation's time after the sentinels agreed is on the new primary.
        """
        system = systems["command"]
        old = await system.primary()
        async with RedisStateStore.from_url(url_of(system, prefix)) as store:
            async with Load(store, AGENTS) as load:
                await asyncio.sleep(0.5)
                new = await system.failover()
                await on_the_new_primary(store, new, prefix)
                before = set(load.tried)
                await asyncio.sleep(1.0)
                takes_writes = old.info("replication")["role"] == "master"
            await load.report(
                f"SENTINEL FAILOVER, the old primary {'still takes' if takes_writes else 'takes no'} writes"
            )
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
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and a replica without Sentinel."""
    with RedisServer() as primary, RedisServer(config={"replicaof": f"{primary.host} {primary.port}"}) as replica:
        yield primary, replica


@pytest.fixture
async def linked(pair: tuple[RedisServer, RedisServer]) -> tuple[RedisServer, RedisServer]:
    """The two, when the replica follows."""
    await until(lambda: pair[1].info("replication")["master_link_status"] == "up")
    return pair


class TestReplicas:
    async def test_writes_to_a_replica_end_in_an_error_that_names_the_fix(
        self, linked: tuple[RedisServer, RedisServer], prefix: str
    ) -> None:
        """Behind a plain address there is no other server to ask for: it says that this is a replica."""
        primary, replica = linked
        async with RedisStateStore.from_url(f"{primary.url}?key_prefix={prefix}") as store:
            await store.save(state("s", agent_id="agent"))
        await until(lambda: replica.command("EXISTS", f"{prefix}{{agent}}:s") == 1)
        url = f"{replica.url}?key_prefix={prefix}&read_timeout=0.5&write_timeout=0.5"
        async with RedisStateStore.from_url(url) as store, asyncio.timeout(2 + 2 * SLACK):
            with pytest.raises(
                (StoreUnavailableError, ServerRefusedError), match="it is a replica; connect to the pri"
            ):
                await store.save(state("s", agent_id="agent"))
            with pytest.raises(
                (StoreUnavailableError, ServerRefusedError), match="it is a replica; connect to the pri"
            ):
                await store.append("agent", "s", messages("more"))
            assert await store.list("agent") == ["s"]

    async def test_a_write_that_no_replica_confirmed_says_so(
        self, linked: tuple[RedisServer, RedisServer], prefix: str
    ) -> None:
        """NotReplicatedError within the deadline: applied, and not replicated. Reads are not concerned."""
        primary, replica = linked
        url = f"{primary.url}?key_prefix={prefix}&read_timeout=1&write_timeout=1"
        async with RedisStateStore.from_url(url, replicas=1) as store:
            await store.save(state("before", agent_id="agent"))
            replica.freeze()
            try:
                async with asyncio.timeout(2 + SLACK):
                    with pytest.raises(NotReplicatedError) as caught:
                        await store.save(state("unconfirmed", agent_id="agent"))
                assert (caught.value.wanted, caught.value.confirmed) == (1, 0)
                assert (await store.load("agent", "unconfirmed")).version == 1
            finally:
                replica.thaw()
            await until(lambda: replica.info("replication")["master_link_status"] == "up")
            await store.save(state("after", agent_id="agent"))
            assert await store.delete_agent("agent") == 3

    async def test_a_primary_that_is_demoted_before_replicas_confirmed_leaves_the_write_unconfirmed(
        self, linked: tuple[RedisServer, RedisServer], prefix: str
    ) -> None:
        """The server refuses the WAIT that it had begun: the write is NotReplicatedError, at once."""
        primary, replica = linked
        url = f"{primary.url}?key_prefix={prefix}&read_timeout=4&write_timeout=4"
        async with RedisStateStore.from_url(url, replicas=1) as store:
            await store.save(state("before", agent_id="agent"))
            replica.freeze()
            try:
                write = asyncio.create_task(store.save(state("unconfirmed", agent_id="agent")))
                await until(lambda: primary.info("clients")["blocked_clients"] == "1")
                primary.command("REPLICAOF", "127.0.0.1", 1)
                async with asyncio.timeout(SLACK):
                    with pytest.raises(NotReplicatedError):
                        await write
            finally:
                primary.command("REPLICAOF", "NO", "ONE")
                replica.thaw()
            await until(lambda: replica.info("replication")["master_link_status"] == "up")
            await store.save(state("after", agent_id="agent"))
            assert await store.delete_agent("agent") == 3

    async def test_a_replayed_write_is_confirmed_by_replicas_that_have_it(
        self, linked: tuple[RedisServer, RedisServer], prefix: str
    ) -> None:
        """A write that landed before its reply was lost is no less unconfirmed when its replay finds it there."""
        primary, replica = linked
        async with FaultProxy(primary.host, primary.port) as proxy:
            url = f"{proxy.url}?key_prefix={prefix}&read_timeout=1&write_timeout=1"
            async with RedisStateStore.from_url(url, replicas=1) as store:
                await store.save(state("before", agent_id="agent"))
                replica.freeze()
                try:
                    proxy.drop_reply(to=b"unconfirmed")
                    with pytest.raises(NotReplicatedError):
                        await store.save(state("unconfirmed", agent_id="agent"))
                finally:
                    replica.thaw()
                assert await store.exists("agent", "unconfirmed")
                await store.delete_agent("agent")
