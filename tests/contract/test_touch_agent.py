"""`touch_agent`: all sessions of an agent live on together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest
from support.states import Store, saved, state
from support.stores import Stores, eventually, on_one_server, on_servers

from redis_state import InvalidIdError, StoreClosedError

SOON: Final = timedelta(milliseconds=30)
HOUR: Final = timedelta(hours=1)


def milliseconds_left(stores: Stores, session_id: str, agent_id: str = "a") -> int:
    return stores.command("PTTL", stores.state_key(agent_id, session_id))


async def test_it_counts_the_sessions_and_changes_nothing_else(store: Store) -> None:
    """Neither versions nor the order of the list. Of an agent without sessions there are none."""
    await saved(store, "s1", "s2", "a key: {with} *?[]", "é")
    assert await store.touch_agent("a", ttl=HOUR) == 4
    assert await store.list("a") == ["é", "a key: {with} *?[]", "s2", "s1"]
    assert {each.version for each in (await store.load_many("a", await store.list("a"))).values()} == {1}
    assert await store.touch_agent("nobody", ttl=HOUR) == 0


async def test_sessions_that_would_have_expired_live_on(store: Store) -> None:
    for name in ("s1", "s2"):
        await store.save(state(name), ttl=SOON * 10)
    assert await store.touch_agent("a", ttl=HOUR) == 2
    await store.save(state("short"), ttl=SOON * 10)

    async def expired() -> bool:
        return not await store.exists("a", "short")

    await eventually(expired)
    assert sorted(await store.list("a")) == ["s1", "s2"]


async def test_what_has_expired_is_not_counted(store: Store) -> None:
    await saved(store, "s1")
    await store.save(state("gone"), ttl=SOON)

    async def expired() -> bool:
        return not await store.exists("a", "gone")

    await eventually(expired)
    assert await store.touch_agent("a", ttl=HOUR) == 1


async def test_all_of_them_expire_together(store: Store) -> None:
    """Those that were never to expire as well."""
    await saved(store, "s1", "s2")
    await store.save(state("s3"), ttl=HOUR)
    assert await store.touch_agent("a", ttl=SOON) == 3

    async def expired() -> bool:
        return await store.list("a") == []

    await eventually(expired)


@on_servers
async def test_every_page_is_touched_and_other_agents_are_not(store: Store, stores: Stores) -> None:
    """However many sessions there are, each script looks at a bounded number of them."""
    names = [f"s{number}" for number in range(1200)]
    await saved(store, *names)
    await saved(store, "s0", agent_id="b")
    assert await store.touch_agent("a", ttl=HOUR) == 1200
    for name in names:
        assert 0 < milliseconds_left(stores, name) <= 3_600_000
    assert milliseconds_left(stores, "s0", "b") == -1


@on_servers
async def test_the_stores_own_ttl_is_the_default(stores: Stores) -> None:
    store: Store = await stores.open(ttl=HOUR)
    await store.save(state(), ttl=HOUR * 3)
    assert await store.touch_agent("a") == 1
    assert 0 < milliseconds_left(stores, "s") <= 3_600_000


@on_one_server
async def test_one_script_touches_a_page(store: Store, stores: Stores, server: Any) -> None:
    """Of a thousand sessions it takes a few requests, not a thousand."""
    await saved(store, *(f"s{number}" for number in range(1000)))
    await store.touch_agent("a", ttl=HOUR)  # the server knows the script
    before = server.info("commandstats")
    await store.touch_agent("a", ttl=HOUR)
    after = server.info("commandstats")

    def calls(stats: dict[str, str], command: str) -> int:
        return int(stats.get(f"cmdstat_{command}", "calls=0,").partition(",")[0].removeprefix("calls="))

    scripts = calls(after, "evalsha") - calls(before, "evalsha") + calls(after, "eval") - calls(before, "eval")
    assert 1 <= scripts <= 8


@pytest.mark.parametrize(
    ("ttl", "error"), [(timedelta(0), ValueError), (timedelta(microseconds=999), ValueError), (60, TypeError)]
)
async def test_what_is_no_ttl_is_refused(store: Store, ttl: Any, error: type[Exception]) -> None:
    await saved(store, "s")
    with pytest.raises(error, match="ttl"):
        await store.touch_agent("a", ttl=ttl)
    with pytest.raises(ValueError, match=r"touch_agent\(\) needs a ttl, here or on the store"):
        await store.touch_agent("a")
    assert await store.exists("a", "s")


async def test_wrong_ids_and_a_closed_store_are_refused(store: Store) -> None:
    with pytest.raises(InvalidIdError):
        await store.touch_agent("", ttl=HOUR)
    await store.aclose()
    with pytest.raises(StoreClosedError):
        await store.touch_agent("a", ttl=HOUR)
