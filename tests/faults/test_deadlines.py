"""The first operation: it ends in its time, whatever the server does while the connection is being made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.proxy import Action, FaultProxy
from support.scripted import Command, Deed, ScriptedServer
from support.timed import ended, messages, opened, state, url_of

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

TIMES = {"dial_timeout": 0.5, "read_timeout": 0.9, "write_timeout": 0.1}
FIRST = sum(TIMES.values())
LATE = {"StoreTimeoutError", "StoreUnavailableError"}


@pytest.mark.parametrize("operation", ["load", "save", "append", "count"])
@pytest.mark.parametrize("answered", range(5))
async def test_the_first_operation_ends_though_the_server_answers_some_commands_only(
    answered: int, operation: str
) -> None:
    """None, one, two ... of the commands on a new connection are answered, then no more."""
    replies = 0

    def answer(command: Command) -> Deed | None:
        nonlocal replies
        replies += 1
        return None if replies <= answered else Deed.SILENCE

    async with (
        ScriptedServer(answer) as server,
        opened(url_of(f"redis://{server.addr}/0", "test:", **TIMES), 1.0) as store,
    ):
        operations = {
            "load": lambda: store.load("a", "s"),
            "save": lambda: store.save(state()),
            "append": lambda: store.append("a", "s", messages("x")),
            "count": lambda: store.count("a"),
        }
        result = await ended(operations[operation](), FIRST)
    assert result in {*LATE, "OutcomeUnknownError", "StateNotFoundError"}


HANDSHAKE = (b"CLIENT", b"SELECT", b"HELLO", b"AUTH")


@pytest.mark.parametrize("delay", [0.3, 0.8])
async def test_the_first_operation_ends_though_the_server_answers_slowly(
    redis_server: RedisServer, delay: float
) -> None:
    """Each answer comes in time, all of them together may not."""

    def slowly(data: bytes) -> Action | None:
        return None if any(word in data for word in HANDSHAKE) else Action(delay=delay)

    async with FaultProxy(redis_server.host, redis_server.port) as proxy:
        proxy.on_request = slowly
        async with opened(url_of(proxy.url, "test-slow:", **TIMES), 1.0) as store:
            result = await ended(store.save(state("slow")), FIRST)
            proxy.on_request = None
    async with opened(url_of(redis_server.url, "test-slow:")) as store:
        await store.delete_agent("a")
    assert result in {*LATE, "OutcomeUnknownError", "done"}
