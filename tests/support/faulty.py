"""A store behind a proxy that misbehaves, and the truth behind both."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from typing import TYPE_CHECKING, Any

from redis_state import (
    AgentState,
    NotReplicatedError,
    OutcomeUnknownError,
    RedisConfig,
    RedisStateStore,
    StateNotFoundError,
    StateStoreError,
    StoreOptions,
)
from support.proxy import FaultProxy
from support.states import state, texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from redis_state.testing import RedisServer

__all__ = ["SLACK", "Bench", "Truth", "behind_proxy", "outcome", "state", "texts", "until"]

SLACK = 3.0  # seconds that a busy machine may add to a deadline


async def outcome(operation: Awaitable[Any]) -> str:
    """``done``, ``unknown``, or the name of the error of a failure that did not happen."""
    try:
        await operation
    except OutcomeUnknownError:
        return "unknown"
    except NotReplicatedError:
        raise
    except StateStoreError as error:
        return type(error).__name__
    return "done"


async def until(holds: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what it waits for tells nobody
            await asyncio.sleep(0.001)


class Truth:
    """What is stored, seen past the proxy.

    Args:
        server: The server.
        prefix: The store's key prefix.
    """

    def __init__(self, server: RedisServer, prefix: str) -> None:
        self.server = server
        self.prefix = prefix
        self.store = RedisStateStore.from_url(server.url + f"?key_prefix={prefix}")

    def state_key(self, session_id: str = "s", agent_id: str = "a") -> str:
        return f"{self.prefix}{{{agent_id}}}:{session_id}"

    def index_key(self, agent_id: str = "a") -> str:
        return f"{self.prefix}sessions:{{{agent_id}}}"

    def keys(self) -> dict[bytes, Any]:
        """Every key of the store with a dump of its value, and whether it expires."""
        command = self.server.command
        found: list[bytes] = command("KEYS", self.prefix + "*")
        return {key: (command("DUMP", key), command("PTTL", key) > 0) for key in sorted(found)}

    def disagreement(self, agent_id: str = "a") -> set[bytes]:
        """The sessions that only one of state and index has."""
        states = self.state_key("", agent_id).encode()
        has_state = {key.removeprefix(states) for key in self.server.command("KEYS", states.decode() + "*")}
        return has_state ^ set(self.server.command("ZRANGE", self.index_key(agent_id), 0, -1))

    async def load(self, session_id: str = "s", agent_id: str = "a") -> AgentState | None:
        try:
            return await self.store.load(agent_id, session_id)
        except StateNotFoundError:
            return None

    async def version(self, session_id: str = "s") -> int:
        """The stored version, 0 where nothing is."""
        stored = await self.load(session_id)
        return 0 if stored is None else stored.version


@dataclasses.dataclass
class Bench:
    """A store, the proxy it goes through, and the truth.

    Attributes:
        store: It has connected already.
        budget: How long one of its operations may take.
    """

    server: RedisServer
    proxy: FaultProxy
    store: RedisStateStore[AgentState]
    truth: Truth
    budget: float

    @property
    def pending(self) -> int:
        """How many operations the store has taken and not completed."""
        client: Any = self.store._client  # pyright: ignore[reportPrivateUsage]
        dispatcher = client._dispatcher
        return 0 if dispatcher is None else len(dispatcher.pending)

    async def in_time(self, operation: Awaitable[Any], *, budgets: int = 1) -> str:
        """The outcome of an operation that ends within its deadline."""
        async with asyncio.timeout(budgets * self.budget + SLACK):
            return await outcome(operation)

    async def replayed(
        self, operation: Coroutine[Any, Any, Any], lost: bytes, meanwhile: Callable[[], Awaitable[Any]] | None = None
    ) -> str:
        """The outcome of an operation that was carried out and whose reply, to the command `lost`, never comes.

        `meanwhile` runs before the store can connect again.
        """
        self.proxy.drop_reply(to=lost)
        self.proxy.refuse()
        cuts = self.proxy.cuts
        task = asyncio.ensure_future(self.in_time(operation))
        await until(lambda: self.proxy.cuts > cuts)
        if meanwhile is not None:
            await meanwhile()
        await self.proxy.admit()
        return await task

    async def quiet(self) -> None:
        """Wait until nothing is pending."""
        await until(lambda: self.pending == 0)


@contextlib.asynccontextmanager
async def behind_proxy(
    server: RedisServer,
    *,
    timeout: float = 0.5,  # noqa: ASYNC109 - it is the store's
    pool_size: int = 2,
    options: StoreOptions | None = None,
    **settings: Any,
) -> AsyncGenerator[Bench]:
    """A store that goes through a proxy, with short deadlines; what it leaves behind is removed.

    Nothing may go wrong in a callback, where only the loop would hear of it.
    """
    prefix = f"t{uuid.uuid4().hex[:12]}:"
    surprises: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    async with FaultProxy(server.host, server.port) as proxy:
        config = RedisConfig(
            addrs=[f"{proxy.host}:{proxy.port}"],
            key_prefix=prefix,
            read_timeout=timeout,
            write_timeout=timeout,
            pool_size=pool_size,
            **settings,
        )
        truth = Truth(server, prefix)
        async with truth.store, RedisStateStore.from_config(config, **options or {}) as store:
            bench = Bench(server, proxy, store, truth, 2 * timeout)
            try:
                yield bench
                await bench.quiet()
            finally:
                for key in server.command("KEYS", prefix + "*"):
                    server.command("DEL", key)
    assert proxy.open_connections == 0
    assert not surprises, surprises  # the message, as pytest explains asserts in test files only
