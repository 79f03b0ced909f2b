"""Closed loops, timed: subjects take turns on one server, and only what was read back and is right counts."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis

from benchmarks.payloads import contents
from benchmarks.subjects.subject import offers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from benchmarks.subjects.subject import Subject

BASELINE = "redis.asyncio"
FILLERS = 64
CALIBRATION = 20

STORED_TEXT = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' then return redis.call('STRLEN', KEYS[1]) end
local length = 0
if kind == 'list' then
  for _, item in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do length = length + #item end
end
return length
"""


class WrongResultError(Exception):
    """Raised when a subject returned something other than what was saved; nothing it did is counted."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What servers have used so far: CPU in seconds, and bytes on the wire."""

    cpu: float
    received: int
    sent: int


class Meter:
    """Reads the counters of the servers over connections of its own, outside of the timed regions."""

    def __init__(self, urls: Iterable[str]) -> None:
        self.servers = [redis.Redis.from_url(url) for url in urls]
        self._own = Counters(0.0, 0, 0)
        readings = [self.read() for _ in range(CALIBRATION + 1)]
        whole = self.since(readings[0])
        self._own = Counters(
            whole.cpu / (CALIBRATION + 1), whole.received // (CALIBRATION + 1), whole.sent // (CALIBRATION + 1)
        )

    def read(self) -> Counters:
        """The sum over all servers."""
        found: list[Any] = [{**server.info("cpu"), **server.info("stats")} for server in self.servers]
        return Counters(
            cpu=sum(info["used_cpu_sys"] + info["used_cpu_user"] for info in found),
            received=sum(info["total_net_input_bytes"] for info in found),
            sent=sum(info["total_net_output_bytes"] for info in found),
        )

    def since(self, start: Counters) -> Counters:
        """What was used since, without the reading itself."""
        now = self.read()
        return Counters(
            cpu=max(0.0, now.cpu - start.cpu - self._own.cpu),
            received=now.received - start.received - self._own.received,
            sent=now.sent - start.sent - self._own.sent,
        )

    def memory(self) -> int:
        """`MEMORY USAGE` of all keys, in bytes."""
        return sum(self._of_all_keys("MEMORY", "USAGE", "{key}", "SAMPLES", 0))

    def text(self) -> int:
        """The length of all strings and list elements, which is what was stored; no index and no metadata."""
        return sum(self._of_all_keys("EVAL", STORED_TEXT, 1, "{key}"))

    def _of_all_keys(self, *command: Any) -> Iterator[int]:
        for server in self.servers:
            keys = list(server.scan_iter(count=1000))
            with server.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.execute_command(*(key if part == "{key}" else part for part in command))
                yield from pipeline.execute()

    def pause(self, seconds: float) -> None:
        """Let the servers answer nothing for a while; what arrives meanwhile is answered afterwards."""
        for server in self.servers:
            server.client_pause(round(seconds * 1000))

    def clear(self) -> None:
        """Remove all keys."""
        for server in self.servers:
            server.flushall()

    def close(self) -> None:
        """Disconnect."""
        for server in self.servers:
            server.close()


@dataclass(frozen=True, slots=True)
class Region:
    """One timed region of one subject.

    Attributes:
        seconds: From the first operation's start to the last one's end.
        latencies: Of every operation, in seconds.
        client_cpu: CPU time of this process, all threads, in seconds.
        server: What the servers used.
    """

    seconds: float
    latencies: list[float]
    client_cpu: float
    server: Counters

    @property
    def rate(self) -> float:
        """Operations a second."""
        return len(self.latencies) / self.seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """What the regions of one subject say, over all rounds.

    Attributes:
        operations: How many were timed.
        rate: Operations a second, the median of the rounds.
        ratio: Rate divided by the baseline's in the same round: the median; `low` and `high` its extremes.
            None where there is no baseline.
        p50: Latency in milliseconds, of all operations.
        p99: As `p50`.
        client_cpu: Microseconds of CPU an operation in the client's process.
        server_cpu: Microseconds of CPU an operation in the servers.
        sent: Bytes an operation from client to server.
        received: Bytes an operation from server to client.
    """

    operations: int
    rate: float
    ratio: float | None
    low: float | None
    high: float | None
    p50: float
    p99: float
    client_cpu: float
    server_cpu: float
    sent: float
    received: float


