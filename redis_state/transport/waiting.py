"""Requests that are not sent for a while: those that are tried again later, and writes during a failover."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redis_state.commands.request import Request


class Retries:
    """Requests that wait for their next attempt, by time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Request, when: float) -> None:
        """Keep a request until a time by the loop's clock."""
        self._count += 1  # of two at the same time the first one is first again
        heapq.heappush(self._heap, (when, self._count, request))

    def take(self, now: float) -> Iterator[Request]:
        """The requests whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    @property
    def due(self) -> float:
        """When the next attempt is to be made, infinity if none is."""
        return self._heap[0][0] if self._heap else float("inf")

    def clear(self) -> None:
        """Forget all of them."""
        self._heap.clear()


class FailoverGate:
    """Holds writes back while Sentinels replace the primary: what the old one acknowledges then may be lost.

    All of its state:
        until: when they are let go at the latest, by the loop's clock; infinity while no failover is known.
        held: the writes.
    """

    def __init__(self) -> None:
        self.until = float("inf")
        self.held: list[Request] = []

    def __len__(self) -> int:
        return len(self.held)

    @property
    def is_shut(self) -> bool:
        """Whether writes are held back."""
        return self.until < float("inf")

    def shut(self, until: float) -> None:
        """Hold writes back until a time at most: the Sentinel that runs the failover may be lost itself."""
        self.until = until

    def hold(self, requests: Iterable[Request]) -> None:
        """Keep writes."""
        self.held += requests

    def open(self) -> list[Request]:
        """Let writes pass. Returns those that were held."""
        held, self.held = self.held, []
        self.until = float("inf")
        return held

    def forget_settled(self) -> None:
        """Drop what was settled while it waited."""
        self.held = [request for request in self.held if not request.future.done()]
