"""What becomes of a request that was refused, redirected, or lost with its connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis_state.commands import replies
from redis_state.commands.replies import ReplyError, Verdict
from redis_state.commands.request import Replay, Request
from redis_state.transport.outcomes import refused, unanswered
from redis_state.transport.waiting import Retries

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from redis_state.redis_py.topology import Server
    from redis_state.transport.connection import Connection
    from redis_state.transport.pending import PendingRequests
    from redis_state.transport.routes import Routes

_LOST_AT_ONCE: Final = 24  # attempts without a pause while connections are made and lost again
_ASKS_FOR_ROUTES: Final = frozenset({"READONLY", "CLUSTERDOWN", "UNBLOCKED"})


class Sender(Protocol):
    """What sends requests again: see `redis_state.transport.dispatcher`.

    Attributes:
        log: Where debug lines go.
        routes: Which server takes what.
        pending: The table of requests.
    """

    pending: PendingRequests
    log: logging.Logger
    routes: Routes

    def settle(self, request: Request, result: Any = None, error: BaseException | None = None) -> None: ...
    def route(self, request: Request) -> None: ...
    def send_to(self, server: Server, request: Request) -> None: ...
    def wake_in(self, seconds: float) -> None: ...


class Recovery:
    """Sends again what may be sent again, and settles the rest.

    Args:
        sender: Sends requests and settles them.

    Attributes:
        retries: What waits for its next attempt.
    """

    def __init__(self, sender: Sender) -> None:
        self.retries = Retries()
        self._sender = sender
        self._loop = asyncio.get_running_loop()

    def give_back(self, requests: Sequence[Request], *, executed: bool) -> None:
        """Take back requests whose replies are lost; unless it is sure that they were not, they may be executed."""
        for request in requests:
            request.asking = False
            if request.future.done():
                self._sender.settle(request)  # to end its turn
            elif not executed:
                self._retry(request)
            elif request.replay is Replay.NEVER:
                self._sender.settle(request, error=unanswered())
            else:
                request.sent = True
                if request.replay is Replay.GUARDED:
                    request.become_script()
                self._retry(request, at_once=_LOST_AT_ONCE)  # the fewer writes come in between, the surer it is settled

    def refused(self, server: Server, connection: Connection, request: Request, error: ReplyError) -> None:
        """Deal with an error reply: the request was not executed."""
        verdict = replies.classify(error)
        if request.future.done():
            self._sender.settle(request)
        elif error is replies.OVERTAKEN:
            self._sender.pending.start_again(request)
        elif error.code == "OOM" and request.frees_memory and request.script is None:
            request.become_script()
            self._retry(request, error.code)
        elif verdict in (Verdict.REFUSED, Verdict.DISCONNECTED):
            self._sender.settle(request, error=refused(request, error))
        elif verdict in (Verdict.MOVED, Verdict.ASK):
            self._redirect(server, request, error, ask=verdict is Verdict.ASK)
        else:
            if verdict is Verdict.ELSEWHERE:
                connection.drain()
            routes = self._sender.routes
            if routes.topology.is_cluster and error.code in _ASKS_FOR_ROUTES:
                routes.learn()
            if verdict is not Verdict.RELOAD:
                request.attempts = max(request.attempts, replies.AT_ONCE)  # the server asks for patience
            self._retry(request, error.code)

    def resume(self, now: float) -> None:
        """Send again what has waited."""
        for request in self.retries.take(now):
            if request.script is not None and not request.sent and not request.future.done():
                request.become_script()  # more may have been seen by now, which makes a replay surer
            self._sender.route(request)

    def _redirect(self, server: Server, request: Request, error: ReplyError, *, ask: bool) -> None:
        slot, host, port = replies.redirection(error)
        routes = self._sender.routes
        target = routes.topology.at(host or server.host, port)
        if target is None:  # a plain client, but the server is part of a cluster
            self._sender.settle(request, error=refused(request, error))
        elif ask and request.attempts < _LOST_AT_ONCE:
            request.attempts += 1
            request.why = error.code
            request.asking = True
            self._sender.pending.hold_back(request)
            if request.script is None:  # a slot on the move takes single commands only
                request.become_script()
            self._sender.send_to(target, request)
        else:
            if not ask:
                routes.moved(slot, target)
            self._retry(request, error.code)

    def _retry(self, request: Request, why: str = "", *, at_once: int = replies.AT_ONCE) -> None:
        """Send a request again, after a while if this is not the first time."""
        request.attempts += 1
        request.why = why or request.why
        self._sender.pending.hold_back(request)
        self._sender.log.debug("attempt %d after: %s", request.attempts + 1, request.why or "connection lost")
        delay = 0.0 if request.attempts <= at_once else replies.backoff(request.attempts)
        if delay:
            self.retries.add(request, self._loop.time() + delay)
            self._sender.wake_in(delay)
        else:
            self._sender.route(request)
