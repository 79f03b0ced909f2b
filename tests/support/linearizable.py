"""Whether a history of concurrent operations on one object can be explained by some order of them, one at a time.

The search is Wing and Gong's with the memory of visited states that Lowe added: from the operations that may come
next, one is tried that fits the state, and what was tried with the same rest and state is not tried again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Event", "is_linearizable"]

T = TypeVar("T")


@dataclass(frozen=True)
class Event(Generic[T]):
    """One operation as its caller saw it.

    Attributes:
        called: When it was called.
        returned: When it returned; infinity if what it did is unknown. It may then have happened at any time since, or
            not at all.
        step: The state after it, from the state before; None where it could not have returned what it did.
        what: For people.
    """

    called: float
    returned: float
    step: Callable[[T], T | None]
    what: str = ""


def is_linearizable(history: Sequence[Event[T]], initial: T) -> bool:
    """Whether every event took effect between its call and its return, in some order that explains all results."""
    events = sorted(history, key=lambda event: event.called)
    certain = sum(1 << number for number, event in enumerate(events) if event.returned < math.inf)
    tried: set[tuple[int, T]] = set()
    open_: list[tuple[int, T]] = [((1 << len(events)) - 1, initial)]
    while open_:
        rest, state = open_.pop()
        if not rest & certain:
            return True
        if (rest, state) in tried:
            continue
        tried.add((rest, state))
        first_return = math.inf
        numbers = [number for number in range(len(events)) if rest >> number & 1]
        for number in numbers:
            if events[number].called > first_return:
                break
            first_return = min(first_return, events[number].returned)
        for number in reversed(numbers):
            if events[number].called <= first_return:
                after = events[number].step(state)
                if after is not None:
                    open_.append((rest & ~(1 << number), after))
    return False
