"""What the metrics cost: without an SDK, and with one that records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from benchmarks.report import Report, Table, digits, rate, times
from benchmarks.subjects.ours import Ours

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings
    from redis_state import AgentState

TITLE = "Metrics off and on"
SIZE = "1.4 KB"
IN_FLIGHT = (1, 64)


class Recorded(Ours):
    """The store with an SDK that keeps what it records in memory."""

    label = "redis_state, SDK records"

    def __init__(self, url: str, states: list[AgentState]) -> None:
        super().__init__(url, states, meter_provider=MeterProvider(metric_readers=[InMemoryMetricReader()]))


KINDS = (Ours, Recorded)


def rounds(settings: Settings) -> int:
    """More than elsewhere: the difference is small."""
    return settings.rounds + 4


def steps(settings: Settings) -> int:
    """Progress steps."""
    return 2 * len(IN_FLIGHT) * len(KINDS) * rounds(settings)


def run(bench: Bench) -> Report:
    """Measure."""
    return asyncio.run(compare(bench))


async def compare(bench: Bench) -> Report:
    """Save and load, the SDK beside none."""
    report = Report()
    payload = bench.payloads[SIZE]
    table = Table(f"{TITLE}, {SIZE}", ["operation", "in flight", "no SDK", "SDK records", "ratio", "CPU added"])
    async with bench.opened(KINDS, payload) as subjects:
        await bench.fill(subjects, payload)
        for operation in ("save", "load"):
            for in_flight in IN_FLIGHT:
                found = await bench.compare(
                    subjects, operation, payload, in_flight, rounds=rounds(bench.settings), baseline=Ours.label
                )
                report.add("metrics", found, operation=operation, size=SIZE, in_flight=in_flight)
                off, on = (found[kind.label] for kind in KINDS)
                cpu = f"{digits(on.client_cpu - off.client_cpu)} µs"
                table.rows.append([operation, str(in_flight), rate(off), rate(on), times(on), cpu])
    report.tables.append(table)
    return report
