"""A key of another type where the index of an agent should be: found in the reply of the write itself."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from support.timed import opened, state, url_of

from redis_state import ServerRefusedError
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


async def test_a_save_beside_a_foreign_index_says_that_the_state_is_stored(server: RedisServer, prefix: str) -> None:
    """It can be loaded and not listed, and the object's version has moved on."""
    server.command("SET", f"{prefix}sessions:{{a}}", "foreign")
    async with opened(url_of(server.url, prefix)) as store:
        mine = state("s", n=1)
        with pytest.raises(ServerRefusedError) as caught:
            await store.save(mine)
        assert caught.value.code == "WRONGTYPE"
        assert getattr(caught.value, "stored", False) is True
        assert mine.version == 1
        assert await store.load("a", "s") == mine


async def test_a_save_that_was_refused_as_a_whole_says_that_nothing_is_stored(server: RedisServer, prefix: str) -> None:
    """`stored` is False everywhere else."""
    server.command("RPUSH", f"{prefix}{{a}}:s", "foreign")
    async with opened(url_of(server.url, prefix)) as store:
        mine = state("s", n=1)
        with pytest.raises(ServerRefusedError) as caught:
            await store.save(mine)
        assert getattr(caught.value, "stored", None) is False
        assert mine.version == 0
        assert await store.list("a") == []


async def test_no_command_precedes_the_first_write_to_an_agent(server: RedisServer, prefix: str) -> None:
    """A plain save sends MULTI, SET, ZADD and EXEC, also the first one for its agent."""
    async with opened(url_of(server.url, prefix)) as store:
        await store.save(state())
        server.command("CONFIG", "RESETSTAT")
        await store.save(state(agent_id="new"))
        stats = server.info("commandstats")
        sent = {name.removeprefix("cmdstat_") for name in stats} - {"info", "config|resetstat", "config"}
        assert sent == {"multi", "set", "zadd", "exec"}
        assert all(stats[f"cmdstat_{name}"].startswith("calls=1,") for name in sent)
