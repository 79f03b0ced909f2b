"""The operations of one store, and what is noted of each."""

from __future__ import annotations

import asyncio
import math
import random
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from support.linearizable import (
    NOTHING,
    Event,
    Step,
    Stored,
    appended,
    conflicted,
    deleted,
    exists,
    found,
    replaced,
    saved,
)

from redis_state import (
    AgentState,
    Message,
    NotReplicatedError,
    OutcomeUnknownError,
    RedisStateStore,
    StateNotFoundError,
    StateStoreError,
    VersionConflictError,
)

from .checkers import NEVER_HAPPENED, check_error, check_listing, check_time
from .sources import worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .world import World

AGENT: Final = "agent"
SESSIONS: Final = ("one", "two")
KEYED: Final = "keyed"  # an agent with one session, only written with keys: a plain save may forget them
FORKS: Final = "forks"  # the agent of copies
STEPS: Final = {
    "fork": 4,
    "append_with_key": 3,
    "list": 6,
    "count": 6,
    "sessions": 8,
    "agents": 16,
    "delete_agent": 8,
    "load_many": 2,
}
WRITES: Final = {"save", "save_if", "save_twice", "append", "update", "delete", "delete_agent", "save_other"} | {
    "append_if", "create", "merge", "append_with_key", "fork",
}  # fmt: skip
ATTEMPTS: Final = 3  # of an update


def seen_in(state: AgentState) -> Stored:
    """What a loaded state amounts to."""
    return state.version, (
        state.context.get("mark", ""),
        *(message.content.split(" ")[0] for message in state.messages),
    )


class Operation(NamedTuple):
    """One operation that was started."""

    what: str
    task: asyncio.Task[None]


