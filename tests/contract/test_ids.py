"""Ids: what is one, what is none, and that no two are confused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from support.states import Store, agent_ids, infos, messages, state

from redis_state import InvalidIdError, StoreClosedError

HOUR: Final = timedelta(hours=1)

# Every operation as a call with two ids; those of an agent or of the store ignore what they do not take.
Call = Callable[[Store, Any, Any], Awaitable[object]]
OF_A_SESSION: Final[dict[str, Call]] = {
    "save": lambda store, agent, session: store.save(state(session, agent_id=agent)),
    "save if_version": lambda store, agent, session: store.save(state(session, agent_id=agent), if_version=0),
    "load": lambda store, agent, session: store.load(agent, session),
    "delete": lambda store, agent, session: store.delete(agent, session),
    "exists": lambda store, agent, session: store.exists(agent, session),
    "update": lambda store, agent, session: store.update(agent, session, lambda _: None),
    "append": lambda store, agent, session: store.append(agent, session, messages("hi")),
    "touch": lambda store, agent, session: store.touch(agent, session, ttl=HOUR),
    "load_many": lambda store, agent, session: store.load_many(agent, [session]),
}
OF_AN_AGENT: Final[dict[str, Call]] = {
    "list": lambda store, agent, _: store.list(agent),
    "list limit=0": lambda store, agent, _: store.list(agent, limit=0),
    "sessions": lambda store, agent, _: infos(store, agent),
    "sessions limit=0": lambda store, agent, _: infos(store, agent, limit=0),
    "count": lambda store, agent, _: store.count(agent),
    "delete_agent": lambda store, agent, _: store.delete_agent(agent),
    "load_many of none": lambda store, agent, _: store.load_many(agent, []),
}
OF_THE_STORE: Final[dict[str, Call]] = {
    "agents": lambda store, _, __: agent_ids(store),
    "ping": lambda store, _, __: store.ping(),
}
NO_IDS: Final = ["", None, 7, b"bytes", ("t",), "x" * 513, "é" * 257, "\ud800", "a\udfff"]
IDS: Final = [
    *("x" * 512, "é" * 256, "a:b", "{a}", "a}b", "*", "?", "[a]", "\\", "^", "%", "%7B", "%25", " ", "\n", "\x00"),
    *("\x7f", "a b", "😀", "e\u0301", "é", "sessions:", "partitions", "../..", "\u2028", "A", "a", "a:0", "-1"),
]


async def outcome_of(call: Awaitable[object]) -> object:
    return (await asyncio.gather(call, return_exceptions=True))[0]


async def test_what_is_no_id_is_refused_by_every_operation_and_nothing_is_stored(store: Store) -> None:
    """Empty, not a string, over 512 bytes or not UTF-8: InvalidIdError by the field's name, which is a ValueError."""
    for no_id in NO_IDS:
        for name, call in {**OF_A_SESSION, **OF_AN_AGENT}.items():
            outcome = await outcome_of(call(store, no_id, "s"))
            assert isinstance(outcome, InvalidIdError), (name, no_id)
            assert "agent_id" in str(outcome)
        for name, call in OF_A_SESSION.items():
            outcome = await outcome_of(call(store, "a", no_id))
            assert isinstance(outcome, InvalidIdError), (name, no_id)
            assert "session_id" in str(outcome)
    assert issubclass(InvalidIdError, ValueError)
    assert await agent_ids(store) == []


async def test_every_other_string_is_an_id_and_no_two_are_confused(store: Store) -> None:
    for number, hostile in enumerate(IDS):
        await store.save(state(hostile, agent_id="owner", n=number))
        await store.save(state("s", agent_id=hostile, n=-number))
    for number, hostile in enumerate(IDS):
        assert (await store.load("owner", hostile)).data == {"n": number}
        assert (await store.load(hostile, "s")).data == {"n": -number}
        assert await store.list(hostile) == ["s"]
    assert await store.list("owner") == IDS[::-1]
    assert await agent_ids(store) == sorted([*IDS, "owner"])


async def test_a_closed_store_says_so_whatever_it_is_asked(store: Store) -> None:
    """Also where an operation would have nothing to do; a save leaves its object as it was."""
    await store.aclose()
    for name, call in {**OF_A_SESSION, **OF_AN_AGENT, **OF_THE_STORE}.items():
        assert isinstance(await outcome_of(call(store, "a", "s")), StoreClosedError), name
    mine, before = state(), state()
    before.created_at, before.updated_at = mine.created_at, mine.updated_at
    with pytest.raises(StoreClosedError):
        await store.save(mine)
    assert mine == before
    with pytest.raises(StoreClosedError):
        async with store:
            pytest.fail("entered")
