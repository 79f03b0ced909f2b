"""What is under way: how many operations, who waits for room, and when all of it has ended."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from redis_state.errors import StoreClosedError, StoreTimeoutError

MAX_PENDING: Final = 8192  # operations taken and not answered; further callers wait for room


class Traffic:
    """Counts operations in and out. As a context it is an operation of several steps, which may all be taken while the
    store is being closed.

    All of its state:
        pending: operations that were taken and not completed.
        clear: whether an operation can be taken without waiting: open, and below the bound.
        waiting: callers that wait for room, in their order.
        steps: operations of several steps that are running.
        opened, closed: whether the store is in use.
        drained: completed when nothing is under way any more.
    """

    __slots__ = ("_drained", "_opened", "_steps", "_waiting", "clear", "closed", "pending")

    def __init__(self) -> None:
        self.pending = 0
        self.clear = False
        self.closed = False
        self._opened = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._steps = 0
        self._drained: asyncio.Future[None] | None = None

    @property
    def opened(self) -> bool:
        """Whether the server was found fit for operations."""
        return self._opened

    def open(self) -> None:
        """Let operations pass."""
        self._opened = True
        self.leave(0)

    def check_open(self) -> None:
        """Refuse an operation of a closed store, unless it is a step of one that began before."""
        if self.closed and not self._steps:
            raise StoreClosedError("the store is closed; open another one")

    def __enter__(self) -> None:
        if self.closed:
            raise StoreClosedError("the store is closed; open another one")
        self._steps += 1

    def __exit__(self, *_: object) -> None:
        self._steps -= 1
        self.leave(0)

    def leave(self, count: int) -> None:
        """Operations were completed: let as many callers in as there is room for."""
        self.pending -= count
        if not self.clear:
            while self._waiting and self.pending < MAX_PENDING:
                room = self._waiting.popleft()
                if not room.done():
                    self.pending += 1  # its place is kept until it comes
                    room.set_result(None)
            self.clear = self._opened and not self.closed and self.pending < MAX_PENDING
        if self._drained is not None and not (self.pending or self._steps or self._drained.done()):
            self._drained.set_result(None)

    async def wait(self, deadline: float) -> None:
        """Wait for room.

        Raises:
            StoreTimeoutError: There was none until the deadline, by the loop's clock.
            StoreClosedError: The store was closed meanwhile.
        """
        if self.pending < MAX_PENDING:
            return
        room = asyncio.get_running_loop().create_future()
        self._waiting.append(room)
        try:
            async with asyncio.timeout_at(deadline):
                await room
        except TimeoutError:
            late = StoreTimeoutError("too many operations were waiting")
        else:
            late = None
        finally:
            if room.done() and not room.cancelled() and room.exception() is None:
                self.leave(1)
        if late is not None:
            raise late

    def close(self) -> None:
        """Take nothing new, and send away who waits."""
        self.closed = True
        self.clear = False
        for room in self._waiting:
            if not room.done():
                room.set_exception(StoreClosedError("the store was closed before the operation got its turn"))

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is under way, but no longer than so many seconds."""
        if self.pending or self._steps:
            self._drained = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._drained], timeout=seconds)


def retrieve(task: asyncio.Future[Any]) -> None:
    """Take note of the failure of a shared task for which nobody waits any more, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
