"""The writes of a session, as operations: what goes to the server, and what its replies mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec

from redis_state.codec import MAX_STATE_BYTES, UNKNOWN, Addition, Codec, Origin, Revision
from redis_state.codec import revision as revisions
from redis_state.codec.folding import is_due
from redis_state.commands.keys import Partition, Session, bulk
from redis_state.commands.replies import ReplyError, refusal
from redis_state.commands.request import EXEC, MULTI, Argument, Request, pack
from redis_state.commands.scripts import APPEND, DELETE, SAVE, Script
from redis_state.commands.shapes import is_block, is_counts
from redis_state.errors import (
    OutcomeUnknownError,
    StateDecodeError,
    StateEncodeError,
    StateNotFoundError,
    StateTooLargeError,
    VersionConflictError,
)

_DIGITS: Final = 16  # of a time
_NOT_LISTED: Final = "the state was stored, but its place in the list or its expiry was not"
# MULTI, SET key document [options], ZADD index score member, EXEC. To format them at once takes half the time of
# packing them one by one.
_BLOCK: Final = (
    b"*1\r\n$5\r\nMULTI\r\n"
    b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%.*b%b\r\n%b"
    b"*4\r\n$4\r\nZADD\r\n%b$%d\r\n%d\r\n$%d\r\n%b\r\n"
    b"*1\r\n$4\r\nEXEC\r\n"
)


class _Write(Request, kw_only=True):
    """A write that is replayed as a script which recognises it.

    Attributes:
        of: The session.
        score: When, in microseconds since 1970.
        ttl: After how many milliseconds the state expires, or None.
        mark: The schema of what is written, as `Schema.mark` has it.
        seen: The latest write of the session that the store knew of before it sent this one.
    """

    of: Session
    score: int
    ttl: int | None
    mark: bytes = b""
    seen: Origin = UNKNOWN

    def call_write(self, script: Script, fits: Callable[[Any], bool], *args: Argument) -> None:
        """Run a script with these arguments, and after them what each such script is told."""
        session = self.of
        if not self.sent:
            self.seen = session.seen
        ttl = "" if self.ttl is None else self.ttl
        seen = revisions.parsed(self.seen).newest
        keys = (session.key, session.partition.index)
        self.call(script, keys, (*args, self.score, session.session_id, ttl, seen, int(self.sent), self.mark), fits)


class Appended(msgspec.Struct):
    """What an append or merge has made.

    Attributes:
        revision: The session's version, and this write.
        folds: Whether it is the one that folds what stands behind the head.
    """

    revision: Revision
    folds: bool


class RepeatedWriteError(Exception):
    """Raised when a write with the same key has happened before: it is what the caller wanted.

    Attributes:
        revision: What that write made.
        time: When, in microseconds since 1970.
    """

    def __init__(self, revision: Revision, time: int) -> None:
        super().__init__(revision, time)
        self.revision = revision
        self.time = time


class Save(_Write, kw_only=True):
    """One save: a MULTI block, or a script where it has a condition. Without a ttl the state never expires.

    Attributes:
        document: The state's bytes, without a revision.
        revision: What this write makes.
        parent: The revision that the object stems from, as far as it is known.
        expected: The version that must be stored (0: nothing is); None: any.
    """

    document: bytes
    revision: Revision
    parent: Revision
    expected: int | None

    def become_block(self, *, fresh: bool) -> None:
        """Save whatever is stored.

        Args:
            fresh: Whether the object was never loaded or saved, so that nothing should be stored yet. GET then returns
                nothing in the common case, and refuses to replace a key of another type.
        """
        options, count = b"", 3
        if self.ttl is not None:
            options, count = b"$2\r\nPX\r\n" + bulk(b"%d" % self.ttl), 5
        if fresh:
            options, count = options + b"$3\r\nGET\r\n", count + 1
        session = self.of
        length, end = Codec.ending(self.document, self.revision, self.mark)
        key, member = session.key, session.session_id.encode()
        self.payload = _BLOCK % (
            count, len(key), key, length + len(end), length, self.document, end, options,
            session.partition.sent_index, len(str(self.score)), self.score, len(member), member,
        )  # fmt: skip
        self.replies = 4
        self.fits = is_block

    def become_script(self) -> None:
        """Save if what is stored is what is expected, once however often this is sent."""
        body, revision = Codec.unfinished(self.document), self.revision
        expected = "" if self.expected is None else self.expected
        self.call_write(SAVE, _is_saved, body, revision.version, revision.newest, expected, self.parent.newest)

    def is_half(self, reply: list[Any]) -> bool:
        """Whether the index took a session whose state was refused."""
        return self.script is None and type(reply[0]) is ReplyError and reply[1] == 1

    def outcome(self, reply: list[Any]) -> Revision:
        """The revision that is stored now.

        Raises:
            RepeatedWriteError: A write with the same key has happened before.
        """
        if self.script is None:
            if type(reply[0]) is not ReplyError and type(reply[1]) is not ReplyError:
                return self.revision
            for number, each in enumerate(reply):
                if type(each) is ReplyError:
                    stored = number > 0 and type(reply[0]) is not ReplyError
                    raise refusal(each, stored=stored, what=_NOT_LISTED if stored else "")
            return self.revision
        match reply[0]:
            case b"saved":
                return revisions.parse(reply[1]) if len(reply) > 1 else self.revision
            case b"repeated":
                version, time = int(reply[1]), int(reply[2])
                made = revisions.make(version, revisions.entry_of(self.revision.newest, version, time), guarded=True)
                raise RepeatedWriteError(made, time)
            case b"conflict":
                raise VersionConflictError(self.expected or 0, int(reply[1]))
            case b"unknown":
                raise OutcomeUnknownError("the save was sent, its reply was lost, and what is stored does not tell")
            case _:
                raise _foreign(self.of, "it has no version to compare with")


class Append(_Write, kw_only=True):
    """One append or merge: a script. Without a ttl the state's expiry stays as it is.

    Attributes:
        addition: What is added, and on which condition.
        write_id: The id of this write; one of 16 letters comes from a caller's key.
        max_state_bytes: How large the value may become.
    """

    addition: Addition
    write_id: bytes
    max_state_bytes: int = MAX_STATE_BYTES

    def become_script(self) -> None:
        """Append once, however often this is sent."""
        addition = self.addition
        condition = addition.condition
        expected = "" if condition.version is None else condition.version
        created = addition.created and Codec.unfinished(addition.created)
        limit = self.max_state_bytes
        self.call_write(APPEND, _is_appended, addition.line, self.write_id, limit, expected, condition.write, created)

    def outcome(self, reply: list[Any]) -> Appended:
        """The session's version now, and this write."""
        match reply[0]:
            case b"appended":
                version = int(reply[1])
                revision = revisions.make(version, revisions.entry_of(self.write_id, version, self.score), guarded=True)
                return Appended(revision, is_due(*map(int, reply[2:])))
            case b"missing":
                raise StateNotFoundError(self.of.partition.agent_id, self.of.session_id)
            case b"conflict":
                raise VersionConflictError(self.addition.condition.version or 0, int(reply[1]))
            case b"unknown":
                raise OutcomeUnknownError("the write was sent, its reply was lost, and what is stored does not tell")
            case b"foreign":
                raise _foreign(self.of, "it has no version to count up")
            case b"full":
                raise StateEncodeError("$.version", "it is the last one, 2**53 - 1")
            case b"large":
                raise StateTooLargeError(int(reply[1]), self.max_state_bytes)
            case _:
                raise refusal(ReplyError(reply[1].decode(errors="replace")), stored=True, what=_NOT_LISTED)


