"""What a session takes in Redis: `MEMORY USAGE` of all its keys, its text apart."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks.chart import Bar, bar_chart
from benchmarks.measure import fill
from benchmarks.report import Report, Table, digits
from benchmarks.subjects.agents_session import AgentsSession
from benchmarks.subjects.aiogram_storage import Aiogram
from benchmarks.subjects.key_value import KeyValue
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain
from benchmarks.subjects.two_trips import TwoTrips

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings

TITLE = "Redis memory of a session"
KINDS = (Ours, Plain, TwoTrips, Aiogram, KeyValue, AgentsSession)
SESSIONS = {"0.2 KB": 500, "1.4 KB": 500, "20 KB": 100, "1 MB": 4}
CHARTED = "1.4 KB"


def steps(_: Settings) -> int:
    """Progress steps."""
    return len(SESSIONS) * len(KINDS)


def run(bench: Bench) -> Report:
    """Measure."""
    return asyncio.run(compare(bench))


async def compare(bench: Bench) -> Report:
    """Every subject alone on an empty server, one agent."""
    report = Report()
    tables = [
        Table("Redis memory of a session, without its text", ["", *SESSIONS]),
        Table("Text that is stored of a session", ["", *SESSIONS]),
    ]
    bars: list[Bar] = []
    for kind in KINDS:
        rows = [[kind.label], [kind.label]]
        for size, sessions in SESSIONS.items():
            bench.meter.clear()
            subject = kind(bench.url, bench.payloads[size].states(sessions))
            await subject.open()
            await fill(subject, sessions)
            total, text = bench.meter.memory() / sessions, bench.meter.text() / sessions
            await subject.close()
            rows[0].append(f"{digits(total - text)} B")
            rows[1].append(f"{digits(text)} B")
            if size == CHARTED:
                bars.append(Bar(kind.label, (text, total - text)))
            row = {"section": "memory", "subject": kind.label, "size": size, "sessions": sessions}
            report.data.append(row | {"bytes": total, "text_bytes": text})
            bench.step(f"memory of {size}, {kind.label}")
        for table, cells in zip(tables, rows, strict=True):
            table.rows.append(cells)
    tables[0].notes.append(
        "Keys, objects, the place in the index and what the allocator rounds up; one agent's 500 sessions (100 of "
        "20 KB, 4 of 1 MB). aiogram, RedisStore and RedisSession have no index."
    )
    tables[1].notes.append("RedisSession keeps role and content of the messages; the others keep the whole state.")
    report.tables += tables
    report.charts["memory.svg"] = bar_chart(
        f"Redis memory of a session, {CHARTED} state", bars, ("stored text", "keys, objects, index"), unit="B"
    )
    return report
