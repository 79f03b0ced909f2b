"""What the README shows works."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import redis_state
from redis_state import (
    AgentState,
    MemoryStateStore,
    Message,
    RedisConfig,
    RedisStateStore,
    StateEncodeError,
    StoreOptions,
    telemetry,
)
from redis_state.testing import RedisServer

README = Path(__file__).parents[2].joinpath("README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(block: str) -> dict[str, Any]:
    """The names that a block defines."""
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec", dont_inherit=True), names)  # our own text
    return names


def block_with(text: str) -> str:
    (found,) = [block for block in BLOCKS if text in block]
    return found


async def test_the_ten_lines_run(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a server, and in memory."""
    main = run(block_with("def main"))["main"]
    for url in (f"{redis_server.url}?key_prefix=readme:", "memory://"):
        await main(url)
        assert capsys.readouterr().out == "2 ['Where is my order?', 'On its way.']\n['session-123']\n"
    async with RedisStateStore.from_url(f"{redis_server.url}?key_prefix=readme:") as store:
        await store.delete_agent("agent-1")


async def test_the_conditional_saves_run() -> None:
    """Both ways to change a state that others change too."""
    store = MemoryStateStore()
    await store.save(redis_state.AgentState(agent_id="agent-1", session_id="session-123"))
    await run(block_with("def prioritise"))["prioritise"](store)
    state = await store.load("agent-1", "session-123")
    assert state.data == {"priority": "high", "turns": 1}


async def test_many_create_one_session() -> None:
    """Of twenty that need a session which is not there yet, all get the same one, and none replaces another's."""
    store = MemoryStateStore()
    load_or_create = run(block_with("def load_or_create"))["load_or_create"]

    async def work(number: int) -> None:
        await load_or_create(store, "agent-1", "session-123")
        await store.append("agent-1", "session-123", [Message(role="user", content=str(number))])

    await asyncio.gather(*map(work, range(20)))
    state = await store.load("agent-1", "session-123")
    assert sorted(int(message.content) for message in state.messages) == list(range(20))
    assert state.version == 21


async def test_a_type_of_ones_own_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A dataclass is kept and comes back."""
    await run(block_with("class Basket"))["shop"]()
    assert capsys.readouterr().out == "['lamp']\n"


async def test_the_three_ways_in_run() -> None:
    """Stores are made without a connection."""
    names = run(block_with("by_client"))
    for name in ("by_url", "by_config", "by_client"):
        await names[name].aclose()


async def test_the_test_of_ones_own_runs() -> None:
    """A private server and a store."""
    await run(block_with("test_my_agent"))["test_my_agent"]()


def test_the_test_of_ones_own_is_collected_as_it_stands(tmp_path: Path) -> None:
    """In a folder without any settings for pytest."""
    tmp_path.joinpath("test_it.py").write_text(block_with("test_my_agent"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_what_a_field_declares_is_kept() -> None:
    """As the table says; in a field without a type the same values are refused."""

    class Declared(msgspec.Struct, kw_only=True):
        agent_id: str = "a"
        session_id: str = "s"
        blob: bytes = b"\x00\xff"
        tags: set[str] = msgspec.field(default_factory=lambda: {"x"})
        pair: tuple[int, str] = (1, "x")
        names: dict[int, str] = msgspec.field(default_factory=lambda: {1: "x"})
        when: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    async def both_ways() -> None:
        declared = MemoryStateStore(state_type=Declared)
        await declared.save(Declared())
        assert await declared.load("a", "s") == Declared()
        plain = MemoryStateStore()
        for value in (b"x", {"x"}, (1, "x"), {1: "x"}):
            with pytest.raises(StateEncodeError):
                await plain.save(AgentState(agent_id="a", session_id="s", data={"x": value}))

    asyncio.run(both_ways())


def test_every_block_is_run() -> None:
    """No block was added that nothing here runs."""
    assert len(BLOCKS) == 6


def test_the_tables_name_everything() -> None:
    """Every configuration field, option, metric and error stands in the README."""
    names = [*RedisConfig.__dataclass_fields__, *StoreOptions.__annotations__]
    names += [name for name in redis_state.__all__ if name.endswith("Error") and name != "StateStoreError"]
    assert [name for name in names if f"`{name}`" not in README and f" {name}" not in README] == []
    for operation in telemetry.OPERATIONS:
        assert f".{operation}" in README
        assert f".{operation}_duration" in README


def test_the_defaults_are_those_of_the_table() -> None:
    """A default that is changed is changed in the README too."""
    defaults = RedisConfig()
    for name in ("dial_timeout", "read_timeout", "write_timeout", "pool_size", "key_prefix", "db"):
        row = re.search(rf"^\| `{name}` \| `([^`]*)`", README, re.MULTILINE)
        assert row is not None
        assert row[1].strip('"') == str(getattr(defaults, name))


def test_nothing_is_left_open() -> None:
    """Every place that is filled by a run has been filled."""
    for mark in ("demo", "benchmarks"):
        between = README.partition(f"<!-- {mark} -->")[2].partition(f"<!-- /{mark} -->")[0]
        assert len(between) > 500
