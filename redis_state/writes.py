"""The writes of a session, as operations: what goes to the server, and what its replies mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis_state import revision as revisions
from redis_state.codec import Codec
from redis_state.errors import OutcomeUnknownError, StateDecodeError, StateNotFoundError, VersionConflictError
from redis_state.keys import Partition
from redis_state.operation import EXEC, MULTI, Operation, Replay, call, command, pack, pack_set
from redis_state.replies import ReplyError, refusal
from redis_state.scripts import APPEND, SAVE

Execute = Callable[[Operation], Awaitable[Any]]


@dataclass(slots=True)
class Save:
    """One save: where to, what, and when.

    Attributes:
        partition: The keys of the session's agent.
        key: The key of the state.
        session_id: The session.
        document: The state's bytes, without a revision.
        revision: What this write makes.
        parent: The revision that the object stems from; empty where it is not known.
        score: When, in microseconds since 1970.
        ttl: After how many milliseconds it expires; None is never.
    """

    partition: Partition
    key: bytes
    session_id: str
    document: bytes
    revision: str
    parent: str
    score: int
    ttl: int | None

    async def always(self, execute: Execute, *, fresh: bool) -> str:
        """Save whatever is stored, in one MULTI.

        Args:
            execute: Sends an operation and returns its result.
            fresh: Whether the object was never loaded or saved, so that nothing should be stored yet.

        Returns:
            The revision that is stored now.
        """
        partition, key = self.partition, self.key
        options: tuple[bytes | int, ...] = () if self.ttl is None else (b"PX", self.ttl)
        if fresh:  # GET returns nothing in the common case, and refuses to replace a key of another type
            options += (b"GET",)
        parts = pack_set(key, Codec.sealed(self.document, self.revision), *options)
        zadd = pack(("ZADD", partition.index, self.score, self.session_id))
        op = Operation(
            b"".join((MULTI, *parts, zadd, EXEC)),
            partition.slot,
            replies=4,
            replay=Replay.GUARDED,
            fallback=lambda: self._script("", replay=1),
        )
        reply = await execute(op)
        if op.script is not None:
            return self._saved(reply, None)
        for error in reply:
            if isinstance(error, ReplyError):
                if error is reply[0] and reply[1] == 1:
                    await execute(command(partition.slot, "ZREM", partition.index, self.session_id))
                raise refusal(error)
        return self.revision

    async def if_version(self, execute: Execute, expected: int) -> str:
        """Save if the stored version is the expected one (0: nothing is stored), in one script. Returns as `always`."""
        op = self._script(expected, replay=0)
        op.fallback = lambda: self._script(expected, replay=1)
        return self._saved(await execute(op), expected)

    def _saved(self, reply: list[Any], expected: int | None) -> str:
        """The revision that the script made, or what it found instead."""
        if reply[0] == b"conflict":
            raise VersionConflictError(expected or 0, int(reply[1]))
        if reply[0] == b"unknown":
            raise OutcomeUnknownError("the save was sent, its reply was lost, and others have written since")
        if reply[0] == b"foreign":
            raise StateDecodeError(self.partition.agent_id, self.session_id, "it has no version to compare with")
        return reply[1].decode() if len(reply) > 1 else self.revision

    def _script(self, expected: int | str, *, replay: int) -> Operation:
        keys = (self.key, self.partition.index)
        version, newest, parent = revisions.version(self.revision), revisions.newest(self.revision), self.parent
        what = (Codec.unsealed(self.document), version, newest, expected, revisions.newest(parent))
        args = (*what, self.score, self.session_id, "" if self.ttl is None else self.ttl, replay)
        return call(SAVE, self.partition.slot, keys, args, replay=Replay.GUARDED)


@dataclass(slots=True)
class Append:
    """One append: where to, what, and when.

    Attributes:
        partition: The keys of the session's agent.
        key: The key of the state.
        session_id: The session.
        line: The batch up to its revision.
        write_id: The id of this write.
        seen: The id of the latest write of the session that this store knows of; empty for none.
        score: When, in microseconds since 1970.
        ttl: After how many milliseconds the state expires; None leaves its expiry as it is.
    """

    partition: Partition
    key: bytes
    session_id: str
    line: bytes
    write_id: str
    seen: str
    score: int
    ttl: int | None

    async def send(self, execute: Execute) -> int:
        """Append, in one script. Returns the session's version."""
        op = self._script(replay=0)
        op.fallback = lambda: self._script(replay=1)
        reply = await execute(op)
        if reply[0] == b"missing":
            raise StateNotFoundError(self.partition.agent_id, self.session_id)
        if reply[0] == b"unknown":
            raise OutcomeUnknownError("the append was sent, its reply was lost, and others have written since")
        if reply[0] == b"foreign":
            raise StateDecodeError(self.partition.agent_id, self.session_id, "it has no version to count up")
        return int(reply[1])

    def _script(self, *, replay: int) -> Operation:
        keys = (self.key, self.partition.index)
        ttl = "" if self.ttl is None else self.ttl
        args = (self.line, self.write_id, self.seen, self.score, self.session_id, ttl, replay)
        return call(APPEND, self.partition.slot, keys, args, replay=Replay.GUARDED)
