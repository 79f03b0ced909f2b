"""A server that is a millisecond away: what a round trip costs, and what sharing it brings."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from redis.asyncio import Redis

from benchmarks.delay import delayed
from benchmarks.report import Report, Table, milliseconds, rate, times
from benchmarks.subjects.coredis_client import Coredis
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.glide import Glide
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain, PlainPool

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings

TITLE = "A round trip of a millisecond"
SIZE = "1.4 KB"
KINDS = (Ours, Plain, PlainPool, Glide, Coredis, Floor)
SECONDS = 0.001
PINGS = 50


def steps(settings: Settings) -> int:
    """Progress steps."""
    return 2 * len(settings.in_flight) * len(KINDS) * settings.rounds


def run(bench: Bench) -> Report:
    """Measure through a proxy in a process of its own."""
    with delayed(urlsplit(bench.url).port or 6379, SECONDS) as url:
        return asyncio.run(compare(dataclasses.replace(bench, url=url)))


async def compare(bench: Bench) -> Report:
    """Save and load."""
    report = Report()
    payload = bench.payloads[SIZE]
    table = Table(f"{TITLE}, {SIZE}", ["operation", "in flight", *(kind.label for kind in KINDS), "ratio"])
    async with bench.opened(KINDS, payload) as subjects:
        for operation in ("save", "load"):
            await bench.fill(subjects, payload)
            for in_flight in bench.settings.in_flight:
                found = await bench.compare(subjects, operation, payload, in_flight)
                report.add("distance", found, operation=operation, size=SIZE, in_flight=in_flight)
                rates = [rate(found[kind.label]) for kind in KINDS]
                table.rows.append([operation, str(in_flight), *rates, times(found[Ours.label])])
    ping = await round_trip(bench.url)
    table.notes.append(
        f"A PING takes {milliseconds(ping * 1e3)}. The proxy delays what clients send; it is a third process on the "
        "same cores, and has more to do for clients with many connections."
    )
    report.data.append({"section": "distance", "ping_seconds": ping})
    report.tables.append(table)
    return report


async def round_trip(url: str) -> float:
    """Seconds of a PING, the mean of a few."""
    async with Redis.from_url(url) as client:
        await client.ping()
        begin = time.perf_counter()
        for _ in range(PINGS):
            await client.ping()
        return (time.perf_counter() - begin) / PINGS
