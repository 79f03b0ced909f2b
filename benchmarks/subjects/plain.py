"""What a good engineer writes with redis.asyncio alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.maint_notifications import MaintNotificationsConfig

from benchmarks.payloads import message
from benchmarks.subjects.subject import CONNECTIONS, Keys, decode, encode, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis_state import AgentState

POOL = 10


class Plain:
    """A transaction a save, one GET a load; the baseline of every ratio."""

    label: ClassVar[str] = "redis.asyncio"
    how: ClassVar[str] = (
        "one client with a connection for every operation in flight, hiredis; a save is SET and ZADD in "
        "`pipeline(transaction=True)`, a load is GET, a delete is DEL and ZREM in a transaction, a list is ZREVRANGE"
    )
    missing: ClassVar[Mapping[str, str]] = {}
    client: Any

    def __init__(self, url: str, states: list[AgentState]) -> None:
        self.url = url
        self.states = states
        self.keys = Keys("plain:")

    async def open(self) -> None:
        """Connect."""
        self.client = Redis.from_url(
            self.url,
            max_connections=CONNECTIONS,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )

    async def close(self) -> None:
        """Disconnect."""
        await self.client.aclose()

    async def save(self, i: int) -> bool:
        """Write the state and its place in the index."""
        return await self._write(self.states[i])

    async def _write(self, state: AgentState) -> bool:
        score = stamp(state)
        async with self.client.pipeline(transaction=True) as pipeline:
            pipeline.set(self.keys.state(state), encode(state))
            pipeline.zadd(self.keys.index(state.agent_id), {state.session_id: score})
            written, _ = await pipeline.execute()
        return written

    async def load(self, i: int) -> Sequence[Any]:
        """Read the state."""
        return decode(await self.client.get(self.keys.state(self.states[i]))).messages

    async def delete(self, i: int) -> bool:
        """Remove the state and its place in the index."""
        state = self.states[i]
        async with self.client.pipeline(transaction=True) as pipeline:
            pipeline.delete(self.keys.state(state))
            pipeline.zrem(self.keys.index(state.agent_id), state.session_id)
            deleted, unlisted = await pipeline.execute()
        return deleted == unlisted == 1

    async def list(self, limit: int | None = None) -> Sequence[Any]:
        """Read the index."""
        found = await self.client.zrevrange(self.keys.index(self.states[0].agent_id), 0, (limit or 0) - 1)
        return [session_id.decode() for session_id in found]

    async def save_if(self, i: int) -> bool:
        """WATCH, GET and compare, then the transaction: redis-py's documented optimistic lock, three round trips."""
        state = self.states[i]
        key = self.keys.state(state)
        async with self.client.pipeline(transaction=True) as pipeline:
            await pipeline.watch(key)
            if decode(await pipeline.get(key)).version != state.version:
                return False
            score = stamp(state)
            pipeline.multi()
            pipeline.set(key, encode(state))
            pipeline.zadd(self.keys.index(state.agent_id), {state.session_id: score})
            written, _ = await pipeline.execute()
        return written

    async def append(self, i: int) -> bool:
        """Load, add, save: a string cannot grow by a message otherwise. A writer in between would be lost."""
        state = decode(await self.client.get(self.keys.state(self.states[i])))
        state.messages.append(turn(len(state.messages)))
        return await self._write(state)

    async def load_many(self, many: range) -> Sequence[Any]:
        """MGET."""
        found = await self.client.mget([self.keys.state(self.states[i]) for i in many])
        return [decode(value) for value in found if value is not None]

    async def fill(self) -> None:
        """Save all sessions, a thousand in a pipeline: only to prepare a listing."""
        for start in range(0, len(self.states), 1000):
            async with self.client.pipeline(transaction=False) as pipeline:
                for state in self.states[start : start + 1000]:
                    pipeline.set(self.keys.state(state), encode(state))
                    pipeline.zadd(self.keys.index(state.agent_id), {state.session_id: stamp(state)})
                await pipeline.execute()


def turn(position: int) -> Any:
    """The message that `append` adds: a sentence of ordinary length."""
    return message(position, "Your order has left the warehouse and should arrive on Thursday, tracking is on its way.")


COMPARE_AND_SAVE = """
local stored = redis.call('GET', KEYS[1])
local version = stored and cjson.decode(stored)['version'] or 0
if version ~= tonumber(ARGV[1]) then return {err = 'CONFLICT ' .. version} end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
return 1
"""


class PlainUnbounded(Plain):
    """The same without redis-py's default read timeout, whose timer costs as much as anything it does."""

    label = "redis.asyncio, no timeouts"
    how = "as redis.asyncio with `socket_timeout=None`: faster, and it waits for ever for a silent server"

    def __init__(self, url: str, states: list[AgentState]) -> None:
        super().__init__(url, states)
        self.keys = Keys("unbounded:")

    async def open(self) -> None:
        """Connect."""
        self.client = Redis.from_url(
            self.url,
            max_connections=CONNECTIONS,
            socket_timeout=None,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )


class PlainPool(Plain):
    """The same with a pool of ten connections, which callers wait for."""

    label = "redis.asyncio, pool of ten"
    how = "as redis.asyncio with a `BlockingConnectionPool` of ten connections, what `pool_size=10` replaces"

    def __init__(self, url: str, states: list[AgentState]) -> None:
        super().__init__(url, states)
        self.keys = Keys("pool:")

    async def open(self) -> None:
        """Connect."""
        pool = BlockingConnectionPool.from_url(
            self.url,
            max_connections=POOL,
            timeout=None,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self.client = Redis.from_pool(pool)


class PlainScript(Plain):
    """The conditional save as a script, for those who know Lua."""

    label = "redis.asyncio, Lua"
    how = "as redis.asyncio, the conditional save by a registered script that decodes the stored version with cjson"

    def __init__(self, url: str, states: list[AgentState]) -> None:
        super().__init__(url, states)
        self.keys = Keys("script:")

    async def open(self) -> None:
        """Connect and register the script."""
        await super().open()
        self.script = self.client.register_script(COMPARE_AND_SAVE)

    async def save_if(self, i: int) -> bool:
        """One EVALSHA."""
        state = self.states[i]
        version = state.version
        score = stamp(state)
        keys = [self.keys.state(state), self.keys.index(state.agent_id)]
        return await self.script(keys=keys, args=[version, encode(state), score, state.session_id]) == 1


class PlainCluster(Plain):
    """The same on a cluster."""

    label = "redis.asyncio.RedisCluster"
    how = "as redis.asyncio with RedisCluster; the hash tag keeps a state and its index in one slot"

    async def open(self) -> None:
        """Connect to the first address and learn the others."""
        host, port = self.url.partition("//")[2].partition(",")[0].rsplit(":", 1)
        self.client = RedisCluster(host=host, port=int(port), max_connections=CONNECTIONS)
        await self.client.initialize()
