"""A write that was carried out and whose reply was lost: recognised when it is sent again, or reported as unknown."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.faulty import Bench, behind_proxy, outcome, state, texts, until
from support.proxy import Action

from redis_state import AgentState, Message, RedisStateStore
from redis_state.codec.revision import HISTORY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from redis_state.testing import RedisServer

BLOCK, SCRIPT = b"EXEC", b"EVAL"  # what a plain save and a delete end with; what the others begin with
MANY = HISTORY + 1  # writes, one more than a state remembers


@pytest.fixture(params=["json", "msgpack"])
async def bench(redis_server: RedisServer, request: pytest.FixtureRequest) -> AsyncGenerator[Bench]:
    async with behind_proxy(redis_server, timeout=1.0, options={"format": request.param}) as bench:
        yield bench


async def add_one(store: RedisStateStore[AgentState]) -> None:
    def count(loaded: AgentState) -> None:
        loaded.data["n"] = loaded.data.get("n", 0) + 1

    await store.update("a", "s", count)


async def save_again(store: RedisStateStore[AgentState]) -> None:
    await store.save(await store.load("a", "s"))


async def append(store: RedisStateStore[AgentState], text: str = "other") -> None:
    await store.append("a", "s", [Message(role="user", content=text)])


async def append_and_save_again(store: RedisStateStore[AgentState]) -> None:
    await append(store)
    await save_again(store)


async def append_and_update(store: RedisStateStore[AgentState]) -> None:
    await append(store)
    await add_one(store)


async def update_often(store: RedisStateStore[AgentState]) -> None:
    for _ in range(MANY):
        await add_one(store)


async def append_often(store: RedisStateStore[AgentState]) -> None:
    for _ in range(MANY):
        await append(store)


async def append_often_and_save_again(store: RedisStateStore[AgentState]) -> None:
    await append_often(store)
    await save_again(store)


async def nothing(store: RedisStateStore[AgentState]) -> None:
    pass


OFTEN = (update_often, append_often, append_often_and_save_again)  # more than a session remembers
Others = pytest.mark.parametrize(
    "others",
    [
        nothing,
        save_again,
        add_one,
        append,
        append_and_save_again,
        append_and_update,
        append_often,
        append_often_and_save_again,
        update_often,
    ],
)


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_plain_save_is_recognised_and_counts_once(bench: Bench, *, fresh: bool) -> None:
    """The replay of a save that landed is a success and changes nothing."""
    mine = state(n=1)
    if not fresh:
        await bench.store.save(mine)
    version = mine.version
    mine.data["n"] = 2
    assert await bench.replayed(bench.store.save(mine), BLOCK) == "done"
    stored = await bench.truth.load()
    assert stored == mine
    assert mine.version == version + 1
    assert not bench.truth.disagreement()


async def test_a_plain_save_is_recognised_when_another_object_took_its_place(bench: Bench) -> None:
    """A fresh save over what is stored already says so as any other does."""
    await bench.truth.store.save(state(n=1))
    mine = state(n=2)
    assert await bench.replayed(bench.store.save(mine), BLOCK) == "done"
    assert await bench.truth.load() == mine


@Others
async def test_a_plain_save_is_not_applied_again_over_writes_that_saw_it(
    bench: Bench, others: Callable[[RedisStateStore[AgentState]], Awaitable[None]]
) -> None:
    """Whoever builds on a save keeps his work: the save's replay does not take it back."""
    seen: list[AgentState | None] = []

    async def meanwhile() -> None:
        await others(bench.truth.store)
        seen.append(await bench.truth.load())

    assert await bench.replayed(bench.store.save(state(n=1)), BLOCK, meanwhile) in ("done", "unknown")
    assert await bench.truth.load() == seen[0]


@pytest.mark.parametrize("expected", [0, 1])
async def test_a_conditional_save_is_no_false_conflict_and_makes_one_version(bench: Bench, expected: int) -> None:
    """A compare-and-set that was won stays won when it is sent again."""
    mine = state(n=1)
    if expected:
        await bench.store.save(mine)
    assert await bench.replayed(bench.store.save(mine, if_version=expected), SCRIPT) == "done"
    assert mine.version == await bench.truth.version() == expected + 1


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (nothing, "conflict"),
        (save_again, "unknown"),
        (add_one, "conflict"),
        (append, "conflict"),
        (update_often, "unknown"),
    ],
)
async def test_a_stale_save_is_a_conflict_as_far_as_what_the_store_saw_proves_it(
    bench: Bench, others: Callable[[RedisStateStore[AgentState]], Awaitable[None]], expected: str
) -> None:
    """It never landed if all writes since the store last looked are known, however long ago its version was stored.

    A plain save does not look what it replaces, so behind one nothing is proved.
    """
    mine = state(n=0)
    await bench.store.save(mine)
    await update_often(bench.truth.store)
    await bench.store.load("a", "s")
    lost = bench.replayed(bench.store.save(mine, if_version=1), SCRIPT, lambda: others(bench.truth.store))
    assert await lost == {"conflict": "VersionConflictError", "unknown": "unknown"}[expected]


