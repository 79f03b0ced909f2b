"""Writes a session: takes the bytes, sends them, and leaves on the object what became of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from redis_state.checks import check
from redis_state.clock import Clock, milliseconds
from redis_state.codec import draft_addition, key_id
from redis_state.codec import revision as revisions
from redis_state.codec.write_ids import write_ids
from redis_state.commands.request import Replay, Request, command
from redis_state.commands.scripts import REPAIR, REPLACE
from redis_state.commands.shapes import is_integer, is_value
from redis_state.commands.writes import Append, RepeatedWriteError, Save
from redis_state.errors import ServerRefusedError, StateStoreError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import timedelta

    from redis_state.codec import Codec, Stamp, StateType
    from redis_state.commands.keys import Keys, Session
    from redis_state.index.cleanup import Cleanup
    from redis_state.telemetry import Operation
    from redis_state.transport.view import AnyClient


_ENDING: Final = 128  # bytes of a value by which it is known again: the ids of its latest writes are among them


class Writer:
    """Carries out the saves and appends of a store.

    Args:
        client: Sends requests.
        types: What is known of the state type.
        codec: Makes the bytes.
        keys: The names of keys.
        cleanup: Is told of every write.
        metrics: Where saves are recorded.
        ttl: After how many milliseconds a state expires, where a write does not say it; None is never.
    """

    def __init__(
        self,
        *,
        client: AnyClient,
        types: StateType[Any],
        codec: Codec[Any],
        keys: Keys,
        cleanup: Cleanup,
        metrics: Operation,
        ttl: int | None,
    ) -> None:
        self._client = client
        self._types = types
        self._codec = codec
        self._keys = keys
        self._cleanup = cleanup
        self._metrics = metrics
        self._ttl = ttl
        self._clock = Clock()
        self._write_ids = write_ids()

    def save(
        self, state: Any, if_version: int | None, key: str | None, ttl: timedelta | None
    ) -> Coroutine[Any, Any, None]:
        """Take the bytes of a state as it is now; what is returned sends them."""
        started = perf_counter()
        try:
            if if_version is not None:
                check("if_version", if_version)
            # What may be refused comes first: a save that is not made leaves no trace on its object.
            left = self._ttl if ttl is None else milliseconds(ttl)
            write_id = next(self._write_ids) if key is None else key_id(key)
            now = self._clock.now()
            stamp = self._types.stamp(state, if_version, now)
            session = self._keys.session(state.agent_id, state.session_id)
            write = Save(
                b"",
                session.partition.slot,
                replay=Replay.GUARDED,
                session=session.key,
                of=session,
                document=stamp.encode(self._codec.encode),
                revision=revisions.make(stamp.version, write_id, stamp.origin.ids),
                parent=stamp.origin,
                expected=if_version,
                score=now,
                ttl=left,
                mark=self._codec.schema.mark,
                seen=session.seen,
            )
            if if_version is None and key is None:
                write.become_block(fresh=stamp.version_before == 0)
            else:
                write.become_script()
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to who awaits the save
            return self._refuse(error, started)
        return self._send(write, stamp, started)

    async def _refuse(self, error: Exception, started: float) -> None:
        self._metrics.failed(started, error)
        raise error

    async def _send(self, write: Save, stamp: Stamp, started: float) -> None:
        session = write.of
        try:
            reply = await self._client.submit(write)
            try:
                revision = write.outcome(reply)
            except ServerRefusedError as refusal:
                if write.is_half(reply):
                    await self._repair(session)
                elif refusal.stored:
                    stamp.keep(write.revision)
                raise
            except RepeatedWriteError as repeated:
                stamp.keep_earlier(repeated.revision, repeated.time)
                self._metrics.done(started)
                return
        except BaseException as error:
            self._client.withdraw(write)
            stamp.drop()
            self._metrics.failed(started, error)
            raise
        stamp.keep(revision)
        session.seen = revision
        self._cleanup.written(session.partition)
        self._metrics.done(started)

    async def _repair(self, session: Session) -> None:
        """Take a session out of the index whose state was refused, unless somebody else has saved it meanwhile."""
        partition = session.partition
        request = Request(b"", partition.slot, session=session.key)
        request.call(REPAIR, (partition.index, session.key), (session.session_id,), is_integer)
        await self._client.execute(request)

    async def append(
        self,
        agent_id: str,
        session_id: str,
        *,
        messages: list[Any] | None,
        changes: Any,
        if_version: Any,
        create: Any,
        key: str | None,
        ttl: timedelta | None,
    ) -> int:
        """Append messages to a stored state, and merge changes into it. Returns its version then."""
        ends = asyncio.get_running_loop().time() + self._client.budget
        session = self._keys.session(agent_id, session_id)
        now = self._clock.now()
        addition = draft_addition(
            self._types,
            self._codec,
            (agent_id, session_id),
            now,
            messages=messages,
            changes=changes,
            if_version=if_version,
            create=create,
        )
        write = Append(
            b"",
            session.partition.slot,
            replay=Replay.GUARDED,
            session=session.key,
            of=session,
            addition=addition,
            write_id=next(self._write_ids) if key is None else key_id(key),
            max_state_bytes=self._codec.max_state_bytes,
            score=now,
            ttl=self._ttl if ttl is None else milliseconds(ttl),
            mark=self._codec.schema.mark,
        )
        write.become_script()
        appended = write.outcome(await self._client.execute(write))
        session.seen = appended.revision
        self._cleanup.written(session.partition)
        if appended.folds:
            await self._fold(session, ends)
        return appended.revision.version

    async def _fold(self, session: Session, ends: float) -> None:
        """Fold what stands behind the head, in the time that the write has left.

        What goes wrong is no failure of the write, and a later one tries again.
        """
        slot, key = session.partition.slot, session.key
        with suppress(StateStoreError, ValueError, TimeoutError):
            async with asyncio.timeout_at(ends):
                value = await self._client.execute(command(slot, "GET", key, session=key, fits=is_value))
                if value is not None and (folded := self._codec.fold(value)) is not None:
                    await self.replace(session, value, folded)

    async def replace(self, session: Session, before: bytes, after: bytes) -> bool:
        """Put another form of a value in its place, unless it was written meanwhile. Returns whether it was not.

        This is no write of the session: nothing that a write or a condition compares changes.
        """
        request = Request(b"", session.partition.slot, session=session.key)
        request.call(REPLACE, (session.key,), (len(before), before[-_ENDING:], after), is_integer)
        return await self._client.execute(request) == 1

    async def aclose(self) -> None:
        """Wait for what runs beside the writes, which ends with the client."""
        await self._cleanup.aclose()
