"""Random schedules of submit, cancel, reply and cut on a bare wire, beside a model of the server."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from faulty import SLACK, until
from scripted import Deed, ScriptedServer, bulk

from redis_state import RedisConfig
from redis_state.config import connect
from redis_state.errors import OutcomeUnknownError, ServerRefusedError, StoreTimeoutError, StoreUnavailableError
from redis_state.limits import Limits
from redis_state.operation import EXEC, MULTI, Operation, Replay, command, pack
from redis_state.traffic import Traffic
from redis_state.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LIMITS = Limits(dial_timeout=0.5, read_timeout=0.15, write_timeout=0.15, pool_size=2)
STEPS = 250
LARGE = "x" * 70_000
REFUSALS = {
    b"-WRONGTYPE no\r\n": True,
    b"-OOM no\r\n": True,
    b"-LOADING later\r\n": False,
    b"-READONLY elsewhere\r\n": False,
}  # whether it is final


class Model:
    """A server whose commands each name the operation that they belong to, and what it has done for each."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.faults = True
        self.executed: Counter[bytes] = Counter()  # how often a command of the operation was executed
        self.effects: Counter[bytes] = Counter()  # how often it changed something
        self.refused: set[bytes] = set()  # what got a final error

    def answer(self, args: list[bytes]) -> bytes | Deed | None:
        match args:
            case [b"READ", name, *_]:
                effect = 0
            case [b"WRITE", name]:
                effect = 1
            case [b"WRITE-ONCE", name]:
                effect = 0 if self.effects[name] else 1
            case _:
                return None
        chance = self.dice.random() if self.faults else 1.0
        if chance < 0.01:
            reply = self.dice.choice(list(REFUSALS))
            if REFUSALS[reply]:
                self.refused.add(name)
            return reply
        self.executed[name] += 1
        self.effects[name] += effect
        return Deed.CUT if chance < 0.02 else bulk(name)


class Guarded(Operation, kw_only=True):
    """A write that knows how to be sent again."""

    name: bytes

    def become_script(self) -> None:
        self.payload = pack(("WRITE-ONCE", self.name))


class Schedule:
    """Operations on a wire, in an order that a seed makes."""

    def __init__(self, seed: int, server: ScriptedServer, wire: Wire) -> None:
        self.dice = random.Random(seed)
        self.model = Model(self.dice)
        self.server = server
        self.wire = wire
        self.submitted: dict[bytes, tuple[Operation, asyncio.Future[Any]]] = {}
        self.cancelled: set[bytes] = set()
        self.ended: Counter[bytes] = Counter()
        self.longest = 0.0
        server.answer = self.model.answer

    async def go(self) -> None:
        steps: list[Callable[[], Awaitable[None] | None]] = [
            self.submit, self.submit, self.submit, self.submit, self.cancel, self.cut, self.turn, self.turn, self.wait,
            self.wait, self.pause,
        ]  # fmt: skip
        for _ in range(STEPS):
            done = self.dice.choice(steps)()
            if done is not None:
                await done

    def make(self, name: bytes) -> Operation:
        """An operation of any kind."""
        match self.dice.randrange(6):
            case 0:
                return Operation(pack(("WRITE", name)), 0, replay=Replay.NEVER)
            case 1 | 2:
                return Guarded(pack(("WRITE", name)), 0, replay=Replay.GUARDED, name=name)
            case 3:
                inside = pack(("SET", name, name)) + pack(("GET", name))
                return Operation(MULTI + inside + EXEC, 0, replies=4)
            case 4 if self.dice.random() < 0.1:
                return command(0, "READ", name, LARGE)
            case _:
                return command(0, "READ", name)

    def submit(self) -> None:
        for _ in range(self.dice.choice((1, 1, 2, 20))):
            name = b"op-%d" % len(self.submitted)
            op = self.make(name)
            started = asyncio.get_running_loop().time()
            future = self.wire.submit(op)
            self.submitted[name] = op, future
            future.add_done_callback(lambda _, name=name, started=started: self.end(name, started))

    def end(self, name: bytes, started: float) -> None:
        self.ended[name] += 1
        self.longest = max(self.longest, asyncio.get_running_loop().time() - started)

    def cancel(self) -> None:
        waiting = [name for name, (_, future) in self.submitted.items() if not future.done()]
        for name in self.dice.sample(waiting, min(len(waiting), self.dice.choice((1, 3, 10)))):
            future = self.submitted[name][1]
            for _ in range(self.dice.choice((1, 2))):
                future.cancel()
            self.cancelled.add(name)

    def cut(self) -> None:
        if self.dice.random() < 0.5:
            self.server.cut()

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def wait(self) -> None:
        await asyncio.sleep(self.dice.choice((0.001, 0.003)))

    async def pause(self) -> None:
        """The server falls silent, now and then for longer than it may."""
        self.server.pause()
        self.submit()
        await asyncio.sleep(self.dice.choice((0.001, 0.005, 0.005, 0.02, 0.2 if self.dice.random() < 0.3 else 0.01)))
        self.server.resume()

    def verify(self) -> None:
        assert set(self.ended) == set(self.submitted)
        assert set(self.ended.values()) == {1}
        assert self.longest < LIMITS.budget + SLACK
        for name, (op, future) in self.submitted.items():
            self.verify_one(name, op, future)

    def verify_one(self, name: bytes, op: Operation, future: asyncio.Future[Any]) -> None:
        model = self.model
        effects = model.effects[name]
        assert effects <= 1
        if op.replay is Replay.NEVER:
            assert model.executed[name] <= 1
        if future.cancelled():
            assert name in self.cancelled
            return
        match future.exception():
            case None:
                reply = future.result()
                assert reply == ([b"OK", name] if op.replies == 4 else name)
                assert effects == (1 if op.writes else 0)
            case OutcomeUnknownError():
                assert op.writes
            case ServerRefusedError():
                assert name in model.refused
                assert effects == 0
            case StoreTimeoutError() | StoreUnavailableError():
                assert effects == 0
            case error:
                pytest.fail(f"{error!r} is no failure that an operation may end with")


@pytest.mark.parametrize("seed", range(6))
async def test_every_operation_ends_once_with_its_own_reply_or_a_true_failure(seed: int) -> None:
    """What must not be repeated is executed once at most, what is guarded has its effect once at most, none is left."""
    surprises: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    before = asyncio.all_tasks()
    traffic = Traffic()
    async with ScriptedServer() as server:
        wire = Wire(connect(RedisConfig(addrs=[server.addr])), LIMITS, logging.getLogger("test"), traffic)
        traffic.open()
        await wire.submit(command(None, "PING"))
        schedule = Schedule(seed, server, wire)
        await schedule.go()
        schedule.model.faults = False
        await asyncio.wait({future for _, future in schedule.submitted.values()}, timeout=LIMITS.budget + SLACK)
        await until(lambda: traffic.pending == 0)
        assert await wire.submit(command(0, "READ", "last")) == b"last"
        assert traffic.pending == 0
        assert "0 pending, 0 delayed" in repr(wire)
        await wire.disconnect()
        await asyncio.sleep(0.01)  # what a connection that was given up had sent is executed
        schedule.verify()
    await until(lambda: asyncio.all_tasks() <= before)
    outcomes = Counter(
        "cancelled" if future.cancelled() else type(future.exception()).__name__
        for _, future in schedule.submitted.values()
    )
    print(seed, dict(outcomes))
    assert outcomes["NoneType"] > len(schedule.submitted) / 2
    assert surprises == []
