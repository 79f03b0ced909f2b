"""Whether what callers saw of one session can be explained by some order of their operations, one at a time.

The search is Wing and Gong's with the memory of visited states that Lowe added: from the operations that may come
next, one is tried that fits the state, and what was tried with the same rest and state is not tried again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Stored = tuple[int, tuple[str, ...]]  # version, and the marks of the writes whose content it holds
Step = Callable[[Stored], Stored | None]
NOTHING: Stored = (0, ())


@dataclass(frozen=True)
class Event:
    """One operation as its caller saw it.

    Attributes:
        called: When it was called.
        returned: When it returned; infinity if what it did is unknown. It may then have happened at any time, or never.
        step: What is stored after it, from what was before; None where it could not have returned what it did.
        what: For people.
        queue: Events of one queue happen in the order of their numbers, where their outcome is known; "" is no queue.
        number: The place in the queue.
        writes: Whether it is a write that was confirmed, with its replicas.
    """

    called: float
    returned: float
    step: Step
    what: str = ""
    queue: str = ""
    number: int = 0
    writes: bool = False


def is_linearizable(history: Sequence[Event], *, most_visits: float = math.inf) -> bool:
    """Whether every event took effect between its call and its return, in some order that explains all results.

    It is taken for granted when so many states have been visited.
    """
    events = sorted(history, key=lambda event: event.called)
    certain = sum(1 << number for number, event in enumerate(events) if event.returned < math.inf)
    before = [
        sum(
            1 << other
            for other, earlier in enumerate(events)
            if event.queue
            and earlier.queue == event.queue
            and earlier.number < event.number
            and max(event.returned, earlier.returned) < math.inf
        )
        for event in events
    ]
    tried: set[tuple[int, Stored]] = set()
    open_: list[tuple[int, Stored]] = [((1 << len(events)) - 1, NOTHING)]
    while open_:
        rest, state = open_.pop()
        if not rest & certain:
            return True
        if (rest, state) in tried:
            continue
        tried.add((rest, state))
        if len(tried) > most_visits:
            return True
        open_.extend(_followers(events, before, rest, state))
    return False


def _followers(events: Sequence[Event], before: Sequence[int], rest: int, state: Stored) -> list[tuple[int, Stored]]:
    first_return = math.inf
    candidates: list[int] = []
    for number, event in enumerate(events):
        if rest >> number & 1:
            if event.called > first_return:
                break
            first_return = min(first_return, event.returned)
            candidates.append(number)
    followers: list[tuple[int, Stored]] = []
    for number in reversed(candidates):
        event = events[number]
        if event.called <= first_return and not before[number] & rest:
            after = event.step(state)
            if after is not None:
                followers.append((rest & ~(1 << number), after))
    return followers


# What an operation does to what is stored, where it returned a certain result.


def found(what: Stored) -> Step:
    return lambda before: before if before == what else None


def exists(there: bool) -> Step:  # noqa: FBT001  # as the operation returned it
    return lambda before: before if (before != NOTHING) == there else None


def deleted(there: bool | None) -> Step:  # noqa: FBT001  # as the operation returned it
    """None: it is not known whether there was something."""
    return lambda before: NOTHING if there is None or (before != NOTHING) == there else None


def saved(what: Stored) -> Step:
    return lambda _: what


def replaced(origin: Stored, what: Stored) -> Step:
    return lambda before: what if before == origin else None


def conflicted(origin: Stored, stored: int) -> Step:
    return lambda before: before if before[0] == stored and before != origin else None


def appended(mark: str, version: int | None) -> Step:
    """None: it is not known which version it made."""

    def step(before: Stored) -> Stored | None:
        if before == NOTHING or version not in (None, before[0] + 1):
            return None
        return before[0] + 1, (*before[1], mark)

    return step
