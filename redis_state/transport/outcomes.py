"""The error for a request that ends without its result: what is known of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis_state.commands.replies import exhausted, refusal
from redis_state.errors import (
    NotReplicatedError,
    OutcomeUnknownError,
    StateStoreError,
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from redis_state.commands.replies import ReplyError
    from redis_state.commands.request import Request


def unanswered() -> OutcomeUnknownError:
    """A write that was sent and not answered."""
    return OutcomeUnknownError("the write was sent, but its reply never came")


def refused(request: Request, error: ReplyError) -> StateStoreError:
    """A request that the server refused now; it may have been executed the first time."""
    return unanswered() if request.sent and request.writes else refusal(error)


def unreadable(request: Request) -> StateStoreError:
    """A request whose connection said something that no Redis server says."""
    if request.writes:
        return OutcomeUnknownError("the write was sent, and the server's reply makes no sense")
    return StoreUnavailableError("the server's reply makes no sense; is this a Redis server?")


def overdue(request: Request) -> StateStoreError:
    """A request whose time is up."""
    if request.applied:
        return NotReplicatedError(request.replicas, 0)
    if _may_have_happened(request):
        return unanswered()
    if request.why:
        return exhausted(request.why)
    return StoreTimeoutError("the server did not answer in time")


def closed(request: Request) -> StateStoreError:
    """A request that was pending when the store was closed."""
    if request.applied:
        return NotReplicatedError(request.replicas, 0)
    if _may_have_happened(request):
        return unanswered()
    return StoreClosedError("the store was closed before the operation could be completed")


def _may_have_happened(request: Request) -> bool:
    return request.writes and (request.sent or request.connection is not None)
