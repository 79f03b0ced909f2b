"""The state of a session, for agents without a state type of their own."""

from __future__ import annotations

import typing
from datetime import UTC, datetime
from typing import Any

import msgspec

if typing.TYPE_CHECKING:
    from typing_extensions import TypeVar


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


class Message(msgspec.Struct):
    """One message of a conversation.

    Attributes:
        role: Who speaks, such as ``user``, ``assistant`` or ``tool``.
        content: What is said.
        timestamp: When, aware; by default now, in UTC.
        metadata: Anything that JSON can hold, or None.
    """

    role: str
    content: str
    timestamp: datetime = msgspec.field(default_factory=utc_now)
    metadata: dict[str, Any] | None = None


class AgentState(msgspec.Struct, kw_only=True, dict=True):
    """The state of one session of an agent.

    Attributes:
        agent_id: The agent, 1 to 512 bytes of UTF-8.
        session_id: The session, 1 to 512 bytes of UTF-8.
        messages: The conversation, oldest first.
        context: What surrounds the session, such as who the user is; anything that JSON can hold.
        data: What the agent remembers; anything that JSON can hold.
        version: How often the session was written; 0 before the first save. Set by the store.
        created_at: When the object was made, aware, in UTC.
        updated_at: When it was last saved, aware, in UTC, microseconds. Set by the store.
    """

    agent_id: str
    session_id: str
    messages: list[Message] = msgspec.field(default_factory=list[Message])
    context: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    data: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    version: int = 0
    created_at: datetime = msgspec.field(default_factory=utc_now)
    updated_at: datetime = msgspec.field(default_factory=utc_now)


class SessionInfo(msgspec.Struct, frozen=True):
    """What `sessions()` says of a session without loading its state.

    Attributes:
        session_id: The session.
        updated_at: When it was last written, aware, in UTC, microseconds, by the writer's clock.
    """

    session_id: str
    updated_at: datetime


class HasIds(typing.Protocol):
    """What every state type has."""

    @property
    def agent_id(self) -> str:
        """The agent."""
        ...

    @property
    def session_id(self) -> str:
        """The session."""
        ...


if typing.TYPE_CHECKING:
    S = TypeVar("S", bound=HasIds, default=AgentState)
    T = TypeVar("T", bound=HasIds, default=AgentState)
else:
    S, T = typing.TypeVar("S"), typing.TypeVar("T")
