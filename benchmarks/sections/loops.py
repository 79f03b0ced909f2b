"""asyncio's own event loop and uvloop."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import uvloop

from benchmarks.bench import right_result
from benchmarks.measure import Region, figures, fill, timed
from benchmarks.report import Report, Table, rate, times
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.glide import Glide
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench, Settings

TITLE = "asyncio and uvloop"
SIZE = "1.4 KB"
IN_FLIGHT = (1, 64)
OPERATIONS = ("save", "load")
KINDS = (Ours, Plain, Glide, Floor)
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

# Loop, subject, operation, in flight.
Key = tuple[str, str, str, int]


def steps(settings: Settings) -> int:
    """Progress steps."""
    return settings.rounds * len(LOOPS) * len(KINDS)


def run(bench: Bench) -> Report:
    """Measure: the loops take turns, as the subjects do."""
    regions: dict[Key, list[Region]] = defaultdict(list)
    for _ in range(bench.settings.rounds):
        for name, factory in LOOPS.items():
            with asyncio.Runner(loop_factory=factory) as runner:
                for key, region in runner.run(one_round(bench, name)).items():
                    regions[key].append(region)
    report = Report()
    columns = [f"{operation}, {in_flight} in flight" for operation in OPERATIONS for in_flight in IN_FLIGHT]
    table = Table(f"{TITLE}, {SIZE}", ["", "loop", *columns])
    for kind in KINDS:
        for loop in LOOPS:
            row = [kind.label, loop]
            for operation in OPERATIONS:
                for in_flight in IN_FLIGHT:
                    baseline = regions[loop, Plain.label, operation, in_flight]
                    found = figures(regions[loop, kind.label, operation, in_flight], baseline)
                    row.append(f"{rate(found)}, {times(found)}")
                    cell: dict[str, Any] = {"loop": loop, "operation": operation, "in_flight": in_flight}
                    report.add("uvloop", {kind.label: found}, **cell)
            table.rows.append(row)
    table.notes.append("Ratios are to redis.asyncio on the same loop.")
    report.tables.append(table)
    return report


async def one_round(bench: Bench, loop: str) -> dict[Key, Region]:
    """A region of every cell on this loop."""
    payload = bench.payloads[SIZE]
    found: dict[Key, Region] = {}
    async with AsyncExitStack() as stack:
        for kind in KINDS:
            subject = kind(bench.url, payload.states())
            await subject.open()
            stack.push_async_callback(subject.close)
            await bench.warm_up(subject, payload, IN_FLIGHT[-1])
            await fill(subject, payload.sessions)
            for operation in OPERATIONS:
                for in_flight in IN_FLIGHT:
                    found[loop, kind.label, operation, in_flight] = await timed(
                        getattr(subject, operation),
                        itertools.cycle(range(payload.sessions)),
                        is_right=right_result(operation, payload),
                        in_flight=in_flight,
                        seconds=bench.settings.seconds,
                        meter=bench.meter,
                    )
            bench.step(f"{loop}, {kind.label}")
    return found
