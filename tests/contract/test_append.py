"""Appending: what it costs, and what stands in Redis."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from support.stores import Stores, on_kinds, on_one_server, on_server_kinds

from redis_state import AgentState, Message, SessionStore, StateDecodeError

Store = SessionStore[AgentState]


def a_state(session_id: str = "s1", **fields: Any) -> AgentState:
    return AgentState(agent_id="a1", session_id=session_id, **fields)


def contents(state: AgentState) -> list[str]:
    return [message.content for message in state.messages]


@on_one_server
async def test_what_is_sent_does_not_grow_with_the_history(store: Store, stores: Stores) -> None:
    """An append to a thousand messages sends and receives as many bytes as one to none."""
    await store.save(a_state("short"))
    await store.save(a_state("long", messages=[Message("user", "x" * 1000) for _ in range(1000)]))
    await asyncio.gather(*(store.append("a1", name, [Message("user", "warm")]) for name in ("short", "long")))

    def traffic() -> list[int]:
        stats = stores.server.info("stats")
        return [int(stats["total_net_input_bytes"]), int(stats["total_net_output_bytes"])]

    costs: list[list[int]] = []
    for name in ("short", "long"):
        before = traffic()
        await store.append("a1", name, [Message("user", "y" * 100)])
        costs.append([after - start for start, after in zip(before, traffic(), strict=True)])
    for short, long in zip(*costs, strict=True):
        assert abs(long - short) < 100


@on_kinds
async def test_hundreds_in_turn_are_loaded_in_order(store: Store) -> None:
    """After a state with messages of its own, with saves in between."""
    await store.save(a_state(messages=[Message("user", "first")]))
    for number in range(300):
        await store.append("a1", "s1", [Message("user", f"{number}")])
        if number == 150:
            await store.save(await store.load("a1", "s1"), if_version=number + 2)
    loaded = await store.load("a1", "s1")
    assert contents(loaded) == ["first", *map(str, range(300))]
    assert loaded.version == 302


@on_kinds
async def test_appended_text_is_kept_whatever_it_holds(store: Store) -> None:
    """Line feeds, quotes, what looks like the end of a value, and other alphabets."""
    texts = ["a\nb", '"_rev":"9-AAAAAA@1"}', '\n{"messages":[],"_rev":"2-x@3"}', "\u2028\x00\r", "日本語 💡", "\\", ""]
    await store.save(a_state(messages=[Message("user", text) for text in texts]))
    for text in texts:
        await store.append("a1", "s1", [Message("user", text, metadata={text: text})])
    loaded = await store.load("a1", "s1")
    assert contents(loaded) == texts * 2
    assert loaded.version == 1 + len(texts)
    await store.save(loaded, if_version=loaded.version)
    assert contents(await store.load("a1", "s1")) == texts * 2


@on_kinds
async def test_a_plain_save_of_an_older_object_wins(store: Store) -> None:
    """Last write wins: what was appended since it was loaded is gone."""
    state = a_state()
    await store.save(state)
    await store.append("a1", "s1", [Message("user", "lost")])
    await store.save(state)
    assert contents(await store.load("a1", "s1")) == []


@on_server_kinds
async def test_it_leaves_the_expiry_as_it_is(store: Store, stores: Stores) -> None:
    """Unless a time is given: with the call, or to the store."""
    key = stores.state_key("a1", "s1")
    await store.save(a_state())
    await store.append("a1", "s1", [])
    assert stores.command("PTTL", key) == -1
    await store.save(a_state(), ttl=timedelta(hours=1))
    await store.append("a1", "s1", [])
    assert 3_000_000 < stores.command("PTTL", key) <= 3_600_000
    await store.append("a1", "s1", [], ttl=timedelta(hours=2))
    assert 3_600_000 < stores.command("PTTL", key) <= 7_200_000
    expiring = await stores.open(ttl=timedelta(hours=3))
    await expiring.append("a1", "s1", [])
    assert 7_200_000 < stores.command("PTTL", key) <= 10_800_000


@on_server_kinds
async def test_a_damaged_line_is_no_state(stores: Stores) -> None:
    """StateDecodeError, never a conversation with a hole."""
    store = await stores.open(format="json")
    await store.save(a_state())
    await store.append("a1", "s1", [Message("user", "one")])
    await store.append("a1", "s1", [Message("user", "two")])
    key = stores.state_key("a1", "s1")
    value = stores.command("GET", key)
    for damaged in (
        value.replace(b'"one"', b"one"),
        value.replace(b'"content":"one"', b'"content":1'),
        value[:-2],
        value[1:],
        value[: value.index(b"\n") - 1] + value[value.index(b"\n") :],
    ):
        stores.command("SET", key, damaged)
        with pytest.raises(StateDecodeError):
            await store.load("a1", "s1")
