"""The store beside plain redis.asyncio and beside the bare protocol: throughput, latency, memory, mixed sizes."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Region, fill, in_turns, timed
from benchmarks.report import Report, Table, cost_table, digits, milliseconds, rate, times
from benchmarks.sections import agents
from benchmarks.subjects.coredis_client import Coredis
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.glide import Glide
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import Plain, PlainPool, PlainUnbounded

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings
    from benchmarks.measure import Figures
    from benchmarks.subjects.subject import Subject

TITLE = "The store, plain redis.asyncio and the floor, 1.4 KB"
SIZE = "1.4 KB"
KINDS = (Ours, Plain, PlainPool, PlainUnbounded, Glide, Coredis, Floor)

WAITING = 500
PAUSE = 2.0

MIXED = (Ours, Plain, Floor)
MIXED_ROUNDS = 2
SMALL, BIG = 64, 4  # sessions
SMALL_CALLERS, BIG_CALLERS = 32, 2
ALONE = "alone"
NEIGHBOURS: dict[str, float | None] = {ALONE: None, "ten big pairs a second each": 0.1, "big ones without pause": 0.0}


def rounds(settings: Settings) -> int:
    """More than elsewhere: the README's promise rests on this table."""
    return settings.rounds + (0 if settings.quick else 4)


def steps(settings: Settings) -> int:
    """Progress steps."""
    cells = 2 * len(KINDS) * (len(settings.in_flight) * rounds(settings) + len(agents.COUNTS) * settings.rounds)
    return cells + 3 + len(NEIGHBOURS) * len(MIXED) * MIXED_ROUNDS


def run(bench: Bench) -> Report:
    """Measure."""
    report = Report()
    asyncio.run(throughput(bench, report))
    asyncio.run(memory(bench, report))
    asyncio.run(mixed(bench, report))
    return report


async def throughput(bench: Bench, report: Report) -> None:
    """Saves and loads from one caller to 256, then of more and more agents."""
    payload = bench.payloads[SIZE]
    columns = ["operation", "agents", "in flight", *(kind.label for kind in KINDS), "ratio", "share of the floor"]
    table = Table(TITLE, columns)
    costs: list[Table] = []
    async with bench.opened(KINDS, payload) as subjects:
        for operation in ("save", "load"):
            if operation == "load":
                await bench.fill(subjects, payload)
            for in_flight in bench.settings.in_flight:
                found = await bench.compare(subjects, operation, payload, in_flight, rounds=rounds(bench.settings))
                report.add("table", found, operation=operation, size=SIZE, in_flight=in_flight, agents=1)
                table.rows.append(row(operation, 1, in_flight, found))
                if in_flight == 64:
                    costs.append(cost_table(operation, SIZE, found))
    for count in agents.COUNTS:
        for operation, found in (await agents.compare(bench, KINDS, payload, count)).items():
            cell = {"operation": operation, "size": SIZE, "in_flight": agents.IN_FLIGHT, "agents": count}
            report.add("table", found, **cell)
            table.rows.append(row(operation, count, agents.IN_FLIGHT, found))
    table.notes += [
        f"Ratio: {Ours.label} to {Plain.label}, the median of {rounds(bench.settings)} rounds (lowest-highest).",
        f"With several agents: {bench.settings.rounds} rounds.",
        "One agent has 512 sessions. Of several, each has its turn before one comes again.",
        *(f"{kind.label}: {kind.how}." for kind in KINDS),
    ]
    report.tables += [table, *costs]


def row(operation: str, count: int, in_flight: int, found: dict[str, Figures]) -> list[str]:
    """A row of the first table."""
    share = found[Ours.label].rate / found[Floor.label].rate
    rates = [rate(found[kind.label]) for kind in KINDS]
    return [operation, f"{count:,}", str(in_flight), *rates, times(found[Ours.label]), digits(share)]


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
        table.rows.append([kind.label, f"{digits(held / 1024)} KB"])
        report.data.append({"section": "table", "subject": kind.label, "waiting": WAITING, "held_bytes": held})
        bench.step(f"memory of a waiting save, {kind.label}")
    table.notes.append("Python's own allocations, with the encoded state and the caller's task.")
    report.tables.append(table)


async def mixed(bench: Bench, report: Report) -> None:
    """Small saves and loads: alone, beside two who save and load a megabyte now and then, and who never pause."""
    small, big = bench.payloads[SIZE], bench.payloads["1 MB"]
    table = Table(
        f"p99 of small states ({SIZE}, {SMALL_CALLERS} callers that save and load) beside {BIG_CALLERS} callers "
        "that save and load a state of 1 MB",
        ["", *NEIGHBOURS],
        notes=["In brackets: small operations a second, and p99 as a multiple of p99 alone."],
    )
    bench.meter.clear()
    subjects: list[Subject] = []
    for kind in MIXED:
        subject: Subject = kind(bench.url, small.states(SMALL) + big.states(SMALL + BIG)[SMALL:])
        await subject.open()
        await fill(subject, SMALL + BIG)
        subjects.append(subject)
    found: dict[str, dict[str, Figures]] = {}
    for name, pause in NEIGHBOURS.items():

        async def region(subject: Subject, pause: float | None = pause) -> Region:
            over = asyncio.Event()
            callers = range(BIG_CALLERS if pause is not None else 0)
            neighbours = asyncio.gather(*(big_neighbour(subject, caller, pause or 0, over) for caller in callers))
            try:
                return await timed(
                    SaveAndLoad(subject).turn,
                    itertools.cycle(range(2 * SMALL)),
                    is_right=bool,
                    in_flight=SMALL_CALLERS,
                    seconds=8 * bench.settings.seconds,
                    meter=bench.meter,
                )
            finally:
                over.set()
                await neighbours

        def step(subject: Subject, name: str = name) -> None:
            bench.step(f"mixed sizes, {name}, {subject.label}")

        found[name] = await in_turns(subjects, region, rounds=MIXED_ROUNDS, step=step)
        report.add("table", found[name], operation="mixed", neighbours=name)
    for subject in subjects:
        alone = found[ALONE][subject.label]
        cells = [found[name][subject.label] for name in NEIGHBOURS]
        row = [f"{milliseconds(cell.p99)} ({rate(cell)}, {digits(cell.p99 / alone.p99)}x)" for cell in cells]
        table.rows.append([subject.label, *row])
        await subject.close()
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


async def big_neighbour(subject: Subject, caller: int, pause: float, over: asyncio.Event) -> None:
    """Save and load big sessions, with a pause after each pair, until it is over."""
    for i in itertools.cycle(range(SMALL + caller, SMALL + BIG, BIG_CALLERS)):
        if over.is_set():
            return
        await subject.save(i)
        await subject.load(i)
        await asyncio.sleep(pause)
