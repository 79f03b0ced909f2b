"""The client of a view: requests over the connections of another client, with an end of their own."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis_state.errors import StateStoreError, StoreClosedError
from redis_state.transport.client import Client, current_operation
from redis_state.transport.outcomes import closed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from redis_state.commands.request import Request


class ClientView:
    """Takes requests for a client that is shared, and is closed without closing that.

    All of its state:
        prepared: whether the data was found fit; until then requests wait in `waiting`, by which they have a deadline.
        preparing: the task that looks at the data, if it runs.
        closed: whether new operations are refused.
        ended: whether everything is.
        operations: those of several steps that are running; their steps may be taken while the view is closed.
        closing: the task that does so, shared by all who wait for it.
        idle: completed when no operation of several steps is running any more; None before the closing.

    Args:
        parent: The client whose connections are used, or a view of it. When it is closed, so is this.
        replicas: How many replicas must confirm a write.
        prepare: Is awaited before the first request is sent, and may send requests by what it is given.

    Attributes:
        client: The client at the root.
    """

    def __init__(
        self,
        parent: Client | ClientView,
        replicas: int,
        prepare: Callable[[Callable[[Request], Awaitable[Any]]], Awaitable[None]],
    ) -> None:
        self.parent = parent
        self.client: Client = parent.client if isinstance(parent, ClientView) else parent
        self._replicas = replicas
        self._prepare = prepare
        self._prepared = False
        self._preparing: asyncio.Task[None] | None = None
        self._waiting: list[Request] = []
        self._closed = False
        self._ended = False
        self._operations: set[object] = set()
        self._closing: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self.budget = self.client.budget
        self.check_home = self.client.check_home
        self.withdraw = self.client.withdraw
        self.nodes = self.client.nodes
        self.node_names = self.client.node_names

    def __repr__(self) -> str:
        return repr(self.client)

    @property
    def is_closed(self) -> bool:
        """Whether new operations are refused, because this view is closed or one that it is a view of."""
        return self._closed or self.parent.is_closed

    # Requests

    def submit(self, request: Request) -> asyncio.Future[Any]:
        """As `Client.submit`. The first requests wait until the data was found fit."""
        if self.is_closed:
            self.check_open()
        request.owner = self
        if self._replicas and request.writes:
            request.replicas = self._replicas
        if self._prepared:
            return self.client.submit(request)
        future = self.client.hold(request)
        self._waiting.append(request)
        if self._preparing is None:
            self._preparing = asyncio.get_running_loop().create_task(self._look())
        return future

    async def execute(self, request: Request) -> Any:
        """Take a request, and wait for its result."""
        future = self.submit(request)
        try:
            return await future
        except asyncio.CancelledError:
            self.withdraw(request)
            raise

    @contextmanager
    def operation(self) -> Generator[Callable[[Request], Awaitable[Any]]]:
        """As `Client.operation`."""
        if self._closed:
            raise StoreClosedError("the store is closed; open another one")
        with self.parent.operation():
            token = current_operation()
            self._operations.add(token)
            try:
                yield self.execute
            finally:
                self._operations.discard(token)
                if self._idle is not None and not self._idle.done() and not self._operations:
                    self._idle.set_result(None)

    def check_open(self) -> None:
        """Refuse what is no step of an operation that was begun before this view, or one above, was closed."""
        if self._ended or (self._closed and current_operation() not in self._operations):
            raise StoreClosedError("the store is closed; open another one")
        if isinstance(self.parent, ClientView):
            self.parent.check_open()

    async def _look(self) -> None:
        """See whether the data is as it must be, and send what waits; else fail it."""
        failure: StateStoreError | None = StateStoreError("the view could not be opened")
        try:
            with self.client.operation(begun=True) as submit:
                await self._prepare(submit)
            failure = None
        except StateStoreError as error:
            failure = error
        finally:
            self._preparing = None
            self._prepared = failure is None
            waiting, self._waiting = self._waiting, []
            self.client.release(waiting, failure)

    # Closing

    async def aclose(self) -> bool:
        """Let what was taken end, within the budget, then fail the rest. May be called again.

        Returns:
            Whether this is where the client was opened.
        """
        if self.client.is_lost:
            self._closed = self._ended = True
            return False
        self.check_home()
        if self._closing is None:
            self._closed = True
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)
        return True

    async def _close(self) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + self.budget
        while (left := ends - loop.time()) > 0:
            pending: list[asyncio.Future[Any]] = [request.future for request in self._pending()]
            if self._operations:
                self._idle = loop.create_future()
                pending.append(self._idle)
            if not pending:
                break
            await asyncio.wait(pending, timeout=left)
        self._ended = True
        for request in self._pending():
            self.client.settle(request, closed(request))

    def _pending(self) -> list[Request]:
        """The requests of this view and of views of it that are not settled."""
        return [request for request in self.client.pending() if self._owns(request)]

    def _owns(self, request: Request) -> bool:
        owner = request.owner
        while isinstance(owner, ClientView) and owner is not self:
            owner = owner.parent
        return owner is self


AnyClient = Client | ClientView
