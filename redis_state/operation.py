"""What goes over the wire: one operation, its bytes, and what may be done when its reply is lost."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from redis_state.replies import ReplyError
    from redis_state.scripts import Script

Argument = str | bytes | float
# hiredis annotates it as taking a tuple of one.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

MULTI: Final = pack(("MULTI",))
EXEC: Final = pack(("EXEC",))


def pack_set(key: bytes, value: tuple[bytes | memoryview, bytes], *options: bytes | int) -> list[bytes | memoryview]:
    """The packed parts of a SET whose value is in two parts, which may be large: nothing of it is copied here."""
    head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n"
    parts = [head % (3 + len(options), len(key), key, len(value[0]) + len(value[1])), *value, b"\r\n"]
    for option in options:
        text = b"%b" % option if isinstance(option, bytes) else b"%d" % option
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return parts


class Replay(Enum):
    """What may be done with an operation that was sent and not answered."""

    ALWAYS = "send it again: it only reads, or doing it twice is doing it once"
    GUARDED = "send its fallback, a script that recognises a write which has landed"
    NEVER = "nothing: its outcome is unknown"


class Operation:
    """Commands that are sent together, in one slot, and answered by one result.

    Args:
        payload: The packed commands; of a script the arguments after its text or hash.
        slot: The hash slot of its keys; None for a command without keys.
        replies: How many replies it gets; the last one is the result.
        replay: What may be done when the replies are lost.
        fallback: Makes the operation as a single script, for a replay and for a slot that is being moved.
        script: The script that the payload belongs to.
        arguments: How many arguments the payload of a script holds.
        node: The name of the node it must go to; None for the one that holds the slot.
    """

    __slots__ = (
        "arguments", "asking", "attempts", "deadline", "error", "expired", "fallback", "future", "left", "node",
        "payload", "replay", "replies", "script", "sent", "slot", "why",
    )  # fmt: skip

    def __init__(
        self,
        payload: bytes,
        slot: int | None,
        *,
        replies: int = 1,
        replay: Replay = Replay.ALWAYS,
        fallback: Callable[[], Operation] | None = None,
        script: Script | None = None,
        arguments: int = 0,
        node: str | None = None,
    ) -> None:
        self.payload = payload
        self.slot = slot
        self.replies = replies
        self.replay = replay
        self.fallback = fallback
        self.script = script
        self.arguments = arguments
        self.node = node
        # Of one journey, kept by the wire:
        self.future: asyncio.Future[Any]
        self.deadline = 0.0  # by the loop's clock
        self.left = 0  # replies to come
        self.error: ReplyError | None = None  # the first error among its replies
        self.sent = False  # a connection was lost with it in flight: it may have happened
        self.expired = False  # its time ran out in flight
        self.attempts = 0
        self.asking = False  # the next send follows an ASK redirect
        self.why = ""  # what the last refusal was, for the error at the deadline

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.replay is not Replay.ALWAYS

    def become(self, other: Operation) -> None:
        """Take another operation's bytes, keeping this one's journey."""
        self.payload, self.replies, self.fallback = other.payload, other.replies, None
        self.script, self.arguments = other.script, other.arguments


def command(slot: int | None, *args: Argument, node: str | None = None) -> Operation:
    """One command that may be repeated."""
    return Operation(pack(args), slot, node=node)


def block(
    slot: int,
    commands: Sequence[tuple[Argument, ...]],
    replay: Replay,
    fallback: Callable[[], Operation],
) -> Operation:
    """Commands in MULTI and EXEC. The result is the list of their replies."""
    payload = b"".join((MULTI, *map(pack, commands), EXEC))
    return Operation(payload, slot, replies=len(commands) + 2, replay=replay, fallback=fallback)


def call(
    script: Script,
    slot: int,
    keys: Sequence[bytes],
    args: Sequence[Argument],
    *,
    replay: Replay = Replay.ALWAYS,
    fallback: Callable[[], Operation] | None = None,
) -> Operation:
    """One run of a script."""
    packed = pack((len(keys), *keys, *args))
    payload = packed[packed.index(b"\n") + 1 :]  # the wire writes the count, with the hash or the text
    return Operation(
        payload, slot, replay=replay, fallback=fallback, script=script, arguments=1 + len(keys) + len(args)
    )
