"""A conversation of a thousand turns: what crosses the wire when only the new message is sent, or everything."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from benchmarks.chart import Series, line_chart
from benchmarks.measure import WrongResultError
from benchmarks.payloads import START
from benchmarks.report import Report, Table, digits, milliseconds
from benchmarks.subjects.agents_session import AgentsSession
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain, turn
from redis_state import AgentState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.bench import Bench, Settings

TITLE = "A conversation"
CHECKPOINTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
LOADS = 20


def turns(settings: Settings) -> int:
    """How long the conversation is."""
    return 200 if settings.quick else 1000


def steps(_: Settings) -> int:
    """Progress steps."""
    return 4


def run(bench: Bench) -> Report:
    """Measure."""
    return asyncio.run(compare(bench))


async def compare(bench: Bench) -> Report:
    """One session, one caller, one message after the other."""
    report = Report()
    count = turns(bench.settings)
    table = Table(
        f"A conversation of {count:,} turns",
        ["", "sent", "received", "time", "a load at its end", "stored"],
        notes=["A turn adds a message of about 90 characters. Saving everything is what a store without append does."],
    )
    lines: list[Series] = []
    for label, subject, saves_all in (
        (f"{Ours.label}, append", Ours(bench.url, [empty()]), False),
        (f"{Ours.label}, save", Ours(bench.url, [empty()]), True),
        (f"{Plain.label}, save", Plain(bench.url, [empty()]), True),
        (AgentsSession.label, AgentsSession(bench.url, [empty()]), False),
    ):
        bench.meter.clear()
        await subject.open()
        await subject.save(0)
        start, began = bench.meter.read(), time.perf_counter()
        points: list[tuple[float, float]] = []
        add = saver(subject) if saves_all else appender(subject)
        for position in range(count):
            await add(position)
            if position + 1 in CHECKPOINTS:
                points.append((position + 1, bench.meter.since(start).received))
        # The readings at the checkpoints are a few kilobytes of what is sent back.
        moved, seconds = bench.meter.since(start), time.perf_counter() - began
        load = await fastest_load(subject, count)
        stored = bench.meter.memory()
        await subject.close()
        lines.append(Series(label, points, dashed=saves_all))
        table.rows.append(
            [
                label,
                f"{digits(moved.received / 1e6)} MB",
                f"{digits(moved.sent / 1e6)} MB",
                f"{digits(seconds)} s",
                milliseconds(load * 1e3),
                f"{digits(stored / 1024)} KB",
            ]
        )
        row: dict[str, Any] = {"section": "conversation", "subject": label, "turns": count, "sent_bytes": points}
        report.data.append(row | {"seconds": seconds, "load_seconds": load, "stored_bytes": stored})
        bench.step(f"{count:,} turns, {label}")
    report.tables.append(table)
    report.charts["conversation.svg"] = line_chart(
        f"Sent to the server over a conversation of {count:,} turns", lines, x="turns", y="bytes", log_y=True
    )
    return report


def empty() -> AgentState:
    """A session before its first turn."""
    return AgentState(agent_id="agent-0", session_id="session-000000", created_at=START, updated_at=START)


def saver(subject: Any) -> Callable[[int], Awaitable[object]]:
    """A turn adds to the state in memory and saves it whole."""

    def add(position: int) -> Awaitable[object]:
        subject.states[0].messages.append(turn(position))
        return subject.save(0)

    return add


def appender(subject: Any) -> Callable[[int], Awaitable[object]]:
    """A turn is an append."""

    def add(_: int) -> Awaitable[object]:
        return subject.append(0)

    return add


async def fastest_load(subject: Any, count: int) -> float:
    """Seconds of a load of the whole conversation, the least of a few."""
    fastest = float("inf")
    for _ in range(LOADS):
        begin = time.perf_counter()
        messages = await subject.load(0)
        fastest = min(fastest, time.perf_counter() - begin)
        if len(messages) != count:
            raise WrongResultError(f"{subject.label} has {len(messages)} of {count} messages")
    return fastest
