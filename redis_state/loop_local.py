"""A store for each event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING, Any, Generic, cast

from redis_state.checks import check
from redis_state.models import S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from redis_state.protocol import SessionStore


class LoopLocal(Generic[S]):
    """The store of the running event loop: opened when it is first asked for there, closed with the loop.

    Connections belong to one event loop. Frameworks that call storage by `asyncio.run`, each time or in threads, have
    one loop after the other, or several at once::

        local = LoopLocal(partial(open_store, "redis://localhost:6379"))


        async def remember(state: AgentState) -> None:
            await (await local.get()).save(state)

    `asyncio.run` closes the store when it ends its loop, after all tasks (by ``loop.shutdown_asyncgens()``). The store
    of a loop that is closed in another way is forgotten when the next one is opened. It may be used by all threads.

    Args:
        open: Makes a store that is not open yet, such as ``partial(open_store, url)`` or the `reopen` of a store. It is
            called once in each loop.

    Raises:
        TypeError: `open` is no function.
    """

    def __init__(self, open: Callable[[], SessionStore[S]]) -> None:
        check("open", open)
        self._open = open
        self._lock = threading.Lock()
        self._openings: dict[asyncio.AbstractEventLoop, asyncio.Task[SessionStore[S]]] = {}
        self._keepers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}

    def __repr__(self) -> str:
        return f"<LoopLocal: {len(self._openings)} stores>"

    async def get(self) -> SessionStore[S]:
        """The store of the running event loop, open.

        Raises:
            TypeError: What `open` returned is no store, or the store of another loop.
            StateStoreError: The store could not be opened; the next call tries again.
        """
        loop = asyncio.get_running_loop()
        opening = self._openings.get(loop)
        if opening is None:
            with self._lock:
                self._forget_closed()
                opening = self._openings[loop] = loop.create_task(self._open_in(loop))
        store = opening.result() if opening.done() else await asyncio.shield(opening)
        if getattr(store, "is_closed", False):  # by its user, who took it for a store of its own
            await self.aclose()
            return await self.get()
        return store

    async def aclose(self) -> None:
        """Close the store of the running event loop, if there is one. The next `get` opens another."""
        loop = asyncio.get_running_loop()
        opening = self._openings.get(loop)
        if opening is not None:
            await asyncio.wait([opening])
        keeper = self._keepers.get(loop)
        if keeper is not None:
            await keeper.aclose()

    async def _open_in(self, loop: asyncio.AbstractEventLoop) -> SessionStore[S]:
        try:
            store = self._make()
            await store.__aenter__()
            keeper = self._keep(loop, store)
            await anext(keeper)
        except BaseException:
            with self._lock:
                del self._openings[loop]
            raise
        with self._lock:
            self._keepers[loop] = keeper
        return store

    def _make(self) -> SessionStore[S]:
        store: Any = self._open()
        if inspect.iscoroutine(store):
            store.close()
            raise TypeError("open must return a store, not a coroutine: get() opens it by itself")
        if not hasattr(store, "aclose") or not hasattr(store, "__aenter__"):
            raise TypeError(f"open must return a store, not {type(store).__name__}")
        with self._lock:
            others = [each for each in self._openings.values() if each.done() and not each.cancelled()]
            if any(each.exception() is None and each.result() is store for each in others):
                raise TypeError("open returned the store of another event loop: give LoopLocal its `reopen` instead")
        return cast("SessionStore[S]", store)

    async def _keep(self, loop: asyncio.AbstractEventLoop, store: SessionStore[S]) -> AsyncGenerator[None]:
        """Wait for the end of the loop, which ends generators that are not exhausted, and close the store."""
        try:
            yield
        finally:
            with self._lock:
                del self._openings[loop], self._keepers[loop]
            await store.aclose()

    def _forget_closed(self) -> None:
        """Forget stores whose loops were closed without ending generators: their connections are gone."""
        for loop in [loop for loop in self._openings if loop.is_closed()]:
            del self._openings[loop]
            self._keepers.pop(loop, None)
