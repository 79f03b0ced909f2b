"""The ids of writes: nobody else's, whatever a program does to Python's generator of random numbers."""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING

import pytest
from support.proxy import Action, FaultProxy
from support.timed import opened, state, url_of

from redis_state import OutcomeUnknownError, VersionConflictError

if TYPE_CHECKING:
    from redis_state.testing import RedisServer


async def test_a_lost_request_is_not_taken_for_the_write_of_a_worker_with_the_same_seed(
    redis_server: RedisServer,
) -> None:
    """Two workers that call `random.seed(42)` make different ids: B's replay does not find A's write as its own."""
    prefix = f"test-{uuid.uuid4().hex}:"
    lost = False

    def lose(data: bytes) -> Action | None:
        nonlocal lost
        if lost or b"EVAL" not in data:
            return None
        lost = True
        return Action(forward=0, cut=True)

    async with (
        FaultProxy(redis_server.host, redis_server.port) as proxy,
        opened(url_of(redis_server.url, prefix)) as a,
        opened(url_of(proxy.url, prefix)) as b,
    ):
        await a.ping()
        await b.ping()
        random.seed(42)
        await a.save(state("s", of="A"), if_version=0)
        proxy.on_request = lose
        random.seed(42)
        with pytest.raises((VersionConflictError, OutcomeUnknownError)):
            await b.save(state("s", of="B"), if_version=0)
        assert lost
        assert (await a.load("a", "s")).data == {"of": "A"}
        await a.delete_agent("a")
