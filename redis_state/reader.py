"""Reads sessions: asks for the bytes, and makes states of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from redis_state.checks import ids_of
from redis_state.commands.many import read_values
from redis_state.commands.request import Request, command
from redis_state.commands.shapes import is_value
from redis_state.errors import StateNotFoundError

if TYPE_CHECKING:
    from redis_state.codec import Codec, StateType
    from redis_state.commands.keys import Keys
    from redis_state.telemetry import Operation
    from redis_state.transport.view import AnyClient

_GET: Final = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"
_SLICE: Final = 512 * 1024  # bytes decoded before others have their turn


class Reader:
    """Carries out the loads of a store.

    Args:
        client: Sends requests.
        types: What is known of the state type.
        codec: Reads the bytes.
        keys: The names of keys.
        metrics: Where loads are recorded.
        refresh: After how many milliseconds a state expires that was loaded; None leaves its expiry as it is.
    """

    def __init__(
        self,
        *,
        client: AnyClient,
        types: StateType[Any],
        codec: Codec[Any],
        keys: Keys,
        metrics: Operation,
        refresh: int | None,
    ) -> None:
        self._client = client
        self._types = types
        self._codec = codec
        self._keys = keys
        self._metrics = metrics
        self._refresh = refresh

    async def load(self, agent_id: str, session_id: str) -> Any:
        """See `StateStore.load`."""
        started = perf_counter()
        try:
            session = self._keys.session(agent_id, session_id)
            key = session.key
            if self._refresh is None:
                request = Request(_GET % (len(key), key), session.partition.slot, session=key, fits=is_value)
            else:
                request = command(session.partition.slot, "GETEX", key, "PX", self._refresh, session=key, fits=is_value)
            future = self._client.submit(request)
            try:
                value = await future
            except asyncio.CancelledError:
                self._client.withdraw(request)
                raise
            if value is None:
                raise StateNotFoundError(agent_id, session_id)
            state, origin = self._codec.decode(value, agent_id, session_id)
            self._types.adopt(state, origin)
        except BaseException as error:
            self._metrics.failed(started, error)
            raise
        session.seen = origin
        self._metrics.done(started)
        return state

    async def load_many(self, agent_id: str, session_ids: object) -> dict[str, Any]:
        """See `SessionStore.load_many`."""
        found: dict[str, Any] = {}
        with self._metrics.measure() as measured, self._client.operation() as submit:
            self._keys.agent(agent_id)
            reads = read_values(submit, self._keys, agent_id, ids_of(session_ids), self._refresh)
            async with aclosing(reads) as values:
                size = 0
                async for some in values:
                    for session_id, value in some:
                        if value is None:
                            continue
                        state, origin = self._codec.decode(value, agent_id, session_id)
                        self._types.adopt(state, origin)
                        found[session_id] = state
                        size += len(value)
                        if size > _SLICE:
                            size = 0
                            await asyncio.sleep(0)  # others have their turn
            measured.count = len(found)
        return found
