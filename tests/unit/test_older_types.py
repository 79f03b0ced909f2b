"""What a worker of an older deployment does to states that a newer one has saved."""

from __future__ import annotations

import msgspec
import pytest
from support.stores import Stores, on_server_kinds

from redis_state import StateDecodeError

pytestmark = on_server_kinds


class Newer(msgspec.Struct):
    """With a field that older workers do not know."""

    agent_id: str
    session_id: str
    version: int = 0
    plan: str = ""


class Older(msgspec.Struct):
    """Without it."""

    agent_id: str
    session_id: str
    version: int = 0


class Strict(Older, forbid_unknown_fields=True):
    """Without it, and told so."""


async def test_an_older_workers_update_drops_what_its_type_lacks(stores: Stores) -> None:
    """As the docstring of `update` says."""
    newer, older = await stores.open(Newer), await stores.open(Older)
    await newer.save(Newer("a", "s", plan="buy milk"))
    await older.update("a", "s", lambda state: None)
    assert (await newer.load("a", "s")) == Newer("a", "s", version=2, plan="")


async def test_a_type_that_forbids_unknown_fields_is_told(stores: Stores) -> None:
    """Its load and its update are a `StateDecodeError`, and what is stored stays."""
    newer, strict = await stores.open(Newer), await stores.open(Strict)
    await newer.save(Newer("a", "s", plan="buy milk"))
    with pytest.raises(StateDecodeError):
        await strict.load("a", "s")
    with pytest.raises(StateDecodeError):
        await strict.update("a", "s", lambda state: None)
    assert (await newer.load("a", "s")).plan == "buy milk"
    await strict.save(Strict("a", "t"))
    assert (await strict.update("a", "t", lambda state: None)).version == 2
