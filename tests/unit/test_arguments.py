"""What operations refuse before anything is read or written, by the name of the argument and in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Any, Final

import msgspec
import pytest
from support.stores import Stores, on_kinds

from redis_state import AgentState, InvalidIdError, Message, SessionInfo, SessionStore, StateEncodeError

pytestmark = on_kinds


class Slotted(msgspec.Struct):
    """A Struct without room for a note."""

    agent_id: str
    session_id: str
    version: int = 0
    text: str = ""


@dataclass(slots=True)
class SlottedData:
    """A dataclass without room for a note."""

    agent_id: str
    session_id: str
    version: int = 0
    text: str = ""


class Bare(msgspec.Struct):
    """Neither version nor messages."""

    agent_id: str
    session_id: str


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


def state(session_id: str = "s") -> AgentState:
    return AgentState(agent_id="a", session_id=session_id)


def hello() -> Message:
    return Message(role="user", content="hello")


class TestValues:
    @pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (-(2**70), ValueError), (2**53, ValueError)])
    async def test_a_version_that_cannot_be_is_a_value_error(
        self, store: SessionStore[AgentState], value: int, error: type[Exception]
    ) -> None:
        """As the docstring of `save` promises, not a conflict."""
        with pytest.raises(error, match="if_version"):
            await store.save(state(), if_version=value)
        assert not await store.exists("a", "s")

    @pytest.mark.parametrize("value", ["1", 1.0, True, False, [1]])
    async def test_a_version_that_is_no_integer_is_a_type_error(
        self, store: SessionStore[AgentState], value: Any
    ) -> None:
        """`True` is not version 1, and `False` does not mean that nothing is stored."""
        with pytest.raises(TypeError, match="if_version"):
            await store.save(state(), if_version=value)
        assert not await store.exists("a", "s")

    @pytest.mark.parametrize(
        ("value", "error"), [("1", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError)]
    )
    async def test_a_limit_is_a_whole_number(
        self, store: SessionStore[AgentState], value: Any, error: type[Exception]
    ) -> None:
        """Of `list` and of `sessions`."""
        with pytest.raises(error, match="limit"):
            await store.list("a", limit=value)
        with pytest.raises(error, match="limit"):
            await anext(store.sessions("a", limit=value))

    async def test_a_limit_may_be_as_large_as_it_likes(self, store: SessionStore[AgentState]) -> None:
        """Larger than any index is all."""
        await store.save(state())
        for limit in (2**31, 2**64, 10**30):
            assert await store.list("a", limit=limit) == ["s"]
            assert [info.session_id async for info in store.sessions("a", limit=limit)] == ["s"]

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            ("x", TypeError),
            (1, TypeError),
            (datetime(2026, 1, 1), ValueError),  # noqa: DTZ001  # the point
            (datetime(2026, 1, 1, tzinfo=Nowhere()), ValueError),
            (SessionInfo(5, datetime.now(UTC)), TypeError),  # pyright: ignore[reportArgumentType]
            (SessionInfo("s", "now"), TypeError),  # pyright: ignore[reportArgumentType]
        ],
    )
    async def test_a_place_in_the_listing_is_a_session_or_a_time(
        self, store: SessionStore[AgentState], value: Any, error: type[Exception]
    ) -> None:
        """An aware one."""
        with pytest.raises(error, match=r"before|aware"):
            await anext(store.sessions("a", before=value))

    async def test_what_is_called_is_a_function(self, store: SessionStore[AgentState]) -> None:
        """Said before anything is deleted or loaded."""
        await store.save(state())
        with pytest.raises(TypeError, match="progress"):
            await store.delete_agent("a", progress=5)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="fn"):
            await store.update("a", "s", 5)  # pyright: ignore[reportArgumentType]
        assert await store.exists("a", "s")

    @pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("3", TypeError), (True, TypeError)])
    async def test_attempts_are_counted(
        self, store: SessionStore[AgentState], value: Any, error: type[Exception]
    ) -> None:
        """From one."""
        with pytest.raises(error, match="attempts"):
            await store.update("a", "s", print, attempts=value)

    @pytest.mark.parametrize("value", ["xyz", b"xyz", bytearray(b"xyz"), 5, None])
    async def test_several_ids_are_no_text(self, store: SessionStore[AgentState], value: Any) -> None:
        """A text could be iterated letter by letter."""
        await store.save(state("x"))
        with pytest.raises(TypeError, match=r"load_many.*list"):
            await store.load_many("a", value)

    async def test_ids_may_come_from_anywhere(self, store: SessionStore[AgentState]) -> None:
        """What can be iterated is taken, and each id once."""
        await store.save(state("x"))
        for ids in (["x", "y", "x"], ("x",), {"x"}, {"x": 1}, iter("xyx"), (c for c in "xy")):
            assert list(await store.load_many("a", ids)) == ["x"]
        with pytest.raises(InvalidIdError):
            await store.load_many("a", [5])  # pyright: ignore[reportArgumentType]


RESULTS: Final[list[Callable[[AgentState], Any]]] = [
    lambda s: s.context.pop("x"),
    lambda s: s.context.pop("x") and s,
    lambda s: s.messages,
    type,
]


class TestUpdate:
    @pytest.mark.parametrize("kind", [AgentState, Slotted, SlottedData])
    @pytest.mark.parametrize("attribute", ["agent_id", "session_id"])
    async def test_it_writes_only_the_session_that_it_loaded(
        self, stores: Stores, kind: type[Any], attribute: str
    ) -> None:
        """A function that changes an id is refused at once: neither session is written, and it ran once."""
        store: SessionStore[Any] = await stores.open(kind)
        ids = {"agent_id": "a", "session_id": "s"}
        target = {**ids, attribute: "other"}
        await store.save(kind(**ids))
        await store.save(kind(**target))
        before = await store.load(**ids), await store.load(**target)
        calls: list[str] = []

        def change(state: Any) -> None:
            calls.append("")
            setattr(state, attribute, "other")

        with pytest.raises(ValueError, match="changed the ids"):
            await store.update("a", "s", change)
        assert len(calls) == 1
        assert (await store.load(**ids), await store.load(**target)) == before

    async def test_an_async_function_is_looked_at_when_it_has_ended(self, store: SessionStore[AgentState]) -> None:
        """Of ids and results alike."""
        await store.save(state())

        async def move(state: AgentState) -> None:
            await asyncio.sleep(0)
            state.session_id = "other"

        async def replace(state: AgentState) -> AgentState:
            await asyncio.sleep(0)
            return AgentState(agent_id="a", session_id="s")

        with pytest.raises(ValueError, match="changed the ids"):
            await store.update("a", "s", move)
        with pytest.raises(TypeError, match="returned another AgentState"):
            await store.update("a", "s", replace)
        assert (await store.load("a", "s")).version == 1
        assert await store.list("a") == ["s"]

    @pytest.mark.parametrize("kind", [AgentState, Slotted, SlottedData])
    async def test_a_function_that_returns_another_state_is_refused(self, stores: Stores, kind: type[Any]) -> None:
        """That state would be dropped, and the old one saved as a new version."""
        store: SessionStore[Any] = await stores.open(kind)
        await store.save(kind(agent_id="a", session_id="s"))
        with pytest.raises(TypeError, match=f"returned another {kind.__name__}.*in place"):
            await store.update("a", "s", lambda _: kind(agent_id="a", session_id="s"))
        assert (await store.load("a", "s")).version == 1

    @pytest.mark.parametrize("fn", RESULTS)
    async def test_other_results_are_ignored(
        self, store: SessionStore[AgentState], fn: Callable[[AgentState], Any]
    ) -> None:
        """Such as what was taken out, or the object itself."""
        await store.save(AgentState(agent_id="a", session_id="s", context={"x": 1}))
        assert (await store.update("a", "s", fn)).version == 2

    async def test_what_an_awaitable_gives_is_ignored_too(self, store: SessionStore[AgentState]) -> None:
        """Unless it is another state."""
        await store.save(state())

        def later(state: AgentState) -> Awaitable[AgentState]:
            return asyncio.sleep(0, state)

        assert (await store.update("a", "s", later)).version == 2


class TestMessages:
    async def test_one_message_is_taken_as_one(self, store: SessionStore[AgentState]) -> None:
        """Without a list around it."""
        await store.save(state())
        assert await store.append("a", "s", hello()) == 2
        assert [m.content for m in (await store.load("a", "s")).messages] == ["hello"]

    @pytest.mark.parametrize(
        ("kind", "one"), [(Texts, "text"), (Texts, ""), (Lines, Line("text")), (Dicts, {"role": "user"}), (Dicts, {})]
    )
    async def test_text_a_mapping_and_a_dataclass_are_one(self, stores: Stores, kind: type[Any], one: Any) -> None:
        """Where the type's messages are such."""
        store: SessionStore[Any] = await stores.open(kind)
        await store.save(kind("a", "s"))
        await store.append("a", "s", one)
        await store.append("a", "s", [one, one])
        assert (await store.load("a", "s")).messages == [one, one, one]

    async def test_anything_else_that_can_be_iterated_is_many(self, store: SessionStore[AgentState]) -> None:
        """In its order; none is a write too."""
        await store.save(state())

        def generated() -> Iterator[Message]:
            yield hello()
            yield hello()

        for many in (
            [],
            [hello()],
            (hello(), hello()),
            generated(),
            {1: hello()}.values(),
            filter(None, [hello()]),
        ):
            await store.append("a", "s", many)
        assert len((await store.load("a", "s")).messages) == 7
        assert (await store.load("a", "s")).version == 7

    @pytest.mark.parametrize(
        "wrong",
        ["text", b"bytes", {"role": "user", "content": "hello"}, MappingProxyType({"role": "user"}), Line("text")],
    )
    async def test_one_that_is_none_of_the_types_is_refused_as_one(
        self, store: SessionStore[AgentState], wrong: Any
    ) -> None:
        """At the place of the first message, not letter by letter or key by key."""
        await store.save(state())
        for given in (wrong, [wrong]):
            with pytest.raises(StateEncodeError) as caught:
                await store.append("a", "s", given)
            assert caught.value.path.startswith("$.messages[0]")
        assert (await store.load("a", "s")).version == 1

    @pytest.mark.parametrize("wrong", [None, 5, 1.5, Message, object()])
    async def test_what_is_neither_one_nor_many_is_a_type_error(
        self, store: SessionStore[AgentState], wrong: Any
    ) -> None:
        """It says what it takes."""
        await store.save(state())
        with pytest.raises(TypeError, match=r"append.*takes a message, or several in a list"):
            await store.append("a", "s", wrong)


class TestTypes:
    async def test_what_a_type_lacks_is_said(self, stores: Stores) -> None:
        """Which operation needs which field."""
        store: SessionStore[Any] = await stores.open(Bare)
        await store.save(Bare("a", "s"))
        with pytest.raises(TypeError, match=r"append.* needs .*'messages'; Bare has none"):
            await store.append("a", "s", [hello()])
        with pytest.raises(TypeError, match=r"if_version.* needs .*'version'; Bare has none"):
            await store.save(Bare("a", "s"), if_version=1)
        with pytest.raises(TypeError, match=r"update.* needs .*'version'; Bare has none"):
            await store.update("a", "s", print)

    @pytest.mark.parametrize("wrong", [dict, int, object, Message, "AgentState", None])
    async def test_what_is_no_state_type_is_a_type_error(self, stores: Stores, wrong: Any) -> None:
        """It says what is needed."""
        with pytest.raises(TypeError, match=r"must be a msgspec Struct or a dataclass|needs a field 'agent_id'"):
            await stores.open(wrong)
