"""Stores whose times are short, and what tests of ends and orders ask about."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from redis_state import AgentState, RedisStateStore, StateStoreError
from support.states import messages, state, texts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from redis_state.testing import RedisServer

__all__ = [
    "BUDGET",
    "SLACK",
    "TIMES",
    "Store",
    "calls",
    "ended",
    "messages",
    "opened",
    "outcomes",
    "state",
    "texts",
    "timers",
    "until",
    "url_of",
]

Store = RedisStateStore[AgentState]

TIMES = {"dial_timeout": 0.5, "read_timeout": 0.4, "write_timeout": 0.4}
BUDGET = TIMES["read_timeout"] + TIMES["write_timeout"]
SLACK = 3.0  # seconds that a busy machine may add to a deadline


def url_of(url: str, prefix: str, **options: object) -> str:
    """The URL of a store with short times under a prefix."""
    values = {**TIMES, "key_prefix": prefix, **options}
    return f"{url}?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in values.items())


@asynccontextmanager
async def opened(url: str, seconds: float = BUDGET, **options: Any) -> AsyncGenerator[Store]:
    """A store that closes within its budget, or fails the test."""
    store: Store = RedisStateStore.from_url(url, **options)
    try:
        yield store
    finally:
        async with asyncio.timeout(seconds + SLACK):
            await store.aclose()


async def ended(operation: Awaitable[Any], seconds: float = BUDGET) -> str:
    """How an operation ended: ``done`` or the name of its error. It fails a test that it does not end in time."""
    task = asyncio.ensure_future(operation)
    done, _ = await asyncio.wait({task}, timeout=seconds + SLACK)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=SLACK)
        raise AssertionError(f"an operation was pending after {seconds + SLACK:g} seconds")
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is not None and not isinstance(error, StateStoreError):
        raise error
    return "done" if error is None else type(error).__name__


async def outcomes(operations: dict[str, Awaitable[Any]], seconds: float = BUDGET) -> dict[str, str]:
    """How each of several operations ended; ``pending`` for one that did not in time."""
    tasks = {name: asyncio.ensure_future(operation) for name, operation in operations.items()}
    await asyncio.wait(tasks.values(), timeout=seconds + SLACK)
    found = {name: await ended(task) if task.done() else "pending" for name, task in tasks.items()}
    for task in tasks.values():
        task.cancel()
    await asyncio.wait(tasks.values(), timeout=SLACK)
    return found


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something that blocks for a moment says yes."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.02)


def calls(servers: Iterable[RedisServer], *commands: str) -> int:
    """How often the running servers were asked for these commands, such as ``cluster|slots``."""
    found = 0
    for server in servers:
        if server.running:
            stats = server.info("commandstats")
            for command in commands:
                if f"cmdstat_{command}" in stats:
                    found += int(stats[f"cmdstat_{command}"].removeprefix("calls=").split(",")[0])
    return found


def timers() -> set[asyncio.TimerHandle]:
    """The timers of the running loop that are still to fire."""
    loop: Any = asyncio.get_running_loop()
    return {handle for handle in loop._scheduled if not handle.cancelled()}
