"""`with`, `async with`, `start` and `stop` for what is started and stopped with blocking calls."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Startable", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a thread; when cancelled, wait until it has returned before passing that on.

    A thread cannot be cancelled: without the wait its server would start after everybody had gone.
    """
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        if not call.cancelled():
            call.exception()  # seen, so that asyncio does not report it as lost
        raise


class Startable(ABC):
    """One or more server processes; they belong to no event loop, so a fixture of any scope can hold them."""

    @abstractmethod
    def _start(self) -> None:
        """Start, or do nothing when it runs; leave nothing behind on failure."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop, or do nothing when that was done."""

    async def start(self) -> None:
        """Start and wait until it can be used; nothing happens when it runs already.

        Raises:
            ServerStartError: A server ended or stayed silent; the message ends with its log.
            TimeoutError: Servers that answer did not come together.
        """
        await in_thread(self._start)

    async def stop(self) -> None:
        """End the processes at once and remove their directories; nothing happens when that was done already."""
        await in_thread(self._stop)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self._stop()  # a start that was cancelled may have succeeded
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
