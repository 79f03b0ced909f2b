"""One run: a world, stores, faults, operations, and what became of the promises. All of it drawn from one seed."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from redis_state import RedisStateStore

from .additions import AddingCaller
from .checkers import check_histories, check_idle, check_rest, check_routes, check_time
from .faults import CALM, Dice, Topology, draw
from .loop import BusyLoopError, DeadlockError, VirtualLoop
from .sources import sources
from .workload import KEYED, SESSIONS, Caller
from .world import World

if TYPE_CHECKING:
    from collections import Counter

    from support.linearizable import Event

KINDS: Final = (
    ["load"] * 6 + ["save"] * 6 + ["save_if"] * 5 + ["append"] * 6 + ["update"] * 3 + ["delete"] * 2 + ["save_twice"]
    + ["append_if"] * 3 + ["create"] * 2 + ["merge"] * 4 + ["append_with_key"] * 3 + ["fork"]
    + ["exists", "load_many", "list", "sessions", "count", "agents", "save_other", "delete_agent", "ping"]
)  # fmt: skip
KEYS: Final = [b"forge:state:{agent}:one", b"forge:state:{other}:o1"]
QUIET: Final = 8.0  # seconds after the faults, in which what is under way ends
IDLE: Final = 10.0  # seconds without an operation while a slot is not served
FIRST_CALLER: Final = ord("a")


@dataclass
class Result:
    """What a run showed.

    Attributes:
        problems: Broken promises.
        counts: How often each fault happened.
        trace: What happened, with the virtual time.
        turns: Turns of the loop.
    """

    problems: list[str] = field(default_factory=list[str])
    counts: Counter[str] | None = None
    trace: list[str] = field(default_factory=list[str])
    turns: int = 0

    @property
    def digest(self) -> str:
        """Equal for equal runs."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def simulate(seed: int, topology: Topology) -> Result:
    """Run one seed."""
    rng = random.Random(f"{seed} {topology}")
    loop = VirtualLoop(rng)
    dice = Dice(draw(rng, topology), rng)
    dice.clock = loop.time
    result = Result(counts=dice.counts, trace=dice.trace)
    dice.say(str(dice.faults))
    with sources(seed, loop):
        run = Run(loop, dice, topology)
        main = loop.create_task(run.run())
        try:
            loop.run_until_complete(main)
        except DeadlockError:
            result.problems.append(f"nothing can happen any more, but {_waiting(loop)} wait")
        except BusyLoopError:
            result.problems.append(f"the loop is busy with nothing at {loop.time():.3f}")
        result.problems += run.problems + loop.problems
        _abandon(loop, main)
    result.turns = loop.turns
    return result


def _waiting(loop: VirtualLoop) -> list[str]:
    return sorted(str(task.get_coro()) for task in asyncio.all_tasks(loop))


