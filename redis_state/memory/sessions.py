"""What stores in memory keep: sessions by their ids, in namespaces, for several stores and threads at once."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from redis_state.index.entries import SLICE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from redis_state.codec import Revision
    from redis_state.index.entries import Entry


@dataclass(slots=True)
class StoredSession:
    """What is stored of a session.

    Attributes:
        value: As it would stand in Redis.
        head: How many bytes of it are the head.
        revision: Its latest writes.
        score: When it was last written, in microseconds since 1970.
        expires_at: When it does, by `monotonic`; infinity is never.
    """

    value: bytes
    head: int
    revision: Revision
    score: int
    expires_at: float


class Sessions:
    """The sessions of one namespace. Who uses them holds `lock`, which is one for all namespaces.

    All of its state:
        agents: the sessions of each agent, by their ids.
        namespaces: those inside of this one, by their names.
        users: how many open stores there are of the outermost one; when the last is closed, everything is forgotten.

    Args:
        outer: What this is a namespace of; None for the outermost.
    """

    def __init__(self, outer: Sessions | None = None) -> None:
        self.agents: dict[str, dict[str, StoredSession]] = {}
        self.lock: threading.RLock = threading.RLock() if outer is None else outer.lock
        self._outermost: Sessions = self if outer is None else outer._outermost  # noqa: SLF001  # of the same class
        self._namespaces: dict[str, Sessions] = {}
        self.users = 0

    def namespace(self, name: str) -> Sessions:
        """The namespace of that name, the same one every time."""
        with self.lock:
            found = self._namespaces.get(name)
            if found is None:
                found = self._namespaces[name] = Sessions(self)
            return found

    def join(self) -> None:
        """Count a store that uses them."""
        with self.lock:
            self._outermost.users += 1

    def leave(self) -> None:
        """Count a store that was closed, and forget everything with the last one."""
        with self.lock:
            outermost = self._outermost
            outermost.users -= 1
            if outermost.users == 0:
                outermost.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.agents.clear()
        for namespace in self._namespaces.values():
            namespace.clear()

    def put(self, agent_id: str, session_id: str, session: StoredSession) -> None:
        """Store a session in place of what there was."""
        self.agents.setdefault(agent_id, {})[session_id] = session

    def find(self, agent_id: str, session_id: str) -> StoredSession | None:
        """A session that has not expired."""
        session = self.agents.get(agent_id, {}).get(session_id)
        if session is None or session.expires_at > monotonic():
            return session
        self.remove(agent_id, session_id)
        return None

    def remove(self, agent_id: str, session_id: str) -> bool:
        """Forget a session. Returns whether there was one."""
        sessions = self.agents.get(agent_id, {})
        removed = sessions.pop(session_id, None)
        if not sessions:
            self.agents.pop(agent_id, None)
        return removed is not None

    async def slices(self, agent_id: str) -> AsyncGenerator[list[Entry]]:
        """The agent's sessions that have not expired, so many at a time that others have their turn."""
        with self.lock:
            session_ids = list(self.agents.get(agent_id, ()))
        for start in range(0, len(session_ids), SLICE):
            with self.lock:
                some = [(self.find(agent_id, each), each) for each in session_ids[start : start + SLICE]]
            yield [(session.score, session_id.encode()) for session, session_id in some if session is not None]
            if start + SLICE < len(session_ids):
                await asyncio.sleep(0)


def expiry(milliseconds_left: int | None) -> float:
    """When something expires, by `monotonic`."""
    return float("inf") if milliseconds_left is None else monotonic() + milliseconds_left / 1000
