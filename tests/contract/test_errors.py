"""Errors: which there are, and what they carry."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
import re
from typing import Any, Final

import pytest

import redis_state
import redis_state.errors
from redis_state import (
    NotReplicatedError,
    PartitionsMismatchError,
    RedisStateStore,
    ServerRefusedError,
    StateDecodeError,
    StateEncodeError,
    StateNotFoundError,
    StateStoreError,
    StateTooLargeError,
    VersionConflictError,
)
from redis_state.testing import RedisServer

EVERY: Final = [getattr(redis_state, name) for name in redis_state.__all__ if name.endswith("Error")]


def test_the_tree_is_the_one_that_is_drawn() -> None:
    """The docstring of the module shows every class under its base; each says when it is raised."""
    drawn: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in (redis_state.errors.__doc__ or "").split("\n\n")[1].splitlines():
        indent, name, also = re.fullmatch(r"([│├└─ ]*)(.*?)(?: \(also an? (\w+)\))?", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        above = [*above[: len(indent) // 3], name]
        if name.isidentifier():
            base = next((parent for parent in above[-2::-1] if parent.isidentifier()), "Exception")
            drawn[name] = (base, also or "")
    real = {
        name: (value.__bases__[0].__name__, "".join(base.__name__ for base in value.__bases__[1:]))
        for name, value in vars(redis_state.errors).items()
        if inspect.isclass(value)
    }
    assert drawn == real
    assert set(real) == {error.__name__ for error in EVERY}
    assert all(issubclass(error, StateStoreError) for error in EVERY)
    assert all((error.__doc__ or "").startswith("Raised when ") for error in EVERY if error is not StateStoreError)


CARRIED: Final[list[tuple[StateStoreError, dict[str, Any]]]] = [
    (StateNotFoundError("a1", "s1"), {"agent_id": "a1", "session_id": "s1"}),
    (StateDecodeError("a1", "s1", "it is nested too deeply"), {"agent_id": "a1", "session_id": "s1"}),
    (VersionConflictError(3, 5), {"expected": 3, "stored": 5}),
    (StateEncodeError("$.context.score", "float would come back as NoneType"), {"path": "$.context.score"}),
    (ServerRefusedError("OOM", "it is out of memory"), {"code": "OOM", "stored": False}),
    (ServerRefusedError("WRONGTYPE", "of another type", stored=True), {"code": "WRONGTYPE", "stored": True}),
    (StateTooLargeError(12, 10), {"size": 12, "limit": 10}),
    (PartitionsMismatchError(4, 2), {"configured": 4, "stored": 2}),
    (NotReplicatedError(2, 1), {"wanted": 2, "confirmed": 1}),
]


@pytest.mark.parametrize(("error", "data"), CARRIED, ids=lambda value: type(value).__name__)
def test_each_carries_its_data_also_in_copies_and_to_another_process(
    error: StateStoreError, data: dict[str, Any]
) -> None:
    """As attributes, which its docstring lists, and in its text."""
    assert vars(error) == data
    for name, value in data.items():
        assert f"    {name}: " in (type(error).__doc__ or "")
        assert isinstance(value, bool) or str(value) in str(error)
    assert "\n" not in str(error)
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


async def test_logs_are_for_debugging_only(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens, nothing is logged above DEBUG, and all of it to `redis_state` or to the logger given."""
    caplog.set_level(logging.DEBUG)
    async with RedisStateStore.from_url(redis_server.url, logger=logging.getLogger("mine")) as store:
        await store.exists("a", "s")
    refused = RedisStateStore.from_url(f"redis://nobody:pw@{redis_server.addr}")
    with pytest.raises(ServerRefusedError):
        await refused.load("a", "s")
    await refused.aclose()
    ours = [record for record in caplog.records if record.name in ("mine", "redis_state")]
    assert {record.name for record in ours} == {"mine", "redis_state"}
    assert {record.levelno for record in ours} == {logging.DEBUG}
