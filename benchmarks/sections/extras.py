"""Beyond save and load: the conditional save, append, and loading many at once."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, cast

from benchmarks.measure import Region, in_turns, timed
from benchmarks.report import DASH, Report, Table, rate, times
from benchmarks.subjects.agents_session import AgentsSession
from benchmarks.subjects.coredis_client import Coredis
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.glide import Glide
from benchmarks.subjects.key_value import KeyValue
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain, PlainScript

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from benchmarks.bench import Bench, Settings
    from benchmarks.measure import Figures
    from benchmarks.subjects.subject import Extended, Subject

TITLE = "Conditional save, append, load_many"
SIZE = "1.4 KB"
IN_FLIGHT = (1, 64)
MANY = 100
PLANS = (
    ("save_if", "Conditional save", (Ours, Plain, PlainScript)),
    ("append", "Append a message", (Ours, Plain, AgentsSession)),
    ("load_many", f"Load {MANY} sessions of one agent", (Ours, Plain, KeyValue, Glide, Coredis, Floor)),
)
NOTES = {
    "save_if": "redis.asyncio: WATCH, GET and compare, MULTI ... EXEC, as redis-py documents it.",
    "append": "redis.asyncio: load, add, save, and a writer in between is lost; RedisSession: `add_items`.",
    "load_many": "MGET for all; the states are decoded.",
}


def steps(settings: Settings) -> int:
    """Progress steps."""
    return sum(len(kinds) for _, _, kinds in PLANS) * len(IN_FLIGHT) * settings.rounds


def run(bench: Bench) -> Report:
    """Measure."""
    return asyncio.run(compare(bench))


async def compare(bench: Bench) -> Report:
    """Each operation beside those who offer it."""
    report = Report()
    payload = bench.payloads[SIZE]
    for operation, title, kinds in PLANS:
        table = Table(f"{title}, {SIZE}", ["", *(f"{in_flight} in flight" for in_flight in IN_FLIGHT)])
        found: dict[int, dict[str, Figures]] = {}
        async with bench.opened(kinds, payload) as subjects:
            await bench.fill(subjects, payload)
            for in_flight in IN_FLIGHT:
                if operation == "load_many":
                    found[in_flight] = await load_many(bench, subjects, in_flight)
                else:
                    found[in_flight] = await bench.compare(subjects, operation, payload, in_flight)
                report.add("extras", found[in_flight], operation=operation, size=SIZE, in_flight=in_flight)
        for kind in kinds:
            cells = [found[in_flight].get(kind.label) for in_flight in IN_FLIGHT]
            table.rows.append([kind.label, *(f"{rate(cell)}, {times(cell)}" if cell else DASH for cell in cells)])
        table.notes.append(NOTES[operation])
        report.tables.append(table)
    return report


async def load_many(bench: Bench, subjects: list[Subject], in_flight: int) -> dict[str, Figures]:
    """`MANY` sessions a call, from one end of the stored ones to the other."""
    starts = range(0, bench.payloads[SIZE].sessions - MANY, MANY)

    async def region(subject: Subject) -> Region:
        def call(start: int) -> Awaitable[Any]:
            return cast("Extended", subject).load_many(range(start, start + MANY))

        return await timed(
            call,
            itertools.cycle(starts),
            is_right=lambda states: len(states) == MANY,
            in_flight=in_flight,
            seconds=bench.settings.seconds,
            meter=bench.meter,
        )

    def step(subject: Subject) -> None:
        bench.step(f"load_many, {in_flight} in flight, {subject.label}")

    return await in_turns(subjects, region, rounds=bench.settings.rounds, step=step)
