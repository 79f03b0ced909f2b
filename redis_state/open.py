"""One way to open any store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from redis_state.codec import MAX_STATE_BYTES
from redis_state.config import OpenOptions, check_fields, check_options, split_options
from redis_state.memory.store import MemoryStateStore
from redis_state.models import AgentState, T
from redis_state.redis_store import RedisStateStore

if TYPE_CHECKING:
    from redis_state.protocol import SessionStore


def open_store(
    url: str,
    *,
    state_type: type[T] = AgentState,  # pyright: ignore[reportArgumentType]
    **options: Unpack[OpenOptions],
) -> SessionStore[T]:
    """Open the store that a URL names, for `async with`. A store in Redis connects when it is first used.

    Args:
        url: ``memory://``, ``redis://host:port``, or any other that `RedisStateStore.from_url` takes.
        state_type: What is stored: a msgspec Struct or dataclass with `agent_id` and `session_id`.
        options: `ttl`, `format` and the others of `StoreOptions`; and the fields of `RedisConfig` that
            `RedisStateStore.from_url` takes. In memory those that concern servers are checked and have no effect.

    Raises:
        TypeError: An option is unknown, or of another type.
        ValueError: The URL cannot be read, an option is out of range, or it says where Redis is, as the URL does.
    """
    if url == "memory://":
        fields, options_of_store = split_options(options)
        check_fields(fields)
        check_options(options_of_store)
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
    return RedisStateStore.from_url(url, state_type=state_type, **options)
