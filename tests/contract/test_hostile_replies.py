"""Whatever a server replies to whatever is sent: a result of the right type, or one of our errors, in time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from support.scripted import Command, Deed, ScriptedServer, bulk
from support.timed import SLACK, Store, messages, state, url_of

from redis_state import AgentState, Message, RedisStateStore, SessionInfo, StateStoreError
from redis_state.index import cursors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

REPLIES: Final = {
    "zero": b":0\r\n",
    "one": b":1\r\n",
    "a large integer": b":9223372036854775807\r\n",
    "QUEUED": b"+QUEUED\r\n",
    "an empty string": b"$0\r\n\r\n",
    "bytes": b"$4\r\n\xff\x00\r\n\r\n",
    "no number as text": b"$20\r\n99999999999999999999\r\n",
    "no string": b"$-1\r\n",
    "no array": b"*-1\r\n",
    "an empty array": b"*0\r\n",
    "an array of two texts": b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    "an array of three": b"*3\r\n$1\r\n0\r\n:0\r\n:0\r\n",
    "an array of five": b"*5\r\n$1\r\n0\r\n:1\r\n:0\r\n$1\r\ns\r\n$3\r\nnan\r\n",
    "an array of nulls": b"*2\r\n$-1\r\n_\r\n",
    "nested arrays": b"*2\r\n*1\r\n*1\r\n*0\r\n*0\r\n",
    "an array with an error": b"*2\r\n-ERR no\r\n:1\r\n",
    "an array with redirects": b"*2\r\n-MOVED 1 x:1\r\n-ASK 1 x:1\r\n",
    "a scan": b"*2\r\n$1\r\n0\r\n*2\r\n$30\r\nforge:state:sessions:{\xff\xfe\xfd\xfc\xfb\xfa\xf9}\r\n$1\r\nx\r\n",
    "a state of another": bulk(b'{"agent_id":"other","session_id":"s"}'),
    "an infinity": b",inf\r\n",
    "no number": b",nan\r\n",
    "a big number": b"(123456789012345678901234567890\r\n",
    "a verbatim string": b"=7\r\ntxt:one\r\n",
    "a map": b"%1\r\n+a\r\n:1\r\n",
    "a map of arrays": b"%1\r\n*1\r\n:1\r\n:1\r\n",
    "a set": b"~2\r\n:1\r\n:2\r\n",
    "a push and OK": b">2\r\n+invalidate\r\n*0\r\n+OK\r\n",
    "an error": b"-ERR no\r\n",
    "an error of bytes": b"-\xff\xfe\x1b[31m\r\n",
    "a redirect to nowhere": b"-MOVED\r\n",
    "a redirect": b"-MOVED 99999 127.0.0.1:99999\r\n",
    "two replies": b"+OK\r\n+OK\r\n",
    "half a reply": b"$10\r\nabc",
    "no RESP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


async def iterated(items: Any) -> list[Any]:
    return [item async for item in items]


def each_is(kind: type, *, of: type) -> Callable[[Any], bool]:
    return lambda result: type(result) is kind and all(type(item) is of for item in result)


def one_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda result: type(result) in kinds


@dataclass(frozen=True)
class Operation:
    """What is called, and what it may return.

    Attributes:
        call: Calls it.
        fits: Whether a result is of the right type.
        commands: The names of the commands of which one each is answered by something hostile.
        options: The store's.
        answers: What other commands are answered, by their first words.
    """

    call: Callable[[Store], Awaitable[Any]]
    fits: Callable[[Any], bool]
    commands: tuple[bytes, ...]
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    answers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])


SCRIPT: Final = (b"EVAL",)
EVICTING: Final = {
    b"INFO memory": bulk(b"maxmemory_policy:allkeys-lru\r\n"),
    b"INFO stats": bulk(b"evicted_keys:1\r\n"),
}
ONE_KEY: Final = b"*2\r\n$1\r\n0\r\n*1\r\n" + bulk(b"forge:state:{a}:s")
TTL: Final = timedelta(seconds=9)
OPERATIONS: Final = {
    "load": Operation(lambda store: store.load("a", "s"), one_of(AgentState), (b"GET",)),
    "load, expiring": Operation(
        lambda store: store.load("a", "s"), one_of(AgentState), (b"GETEX",), {"ttl": TTL, "refresh_ttl": True}
    ),
    "load_many": Operation(
        lambda store: store.load_many("a", ["s", "t"]), lambda found: type(found) is dict, (b"MGET",)
    ),
    "save": Operation(lambda store: store.save(state()), one_of(type(None)), (b"MULTI", b"SET", b"ZADD", b"EXEC")),
    "save with a version": Operation(lambda store: store.save(state(), if_version=0), one_of(type(None)), SCRIPT),
    "save with replicas": Operation(
        lambda store: store.save(state()), one_of(type(None)), (b"WAIT", b"EXEC"), {"replicas": 1}
    ),
    "append": Operation(lambda store: store.append("a", "s", messages("x")), one_of(int), SCRIPT),
    "update": Operation(lambda store: store.update("a", "s", lambda _: None), one_of(AgentState), (b"GET",)),
    "delete": Operation(lambda store: store.delete("a", "s"), one_of(bool), (b"DEL", b"EXEC")),
    "list": Operation(lambda store: store.list("a"), each_is(list, of=str), SCRIPT),
    "list some": Operation(lambda store: store.list("a", limit=3), each_is(list, of=str), SCRIPT),
    "list by ranges": Operation(
        lambda store: store.list("a"),
        each_is(list, of=str),
        (b"ZRANGEBYSCORE", b"ZCARD", b"EXISTS", b"EVAL"),
        answers={
            b"EVAL": b"*4\r\n:1\r\n:0\r\n:0\r\n*0\r\n",
            b"ZRANGEBYSCORE": b"*1\r\n$1\r\ns\r\n",
            b"ZCARD": b":1\r\n",
            b"EXISTS": b":0\r\n",
        },
    ),
    "merge": Operation(lambda store: store.merge("a", "s", {"context": {"x": 1}}), one_of(int), SCRIPT),
    "load_messages": Operation(lambda store: store.load_messages("a", "s", limit=3), each_is(list, of=Message), SCRIPT),
    "fork": Operation(lambda store: store.fork("a", "s", "t"), one_of(int), (b"GET", b"EVAL")),
    "save with a key": Operation(lambda store: store.save(state(), key="k"), one_of(type(None)), SCRIPT),
    "count": Operation(lambda store: store.count("a"), one_of(int), SCRIPT),
    "sessions": Operation(lambda store: iterated(store.sessions("a")), each_is(list, of=SessionInfo), SCRIPT),
    "exists": Operation(lambda store: store.exists("a", "s"), one_of(bool), (b"EXISTS",)),
    "touch": Operation(lambda store: store.touch("a", "s", ttl=TTL), one_of(bool), (b"PEXPIRE",)),
    "delete_agent": Operation(
        lambda store: store.delete_agent("a"), one_of(int), (b"ZRANGE", b"EXEC"), answers={b"ZRANGE": b"*0\r\n"}
    ),
    "agents": Operation(lambda store: iterated(store.agents()), each_is(list, of=str), (b"SCAN",)),
    "ping": Operation(lambda store: store.ping(), one_of(type(None)), (b"PING",)),
    "open": Operation(lambda store: store.ping(), one_of(type(None)), (b"INFO cluster", b"GET")),
    "open with partitions": Operation(
        lambda store: store.ping(),
        one_of(type(None)),
        (b"GET", b"SETNX", b"SCAN"),
        {"partitions": 3},
        {b"SCAN": b"*2\r\n$1\r\n0\r\n*0\r\n", b"SETNX": b":1\r\n"},
    ),
    "list what is evicted": Operation(
        lambda store: store.list("a"),
        each_is(list, of=str),
        (b"INFO memory", b"INFO stats", b"ZSCORE", b"SCAN", b"GET", b"ZADD"),
        answers={**EVICTING, b"ZSCORE": b"$-1\r\n", b"SCAN": ONE_KEY},
    ),
}
CASES: Final = [(name, command) for name, operation in OPERATIONS.items() for command in operation.commands]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk through an index without an end is given up soon."""
    monkeypatch.setattr(cursors, "BARREN", 30)


