"""What the stores of this library do alike, by the few things that each does in its own way."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, cast, overload

from redis_state.checks import check, messages_of
from redis_state.clock import milliseconds
from redis_state.codec.schema import OtherSchemaError
from redis_state.core_protocol import KeepsMessages, KeepsVersions, M
from redis_state.errors import StateNotFoundError, VersionConflictError
from redis_state.models import S
from redis_state.protocol import SessionStore
from redis_state.update import Lines, update

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from types import TracebackType

    from redis_state.codec import Codec, StateType
    from redis_state.core_protocol import HasMessages
    from redis_state.telemetry import Metrics

_MIGRATED_AT_ONCE = 32  # sessions
_FIRST_READ = 256  # bytes for each message that is asked for, in the first attempt


class BaseStore(SessionStore[S], Generic[S]):
    """A store, but for where the states are kept."""

    _types: StateType[S]
    _codec: Codec[S]
    _metrics: Metrics
    _lines: Lines
    # Takes the bytes of a state as it is now, with `if_version`, `key` and `ttl`; what it returns stores them.
    _start_save: Callable[[Any, int | None, str | None, timedelta | None], Coroutine[Any, Any, None]]
    _ttl: int | None

    # What each store does in its own way

    @abstractmethod
    async def _add(
        self,
        agent_id: str,
        session_id: str,
        *,
        messages: list[Any] | None,
        changes: Any,
        if_version: Any,
        create: Any,
        key: str | None,
        ttl: timedelta | None,
    ) -> int:
        """Append messages to a stored state, and merge changes into it. Returns its version then."""

    @abstractmethod
    async def _tail(self, agent_id: str, session_id: str, wanted: int | None) -> tuple[bytes, int] | None:
        """The last parts of a value, about so many bytes, and how many are before them; None is the whole value."""

    @abstractmethod
    async def _replace(self, agent_id: str, session_id: str, before: bytes, after: bytes) -> bool:
        """Put another form of a value in its place, unless it was written meanwhile. Returns whether it was not."""

    @abstractmethod
    def _operation(self) -> AbstractContextManager[Any]:
        """What is around an operation of several steps. Refuses a closed store."""

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether new operations are refused."""

    def _time_left(self, operation: str, ttl: timedelta | None) -> int:
        """After how many milliseconds a state is to expire."""
        left = self._ttl if ttl is None else milliseconds(ttl)
        if left is None:
            raise ValueError(f"{operation} needs a ttl, here or on the store")
        return left

    # Operations

    @overload
    def save(
        self, state: S, *, if_version: None = None, key: str | None = None, ttl: timedelta | None = None
    ) -> Coroutine[Any, Any, None]: ...

    @overload
    def save(
        self: KeepsVersions,
        state: S,
        *,
        if_version: int | None = None,
        key: str | None = None,
        ttl: timedelta | None = None,
    ) -> Coroutine[Any, Any, None]: ...

    def save(
        self, state: S, *, if_version: int | None = None, key: str | None = None, ttl: timedelta | None = None
    ) -> Coroutine[Any, Any, None]:
        return self._start_save(state, if_version, key, ttl)

    async def update(
        self: KeepsVersions,
        agent_id: str,
        session_id: str,
        fn: Callable[[S], Any | Awaitable[Any]],
        *,
        attempts: int = 100,
        ttl: timedelta | None = None,
    ) -> S:
        self = cast("BaseStore[Any]", self)  # noqa: PLW0642  # to type checkers it is any store with versions
        with self._metrics.update.measure(), self._operation():
            self._types.require("version", "update()")
            return await update(self, self._lines, agent_id, session_id, fn, attempts=attempts, ttl=ttl)

    async def append(
        self: KeepsMessages[M],
        agent_id: str,
        session_id: str,
        messages: M | Iterable[M],
        *,
        merge: Mapping[str, Any] | None = None,
        if_version: int | HasMessages[M] | None = None,
        create: HasMessages[M] | None = None,
        key: str | None = None,
        ttl: timedelta | None = None,
    ) -> int:
        self = cast("BaseStore[Any]", self)  # noqa: PLW0642  # to type checkers it is any store with messages
        with self._metrics.append.measure():
            self._types.require("messages", "append()")
            return await self._add(
                agent_id,
                session_id,
                messages=messages_of(messages),
                changes=merge,
                if_version=if_version,
                create=create,
                key=key,
                ttl=ttl,
            )

    async def merge(
        self,
        agent_id: str,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        if_version: int | S | None = None,
        create: S | None = None,
        key: str | None = None,
        ttl: timedelta | None = None,
    ) -> int:
        with self._metrics.merge.measure():
            check("changes", changes)
            return await self._add(
                agent_id,
                session_id,
                messages=None,
                changes=changes,
                if_version=if_version,
                create=create,
                key=key,
                ttl=ttl,
            )

    async def load_messages(
        self: KeepsMessages[M], agent_id: str, session_id: str, *, limit: int | None = None
    ) -> list[M]:
        self = cast("BaseStore[Any]", self)  # noqa: PLW0642  # to type checkers it is any store with messages
        self._types.require("messages", "load_messages()")
        check("limit", limit)
        wanted = None if limit is None else _FIRST_READ * max(limit, 1)
        with self._metrics.load.measure(), self._operation():
            while True:
                tail = await self._tail(agent_id, session_id, wanted)
                if tail is None:
                    raise StateNotFoundError(agent_id, session_id)
                value, before = tail
                if not before:
                    messages = self._codec.decode(value, agent_id, session_id)[0].messages
                    return messages if limit is None else messages[len(messages) - min(limit, len(messages)) :]
                try:
                    messages = self._codec.decode_tail(value, agent_id, session_id)
                except OtherSchemaError:
                    wanted = None
                    continue
                if limit is not None and len(messages) >= limit:
                    return messages[len(messages) - limit :]
                wanted = 4 * len(value)

    async def fork(
        self: KeepsVersions,
        agent_id: str,
        session_id: str,
        new_session_id: str,
        *,
        new_agent_id: str | None = None,
        messages: int | None = None,
    ) -> int:
        self = cast("BaseStore[Any]", self)  # noqa: PLW0642  # to type checkers it is any store with versions
        self._types.require("version", "fork()")
        if messages is not None:
            self._types.require("messages", "fork(messages=)")
            check("messages", messages)
        target = (agent_id if new_agent_id is None else new_agent_id, new_session_id)
        started = perf_counter()
        with self._operation():
            try:
                state = await self._copy(agent_id, session_id, target, messages)
            except BaseException as error:
                self._metrics.save.failed(started, error)
                raise
            await self.save(state, if_version=0)
        return 1

    async def _copy(self, agent_id: str, session_id: str, target: tuple[str, str], messages: int | None) -> Any:
        """A state as a new one of another session."""
        tail = await self._tail(agent_id, session_id, None)
        if tail is None:
            raise StateNotFoundError(agent_id, session_id)
        state: Any = self._codec.decode(tail[0], agent_id, session_id)[0]
        if target == (agent_id, session_id):
            raise VersionConflictError(0, state.version)
        state.agent_id, state.session_id = target
        state.version = 0
        if messages is not None:
            del state.messages[messages:]
        return state

    async def migrate(self, agent_id: str) -> int:
        changed = 0
        waiting: list[str] = []
        async for info in self.sessions(agent_id):
            waiting.append(info.session_id)
            if len(waiting) == _MIGRATED_AT_ONCE:
                changed += sum(await asyncio.gather(*(self._migrate(agent_id, each) for each in waiting)))
                waiting.clear()
        return changed + sum(await asyncio.gather(*(self._migrate(agent_id, each) for each in waiting)))

    async def _migrate(self, agent_id: str, session_id: str) -> bool:
        while True:
            tail = await self._tail(agent_id, session_id, None)
            if tail is None:
                return False  # deleted meanwhile
            migrated = self._codec.migrate(tail[0], agent_id, session_id)
            if migrated is None:
                return False
            if await self._replace(agent_id, session_id, tail[0], migrated):
                return True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        await self.aclose()
