"""Writes a session into memory: takes the bytes, stores them, and leaves on the object what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from redis_state.checks import check
from redis_state.clock import Clock, milliseconds
from redis_state.codec import (
    UNKNOWN,
    Codec,
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
from redis_state.errors import StateEncodeError, StateNotFoundError, StateTooLargeError, VersionConflictError
from redis_state.memory.sessions import Sessions, StoredSession, expiry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import timedelta

    from redis_state.codec.addition import Addition
    from redis_state.telemetry import Operation


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


class Writer:
    """Carries out the saves and appends of a store in memory.

    Args:
        types: What is known of the state type.
        codec: Makes the bytes.
        sessions: Where they are kept.
        find: Finds a session that has not expired; refuses a closed store.
        metrics: Where saves are recorded.
        ttl: After how many milliseconds a state expires, where a write does not say it; None is never.
    """

    def __init__(
        self,
        *,
        types: StateType[Any],
        codec: Codec[Any],
        sessions: Sessions,
        find: Callable[[str, str], StoredSession | None],
        metrics: Operation,
        ttl: int | None,
    ) -> None:
        self._types = types
        self._codec = codec
        self._sessions = sessions
        self._find = find
        self._metrics = metrics
        self._ttl = ttl
        self._clock = Clock()
        self._write_ids = write_ids()

    def save(
        self, state: Any, if_version: int | None, key: str | None, ttl: timedelta | None
    ) -> Coroutine[Any, Any, None]:
        """Take the bytes of a state as it is now; what is returned stores them."""
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
        self._metrics.failed(started, error)
        raise error

    async def _save(self, write: _Write, stamp: Stamp, if_version: int | None, started: float) -> None:
        try:
            with self._sessions.lock:
                revision, earlier = self._store(write, stamp, if_version)
        except BaseException as error:
            stamp.drop()
            self._metrics.failed(started, error)
            raise
        if earlier is None:
            stamp.keep(revision)
        else:
            stamp.keep_earlier(*earlier)
        self._metrics.done(started)

    def _store(self, write: _Write, stamp: Stamp, if_version: int | None) -> tuple[Revision, Any]:
        """Store what a save writes. Returns its revision; or what an earlier write with its key made."""
        stored = self._find(*write.ids)
        found = UNKNOWN if stored is None else stored.revision
        if stored is not None and (repeated := revisions.made_by_key(found, write.entry)) is not None:
            return found, repeated
        if if_version is not None and (found.version != if_version or not found.ids.startswith(stamp.origin.newest)):
            raise VersionConflictError(if_version, found.version)
        is_script = if_version is not None or b"=" in write.entry  # in Redis; else it replaces what it does not know
        older = revisions.replaced_by(stamp.version, found) if is_script else stamp.origin.ids
        revision = revisions.make(stamp.version, write.entry, older, guarded=True)
        self._put(write.ids, write.document, revision, write.now, write.ttl)
        return revision, None

    def _put(self, ids: tuple[str, str], document: bytes, revision: Revision, now: int, ttl: int | None) -> None:
        value = self._codec.sealed(document, revision)
        self._sessions.put(*ids, StoredSession(value, len(value), revision, now, expiry(ttl)))

    def append(self, ids: tuple[str, str], *, key: str | None, ttl: timedelta | None, **what: Any) -> int:
        """Append messages to a session, and merge changes into it, or create it. Returns its version then."""
        write_id = next(self._write_ids) if key is None else key_id(key)
        now = self._clock.now()
        left = self._ttl if ttl is None else milliseconds(ttl)
        addition = draft_addition(self._types, self._codec, ids, now, **what)
        with self._sessions.lock:
            return self._apply(ids, addition, write_id, now, left)

    def _apply(self, ids: tuple[str, str], addition: Addition, write_id: bytes, now: int, left: int | None) -> int:
        """Append a line to a session, or create it. Returns its version then."""
        session = self._find(*ids)
        version = 1 if session is None else session.revision.version + 1
        entry = revisions.entry_of(write_id, version, now)
        expected = addition.condition
        if session is None:
            if expected.version:
                raise VersionConflictError(expected.version, 0)
            if not addition.created:
                raise StateNotFoundError(*ids)
            revision = revisions.make(1, entry, guarded=True)
            self._put(ids, addition.created, revision, now, left)
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
            session.expires_at = expiry(left)
        return version

    def _append(self, session: StoredSession, version: int, line: bytes, entry: bytes, now: int) -> None:
        timed = entry if b"@" in entry else b"%b@%d" % (entry, now)
        behind = len(session.value) - session.head
        line = finish_line(line, version, timed + b",", behind, self._codec.schema.number)
        size = len(session.value) + len(line)
        if size > self._codec.max_state_bytes:
            raise StateTooLargeError(size, self._codec.max_state_bytes)
        session.value += line
        session.revision = revisions.make(version, entry, session.revision.ids, guarded=True)
        session.score = now
        if is_due(size, behind + len(line), len(line)) and (folded := self._codec.fold(session.value)) is not None:
            session.value = folded
            session.head = self._codec.head_of(folded)