@Others
async def test_a_conditional_save_is_no_false_conflict_whatever_others_wrote_since(
    bench: Bench, others: Callable[[RedisStateStore[AgentState]], Awaitable[None]]
) -> None:
    """What landed is reported as done or, where that can no longer be told, as unknown."""
    mine = state(n=0)
    await bench.store.save(mine)
    mine.data["mine"] = True
    lost = bench.replayed(bench.store.save(mine, if_version=1), SCRIPT, lambda: others(bench.truth.store))
    assert await lost in (("done", "unknown") if others in OFTEN else ("done",))
    stored = await bench.truth.load()
    assert stored is not None
    assert stored.data["mine"]


async def test_a_conditional_save_is_no_false_conflict_when_a_plain_save_undid_it(bench: Bench) -> None:
    """It happened, though nothing of it is left: a conflict would claim that nothing was written."""
    await bench.store.save(state(n=1))
    mine, older = await bench.store.load("a", "s"), await bench.truth.store.load("a", "s")
    lost = bench.replayed(bench.store.save(mine, if_version=1), SCRIPT, lambda: bench.truth.store.save(older))
    assert await lost == "unknown"


async def test_a_conditional_save_that_did_not_land_is_a_conflict_when_others_were_first(bench: Bench) -> None:
    """A replay is no excuse for overwriting."""
    await bench.store.save(state(n=1))
    mine = await bench.store.load("a", "s")
    bench.proxy.on_request = lambda data: Action(forward=0, cut=True) if SCRIPT in data else None
    bench.proxy.refuse()
    task = asyncio.ensure_future(outcome(bench.store.save(mine, if_version=1)))
    await until(lambda: bench.proxy.cuts > 0)
    bench.proxy.on_request = None
    await add_one(bench.truth.store)
    await bench.proxy.admit()
    assert await task == "VersionConflictError"
    assert await bench.truth.version() == 2


async def test_a_conditional_save_does_not_bring_back_what_was_deleted_since(bench: Bench) -> None:
    """A deleted session stays deleted, and the save's fate is unknown."""
    mine = state(n=1)
    await bench.store.save(mine)
    lost = bench.replayed(bench.store.save(mine, if_version=1), SCRIPT, lambda: bench.truth.store.delete("a", "s"))
    assert await lost == "unknown"
    assert await bench.truth.load() is None


@Others
async def test_an_append_never_duplicates_whatever_others_wrote_since(
    bench: Bench, others: Callable[[RedisStateStore[AgentState]], Awaitable[None]]
) -> None:
    """A batch that landed is there once, also after others have folded it into a document of theirs."""
    await bench.store.save(state())
    result = await bench.replayed(append(bench.store, "mine"), SCRIPT, lambda: others(bench.truth.store))
    stored = await bench.truth.load()
    assert stored is not None
    assert texts(stored).count("mine") == 1
    assert result in (("done", "unknown") if others in OFTEN else ("done",))
    assert not bench.truth.disagreement()


@pytest.mark.parametrize("lands", [True, False])
async def test_a_delete_says_that_its_outcome_is_unknown(bench: Bench, *, lands: bool) -> None:
    """Whether there was something to delete cannot be told after the fact, so it is not guessed."""
    await bench.store.save(state())
    if lands:
        assert await bench.replayed(bench.store.delete("a", "s"), BLOCK) == "unknown"
    else:
        bench.proxy.on_request = lambda data: Action(forward=0, cut=True) if b"DEL" in data else None
        assert await bench.in_time(bench.store.delete("a", "s")) == "unknown"
    assert (await bench.truth.load() is None) == lands
    assert not bench.truth.disagreement()


async def test_a_delete_is_not_sent_again_after_the_session_was_made_anew(bench: Bench) -> None:
    """A delete removes only what was there when it was called."""
    await bench.store.save(state(n=1))
    anew = state(n=2)
    lost = bench.replayed(bench.store.delete("a", "s"), BLOCK, lambda: bench.truth.store.save(anew))
    assert await lost == "unknown"
    assert await bench.truth.load() == anew


async def test_a_failed_write_leaves_the_object_as_it_was(bench: Bench) -> None:
    """Also one whose outcome is unknown: the object can be saved again."""
    mine = state(n=1)
    await bench.store.save(mine)
    before = (mine.version, mine.updated_at)
    bench.proxy.stall(requests=False)
    assert await bench.in_time(bench.store.save(mine)) == "unknown"
    assert (mine.version, mine.updated_at) == before
    bench.proxy.release()
    await bench.store.save(mine)
    assert await bench.truth.load() == mine


async def test_a_counter_is_exact_with_replies_cut_at_random(redis_server: RedisServer) -> None:
    """32 tasks add 1 to one counter 25 times each: 800, and nothing is unknown."""
    tasks, times = 32, 25
    dice = random.Random(1)

    def cut(data: bytes) -> Action | None:
        return Action(forward=dice.randint(0, len(data)), cut=True) if dice.random() < 0.05 else None

    results: list[str] = []

    async def work(bench: Bench) -> None:
        for _ in range(times):
            result = await outcome(add_one(bench.store))
            results.append(result)

    async with behind_proxy(redis_server, timeout=10.0) as bench:
        await bench.store.save(state(n=0))
        bench.proxy.on_reply = cut
        await asyncio.gather(*(work(bench) for _ in range(tasks)))
        bench.proxy.on_reply = None
        stored: Any = await bench.truth.load()
        print(f"{len(results)} updates, {bench.proxy.cuts} cuts, the counter is {stored.data['n']}")
        assert bench.proxy.cuts > 30
        assert Counter(results) == {"done": tasks * times}
        assert stored.data["n"] == tasks * times
        assert stored.version == tasks * times + 1
