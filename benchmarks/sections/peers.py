"""All peers, all sizes, one to 256 in flight: save, load, delete, and what an operation costs on both sides."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks.chart import Series, line_chart
from benchmarks.report import DASH, Report, Table, cost_table, rate, times
from benchmarks.subjects.agents_session import AgentsSession
from benchmarks.subjects.aiogram_storage import Aiogram
from benchmarks.subjects.coredis_client import Coredis
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.glide import Glide
from benchmarks.subjects.key_value import KeyValue
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain
from benchmarks.subjects.two_trips import TwoTrips

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings
    from benchmarks.measure import Figures

TITLE = "What people would use instead"
KINDS = (Ours, Plain, TwoTrips, Aiogram, KeyValue, AgentsSession, Glide, Coredis, Floor)
CHARTED = "1.4 KB"

MOST_IN_FLIGHT = {"1 MB": 8}

Cells = dict[int, dict[str, "Figures"]]


def plan(settings: Settings) -> list[tuple[str, str, tuple[int, ...]]]:
    """Size, operation and numbers in flight of all cells. A delete sends no payload, so one size will do."""
    sizes = ["1.4 KB"] if settings.quick else ["0.2 KB", "1.4 KB", "20 KB", "1 MB"]
    return [
        (size, operation, tuple(n for n in settings.in_flight if n <= MOST_IN_FLIGHT.get(size, n)))
        for size in sizes
        for operation in (("save", "load", "delete") if size == CHARTED else ("save", "load"))
    ]


def steps(settings: Settings) -> int:
    """Progress steps."""
    return sum(len(in_flight) for _, _, in_flight in plan(settings)) * len(KINDS) * settings.rounds


def run(bench: Bench) -> Report:
    """Measure."""
    return asyncio.run(compare_all(bench))


async def compare_all(bench: Bench) -> Report:
    """Every size on an empty server."""
    report = Report()
    cells = plan(bench.settings)
    for size in dict.fromkeys(size for size, _, _ in cells):
        payload = bench.payloads[size]
        async with bench.opened(KINDS, payload, most_in_flight=MOST_IN_FLIGHT.get(size)) as subjects:
            for _, operation, in_flights in (cell for cell in cells if cell[0] == size):
                if operation == "load":
                    await bench.fill(subjects, payload)
                found: Cells = {}
                for in_flight in in_flights:
                    found[in_flight] = await bench.compare(subjects, operation, payload, in_flight)
                    report.add("peers", found[in_flight], operation=operation, size=size, in_flight=in_flight)
                report.tables.append(throughput_table(f"{operation.capitalize()}, {size}", found))
                if size in MOST_IN_FLIGHT:
                    report.tables[-1].notes.append(
                        f"At most {MOST_IN_FLIGHT[size]} of {size} at once: what is in flight is in memory."
                    )
                if size == CHARTED and operation != "delete":
                    report.tables.append(cost_table(operation, size, found[64]))
                    report.charts |= charts(operation, size, found)
    report.tables[-1].notes += [f"{kind.label}: {kind.how}." for kind in KINDS]
    return report


def throughput_table(title: str, found: Cells) -> Table:
    """Operations a second and the ratio to the baseline."""
    table = Table(title, ["", *(f"{in_flight} in flight" for in_flight in found)])
    for kind in KINDS:
        cells = [found[in_flight].get(kind.label) for in_flight in found]
        table.rows.append([kind.label, *(f"{rate(cell)}, {times(cell)}" if cell else DASH for cell in cells)])
    return table


def charts(operation: str, size: str, found: Cells) -> dict[str, str]:
    """Throughput and p99 against what is in flight."""
    rates = [Series(kind.label, [(n, found[n][kind.label].rate) for n in found]) for kind in KINDS]
    tails = [Series(kind.label, [(n, found[n][kind.label].p99) for n in found]) for kind in KINDS]
    title = f"{operation.capitalize()} of a {size} state"
    return {
        f"throughput-{operation}.svg": line_chart(
            title, rates, x="operations in flight", y="operations a second", log_y=True
        ),
        f"p99-{operation}.svg": line_chart(
            f"{title}: p99", tails, x="operations in flight", y="milliseconds", log_y=True
        ),
    }
