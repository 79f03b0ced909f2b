"""What is said to come back as it was does, and what ordinary states hold is said to."""

from __future__ import annotations

import functools
import math
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Annotated, Any, Dict, Final, List, Optional  # noqa: UP035
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_state import AgentState, Message
from redis_state.codec.roundtrip import compile_check


class Mood(StrEnum):
    CALM = "calm"


class Text(str):
    __slots__ = ()


class Point(msgspec.Struct):
    x: Any = 0
    y: Any = None


class Plot(msgspec.Struct, omit_defaults=True, rename="camel", tag=True):
    the_points: list[Point] = []
    the_names: dict[str, str] = {}
    the_rest: dict[str, list[float]] | None = None
    when: datetime | None = None


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Doubled(msgspec.Struct):
    x: int = 0

    def __post_init__(self) -> None:
        self.x *= 2


class Same(msgspec.Struct, eq=False):
    x: int = 0


@dataclass
class Pair:
    left: int = 0


NOW: Final = datetime(2026, 1, 31, 9, 30, 0, 123456, tzinfo=UTC)
ODD: Final[list[Any]] = [
    *(math.nan, math.inf, -0.0, 2**64, 10**400, 1j, "\ud800", Text("t"), Mood.CALM, b"b", bytearray(b"b"), (), (1,)),
    *({1}, frozenset({"x"}), range(2), uuid.UUID(int=1), NOW, NOW.replace(tzinfo=None), NOW.date(), timedelta(1)),
    *(NOW.astimezone(timezone(timedelta(hours=2))), NOW.replace(tzinfo=ZoneInfo("UTC")), OrderedDict(a=1), Pair()),
    *(Message("user", "hi", NOW), Point(), Point((1,)), Plot(), Tree(), Doubled(1), Same(), object, {1: 2}, {None: 1}),
]
KEYS: Final = st.text(max_size=3) | st.sampled_from([1, b"k"])
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(ODD),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.sampled_from([1, b"k"]), inner)
    ),
    max_leaves=6,
)
DEEP: Final[Any] = functools.reduce(lambda inner, _: list[inner], range(30), int)
DECLARED: Final[list[Any]] = [
    *(Point | Any, list[Message | Any], Optional[datetime | Any]),  # noqa: UP045
    *(DEEP, List, Dict, Optional[List]),  # noqa: UP006, UP045  # pyright: ignore[reportMissingTypeArgument]  # as in older code
    *(Any, str, int, float, bool, None, datetime, list, dict, list[Any], dict[str, Any], list[str], list[list[int]]),
    *(
        dict[str, int],
        dict[str, list[float]],
        dict[int, str],
        tuple[int, ...],
        set[int],
        int | None,
        str | int | list[int],
    ),
    *(
        str | int | list[int],
        Optional[float],  # noqa: UP045  # as it stands in older code
        Annotated[int, msgspec.Meta(gt=0)],
        object,
        Message,
        list[Message],
        Point,
        Plot,
    ),
    *(Tree, Doubled, Same, Pair, Mood, Mood | None, uuid.UUID),
]


@pytest.mark.parametrize("declared", DECLARED, ids=str)
@given(value=VALUES)
def test_what_is_known_to_come_back_does(declared: Any, value: Any) -> None:
    """In either format, as the same types, whatever is in a field of whatever type."""
    known = compile_check(declared)
    for candidate in (value, [value], {"k": value}, Point(value, [value]), Message("user", "hi", NOW, value)):
        if not known(candidate):
            continue
        for format in (msgspec.json, msgspec.msgpack):
            try:
                text = format.encode(candidate)
            except (UnicodeEncodeError, OverflowError):
                continue  # it is refused for all to see
            back = format.decode(text, type=declared)
            assert back == candidate
            assert repr(back) == repr(candidate)


KNOWN: Final = [
    pytest.param(AgentState, AgentState(agent_id="a", session_id="s"), id="empty state"),
    pytest.param(
        AgentState,
        AgentState(
            agent_id="a",
            session_id="s",
            messages=[Message("user", "hi"), Message("tool", "12", NOW, {"took": 1.5, "args": ["a", None, {}]})],
            context={"n": {"e": [{"s": {"t": True}}]}},
            data={"big": 2**63 - 1},
        ),
        id="full state",
    ),
    pytest.param(
        Plot, Plot([Point(1, "a"), Point({"b": []})], {"a": "b"}, {"a": [1.5]}, datetime.now(UTC)), id="own type"
    ),
]


@pytest.mark.parametrize(("declared", "value"), KNOWN)
def test_ordinary_states_are_known(declared: Any, value: Any) -> None:
    """Also when they were loaded: the price of decoding every save is paid for the odd ones only."""
    known = compile_check(declared)
    assert known(value)
    assert known(msgspec.json.decode(msgspec.json.encode(value), type=declared))


@pytest.mark.parametrize("value", [Tree(), Doubled(1), Same(), Pair()], ids=repr)
def test_classes_with_a_life_of_their_own_are_never_known(value: Any) -> None:
    """What they do when they are made or compared is theirs."""
    assert not compile_check(type(value))(value)


def test_what_holds_itself_is_not_known() -> None:
    """The look at it ends."""
    loop: list[Any] = []
    loop.append(loop)
    assert not compile_check(Any)(loop)
