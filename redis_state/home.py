"""Whose a wire is: it works in the process and in the event loop that opened its connections, and nowhere else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from threading import get_ident

from redis_state.errors import ForeignLoopError

_process = 0  # how often this process is a fork's child


def _note_fork() -> None:
    global _process  # noqa: PLW0603  # there is one process
    _process += 1


os.register_at_fork(after_in_child=_note_fork)


class Home:
    """The event loop that connections belong to, from the first operation on.

    All of its state:
        loop: the loop; None before the first operation.
        is_running: the loop's method of that name.
        process: the process that this was made in.
        thread: the one that the loop was entered in, until it is left at the end of its turn; else 0.
    """

    __slots__ = ("_is_running", "_process", "_thread", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._is_running: Callable[[], bool] = _never
        self._process = _process
        self._thread = 0

    def is_here(self) -> bool:
        """Whether this is still the turn of the loop in which it was entered.

        For all operations of a turn but the first this is the answer. `asyncio.get_running_loop` takes twice as long
        in Python 3.11, where it asks the system for the process each time.
        """
        return get_ident() == self._thread and self._is_running() and self._process == _process

    def enter(self) -> None:
        """Take the running loop for one's own, or see that it is."""
        loop = asyncio.get_running_loop()
        if loop is not self.loop or self._process != _process:
            self.check()
            self.loop = loop
            self._is_running = loop.is_running
        self._thread = get_ident()

    def leave(self) -> None:
        """The turn of the loop is over."""
        self._thread = 0

    def check(self) -> None:
        """Refuse another process and another loop."""
        if self._process != _process:
            raise ForeignLoopError("this store was opened before a fork; open one store in each process")
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            raise ForeignLoopError("this store belongs to another event loop; open one store in each")

    @property
    def is_gone(self) -> bool:
        """Whether the loop has ended, or another process has it."""
        return self._process != _process or (self.loop is not None and self.loop.is_closed())


def _never() -> bool:
    return False
