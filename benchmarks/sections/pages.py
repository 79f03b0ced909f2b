"""Listings and loads of many beside the one command that they amount to, at one caller and at 64."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
from typing import TYPE_CHECKING, Any, cast

from benchmarks.measure import Region, WrongResultError, fill, in_turns, timed
from benchmarks.report import Report, Table, digits, milliseconds, rate, times
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from benchmarks.bench import Bench, Settings
    from benchmarks.measure import Figures
    from benchmarks.payloads import Payload
    from benchmarks.subjects.subject import Extended, Subject

TITLE = "Listings and load_many beside one command"
KINDS = (Ours, Plain)
NOTE = (
    f"{Plain.label}: ZREVRANGE and ids decoded; MGET and states decoded. {Ours.label} checks on the server that every "
    "listed state is still there."
)
IN_FLIGHT = (1, 64)
SOME = 1_000
FAST_ROUNDS = 4  # more than elsewhere: a page takes a fraction of a millisecond
SLOW_ROUNDS = {1: 5, 64: 2}  # of all ids: 64 listings of them take seconds


def many(settings: Settings) -> int:
    """Sessions of the agent whose ids are all listed."""
    return 10_000 if settings.quick else 100_000


def steps(settings: Settings) -> int:
    """Progress steps."""
    fast = 3 * len(IN_FLIGHT) * len(KINDS) * (settings.rounds + FAST_ROUNDS)
    return fast + len(KINDS) * sum(SLOW_ROUNDS.values())


def run(bench: Bench) -> Report:
    """Measure."""
    return asyncio.run(compare(bench))


async def compare(bench: Bench) -> Report:
    """A row for each call and number of callers."""
    report = Report()
    table = Table(
        TITLE,
        ["", "in flight", *(kind.label for kind in KINDS), "p50", "p50 of redis.asyncio", "ratio"],
        notes=[NOTE],
    )
    for operation, size, count, limit in (
        ("newest 10", "1.4 KB", SOME, 10),
        ("newest 100", "1.4 KB", SOME, 100),
        ("load_many", "1.4 KB", SOME, None),
        ("all ids", "0.2 KB", many(bench.settings), None),
    ):
        payload = dataclasses.replace(bench.payloads[size], sessions=count)
        name = f"{operation} of {count:,}"
        async with bench.opened(KINDS, payload, most_in_flight=IN_FLIGHT[-1]) as subjects:
            for subject in subjects:
                if isinstance(subject, Plain):
                    await subject.fill()
                else:
                    await fill(subject, count)
            gc.freeze()
            for in_flight in IN_FLIGHT:
                rounds = SLOW_ROUNDS[in_flight] if operation == "all ids" else bench.settings.rounds + FAST_ROUNDS
                found = await regions(bench, subjects, name, payload, limit=limit, in_flight=in_flight, rounds=rounds)
                report.add("pages", found, operation=operation, sessions=count, in_flight=in_flight)
                ours, plain = (found[kind.label] for kind in KINDS)
                rates = [rate(ours), rate(plain), milliseconds(ours.p50), milliseconds(plain.p50)]
                slower = f", {digits(1 / (ours.ratio or 1))}x the time" if operation == "all ids" else ""
                table.rows.append([name, str(in_flight), *rates, times(ours) + slower])
    report.tables.append(table)
    return report


async def regions(
    bench: Bench,
    subjects: list[Subject],
    name: str,
    payload: Payload,
    *,
    limit: int | None,
    in_flight: int,
    rounds: int,
) -> dict[str, Figures]:
    """One call over and over; every result has as many ids or states as there must be."""
    loads = name.startswith("load_many")
    expected = limit or payload.sessions
    if not loads:
        newest = [set(await cast("Extended", subject).list(limit)) for subject in subjects]
        if any(len(ids) != expected for ids in newest):
            raise WrongResultError(f"{name}: {[len(ids) for ids in newest]} ids")

    async def region(subject: Subject) -> Region:
        extended = cast("Extended", subject)

        def call(_: int) -> Awaitable[Any]:
            return extended.load_many(range(payload.sessions)) if loads else extended.list(limit)

        return await timed(
            call,
            itertools.count(),
            is_right=lambda found: len(found) == expected,
            in_flight=in_flight,
            seconds=bench.settings.seconds,
            meter=bench.meter,
        )

    def step(subject: Subject) -> None:
        bench.step(f"{name}, {in_flight} in flight, {subject.label}")

    return await in_turns(subjects, region, rounds=rounds, step=step)
