"""A request: commands that are sent together, and what may be done when their reply is lost."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import hiredis
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis_state.commands.replies import ReplyError
    from redis_state.commands.scripts import Script

Argument = str | bytes | float
# hiredis annotates it as taking a tuple of one.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

MULTI: Final = pack(("MULTI",))
EXEC: Final = pack(("EXEC",))
LARGE: Final = 64 * 1024  # bytes: what is larger travels on an idle connection, so that the small do not wait for it


class Replay(Enum):
    """What may be done with a request that was sent and not answered."""

    ALWAYS = "send it again: it only reads, or doing it twice is doing it once"
    GUARDED = "send it as a script that recognises a write which has landed"
    NEVER = "nothing: its outcome is unknown"


class Request(msgspec.Struct, eq=False):
    """Commands that are sent together, in one slot, and answered by one result.

    A Struct, because one is made for every call of a store: it takes a fifth of the time of an ordinary object.

    Attributes:
        payload: The packed commands; of a script the arguments after its text or hash.
        slot: The hash slot of its keys; None for a command without keys.
        replies: How many replies it gets; the last one is the result.
        replay: What may be done when the replies are lost.
        session: The key of the session whose requests take effect in their order; None where order is no matter.
        node: The name of the node it must go to; None for the one that holds the slot.
        script: The script that the payload belongs to.
        arguments: How many arguments the payload of a script holds.
        replicas: How many replicas must confirm a write.
        fits: Whether a reply looks as that of the command must; None takes any.

    State of one execution, owned by the transport:
        owner: The view that took it, None where the client itself did.
        future: The result.
        deadline: When it is settled at the latest, by the loop's clock.
        connection: The connection that owes its reply; None before it is sent and after it is answered or lost.
        error: The first error among its replies.
        sent: A connection was lost with it in flight, or its time ran out there: it may have been executed.
        applied: It was executed and waits for the replicas.
        attempts: How often it was tried again.
        asking: The next send follows an ASK redirect.
        why: What the last refusal was, for the error at the deadline.
    """

    frees_memory: ClassVar[bool] = False  # a full server takes no MULTI, but a script that only deletes

    payload: bytes
    slot: int | None
    replies: int = 1
    replay: Replay = Replay.ALWAYS
    session: bytes | None = None
    node: str | None = None
    script: Script | None = None
    arguments: int = 0
    replicas: int = 0
    fits: Callable[[Any], bool] | None = None

    owner: Any = None  # transport.view.ClientView
    future: Any = None  # asyncio.Future[Any], from the moment the transport has it
    deadline: float = 0.0
    connection: Any = None  # transport.connection.Connection
    error: ReplyError | None = None
    sent: bool = False
    applied: bool = False
    attempts: int = 0
    asking: bool = False
    why: str = ""

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return self.replay is not Replay.ALWAYS

    def become_script(self) -> None:
        """Turn into one script, for a replay and for a slot on the move. A single command has no need to."""

    def call(
        self, script: Script, keys: Sequence[bytes], args: Sequence[Argument], fits: Callable[[Any], bool]
    ) -> Self:
        """Run a script with these arguments."""
        packed = pack((len(keys), *keys, *args))
        self.payload = packed[packed.index(b"\n") + 1 :]  # the connection writes the count, with the hash or the text
        self.script = script
        self.arguments = 1 + len(keys) + len(args)
        self.replies = 1
        self.fits = fits
        return self


def command(
    slot: int | None,
    *args: Argument,
    fits: Callable[[Any], bool],
    node: str | None = None,
    session: bytes | None = None,
) -> Request:
    """Make a request of one command that may be repeated."""
    return Request(pack(args), slot, node=node, session=session, fits=fits)
