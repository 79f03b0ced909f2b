"""One way to open any store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from redis_state.checks import check
from redis_state.codec import MAX_STATE_BYTES
from redis_state.memory_store import MemoryStateStore
from redis_state.models import AgentState, T
from redis_state.options import StoreOptions, check_options
from redis_state.redis_store import RedisStateStore

if TYPE_CHECKING:
    from redis_state.protocol import SessionStore


def open_store(
    url: str,
    *,
    state_type: type[T] = AgentState,  # pyright: ignore[reportArgumentType]
    tls_verify: bool | None = None,
    **options: Unpack[StoreOptions],
) -> SessionStore[T]:
    """Open the store that a URL names, for `async with`. A store in Redis connects when it is first used.

    Args:
        url: ``memory://``, ``redis://host:port``, or any other that `RedisStateStore.from_url` takes.
        state_type: What is stored: a msgspec Struct or dataclass with `agent_id` and `session_id`.
        tls_verify: False turns certificate checks off, which a URL alone cannot.
        options: `ttl`, `format` and the others of `StoreOptions`. In memory `partitions`, `replicas`, `logger` and
            `tls_verify` are checked and have no effect.

    Raises:
        TypeError: An option is of another type.
        ValueError: The URL cannot be read, or an option is out of range.
    """
    if url == "memory://":
        check_options(options)
        if tls_verify is not None:
            check("tls_verify", tls_verify)
        return MemoryStateStore(
            state_type=state_type,
            ttl=options.get("ttl"),
            refresh_ttl=options.get("refresh_ttl", False),
            format=options.get("format", "json"),
            max_state_bytes=options.get("max_state_bytes", MAX_STATE_BYTES),
            schema=options.get("schema", 1),
            migrations=options.get("migrations"),
            meter_provider=options.get("meter_provider"),
        )
    return RedisStateStore.from_url(url, state_type=state_type, tls_verify=tls_verify, **options)
