"""States to save, and what tests ask a store about them."""

from __future__ import annotations

from typing import Any

from redis_state import AgentState, Message, SessionInfo, SessionStore

Store = SessionStore[AgentState]


def messages(*contents: str) -> list[Message]:
    """Messages of a user."""
    return [Message(role="user", content=content) for content in contents]


def state(session_id: str = "s", *contents: str, agent_id: str = "a", version: int = 0, **data: Any) -> AgentState:
    """A state with messages and data."""
    return AgentState(
        agent_id=agent_id, session_id=session_id, messages=messages(*contents), data=data, version=version
    )


def texts(of: AgentState) -> list[str]:
    """What its messages say."""
    return [message.content for message in of.messages]


async def saved(store: Store, *session_ids: str, agent_id: str = "a") -> list[AgentState]:
    """New states, saved in this order."""
    states = [state(session_id, agent_id=agent_id) for session_id in session_ids]
    for each in states:
        await store.save(each)
    return states


async def infos(store: SessionStore[Any], agent_id: str = "a", **options: Any) -> list[SessionInfo]:
    """What `sessions` shows."""
    return [info async for info in store.sessions(agent_id, **options)]


async def session_ids(store: SessionStore[Any], agent_id: str = "a", **options: Any) -> list[str]:
    """Whose sessions it shows."""
    return [info.session_id for info in await infos(store, agent_id, **options)]


def never(of: Any) -> None:
    """The change that is not asked for."""
    raise AssertionError(of)


async def agent_ids(store: SessionStore[Any]) -> list[str]:
    """What `agents` shows, sorted."""
    return sorted([agent_id async for agent_id in store.agents()])
