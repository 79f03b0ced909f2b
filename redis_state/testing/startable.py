"""`with`, `async with`, `start` and `stop` for what is started and stopped with blocking calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from redis_state.testing.waiting import in_thread

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Startable"]


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
