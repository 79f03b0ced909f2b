"""What operations refuse before anything is read or written, by the name of the argument and in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Any, Final

import msgspec
import pytest
from support.states import Store, infos, messages, session_ids, state, texts
from support.stores import Stores, on

from redis_state import AgentState, InvalidIdError, Message, SessionInfo, SessionStore, StateEncodeError

pytestmark = on("memory", "standalone")


class Slotted(msgspec.Struct):
    """A Struct without room for a note."""

    agent_id: str
    session_id: str
    version: int = 0


@dataclass(slots=True)
class SlottedData:
    """A dataclass without room for a note."""

    agent_id: str
    session_id: str
    version: int = 0


class Texts(msgspec.Struct):
    """Whose messages are texts."""

    agent_id: str
    session_id: str
    messages: list[str] = []


@dataclass
class Line:
    """A message that is a dataclass."""

    text: str


class Lines(msgspec.Struct):
    """Whose messages are dataclasses."""

    agent_id: str
    session_id: str
    messages: list[Line] = []


@dataclass
class Dicts:
    """Whose messages are mappings."""

    agent_id: str
    session_id: str
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Nowhere(tzinfo):
    """A zone that does not know its distance from UTC."""

    def utcoffset(self, dt: datetime | None) -> None:
        return None


def befores() -> list[tuple[Any, type[Exception]]]:
    """What is no place in a listing: an aware time or a session."""
    info: Any = SessionInfo
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the point
    return [
        *((value, TypeError) for value in ("x", 1, info(5, datetime.now(UTC)), info("s", "now"))),
        *((value, ValueError) for value in (naive, naive.replace(tzinfo=Nowhere()))),
    ]


LIMITS: Final[list[tuple[Any, type[Exception]]]] = [
    *((value, TypeError) for value in ("1", 1.5, True)),
    (-1, ValueError),
]
Call = Callable[[Any, Any], Awaitable[object]]
REFUSED: Final[list[tuple[str, Call, list[tuple[Any, type[Exception]]]]]] = [
    (
        "if_version",
        lambda store, value: store.save(state(), if_version=value),
        [
            *((value, ValueError) for value in (-1, -(2**70), 2**53)),
            *((value, TypeError) for value in ("1", 1.0, True, False, [1])),
        ],
    ),
    ("limit", lambda store, value: store.list("a", limit=value), LIMITS),
    ("limit", lambda store, value: infos(store, limit=value), LIMITS),
    ("before|aware", lambda store, value: infos(store, before=value), befores()),
    ("progress", lambda store, value: store.delete_agent("a", progress=value), [(5, TypeError)]),
    ("fn", lambda store, value: store.update("a", "s", value), [(5, TypeError)]),
    (
        "attempts",
        lambda store, value: store.update("a", "s", print, attempts=value),
        [(0, ValueError), ("3", TypeError), (True, TypeError)],
    ),
    (
        "load_many.*list",
        lambda store, value: store.load_many("a", value),
        [(value, TypeError) for value in ("xyz", b"xyz", bytearray(b"xyz"), 5, None)],
    ),
    (
        "append.*takes a message, or several in a list",
        lambda store, value: store.append("a", "s", value),
        [(value, TypeError) for value in (None, 5, 1.5, Message, object())],
    ),
]


@pytest.mark.parametrize(("name", "call", "values"), REFUSED, ids=[name for name, _, _ in REFUSED])
async def test_a_wrong_argument_is_refused_by_its_name_and_changes_nothing(
    store: Store, name: str, call: Call, values: list[tuple[Any, type[Exception]]]
) -> None:
    """A version is an integer and none of the booleans, a limit is whole, several ids are no text, and so on."""
    await store.save(state("x"))
    for value, error in values:
        with pytest.raises(error, match=name):
            await call(store, value)
    assert await session_ids(store) == ["x"]
    assert (await store.load("a", "x")).version == 1


async def test_a_limit_may_be_as_large_as_it_likes_and_ids_may_come_from_anywhere(store: Store) -> None:
    """Larger than any index is all. What can be iterated is taken, and each id once."""
    await store.save(state("x"))
    for limit in (2**31, 2**64, 10**30):
        assert await store.list("a", limit=limit) == await session_ids(store, limit=limit) == ["x"]
    for ids in (["x", "y", "x"], ("x",), {"x"}, {"x": 1}, iter("xyx"), (c for c in "xy")):
        assert list(await store.load_many("a", ids)) == ["x"]
    with pytest.raises(InvalidIdError):
        await store.load_many("a", [5])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", [AgentState, Slotted, SlottedData])
async def test_an_update_writes_only_the_session_that_it_loaded(stores: Stores, kind: type[Any]) -> None:
    """A function that changes an id, or returns another state, is refused at once: nothing is written, it ran once."""
    store: SessionStore[Any] = await stores.open(kind)
    ids = {"agent_id": "a", "session_id": "s"}
    await store.save(kind(**ids))
    for attribute in ids:
        target = {**ids, attribute: "other"}
        await store.save(kind(**target))
        before = await store.load(**ids), await store.load(**target)
        calls: list[str] = []

        def change(of: Any, attribute: str = attribute, calls: list[str] = calls) -> None:
            calls.append("")
            setattr(of, attribute, "other")

        with pytest.raises(ValueError, match="changed the ids"):
            await store.update("a", "s", change)
        assert len(calls) == 1
        assert (await store.load(**ids), await store.load(**target)) == before
    with pytest.raises(TypeError, match=f"returned another {kind.__name__}.*in place"):
        await store.update("a", "s", lambda _: kind(**ids))
    assert (await store.load("a", "s")).version == 1


async def test_an_async_function_is_looked_at_when_it_has_ended(store: Store) -> None:
    """Of ids and results alike."""
    await store.save(state())

    async def move(of: AgentState) -> None:
        await asyncio.sleep(0)
        of.session_id = "other"

    async def replace(of: AgentState) -> AgentState:
        await asyncio.sleep(0)
        return state()

    with pytest.raises(ValueError, match="changed the ids"):
        await store.update("a", "s", move)
    with pytest.raises(TypeError, match="returned another AgentState"):
        await store.update("a", "s", replace)
    assert (await store.load("a", "s")).version == 1
    assert await store.list("a") == ["s"]


RESULTS: Final[list[Callable[[AgentState], Any]]] = [
    lambda of: of.data.pop("x"),
    lambda of: of.data.pop("x") and of,
    lambda of: of.messages,
    type,
    lambda of: asyncio.sleep(0, of),
]


@pytest.mark.parametrize("fn", RESULTS)
async def test_other_results_of_an_update_are_ignored(store: Store, fn: Callable[[AgentState], Any]) -> None:
    """Such as what was taken out, or the object itself, also of an awaitable."""
    await store.save(state(x=1))
    assert (await store.update("a", "s", fn)).version == 2


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        (AgentState, *messages("hello")),
        *((Texts, text) for text in ("text", "")),
        (Lines, Line("text")),
        *((Dicts, one) for one in ({"role": "user"}, {})),
    ],
)
async def test_one_message_is_taken_as_one_and_what_else_can_be_iterated_as_many(
    stores: Stores, kind: type[Any], one: Any
) -> None:
    """Text, a mapping, a Struct and a dataclass are one, where the type's messages are such."""
    store: Any = await stores.open(kind)
    await store.save(kind(agent_id="a", session_id="s"))
    await store.append("a", "s", one)
    for many in ([], [one], (one, one), {1: one}.values(), (each for each in [one]), iter([one])):
        await store.append("a", "s", many)
    assert (await store.load("a", "s")).messages == [one] * 7


@pytest.mark.parametrize(
    "wrong",
    ["text", b"bytes", {"role": "user", "content": "hello"}, MappingProxyType({"role": "user"}), Line("text")],
)
async def test_a_message_of_another_type_is_refused_as_one(store: Store, wrong: Any) -> None:
    """At the place of the first message, not letter by letter or key by key."""
    await store.save(state())
    for given in (wrong, [wrong]):
        with pytest.raises(StateEncodeError) as caught:
            await store.append("a", "s", given)
        assert caught.value.path.startswith("$.messages[0]")
    assert texts(await store.load("a", "s")) == []
