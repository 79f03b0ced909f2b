"""Writers that know afterwards what must be stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from redis_state import AgentState, RedisStateStore, StateStoreError
from redis_state.testing import RedisServer
from support.states import messages, state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

Store = RedisStateStore[AgentState]

BUDGET = 3.0  # seconds that an operation of these stores may take: read_timeout and write_timeout
SLACK = 3.0  # seconds that a busy machine may add to a deadline


class Load:
    """Writers that save a session, append to it and save it again if its version is theirs, then start another.

    Args:
        store: Where to.
        agents: Whose sessions. Each has one writer at least.
        writers: How many at once.

    Attributes:
        acknowledged: The version that the store said it has, by agent and session.
        tried: The version that it may have.
        errors: How often each error was raised.
        slowest: How long the longest operation took, in seconds.
    """

    def __init__(self, store: Store, agents: Sequence[str], *, writers: int = 12) -> None:
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.tried: dict[tuple[str, str], int] = {}
        self.errors: Counter[str] = Counter()
        self.slowest = 0.0
        self._store = store
        self._writers = [agents[n % len(agents)] for n in range(max(writers, len(agents)))]
        self._successes: dict[str, list[float]] = {agent_id: [] for agent_id in agents}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._clock = asyncio.get_running_loop().time

    async def __aenter__(self) -> Self:
        for times in self._successes.values():
            times.append(self._clock())
        self._tasks = [asyncio.create_task(self._write(n, agent_id)) for n, agent_id in enumerate(self._writers)]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        for times in self._successes.values():
            times.append(self._clock())

    @property
    def gap(self) -> float:
        """The longest time in which an agent had no write acknowledged, in seconds."""
        return max(late - early for times in self._successes.values() for early, late in pairwise(times))

    async def _write(self, writer: int, agent_id: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            session = (agent_id, f"{writer}-{number}")
            if (
                await self._do(session, 1, self._store.save(state(session[1], "saved", agent_id=agent_id)))
                and await self._do(session, 2, self._store.append(*session, messages("appended")))
                and (stored := await self._do(session, 0, self._store.load(*session)))
            ):
                stored.data["saved"] = "again"
                await self._do(session, 3, self._store.save(stored, if_version=2))
            await asyncio.sleep(0.005)

    async def _do(self, session: tuple[str, str], version: int, operation: Awaitable[Any]) -> Any:
        """The result of a write that makes a version, or of a read for 0: None after an error, True for nothing."""
        started = self._clock()
        if version:
            self.tried[session] = version
        try:
            result = await operation
        except StateStoreError as error:
            self.errors[type(error).__name__] += 1
            return None
        finally:
            self.slowest = max(self.slowest, self._clock() - started)
        if version:
            self.acknowledged[session] = version
            self._successes[session[0]].append(self._clock())
        return True if result is None else result

    async def lost(self, but: Collection[tuple[str, str]] = ()) -> int:
        """How many acknowledged writes are not there, leaving out some sessions. What is there was written once."""
        gone = 0
        for agent_id in self._successes:
            tried = {key[1]: version for key, version in self.tried.items() if key[0] == agent_id and key not in but}
            stored = await self._store.load_many(agent_id, tried)
            for session_id, version in tried.items():
                acknowledged = self.acknowledged.get((agent_id, session_id), 0)
                state = stored.get(session_id)
                gone += max(0, acknowledged - (state.version if state else 0))
                if state is not None:
                    assert state.version <= version
                    assert [message.content for message in state.messages] == ["saved", "appended"][: state.version]
                    assert state.data == ({"saved": "again"} if state.version == 3 else {})
        return gone

    async def report(self, what: str) -> int:
        """Print the figures. Returns how many acknowledged writes were lost."""
        lost = await self.lost()
        acknowledged = sum(self.acknowledged.values())
        print(
            f"{what}: {acknowledged} writes acknowledged, {lost} of them lost, write gap {self.gap:.2f} s, slowest "
            f"operation {self.slowest:.2f} s, errors {dict(self.errors)}"
        )
        return lost


def half_writes(nodes: Sequence[RedisServer], prefix: str) -> set[bytes]:
    """Sessions with a state and no index entry, or the other way round."""
    states: set[bytes] = set()
    entries: set[bytes] = set()
    indexes = f"{prefix}sessions:".encode()
    for node in nodes:
        for key in node.command("KEYS", f"{prefix}*"):
            if key.startswith(indexes):
                tag = key.removeprefix(indexes)
                entries |= {prefix.encode() + tag + b":" + member for member in node.command("ZRANGE", key, 0, -1)}
            else:
                states.add(key)
    return states ^ entries


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something that blocks for a moment says yes."""
    async with asyncio.timeout(seconds):
        while True:
            if await asyncio.to_thread(condition):
                return
            await asyncio.sleep(0.02)
