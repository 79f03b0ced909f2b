"""The writes on one connection that replicas are to confirm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis_state.commands.request import Request, pack

if TYPE_CHECKING:
    from collections.abc import Callable


class Wait(Request):
    """The WAIT that follows writes when replicas are to confirm them. No caller waits for it."""


class Confirmations:
    """Asks replicas to confirm the writes of a batch, one batch at a time.

    All of its state:
        asked: whether a WAIT is in flight.
        writes: those that were answered but not yet confirmed, with their results.

    Args:
        replicated: Completes a write that so many replicas have confirmed.
        read_timeout: How many seconds a server may take for a reply.
    """

    def __init__(self, replicated: Callable[[Request, Any, int], None], read_timeout: float) -> None:
        self.asked = False
        self._writes: list[tuple[Request, Any]] = []
        self._replicated = replicated
        self._milliseconds = max(1, int(read_timeout * 500))

    def ask(self, replicas: int, deadline: float) -> Wait:
        """Make the request that asks for the confirmation of all writes before it."""
        self.asked = True
        wait = Wait(pack(("WAIT", replicas, self._milliseconds)), None, replicas=replicas)
        wait.deadline = deadline
        return wait

    def add(self, request: Request, result: Any, connection: Any) -> None:
        """Keep a write that was answered, as one that its connection still owes an answer: it is not overtaken."""
        request.applied = True
        request.connection = connection
        self._writes.append((request, result))

    def settle(self, replicas: int) -> None:
        """Complete the writes by the number of replicas that confirmed them."""
        self.asked = False
        writes, self._writes = self._writes, []
        for request, result in writes:
            request.connection = None
            self._replicated(request, result, replicas)