@pytest.mark.parametrize(("name", "command"), CASES, ids=[f"{name}-{command.decode()}" for name, command in CASES])
async def test_any_reply_makes_a_result_or_an_error_of_ours_in_time(
    name: str, command: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """To any command of any operation; the next operation is served, and nothing is logged as a fault of ours."""
    caplog.set_level(logging.INFO, "redis_state")
    surprises: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: surprises.append(context))
    outcomes = await asyncio.gather(*(attempt(OPERATIONS[name], command, reply) for reply in REPLIES.values()))
    wrong = {reply: outcome for reply, outcome in zip(REPLIES, outcomes, strict=True) if outcome is not None}
    assert wrong == {}
    assert surprises == []
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING] == []


async def attempt(operation: Operation, command: bytes, reply: bytes) -> str | None:
    """What is wrong with what came of it; None for nothing."""
    hostile = True

    def answer(received: Command) -> bytes | Deed | None:
        for name in (received[0].replace(b"EVALSHA", b"EVAL"), b" ".join(received[:2])):
            if hostile and name == command:
                return reply
            if name in operation.answers:
                return operation.answers[name]
        return None

    async with ScriptedServer(answer) as server:
        store = RedisStateStore.from_url(
            url_of(f"redis://{server.addr}", "forge:state:", read_timeout=0.3, write_timeout=0.3), **operation.options
        )
        try:
            async with asyncio.timeout(2 * (0.5 + 0.6 + SLACK)):  # an update, and what opens a store, are several
                result = await operation.call(store)
            if not operation.fits(result):
                return f"returned {result!r}"
            if command != b"GET":
                hostile = False
        except StateStoreError as error:
            if not str(error).isprintable():
                return f"shows {error!s}"
        except TimeoutError:
            return "does not end"
        except Exception as error:  # noqa: BLE001  # what is looked for
            return f"raised {error!r}"
        finally:
            await store.aclose()
    return None
