"""What is added to a session on a condition, created with it, merged into it, done once by a key, or copied from it."""

from __future__ import annotations

import math
from typing import Any, Final

from support.linearizable import NOTHING, Event, Step, Stored, appended, conflicted, replaced

from redis_state import (
    AgentState,
    Message,
    NotReplicatedError,
    OutcomeUnknownError,
    StateNotFoundError,
    StateStoreError,
    StoreClosedError,
    VersionConflictError,
)

from .workload import AGENT, FORKS, KEYED, Caller, seen_in

RETRIES: Final = 3


def created_or_appended(mark: str, message: str, version: int | None) -> Step:
    """A first writer's state with its message, or the message behind what is there."""

    def step(before: Stored) -> Stored | None:
        if before == NOTHING:
            return (1, (mark, message)) if version in (None, 1) else None
        return appended(message, version)(before)

    return step


def merged(mark: str, version: int | None) -> Step:
    """Another mark of the state, which stands before those of its messages."""

    def step(before: Stored) -> Stored | None:
        if before == NOTHING or version not in (None, before[0] + 1):
            return None
        return before[0] + 1, (mark, *before[1][1:])

    return step


def copied(marks: tuple[str, ...]) -> Step:
    """A copy of what is there has these marks."""
    return lambda before: before if before[1] == marks else None


class AddingCaller(Caller):
    """A caller that adds to sessions as well."""

    def _message(self, mark: str) -> Message:
        return Message("user", f"{mark} {self._pad()}")

    async def _append_if(self, session: str) -> None:
        """Only if nobody has written since an object was loaded or saved."""
        state, origin = self._object(session)
        if origin == NOTHING:
            await self._create(session)
            return
        mark = self._mark()
        effect = replaced(origin, (origin[0] + 1, (*origin[1], mark)))

        def step(result: Any) -> Step:
            return conflicted(origin, result.stored) if isinstance(result, VersionConflictError) else effect

        call = self.store.append(AGENT, session, [self._message(mark)], if_version=state)
        await self._observe(session, call, step, effect, f"append {mark} if {origin}")
        self._check_replicas(f"append {mark} if {origin}", mark)

    async def _create(self, session: str) -> None:
        """First writers at once make one session and lose no message."""
        mark, message = self._mark(), self._mark()
        state = AgentState(agent_id=AGENT, session_id=session, context={"mark": mark})
        call = self.store.append(AGENT, session, [self._message(message)], create=state)

        def step(version: int) -> Step:
            return created_or_appended(mark, message, version)

        said = f"append {message} or create {mark}"
        await self._observe(session, call, step, created_or_appended(mark, message, None), said)
        self._check_replicas(said, message)

    async def _merge(self, session: str) -> None:
        mark = self._mark()
        call = self.store.merge(AGENT, session, {"context": {"mark": mark}, "data": {"pad": self._pad()}})

        def step(version: int) -> Step:
            return merged(mark, version)

        await self._observe(session, call, step, merged(mark, None), f"merge {mark}")
        self._check_replicas(f"merge {mark}", mark)

    async def _append_with_key(self, session: str) -> None:
        """Again and again until it is known to be done: once."""
        mark, events = self._mark(), self.histories[KEYED]
        create = AgentState(agent_id=KEYED, session_id=KEYED, context={"mark": "keyed"})
        called = self._loop.time()
        number, maybe = self._turn(), False
        for attempt in range(RETRIES):
            try:
                version = await self.store.append(KEYED, KEYED, [Message("user", mark)], create=create, key=mark)
            except StateStoreError as error:
                maybe = maybe or isinstance(error, OutcomeUnknownError | NotReplicatedError)
                if attempt + 1 == RETRIES or isinstance(error, StoreClosedError):
                    if maybe:
                        effect = created_or_appended("keyed", mark, None)
                        events.append(Event(called, math.inf, effect, f"key {mark} {error!r}"))
                    raise
            except BaseException:
                events.append(Event(called, math.inf, created_or_appended("keyed", mark, None), f"key {mark}"))
                raise
            else:
                effect = created_or_appended("keyed", mark, version)
                # Who tries again comes after what was called meanwhile, so it has no place in the caller's order.
                queue = "" if attempt else self.name
                events.append(Event(called, self._loop.time(), effect, f"key {mark} {version}", queue, number))
                self._check_replicas(f"key {mark}", mark)
                return

    async def _fork(self, session: str) -> None:
        target = f"fork-{self.name}{self._number}"
        called = self._loop.time()
        try:
            await self.store.fork(AGENT, session, target, new_agent_id=FORKS)
        except (StateNotFoundError, VersionConflictError):
            return
        returned = self._loop.time()
        copy = await self.store.load(FORKS, target)
        if copy.version != 1:
            self.problems.append(f"a fork has version {copy.version}")
        marks = seen_in(copy)[1]
        self.histories[session].append(Event(called, returned, copied(marks), f"fork {marks}"))
        await self.store.delete(FORKS, target)
