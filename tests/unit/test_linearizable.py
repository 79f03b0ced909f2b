"""Versioned saves are linearizable: whatever goes wrong, one order of them explains what every caller was told."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.faulty import Bench, behind_proxy, state
from support.linearizable import (
    NOTHING,
    Event,
    Step,
    Stored,
    appended,
    conflicted,
    deleted,
    found,
    is_linearizable,
    replaced,
)
from support.proxy import sometimes

from redis_state import (
    AgentState,
    Message,
    OutcomeUnknownError,
    RedisStateStore,
    StateNotFoundError,
    StateStoreError,
    VersionConflictError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis_state.testing import RedisServer

CALLERS, SESSIONS, TURNS = 8, 3, 120


def stored_in(loaded: AgentState) -> Stored:
    return loaded.version, (*loaded.data["texts"], *(message.content for message in loaded.messages))


def changed_to(before: Stored, text: str) -> Step:
    """A conditional save of one text."""
    return replaced(before, (before[0] + 1, (text,)))


class History:
    """Everything that was done to one session."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.events: list[Event] = []
        self.outcomes: Counter[str] = Counter()

    async def record(
        self,
        what: str,
        operation: Awaitable[Any],
        done: Callable[[Any], Step],
        unknown: Step,
        refusal: Callable[[Any], Step] | None = None,
    ) -> Any:
        """Do it and note what came of it. A failure that did not happen explains itself and is left out."""
        called = time.monotonic()
        result: Any = None
        returned = math.inf
        try:
            result = await operation
            step, outcome, returned = done(result), "done", time.monotonic()
        except (VersionConflictError, StateNotFoundError) as error:
            assert refusal is not None
            step, outcome, returned = refusal(error), type(error).__name__, time.monotonic()
        except OutcomeUnknownError:
            step, outcome = unknown, "unknown"
        except StateStoreError as error:
            self.outcomes[type(error).__name__] += 1
            return None
        self.outcomes[outcome] += 1
        told = stored_in(result) if isinstance(result, AgentState) else "" if result is None else result
        self.events.append(Event(called, returned, step, f"{what}: {outcome} {told}"))
        return result


class Caller:
    """Does one thing after another to all sessions, through a store of its own choice."""

    def __init__(self, number: int, store: RedisStateStore[AgentState], dice: random.Random) -> None:
        self.number = number
        self.store = store
        self.dice = dice
        self.turn = 0

    async def work(self, histories: list[History]) -> None:
        for self.turn in range(TURNS):
            ways = [
                self.load,
                self.change,
                self.change,
                self.change,
                self.create,
                self.append,
                self.append,
                self.delete,
            ]
            await self.dice.choice(ways)(self.dice.choice(histories))

    @property
    def text(self) -> str:
        return f"{self.number}/{self.turn}"

    async def load(self, history: History) -> AgentState | None:
        return await history.record(
            "load",
            self.store.load("a", history.session_id),
            lambda loaded: found(stored_in(loaded)),
            lambda before: before,
            lambda _: found(NOTHING),
        )

    async def change(self, history: History) -> None:
        loaded = await self.load(history)
        if loaded is None:
            return
        if self.dice.random() < 0.3:
            await asyncio.sleep(self.dice.choice((0, 0.001, 0.01)))
        before = stored_in(loaded)
        loaded.data["texts"], loaded.messages = [self.text], []
        await self._save(history, loaded, before, self.text)

    async def create(self, history: History) -> None:
        await self._save(history, state(history.session_id, texts=[self.text]), NOTHING, self.text)

    async def _save(self, history: History, changed: AgentState, before: Stored, text: str) -> None:
        await history.record(
            f"save {before[0]} -> {text}",
            self.store.save(changed, if_version=before[0]),
            lambda _: changed_to(before, text),
            changed_to(before, text),
            lambda error: conflicted(before, error.stored),
        )

    async def append(self, history: History) -> None:
        text = self.text
        await history.record(
            f"append {text}",
            self.store.append("a", history.session_id, [Message(role="user", content=text)]),
            lambda version: appended(text, version),
            appended(text, None),
            lambda _: found(NOTHING),
        )

    async def delete(self, history: History) -> None:
        if self.dice.random() < 0.5:
            return
        await history.record("delete", self.store.delete("a", history.session_id), deleted, deleted(None))


