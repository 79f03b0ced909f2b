"""A store over the user's own class does what it does over `AgentState`, as far as the class has the fields."""

from __future__ import annotations

import copy
import dataclasses
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest
from support.states import state
from support.stores import Stores, on_servers

from redis_state import Message, StateDecodeError, StateEncodeError, VersionConflictError


class Bare(msgspec.Struct):
    """The least that can be a state."""

    agent_id: str = "a"
    session_id: str = "s"


class Strict(Bare, forbid_unknown_fields=True):
    """Refuses fields which it does not know, such as the store's own."""

    messages: list[str] = msgspec.field(default_factory=list[str])
    blob: bytes = b""
    when: datetime | None = None
    by_number: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    version: int = 0


class Camel(Bare, rename="camel", omit_defaults=True, tag=True):
    """Its fields have other names in the document, and may be missing there."""

    messages: list[Message] = msgspec.field(default_factory=list[Message])
    version: int = 0
    updated_at: datetime | None = None


class Frozen(msgspec.Struct, frozen=True):
    """Cannot be stamped and need not be."""

    agent_id: str
    session_id: str
    text: str = ""


@dataclasses.dataclass
class Data:
    """A dataclass with all that a store stamps."""

    agent_id: str = "a"
    session_id: str = "s"
    messages: list[str] = dataclasses.field(default_factory=list[str])
    version: int = 0
    updated_at: datetime | None = None


@dataclasses.dataclass(slots=True)
class Slotted:
    """A dataclass without room for notes."""

    agent_id: str = "a"
    session_id: str = "s"
    score: float = 0.5
    version: int = 0


@dataclasses.dataclass(frozen=True)
class FrozenData:
    """A dataclass that cannot be stamped."""

    agent_id: str = "a"
    session_id: str = "s"
    tags: tuple[str, ...] = ("x", "y")
    kinds: frozenset[str] = frozenset({"z"})


def wide(fields: int) -> Any:
    """A state with so many fields beside its ids: with 13 the store's own makes MessagePack's map a large one."""
    return msgspec.defstruct("Wide", [*((f"f{n}", int, n) for n in range(fields))], bases=(Bare,))()


EXAMPLES: Final[dict[str, Any]] = {
    "bare": Bare(),
    "strict": Strict("a", "s", ["m"], b"\xff\x00", datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), {1: "one"}),
    "camel": Camel("a", "s", [Message("user", "hi")]),
    "frozen": Frozen("a", "s", "text"),
    "13 fields": wide(13),
    "20 fields": wide(20),
    "data": Data("a", "s", ["m"]),
    "slotted": Slotted(),
    "frozen data": FrozenData(),
}


async def opened(stores: Stores, example: str) -> tuple[Any, Any]:
    """A store of a class, and a state to save."""
    state_type: Any = EXAMPLES[example].__class__
    return await stores.open(state_type), copy.copy(EXAMPLES[example])


@pytest.mark.parametrize("example", EXAMPLES)
async def test_every_class_comes_back_as_it_was_saved(stores: Stores, example: str) -> None:
    """Saved twice, listed and deleted; a class with a version is saved conditionally and updated."""
    store, mine = await opened(stores, example)
    await store.save(mine)
    loaded = await store.load("a", "s")
    assert (loaded, type(loaded)) == (mine, type(mine))
    await store.save(loaded)
    again = await store.load("a", "s")
    assert again == loaded
    assert await store.load_many("a", ["s"]) == {"s": again}
    if hasattr(mine, "updated_at"):
        assert again.updated_at > mine.updated_at
    if hasattr(mine, "version"):
        assert (mine.version, again.version) == (1, 2)
        assert (await store.update("a", "s", id)).version == 3
        with pytest.raises(VersionConflictError) as caught:
            await store.save(mine, if_version=1)
        assert (caught.value.stored, mine.version) == (3, 1)
    assert await store.list("a") == ["s"]
    assert await store.delete("a", "s")


@pytest.mark.parametrize(("example", "more"), [("strict", "m2"), ("camel", Message("user", "more")), ("data", "m2")])
async def test_a_class_with_messages_can_be_appended_to_whatever_a_message_is(
    stores: Stores, example: str, more: Any
) -> None:
    store, mine = await opened(stores, example)
    await store.save(mine)
    assert await store.append("a", "s", [more]) == 2
    loaded = await store.load("a", "s")
    assert (loaded.messages, loaded.version) == ([*mine.messages, more], 2)
    with pytest.raises(StateEncodeError):
        await store.append("a", "s", [7])
    bare: Any = await stores.open(Bare)
    with pytest.raises(TypeError, match=r"'messages'.*Bare"):
        await bare.append("a", "s", [])


@on_servers
async def test_types_that_share_their_fields_share_their_data(stores: Stores) -> None:
    """What one type saved another one loads, if the fields fit; if not it is a StateDecodeError."""
    await (await stores.open()).save(state("s", "hi"))
    assert await (await stores.open(Bare)).load("a", "s") == Bare()
    with pytest.raises(StateDecodeError, match=r"\$\.messages"):
        await (await stores.open(Data)).load("a", "s")
    with pytest.raises(StateDecodeError):
        await (await stores.open(Strict)).load("a", "s")


class NoSession(msgspec.Struct):
    agent_id: str


class Arrays(msgspec.Struct, array_like=True):
    agent_id: str
    session_id: str


class Identity(msgspec.Struct, eq=False):
    agent_id: str
    session_id: str


class FrozenVersion(msgspec.Struct, frozen=True):
    agent_id: str
    session_id: str
    version: int = 0


class TextVersion(Bare):
    version: str = ""


class TextTime(Bare):
    updated_at: str = ""


class TupleMessages(Bare):
    messages: tuple[str, ...] = ()


class OurOwn(Bare):
    rev: str = msgspec.field(default="", name="_rev")


class TaggedSo(Bare, tag_field="_rev"):
    pass


class Plain:
    agent_id: str
    session_id: str


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (NoSession, "session_id"),
        (Arrays, "array_like"),
        (Identity, "compare"),
        (FrozenVersion, "frozen"),
        (TextVersion, "version"),
        (TextTime, "updated_at"),
        (TupleMessages, "messages"),
        (OurOwn, "_rev"),
        (TaggedSo, "_rev"),
        *((wrong, "Struct or a dataclass") for wrong in (Plain, dict, Bare(), None)),
    ],
)
async def test_what_cannot_be_a_state_type_is_a_type_error_that_says_why(stores: Stores, wrong: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        await stores.open(wrong)


class Newer(Bare):
    """With a field that older workers do not know."""

    version: int = 0
    plan: str = ""


class Older(Bare):
    """Without it."""

    version: int = 0


class StrictOlder(Older, forbid_unknown_fields=True):
    """Without it, and told so."""


@on_servers
async def test_an_older_workers_update_drops_what_its_type_lacks_unless_that_forbids_unknown_fields(
    stores: Stores,
) -> None:
    """As the docstring of `update` says; a type that forbids them gets StateDecodeError, and what is stored stays."""
    newer, older, strict = await stores.open(Newer), await stores.open(Older), await stores.open(StrictOlder)
    await newer.save(Newer(plan="buy milk"))
    for call in (strict.load("a", "s"), strict.update("a", "s", lambda _: None)):
        with pytest.raises(StateDecodeError):
            await call
    assert (await newer.load("a", "s")).plan == "buy milk"
    await older.update("a", "s", lambda _: None)
    assert await newer.load("a", "s") == Newer(version=2)
    await strict.save(StrictOlder("a", "t"))
    assert (await strict.update("a", "t", lambda _: None)).version == 2
