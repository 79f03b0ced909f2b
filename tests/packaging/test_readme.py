"""What the READMEs show works: every Python block in them is run here."""

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

from redis_state import AgentState, MemoryStateStore, RedisStateStore, StateEncodeError
from redis_state.testing import RedisServer

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(page for folder in ("redis_state", "benchmarks") for page in (ROOT / folder).rglob("*.md")),
]
BLOCKS = re.findall(r"```python\n(.*?)```", "\n".join(page.read_text(encoding="utf-8") for page in PAGES), re.DOTALL)
LOCAL = "redis://localhost:6379"


def block_with(text: str) -> str:
    (found,) = [block for block in BLOCKS if text in block]
    return found


def run(block: str) -> dict[str, Any]:
    """The names that a block defines."""
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec", dont_inherit=True), names)  # our own text
    return names


def test_every_block_is_run() -> None:
    """One that is added needs its test here."""
    assert len(BLOCKS) == 4


def test_the_ten_lines_run_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """With the URL that their comment names."""
    run(block_with("def main").replace(LOCAL, "memory://"))
    assert capsys.readouterr().out == "3 Where is my order? {'priority': 'high'} ['session-123']\n"


def test_the_ten_lines_lose_nothing_when_many_workers_run_them(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first creates the session, the others find it there; every message is kept."""
    url = f"{redis_server.url}?key_prefix=readme:"
    main = run(block_with("def main").replace(LOCAL, url))["main"]
    assert capsys.readouterr().out == "3 Where is my order? {'priority': 'high'} ['session-123']\n"

    async def workers() -> AgentState:
        await asyncio.gather(*(main() for _ in range(20)))
        async with RedisStateStore.from_url(url) as store:
            state = await store.load("agent-1", "session-123")
            await store.delete_agent("agent-1")
        return state

    state = asyncio.run(workers())
    assert len(state.messages) == 21
    assert state.version == 1 + 21 * 2


async def test_the_three_ways_in_run() -> None:
    """Stores are made without a connection."""
    names = run(block_with("by_client"))
    for name in ("by_url", "by_config", "by_client"):
        await names[name].aclose()


def test_the_test_of_ones_own_passes_as_it_stands(tmp_path: Path) -> None:
    """In a folder without any settings for pytest."""
    tmp_path.joinpath("test_it.py").write_text(block_with("test_my_agent"), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-pno:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_a_server_of_ones_own_runs(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the one of the fixture, for as long as its block."""
    run(block_with("with RedisServer"))
    assert re.fullmatch(r"redis://127\.0\.0\.1:\d+/0\n", capsys.readouterr().out)


async def test_declared_types_are_kept_and_undeclared_ones_are_refused() -> None:
    """As the table of promises says of values."""

    class Declared(msgspec.Struct, kw_only=True):
        agent_id: str = "a"
        session_id: str = "s"
        blob: bytes = b"\x00\xff"
        tags: set[str] = msgspec.field(default_factory=lambda: {"x"})
        pair: tuple[int, str] = (1, "x")
        names: dict[int, str] = msgspec.field(default_factory=lambda: {1: "x"})
        when: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    declared = MemoryStateStore(state_type=Declared)
    await declared.save(Declared())
    assert await declared.load("a", "s") == Declared()
    plain = MemoryStateStore()
    for value in (b"x", {"x"}, (1, "x"), {1: "x"}):
        with pytest.raises(StateEncodeError):
            await plain.save(AgentState(agent_id="a", session_id="s", data={"x": value}))
