"""Minutes of random operations under random faults, and a model of what may be stored meanwhile.

Run with ``pytest -m soak -s``. REDIS_STATE_SOAK_SECONDS says for how long, REDIS_STATE_SOAK_SEED repeats the choices of
an earlier run, though not their timing.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.faulty import SLACK, Bench, behind_proxy, outcome, state, texts, until
from support.liveness import works
from support.proxy import sometimes

from redis_state import AgentState, Message
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

SECONDS = float(os.environ.get("REDIS_STATE_SOAK_SECONDS", "120"))
SEED = int(os.environ.get("REDIS_STATE_SOAK_SEED", str(time.time_ns() % 1_000_000)))
TIMEOUT = 0.5  # seconds to read and to write, each
CALLERS = 24
LARGE = 4  # of the callers, whose states travel apart
PADDING = "x" * 80_000
COUNTERS = 3
FAILURES = {"StoreTimeoutError", "StoreUnavailableError"}
IN_DOUBT = {"unknown", "cancelled"}

Value = tuple[int, tuple[str, ...]] | None  # number and messages of a session; None: nothing is stored


def value_of(stored: AgentState | None) -> Value:
    return None if stored is None else (stored.data["n"], tuple(texts(stored)))


class Run:
    """Everything that the callers did, and what they know."""

    def __init__(self, bench: Bench, dice: random.Random) -> None:
        self.bench = bench
        self.store = bench.store
        self.dice = dice
        self.going = True
        self.operations: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []
        self.log = "log-0"  # where everybody appends now
        self.appends: dict[str, dict[str, str]] = {"log-0": {}}  # by log and message: the outcome
        self.updates: dict[str, Counter[str]] = {f"counter-{number}": Counter() for number in range(COUNTERS)}

    def expect(self, holds: bool, what: str) -> None:  # noqa: FBT001 - as with assert
        if not holds:
            self.violations.append(what)

    async def do(self, name: str, operation: Awaitable[Any], *, budgets: int = 1) -> str:
        """The outcome of an operation, which is cancelled now and then, once or twice."""
        self.operations[name] += 1
        started = time.monotonic()
        task = asyncio.ensure_future(outcome(operation))
        if self.dice.random() < 0.04:
            await asyncio.sleep(self.dice.choice((0, 0, 0.001, 0.01)))
            for _ in range(self.dice.choice((1, 2))):
                task.cancel()
        await asyncio.wait({task}, timeout=2 * budgets * self.bench.budget + SLACK)
        took = time.monotonic() - started
        self.expect(took < budgets * self.bench.budget + SLACK, f"{name} took {took:.1f} seconds")
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        result = "cancelled" if task.cancelled() else task.result()
        self.outcomes[result] += 1
        return result

    # What many share

    async def append(self, caller: Caller) -> None:
        log, text = self.log, f"{caller.session_id}-{caller.turn}"
        self.appends[log][text] = "cancelled"
        result = await self.do("append", self.store.append("a", log, [Message(role="user", content=text)]))
        self.appends[log][text] = result
        self.expect(result in FAILURES | IN_DOUBT | {"done"}, f"append to {log}: {result}")

    async def update(self, caller: Caller) -> None:
        def add_one(loaded: AgentState) -> None:
            loaded.data["n"] += 1

        name = caller.dice.choice(sorted(self.updates))
        result = await self.do("update", self.store.update("a", name, add_one), budgets=4)
        self.updates[name][result] += 1
        self.expect(result in FAILURES | IN_DOUBT | {"done"}, f"update of {name}: {result}")

    async def look(self, caller: Caller) -> None:
        """A log of everybody's: every message once, and none that failed."""
        name = caller.dice.choice(list(self.appends))
        seen: list[AgentState] = []
        required = {text for text, result in self.appends[name].items() if result == "done"}
        result = await self.do("load", keep(self.store.load("a", name), seen))
        self.expect(result in FAILURES | {"done", "cancelled"}, f"load of {name}: {result}")
        for loaded in seen:
            self.expect(loaded.session_id == name, f"{name} is {loaded.session_id}")
            self.check_log(name, texts(loaded), required)

    def check_log(self, name: str, found: list[str], required: set[str]) -> None:
        appends = self.appends[name]
        twice = [text for text, count in Counter(found).items() if count > 1]
        lost = required.difference(found)
        wrong = [text for text in found if appends.get(text) in {None, *FAILURES}]
        self.expect(not twice, f"{name} holds twice {twice}")
        self.expect(not lost, f"{name} has lost {lost}")
        self.expect(not wrong, f"{name} holds what failed or is another's {wrong}")

    async def verify(self) -> None:
        """At the end, past the proxy: what was acknowledged is there, once."""
        truth = self.bench.truth
        for name, counts in self.updates.items():
            counter = await truth.load(name)
            n = -1 if counter is None else counter.data["n"]
            most = counts["done"] + counts["unknown"] + counts["cancelled"]
            self.expect(counts["done"] <= n <= most, f"{name} is {n}, not {counts['done']} to {most}")
        for name, appends in self.appends.items():
            log = await truth.load(name)
            required = {text for text, result in appends.items() if result == "done"}
            self.check_log(name, [] if log is None else texts(log), required)
        self.expect(not truth.disagreement(), f"state and index disagree on {truth.disagreement()}")
        self.expect(self.bench.pending == 0, f"{self.bench.pending} are pending")

    def __str__(self) -> str:
        def line(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

        return (
            f"operations: {self.operations.total()} ({line(self.operations)})\n"
            f"faults:     {self.faults.total()} ({line(self.faults)}), {self.bench.proxy.cuts} connections cut\n"
            f"outcomes:   {line(self.outcomes)}\n"
            f"violations: {len(self.violations)}"
        )


async def keep(operation: Awaitable[Any], into: list[Any]) -> None:
    into.append(await operation)


class Caller:
    """One of many, with a session that is written by nobody else, and what that may hold."""

    def __init__(self, run: Run, number: int) -> None:
        self.run = run
        self.store = run.store
        self.session_id = f"own-{number}"
        self.padding = PADDING if number < LARGE else "x" * run.dice.choice((0, 200, 2000))
        self.dice = random.Random(run.dice.random())
        self.possible: set[Value] = {None}
        self.turn = 0
        self.mine: AgentState | None = None  # an object that is saved again and again

    async def work(self) -> None:
        run = self.run
        ways: list[Callable[[], Awaitable[Any]]] = [
            self.save, self.save_again, self.save_if_unchanged, self.create, self.load, self.load, self.load, self.list,
            lambda: run.append(self), lambda: run.append(self), lambda: run.update(self), lambda: run.look(self),
        ]  # fmt: skip
        if self.padding != PADDING:  # small writes may overtake a large one that was cancelled on its way
            ways += [self.append, self.delete]
        while run.going:
            self.turn += 1
            await self.dice.choice(ways)()

    def fresh(self) -> AgentState:
        made = state(self.session_id, n=self.turn)
        made.context["padding"] = self.padding
        return made

    def note(self, result: str, name: str, written: set[Value], *also: str) -> None:
        """What a write with such an outcome leaves of what the session may hold."""
        if result == "done":
            self.possible = written
        elif result in IN_DOUBT:
            self.possible = self.possible | written
        else:
            self.run.expect(result in FAILURES | set(also), f"{name} of {self.session_id}: {result}")

    async def save(self) -> None:
        self.note(await self.run.do("save", self.store.save(self.fresh())), "save", {(self.turn, ())})

    async def save_again(self) -> None:
        if self.mine is None:
            self.mine = self.fresh()
        self.mine.data["n"] = self.turn
        self.note(await self.run.do("save", self.store.save(self.mine)), "save", {(self.turn, ())})

    async def create(self) -> None:
        mine = self.fresh()
        result = await self.run.do("save if_version", self.store.save(mine, if_version=0))
        if result == "done":
            self.run.expect(None in self.possible, f"{self.session_id} was created again over {self.possible}")
        if result == "VersionConflictError":
            self.run.expect(self.possible != {None}, f"{self.session_id} was a false conflict")
        self.note(result, "create", {(self.turn, ())}, "VersionConflictError")

    async def save_if_unchanged(self) -> None:
        loaded = await self.load()
        if loaded is None:
            return
        before = value_of(loaded)
        loaded.data["n"] = self.turn
        certain = self.possible == {before}
        result = await self.run.do("save if_version", self.store.save(loaded, if_version=loaded.version))
        if result == "VersionConflictError":
            self.run.expect(not certain, f"{self.session_id} was a false conflict")
        self.note(result, "save if_version", {(self.turn, tuple(texts(loaded)))}, "VersionConflictError")

    async def append(self) -> None:
        text = f"{self.session_id}-{self.turn}"
        result = await self.run.do(
            "append", self.store.append("a", self.session_id, [Message(role="user", content=text)])
        )
        written: set[Value] = {(value[0], (*value[1], text)) for value in self.possible if value is not None}
        if result == "done":
            self.run.expect(bool(written), f"{self.session_id} was appended to, but nothing was there")
        if result == "StateNotFoundError":
            self.run.expect(None in self.possible, f"{self.session_id} is gone, not one of {self.possible}")
        self.note(result, "append", written, "StateNotFoundError")

    async def delete(self) -> None:
        deleted: list[bool] = []
        result = await self.run.do("delete", keep(self.store.delete("a", self.session_id), deleted), budgets=2)
        for was_there in deleted:
            told = any(value is not None for value in self.possible) if was_there else None in self.possible
            self.run.expect(told, f"delete of {self.session_id} said {was_there} of {self.possible}")
        self.note(result, "delete", {None})

    async def load(self) -> AgentState | None:
        seen: list[AgentState] = []
        result = await self.run.do("load", keep(self.store.load("a", self.session_id), seen))
        if result == "StateNotFoundError":
            self.run.expect(None in self.possible, f"{self.session_id} is gone, not one of {self.possible}")
        else:
            self.run.expect(result in FAILURES | {"done", "cancelled"}, f"load of {self.session_id}: {result}")
        for loaded in seen:
            self.run.expect(loaded.session_id == self.session_id, f"{self.session_id} is {loaded.session_id}")
            self.run.expect(
                value_of(loaded) in self.possible,
                f"{self.session_id} holds {value_of(loaded)}, not one of {self.possible}",
            )
            return loaded
        return None

    async def list(self) -> None:
        """Whether the own session is listed is known; everybody else's may change meanwhile."""
        listings: list[list[str]] = []
        result = await self.run.do("list", keep(self.store.list("a"), listings), budgets=4)
        self.run.expect(result in FAILURES | {"done", "cancelled"}, f"list: {result}")
        for listed in listings:
            self.run.expect(len(listed) == len(set(listed)), "a session is listed twice")
            if None not in self.possible or self.possible == {None}:
                there = self.possible != {None}
                self.run.expect((self.session_id in listed) == there, f"{self.session_id} is listed: {not there}")

    async def verify(self) -> None:
        found = value_of(await self.run.bench.truth.load(self.session_id))
        self.run.expect(found in self.possible, f"{self.session_id} ends as {found}, not one of {self.possible}")


class Faults:
    """What goes wrong, one thing after another, over a noise of short delays and rare cuts."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.bench = run.bench
        self.dice = random.Random(run.dice.random())

    async def go_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        ways: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.cut, self.cut_request, self.cut_reply, self.drop_reply, self.drop_reply, self.stall, self.stall_long,
            self.slice, self.refuse, self.freeze, self.freeze_long, self.kill, self.forget_scripts, self.kill_clients,
        ]  # fmt: skip
        turn = 0
        while time.monotonic() < end:
            turn += 1
            await self.new_log(turn)
            self.noise()
            way = self.dice.choice(ways)
            self.run.faults[way.__name__] += 1
            await way()
            await asyncio.sleep(self.dice.uniform(0.05, 0.5))
        self.bench.proxy.on_request = self.bench.proxy.on_reply = None

    async def new_log(self, turn: int) -> None:
        name = f"log-{turn}"
        await self.bench.truth.store.save(state(name))
        self.run.appends[name] = {}
        self.run.log = name

    def noise(self) -> None:
        proxy, dice = self.bench.proxy, self.dice
        proxy.reset = dice.random() < 0.5
        seed, cut = dice.randrange(1 << 30), dice.choice((0, 0.002, 0.02))
        proxy.on_request = sometimes(seed, cut=cut, delay=0.05)
        proxy.on_reply = sometimes(seed + 1, cut=cut, delay=0.05)

    async def cut(self) -> None:
        for _ in range(self.dice.randint(1, 10)):
            self.bench.proxy.cut()
            await asyncio.sleep(self.dice.uniform(0, 0.02))

    async def cut_request(self) -> None:
        for _ in range(20):
            self.bench.proxy.cut_after(requests=self.dice.randint(0, 5000))
            await asyncio.sleep(0.02)

    async def cut_reply(self) -> None:
        for _ in range(20):
            self.bench.proxy.cut_after(replies=self.dice.randint(0, 5000))
            await asyncio.sleep(0.02)

    async def drop_reply(self) -> None:
        for _ in range(20):
            self.bench.proxy.drop_reply(to=self.dice.choice((b"EXEC", b"EVAL", b"GET", b"DEL", b"")))
            await asyncio.sleep(0.02)

    async def stall(self) -> None:
        requests = self.dice.random() < 0.5
        self.bench.proxy.stall(requests=requests, replies=not requests)
        await asyncio.sleep(self.dice.uniform(0.05, 0.5 * TIMEOUT))
        self.bench.proxy.release()

    async def stall_long(self) -> None:
        """The store gives its connections up. What the network holds of them is lost; else it could overtake."""
        requests = self.dice.random() < 0.5
        self.bench.proxy.stall(requests=requests, replies=not requests)
        await asyncio.sleep(self.dice.uniform(1.2, 3) * TIMEOUT)
        self.bench.proxy.cut()
        self.bench.proxy.release()

    async def slice(self) -> None:
        self.bench.proxy.slice_size = self.dice.randint(100, 1500)
        await asyncio.sleep(0.3)
        self.bench.proxy.slice_size = None

    async def refuse(self) -> None:
        self.bench.proxy.refuse(hang_up=self.dice.random() < 0.5)
        self.bench.proxy.cut()
        await asyncio.sleep(self.dice.uniform(0.05, 1.5))
        await self.bench.proxy.admit()

    async def freeze(self) -> None:
        self.bench.server.freeze()
        await asyncio.sleep(self.dice.uniform(0.05, 0.5 * TIMEOUT))
        self.bench.server.thaw()

    async def freeze_long(self) -> None:
        self.bench.server.freeze()
        await asyncio.sleep(self.dice.uniform(1.2, 3) * TIMEOUT)
        self.bench.server.thaw()

    async def kill(self) -> None:
        self.bench.server.kill()
        await asyncio.sleep(self.dice.choice((0.0, 0.2, 1.5)))
        await self.bench.server.start()

    async def forget_scripts(self) -> None:
        self.bench.server.command("SCRIPT", "FLUSH")

    async def kill_clients(self) -> None:
        self.bench.server.command("CLIENT", "KILL", "TYPE", "normal")


@pytest.mark.soak
async def test_random_faults_violate_nothing() -> None:
    """Whatever happens, in whatever order: every operation ends in time with a true outcome."""
    print(f"\nseed:       {SEED} for {SECONDS:.0f} seconds")
    before = asyncio.all_tasks()
    async with (
        RedisServer(persistence=True, config={"appendfsync": "always"}) as server,
        behind_proxy(server, timeout=TIMEOUT) as bench,
    ):
        run = Run(bench, random.Random(SEED))
        for name in [*run.updates, *run.appends]:
            await bench.store.save(state(name, n=0))
        callers = [Caller(run, number) for number in range(CALLERS)]
        tasks = [asyncio.ensure_future(caller.work()) for caller in callers]
        await Faults(run).go_on(SECONDS)
        run.going = False
        await asyncio.gather(*tasks)
        await bench.quiet()
        await asyncio.sleep(0.2)
        for caller in callers:
            await caller.verify()
        await run.verify()
        await works(bench.store, bench.budget + SLACK)  # the faults have stopped
        print(run)
        for violation in run.violations[:20]:
            print(f"  {violation[:400]}")
        await bench.store.aclose()
        await bench.truth.store.aclose()
        await until(lambda: server.info("clients")["connected_clients"] == "1")
        await until(lambda: bench.proxy.open_connections == 0)
        await until(lambda: asyncio.all_tasks() <= before)
        assert run.violations == []
        assert run.outcomes["done"] > run.operations.total() / 4
