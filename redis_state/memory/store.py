"""The store in memory: the same behaviour without a server, for tests and as the contract's reference."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, cast

from redis_state.base_store import BaseStore
from redis_state.checks import check, check_all, ids_of
from redis_state.clock import microseconds, milliseconds
from redis_state.codec import (
    MAX_STATE_BYTES,
    Codec,
    Format,
    Migrations,
    StateType,
)
from redis_state.commands.keys import check_id
from redis_state.config.options import StoreOptions, ViewOptions, check_view, schema_of
from redis_state.errors import (
    StateNotFoundError,
    StoreClosedError,
)
from redis_state.index.entries import Entry, info, merge
from redis_state.memory.sessions import Sessions, StoredSession, expiry
from redis_state.memory.writer import Writer
from redis_state.models import AgentState, S, SessionInfo, T
from redis_state.protocol import Ids
from redis_state.telemetry import Metrics
from redis_state.update import Lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta

    from opentelemetry.metrics import MeterProvider


_SLICE: Final = 512 * 1024  # bytes decoded before others have their turn


class MemoryStateStore(BaseStore[S]):
    """Keeps the states of agents in this process.

    States go through the same codec as in Redis, so what is refused there is refused here.

    Args:
        state_type: A msgspec Struct or dataclass with `agent_id` and `session_id`. Stored fields that it lacks are not
            loaded, and a save drops them; with ``forbid_unknown_fields=True`` they are a `StateDecodeError`.
        ttl: After how long a saved state expires; None is never.
        refresh_ttl: Whether a load lets the state expire `ttl` later.
        format: ``"json"`` or ``"msgpack"``.
        max_state_bytes: How large a state may be.
        schema: As for `StoreOptions`.
        migrations: As for `StoreOptions`.
        meter_provider: Where metrics are recorded; None is the global provider.
    """

    def __init__(
        self,
        *,
        state_type: type[S] = AgentState,  # pyright: ignore[reportArgumentType]
        ttl: timedelta | None = None,
        refresh_ttl: bool = False,
        format: Format = "json",
        max_state_bytes: int = MAX_STATE_BYTES,
        schema: int = 1,
        migrations: Migrations | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        check_all({"ttl": ttl, "refresh_ttl": refresh_ttl, "format": format, "meter_provider": meter_provider})
        check_all({"max_state_bytes": max_state_bytes, "schema": schema, "migrations": migrations or {}})
        options: StoreOptions = {
            "schema": schema,
            "migrations": {} if migrations is None else migrations,
            "ttl": ttl,
            "refresh_ttl": refresh_ttl,
            "format": format,
            "max_state_bytes": max_state_bytes,
        }
        self._set_up(state_type, options, Metrics(meter_provider), Sessions(), None)

    def _set_up(
        self,
        state_type: type[S],
        options: StoreOptions,
        metrics: Metrics,
        sessions: Sessions,
        parent: MemoryStateStore[Any] | None,
    ) -> None:
        """Keep states of a type in some sessions; a view has a parent, with which it is closed."""
        self._options = options
        self._types = StateType(state_type)
        self._codec = Codec(
            self._types,
            options.get("format", "json"),
            max_state_bytes=options.get("max_state_bytes", MAX_STATE_BYTES),
            schema=schema_of(options),
        )
        self._ttl = milliseconds(options.get("ttl"))
        self._refresh_ttl = options.get("refresh_ttl", False)
        self._metrics = metrics
        self._parent = parent
        self._lines = Lines()
        self._closed = False
        self._sessions = sessions
        self._writer = Writer(
            types=self._types,
            codec=self._codec,
            sessions=sessions,
            find=self._find,
            metrics=metrics.save,
            ttl=self._ttl,
        )
        self._start_save = self._writer.save
        if parent is None:
            sessions.join()

    def __repr__(self) -> str:
        if not hasattr(self, "_sessions"):
            return "<MemoryStateStore, not made: its arguments were refused>"
        return f"<MemoryStateStore of {self._types.cls.__name__}: {len(self._sessions.agents)} agents>"

    async def _add(self, agent_id: str, session_id: str, **what: Any) -> int:
        self._check(agent_id, session_id)
        return self._writer.append((agent_id, session_id), **what)

    async def load(self, agent_id: str, session_id: str) -> S:
        with self._metrics.load.measure():
            value = self._value(agent_id, session_id)
            if value is None:
                raise StateNotFoundError(agent_id, session_id)
            return self._read(agent_id, session_id, value)

    async def load_many(self, agent_id: str, session_ids: Ids | Iterator[str]) -> dict[str, S]:
        found: dict[str, S] = {}
        with self._metrics.load.measure() as measured:
            self._check(agent_id)
            size = 0
            for session_id in ids_of(session_ids):
                value = self._value(agent_id, session_id)
                if value is not None:
                    found[session_id] = self._read(agent_id, session_id, value)
                    size += len(value)
                if size > _SLICE:
                    size = 0
                    await asyncio.sleep(0)  # others have their turn
            measured.count = len(found)
        return found

    def _value(self, agent_id: str, session_id: str) -> bytes | None:
        """The bytes of a session, which expires later from now on where loads are to see to that."""
        with self._sessions.lock:
            session = self._find(agent_id, session_id)
            if session is None:
                return None
            if self._refresh_ttl and self._ttl is not None:
                session.expires_at = expiry(self._ttl)
            return session.value

    def _read(self, agent_id: str, session_id: str, value: bytes) -> S:
        state, origin = self._codec.decode(value, agent_id, session_id)
        self._types.adopt(state, origin)
        return state

    @property
    def is_closed(self) -> bool:
        return self._closed or (self._parent is not None and self._parent.is_closed)

    def _operation(self) -> AbstractContextManager[Any]:
        self._check("any")
        return nullcontext()

    async def _replace(self, agent_id: str, session_id: str, before: bytes, after: bytes) -> bool:
        with self._sessions.lock:
            session = self._find(agent_id, session_id)
            if session is None or session.value != before:
                return False
            session.value, session.head = after, self._codec.head_of(after)
            return True

    async def _tail(self, agent_id: str, session_id: str, wanted: int | None) -> tuple[bytes, int] | None:
        session = self._find(agent_id, session_id)
        return None if session is None else (session.value, 0)

    async def delete(self, agent_id: str, session_id: str) -> bool:
        with self._metrics.delete.measure() as measured, self._sessions.lock:
            deleted = self._find(agent_id, session_id) is not None and self._sessions.remove(agent_id, session_id)
            measured.count = int(deleted)
        return deleted

    async def list(self, agent_id: str, *, limit: int | None = None) -> list[str]:
        with self._metrics.list.measure():
            check("limit", limit)
            self._check(agent_id)
            ids: list[str] = []
            async with aclosing(merge(await self._sorted(agent_id, limit))) as slices:
                async for entries in slices:
                    ids += [member.decode() for _, member in entries]
                    if limit is not None and len(ids) >= limit:
                        break
            return ids[:limit]

    async def sessions(
        self, agent_id: str, *, limit: int | None = None, before: SessionInfo | datetime | None = None
    ) -> AsyncIterator[SessionInfo]:
        check("limit", limit)
        check("before", before)
        if isinstance(before, SessionInfo):
            cursor: Entry | None = (microseconds(before.updated_at), before.session_id.encode())
        else:
            cursor = None if before is None else (microseconds(before), b"")
        self._check(agent_id)
        shown = 0
        async with aclosing(merge(await self._sorted(agent_id, limit, cursor))) as slices:
            async for entries in slices:
                for entry in entries:
                    if shown == limit:
                        return
                    if self._find(agent_id, entry[1].decode()) is not None:
                        yield info(entry)
                        shown += 1

    async def count(self, agent_id: str) -> int:
        self._check(agent_id)
        return sum([len(entries) async for entries in self._sessions.slices(agent_id)])

    async def exists(self, agent_id: str, session_id: str) -> bool:
        return self._find(agent_id, session_id) is not None

    async def touch(self, agent_id: str, session_id: str, *, ttl: timedelta | None = None) -> bool:
        left = self._time_left("touch()", ttl)
        with self._sessions.lock:
            session = self._find(agent_id, session_id)
            if session is not None:
                session.expires_at = expiry(left)
        return session is not None

    async def touch_agent(self, agent_id: str, *, ttl: timedelta | None = None) -> int:
        self._time_left("touch_agent()", ttl)
        self._check(agent_id)
        touched = 0
        async for entries in self._sessions.slices(agent_id):
            touched += sum([await self.touch(agent_id, member.decode(), ttl=ttl) for _, member in entries])
        return touched

    async def delete_agent(self, agent_id: str, *, progress: Callable[[int], None] | None = None) -> int:
        deleted = 0
        with self._metrics.delete.measure() as measured:
            check("progress", progress)
            self._check(agent_id)
            async for entries in self._sessions.slices(agent_id):
                with self._sessions.lock:
                    deleted += sum(self._sessions.remove(agent_id, member.decode()) for _, member in entries)
                measured.count = deleted
                if entries and progress is not None:
                    progress(deleted)
            measured.count = deleted
        return deleted

    async def agents(self) -> AsyncIterator[str]:
        self._check("any")
        with self._sessions.lock:
            agent_ids = list(self._sessions.agents)
        for agent_id in agent_ids:
            async with aclosing(self._sessions.slices(agent_id)) as slices:
                async for entries in slices:
                    if entries:
                        yield agent_id
                        break

    async def ping(self) -> None:
        self._check("any")

    def view(self, state_type: type[T], *, namespace: str, **options: Unpack[ViewOptions]) -> MemoryStateStore[T]:
        check_view(namespace, options)
        if self.is_closed:
            raise StoreClosedError("the store is closed; make the view of one that is open")
        return self._like(state_type, {**self._options, **options}, self._sessions.namespace(namespace), self)

    def reopen(self) -> MemoryStateStore[S]:
        return self._like(cast("type[Any]", self._types.cls), self._options, self._sessions, None)

    def _like(
        self, state_type: type[T], options: StoreOptions, sessions: Sessions, parent: MemoryStateStore[Any] | None
    ) -> MemoryStateStore[T]:
        """A store with the same metrics."""
        store = cast("MemoryStateStore[T]", MemoryStateStore.__new__(MemoryStateStore))
        store._set_up(state_type, options, self._metrics, sessions, parent)  # noqa: SLF001  # of the same class
        return store

    async def aclose(self) -> None:
        """Close, and forget the states, unless this is a view or another store has them too. May be called again."""
        if not self._closed:
            self._closed = True
            if self._parent is None:
                self._sessions.leave()

    async def __aenter__(self) -> Self:
        """Use the store."""
        self._check("any")
        return self

    def _check(self, agent_id: str, session_id: str = "any") -> None:
        """Refuse ids that are none, and a closed store."""
        check_id(agent_id, "agent_id")
        check_id(session_id, "session_id")
        if self.is_closed:
            raise StoreClosedError("the store is closed; open another one")

    def _find(self, agent_id: str, session_id: str) -> StoredSession | None:
        """A session that has not expired. Who changes it holds the lock."""
        self._check(agent_id, session_id)
        with self._sessions.lock:
            return self._sessions.find(agent_id, session_id)

    async def _sorted(self, agent_id: str, limit: int | None, before: Entry | None = None) -> list[list[Entry]]:
        """The agent's sessions in slices, each oldest first, and no more of it than the newest that are wanted."""
        return [
            sorted(entry for entry in entries if before is None or entry < before)[-(limit or 0) :]
            async for entries in self._sessions.slices(agent_id)
        ]
