"""Servers whose listings go round or on for ever: what walks through them ends, with an error of ours."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.scripted import Command, Deed, ScriptedServer, bulk
from support.timed import Store

from redis_state import RedisConfig, RedisStateStore, StoreUnavailableError
from redis_state.index import cursors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

INDEX: Final = b"forge:state:sessions:{a}"
STATE: Final = b"forge:state:{a}:s"


def array(*items: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


async def iterated(items: Any) -> list[Any]:
    return [item async for item in items]


def round_and_round(limit: int) -> Callable[[Command], bytes]:
    """Cursors of a circle."""
    numbers = itertools.cycle(range(1, limit + 1))
    return lambda _: b"%d" % next(numbers)


def on_and_on() -> Callable[[Command], bytes]:
    """Ever new cursors."""
    numbers = itertools.count(1)
    return lambda _: b"%d" % next(numbers)


class Endless:
    """Answers what walks."""

    def __init__(self, cursors: Callable[[Command], bytes], *, evicts: bool = False) -> None:
        self.cursors = cursors
        self.evicts = evicts

    def __call__(self, command: Command) -> bytes | Deed | None:  # noqa: PLR0911  # a table
        match command:
            case [b"SCAN", *_]:
                found = STATE if command[3].endswith(b"{a}:*") else INDEX
                return array(bulk(self.cursors(command)), array(bulk(found)))
            case [b"EVAL" | b"EVALSHA", _, b"1", _, _, _, _]:  # a part of an index by cursor
                return array(
                    bulk(self.cursors(command)), b":1\r\n", b":1\r\n", b":0\r\n", array(bulk(b"s"), bulk(b"1"))
                )
            case [b"EVAL" | b"EVALSHA", _, b"1", _, _, _, _, _, _]:  # a page of an index
                return array(b":1\r\n", b":0\r\n", b":0\r\n", array())
            case [b"EVAL" | b"EVALSHA", _, b"1", _, _]:  # what divides an index into parts
                return array()
            case [b"ZRANGE" | b"ZRANGEBYSCORE", *_]:
                return array(bulk(b"s"))
            case [b"ZCARD", _]:  # more than there are, so that a walk by cursor looks for the rest
                return b":2\r\n"
            case [b"ZSCORE", *_]:
                return bulk(None)
            case [b"INFO", b"memory"] if self.evicts:
                return bulk(b"maxmemory_policy:allkeys-lru\r\n")
            case [b"INFO", b"stats"] if self.evicts:
                return bulk(b"evicted_keys:5\r\n")
            case _:
                return None


OPERATIONS: Final[dict[str, Callable[[Store], Awaitable[Any]]]] = {
    "list": lambda store: store.list("a"),
    "list some": lambda store: store.list("a", limit=5),
    "count": lambda store: store.count("a"),
    "sessions": lambda store: iterated(store.sessions("a")),
    "delete_agent": lambda store: store.delete_agent("a"),
    "agents": lambda store: iterated(store.agents()),
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks are not given up before many steps, which a test does not wait for."""
    monkeypatch.setattr(cursors, "BARREN", 60)
    monkeypatch.setattr(cursors, "LONGEST", 200)


@pytest.mark.parametrize("evicts", [False, True], ids=["", "evicts"])
@pytest.mark.parametrize("kind", ["the same", "round", "on"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_walk_without_an_end_is_given_up(name: str, kind: str, evicts: bool) -> None:  # noqa: FBT001
    """Whether its cursor stays, goes round or is ever new, and what it finds is ever the same."""
    numbers = {"the same": round_and_round(1), "round": round_and_round(20), "on": on_and_on()}[kind]
    async with (
        asyncio.timeout(10),
        ScriptedServer(Endless(numbers, evicts=evicts)) as server,
        RedisStateStore.from_config(RedisConfig(addrs=[server.addr])) as store,
    ):
        with pytest.raises(StoreUnavailableError, match="no end"):
            await OPERATIONS[name](store)


@pytest.mark.parametrize("kind", ["the same", "on"])
async def test_a_store_with_partitions_does_not_look_for_ever_whether_there_were_none(kind: str) -> None:
    """It looks through all keys once, when it is opened."""
    numbers = {"the same": round_and_round(1), "on": on_and_on()}[kind]

    def answer(command: Command) -> bytes | Deed | None:
        return array(bulk(numbers(command)), array()) if command[0] == b"SCAN" else None

    async with ScriptedServer(answer) as server, asyncio.timeout(10):
        store = RedisStateStore.from_config(RedisConfig(addrs=[server.addr]), partitions=3)
        try:
            with pytest.raises(StoreUnavailableError):
                await store.ping()
        finally:
            await store.aclose()
        assert len(server.names()) < 250


def test_a_circle_of_any_length_is_seen() -> None:
    """Soon after it has closed, whatever came before it."""
    for before in range(20):
        for length in range(1, 20):
            walk = cursors.Walk()
            for step in range(1, before + 1):
                assert walk.to(1000 + step)
            circle = itertools.cycle(range(1, length + 1))
            steps = itertools.islice(circle, 4 * (before + length))
            with pytest.raises(StoreUnavailableError):
                list(map(walk.to, steps))


def test_a_walk_that_ends_is_none_of_these() -> None:
    """Nor one that finds nothing for a while."""
    walk = cursors.Walk()
    assert all(walk.to(b"%d" % number, is_new=number % 50 == 0) for number in range(150, 0, -1))
    assert not walk.to(b"0")
