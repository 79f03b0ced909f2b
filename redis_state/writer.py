"""Writes a session: takes the bytes, sends them, and leaves on the object what became of it."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from redis_state.checks import check
from redis_state.clock import Clock, milliseconds
from redis_state.codec import revision as revisions
from redis_state.codec.write_ids import write_ids
from redis_state.commands.request import Replay, Request
from redis_state.commands.scripts import REPAIR
from redis_state.commands.shapes import is_integer
from redis_state.commands.writes import Append, Save
from redis_state.errors import ServerRefusedError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import timedelta

    from redis_state.codec import Codec, Stamp, StateType
    from redis_state.commands.keys import Keys, Session
    from redis_state.index.cleanup import Cleanup
    from redis_state.telemetry import Operation
    from redis_state.transport.client import Client


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
        client: Client,
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

    def save(self, state: Any, if_version: int | None, ttl: timedelta | None) -> Coroutine[Any, Any, None]:
        """Take the bytes of a state as it is now; what is returned sends them."""
        started = perf_counter()
        try:
            write, stamp = self._draft(state, if_version, ttl)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to who awaits the save
            return self._refuse(error, started)
        return self._send(write, stamp, started)

    def _draft(self, state: Any, if_version: int | None, ttl: timedelta | None) -> tuple[Save, Stamp]:
        if if_version is not None:
            check("if_version", if_version)
        now = self._clock.now()
        left = self._ttl if ttl is None else milliseconds(ttl)
        stamp = self._types.stamp(state, if_version, now)
        session = self._keys.session(state.agent_id, state.session_id)
        write = Save(
            b"",
            session.partition.slot,
            replay=Replay.GUARDED,
            session=session.key,
            of=session,
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

    async def append(self, agent_id: str, session_id: str, messages: list[Any], ttl: timedelta | None) -> int:
        """Append messages to a stored state. Returns its version then."""
        session = self._keys.session(agent_id, session_id)
        now = self._clock.now()
        write = Append(
            b"",
            session.partition.slot,
            replay=Replay.GUARDED,
            session=session.key,
            of=session,
            line=self._codec.encode_line(messages),
            write_id=next(self._write_ids),
            max_state_bytes=self._codec.max_state_bytes,
            score=now,
            ttl=self._ttl if ttl is None else milliseconds(ttl),
        )
        write.become_script()
        session.seen = revision = write.outcome(await self._client.execute(write))
        self._cleanup.written(session.partition)
        return revision.version

    async def aclose(self) -> None:
        """Wait for what runs beside the writes, which ends with the client."""
        await self._cleanup.aclose()