async def harass(bench: Bench, dice: random.Random) -> None:
    """Cut, drop, refuse and forget, all the time."""
    bench.proxy.on_request = sometimes(dice.randrange(1 << 30), cut=0.01, delay=0.002)
    bench.proxy.on_reply = sometimes(dice.randrange(1 << 30), cut=0.02, delay=0.002)
    while True:
        await asyncio.sleep(dice.uniform(0.005, 0.03))
        match dice.randrange(4):
            case 0:
                bench.proxy.cut()
            case 1:
                bench.server.command("SCRIPT", "FLUSH")
            case 2:
                bench.proxy.refuse()
                bench.proxy.cut()
                await asyncio.sleep(dice.uniform(0, 0.05))
                await bench.proxy.admit()
            case _:
                bench.proxy.drop_reply(to=dice.choice((b"EVAL", b"EXEC", b"GET")))


@pytest.mark.parametrize("seed", range(6))
async def test_versioned_saves_under_faults_are_linearizable(redis_server: RedisServer, seed: int) -> None:
    """Saves with a condition, appends, deletes and loads of many callers, half of them behind cut connections."""
    dice = random.Random(seed)
    histories = [History(f"s{number}") for number in range(SESSIONS)]
    async with behind_proxy(redis_server, timeout=1.0) as bench:
        stores = [bench.store, bench.truth.store]
        callers = [Caller(number, stores[number % 2], random.Random(dice.random())) for number in range(CALLERS)]
        trouble = asyncio.ensure_future(harass(bench, dice))
        await asyncio.gather(*(caller.work(histories) for caller in callers))
        trouble.cancel()
        await asyncio.wait([trouble])
        bench.proxy.on_request = bench.proxy.on_reply = None
        await bench.proxy.admit()
        await bench.quiet()
        last = Caller(CALLERS, bench.truth.store, dice)
        for history in histories:
            await last.load(history)
    outcomes = sum((history.outcomes for history in histories), Counter[str]())
    print(f"\nseed {seed}: {bench.proxy.cuts} cuts, {dict(outcomes)}")
    assert outcomes["done"] > CALLERS * TURNS / 4
    assert bench.proxy.cuts > 0
    for history in histories:
        assert is_linearizable(history.events), [event.what for event in history.events]


WRONG: Final[dict[str, list[Event]]] = {
    "a lost update": [
        Event(0, 1, changed_to(NOTHING, "a")),
        Event(2, 5, changed_to((1, ("a",)), "b")),
        Event(3, 4, changed_to((1, ("a",)), "c")),
    ],
    "a stale read": [
        Event(0, 1, changed_to(NOTHING, "a")),
        Event(2, 3, changed_to((1, ("a",)), "b")),
        Event(4, 5, found((1, ("a",)))),
    ],
    "a false conflict": [Event(0, 1, changed_to(NOTHING, "a")), Event(2, 3, conflicted((1, ("a",)), 1))],
    "an append twice": [
        Event(0, 1, changed_to(NOTHING, "a")),
        Event(2, math.inf, appended("b", None)),
        Event(3, 4, found((3, ("a", "b", "b")))),
    ],
    "a resurrection": [
        Event(0, 1, changed_to(NOTHING, "a")),
        Event(2, 3, deleted(there=True)),
        Event(4, 5, changed_to((1, ("a",)), "b")),
    ],
    "a failure that happened": [Event(0, 1, changed_to(NOTHING, "a")), Event(2, 3, found((2, ("b",))))],
}


@pytest.mark.parametrize("what", WRONG)
def test_the_check_finds_what_is_wrong(what: str) -> None:
    """Each of these has no order that explains it; without its last event it has."""
    history = WRONG[what]
    assert not is_linearizable(history)
    assert is_linearizable(history[:-1])


def test_the_check_takes_an_unknown_outcome_either_way() -> None:
    """A write whose outcome is unknown may be seen late, or never."""
    base = [Event(0.0, 1.0, changed_to(NOTHING, "a")), Event(2.0, math.inf, changed_to((1, ("a",)), "b"))]
    for after in [(1, ("a",)), (2, ("b",))]:
        assert is_linearizable([*base, Event(3.0, 4.0, found(after))])
    assert is_linearizable([*base, Event(3, 4, found((1, ("a",)))), Event(5, 6, found((2, ("b",))))])
    assert not is_linearizable([*base, Event(3, 4, found((2, ("b",)))), Event(5, 6, found((1, ("a",))))])
