"""The end of a run with faults: they have stopped, so everything works in its time and is at rest again.

Take `Rest.of(servers)` before a store is opened, call `works` when the faults are over, close the store, and then call
`Rest.returns`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from redis_state import AgentState, Message, RedisStateStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis_state.testing import RedisServer

__all__ = ["Rest", "works"]

Store = RedisStateStore[AgentState]


async def works(store: Store, budget: float, *, agents: int = 8, callers: int = 64) -> None:
    """Check that every operation succeeds within `budget` seconds, many at once, and that what is written is there.

    Raises:
        TimeoutError: One took longer.
        StateStoreError: One failed.
    """

    async def work(number: int) -> None:
        agent_id, session_id = f"alive-{number % agents}", f"s-{number}"
        mine = AgentState(agent_id=agent_id, session_id=session_id)
        steps: list[Any] = [
            lambda: store.save(mine),
            lambda: store.append(agent_id, session_id, [Message(role="user", content="alive")]),
            lambda: store.exists(agent_id, session_id),
            lambda: store.list(agent_id),
            lambda: store.count(agent_id),
            lambda: store.load_many(agent_id, [session_id]),
        ]
        for step in steps:
            async with asyncio.timeout(budget):
                await step()
        async with asyncio.timeout(budget):
            loaded = await store.load(agent_id, session_id)
        assert [message.content for message in loaded.messages] == ["alive"]
        async with asyncio.timeout(budget):
            await store.save(loaded, if_version=loaded.version)

    await asyncio.gather(*(work(number) for number in range(callers)))
    for number in range(agents):
        async with asyncio.timeout(2 * budget):
            await store.delete_agent(f"alive-{number}")


@dataclass(frozen=True)
class Rest:
    """What is there while nobody uses a store.

    Attributes:
        servers: Which servers' clients are counted.
        tasks: The running loop's tasks.
        timers: Its timers.
        clients: How many connections of clients each server has, the one that asks left out.
    """

    servers: Sequence[RedisServer]
    tasks: frozenset[asyncio.Task[Any]]
    timers: frozenset[asyncio.TimerHandle]
    clients: tuple[int, ...]

    @classmethod
    def of(cls, servers: Sequence[RedisServer]) -> Self:
        """What is there now."""
        return cls(servers, frozenset(asyncio.all_tasks()), _timers(), tuple(map(_clients, servers)))

    async def returns(self, *, seconds: float = 5.0) -> None:
        """Check that nothing more is there than was: tasks and timers at once, connections as servers notice."""
        tasks, timers = asyncio.all_tasks() - self.tasks, _timers() - self.timers
        assert not tasks, f"{len(tasks)} tasks are left: {sorted(str(task.get_coro()) for task in tasks)[:5]}"
        assert not timers, f"{len(timers)} timers are left: {list(timers)[:5]}"
        async with asyncio.timeout(seconds):
            while (now := await asyncio.to_thread(self._clients_now)) > sum(self.clients):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        print(f"at rest: {now} connections")

    def _clients_now(self) -> int:
        return sum(map(_clients, self.servers))


def _clients(server: RedisServer) -> int:
    """The connections of clients, replicas and this question's left out."""
    return len(server.command("CLIENT", "LIST", "TYPE", "NORMAL").splitlines()) - 1


def _timers() -> frozenset[asyncio.TimerHandle]:
    loop: Any = asyncio.get_running_loop()
    return frozenset(handle for handle in loop._scheduled if not handle.cancelled())
