"""What is promised, checked against what was seen. Nothing here knows how the library works."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from support.linearizable import Event, is_linearizable

from redis_state import (
    OutcomeUnknownError,
    ServerRefusedError,
    StateStoreError,
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .loop import VirtualLoop
    from .network import Network

NEVER_HAPPENED: Final = (StoreTimeoutError, StoreUnavailableError, ServerRefusedError, StoreClosedError)
SLACK: Final = 0.05  # seconds: callbacks have to run
MOST_ASKED: Final = 60  # times in a second that the servers are asked for routes, by all stores of a run together

MOST_VISITS: Final = 200_000  # states of a history; where there are more, another seed has fewer


def check_time(what: str, took: float, allowed: float) -> str | None:
    """Every operation ends by its deadline."""
    return f"{what} took {took:.3f}s, allowed are {allowed:.3f}s" if took > allowed + SLACK else None


def check_error(what: str, error: BaseException, *, writes: bool) -> str | None:
    """Only our errors, and OutcomeUnknownError only from writes."""
    if isinstance(error, OutcomeUnknownError) and not writes:
        return f"{what} only reads, but raised {error!r}"
    if not isinstance(error, StateStoreError):
        return f"{what} raised {error!r}"
    return None


def check_routes(asked: Sequence[float]) -> str | None:
    """Routes are asked for a bounded number of times."""
    start = 0
    for end, when in enumerate(asked):
        while asked[start] < when - 1.0:
            start += 1
        if end - start + 1 > MOST_ASKED:
            return f"routes were asked for {end - start + 1} times within a second, at {when:.3f}"
    return None


def check_idle(asked: Sequence[float], since: float) -> str | None:
    """Routes are not asked for while no operation needs them."""
    count = sum(when > since for when in asked)
    return f"routes were asked for {count} times while nobody waited" if count else None


def check_rest(loop: VirtualLoop, network: Network) -> list[str]:
    """After all stores are closed no task, timer or connection is left."""
    problems: list[str] = []
    tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task(loop)]
    if tasks:
        problems.append(f"tasks are left: {sorted(repr(task.get_coro()) for task in tasks)}")
    if timers := loop.timers():
        problems.append(f"timers are left: {timers}")
    if network.links:
        problems.append(f"connections are left: {sorted(link.number for link in network.links)}")
    return problems


def check_histories(histories: dict[str, list[Event]], healed: float, *, has_lost: bool) -> list[str]:
    """Each session's history is explained by one order.

    Args:
        histories: By session.
        healed: When the last fault was over.
        has_lost: Whether a failover may have lost what no replica had.
    """
    problems: list[str] = []
    for session, history in sorted(histories.items()):
        events = surviving(history, healed) if has_lost else history
        if not is_linearizable(events, most_visits=MOST_VISITS):
            shown = "\n".join(
                f"      {event.called:.5f} to {event.returned:.5f} {event.queue}{event.number} {event.what}"
                for event in sorted(events, key=lambda event: event.called)
            )
            problems.append(f"no order explains what was seen of {session}:\n{shown}")
    return problems


def surviving(history: Sequence[Event], healed: float) -> list[Event]:
    """What is promised where a failover may have lost what no replica had.

    Every confirmed write; reads only of the time since: before, they may have seen what is lost.
    """
    return [event for event in history if event.called >= healed or event.returned == math.inf or event.writes]


def check_listing(what: str, listed: list[str], known: set[str]) -> str | None:
    """A listing shows no session twice, and none that is not the agent's."""
    twice = [name for name, count in Counter(listed).items() if count > 1]
    strange = set(listed) - known
    return f"{what} listed {twice} twice, and {strange} of nobody" if twice or strange else None