class Delete(Request, kw_only=True):
    """One deletion of sessions: a MULTI block.

    Attributes:
        partition: The keys of the sessions' agent.
        keys: The keys of the states.
        members: The entries of the index.
    """

    frees_memory: ClassVar[bool] = True

    partition: Partition
    keys: list[bytes]
    members: list[bytes]

    def become_block(self) -> None:
        """Delete states and entries, or nothing."""
        commands = pack(("DEL", *self.keys)), pack(("ZREM", self.partition.index, *self.members))
        self.payload = b"".join((MULTI, *commands, EXEC))
        self.replies = 4
        self.fits = is_counts

    def become_script(self) -> None:
        """The same as one command."""
        self.call(DELETE, (self.partition.index, *self.keys), self.members, is_counts)

    def outcome(self, reply: list[Any]) -> tuple[int, int]:
        """How many states and how many entries there were."""
        states, entries = reply
        if type(states) is ReplyError:
            raise refusal(states)
        if type(entries) is ReplyError:
            raise refusal(entries, what="the state was deleted, but its place in the list was not")
        return states, entries


def _is_saved(reply: Any) -> bool:
    """What save.lua returns."""
    match reply:
        case [b"saved"] | [b"foreign"]:
            return True
        case [b"saved", bytes(text)]:
            return revisions.is_text(text)
        case [b"conflict" | b"unknown", int(stored)]:
            return stored >= 0
        case [b"repeated", int(version), bytes(time)]:
            return version > 0 and time.isdigit() and len(time) <= _DIGITS
        case _:
            return False


def _is_appended(reply: Any) -> bool:
    """What append.lua returns."""
    match reply:
        case [b"missing"] | [b"unknown"] | [b"foreign"] | [b"full"] | [b"stored", bytes()]:
            return True
        case [b"appended", int(version), int(length), int(behind), int(added)]:
            return version > 0 and length >= behind >= added >= 0
        case [b"conflict", int(number)]:
            return number >= 0
        case [b"large", int(number)]:
            return number > 0
        case _:
            return False


def _foreign(session: Session, reason: str) -> StateDecodeError:
    return StateDecodeError(session.partition.agent_id, session.session_id, reason)
