"""Loading one, many and none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from support.states import Store, never, saved, state
from support.stores import Stores, on_servers

from redis_state import StateDecodeError, StateNotFoundError


async def test_what_is_not_there_is_not_found_with_its_ids(store: Store) -> None:
    """Never saved, deleted and another agent's look the same."""
    await saved(store, "s", "deleted")
    await store.delete("a", "deleted")
    for agent_id, session_id in (("a", "never"), ("a", "deleted"), ("another", "s")):
        with pytest.raises(StateNotFoundError) as caught:
            await store.load(agent_id, session_id)
        assert (caught.value.agent_id, caught.value.session_id) == (agent_id, session_id)
        assert await store.exists(agent_id, session_id) is False
    assert await store.exists("a", "s") is True


async def test_many_are_loaded_by_id_in_the_order_asked(store: Store) -> None:
    """Ids without a state are left out, twice is once; what was loaded can be saved on."""
    s1, s2, s3 = await saved(store, "s1", "s2", "s3")
    found = await store.load_many("a", iter(["s3", "nobody", "s1", "s3", "s2"]))
    assert list(found.items()) == [("s3", s3), ("s1", s1), ("s2", s2)]
    assert await store.load_many("a", []) == await store.load_many("another", ["s1"]) == {}
    await store.save(found["s1"], if_version=1)


async def test_more_are_loaded_than_one_command_takes(store: Store) -> None:
    states = {f"s{n}": state(f"s{n}", n=n) for n in range(450)}
    await asyncio.gather(*map(store.save, states.values()))
    found = await store.load_many("a", states)
    assert list(found.items()) == list(states.items())


@on_servers
@pytest.mark.parametrize(
    "value", [b"", b"nonsense", b"[1]", b"{}", b'{"agent_id":1}', b"\x00", b"3", b"{" * 10_000, b"[" * 100_000]
)
async def test_foreign_bytes_are_never_read_as_a_state_and_stay_as_they_are(
    store: Store, stores: Stores, value: bytes
) -> None:
    """StateDecodeError with the ids and without the bytes; of what is no document only a plain save is none."""
    key = stores.state_key("a", "s")
    stores.command("SET", key, value)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.load("a", "s"),
        lambda: store.load_many("a", ["s"]),
        lambda: store.update("a", "s", never),
    ]
    if not value.endswith(b"}"):
        calls += [lambda: store.save(state(), if_version=0), lambda: store.save(state(), if_version=1)]
        calls += [lambda: store.append("a", "s", [])]
    for call in calls:
        with pytest.raises(StateDecodeError) as caught:
            await call()
        assert (caught.value.agent_id, caught.value.session_id) == ("a", "s")
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert stores.command("GET", key) == value
    await store.save(state())
    assert (await store.load("a", "s")).version == 1
