"""Whose a wire is: it works in the process and in the event loop that opened its connections, and nowhere else."""

from __future__ import annotations

import asyncio
import os
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
        process: the process that this was made in.
        thread: the one that ran the loop when it was last entered.
    """

    __slots__ = ("_is_running", "_process", "_thread", "loop")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._is_running = bool
        self._process = _process
        self._thread = 0

    def is_here(self) -> bool:
        """Whether the loop is the one that is running here.

        A thread runs one loop at a time, so this asks for the thread and whether the loop runs. asyncio's own answer
        takes twice as long, since it asks the system for the process.
        """
        return get_ident() == self._thread and self._is_running() and self._process == _process

    def enter(self) -> None:
        """Take the running loop for one's own, or see that it is."""
        self.check()
        self.loop = asyncio.get_running_loop()
        self._is_running = self.loop.is_running
        self._thread = get_ident()

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
