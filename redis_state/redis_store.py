"""The store in Redis: one short method an operation."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from types import CoroutineType
from typing import Any, Self, Unpack, cast

from redis.asyncio import Redis, RedisCluster

from redis_state.base_store import BaseStore
from redis_state.checks import check
from redis_state.clock import microseconds, milliseconds
from redis_state.codec import MAX_STATE_BYTES, Codec, StateType
from redis_state.commands.keys import Keys, Partition
from redis_state.commands.many import read_tail
from redis_state.commands.request import command
from redis_state.commands.shapes import is_integer, is_text
from redis_state.config import (
    Limits,
    OpenOptions,
    RedisConfig,
    StoreOptions,
    ViewOptions,
    check_options,
    check_view,
    parse_url,
    schema_of,
    split_options,
)
from redis_state.errors import StoreClosedError
from redis_state.index.cleanup import Cleanup
from redis_state.index.entries import Entry, info
from redis_state.index.eviction import Evictions
from redis_state.index.listing import Listing
from redis_state.index.living import Submit
from redis_state.index.partitions import check_partitions
from redis_state.index.policies import Policies
from redis_state.index.touch import touch_all
from redis_state.models import AgentState, S, SessionInfo, T
from redis_state.protocol import Ids
from redis_state.reader import Reader
from redis_state.redis_py.clients import connect, topology_of
from redis_state.redis_py.topology import Topology
from redis_state.telemetry import Metrics
from redis_state.transport.client import Client
from redis_state.transport.view import AnyClient, ClientView
from redis_state.update import Lines
from redis_state.writer import Writer


class RedisStateStore(BaseStore[S]):
    """Keeps the states of agents in Redis.

    `from_url` and `from_config` make a store with connections of its own; the class itself takes a client of redis-py.

    Args:
        client: A `redis.asyncio.Redis` or `RedisCluster` that stays the caller's: its connection settings are used,
            and it is not closed.
        state_type: A msgspec Struct or dataclass with `agent_id` and `session_id`. Stored fields that it lacks are not
            loaded, and a save drops them; with ``forbid_unknown_fields=True`` they are a `StateDecodeError`.
        key_prefix: What every key starts with.
        dial_timeout: How many seconds opening a connection may take.
        read_timeout: How many seconds the server may take for a reply.
        write_timeout: How many seconds more while a request is being written.
        pool_size: How many connections to one server there may be, and no more than the client's pool allows.
        options: See `StoreOptions`.

    Raises:
        TypeError: The client is none of `redis.asyncio` or has ``decode_responses=True``, or the state type cannot be
            stored.
    """

    def __init__(
        self,
        client: Redis | RedisCluster | Topology,
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
        self._config: RedisConfig | None = None
        self._describe(state_type, key_prefix, options, Metrics(options.get("meter_provider")))
        log = options.get("logger") or logging.getLogger("redis_state")
        limits = Limits(dial_timeout, read_timeout, write_timeout, pool_size, options.get("replicas", 0))
        owned = Client(topology_of(client), limits, log, self._prepare)
        policies = Policies(owned, log)
        owned.on_connect = policies.connected
        self._use(owned, policies)

    def _describe(self, state_type: type[S], key_prefix: str, options: StoreOptions, metrics: Metrics) -> None:
        """Note what is stored, and how."""
        self._options = options
        self._types = StateType(state_type)
        self._codec = Codec(
            self._types,
            options.get("format", "json"),
            max_state_bytes=options.get("max_state_bytes", MAX_STATE_BYTES),
            schema=schema_of(options),
        )
        self._keys = Keys(key_prefix, options.get("partitions", 1))
        self._ttl = milliseconds(options.get("ttl"))
        self._metrics = metrics
        self._lines = Lines()

    def _use(self, client: AnyClient, policies: Policies) -> None:
        """Send requests by a client."""
        self._client = client
        self._policies = policies
        self._evictions = Evictions(policies, self._keys, self._codec.time_of)
        self._listing = Listing(self._keys, self._evictions)
        self._reader = Reader(
            client=client,
            types=self._types,
            codec=self._codec,
            keys=self._keys,
            metrics=self._metrics.load,
            refresh=self._ttl if self._options.get("refresh_ttl", False) else None,
        )
        self._writer = Writer(
            client=client,
            types=self._types,
            codec=self._codec,
            keys=self._keys,
            cleanup=Cleanup(self._check_index),
            metrics=self._metrics.save,
            ttl=self._ttl,
        )
        self._start_save = self._writer.save

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
        check_options(options)
        store = RedisStateStore(
            connect(config),
            state_type=state_type,
            key_prefix=config.key_prefix,
            dial_timeout=config.dial_timeout,
            read_timeout=config.read_timeout,
            write_timeout=config.write_timeout,
            pool_size=config.pool_size,
            **options,
        )
        store._config = config
        return store

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        state_type: type[T] = AgentState,  # pyright: ignore[reportArgumentType]
        **options: Unpack[OpenOptions],
    ) -> RedisStateStore[T]:
        """A store with connections of its own, made when they are needed.

        Args:
            url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` for TLS, or ``unix:///path``;
                for a cluster ``redis+cluster://host:port,host:port``;
                for Sentinel ``redis+sentinel://host:port,host:port/name[/db]``; both also with ``rediss``.
                Options follow as in ``?pool_size=4&read_timeout=1``: of `RedisConfig` these are `key_prefix`, `db`,
                the timeouts, `pool_size`, `tls_...` and `sentinel_...`.
            state_type: As for the class.
            options: See `StoreOptions`; and fields of `RedisConfig`, which win over the URL. `addrs`, `unix_socket` and
                `cluster` stand in the URL only. A URL turns certificate checks off only where ``tls_verify=False`` is
                given here as well.

        Raises:
            TypeError: An option is unknown, or of another type.
            ValueError: The URL cannot be read or says something twice, an option is out of range, there are options of
                TLS without TLS, or an option says where Redis is, as the URL does.
        """
        fields, others = split_options(options)
        return cls.from_config(parse_url(url, **fields), state_type=state_type, **others)

    def __repr__(self) -> str:
        if not hasattr(self, "_client"):
            return "<RedisStateStore, not made: its arguments were refused>"
        return f"<RedisStateStore of {self._types.cls.__name__} at {self._client!r}>"

    async def _add(self, agent_id: str, session_id: str, **what: Any) -> int:
        return await self._writer.append(agent_id, session_id, **what)

    async def _tail(self, agent_id: str, session_id: str, wanted: int | None) -> tuple[bytes, int] | None:
        return await read_tail(self._client.execute, self._keys.session(agent_id, session_id), wanted)

    async def _replace(self, agent_id: str, session_id: str, before: bytes, after: bytes) -> bool:
        return await self._writer.replace(self._keys.session(agent_id, session_id), before, after)

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed

    def _operation(self) -> AbstractContextManager[Any]:
        return self._client.operation()

    def load(self, agent_id: str, session_id: str) -> CoroutineType[Any, Any, S]:
        return self._reader.load(agent_id, session_id)

    async def load_many(self, agent_id: str, session_ids: Ids | Iterator[str]) -> dict[str, S]:
        return await self._reader.load_many(agent_id, session_ids)

    async def delete(self, agent_id: str, session_id: str) -> bool:
        with self._metrics.delete.measure() as measured:
            partition = self._keys.partition(agent_id, session_id)
            keys, members = [partition.state(session_id)], [session_id.encode()]
            measured.count, _ = await self._listing.delete(self._client.execute, partition, keys, members)
        return measured.count == 1

    async def list(self, agent_id: str, *, limit: int | None = None) -> list[str]:
        with self._metrics.list.measure(), self._client.operation() as submit:
            check("limit", limit)
            self._keys.agent(agent_id)
            return await self._listing.newest(submit, agent_id, limit)

    async def sessions(
        self, agent_id: str, *, limit: int | None = None, before: SessionInfo | datetime | None = None
    ) -> AsyncIterator[SessionInfo]:
        check("limit", limit)
        check("before", before)
        if isinstance(before, SessionInfo):
            cursor: Entry | None = (microseconds(before.updated_at), before.session_id.encode())
        else:
            cursor = None if before is None else (microseconds(before), b"")
        self._keys.agent(agent_id)
        if limit == 0:
            await self.ping()
            return
        shown = 0
        async with aclosing(self._listing.iterate(self._client.execute, agent_id, cursor, limit)) as entries:
            async for entry in entries:
                yield info(entry)
                shown += 1
                if shown == limit:
                    return

    async def count(self, agent_id: str) -> int:
        self._keys.agent(agent_id)
        with self._client.operation() as submit:
            return await self._listing.count(submit, agent_id)

    async def exists(self, agent_id: str, session_id: str) -> bool:
        partition = self._keys.partition(agent_id, session_id)
        key = partition.state(session_id)
        return bool(await self._client.execute(command(partition.slot, "EXISTS", key, session=key, fits=is_integer)))

    async def touch(self, agent_id: str, session_id: str, *, ttl: timedelta | None = None) -> bool:
        left = self._time_left("touch()", ttl)
        partition = self._keys.partition(agent_id, session_id)
        key = partition.state(session_id)
        return bool(
            await self._client.execute(command(partition.slot, "PEXPIRE", key, left, session=key, fits=is_integer))
        )

    async def touch_agent(self, agent_id: str, *, ttl: timedelta | None = None) -> int:
        left = self._time_left("touch_agent()", ttl)
        with self._client.operation() as submit:
            return await touch_all(submit, self._evictions, self._keys.agent(agent_id), left)

    async def delete_agent(self, agent_id: str, *, progress: Callable[[int], None] | None = None) -> int:
        with self._metrics.delete.measure() as measured, self._client.operation() as submit:
            check("progress", progress)

            def note(deleted: int) -> None:
                measured.count = deleted
                if progress is not None:
                    progress(deleted)

            measured.count = deleted = await self._listing.delete_all(submit, agent_id, note)
        return deleted

    async def agents(self) -> AsyncIterator[str]:
        submit = self._client.execute
        async with aclosing(self._listing.agents(submit, partial(self._client.nodes, submit))) as agent_ids:
            async for agent_id in agent_ids:
                yield agent_id

    async def ping(self) -> None:
        await self._client.execute(command(None, "PING", fits=is_text))

    def view(self, state_type: type[T], *, namespace: str, **options: Unpack[ViewOptions]) -> RedisStateStore[T]:
        check_view(namespace, options)
        if self._client.is_closed:
            raise StoreClosedError("the store is closed; make the view of one that is open")
        view = cast("RedisStateStore[T]", RedisStateStore.__new__(RedisStateStore))
        view._be_view_of(self, state_type, namespace, options)  # noqa: SLF001  # of the same class
        return view

    def _be_view_of(
        self, store: RedisStateStore[Any], state_type: type[S], namespace: str, options: ViewOptions
    ) -> None:
        self._config = store._config
        prefix = f"{store._keys.prefix}{namespace}:"
        self._describe(state_type, prefix, {**store._options, **options}, store._metrics)
        replicas = self._options.get("replicas", 0)
        self._use(ClientView(store._client, replicas, self._prepare), store._policies)

    def reopen(self) -> RedisStateStore[S]:
        if self._config is None:
            raise TypeError(
                "this store uses a client of yours, whose connections belong to one event loop: make another client "
                "and a store of it there, or open stores with from_url or from_config, which can be reopened"
            )
        config = replace(self._config, key_prefix=self._keys.prefix)
        return RedisStateStore.from_config(config, state_type=cast("type[Any]", self._types.cls), **self._options)

    async def aclose(self) -> None:
        if await self._client.aclose():
            await self._writer.aclose()
            if isinstance(self._client, Client):
                await self._policies.aclose()

    async def _prepare(self, submit: Submit) -> None:
        """See whether the data is what this store takes it for."""
        await check_partitions(self._keys, submit, self._client.node_names)

    async def _check_index(self, partition: Partition, cursor: int, count: int) -> tuple[int, int, int]:
        return await self._listing.check(self._client.execute, partition, cursor, count)

    async def __aenter__(self) -> Self:
        """Connect, and check that the server answers."""
        try:
            await self.ping()
        except BaseException:
            await self.aclose()
            raise
        return self
