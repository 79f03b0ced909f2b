"""A large request, written in pieces: the event loop has its turn between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

AT_ONCE: Final = 256 * 1024  # bytes: what is larger is written in pieces of that size
_NOTHING: Final = memoryview(b"")


class PieceWriter:
    """Writes one large request at a time to a transport, as fast as the transport takes it.

    All of its state:
        rest: what is still to be written.
        paused: whether the transport holds as much as it should.

    Args:
        transport: What is written to.
        loop: Its event loop.
        progress: Called after each piece; with True after the last one.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, progress: Callable[[bool], None]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._progress = progress
        self._rest = _NOTHING
        self._paused = False

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be written."""
        return bool(self._rest)

    def write(self, data: bytes) -> None:
        """Begin to write."""
        self._rest = memoryview(data)
        self._write_piece()

    def pause(self) -> None:
        """The transport takes no more."""
        self._paused = True

    def resume(self) -> None:
        """The transport takes more again."""
        self._paused = False
        if self._rest:
            self._write_piece()

    def give_up(self) -> bool:
        """Forget what is still to be written. Returns whether there was something."""
        rest, self._rest = self._rest, _NOTHING
        return bool(rest)

    def _write_piece(self) -> None:
        if not self._rest or self._transport.is_closing():
            return
        piece, self._rest = self._rest[:AT_ONCE], self._rest[AT_ONCE:]
        self._transport.write(piece)
        if not self._rest:
            self._rest = _NOTHING  # an empty view would keep what it is a view of
        elif not self._paused:
            self._loop.call_later(0, self._write_piece)  # after what has been received by then, which may say no
        self._progress(not self._rest)
