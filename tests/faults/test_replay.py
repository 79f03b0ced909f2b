"""A write that was carried out and whose reply was lost: recognised when it is sent again, or reported as unknown."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from support.faulty import Bench, behind_proxy, outcome, state, texts, until
from support.proxy import Action
from support.states import messages

from redis_state import AgentState, RedisStateStore
from redis_state.codec.revision import HISTORY

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

BLOCK, SCRIPT = b"EXEC", b"EVAL"  # what a plain save and a delete end with; what the others begin with
MANY = HISTORY + 1  # writes, one more than a state remembers
Store = RedisStateStore[AgentState]


@pytest.fixture(params=["json", "msgpack"])
async def bench(redis_server: RedisServer, request: pytest.FixtureRequest) -> AsyncGenerator[Bench]:
    async with behind_proxy(redis_server, timeout=1.0, options={"format": request.param}) as bench:
        yield bench


async def add_one(store: Store) -> None:
    await store.update("a", "s", lambda of: of.data.update(n=of.data.get("n", 0) + 1))


async def save_again(store: Store) -> None:
    await store.save(await store.load("a", "s"))


async def append(store: Store, text: str = "other") -> None:
    await store.append("a", "s", messages(text))


# What others do between the write and its replay: each of these in turn.
OTHERS: dict[str, list[Callable[[Store], Awaitable[None]]]] = {
    "nothing": [],
    "save": [save_again],
    "update": [add_one],
    "append": [append],
    "append, save": [append, save_again],
    "append, update": [append, add_one],
    "updates": [add_one] * MANY,
    "appends": [append] * MANY,
    "appends, save": [*[append] * MANY, save_again],
}
others = pytest.mark.parametrize("meanwhile", OTHERS)


async def do(what: str, bench: Bench) -> None:
    for step in OTHERS[what]:
        await step(bench.truth.store)


@pytest.mark.parametrize("stored", ["nothing", "its own", "another's"])
async def test_a_plain_save_is_recognised_and_counts_once(bench: Bench, stored: str) -> None:
    """The replay of a save that landed is a success and changes nothing, whatever it replaced."""
    mine = state(n=1)
    if stored != "nothing":
        await bench.truth.store.save(mine if stored == "its own" else state(n=0))
    version = mine.version
    mine.data["n"] = 2
    assert await bench.replayed(bench.store.save(mine), BLOCK) == "done"
    assert await bench.truth.load() == mine
    assert mine.version == version + 1
    assert not bench.truth.disagreement()


@others
async def test_a_plain_save_is_not_applied_again_over_writes_that_saw_it(bench: Bench, meanwhile: str) -> None:
    """Whoever builds on a save keeps his work: the save's replay does not take it back."""
    seen: list[AgentState | None] = []

    async def others_write() -> None:
        await do(meanwhile, bench)
        seen.append(await bench.truth.load())

    assert await bench.replayed(bench.store.save(state(n=1)), BLOCK, others_write) in ("done", "unknown")
    assert await bench.truth.load() == seen[0]


@pytest.mark.parametrize("expected", [0, 1])
async def test_a_conditional_save_that_landed_makes_one_version(bench: Bench, expected: int) -> None:
    """A compare-and-set that was won stays won when it is sent again."""
    mine = state(n=1)
    if expected:
        await bench.store.save(mine)
    assert await bench.replayed(bench.store.save(mine, if_version=expected), SCRIPT) == "done"
    assert mine.version == await bench.truth.version() == expected + 1


