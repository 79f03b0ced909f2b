"""The store in memory: the same behaviour without a server, for tests and as the contract's reference."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final, Self

from redis_state.base_store import BaseStore
from redis_state.checks import check, check_all, ids_of
from redis_state.clock import Clock, microseconds, milliseconds
from redis_state.codec import (
    MAX_STATE_BYTES,
    UNKNOWN,
    Codec,
    Format,
    Revision,
    Stamp,
    StateType,
    draft_addition,
    finish_line,
    key_id,
)
from redis_state.codec import revision as revisions
from redis_state.codec.folding import is_due
from redis_state.codec.write_ids import write_ids
from redis_state.commands.keys import check_id
from redis_state.errors import (
    StateEncodeError,
    StateNotFoundError,
    StateTooLargeError,
    StoreClosedError,
    VersionConflictError,
)
from redis_state.index.entries import SLICE, Entry, info, merge
from redis_state.models import AgentState, S, SessionInfo
from redis_state.protocol import Ids
from redis_state.telemetry import Metrics
from redis_state.update import Lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

_SLICE: Final = 512 * 1024  # bytes decoded before others have their turn


@dataclass(slots=True)
class _Session:
    """What is stored of a session.

    Attributes:
        value: As it would stand in Redis.
        head: How many bytes of it are the head.
        revision: Its latest writes.
        score: When it was last written, in microseconds since 1970.
        expires_at: When it does, by `monotonic`; infinity is never.
    """

    value: bytes
    head: int
    revision: Revision
    score: int
    expires_at: float


@dataclass(slots=True)
class _Write:
    """A save that was begun.

    Attributes:
        ids: Of agent and session.
        document: The state's bytes, without a revision.
        entry: The entry of the write.
        now: When, in microseconds since 1970.
        ttl: After how many milliseconds it expires, or None.
    """

    ids: tuple[str, str]
    document: bytes
    entry: bytes
    now: int
    ttl: int | None


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
        meter_provider: MeterProvider | None = None,
    ) -> None:
        check_all({"ttl": ttl, "refresh_ttl": refresh_ttl, "format": format, "meter_provider": meter_provider})
        check("max_state_bytes", max_state_bytes)
        self._types = StateType(state_type)
        self._codec = Codec(self._types, format, max_state_bytes=max_state_bytes)
        self._ttl = milliseconds(ttl)
        self._refresh_ttl = refresh_ttl
        self._metrics = Metrics(meter_provider)
        self._agents: dict[str, dict[str, _Session]] = {}
        self._clock = Clock()
        self._lines = Lines()
        self._write_ids = write_ids()
        self._closed = False

    def __repr__(self) -> str:
        if not hasattr(self, "_agents"):
            return "<MemoryStateStore, not made: its arguments were refused>"
        return f"<MemoryStateStore of {self._types.cls.__name__}: {len(self._agents)} agents>"

    def _start_save(
        self, state: Any, if_version: int | None, key: str | None, ttl: timedelta | None
    ) -> Coroutine[Any, Any, None]:
        started = perf_counter()
        try:
            if if_version is not None:
                check("if_version", if_version)
            write_id = next(self._write_ids) if key is None else key_id(key)
            now = self._clock.now()
            stamp = self._types.stamp(state, if_version, now)
            ids = check_id(state.agent_id, "agent_id"), check_id(state.session_id, "session_id")
            left = self._ttl if ttl is None else milliseconds(ttl)
            document = stamp.encode(self._codec.encode)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to who awaits the save
            return self._refuse(error, started)
        write = _Write(ids, document, revisions.entry_of(write_id, stamp.version, now), now, left)
        return self._save(write, stamp, if_version, started)

    async def _refuse(self, error: Exception, started: float) -> None:
        self._metrics.save.failed(started, error)
        raise error

    async def _save(self, write: _Write, stamp: Stamp, if_version: int | None, started: float) -> None:
        try:
            stored = self._find(*write.ids)
            older = stamp.origin
            repeated = None if stored is None else revisions.made_by_key(stored.revision, write.entry)
            if repeated is None and if_version is not None:
                found = UNKNOWN if stored is None else stored.revision
                if found.version != if_version or not found.ids.startswith(stamp.origin.newest):
                    raise VersionConflictError(if_version, found.version)
                older = found
        except BaseException as error:
            stamp.drop()
            self._metrics.save.failed(started, error)
            raise
        if repeated is None:
            revision = revisions.make(stamp.version, write.entry, older.ids, guarded=True)
            self._put(write.ids, write.document, revision, write.now, write.ttl)
            stamp.keep(revision)
        else:
            stamp.keep_earlier(*repeated)
        self._metrics.save.done(started)

    def _put(self, ids: tuple[str, str], document: bytes, revision: Revision, now: int, ttl: int | None) -> None:
        value = self._codec.sealed(document, revision)
        session = _Session(value, len(value), revision, now, _expiry(ttl))
        self._agents.setdefault(ids[0], {})[ids[1]] = session

    async def load(self, agent_id: str, session_id: str) -> S:
        with self._metrics.load.measure():
            session = self._find(agent_id, session_id)
            if session is None:
                raise StateNotFoundError(agent_id, session_id)
            return self._read(agent_id, session_id, session)

    async def load_many(self, agent_id: str, session_ids: Ids | Iterator[str]) -> dict[str, S]:
        found: dict[str, S] = {}
        with self._metrics.load.measure() as measured:
            self._check(agent_id)
            size = 0
            for session_id in ids_of(session_ids):
                session = self._find(agent_id, session_id)
                if session is not None:
                    found[session_id] = self._read(agent_id, session_id, session)
                    size += len(session.value)
                if size > _SLICE:
                    size = 0
                    await asyncio.sleep(0)  # others have their turn
            measured.count = len(found)
        return found

    def _operation(self) -> AbstractContextManager[Any]:
        self._check("any")
        return nullcontext()

    async def _add(self, agent_id: str, session_id: str, **what: Any) -> int:
        self._check(agent_id, session_id)
        key, ttl = what.pop("key"), what.pop("ttl")
        write_id = next(self._write_ids) if key is None else key_id(key)
        now = self._clock.now()
        left = self._ttl if ttl is None else milliseconds(ttl)
        addition = draft_addition(self._types, self._codec, (agent_id, session_id), now, **what)
        session = self._find(agent_id, session_id)
        version = 1 if session is None else session.revision.version + 1
        entry = revisions.entry_of(write_id, version, now)
        expected = addition.condition
        if session is None:
            if expected.version:
                raise VersionConflictError(expected.version, 0)
            if not addition.created:
                raise StateNotFoundError(agent_id, session_id)
            revision = revisions.make(1, entry, guarded=True)
            self._put((agent_id, session_id), addition.created, revision, now, left)
            return 1
        if (repeated := revisions.made_by_key(session.revision, entry)) is not None:
            return repeated[0].version
        if expected.version is not None and (
            expected.version != session.revision.version or not session.revision.ids.startswith(expected.write)
        ):
            raise VersionConflictError(expected.version, session.revision.version)
        if version > revisions.MAX_VERSION:
            raise StateEncodeError("$.version", "it is the last one, 2**53 - 1")
        self._append(session, version, addition.line, entry, now)
        if left is not None:
            session.expires_at = _expiry(left)
        return version

    def _append(self, session: _Session, version: int, line: bytes, entry: bytes, now: int) -> None:
        timed = entry if b"@" in entry else b"%b@%d" % (entry, now)
        behind = len(session.value) - session.head
        line = finish_line(line, version, timed + b",", behind)
        size = len(session.value) + len(line)
        if size > self._codec.max_state_bytes:
            raise StateTooLargeError(size, self._codec.max_state_bytes)
        session.value += line
        session.revision = revisions.make(version, entry, session.revision.ids, guarded=True)
        session.score = now
        if is_due(size, behind + len(line), len(line)) and (folded := self._codec.fold(session.value)) is not None:
            session.value = folded
            session.head = self._codec.head_of(folded)

    async def _tail(self, agent_id: str, session_id: str, wanted: int | None) -> tuple[bytes, int] | None:
        session = self._find(agent_id, session_id)
        return None if session is None else (session.value, 0)

    async def delete(self, agent_id: str, session_id: str) -> bool:
        with self._metrics.delete.measure() as measured:
            deleted = self._find(agent_id, session_id) is not None
            if deleted:
                self._forget(agent_id, session_id)
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
        return sum([len(entries) async for entries in self._slices(agent_id)])

    async def exists(self, agent_id: str, session_id: str) -> bool:
        return self._find(agent_id, session_id) is not None

    async def touch(self, agent_id: str, session_id: str, *, ttl: timedelta | None = None) -> bool:
        left = self._time_left("touch()", ttl)
        session = self._find(agent_id, session_id)
        if session is not None:
            session.expires_at = _expiry(left)
        return session is not None

    async def touch_agent(self, agent_id: str, *, ttl: timedelta | None = None) -> int:
        left = self._time_left("touch_agent()", ttl)
        sessions = self._sessions(agent_id)
        for session in sessions.values():
            session.expires_at = _expiry(left)
        return len(sessions)

    def _time_left(self, operation: str, ttl: timedelta | None) -> int:
        left = self._ttl if ttl is None else milliseconds(ttl)
        if left is None:
            raise ValueError(f"{operation} needs a ttl, here or on the store")
        return left

    async def delete_agent(self, agent_id: str, *, progress: Callable[[int], None] | None = None) -> int:
        deleted = 0
        with self._metrics.delete.measure() as measured:
            check("progress", progress)
            self._check(agent_id)
            async for entries in self._slices(agent_id):
                for _, member in entries:
                    self._forget(agent_id, member.decode())
                measured.count = deleted = deleted + len(entries)
                if entries and progress is not None:
                    progress(deleted)
            measured.count = deleted
        return deleted

    async def agents(self) -> AsyncIterator[str]:
        self._check("any")
        for agent_id in list(self._agents):
            async with aclosing(self._slices(agent_id)) as slices:
                async for entries in slices:
                    if entries:
                        yield agent_id
                        break

    async def ping(self) -> None:
        self._check("any")

    async def aclose(self) -> None:
        """Forget the states, and close. May be called again."""
        self._closed = True
        self._agents.clear()

    async def __aenter__(self) -> Self:
        """Use the store."""
        self._check("any")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()

    def _check(self, agent_id: str, session_id: str = "any") -> None:
        """Refuse ids that are none, and a closed store."""
        check_id(agent_id, "agent_id")
        check_id(session_id, "session_id")
        if self._closed:
            raise StoreClosedError("the store is closed; open another one")

    def _find(self, agent_id: str, session_id: str) -> _Session | None:
        """A session that has not expired."""
        self._check(agent_id, session_id)
        return self._living(agent_id, session_id)

    def _living(self, agent_id: str, session_id: str) -> _Session | None:
        session = self._agents.get(agent_id, {}).get(session_id)
        if session is None or session.expires_at > monotonic():
            return session
        self._forget(agent_id, session_id)
        return None

    def _forget(self, agent_id: str, session_id: str) -> None:
        sessions = self._agents.get(agent_id, {})
        sessions.pop(session_id, None)
        if not sessions:
            self._agents.pop(agent_id, None)

    async def _slices(self, agent_id: str) -> AsyncGenerator[list[Entry]]:
        """The agent's sessions that have not expired, so many at a time that others have their turn."""
        session_ids = list(self._agents.get(agent_id, ()))
        for start in range(0, len(session_ids), SLICE):
            some = [(self._living(agent_id, each), each) for each in session_ids[start : start + SLICE]]
            yield [(session.score, session_id.encode()) for session, session_id in some if session is not None]
            if start + SLICE < len(session_ids):
                await asyncio.sleep(0)

    async def _sorted(self, agent_id: str, limit: int | None, before: Entry | None = None) -> list[list[Entry]]:
        """The agent's sessions in slices, each oldest first, and no more of it than the newest that are wanted."""
        return [
            sorted(entry for entry in entries if before is None or entry < before)[-(limit or 0) :]
            async for entries in self._slices(agent_id)
        ]

    def _read(self, agent_id: str, session_id: str, session: _Session) -> S:
        if self._refresh_ttl and self._ttl is not None:
            session.expires_at = _expiry(self._ttl)
        state, origin = self._codec.decode(session.value, agent_id, session_id)
        self._types.adopt(state, origin)
        return state


def _expiry(milliseconds_left: int | None) -> float:
    return float("inf") if milliseconds_left is None else monotonic() + milliseconds_left / 1000