def _abandon(loop: VirtualLoop, main: asyncio.Task[Any]) -> None:
    """Leave nothing behind of a run that failed."""
    loop.set_exception_handler(_ignore)
    if not main.done():
        loop.network.closed = True
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
        del tasks
    loop.close()


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Its problem is known."""


class Run:
    """A world and the stores that use it.

    Args:
        loop: The event loop.
        dice: Decides what goes wrong.
        topology: Of the servers.
    """

    def __init__(self, loop: VirtualLoop, dice: Dice, topology: Topology) -> None:
        rng = dice.rng
        self.loop = loop
        self.dice = dice
        self.world = World(loop, dice, topology)
        self.problems: list[str] = []
        self._rng = rng
        self._replicas = rng.choice((0, 0, 1))
        self._times = rng.choice(((1.0, 0.5, 1.0), (0.3, 0.2, 0.5), (3.0, 3.0, 5.0)))
        if dice.faults == CALM:  # writes are held for as long as a failover takes
            self._times = (3.0, 3.0, 5.0)
        self._pool = rng.choice((1, 2, 3, 10))
        self._histories: dict[str, list[Event]] = {session: [] for session in (*SESSIONS, KEYED)}
        self._callers = [self._open(chr(FIRST_CALLER + number)) for number in range(rng.choice((1, 1, 2)))]
        dice.say(f"replicas={self._replicas} timeouts={self._times} pool={self._pool} callers={len(self._callers)}")

    def _open(self, name: str) -> Caller:
        read, write, dial = self._times
        options = f"read_timeout={read}&write_timeout={write}&dial_timeout={dial}&pool_size={self._pool}"
        store = RedisStateStore.from_url(f"{self.world.url}?{options}", replicas=self._replicas)
        caller = AddingCaller(name, store, self.world, self._times, self._replicas)
        caller.histories = self._histories
        return caller

    async def run(self) -> None:
        """Everything: operations while things go wrong, one on each session when nothing does any more, and the end."""
        self.world.plan(3.0, KEYS)
        closed = await self._work()
        if self.world.cluster is not None:
            await self._idle()
        self.world.heal()
        await asyncio.sleep(QUIET)
        healed = self.loop.time()
        for caller in self._callers:
            if caller is not closed:
                await self._live(caller)
        for caller in self._callers:
            await self._close(caller)
            self.problems += caller.problems
        await asyncio.sleep(0.001)
        self._check(healed)

    async def _work(self) -> Caller | None:
        """Start operations, and wait for them. Returns the caller whose store was closed meanwhile."""
        rng, dice = self._rng, self.dice
        count, pace = rng.randrange(10, 40), rng.choice((1.0, 1.0, 4.0))
        if dice.faults == CALM:
            count, pace = 40, 4.0
        closing = rng.choice(self._callers) if dice.happens("close") else None
        close_at = rng.randrange(count) if closing is not None else -1
        closes: asyncio.Task[None] | None = None
        for number in range(count):
            if number == close_at and closing is not None:
                dice.note("close")
                closes = self.loop.create_task(self._close(closing))
            operation = rng.choice(self._callers).start(rng.choice(KINDS), rng.choice(SESSIONS))
            if dice.happens("cancel"):
                dice.note("cancel", operation.what)
                self._cancel_after(operation.task, rng.choice((0, 1, 2, 3, 5, 8, 20, 60)))
            if dice.happens("freeze"):
                dice.note("freeze")
                self._freeze(rng.choice((0.01, 0.2)))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice((0.0, 0.0005, 0.01, 0.2)) * pace)
            if rng.random() < 0.1:
                await self._end(operation.task)
        await self._finish()
        if closes is not None:
            await closes
        return closing

    async def _idle(self) -> None:
        """While a slot has no node and nobody waits for it, the servers are not asked for routes."""
        self.dice.heal()
        await asyncio.sleep(QUIET)
        since = self.loop.time()
        await asyncio.sleep(IDLE)
        if problem := check_idle(self.world.routes_asked, since):
            self.problems.append(problem)

    def _check(self, healed: float) -> None:
        """What is left, and what all callers together have seen."""
        self.problems += check_rest(self.loop, self.world.network)
        if problem := check_routes(self.world.routes_asked):
            self.problems.append(problem)
        if self._replicas or not self.world.has_lost:
            self.problems += check_histories(self._histories, healed, has_lost=self.world.has_lost)
        for node in self.world.nodes:
            self.problems += [f"the model does not know {name!r}" for name in sorted(node.unknown)]
            self.problems += [f"{node} was sent what is no request: {error}" for error in node.protocol_errors]

    def _freeze(self, seconds: float) -> None:
        self.loop.freeze(seconds)
        for caller in self._callers:
            caller.frozen += seconds

    def _cancel_after(self, task: asyncio.Task[None], turns: int) -> None:
        if turns:
            self.loop.call_soon(self._cancel_after, task, turns - 1)
        else:
            task.cancel()

    async def _end(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait([task], timeout=300.0)

    async def _finish(self) -> None:
        """Wait for all operations; none may go on for ever."""
        tasks = {operation.task: operation.what for caller in self._callers for operation in caller.operations}
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=300.0)
            for what in sorted(tasks[task] for task in pending):
                self.problems.append(f"{what} never ended")
            for task in sorted(pending, key=lambda task: tasks[task]):
                task.cancel()

    async def _live(self, caller: Caller) -> None:
        """One operation on each session succeeds after the faults."""
        for session in SESSIONS:
            for kind in ("exists", "save", "append", "merge", "create", "load"):
                await self._end(caller.start(kind, session, must_succeed=True).task)

    async def _close(self, caller: Caller) -> None:
        called, frozen = self.loop.time(), caller.frozen
        closing = self.loop.create_task(caller.store.aclose())
        done, _ = await asyncio.wait([closing], timeout=100.0)
        if not done:
            caller.problems.append(f"aclose() of {caller.name} never returned")
            closing.cancel()
        else:
            closing.result()
        took = self.loop.time() - called - (caller.frozen - frozen)
        if problem := check_time(f"aclose() of {caller.name}", took, caller.budget):
            caller.problems.append(problem)
        running = [each for each in caller.operations if not each.task.done()]
        for _ in range(10):
            await asyncio.sleep(0)
        left = [each.what for each in running if not each.task.done()]
        if left:
            caller.problems.append(f"after aclose() these are pending: {left}")
