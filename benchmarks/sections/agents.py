"""Many agents, each in turn: what a client remembers of an agent is of no use when ten thousand others come first."""

from __future__ import annotations

import dataclasses
import gc
import itertools
from typing import TYPE_CHECKING, Any

from benchmarks.bench import READ_BACK, right_result
from benchmarks.measure import Region, fill, in_turns, read_back, timed
from benchmarks.payloads import contents
from benchmarks.subjects.ours import Ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.bench import Bench
    from benchmarks.measure import Figures
    from benchmarks.payloads import Payload
    from benchmarks.subjects.subject import Subject

COUNTS = (100, 1_000, 20_000, 100_000)
IN_FLIGHT = 64
SHARED = "shared:"


async def compare(
    bench: Bench, kinds: Sequence[Callable[..., Any]], payload: Payload, count: int
) -> dict[str, dict[str, Figures]]:
    """Saves and loads of one session for each of `count` agents, by operation and label."""
    # A hundred agents have several sessions each, as many as one agent has elsewhere.
    payload = dataclasses.replace(payload, sessions=max(count, payload.sessions))
    found: dict[str, dict[str, Figures]] = {}
    async with bench.opened(kinds, dataclasses.replace(payload, sessions=1)) as subjects:
        bench.meter.clear()
        await prepare(subjects, payload, count)
        gc.collect()
        gc.freeze()  # a collection before each region need not look at all these states
        for operation in ("save", "load"):
            found[operation] = await in_rounds(bench, subjects, operation, payload, count)
        said = [contents(state.messages) for state in payload.states(READ_BACK, agents=count)]
        for subject in subjects:
            await read_back(subject, said)
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    return found


async def prepare(subjects: Sequence[Any], payload: Payload, count: int) -> None:
    """Store every session. Those with the baseline's layout share its keys and objects, which are many."""
    theirs = payload.states(agents=count)
    stored = False
    for subject in subjects:
        if isinstance(subject, Ours):
            subject.states = payload.states(agents=count)
            await fill(subject, payload.sessions)
            continue
        subject.states = theirs
        subject.keys.prefix = SHARED
        if not stored:
            await subject.fill()
            stored = True


async def in_rounds(
    bench: Bench, subjects: Sequence[Subject], operation: str, payload: Payload, count: int
) -> dict[str, Figures]:
    """Regions of all subjects; each goes on with the agent after the last one of its region before."""
    turns: dict[str, Iterator[int]] = {subject.label: itertools.cycle(range(payload.sessions)) for subject in subjects}

    async def region(subject: Subject) -> Region:
        return await timed(
            getattr(subject, operation),
            turns[subject.label],
            is_right=right_result(operation, payload),
            in_flight=IN_FLIGHT,
            seconds=2 * bench.settings.seconds,
            meter=bench.meter,
        )

    def step(subject: Subject) -> None:
        bench.step(f"{operation}, {count:,} agents, {subject.label}")

    return await in_turns(subjects, region, rounds=bench.settings.rounds, step=step)