@others
async def test_a_conditional_save_and_an_append_that_landed_are_no_failure_whatever_others_wrote_since(
    bench: Bench, meanwhile: str
) -> None:
    """They are reported as done or, where that can no longer be told, as unknown; an append is there once."""
    mine = state(n=0)
    await bench.store.save(mine)
    mine.data["mine"] = True
    told = ("done", "unknown") if len(OTHERS[meanwhile]) >= MANY else ("done",)
    save = bench.store.save(mine, if_version=1)
    assert await bench.replayed(save, SCRIPT, lambda: do(meanwhile, bench)) in told
    assert await bench.replayed(append(bench.store, "mine"), SCRIPT, lambda: do(meanwhile, bench)) in told
    stored = await bench.truth.load()
    assert stored is not None
    assert stored.data["mine"]
    assert texts(stored).count("mine") == 1
    assert not bench.truth.disagreement()


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        *((what, "VersionConflictError") for what in ("nothing", "update", "append")),
        *((what, "unknown") for what in ("save", "updates")),
    ],
)
async def test_a_stale_save_is_a_conflict_as_far_as_what_the_store_saw_proves_it(
    bench: Bench, meanwhile: str, expected: str
) -> None:
    """It never landed if all writes since the store last looked are known, however long ago its version was stored.

    A plain save does not look what it replaces, so behind one nothing is proved.
    """
    mine = state(n=0)
    await bench.store.save(mine)
    await do("updates", bench)
    await bench.store.load("a", "s")
    save = bench.store.save(mine, if_version=1)
    assert await bench.replayed(save, SCRIPT, lambda: do(meanwhile, bench)) == expected


@pytest.mark.parametrize("undone", ["by an older object", "by a delete"])
async def test_a_conditional_save_that_was_undone_since_is_unknown_and_not_done_again(
    bench: Bench, undone: str
) -> None:
    """It happened, though nothing of it is left: a conflict would claim that nothing was written."""
    await bench.store.save(state(n=1))
    mine, older = await bench.store.load("a", "s"), await bench.truth.store.load("a", "s")

    async def undo() -> None:
        if undone == "by a delete":
            await bench.truth.store.delete("a", "s")
        else:
            await bench.truth.store.save(older)

    assert await bench.replayed(bench.store.save(mine, if_version=1), SCRIPT, undo) == "unknown"
    stored = await bench.truth.load()
    assert stored == (None if undone == "by a delete" else older)


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


@pytest.mark.parametrize("landed", [True, False, "anew"])
async def test_a_delete_says_that_its_outcome_is_unknown_and_is_not_sent_again(bench: Bench, landed: Any) -> None:
    """Whether there was something to delete cannot be told after the fact; what was made anew since stays."""
    await bench.store.save(state(n=1))
    anew = state(n=2)
    if landed:
        meanwhile = (lambda: bench.truth.store.save(anew)) if landed == "anew" else None
        assert await bench.replayed(bench.store.delete("a", "s"), BLOCK, meanwhile) == "unknown"
    else:
        bench.proxy.on_request = lambda data: Action(forward=0, cut=True) if b"DEL" in data else None
        assert await bench.in_time(bench.store.delete("a", "s")) == "unknown"
    stored = await bench.truth.load()
    assert (stored and stored.data) == {True: None, False: {"n": 1}, "anew": {"n": 2}}[landed]
    assert not bench.truth.disagreement()


async def test_a_write_whose_outcome_is_unknown_leaves_the_object_as_it_was(bench: Bench) -> None:
    """It can be saved again."""
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
    dice = random.Random(1)

    def cut(data: bytes) -> Action | None:
        return Action(forward=dice.randint(0, len(data)), cut=True) if dice.random() < 0.05 else None

    async def work(bench: Bench) -> Counter[str]:
        return Counter([await outcome(add_one(bench.store)) for _ in range(25)])

    async with behind_proxy(redis_server, timeout=10.0) as bench:
        await bench.store.save(state(n=0))
        bench.proxy.on_reply = cut
        results = await asyncio.gather(*(work(bench) for _ in range(32)))
        bench.proxy.on_reply = None
        stored = await bench.truth.load()
        assert stored is not None
        print(f"{bench.proxy.cuts} cuts, the counter is {stored.data['n']}")
        assert bench.proxy.cuts > 30
        assert sum(results, Counter[str]()) == {"done": 800}
        assert (stored.data["n"], stored.version) == (800, 801)
