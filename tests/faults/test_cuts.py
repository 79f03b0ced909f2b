"""Connections that end at every byte of a request and of its reply: each operation is carried out once, or not at all,
and says which."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.faulty import Bench, behind_proxy, outcome, state, texts
from support.proxy import Action

from redis_state import AgentState, Message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

    from redis_state.testing import RedisServer

WORKERS = 6  # stores, each with a proxy of its own
TIMEOUT = 3.0
LONGEST_REPLAY = 11_000  # bytes: a handshake, a script's text and its arguments
SCRIPT_STEP = 67  # of a script's text not every byte is worth a cut


class Attempt:
    """One operation on a session of its own, and what must be true of it afterwards."""

    outcomes: tuple[str, ...] = ("done",)

    def __init__(self, bench: Bench, session_id: str) -> None:
        self.bench = bench
        self.store = bench.store
        self.session_id = session_id

    async def prepare(self) -> None:
        """Make what the operation needs, on the connection that will be cut, which knows the scripts by then."""
        await self.store.save(state(self.session_id, n=1), if_version=0)
        self.mine: AgentState = await self.store.load("a", self.session_id)

    async def run(self) -> Any:
        raise NotImplementedError

    def check(self, result: str, stored: AgentState | None) -> None:
        raise NotImplementedError


class FreshSave(Attempt):
    outcomes = ("done", "unknown")  # where nothing is stored, a replay cannot tell whether it was, and does not create

    async def prepare(self) -> None:
        await self.store.ping()
        self.mine = state(self.session_id, "text", n=1)

    async def run(self) -> None:
        await self.store.save(self.mine)

    def check(self, result: str, stored: AgentState | None) -> None:
        if stored is None:
            assert result == "unknown"
            return
        assert result == "done"
        assert stored == self.mine
        assert stored.version == 1


class Save(Attempt):
    async def run(self) -> None:
        self.mine.data["n"] = 2
        await self.store.save(self.mine)

    def check(self, result: str, stored: AgentState | None) -> None:
        assert stored is not None
        assert stored == self.mine
        assert stored.version == 2


class ConditionalSave(Attempt):
    async def run(self) -> None:
        self.mine.data["n"] = 2
        await self.store.save(self.mine, if_version=1)

    def check(self, result: str, stored: AgentState | None) -> None:
        assert stored is not None
        assert stored == self.mine
        assert stored.version == 2


class Append(Attempt):
    async def prepare(self) -> None:
        await super().prepare()
        await self.store.append("a", self.session_id, [Message(role="user", content="first")])

    async def run(self) -> None:
        assert await self.store.append("a", self.session_id, [Message(role="user", content="second")]) == 3

    def check(self, result: str, stored: AgentState | None) -> None:
        assert stored is not None
        assert texts(stored) == ["first", "second"]
        assert stored.version == 3


class Delete(Attempt):
    outcomes = ("done", "unknown")
    deleted: bool | None = None

    async def run(self) -> None:
        self.deleted = await self.store.delete("a", self.session_id)

    def check(self, result: str, stored: AgentState | None) -> None:
        assert self.deleted is (True if result == "done" else None)
        assert result == "unknown" or stored is None


class Load(Attempt):
    async def run(self) -> None:
        assert await self.store.load("a", self.session_id) == self.mine

    def check(self, result: str, stored: AgentState | None) -> None:
        assert stored == self.mine


KINDS: list[type[Attempt]] = [FreshSave, Save, ConditionalSave, Append, Delete, Load]


@contextlib.asynccontextmanager
async def benches(server: RedisServer) -> AsyncGenerator[list[Bench]]:
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(behind_proxy(server, timeout=TIMEOUT)) for _ in range(WORKERS)]
        for bench in opened:
            await bench.store.save(state("0000"))  # with which a store looks at the index, once
        yield opened
        for bench in opened:
            assert not bench.truth.disagreement()


def attempts_of(kinds: list[type[Attempt]], bench: Bench, names: Iterator[int]) -> list[Attempt]:
    return [kind(bench, str(next(names))) for kind in kinds]


async def prepare(attempts: list[Attempt]) -> None:
    await asyncio.gather(*(attempt.prepare() for attempt in attempts))


async def run(attempts: list[Attempt], where: str) -> Counter[str]:
    """Run operations together, and check each. Returns how often each outcome came."""
    results = await asyncio.gather(*(outcome(attempt.run()) for attempt in attempts))
    for attempt, result in zip(attempts, results, strict=True):
        assert result in attempt.outcomes, f"{type(attempt).__name__}, {where}"
        attempt.check(result, await attempt.bench.truth.load(attempt.session_id))
    return Counter(results)


async def size_of(attempts: list[Attempt]) -> tuple[int, int]:
    """How many bytes of requests and of replies it takes where nothing is cut."""
    await prepare(attempts)
    proxy = attempts[0].bench.proxy
    up, down = proxy.bytes_up, proxy.bytes_down
    await run(attempts, "not cut")
    await asyncio.sleep(0.01)  # the proxy counts after it has forwarded
    return proxy.bytes_up - up, proxy.bytes_down - down


async def cut_everywhere(server: RedisServer, kinds: list[type[Attempt]], *, step: int = 1) -> None:
    """Run operations in one batch, with a cut after each byte in turn, or after each so many."""
    names = itertools.count(1000)
    total: Counter[str] = Counter()

    async def work(bench: Bench, points: list[tuple[int | None, int | None]]) -> None:
        for requests, replies in points:
            attempts = attempts_of(kinds, bench, names)
            await prepare(attempts)
            bench.proxy.cut_after(requests=requests, replies=replies)
            total.update(await run(attempts, f"cut after {requests} bytes of the request, {replies} of the reply"))
            bench.proxy.cut_after()

    async with benches(server) as workers:
        sizes = [await size_of(attempts_of(kinds, workers[0], names)) for _ in range(3)]
        up, down = min(sizes)  # now and then a write has the index looked through beside
        points: list[tuple[int | None, int | None]] = [(point, None) for point in range(0, up + 1, step)]
        points += [(None, point) for point in range(0, down, step)]
        await asyncio.gather(*(work(bench, points[number::WORKERS]) for number, bench in enumerate(workers)))
        cuts = sum(bench.proxy.cuts for bench in workers)
    print(f"{up} bytes of requests, {down} of replies, {cuts} cuts: {dict(total)}")
    assert cuts >= len(points) - 5  # a time may be written with a digit less


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_cut_after_any_byte_leaves_an_operation_done_once_or_says_that_it_is_unknown(
    redis_server: RedisServer, kind: type[Attempt]
) -> None:
    """Saves and appends are settled by a replay; only a delete cannot tell."""
    await cut_everywhere(redis_server, [kind])


async def test_a_cut_in_any_part_of_a_batch_confuses_none_of_its_operations(redis_server: RedisServer) -> None:
    """Those that were answered are done, the others are settled one by one."""
    await cut_everywhere(redis_server, KINDS, step=7)


@pytest.mark.parametrize("kind", [FreshSave, ConditionalSave, Append], ids=lambda kind: kind.__name__)
async def test_a_replay_that_is_cut_itself_is_replayed(redis_server: RedisServer, kind: type[Attempt]) -> None:
    """The reply is lost, and the next connection ends anywhere in its handshake, the script's text or its arguments."""
    names = itertools.count(1000)

    async def work(bench: Bench, points: Iterable[int]) -> None:
        for point in points:

            def lose(data: bytes, point: int = point) -> Action:
                bench.proxy.on_reply = None
                bench.proxy.cut_after(requests=point)
                return Action(forward=0, cut=True)

            attempts = attempts_of([kind], bench, names)
            await prepare(attempts)
            bench.proxy.on_reply = lose
            await run(attempts, f"next connection cut after {point} bytes")
            bench.proxy.cut_after()

    async with benches(redis_server) as workers:
        points = range(0, LONGEST_REPLAY, SCRIPT_STEP)
        await asyncio.gather(*(work(bench, points[number::WORKERS]) for number, bench in enumerate(workers)))
        print(f"{sum(bench.proxy.cuts for bench in workers)} cuts")
        assert sum(bench.proxy.cuts for bench in workers) > len(points) * 1.5
