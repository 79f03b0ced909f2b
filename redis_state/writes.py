"""The writes of a session, as operations: what goes to the server, and what its replies mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis_state import revision as revisions
from redis_state.errors import OutcomeUnknownError, StateDecodeError, StateNotFoundError, VersionConflictError
from redis_state.keys import Partition
from redis_state.operation import EXEC, MULTI, Argument, Operation, Replay, call, command, pack
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
        body: The document up to its revision, for the script, which seals it.
        document: All of the document, for MULTI.
        revision: What this write makes.
        score: When, in microseconds since 1970.
        ttl: After how many milliseconds it expires; None is never.
    """

    partition: Partition
    key: bytes
    session_id: str
    body: bytes
    document: bytes
    revision: str
    score: int
    ttl: int | None

    async def always(self, execute: Execute, *, fresh: bool) -> None:
        """Save whatever is stored, in one MULTI.

        Args:
            execute: Sends an operation and returns its result.
            fresh: Whether the object was never loaded or saved, so that nothing should be stored yet.
        """
        partition, key = self.partition, self.key
        set_: tuple[Argument, ...] = ("SET", key, self.document)
        if self.ttl is not None:
            set_ += ("PX", self.ttl)
        if fresh:  # GET returns nothing in the common case, and refuses to replace a key of another type
            set_ += ("GET",)
        zadd = ("ZADD", partition.index, self.score, self.session_id)
        op = Operation(
            b"".join((MULTI, pack(set_), pack(zadd), EXEC)),
            partition.slot,
            replies=4,
            replay=Replay.GUARDED,
            fallback=lambda: self._script("", "", replay=1),
        )
        before, added = await execute(op)
        if isinstance(before, ReplyError):
            if added == 1:
                await execute(command(partition.slot, "ZREM", partition.index, self.session_id))
            raise refusal(before)
        if isinstance(added, ReplyError):
            if fresh:
                undo = ("DEL", key) if before is None else ("SET", key, before, "KEEPTTL")
                await execute(command(partition.slot, *undo))
            raise refusal(added)

    async def if_version(self, execute: Execute, expected: int, parent: str) -> str:
        """Save if the stored version is the expected one, in one script.

        Args:
            execute: Sends an operation and returns its result.
            expected: The version; 0: nothing is stored.
            parent: The revision that must be the stored one; empty: any with that version.

        Returns:
            The revision that is stored now.
        """
        newest = revisions.newest(parent) if parent else ""
        op = self._script(expected, newest, replay=0)
        op.fallback = lambda: self._script(expected, newest, replay=1)
        reply = await execute(op)
        if reply[0] == b"conflict":
            raise VersionConflictError(expected, int(reply[1]))
        if reply[0] == b"unknown":
            raise OutcomeUnknownError("the save was sent, its reply was lost, and others have written since")
        if reply[0] == b"foreign":
            raise StateDecodeError(self.partition.agent_id, self.session_id, "it has no version to compare with")
        return reply[1].decode() if len(reply) > 1 else self.revision

    def _script(self, expected: int | str, parent: str, *, replay: int) -> Operation:
        partition = self.partition
        keys = (self.key, partition.index)
        ttl = "" if self.ttl is None else self.ttl
        version, newest = revisions.version(self.revision), revisions.newest(self.revision)
        what = (self.body, version, newest, expected, parent)
        return call(
            SAVE, partition.slot, keys, (*what, self.score, self.session_id, ttl, replay), replay=Replay.GUARDED
        )


@dataclass(slots=True)
class Append:
    """One append: where to, what, and when. Attributes as those of `Save`; `line` is the batch up to its revision."""

    partition: Partition
    key: bytes
    session_id: str
    line: bytes
    write_id: str
    score: int
    ttl: int | None

    async def send(self, execute: Execute) -> int:
        """Append, in one script. Returns the session's version."""
        op = self._script(replay=0)
        op.fallback = lambda: self._script(replay=1)
        reply = await execute(op)
        if reply[0] == b"missing":
            raise StateNotFoundError(self.partition.agent_id, self.session_id)
        if reply[0] == b"foreign":
            raise StateDecodeError(self.partition.agent_id, self.session_id, "it has no version to count up")
        return int(reply[1])

    def _script(self, *, replay: int) -> Operation:
        keys = (self.key, self.partition.index)
        ttl = "" if self.ttl is None else self.ttl
        args = (self.line, self.write_id, self.score, self.session_id, ttl, replay)
        return call(APPEND, self.partition.slot, keys, args, replay=Replay.GUARDED)
