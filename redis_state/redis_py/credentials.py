"""New credentials from a streaming provider, for connections that redis-py believes to be in use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.credentials import StreamingCredentialProvider

if TYPE_CHECKING:
    from collections.abc import Callable


def on_new_credentials(provider: object, target: Any, call: Callable[[], None]) -> None:
    """Call a function in the running loop whenever a provider hands redis-py a new token.

    redis-py authenticates the idle connections of a pool or node anew, and notes the token on those in use for when
    they come back. Ours never come back, so its callback is extended.

    Args:
        provider: The credential provider; where it does not stream, nothing is done.
        target: The pool or cluster node that redis-py has subscribed to it.
        call: Replaces the connections in use.
    """
    if not isinstance(provider, StreamingCredentialProvider):
        return
    loop = asyncio.get_running_loop()
    authenticate = target.re_auth_callback

    async def re_auth_callback(token: Any) -> None:
        await authenticate(token)
        if not loop.is_closed():
            loop.call_soon_threadsafe(call)

    target.re_auth_callback = re_auth_callback
