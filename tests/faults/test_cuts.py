"""Connections that end anywhere in a request and in its reply: each operation is carried out once, or not at all,
and says which."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.faulty import Bench, behind_proxy, outcome, state, texts
from support.proxy import Action
from support.states import messages

from redis_state import AgentState

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

WORKERS = 6  # stores, each with a proxy of its own
TIMEOUT = 3.0
LONGEST_REPLAY = 11_000  # bytes: a handshake, a script's text and its arguments
SCRIPT_STEP = 131  # of a script's text not every byte is worth a cut


@dataclass(frozen=True)
class Kind:
    """An operation on a session of its own, and what must be true of it afterwards.

    Attributes:
        run: The operation, on the object that was prepared.
        after: Version and texts that are stored then; None: nothing is.
        unsure: Whether a lost reply makes its outcome unknown, with what was before or what is after stored.
        fresh: Whether it is prepared by no save.
    """

    run: Callable[[Any, AgentState], Awaitable[Any]]
    after: tuple[int, list[str]] | None
    unsure: bool = False
    fresh: bool = False


async def load(store: Any, mine: AgentState) -> None:
    assert await store.load("a", mine.session_id) == mine


async def append(store: Any, mine: AgentState) -> None:
    assert await store.append("a", mine.session_id, messages("second")) == 2


async def delete(store: Any, mine: AgentState) -> None:
    assert await store.delete("a", mine.session_id) is True


KINDS: Final = {
    "fresh save": Kind(lambda store, mine: store.save(mine), (1, ["first"]), unsure=True, fresh=True),
    "save": Kind(lambda store, mine: store.save(mine), (2, ["first"])),
    "conditional save": Kind(lambda store, mine: store.save(mine, if_version=1), (2, ["first"])),
    "append": Kind(append, (2, ["first", "second"])),
    "delete": Kind(delete, None, unsure=True),
    "load": Kind(load, (1, ["first"])),
}


@contextlib.asynccontextmanager
async def benches(server: RedisServer) -> AsyncGenerator[list[Bench]]:
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(behind_proxy(server, timeout=TIMEOUT)) for _ in range(WORKERS)]
        yield opened
        for bench in opened:
            assert not bench.truth.disagreement()


class Batch:
    """Operations that are run together.

    Args:
        kinds: Their names.
        names: The sessions that were not used yet.
    """

    def __init__(self, kinds: list[str], bench: Bench, names: Iterator[int]) -> None:
        self.bench = bench
        self.objects = [(KINDS[kind], state(str(next(names)), "first")) for kind in kinds]

    async def prepare(self) -> None:
        """Make what the operations need, on the connection that will be cut, which knows the scripts by then."""
        await self.bench.store.save(state("0000"), if_version=await self.bench.truth.version("0000"))
        await self.bench.store.append("a", "0000", [])
        for kind, mine in self.objects:
            if not kind.fresh:
                await self.bench.store.save(mine)

    async def run(self, where: str) -> Counter[str]:
        """Run them, and check each. Returns how often each outcome came."""
        results = await asyncio.gather(*(outcome(kind.run(self.bench.store, mine)) for kind, mine in self.objects))
        for (kind, mine), result in zip(self.objects, results, strict=True):
            assert result == "done" or (kind.unsure and result == "unknown"), f"{result}, {where}"
            stored = await self.bench.truth.load(mine.session_id)
            found = stored and (stored.version, texts(stored))
            before = None if kind.fresh else (1, ["first"])
            assert found == kind.after or (result == "unknown" and found == before), where
        return Counter(results)


async def cut_everywhere(server: RedisServer, kinds: list[str], *, step: int = 1) -> None:
    """Run operations in one batch, with a cut after each byte in turn, or after each so many."""
    names = itertools.count(1000)
    total: Counter[str] = Counter()

    async def size(bench: Bench) -> tuple[int, int]:
        """How many bytes of requests and of replies it takes where nothing is cut."""
        batch = Batch(kinds, bench, names)
        await batch.prepare()
        up, down = bench.proxy.bytes_up, bench.proxy.bytes_down
        await batch.run("not cut")
        await asyncio.sleep(0.01)  # the proxy counts after it has forwarded
        return bench.proxy.bytes_up - up, bench.proxy.bytes_down - down

    async def work(bench: Bench, points: list[tuple[int | None, int | None]]) -> None:
        for requests, replies in points:
            batch = Batch(kinds, bench, names)
            await batch.prepare()
            bench.proxy.cut_after(requests=requests, replies=replies)
            total.update(await batch.run(f"cut after {requests} bytes of the request, {replies} of the reply"))
            bench.proxy.cut_after()

    async with benches(server) as workers:
        up, down = min([await size(workers[0]) for _ in range(3)])  # now and then the index is looked through beside
        points: list[tuple[int | None, int | None]] = [(point, None) for point in range(0, up + 1, step)]
        points += [(None, point) for point in range(0, down, step)]
        await asyncio.gather(*(work(bench, points[number::WORKERS]) for number, bench in enumerate(workers)))
        cuts = sum(bench.proxy.cuts for bench in workers)
    print(f"{up} bytes of requests, {down} of replies, {cuts} cuts: {dict(total)}")
    assert cuts >= len(points) - 5  # a time may be written with a digit less


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_after_any_byte_leaves_an_operation_done_once_or_says_that_it_is_unknown(
    redis_server: RedisServer, kind: str
) -> None:
    """Saves and appends are settled by a replay; a delete, and a save where nothing is stored, cannot always tell."""
    await cut_everywhere(redis_server, [kind], step=2)


async def test_a_cut_in_any_part_of_a_batch_confuses_none_of_its_operations(redis_server: RedisServer) -> None:
    """Those that were answered are done, the others are settled one by one."""
    await cut_everywhere(redis_server, list(KINDS), step=11)


@pytest.mark.parametrize("kind", ["fresh save", "conditional save", "append"])
async def test_a_replay_that_is_cut_itself_is_replayed(redis_server: RedisServer, kind: str) -> None:
    """The reply is lost, and the next connection ends anywhere in its handshake, the script's text or its arguments."""
    names = itertools.count(1000)
    points = range(0, LONGEST_REPLAY, SCRIPT_STEP)

    async def work(bench: Bench, points: range) -> None:
        for point in points:

            def lose(data: bytes, point: int = point) -> Action:
                bench.proxy.on_reply = None
                bench.proxy.cut_after(requests=point)
                return Action(forward=0, cut=True)

            batch = Batch([kind], bench, names)
            await batch.prepare()
            bench.proxy.on_reply = lose
            await batch.run(f"next connection cut after {point} bytes")
            bench.proxy.cut_after()

    async with benches(redis_server) as workers:
        await asyncio.gather(*(work(bench, points[number::WORKERS]) for number, bench in enumerate(workers)))
        print(f"{sum(bench.proxy.cuts for bench in workers)} cuts")
        assert sum(bench.proxy.cuts for bench in workers) > len(points) * 1.5
