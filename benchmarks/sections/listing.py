"""How long a list of an agent's sessions takes, and a page of the newest, as the sessions grow."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
from typing import TYPE_CHECKING, Any, cast

from benchmarks.chart import Series, line_chart
from benchmarks.measure import Region, WrongResultError, fill, in_turns, offering, timed
from benchmarks.report import DASH, Report, Table, milliseconds
from benchmarks.subjects.coredis_client import Coredis
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.glide import Glide
from benchmarks.subjects.key_value import KeyValue
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain
from benchmarks.subjects.two_trips import TwoTrips

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from benchmarks.bench import Bench, Settings
    from benchmarks.measure import Figures
    from benchmarks.payloads import Payload
    from benchmarks.subjects.subject import Extended, Subject

TITLE = "Listing an agent's sessions"
KINDS = (Ours, Plain, TwoTrips, KeyValue, Glide, Coredis, Floor)
PAGE = 100
ROUNDS = 3
MOST = {KeyValue.label: (10_000, "returns at most 10,000 keys")}

# These write the same data as redis.asyncio, so they list what it has filled.
SHARED = (Glide, Coredis, Floor)


def counts(settings: Settings) -> tuple[int, ...]:
    """How many sessions."""
    return (10, 1000) if settings.quick else (10, 1000, 100_000)


def steps(settings: Settings) -> int:
    """Progress steps."""
    return len(counts(settings)) * (len(KINDS) + 2)


def run(bench: Bench) -> Report:
    """Measure."""
    return asyncio.run(compare(bench))


async def compare(bench: Bench) -> Report:
    """Both listings for every number of sessions."""
    report = Report()
    found: dict[tuple[str, int], dict[str, Figures]] = {}
    for count in counts(bench.settings):
        payload = dataclasses.replace(bench.payloads["0.2 KB"], sessions=count)
        async with bench.opened(
            [kind for kind in KINDS if MOST.get(kind.label, (count,))[0] >= count], payload
        ) as subjects:
            for subject in subjects:
                await prepare(subject, payload)
                bench.step(f"filled {count:,} sessions, {subject.label}")
            gc.freeze()  # a collection before each region need not look at all these states
            for operation in ("list", "newest"):
                found[operation, count] = await listings(bench, subjects, operation, count)
                report.add("listing", found[operation, count], operation=operation, sessions=count)
                bench.step(f"{operation} of {count:,} sessions")
    for operation, title in (("list", "All sessions of an agent"), ("newest", f"The newest {PAGE} sessions")):
        table = Table(title, ["", *(f"{count:,} sessions" for count in counts(bench.settings))])
        for kind in KINDS:
            cells = [found[operation, count].get(kind.label) for count in counts(bench.settings)]
            table.rows.append([kind.label, *(milliseconds(cell.p50) if cell else DASH for cell in cells)])
            if operation in kind.missing:
                table.notes.append(f"{kind.label}: {kind.missing[operation]}.")
        table.notes += [f"{label}: {reason}." for label, (_, reason) in MOST.items() if operation == "list"]
        report.tables.append(table)
    report.tables[0].notes += [
        "One caller; the median of the listings.",
        f"{Ours.label} checks on the server that every listed state is still there; the others trust the index.",
    ]
    report.charts["listing.svg"] = line_chart(
        "Listing all sessions of an agent",
        series(found, "list", bench.settings),
        x="sessions",
        y="milliseconds",
        log_y=True,
    )
    return report


def series(found: dict[tuple[str, int], dict[str, Figures]], operation: str, settings: Settings) -> list[Series]:
    """A line for each subject with at least two points."""
    lines = [
        Series(
            kind.label,
            [(n, found[operation, n][kind.label].p50) for n in counts(settings) if kind.label in found[operation, n]],
        )
        for kind in KINDS
    ]
    return [line for line in lines if len(line.points) > 1]


async def prepare(subject: Any, payload: Payload) -> None:
    """Store all sessions: in bulk where the subject has a way, else by its own saves."""
    if isinstance(subject, SHARED):
        subject.keys.prefix = "plain:"
    elif hasattr(subject, "fill"):
        await subject.fill()
    else:
        await fill(subject, payload.sessions)


async def listings(bench: Bench, subjects: Sequence[Subject], operation: str, count: int) -> dict[str, Figures]:
    """One caller that lists; every listing is compared with what there is."""
    limit = None if operation == "list" else PAGE
    expected = count if limit is None else min(count, limit)

    async def region(subject: Subject) -> Region:
        def listing(_: int) -> Awaitable[Any]:
            return cast("Extended", subject).list(limit)

        return await timed(
            listing,
            itertools.count(),
            is_right=lambda ids: len(ids) == expected,
            in_flight=1,
            seconds=bench.settings.seconds,
            meter=bench.meter,
        )

    chosen = offering(subjects, operation)
    for subject in chosen:
        if operation == "list" and set(await cast("Extended", subject).list()) != {
            f"session-{i:06}" for i in range(count)
        }:
            raise WrongResultError(f"{subject.label} lists other sessions than there are")
    return await in_turns(chosen, region, rounds=ROUNDS, step=lambda _: None)
