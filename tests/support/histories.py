"""Callers of a few sessions who note what they were told, so that one order of all they did must explain it."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis_state import (
    AgentState,
    NotReplicatedError,
    OutcomeUnknownError,
    RedisStateStore,
    StateNotFoundError,
    StateStoreError,
    VersionConflictError,
)
from support.linearizable import NOTHING, Event, Step, Stored, appended, deleted, found
from support.states import messages, state, texts


def stored_in(loaded: AgentState) -> Stored:
    return loaded.version, (*loaded.data["texts"], *texts(loaded))


# What an operation does to what is stored, where it returned a certain result.


def replaced(what: Stored, text: str) -> Step:
    return lambda before: (what[0] + 1, (text,)) if before == what else None


def overwritten(version: int, text: str) -> Step:
    return lambda _: (version, (text,))


def extended(what: Stored, text: str) -> Step:
    return lambda before: (what[0] + 1, (*what[1], text)) if before == what else None


def merged(text: str, version: int | None) -> Step:
    """What stands in `data` is one text, before those of the messages."""

    def step(before: Stored) -> Stored | None:
        if before == NOTHING or version not in (None, before[0] + 1):
            return None
        return before[0] + 1, (text, *before[1][1:])

    return step


def created_or_appended(text: str, message: str, version: int | None) -> Step:
    def step(before: Stored) -> Stored | None:
        if before == NOTHING:
            return (1, (text, message)) if version in (None, 1) else None
        return appended(message, version)(before)

    return step


def refused(what: Stored, version: int) -> Step:
    return lambda before: before if before != what and before[0] == version else None


class History:
    """Everything that was done to one session.

    Attributes:
        longest: How long the longest operation took, in seconds.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.events: list[Event] = []
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0

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
        except (OutcomeUnknownError, NotReplicatedError):
            step, outcome = unknown, "unknown"
        except StateStoreError as error:
            self.outcomes[type(error).__name__] += 1
            return None
        finally:
            self.longest = max(self.longest, time.monotonic() - called)
        self.outcomes[outcome] += 1
        told = stored_in(result) if isinstance(result, AgentState) else "" if result is None else result
        self.events.append(Event(called, returned, step, f"{what}: {outcome} {told}"))
        return result


class Caller:
    """Does one thing after another to all sessions, through a store of its own choice.

    Args:
        blind: Whether it saves without a condition too.
        padding: How many bytes its states have beside their texts.
    """

    def __init__(
        self, number: int, store: RedisStateStore[AgentState], dice: random.Random, *, padding: int = 0
    ) -> None:
        self.number = number
        self.store = store
        self.dice = dice
        self.padding = "x" * padding
        self.turn = 0
        self.done: set[str] = set()  # texts that were appended with a key
        self.tried: set[str] = set()

    async def work(self, histories: list[History], turns: int) -> None:
        ways = [self.load, *[self.change] * 3, self.create, self.overwrite, *[self.append] * 2, self.delete]
        ways += [self.append_if, self.append_or_create, *[self.merge] * 2, self.append_with_key, self.fork]
        for self.turn in range(turns):
            await self.dice.choice(ways)(self.dice.choice(histories))

    @property
    def text(self) -> str:
        return f"{self.number}/{self.turn}"

    def fresh(self, history: History) -> AgentState:
        return state(history.session_id, texts=[self.text], padding=self.padding)

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
        await self._save(history, loaded, before)

    async def create(self, history: History) -> None:
        await self._save(history, self.fresh(history), NOTHING)

    async def overwrite(self, history: History) -> None:
        step = overwritten(1, self.text)
        await history.record(f"overwrite {self.text}", self.store.save(self.fresh(history)), lambda _: step, step)

    async def _save(self, history: History, changed: AgentState, before: Stored) -> None:
        step = replaced(before, self.text)
        await history.record(
            f"save {before[0]} -> {self.text}",
            self.store.save(changed, if_version=before[0]),
            lambda _: step,
            step,
            lambda error: refused(before, error.stored),
        )

    async def append(self, history: History) -> None:
        text = self.text
        await history.record(
            f"append {text}",
            self.store.append("a", history.session_id, messages(text)),
            lambda version: appended(text, version),
            appended(text, None),
            lambda _: found(NOTHING),
        )

    async def append_if(self, history: History) -> None:
        loaded = await self.load(history)
        if loaded is None:
            return
        before, text = stored_in(loaded), self.text
        step = extended(before, text)
        await history.record(
            f"append {text} if {before[0]}",
            self.store.append("a", history.session_id, messages(text), if_version=loaded),
            lambda _: step,
            step,
            lambda error: refused(before, error.stored),
        )

    async def append_or_create(self, history: History) -> None:
        text, message = self.text, f"{self.text}m"
        await history.record(
            f"append {message} or create {text}",
            self.store.append("a", history.session_id, messages(message), create=self.fresh(history)),
            lambda version: created_or_appended(text, message, version),
            created_or_appended(text, message, None),
        )

    async def merge(self, history: History) -> None:
        text = self.text
        await history.record(
            f"merge {text}",
            self.store.merge("a", history.session_id, {"data": {"texts": [text]}}),
            lambda version: merged(text, version),
            merged(text, None),
            lambda _: found(NOTHING),
        )

    async def append_with_key(self, history: History) -> None:
        """Try again until it is done, to a session of this caller's own: nobody else's writes make it forget."""
        session_id, text = f"keyed-{self.number}-{history.session_id}", self.text
        self.tried.add(f"{session_id} {text}")
        for _ in range(10):
            with suppress(StateStoreError):
                create = state(session_id, agent_id="keyed")
                await self.store.append("keyed", session_id, messages(text), create=create, key=text)
                self.done.add(f"{session_id} {text}")
                return

    async def check_keys(self, store: RedisStateStore[AgentState]) -> None:
        """Each text is there once if that is known, and at most once otherwise."""
        sessions = {each.partition(" ")[0] for each in self.tried}
        stored = await store.load_many("keyed", sessions)
        found = [f"{session_id} {text}" for session_id, state in stored.items() for text in texts(state)]
        assert len(found) == len(set(found))
        assert self.done <= set(found) <= self.tried

    async def fork(self, history: History) -> None:
        """A copy is there as a whole or not at all, which the listing of its agent tells."""
        with suppress(StateStoreError):
            await self.store.fork("a", history.session_id, f"{self.number}-{self.turn}", new_agent_id="forks")

    async def delete(self, history: History) -> None:
        if self.dice.random() < 0.5:
            return
        await history.record("delete", self.store.delete("a", history.session_id), deleted, deleted(None))
