"""Appending: order, versions and places in the list, what it costs, and what stands in Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.states import Store, infos, messages, saved, state, texts
from support.stores import Stores, on_one_server, on_servers

from redis_state import Message, SessionInfo, StateDecodeError, StateEncodeError, StateNotFoundError


async def test_it_adds_to_the_messages_as_one_version_for_each_call(store: Store) -> None:
    """In order, after those of the state; the rest stays, and `sessions` tells the time of the append."""
    mine = state("s", "hi", n=1)
    await store.save(mine)
    more = [Message("user", "more"), Message("assistant", "yes", metadata={"k": [1, None]})]
    assert await store.append("a", "s", iter(more)) == 2
    assert await store.append("a", "s", messages("last")) == 3
    loaded = await store.load("a", "s")
    assert loaded.messages[:-1] == [*mine.messages, *more]
    assert texts(loaded)[-1] == "last"
    assert (loaded.version, loaded.data, loaded.created_at) == (3, {"n": 1}, mine.created_at)
    assert loaded.updated_at > mine.updated_at
    assert await infos(store) == [SessionInfo("s", loaded.updated_at)]


async def test_an_append_of_nothing_is_a_write_as_well(store: Store) -> None:
    """Version and place change; where nothing is stored it is not found, and stores nothing."""
    await saved(store, "s", "other")
    assert await store.append("a", "s", []) == 2
    assert await store.list("a") == ["s", "other"]
    with pytest.raises(StateNotFoundError) as caught:
        await store.append("a", "never", [])
    assert (caught.value.agent_id, caught.value.session_id) == ("a", "never")
    assert await store.count("a") == 2


async def test_appends_at_once_are_each_there_once_and_have_versions_of_their_own(store: Store) -> None:
    await saved(store, "s")
    versions = await asyncio.gather(*(store.append("a", "s", messages(f"{n}")) for n in range(30)))
    assert sorted(versions) == list(range(2, 32))
    assert sorted(texts(await store.load("a", "s"))) == sorted(map(str, range(30)))


async def test_hundreds_in_turn_are_loaded_in_order_with_saves_in_between(store: Store) -> None:
    """A save takes the appended along, once."""
    await store.save(state("s", "first"))
    for number in range(200):
        await store.append("a", "s", messages(f"{number}"))
        if number % 100 == 50:
            loaded = await store.load("a", "s")
            await store.save(loaded, if_version=loaded.version)
    loaded = await store.load("a", "s")
    assert texts(loaded) == ["first", *map(str, range(200))]
    assert loaded.version == 203


async def test_a_plain_save_of_an_older_object_wins_over_an_append(store: Store) -> None:
    """Last write wins: what was appended since it was loaded is gone."""
    (mine,) = await saved(store, "s")
    await store.append("a", "s", messages("lost"))
    await store.save(mine)
    assert texts(await store.load("a", "s")) == []


async def test_appended_text_is_kept_whatever_it_holds(store: Store) -> None:
    """Line feeds, quotes, what looks like the end of a value, and other alphabets."""
    hostile = ["a\nb", '"_rev":"9-AAAAAA@1"}', '\n{"messages":[],"_rev":"2-x@3"}', "\u2028\x00\r", "日本語 💡", "\\"]
    await store.save(state("s", *hostile))
    for text in hostile:
        await store.append("a", "s", [Message("user", text, metadata={text: text})])
    loaded = await store.load("a", "s")
    assert texts(loaded) == hostile * 2
    await store.save(loaded, if_version=1 + len(hostile))
    assert texts(await store.load("a", "s")) == hostile * 2


@pytest.mark.parametrize(
    ("refused", "path"),
    [
        ([*messages("a"), Message("user", "b", metadata={"x": [float("nan")]})], "$.messages[1].metadata.x[0]"),
        (messages("lone \ud800"), "$.messages[0].content"),
        ([{"role": "user", "content": "hi"}], "$.messages[0]"),
        ("hi", "$.messages[0]"),
    ],
)
async def test_what_would_come_back_different_is_refused_and_nothing_is_added(
    store: Store, refused: Any, path: str
) -> None:
    await saved(store, "s")
    with pytest.raises(StateEncodeError) as caught:
        await store.append("a", "s", refused)
    assert caught.value.path == path
    assert (await store.load("a", "s")).version == 1


@on_one_server
async def test_what_is_sent_does_not_grow_with_the_history(store: Store, stores: Stores) -> None:
    """An append to a thousand messages sends and receives as many bytes as one to none."""
    await store.save(state("short"))
    await store.save(state("long", *["x" * 1000] * 1000))
    await asyncio.gather(*(store.append("a", name, messages("warm")) for name in ("short", "long")))

    def traffic() -> list[int]:
        stats = stores.server.info("stats")
        return [int(stats["total_net_input_bytes"]), int(stats["total_net_output_bytes"])]

    costs: list[list[int]] = []
    for name in ("short", "long"):
        before = traffic()
        await store.append("a", name, messages("y" * 100))
        costs.append([after - start for start, after in zip(before, traffic(), strict=True)])
    for short, long in zip(*costs, strict=True):
        assert abs(long - short) < 100


@on_servers
async def test_a_damaged_line_is_no_state(stores: Stores) -> None:
    """StateDecodeError, never a conversation with a hole."""
    store = await stores.open(format="json")
    await saved(store, "s")
    await store.append("a", "s", messages("one"))
    await store.append("a", "s", messages("two"))
    key = stores.state_key("a", "s")
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
            await store.load("a", "s")
