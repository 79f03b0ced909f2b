"""Keywords beside a URL reach the server, whichever kind it is."""

from __future__ import annotations

import uuid
from typing import Any

from support.stores import Stores, on, on_one_server

from redis_state import AgentState, open_store


@on("memory", "standalone", "cluster", "sentinel")
async def test_they_are_used_in_place_of_what_the_url_says(stores: Stores, server: Any) -> None:
    """The prefix of the keyword is the one under which a state is stored."""
    url = "memory://" if server is None else f"{server.url}?key_prefix=of-the-url:&pool_size=1"
    async with open_store(url, key_prefix=stores.prefix, pool_size=2, read_timeout=5, ttl=None) as store:
        await store.save(AgentState(agent_id="a", session_id="s"))
        assert await store.list("a") == ["s"]
        if server is not None:
            assert stores.command("EXISTS", stores.state_key("a", "s")) == 1
        await store.delete("a", "s")


@on_one_server
async def test_a_user_and_a_password_may_stand_beside_the_url(stores: Stores, server: Any) -> None:
    """Where the URL comes from a file that should hold none."""
    user = f"ann-{uuid.uuid4().hex}"
    server.command("ACL", "SETUSER", user, "on", ">p@ss", "~*", "&*", "+@all")
    try:
        async with open_store(server.url, username=user, password="p@ss", db=5, key_prefix=stores.prefix) as store:
            await store.save(AgentState(agent_id="a", session_id="s"))
            await store.delete("a", "s")
    finally:
        server.command("ACL", "DELUSER", user)


@on("tls")
async def test_files_of_tls_may_stand_beside_the_url(stores: Stores, server: Any) -> None:
    """As keywords, which need no encoding; `tls=True` turns it on."""
    files = server.files
    fields: dict[str, Any] = {
        "tls_ca_file": str(files.ca),
        "tls_cert_file": str(files.client.certificate),
        "tls_key_file": str(files.client.key),
    }
    url = server.tls_url
    plain = url.replace("rediss://", "redis://")
    for store in (
        open_store(url, key_prefix=stores.prefix, **fields),
        open_store(plain, key_prefix=stores.prefix, tls=True, **fields),
    ):
        async with store:
            assert await store.list("a") == []
