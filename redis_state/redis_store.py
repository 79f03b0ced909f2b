"""The store in Redis: one short method an operation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Generic, Self, Unpack

from redis.asyncio import Redis, RedisCluster

from redis_state.clock import Clock, microseconds, milliseconds
from redis_state.codec import Codec, Stamp, StateType
from redis_state.codec import revision as revisions
from redis_state.codec.write_ids import write_ids
from redis_state.config import RedisConfig, connect, parse_url
from redis_state.connect import Router, router_of
from redis_state.errors import ServerRefusedError, StateNotFoundError
from redis_state.keys import Keys, Partition
from redis_state.limits import Limits
from redis_state.link import Link
from redis_state.listing import Entry, Listing
from redis_state.metrics import Metrics
from redis_state.operation import Operation, Replay, command
from redis_state.optimistic import update
from redis_state.options import StoreOptions, check_options
from redis_state.state import AgentState, S, SessionInfo, T
from redis_state.sweeper import Sweeper
from redis_state.writes import Append, Save

_MGET: Final = 100  # states that one command loads, so that it holds the server for no more than a millisecond


class RedisStateStore(Generic[S]):
    """Keeps the states of agents in Redis. See `SessionStore` for what each operation promises.

    Args:
        client: A `redis.asyncio.Redis` or `RedisCluster` that stays the caller's: its connection settings are used,
            and it is not closed.
        state_type: A msgspec Struct or dataclass with `agent_id` and `session_id`.
        key_prefix: What every key starts with.
        dial_timeout: Seconds for opening a connection.
        read_timeout: Seconds that the server may owe a reply.
        write_timeout: Seconds more while a request is being written.
        pool_size: Connections to one server at most, as far as the client's pool has them.
        options: See `StoreOptions`.

    Raises:
        TypeError: The client is none of redis.asyncio's, decodes responses, or the state type is not fit.
    """

    def __init__(
        self,
        client: Redis | RedisCluster | Router,
        *,
        state_type: type[S] = AgentState,  # pyright: ignore[reportArgumentType]
        key_prefix: str = "forge:state:",
        dial_timeout: float = 5.0,
        read_timeout: float = 3.0,
        write_timeout: float = 3.0,
        pool_size: int = 10,
        **options: Unpack[StoreOptions],
    ) -> None:
        check_options(options)
        self._types = StateType(state_type)
        self._codec = Codec(self._types, options.get("format", "json"))
        self._keys = Keys(key_prefix, options.get("partitions", 1))
        self._ttl = milliseconds(options.get("ttl"))
        self._refresh_ttl = options.get("refresh_ttl", False)
        self._metrics = Metrics(options.get("meter_provider"))
        log = options.get("logger") or logging.getLogger("redis_state")
        limits = Limits(dial_timeout, read_timeout, write_timeout, pool_size, options.get("replicas", 0))
        self._link = Link(router_of(client), limits, self._keys, log)
        self._listing = Listing(self._link.submit, self._keys, self._codec.time_of)
        self._sweeper = Sweeper(self._listing.sweep)
        self._clock = Clock()
        self._write_ids = write_ids()

    @classmethod
    def from_config(
        cls,
        config: RedisConfig,
        *,
        state_type: type[T] = AgentState,  # pyright: ignore[reportArgumentType]
        **options: Unpack[StoreOptions],
    ) -> RedisStateStore[T]:
        """A store with connections of its own, made when they are needed.

        Args:
            config: Where Redis is, and how to reach it.
            state_type: As for the class.
            options: See `StoreOptions`.
        """
        return RedisStateStore(
            connect(config),
            state_type=state_type,
            key_prefix=config.key_prefix,
            dial_timeout=config.dial_timeout,
            read_timeout=config.read_timeout,
            write_timeout=config.write_timeout,
            pool_size=config.pool_size,
            **options,
        )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        state_type: type[T] = AgentState,  # pyright: ignore[reportArgumentType]
        tls_verify: bool = True,
        **options: Unpack[StoreOptions],
    ) -> RedisStateStore[T]:
        """A store with connections of its own, made when they are needed.

        Args:
            url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` for TLS, ``unix:///path``,
                ``redis+cluster://host:port,host:port`` or ``redis+sentinel://host:port,host:port/name[/db]``, the
                last two also with ``rediss``. After a question mark may follow fields of `RedisConfig`:
                ``key_prefix``, ``db``, the timeouts, ``pool_size``, ``tls_...`` and ``sentinel_...``.
            state_type: As for the class.
            tls_verify: False where the URL turns certificate checks off, which takes both.
            options: See `StoreOptions`.

        Raises:
            ValueError: The URL cannot be read.
        """
        return cls.from_config(parse_url(url, tls_verify=tls_verify), state_type=state_type, **options)

    def __repr__(self) -> str:
        return f"<RedisStateStore of {self._types.cls.__name__} at {self._link!r}>"

    def save(
        self, state: S, *, if_version: int | None = None, ttl: timedelta | None = None
    ) -> Coroutine[Any, Any, None]:
        """See `StateStore.save`."""
        started = perf_counter()
        try:
            write, stamp = self._draft(state, if_version, ttl)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to who awaits the save
            return self._refuse(error, started)
        return self._save(write, stamp, started)

    def _draft(self, state: Any, if_version: int | None, ttl: timedelta | None) -> tuple[Save, Stamp]:
        """The write of a state as it is now."""
        now = self._clock.now()
        left = self._ttl if ttl is None else milliseconds(ttl)
        stamp = self._types.stamp(state, if_version, now)
        session = self._keys.session(state.agent_id, state.session_id)
        write = Save(
            b"",
            session.partition.slot,
            replay=Replay.GUARDED,
            session=session,
            document=stamp.encode(self._codec.encode),
            revision=revisions.make(stamp.version, next(self._write_ids), stamp.origin.ids),
            parent=stamp.origin,
            expected=if_version,
            score=now,
            ttl=left,
            seen=session.seen,
        )
        if if_version is None:
            write.become_block(fresh=stamp.version_before == 0)
        else:
            write.become_script()
        return write, stamp

    async def _refuse(self, error: Exception, started: float) -> None:
        self._metrics.save.failed(started, error)
        raise error

    async def _save(self, write: Save, stamp: Stamp, started: float) -> None:
        session = write.session
        try:
            reply = await self._link.write(write, session.partition)
            try:
                revision = write.outcome(reply)
            except ServerRefusedError:
                if write.is_half(reply):
                    await self._link.execute(command(write.slot, "ZREM", session.partition.index, session.session_id))
                raise
        except BaseException as error:
            if isinstance(error, ServerRefusedError) and error.stored:
                stamp.keep(write.revision)
            else:
                stamp.drop()
            self._metrics.save.failed(started, error)
            raise
        stamp.keep(revision)
        session.seen = revision
        self._sweeper.saved(session.partition, write.ttl)
        self._metrics.save.done(started)

    async def load(self, agent_id: str, session_id: str) -> S:
        """See `StateStore.load`."""
        started = perf_counter()
        try:
            session = self._keys.session(agent_id, session_id)
            if self._refresh_ttl and self._ttl is not None:
                op = command(session.partition.slot, "GETEX", session.key, "PX", self._ttl)
            else:
                op = Operation(session.sent_get, session.partition.slot)
            value = await self._link.execute(op)
            if value is None:
                raise StateNotFoundError(agent_id, session_id)
            state, origin = self._codec.decode(value, agent_id, session_id)
            self._types.adopt(state, origin)
        except BaseException as error:
            self._metrics.load.failed(started, error)
            raise
        session.seen = origin
        self._metrics.load.done(started)
        return state

    async def load_many(self, agent_id: str, session_ids: Iterable[str]) -> dict[str, S]:
        """See `SessionStore.load_many`."""
        started = perf_counter()
        try:
            self._keys.agent(agent_id)
            by_partition: dict[Partition, list[str]] = {}
            wanted = list(dict.fromkeys(session_ids))
            for session_id in wanted:
                by_partition.setdefault(self._keys.partition(agent_id, session_id), []).append(session_id)
            await self._link.ready()
            reads: list[asyncio.Future[Any]] = []
            order: list[str] = []
            refresh = ("PX", self._ttl) if self._refresh_ttl and self._ttl is not None else None
            for partition, ids in by_partition.items():
                order += ids
                keys = [partition.state(session_id) for session_id in ids]
                if refresh is not None:
                    reads += [self._link.submit(command(partition.slot, "GETEX", key, *refresh)) for key in keys]
                    continue
                for start in range(0, len(ids), _MGET):
                    reads.append(self._link.submit(command(partition.slot, "MGET", *keys[start : start + _MGET])))
            replies = await asyncio.gather(*reads)
            values = replies if refresh is not None else [value for reply in replies for value in reply]
            found: dict[str, S] = {}
            for number, (session_id, value) in enumerate(zip(order, values, strict=True), 1):
                if number % _MGET == 0:
                    await asyncio.sleep(0)  # others have their turn
                if value is not None:
                    found[session_id], origin = self._codec.decode(value, agent_id, session_id)
                    self._types.adopt(found[session_id], origin)
        except BaseException as error:
            self._metrics.load.failed(started, error)
            raise
        self._metrics.load.done(started, len(found))
        return {session_id: found[session_id] for session_id in wanted if session_id in found}

    async def update(
        self,
        agent_id: str,
        session_id: str,
        fn: Callable[[S], Any | Awaitable[Any]],
        *,
        attempts: int = 100,
        ttl: timedelta | None = None,
    ) -> S:
        """See `SessionStore.update`."""
        self._types.require("version", "update()")
        return await update(self, agent_id, session_id, fn, attempts=attempts, ttl=ttl)

    async def append(
        self, agent_id: str, session_id: str, messages: Iterable[Any], *, ttl: timedelta | None = None
    ) -> int:
        """See `SessionStore.append`."""
        self._types.require("messages", "append()")
        session = self._keys.session(agent_id, session_id)
        now = self._clock.now()
        line = self._codec.encode_line(list(messages))
        write = Append(
            b"",
            session.partition.slot,
            replay=Replay.GUARDED,
            session=session,
            line=line,
            write_id=next(self._write_ids),
            score=now,
            ttl=self._ttl if ttl is None else milliseconds(ttl),
        )
        write.become_script()
        session.seen = revision = write.outcome(await self._link.write(write, session.partition))
        self._sweeper.saved(session.partition, write.ttl)
        return revision.version

    async def delete(self, agent_id: str, session_id: str) -> bool:
        """See `StateStore.delete`."""
        started = perf_counter()
        try:
            partition = self._keys.partition(agent_id, session_id)
            write = partial(self._link.write, partition=partition)
            keys, members = [partition.state(session_id)], [session_id.encode()]
            deleted, _ = await self._listing.delete(partition, keys, members, write)
        except BaseException as error:
            self._metrics.delete.failed(started, error)
            raise
        self._metrics.delete.done(started, deleted)
        return deleted == 1

    async def list(self, agent_id: str, *, limit: int | None = None) -> list[str]:
        """See `StateStore.list`."""
        started = perf_counter()
        try:
            if limit is not None and limit < 0:
                raise ValueError("limit must be 0 or more")
            self._keys.agent(agent_id)
            with self._link.traffic:
                await self._link.ready()
                entries = await self._listing.newest(agent_id, limit)
        except BaseException as error:
            self._metrics.list.failed(started, error)
            raise
        self._metrics.list.done(started)
        return [entry.session_id for entry in entries]

    async def sessions(
        self, agent_id: str, *, limit: int | None = None, before: SessionInfo | datetime | None = None
    ) -> AsyncIterator[SessionInfo]:
        """See `SessionStore.sessions`."""
        if limit is not None and limit < 0:
            raise ValueError("limit must be 0 or more")
        if isinstance(before, SessionInfo):
            cursor = Entry(microseconds(before.updated_at), before.session_id.encode())
        else:
            cursor = None if before is None else Entry(microseconds(before), b"")
        self._keys.agent(agent_id)
        await self._link.ready()
        if limit == 0:
            return
        shown = 0
        async for entry in self._listing.iterate(agent_id, cursor):
            yield entry.info()
            shown += 1
            if shown == limit:
                return

    async def count(self, agent_id: str) -> int:
        """See `SessionStore.count`."""
        self._keys.agent(agent_id)
        with self._link.traffic:
            await self._link.ready()
            return len(await self._listing.newest(agent_id, None))

    async def exists(self, agent_id: str, session_id: str) -> bool:
        """See `SessionStore.exists`."""
        partition = self._keys.partition(agent_id, session_id)
        return bool(await self._link.execute(command(partition.slot, "EXISTS", partition.state(session_id))))

    async def touch(self, agent_id: str, session_id: str, *, ttl: timedelta | None = None) -> bool:
        """See `SessionStore.touch`."""
        left = self._ttl if ttl is None else milliseconds(ttl)
        if left is None:
            raise ValueError("touch() needs a ttl, here or on the store")
        partition = self._keys.partition(agent_id, session_id)
        touched = await self._link.execute(command(partition.slot, "PEXPIRE", partition.state(session_id), left))
        if touched:
            self._sweeper.saved(partition, left)
        return bool(touched)

    async def delete_agent(self, agent_id: str, *, progress: Callable[[int], None] | None = None) -> int:
        """See `SessionStore.delete_agent`."""
        self._keys.agent(agent_id)
        with self._link.traffic:
            await self._link.ready()
            return await self._listing.delete_all(agent_id, progress)

    async def agents(self) -> AsyncIterator[str]:
        """See `SessionStore.agents`."""
        await self._link.ready()
        async for agent_id in self._listing.agents(await self._link.wire.nodes()):
            yield agent_id

    async def ping(self) -> None:
        """See `SessionStore.ping`."""
        await self._link.execute(command(None, "PING"))

    async def aclose(self) -> None:
        """See `StateStore.aclose`."""
        await self._sweeper.aclose()
        await self._link.aclose()

    async def __aenter__(self) -> Self:
        """Connect, and check that the server answers."""
        try:
            await self.ping()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()