class Caller:
    """Uses one store, and notes what it saw.

    Args:
        name: Of this store.
        store: The store.
        world: The servers below.
        times: Read, write and dial timeout in seconds.
        replicas: What the store was told.

    All of its state:
        histories: the events of each session, shared with the other callers.
        problems: broken promises.
        operations: all that were started.
        first: whether none has succeeded yet.
        objects: the latest object of each session, with what it was when it was loaded or saved.
    """

    def __init__(
        self,
        name: str,
        store: RedisStateStore[AgentState],
        world: World,
        times: tuple[float, float, float],
        replicas: int,
    ) -> None:
        self.name = name
        self.store = store
        self.world = world
        self.replicas = replicas
        self.histories: dict[str, list[Event]] = {}
        self.problems: list[str] = []
        self.operations: list[Operation] = []
        self.first = True
        self.frozen = 0.0
        self._rng = world.dice.rng
        self._loop = world.loop
        self._read, self._write, self._dial = times
        self._objects: dict[str, tuple[AgentState, Stored]] = {}
        self._marks = 0
        self._number = 0
        self._called = 0
        self._context = copy_context()
        self._context.run(worker.set, random.Random(42))  # as where every worker calls random.seed(42)

    @property
    def budget(self) -> float:
        """Seconds that an operation may take."""
        return self._read + self._write

    def start(self, kind: str, session: str = "", *, must_succeed: bool = False) -> Operation:
        """Start one operation."""
        operation: Callable[[str], Awaitable[None]] = getattr(self, f"_{kind}")
        self._number += 1
        what, writes = f"{self.name}{self._number} {kind} {session}", kind in WRITES
        task = self._loop.create_task(
            self._run(what, kind, lambda: operation(session), must_succeed=must_succeed, writes=writes),
            context=self._context.copy(),
        )
        started = Operation(what, task)
        self.operations.append(started)
        return started

    async def _run(
        self, what: str, kind: str, work: Callable[[], Awaitable[None]], *, must_succeed: bool, writes: bool
    ) -> None:
        called, frozen, first = self._loop.time(), self.frozen, self.first
        said = "done"
        try:
            await work()
            self.first = False
        except asyncio.CancelledError:
            said = "cancelled"
        except (StateNotFoundError, VersionConflictError) as error:
            self.first = False
            said = type(error).__name__
        except Exception as error:  # noqa: BLE001  # checked right here
            said = f"{type(error).__name__}: {error}"
            if must_succeed:
                self.problems.append(f"{what} failed after the faults: {error!r}")
            self._note(check_error(what, error, writes=writes))
        took = self._loop.time() - called - (self.frozen - frozen)
        steps = STEPS.get(kind, 1) if kind != "update" else 2 * ATTEMPTS
        allowed = self.budget * steps + (self._dial if first else 0.0) + (1.5 if kind == "update" else 0.0)
        self._note(check_time(what, took, allowed))
        self.world.dice.say(f"{what}: {said} after {took:.5f}")

    def _note(self, problem: str | None) -> None:
        if problem is not None:
            self.problems.append(problem)

    def _mark(self) -> str:
        """A mark for one write."""
        self._marks += 1
        return f"~{ord(self.name) * 10_000 + self._marks}~"

    def _turn(self) -> int:
        """The place of an operation among those of this store: when it was called, not when its task was made."""
        self._called += 1
        return self._called

    def _pad(self) -> str:
        """Text that makes a few states large."""
        if self.world.dice.happens("large"):
            self.world.dice.note("large")
            return "x" * self._rng.randrange(200_000, 400_000)
        return "x" * self._rng.choice((0, 10, 1200))

    async def _observe(
        self, session: str, call: Awaitable[Any], step: Callable[[Any], Step | None], maybe: Step | None, what: str
    ) -> Any:
        """Await an operation, and add to the session's history what it did."""
        called, number = self._loop.time(), self._turn()
        events = self.histories[session]

        def note(effect: Step | None, returned: float, outcome: str, *, writes: bool = False) -> None:
            if effect is not None:
                events.append(Event(called, returned, effect, f"{what} {outcome}", self.name, number, writes))

        try:
            result = await call
        except StateNotFoundError:
            note(found(NOTHING), self._loop.time(), "not found")
            raise
        except VersionConflictError as error:
            note(step(error), self._loop.time(), f"conflict {error.stored}")
            raise
        except NEVER_HAPPENED:
            raise
        except NotReplicatedError:
            note(maybe, math.inf, "not replicated")
            raise
        except (OutcomeUnknownError, asyncio.CancelledError) as error:
            note(maybe, math.inf, type(error).__name__)
            raise
        shown = seen_in(result) if isinstance(result, AgentState) else result
        note(step(result), self._loop.time(), f"returned {shown}", writes=maybe is not None)
        return result

    def _check_replicas(self, what: str, mark: str) -> None:
        if self.replicas and not self.world.is_durable(mark.encode()):
            self.problems.append(f"{what} returned, and no replica has it")

    def _check_ids(self, state: AgentState, session: str) -> None:
        if (state.agent_id, state.session_id) != (AGENT, session) or state.data.get("of", session) != session:
            self.problems.append(f"a load of {session} returned {state.agent_id}/{state.session_id}")

    # Operations

    async def _load(self, session: str) -> None:
        def step(state: AgentState) -> Step:
            return found(seen_in(state))

        state = await self._observe(session, self.store.load(AGENT, session), step, None, "load")
        self._check_ids(state, session)
        self._objects[session] = (state, seen_in(state))

    def _object(self, session: str) -> tuple[AgentState, Stored]:
        """An object to save: a new one, or the one that was loaded or saved last."""
        if session in self._objects and self._rng.random() < 0.7:
            return self._objects.pop(session)
        return AgentState(agent_id=AGENT, session_id=session), NOTHING

    async def _save(self, session: str) -> None:
        state, origin = self._object(session)
        await self._save_object(session, state, origin, self._pad(), conditional=False)

    async def _save_if(self, session: str) -> None:
        state, origin = self._object(session)
        await self._save_object(session, state, origin, self._pad(), conditional=True)

    async def _save_object(
        self, session: str, state: AgentState, origin: Stored, pad: str, *, conditional: bool, alone: bool = True
    ) -> None:
        mark, before = self._mark(), state.version
        state.context, state.data, state.messages = {"mark": mark}, {"of": session, "pad": pad}, []
        call = self.store.save(state, if_version=before if conditional else None)
        what = (before + 1, (mark,))
        effect = replaced(origin, what) if conditional else saved(what)

        def step(result: Any) -> Step:
            if isinstance(result, VersionConflictError):
                return conflicted(origin, result.stored)
            return effect

        said = f"save {what} {len(pad)}" + (f" if {origin}" if conditional else "")
        try:
            await self._observe(session, call, step, effect, said)
        except BaseException as error:
            if alone and state.version != before:
                self.problems.append(f"{said} of {session} failed ({error!r}) and left version {state.version}")
            if alone and not isinstance(error, VersionConflictError):
                self._objects[session] = (state, origin)  # the next save of it makes the same version
            raise
        if alone and state.version != what[0]:
            self.problems.append(f"{said} of {session} left version {state.version}")
        self._check_replicas(f"{said} of {session}", mark)
        if alone:
            self._objects[session] = (state, what)

    async def _save_twice(self, session: str) -> None:
        """One object, large and at once small again: the second is what is stored, if both are."""
        state, origin = self._object(session)
        first = self._loop.create_task(
            self._save_object(session, state, origin, "x" * 300_000, conditional=False, alone=False)
        )
        first.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.sleep(0)
        mark, before, called, number = self._mark(), state.version, self._loop.time(), self._turn()
        state.context, state.data = {"mark": mark}, {"of": session, "pad": ""}
        events, effects = self.histories[session], [saved((before + made, (mark,))) for made in (1, 2)]
        said = f"save again {mark} over {before}"
        try:
            await self.store.save(state)
        except NEVER_HAPPENED:
            raise
        except (StateStoreError, asyncio.CancelledError) as error:
            events.extend(Event(called, math.inf, effect, f"{said} {error!r}") for effect in effects)
            raise
        else:
            effect = saved((state.version, (mark,)))
            events.append(Event(called, self._loop.time(), effect, said, self.name, number, writes=True))
            self._check_replicas(said, mark)
        finally:
            await asyncio.gather(first, return_exceptions=True)

    async def _append(self, session: str) -> None:
        mark = self._mark()
        message = Message("user", f"{mark} {self._pad()}")

        def step(version: int) -> Step:
            return appended(mark, version)

        await self._observe(
            session, self.store.append(AGENT, session, [message]), step, appended(mark, None), f"append {mark}"
        )
        self._check_replicas(f"append {mark}", mark)

    async def _update(self, session: str) -> None:
        marks: list[tuple[Stored, str]] = []
        effect: list[Step] = []

        def change(state: AgentState) -> None:
            before, mark = seen_in(state), self._mark()
            marks.append((before, mark))
            state.messages.append(Message("user", mark))
            effect[:] = [replaced(before, (before[0] + 1, (*before[1], mark)))]

        called = self._loop.time()
        events = self.histories[session]
        try:
            await self.store.update(AGENT, session, change, attempts=ATTEMPTS)
        except (StateNotFoundError, VersionConflictError, *NEVER_HAPPENED):
            raise
        except (StateStoreError, asyncio.CancelledError) as error:
            events.extend(Event(called, math.inf, each, f"update {marks} {error!r}") for each in effect)
            raise
        events.extend(Event(called, self._loop.time(), each, f"update {marks}", writes=True) for each in effect)
        self._check_replicas(f"update {marks}", marks[-1][1])

    async def _delete(self, session: str) -> None:
        await self._observe(session, self.store.delete(AGENT, session), deleted, deleted(None), "delete")
        self._objects.pop(session, None)

    async def _exists(self, session: str) -> None:
        await self._observe(session, self.store.exists(AGENT, session), exists, None, "exists")

    async def _load_many(self, session: str) -> None:
        called = self._loop.time()
        states = await self.store.load_many(AGENT, SESSIONS)
        for name in SESSIONS:
            state = states.get(name)
            if state is not None:
                self._check_ids(state, name)
            what = NOTHING if state is None else seen_in(state)
            self.histories[name].append(Event(called, self._loop.time(), found(what), f"load_many {what}"))

    async def _list(self, session: str) -> None:
        listed = await self.store.list(AGENT, limit=self._rng.choice((None, 1, 5)))
        self._note(check_listing("list", listed, set(SESSIONS)))

    async def _sessions(self, session: str) -> None:
        listed = [info.session_id async for info in self.store.sessions(AGENT)]
        self._note(check_listing("sessions", listed, set(SESSIONS)))

    async def _count(self, session: str) -> None:
        count = await self.store.count(AGENT)
        self._note(None if count <= len(SESSIONS) else f"count returned {count}")

    async def _agents(self, session: str) -> None:
        agents = [agent async for agent in self.store.agents()]
        self._note(check_listing("agents", agents, {AGENT, KEYED, FORKS, "other"}))

    async def _save_other(self, session: str) -> None:
        await self.store.save(AgentState(agent_id="other", session_id=f"o{self._number % 3}"))

    async def _delete_agent(self, session: str) -> None:
        await self.store.delete_agent("other")

    async def _ping(self, session: str) -> None:
        await self.store.ping()
