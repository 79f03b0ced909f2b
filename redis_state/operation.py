"""What goes over the wire: one operation, its bytes, and what may be done when its reply is lost."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self, cast

import hiredis
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis_state.replies import ReplyError
    from redis_state.scripts import Script

Argument = str | bytes | float
# hiredis annotates it as taking a tuple of one.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

MULTI: Final = pack(("MULTI",))
EXEC: Final = pack(("EXEC",))


class Replay(Enum):
    """What may be done with an operation that was sent and not answered."""

    ALWAYS = "send it again: it only reads, or doing it twice is doing it once"
    GUARDED = "send it as a script that recognises a write which has landed"
    NEVER = "nothing: its outcome is unknown"


class Operation(msgspec.Struct, eq=False):
    """Commands that are sent together, in one slot, and answered by one result.

    A Struct, because one is made for every call of a store: it takes a fifth of the time of an ordinary object.

    Attributes:
        payload: The packed commands; of a script the arguments after its text or hash.
        slot: The hash slot of its keys; None for a command without keys.
        replies: How many replies it gets; the last one is the result.
        replay: What may be done when the replies are lost.
        node: The name of the node it must go to; None for the one that holds the slot.
        script: The script that the payload belongs to.
        arguments: How many arguments the payload of a script holds.

    Of one journey, kept by the wire:
        future: The result.
        deadline: When it must end, by the loop's clock.
        error: The first error among its replies.
        sent: A connection was lost with it in flight, or its time ran out there: it may have happened.
        expired: Its time ran out in flight.
        attempts: How often it was tried again.
        asking: The next send follows an ASK redirect.
        why: What the last refusal was, for the error at the deadline.
    """

    payload: bytes
    slot: int | None
    replies: int = 1
    replay: Replay = Replay.ALWAYS
    node: str | None = None
    script: Script | None = None
    arguments: int = 0

    future: Any = None  # asyncio.Future[Any], from the moment the wire has it
    deadline: float = 0.0
    error: ReplyError | None = None
    sent: bool = False
    expired: bool = False
    attempts: int = 0
    asking: bool = False
    why: str = ""

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.replay is not Replay.ALWAYS

    def become_script(self) -> None:
        """Turn into one script, for a replay and for a slot on the move. A single command has no need to."""

    def call(self, script: Script, keys: Sequence[bytes], args: Sequence[Argument]) -> Self:
        """Run a script with these arguments."""
        packed = pack((len(keys), *keys, *args))
        self.payload = packed[packed.index(b"\n") + 1 :]  # the wire writes the count, with the hash or the text
        self.script = script
        self.arguments = 1 + len(keys) + len(args)
        self.replies = 1
        return self


def command(slot: int | None, *args: Argument, node: str | None = None) -> Operation:
    """One command that may be repeated."""
    return Operation(pack(args), slot, node=node)
