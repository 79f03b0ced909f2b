"""The store beside plain redis.asyncio and beside the bare protocol: throughput, latency, memory, mixed sizes."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from benchmarks.bench import IN_FLIGHT
from benchmarks.measure import Region, fill, in_turns, timed
from benchmarks.report import Report, Table, milliseconds, rate, times
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain, PlainUnbounded

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings
    from benchmarks.measure import Figures
    from benchmarks.subjects.subject import Subject

TITLE = "The store, plain redis.asyncio and the floor, 1.4 KB"
SIZE = "1.4 KB"
KINDS = (Ours, Plain, PlainUnbounded, Floor)

WAITING = 1000
PAUSE = 3.0
SMALL_CALLERS, BIG_CALLERS = 32, 2
SMALL, BIG = 64, 4
MIXED_ROUNDS = 3


def rounds(settings: Settings) -> int:
    """More than elsewhere: the README's promise rests on this table."""
    return settings.rounds + (0 if settings.quick else 4)


def steps(settings: Settings) -> int:
    """Progress steps."""
    return 2 * len(IN_FLIGHT) * len(KINDS) * rounds(settings) + 3 + 2 * 3 * MIXED_ROUNDS


def run(bench: Bench) -> Report:
    """Measure."""
    report = Report()
    asyncio.run(throughput(bench, report))
    asyncio.run(memory(bench, report))
    asyncio.run(mixed(bench, report))
    return report


async def throughput(bench: Bench, report: Report) -> None:
    """Saves and loads from one caller to 256."""
    payload = bench.payloads[SIZE]
    table = Table(TITLE, ["operation", "in flight", *(kind.label for kind in KINDS), "ratio", "share of the floor"])
    latency = Table("Latency of a save, 64 in flight", ["", "p50", "p99"])
    async with bench.opened(KINDS, payload) as subjects:
        for operation in ("save", "load"):
            await bench.fill(subjects, payload)
            for in_flight in IN_FLIGHT:
                found = await bench.compare(
                    subjects, operation, payload, in_flight, rounds=rounds(bench.settings), seconds=0.2
                )
                report.add("table", found, operation=operation, size=SIZE, in_flight=in_flight)
                share = found[Ours.label].rate / found[Floor.label].rate
                rates = [rate(found[kind.label]) for kind in KINDS]
                table.rows.append([operation, str(in_flight), *rates, times(found[Ours.label]), f"{share:.2f}"])
                if (operation, in_flight) == ("save", 64):
                    latency.rows += [[label, milliseconds(f.p50), milliseconds(f.p99)] for label, f in found.items()]
    table.notes.append(
        f"Ratio: {Ours.label} to {Plain.label}, the median of {rounds(bench.settings)} rounds (lowest-highest)."
    )
    table.notes += [f"{kind.label}: {kind.how}." for kind in KINDS]
    report.tables += [table, latency]


async def memory(bench: Bench, report: Report) -> None:
    """What an operation holds in the client while it waits for a server that is silent for a while."""
    payload = bench.payloads[SIZE]
    table = Table(f"Client memory of a waiting save, {WAITING:,} waiting", ["", "an operation"])
    for kind in (Ours, Plain, Floor):
        bench.meter.clear()
        subject: Subject = kind(bench.url, payload.states(WAITING))
        await subject.open()
        await asyncio.gather(*(subject.save(i) for i in range(WAITING)))  # connections and keys are there
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        bench.meter.pause(PAUSE)
        tasks = [asyncio.ensure_future(subject.save(i)) for i in range(WAITING)]
        await asyncio.sleep(PAUSE / 2)
        held = (tracemalloc.get_traced_memory()[0] - before) / WAITING
        if any(task.done() for task in tasks):
            raise RuntimeError(f"{subject.label} answered although the server was silent")
        tracemalloc.stop()
        await asyncio.gather(*tasks)
        await subject.close()
        table.rows.append([kind.label, f"{held / 1024:.1f} KB"])
        report.data.append({"section": "table", "subject": kind.label, "waiting": WAITING, "held_bytes": held})
        bench.step(f"memory of a waiting save, {kind.label}")
    table.notes.append("Python's own allocations, with the encoded state and the caller's task.")
    report.tables.append(table)


async def mixed(bench: Bench, report: Report) -> None:
    """Small saves and loads with and without two neighbours that save and load a megabyte each."""
    small, big = bench.payloads[SIZE], bench.payloads["1 MB"]
    table = Table(
        f"Small states ({SIZE}, {SMALL_CALLERS} callers) beside big ones (1 MB, {BIG_CALLERS} callers)",
        ["", "p99 alone", "p99 beside big ones", "times", "small operations alone", "beside big ones"],
    )
    bench.meter.clear()
    subjects: list[Subject] = []
    for kind in (Ours, Plain, Floor):
        states = small.states(SMALL) + big.states(SMALL + BIG)[SMALL:]
        subject: Subject = kind(bench.url, states)
        await subject.open()
        await fill(subject, len(states))
        subjects.append(subject)
    found: dict[bool, dict[str, Figures]] = {}
    for crowded in (False, True):

        async def region(subject: Subject, *, crowded: bool = crowded) -> Region:
            neighbours = [asyncio.ensure_future(big_neighbour(subject, i)) for i in range(BIG_CALLERS * crowded)]
            try:
                return await timed(
                    SaveAndLoad(subject).turn,
                    itertools.cycle(range(2 * SMALL)),
                    is_right=bool,
                    in_flight=SMALL_CALLERS,
                    seconds=0.4 if bench.settings.quick else 1.0,
                    meter=bench.meter,
                )
            finally:
                for neighbour in neighbours:
                    neighbour.cancel()
                    with suppress(asyncio.CancelledError):
                        await neighbour

        found[crowded] = await in_turns(
            subjects,
            region,
            rounds=MIXED_ROUNDS,
            step=lambda subject: bench.step(f"mixed sizes, {subject.label}"),
        )
    for subject in subjects:
        await subject.close()
    for label, alone in found[False].items():
        crowd = found[True][label]
        table.rows.append(
            [
                label,
                milliseconds(alone.p99),
                milliseconds(crowd.p99),
                f"{crowd.p99 / alone.p99:.1f}x",
                rate(alone),
                rate(crowd),
            ]
        )
    report.add("table", found[False], operation="mixed", neighbours=0)
    report.add("table", found[True], operation="mixed", neighbours=BIG_CALLERS)
    report.tables.append(table)


class SaveAndLoad:
    """Saves and loads in turn, of the small sessions."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    async def turn(self, number: int) -> Any:
        """Save or load, and what it returned."""
        if number % 2:
            return await self.subject.save(number // 2)
        return await self.subject.load(number // 2)


async def big_neighbour(subject: Subject, caller: int) -> None:
    """Save and load big sessions until cancelled."""
    for i in itertools.cycle(range(SMALL + caller, SMALL + BIG, BIG_CALLERS)):
        await subject.save(i)
        await subject.load(i)
