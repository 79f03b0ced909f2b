"""What a way to keep states has to offer to be measured, and the data layout that several of them share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from redis_state import AgentState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

# A pooled client may open this many connections: more than any section has operations in flight.
CONNECTIONS = 1100

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(AgentState).decode


class Subject(Protocol):
    """A way to keep states. Sessions are called by their number; what is saved is that session's own object.

    Every operation raises, or returns something false, when the server's reply is not what it must be.

    Attributes:
        label: What tables call it.
        how: How it is used, in a sentence.
        missing: For each operation that it does not offer, why.
    """

    label: ClassVar[str]
    how: ClassVar[str]
    missing: ClassVar[Mapping[str, str]]

    def __init__(self, url: str, states: list[AgentState]) -> None: ...

    async def open(self) -> None:
        """Connect."""
        ...

    async def close(self) -> None:
        """Disconnect, in the task that called `open`."""
        ...

    def save(self, i: int) -> Awaitable[object]:
        """Replace what is stored of a session."""
        ...

    def load(self, i: int) -> Awaitable[Sequence[Any]]:
        """The session's messages, decoded."""
        ...

    def delete(self, i: int) -> Awaitable[object]:
        """Remove a session."""
        ...


class Extended(Subject, Protocol):
    """What only some offer; `missing` tells the others' reasons."""

    def list(self, limit: int | None = None) -> Awaitable[Sequence[Any]]:
        """The first agent's session ids, all or the newest `limit`."""
        ...

    def save_if(self, i: int) -> Awaitable[object]:
        """Save a session if its stored version is the one that this client saved last."""
        ...

    def append(self, i: int) -> Awaitable[object]:
        """Add one message to a stored session."""
        ...

    def load_many(self, many: range) -> Awaitable[Sequence[Any]]:
        """The states of the sessions of one agent."""
        ...


def offers(subject: Subject | type[Subject], operation: str) -> bool:
    """Whether a subject has an operation."""
    return operation not in subject.missing


class Keys:
    """The keys of a hand-written layout: a string for each state, a sorted set for each agent."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def state(self, state: AgentState) -> str:
        """The key of a state."""
        return f"{self.prefix}{{{state.agent_id}}}:{state.session_id}"

    def index(self, agent_id: str) -> str:
        """The key of an agent's index."""
        return f"{self.prefix}sessions:{{{agent_id}}}"


def stamp(state: AgentState) -> float:
    """Count the version, set the time of the save, and return it as the index's score."""
    now = datetime.now(UTC)
    state.version += 1
    state.updated_at = now
    return now.timestamp()