def figures(regions: Sequence[Region], baseline: Sequence[Region] | None) -> Figures:
    """Sum up the rounds of a subject."""
    latencies = sorted(itertools.chain.from_iterable(region.latencies for region in regions))
    operations = len(latencies)
    ratios = [own.rate / base.rate for own, base in zip(regions, baseline or (), strict=bool(baseline))]
    return Figures(
        operations=operations,
        rate=statistics.median(region.rate for region in regions),
        ratio=statistics.median(ratios) if ratios else None,
        low=min(ratios, default=None),
        high=max(ratios, default=None),
        p50=quantile(latencies, 0.50) * 1e3,
        p99=quantile(latencies, 0.99) * 1e3,
        client_cpu=sum(region.client_cpu for region in regions) / operations * 1e6,
        server_cpu=sum(region.server.cpu for region in regions) / operations * 1e6,
        sent=sum(region.server.received for region in regions) / operations,
        received=sum(region.server.sent for region in regions) / operations,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


async def timed(
    operation: Callable[[int], Awaitable[Any]],
    numbers: Iterator[int],
    *,
    is_right: Callable[[Any], object],
    in_flight: int,
    seconds: float,
    meter: Meter,
) -> Region:
    """Run `operation` over `numbers` with `in_flight` callers until time is up or the numbers are.

    Each caller starts its next operation when the last one's result is there and has been checked. Operations that
    run when time is up end inside the region.
    """
    latencies: list[float] = []
    record, clock = latencies.append, time.perf_counter

    async def caller() -> None:
        for number in numbers:
            begin = clock()
            result = await operation(number)
            end = clock()
            if not is_right(result):
                raise WrongResultError(f"{operation} of {number} returned {str(result)[:100]}")
            record(end - begin)
            if end >= deadline:
                return

    gc.collect()
    server = meter.read()
    cpu = time.process_time()
    start = clock()
    deadline = start + seconds
    if in_flight == 1:
        await caller()
    else:
        await asyncio.gather(*(caller() for _ in range(in_flight)))
    elapsed = clock() - start
    cpu = time.process_time() - cpu
    return Region(seconds=elapsed, latencies=latencies, client_cpu=cpu, server=meter.since(server))


async def fill(subject: Subject, count: int) -> None:
    """Save the first `count` sessions of a subject."""
    numbers = iter(range(count))

    async def filler() -> None:
        for number in numbers:
            if not await subject.save(number):
                raise WrongResultError(f"{subject.label} did not save")

    await asyncio.gather(*(filler() for _ in range(min(FILLERS, count))))


async def read_back(subject: Subject, said: Sequence[list[str]]) -> None:
    """Compare what a subject has stored of the first sessions with what was said in them."""
    for i, expected in enumerate(said):
        found = contents(list(await subject.load(i)))
        if found != expected:
            raise WrongResultError(f"{subject.label} loaded {found!r:.100} where {expected!r:.100} was saved")


async def in_turns(
    subjects: Sequence[Subject],
    region: Callable[[Subject], Awaitable[Region]],
    *,
    rounds: int,
    step: Callable[[Subject], None],
    baseline: str = BASELINE,
) -> dict[str, Figures]:
    """One region of each subject a round, A B C A B C, so that all see the same machine."""
    found: dict[str, list[Region]] = {subject.label: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            found[subject.label].append(await region(subject))
            step(subject)
    return {label: figures(regions, found.get(baseline)) for label, regions in found.items()}


def offering(subjects: Iterable[Subject], operation: str) -> list[Subject]:
    """The subjects that have an operation."""
    return [subject for subject in subjects if offers(subject, operation)]
