"""Three primaries and a hundred agents."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Meter
from benchmarks.report import Report, Table, rate, times
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import PlainCluster

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support.cluster import ClusterServers

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings

TITLE = "A cluster of three primaries"
SIZE = "1.4 KB"
AGENTS = 100
NOTE = (
    "redis-py's cluster transaction starts a thread for each command, which is most of its save: the ratios of a save "
    "say more about that than about a cluster."
)
KINDS = (Ours, PlainCluster)


def steps(settings: Settings) -> int:
    """Progress steps."""
    return 2 * len(settings.in_flight) * len(KINDS) * settings.rounds


def run(bench: Bench) -> Report:
    """Measure on servers of its own."""
    with ClusterServers(primaries=3) as servers:
        meter = Meter(node.url for node in servers.nodes)
        try:
            return asyncio.run(compare(dataclasses.replace(bench, meter=meter, url=servers.url)))
        finally:
            meter.close()


async def compare(bench: Bench) -> Report:
    """Save and load, spread over the agents and so over the nodes."""
    report = Report()
    payload = bench.payloads[SIZE]
    table = Table(
        f"{TITLE}, {AGENTS} agents, {SIZE}",
        ["operation", "in flight", *(kind.label for kind in KINDS), "ratio"],
        notes=[NOTE],
    )
    async with bench.opened(KINDS, payload, agents=AGENTS) as subjects:
        for operation in ("save", "load"):
            await bench.fill(subjects, payload)
            for in_flight in bench.settings.in_flight:
                found = await bench.compare(subjects, operation, payload, in_flight, baseline=PlainCluster.label)
                report.add("cluster", found, operation=operation, size=SIZE, in_flight=in_flight, agents=AGENTS)
                rates = [rate(found[kind.label]) for kind in KINDS]
                table.rows.append([operation, str(in_flight), *rates, times(found[Ours.label])])
    report.tables.append(table)
    return report
