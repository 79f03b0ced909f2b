"""Writes are linearizable: whatever goes wrong, one order of them explains what every caller was told.

With ``-m soak -n 0 -s`` it goes on for REDIS_STATE_SOAK_SECONDS. REDIS_STATE_SOAK_SEED repeats the choices of another
run, though not their timing.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from support.faulty import SLACK, Bench, behind_proxy
from support.histories import NOTHING, Caller, History, appended, deleted, found, refused, replaced
from support.linearizable import Event, is_linearizable
from support.liveness import Rest, works
from support.proxy import sometimes

from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Sequence

CALLERS, SESSIONS, TURNS = 8, 3, 100
TIMEOUT: Final = 0.5  # seconds to read and to write, each, past the proxy
BUDGET: Final = 6.0  # seconds that an operation of the store beside it may take
SECONDS: Final = float(os.environ.get("REDIS_STATE_SOAK_SECONDS", "120"))
SEED: Final = int(os.environ.get("REDIS_STATE_SOAK_SEED", str(time.time_ns() % 1_000_000)))
SHORT: Final = ("cut", "forget_scripts", "refuse", "drop_reply")
LONG: Final = (*SHORT, "stall", "slice", "kill_clients", "freeze", "kill")


async def harass(bench: Bench, dice: random.Random, ways: Sequence[str], faults: Counter[str]) -> None:
    """Let one thing go wrong after the other, over a noise of cuts and delays; what ends a fault is done."""
    proxy, server = bench.proxy, bench.server
    proxy.on_request = sometimes(dice.randrange(1 << 30), cut=0.01, delay=0.002)
    proxy.on_reply = sometimes(dice.randrange(1 << 30), cut=0.02, delay=0.002)
    while True:
        await asyncio.sleep(dice.uniform(0.005, 0.03))
        proxy.reset = dice.random() < 0.5
        pause = dice.choice((0.02, 0.02, 0.2 * TIMEOUT, 2.5 * TIMEOUT))
        way = dice.choice(ways)
        faults[way] += 1
        try:
            match way:
                case "cut":
                    proxy.cut()
                case "forget_scripts":
                    server.command("SCRIPT", "FLUSH")
                case "kill_clients":
                    server.command("CLIENT", "KILL", "TYPE", "normal")
                case "drop_reply":
                    proxy.drop_reply(to=dice.choice((b"EVAL", b"EXEC", b"GET", b"DEL")))
                case "refuse":
                    proxy.refuse(hang_up=dice.random() < 0.5)
                    proxy.cut()
                    await asyncio.sleep(dice.uniform(0, 0.05))
                case "slice":
                    proxy.slice_size = dice.randint(100, 1500)
                    await asyncio.sleep(pause)
                case "stall":
                    requests = dice.random() < 0.5
                    proxy.stall(requests=requests, replies=not requests)
                    await asyncio.sleep(pause)
                    if pause > TIMEOUT:
                        proxy.cut()  # what the network holds of a connection that was given up is lost
                case "freeze":
                    server.freeze()
                    await asyncio.sleep(pause)
                    server.thaw()
                case _:
                    server.kill()
                    await asyncio.sleep(pause)
                    await server.start()
        finally:
            proxy.slice_size = None
            proxy.release()
            await proxy.admit()


async def check_round(
    bench: Bench, dice: random.Random, ways: Sequence[str], faults: Counter[str], size: int = 1
) -> Counter[str]:
    """Let callers work on new sessions while things go wrong, half of them past the proxy."""
    histories = [History(f"s{dice.randrange(1 << 30)}") for _ in range(size * SESSIONS)]
    stores = [bench.store, bench.truth.store]
    callers = [
        Caller(n, stores[n % 2], random.Random(dice.random()), padding=dice.choice((0, 0, 2000, 80_000)))
        for n in range(size * CALLERS)
    ]
    trouble = asyncio.ensure_future(harass(bench, dice, ways, faults))
    await asyncio.gather(*(caller.work(histories, TURNS) for caller in callers))
    trouble.cancel()
    await asyncio.wait([trouble])
    bench.proxy.on_request = bench.proxy.on_reply = None
    if not bench.server.running:
        await bench.server.start()
    bench.server.thaw()
    await bench.quiet()
    last = Caller(-1, bench.truth.store, dice)
    for history in histories:
        await last.load(history)
        assert is_linearizable(history.events), [event.what for event in history.events]
        assert history.longest < BUDGET + SLACK
    for caller in callers:
        await caller.check_keys(bench.truth.store)
    assert not bench.truth.disagreement()
    return sum((history.outcomes for history in histories), Counter[str]())


@pytest.mark.parametrize("seed", range(3))
async def test_writes_under_faults_are_linearizable(redis_server: RedisServer, seed: int) -> None:
    """Of many callers, half of them behind cuts; an append with a key that is tried again is done once."""
    faults: Counter[str] = Counter()
    async with behind_proxy(redis_server, timeout=1.0) as bench:
        outcomes = await check_round(bench, random.Random(seed), SHORT, faults)
        cuts = bench.proxy.cuts
    print(f"\nseed {seed}: {cuts} cuts, {dict(faults)}, {dict(outcomes)}")
    assert outcomes["done"] > CALLERS * TURNS / 4
    assert cuts > 0


@pytest.mark.soak
async def test_writes_are_linearizable_for_hours_and_then_all_is_at_rest() -> None:
    """A server that freezes, dies and comes back with what it had; when the faults stop everything works in time."""
    print(f"\nseed {SEED} for {SECONDS:.0f} seconds")
    dice = random.Random(SEED)
    faults, outcomes = Counter[str](), Counter[str]()
    async with RedisServer(persistence=True, config={"appendfsync": "always"}) as server:
        rest = Rest.of([server])
        async with behind_proxy(server, timeout=TIMEOUT) as bench:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                outcomes += await check_round(bench, dice, LONG, faults, size=4)
            await works(bench.store, bench.budget + SLACK)  # the faults have stopped
            cuts = bench.proxy.cuts
        await rest.returns()
    print(f"{outcomes.total()} operations, {faults.total()} faults, {cuts} connections cut")
    print(f"{dict(faults)}\n{dict(outcomes)}")
    assert outcomes["done"] > outcomes.total() / 4


WRONG: Final[dict[str, list[Event]]] = {
    "a lost update": [
        Event(0, 1, replaced(NOTHING, "a")),
        Event(2, 5, replaced((1, ("a",)), "b")),
        Event(3, 4, replaced((1, ("a",)), "c")),
    ],
    "a stale read": [
        Event(0, 1, replaced(NOTHING, "a")),
        Event(2, 3, replaced((1, ("a",)), "b")),
        Event(4, 5, found((1, ("a",)))),
    ],
    "a false conflict": [Event(0, 1, replaced(NOTHING, "a")), Event(2, 3, refused((1, ("a",)), 1))],
    "an append twice": [
        Event(0, 1, replaced(NOTHING, "a")),
        Event(2, math.inf, appended("b", None)),
        Event(3, 4, found((3, ("a", "b", "b")))),
    ],
    "a resurrection": [
        Event(0, 1, replaced(NOTHING, "a")),
        Event(2, 3, deleted(there=True)),
        Event(4, 5, replaced((1, ("a",)), "b")),
    ],
    "a failure that happened": [Event(0, 1, replaced(NOTHING, "a")), Event(2, 3, found((2, ("b",))))],
}


@pytest.mark.parametrize("what", WRONG)
def test_the_check_finds_what_is_wrong(what: str) -> None:
    """Each of these has no order that explains it; without its last event it has."""
    assert not is_linearizable(WRONG[what])
    assert is_linearizable(WRONG[what][:-1])


def test_the_check_takes_an_unknown_outcome_either_way() -> None:
    """A write whose outcome is unknown may be seen late, or never."""
    base = [Event(0.0, 1.0, replaced(NOTHING, "a")), Event(2.0, math.inf, replaced((1, ("a",)), "b"))]
    old, new = found((1, ("a",))), found((2, ("b",)))
    for after in ([old], [new], [old, new]):
        assert is_linearizable([*base, *(Event(3.0 + n, 3.5 + n, step) for n, step in enumerate(after))])
    assert not is_linearizable([*base, Event(3, 4, new), Event(5, 6, old)])
