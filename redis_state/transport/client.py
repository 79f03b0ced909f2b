"""Opens the transport on first use, and closes it."""

from __future__ import annotations

import asyncio
import copy
import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from redis_state.commands.request import EXEC, MULTI, Request, command
from redis_state.commands.shapes import is_text
from redis_state.errors import ForeignLoopError, ServerRefusedError, StateStoreError, StoreClosedError
from redis_state.transport.dispatcher import Dispatcher
from redis_state.transport.outcomes import closed

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from redis_state.config.limits import Limits
    from redis_state.redis_py.topology import Topology

_forks = 0  # how often this process is a fork's child


# The operation of several steps that the running code is a part of.
_operation: ContextVar[object] = ContextVar("redis_state_operation", default=None)


def current_operation() -> object:
    """The operation of several steps that the running code is a part of; None where it is none."""
    return _operation.get()


def _note_fork() -> None:
    global _forks  # noqa: PLW0603  # there is one process
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)


class Client:
    """Takes requests of one event loop in one process.

    Attributes:
        budget: Seconds that an operation may take.

    All of its state:
        dispatcher: what carries requests out; None before the first one.
        loop, forks: where the first request was made.
        opening, closing: the tasks that do so, shared by all who wait for them.
        opened: whether the servers were found fit.
        closed: whether new operations are refused.
        ended: whether everything is.
        operations: those of several steps that are running; their steps may be taken while the client is closed.
        on_connect: called with the name of a server when the first connection to it was made, and again when it is
            connected again.
        idle: completed when nothing is under way any more; None before the closing.

    Args:
        topology: Which servers there are.
        limits: Times and counts.
        log: Where debug lines go.
        prepare: Is awaited when the servers were found fit, and may send requests by what it is given.
    """

    def __init__(
        self,
        topology: Topology,
        limits: Limits,
        log: logging.Logger,
        prepare: Callable[[Callable[[Request], Awaitable[Any]]], Awaitable[None]],
    ) -> None:
        self.budget = limits.budget
        self._replicas = limits.replicas
        self._topology = topology
        self._limits = limits
        self._log = log
        self._prepare = prepare
        self._dispatcher: Dispatcher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = _forks
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._opened = False
        self._closed = False
        self._ended = False
        self._operations: set[object] = set()
        self._idle: asyncio.Future[None] | None = None
        self.on_connect: Callable[[str], None] = _ignore

    def __repr__(self) -> str:
        return f"{self._topology.name}: {self._dispatcher or 'not used yet'}"

    # Requests

    @property
    def is_closed(self) -> bool:
        """Whether new operations are refused."""
        return self._closed

    @property
    def is_lost(self) -> bool:
        """Whether the connections are those of a process that this one was forked from, or gone with their loop."""
        return self._forks != _forks or (self._loop is not None and self._loop.is_closed())

    def submit(self, request: Request) -> asyncio.Future[Any]:
        """Take a request; its future is settled in time. Who is cancelled while waiting for it calls `withdraw`."""
        loop = asyncio.get_running_loop()
        if self._closed or not self._opened or loop is not self._loop or self._forks != _forks:
            self._enter(loop)
        future: asyncio.Future[Any] = asyncio.Future(loop=loop)  # what create_future does, a call less
        request.future = future
        if self._replicas and request.owner is None and request.writes:  # a view has said how many it wants
            request.replicas = self._replicas
        self._dispatcher.submit(request)  # pyright: ignore[reportOptionalMemberAccess]  # _enter has made it
        return future

    def hold(self, request: Request) -> asyncio.Future[Any]:
        """Take a request as `submit` does; it is not sent before `release`."""
        loop = asyncio.get_running_loop()
        self._enter(loop)
        request.future = future = loop.create_future()
        self._dispatcher.hold(request)  # pyright: ignore[reportOptionalMemberAccess]  # _enter has made it
        return future

    def release(self, requests: Iterable[Request], failure: StateStoreError | None) -> None:
        """Send requests that were held, or fail them."""
        for request in requests:
            if failure is not None:
                self.settle(request, copy.copy(failure))
            elif self._dispatcher is not None:
                self._dispatcher.pending.begin(request)

    def settle(self, request: Request, error: StateStoreError) -> None:
        """Fail a request, if it was not settled before."""
        if self._dispatcher is not None:
            self._dispatcher.settle(request, error=error)

    def pending(self) -> Iterable[Request]:
        """Every request that was taken and not settled."""
        return () if self._dispatcher is None else self._dispatcher.pending

    async def execute(self, request: Request) -> Any:
        """Take a request, and wait for its result."""
        future = self.submit(request)
        try:
            return await future
        except asyncio.CancelledError:
            self.withdraw(request)
            raise

    def withdraw(self, request: Request) -> None:
        """Settle a request that nobody waits for: it is not sent any more, or its reply is dropped."""
        if self._dispatcher is not None and request.future is not None:
            request.future.cancel()
            self._dispatcher.settle(request)

    @contextmanager
    def operation(self, *, begun: bool = False) -> Generator[Callable[[Request], Awaitable[Any]]]:
        """Begin an operation of several steps, which may all be taken while the client is being closed.

        Args:
            begun: Whether it is a part of what was taken before.

        Yields:
            What its steps are sent by.
        """
        if self._closed and not begun:
            raise StoreClosedError("the store is closed; open another one")
        self.check_home()
        token = object()
        self._operations.add(token)
        before = _operation.set(token)
        try:
            yield self.execute
        finally:
            _operation.reset(before)
            self._operations.discard(token)
            self._check_idle()

    async def nodes(self, submit: Callable[[Request], Awaitable[Any]]) -> list[str]:
        """The names of all servers that hold slots."""
        await submit(command(None, "PING", fits=is_text))  # when it is answered, the routes are known
        return self.node_names()

    def node_names(self) -> list[str]:
        """The names of all servers that hold slots, as far as they are known."""
        return [] if self._dispatcher is None else self._dispatcher.topology.names()

    def node_of(self, slot: int) -> str | None:
        """The name of the server that holds a slot, as far as that is known."""
        server = None if self._dispatcher is None else self._dispatcher.topology.route(slot)
        return None if server is None else server.name

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to open, or refuse another event loop, another process, and a closed store."""
        if self._ended or (self._closed and _operation.get() not in self._operations):
            raise StoreClosedError("the store is closed; open another one")
        self.check_home()
        if self._dispatcher is None:
            self._loop = loop
            self._dispatcher = Dispatcher(self._topology, self._limits, self._log, self.on_connect)
        if not self._opened and self._opening is None:
            self._opening = loop.create_task(self._open(self._dispatcher))

    def check_home(self) -> None:
        """Refuse another event loop and another process than those of the first request."""
        if self._forks != _forks:
            raise ForeignLoopError("this store was opened before a fork; open one store in each process")
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise ForeignLoopError(
                "this store belongs to another event loop; open one in each, as redis_state.LoopLocal(open) does"
            )

    # Opening

    async def _open(self, dispatcher: Dispatcher) -> None:
        """See whether server, user and data are as they must be; else fail who waits for that."""

        async def submit(request: Request) -> Any:
            future: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
            request.future = future
            dispatcher.submit_early(request)
            return await future

        try:
            await asyncio.sleep(0)  # the first request is in the table by then
            if not self._topology.is_cluster and await self._is_cluster(submit):
                self._topology = self._topology.as_cluster()
                self._log.debug("%s is part of a cluster", self._topology.name)
                await dispatcher.replace(self._topology)
            # Where MULTI is refused, the commands after it would be carried out on their own.
            await submit(Request(MULTI + EXEC, None, replies=2))
            await self._prepare(submit)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to who waits
            failure = error if isinstance(error, StateStoreError) else None
            if failure is None:
                self._log.exception("the store could not be opened")
                failure = StateStoreError("the store could not be opened")
            dispatcher.pending.settle_all(lambda _: copy.copy(failure))
        else:
            self._opened = True
            dispatcher.open()
        finally:
            self._opening = None

    async def _is_cluster(self, submit: Callable[[Request], Awaitable[Any]]) -> bool:
        try:
            info = await submit(command(None, "INFO", "cluster", fits=is_text))
        except ServerRefusedError as error:
            if error.code in ("NOAUTH", "WRONGPASS"):
                raise
            return False  # a user without INFO; a cluster's redirects will still say what is wrong
        return b"cluster_enabled:1" in bytes(info)

    # Closing

    async def aclose(self) -> bool:
        """Let what was taken end, within the budget, then fail the rest and close. May be called again.

        Returns:
            Whether this is where it was opened: what a fork's parent or an ended event loop has left is not waited for.
        """
        loop = asyncio.get_running_loop()
        if self.is_lost:
            self._closed = self._ended = True
            return False
        self.check_home()
        if self._closing is None:
            self._closed = True
            self._closing = loop.create_task(self._close())
        await asyncio.shield(self._closing)
        return True

    async def _close(self) -> None:
        dispatcher = self._dispatcher
        if dispatcher is None:
            self._ended = True
            await self._topology.aclose()
            return
        self._idle = asyncio.get_running_loop().create_future()
        dispatcher.pending.on_empty = self._check_idle
        self._check_idle()
        await asyncio.wait([self._idle], timeout=self._limits.budget)
        self._ended = True
        if self._opening is not None:
            self._opening.cancel()
        dispatcher.pending.settle_all(closed)
        await dispatcher.close()

    def _check_idle(self) -> None:
        """Let the closing go on when nothing is pending and no operation of several steps is running."""
        idle = self._idle
        if (
            idle is not None
            and not idle.done()
            and not self._operations
            and (self._dispatcher is None or not self._dispatcher.pending)
        ):
            idle.set_result(None)


def _ignore(node: str) -> None:
    """Take no note of a connection."""
