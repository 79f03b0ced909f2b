"""Whatever a Sentinel says: operations end in time, and what listens to Sentinels goes on listening."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any, Final

import pytest
from support.scripted import Command, Deed, ScriptedServer, bulk
from support.timed import SLACK, TIMES, Store, state, until, url_of

from redis_state import RedisStateStore, StateStoreError

REPLIES: Final = {
    "nil": b"*-1\r\n",
    "nothing": b"$-1\r\n",
    "an empty array": b"*0\r\n",
    "a status": b"+OK\r\n",
    "a number": b":7\r\n",
    "one word": b"*1\r\n$1\r\nx\r\n",
    "three words": b"*3\r\n$1\r\nx\r\n$1\r\n1\r\n$1\r\n1\r\n",
    "no port": b"*2\r\n$9\r\n127.0.0.1\r\n$1\r\nx\r\n",
    "nil twice": b"*2\r\n$-1\r\n$-1\r\n",
    "numbers": b"*2\r\n:1\r\n:1\r\n",
    "a large port": b"*2\r\n$9\r\n127.0.0.1\r\n$9\r\n999999999\r\n",
    "a negative port": b"*2\r\n$9\r\n127.0.0.1\r\n$2\r\n-1\r\n",
    "bytes": b"*2\r\n$2\r\n\xff\xfe\r\n$1\r\n1\r\n",
    "a host of two lines": b"*2\r\n$9\r\na\nb\x1b[31mc\r\n$1\r\n1\r\n",
    "a host with a nul": b"*2\r\n$3\r\na\x00b\r\n$1\r\n1\r\n",
    "a long host": b"*2\r\n$300\r\n%b\r\n$1\r\n1\r\n" % (b"a" * 300),
    "arrays": b"*2\r\n*0\r\n*0\r\n",
    "errors": b"*2\r\n-ERR a\r\n-ERR b\r\n",
    "an error": b"-ERR \x1b[31m\r\n",
    "no RESP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


def store_at(sentinel: ScriptedServer) -> Store:
    return RedisStateStore.from_url(url_of(f"redis+sentinel://{sentinel.addr}/primary", "test:"))


def surprises() -> list[Any]:
    """What the loop will be told of tasks and callbacks that failed."""
    found: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


@pytest.mark.parametrize("kind", REPLIES)
async def test_an_address_that_is_none_fails_the_operation_in_time(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """With an error of ours, and no word of a hostile Sentinel in a log."""
    caplog.set_level(logging.DEBUG)
    found = surprises()

    def answer(command: Command) -> bytes | Deed | None:
        return REPLIES[kind] if command[0] == b"SENTINEL" else None

    async with ScriptedServer(answer) as sentinel:
        store = store_at(sentinel)
        try:
            async with asyncio.timeout(sum(TIMES.values()) + SLACK):
                with pytest.raises(StateStoreError) as caught:
                    await store.save(state())
        finally:
            await store.aclose()
    gc.collect()
    assert found == []
    ours = [record.getMessage() for record in caplog.records if record.name == "redis_state"]
    assert all(text.isprintable() for text in (str(caught.value), *ours))


@pytest.mark.parametrize("asked", ["GET-MASTER-ADDR-BY-NAME", "SENTINELS", "events"])
async def test_a_sentinel_that_goes_mad_for_a_while_is_listened_to_again(asked: str) -> None:
    """Nothing that it says ends the watch, or the subscription to it for good."""
    found = surprises()
    await asyncio.gather(*(endure(asked, reply) for reply in REPLIES.values()))
    gc.collect()
    assert found == []


async def endure(asked: str, reply: bytes) -> None:
    """A store, while one question to its Sentinel is answered so."""
    mad = False

    def answer(command: Command) -> bytes | Deed | None:
        names = [word.upper().decode() for word in command[:2]]
        if mad and (asked in names or (asked == "events" and names[0] == "PSUBSCRIBE")):
            return reply
        match names:
            case ["SENTINEL", "GET-MASTER-ADDR-BY-NAME"]:
                return b"*2\r\n" + bulk(b"127.0.0.1") + bulk(b"%d" % primary.port)
            case ["SENTINEL", "SENTINELS"]:
                return b"*0\r\n"
            case ["PSUBSCRIBE", *_]:
                return b"".join(b"*3\r\n$10\r\npsubscribe\r\n%b:1\r\n" % bulk(each) for each in command[1:])
            case _:
                return None

    async with ScriptedServer() as primary, ScriptedServer(answer) as sentinel:
        mad = asked != "GET-MASTER-ADDR-BY-NAME"  # without an address nothing is opened
        async with store_at(sentinel) as store:
            await store.save(state())
            mad = True
            sentinel.cut()
            await asyncio.sleep(0.3)
            mad = False
            subscriptions = sentinel.names().count(b"PSUBSCRIBE")
            sentinel.cut()
            await until(lambda: sentinel.names().count(b"PSUBSCRIBE") > subscriptions)
            opened: Any = store
            assert not opened._client._dispatcher._watching.done()
            await store.save(state())
