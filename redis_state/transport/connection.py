"""One connection: requests out, replies in, in the same order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import hiredis

from redis_state.commands.replies import ReplyError, UnreadableReplyError, Verdict, classify
from redis_state.commands.request import LARGE, Request, pack
from redis_state.transport.confirmations import Confirmations, Wait
from redis_state.transport.headers import Headers
from redis_state.transport.outcomes import unreadable
from redis_state.transport.pieces import AT_ONCE, PieceWriter

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from redis_state.config.limits import Limits

_NOT_ENOUGH: Final = object()
_PushNotification: Final = hiredis.PushNotification
_ASKING: Final = pack(("ASKING",))
MAX_BATCH: Final = 1024  # requests in flight on one connection; more would only wait in the server
MAX_BATCH_BYTES: Final = 1024 * 1024  # in one batch
_LINE_END: Final = b"\n"[0]
_SLICE: Final = 16 * 1024  # bytes parsed at once: hiredis moves the rest of them for every large reply that it returns


class Owner(Protocol):
    """What a connection reports to.

    Attributes:
        limits: Times and counts.
        log: Where a failure of this library is logged.
    """

    limits: Limits
    log: logging.Logger

    # Complete a request.
    def settle(self, request: Request, result: Any = None, error: BaseException | None = None) -> None: ...
    # Deal with an error reply: the request was not executed.
    def refused(self, connection: Connection, request: Request, error: ReplyError) -> None: ...
    # Complete a write that so many replicas have confirmed.
    def replicated(self, request: Request, result: Any, replicas: int) -> None: ...
    # Send what waits: there may be room on a connection.
    def flush_soon(self) -> None: ...
    # Take back requests whose replies are lost; unless it is sure that they were not, they may be executed.
    def give_back(self, requests: Sequence[Request], *, executed: bool) -> None: ...
    # Forget a connection that is gone; with writes in flight, it is in doubt what the server still reads of it.
    def lost(self, connection: Connection, *, in_doubt: bool) -> None: ...


class Connection(asyncio.Protocol):
    """One connection that redis-py has opened and authenticated, spoken on directly.

    redis-py awaits every reply by itself; here one call parses all that have come and settles their requests.

    All of its state:
        inflight: what was sent and not answered, oldest first.
        confirmations: writes that were answered but not yet confirmed by the replicas.
        loaded: the scripts that this connection has sent by text, so that the server knows their hash.
        left: replies still to come of the oldest request in flight; 0 if none of them has come.
        partial: bytes received since a reply was complete.
        headers: refuses what a reply announces, if it is absurd.
        pieces: writes a large request.
        progress: when the server last sent something, took a piece, or got work after it had none.
        skipped: whether the server closes the connection, and has executed nothing of what is in flight.
        draining: whether it takes nothing new and closes when nothing is in flight.

    Args:
        owner: What it reports to.
        opened: The connection of redis-py, which closes it.
        transport: The transport under it.
    """

    def __init__(self, owner: Owner, opened: Any, transport: asyncio.Transport) -> None:
        self.opened = opened
        self.inflight: deque[Request] = deque()
        self._confirmations = Confirmations(owner.replicated, owner.limits.read_timeout)
        self._loaded: set[str] = set()
        self._left = 0
        self._partial = 0
        self._skipped = False
        self._draining = False
        self._owner = owner
        self._settle = owner.settle
        self._limits = owner.limits
        self._loop = asyncio.get_running_loop()
        self._progress = self._loop.time()
        self._reader: Any = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOT_ENOUGH)  # pyright: ignore[reportArgumentType]
        self._headers = Headers()
        self._transport = transport
        self._displaced = transport.get_protocol()
        transport.set_protocol(self)
        self._pieces = PieceWriter(transport, self._loop, self._wrote)

    def __repr__(self) -> str:
        return f"<Connection {len(self.inflight)} in flight>"

    @property
    def usable(self) -> bool:
        """Whether requests can be sent on it."""
        return not self._draining and not self._transport.is_closing()

    @property
    def congested(self) -> bool:
        """Whether what is sent now would wait for something large, for replicas, or for too many others."""
        inflight = self.inflight
        if not inflight:
            return False
        if self._partial > LARGE or self._pieces.is_busy or len(inflight) >= MAX_BATCH:
            return True
        return self._confirmations.asked or self._transport.get_write_buffer_size() > LARGE

    # Out

    def send(self, queue: deque[Request]) -> None:
        """Write the oldest requests of a queue, as many as there is room for. Those that were settled are dropped."""
        inflight, replicas = self.inflight, 0
        parts: list[bytes] = []
        room = MAX_BATCH - len(inflight)
        if not inflight:
            self._progress = self._loop.time()
        size, is_large = 0, False
        while queue and room and size < MAX_BATCH_BYTES:
            request = queue.popleft()
            if request.future.done():
                continue
            if request.replicas:
                if replicas not in (0, request.replicas):  # none waits for the replicas of another
                    queue.appendleft(request)
                    break
                replicas = request.replicas
            payload = request.payload
            if request.script is not None or request.asking:
                self._introduce(request, parts)
            parts.append(payload)
            inflight.append(request)
            request.connection = self
            room -= 1
            size += len(payload)
            if len(payload) > LARGE:  # alone, so that a refusal of its size is its own
                is_large = len(payload) > AT_ONCE
                break
        if replicas:
            inflight.append(self._confirmations.ask(replicas, inflight[-1].deadline))
            parts.append(inflight[-1].payload)
        data = b"".join(parts)
        if is_large:
            self._pieces.write(data)
        elif parts:
            self._transport.write(data)

    def _introduce(self, request: Request, parts: list[bytes]) -> None:
        """Write what comes before the payload of a request that is redirected or a script."""
        if request.asking:
            parts.append(_ASKING)
        script = request.script
        if script is not None:
            parts.append(b"*%d\r\n" % (request.arguments + 2))
            parts.append(script.by_hash if script.name in self._loaded else script.by_text)
            self._loaded.add(script.name)

    def _wrote(self, is_all: bool) -> None:  # noqa: FBT001  # a callback
        """Note that the server has taken a piece."""
        self._progress = self._loop.time()
        if is_all:
            self._owner.flush_soon()

    def pause_writing(self) -> None:
        """The server takes less than is written."""
        self._pieces.pause()

    def resume_writing(self) -> None:
        """The server takes more again."""
        self._pieces.resume()

    # In

    def data_received(self, data: bytes) -> None:
        """Settle every request whose last reply has come."""
        self._progress = self._loop.time()
        reader, headers = self._reader, self._headers
        completed = False
        try:
            walked = headers.before(data)
            for start in range(0, len(data), _SLICE):
                reader.feed(data, start, min(_SLICE, len(data) - start))
                if self._take_replies():
                    completed, self._partial = True, 0
                else:
                    self._partial += min(_SLICE, len(data) - start)
            if walked or not completed or headers.is_inside or data[-1] != _LINE_END or reader.has_data():
                unparsed = reader.len() if reader.has_data() else 0
                headers.after(data, unparsed, walked=walked, completed=completed)
                if self._partial > LARGE and not self.inflight:
                    raise UnreadableReplyError  # nobody asked for it
        except (hiredis.ProtocolError, UnreadableReplyError):
            self._distrust()
        except Exception:
            self._owner.log.exception("a reply could not be dealt with")
            self._distrust()
        if self._skipped:
            self.abort()  # it takes nothing more, whether it closes at once or not
        elif self._draining and not self.inflight:
            self._transport.close()
        self._owner.flush_soon()

    def _take_replies(self) -> bool:
        """Hand out the replies that are complete. Returns whether there was one."""
        gets, inflight, settle = self._reader.gets, self.inflight, self._settle
        taken, left = False, self._left
        while True:
            try:
                reply = gets()
            except TypeError:  # the key of a map that cannot be one
                raise UnreadableReplyError from None
            if reply is _NOT_ENOUGH:
                break
            taken = True
            kind: type = type(reply)  # pyright: ignore[reportUnknownVariableType]
            if kind is bytes and left > 1:  # OK or QUEUED of a transaction
                left -= 1
                continue
            if kind is _PushNotification:
                continue
            if not left:
                if not inflight:
                    raise UnreadableReplyError  # nobody asked for it
                request = inflight[0]
                left = request.replies + 1 if request.asking else request.replies
            left -= 1
            if kind is ReplyError and self._note(inflight[0], reply):
                left = 0
            if left:
                continue
            request = inflight.popleft()
            request.connection = None
            if request.replicas or request.error is not None:
                self._left = 0
                self._complete(request, reply)
            elif (fits := request.fits) is None or fits(reply):
                settle(request, reply)
            else:
                self._left = 0
                self._refuse(request)
        self._left = left
        return taken

    def _note(self, request: Request, error: ReplyError) -> bool:
        """Note the first error among a request's replies. Returns whether no other will follow."""
        if request.error is None:
            request.error = error
        if classify(error) is Verdict.DISCONNECTED:
            self._skipped = True
        return self._skipped

    def _complete(self, request: Request, reply: Any) -> None:
        """Settle a request that failed, or that replicas confirm."""
        error, request.error = request.error, None
        if isinstance(request, Wait):
            self._confirm(reply, error)
        elif error is not None:
            if error.code == "NOSCRIPT":
                self._loaded.clear()
            request.asking = False
            try:
                self._owner.refused(self, request, error)
            except UnreadableReplyError:
                self._refuse(request)
        elif request.fits is not None and not request.fits(reply):
            self._refuse(request)
        elif request.replicas:
            self._confirmations.add(request, reply, self)
        else:
            self._settle(request, reply)

    def _refuse(self, request: Request) -> None:
        """Fail a request whose reply makes no sense, and trust nothing that follows."""
        self._settle(request, error=unreadable(request))
        raise UnreadableReplyError

    def _confirm(self, replicas: Any, error: ReplyError | None = None) -> None:
        """Settle the writes before a WAIT by its reply."""
        if error is not None:  # the server became a replica: nobody confirmed
            self.drain()
            replicas = 0
        elif type(replicas) is not int:
            raise UnreadableReplyError
        self._confirmations.settle(replicas)

    def _distrust(self) -> None:
        """Fail what is in flight on a connection that does not speak as a Redis server does."""
        self._transport.abort()
        self._confirmations.settle(0)
        for request in self._take_all():
            self._settle(request, error=unreadable(request))

    # Ends

    def check(self, now: float) -> float:
        """Close a connection that is silent or hopelessly late. Returns when to look again, infinity if it is idle."""
        if not self.inflight:
            return float("inf")
        limits = self._limits
        silent = self._progress + limits.read_timeout
        if self._pieces.is_busy or self._transport.get_write_buffer_size():
            silent += limits.write_timeout
        due = min(silent, self.inflight[0].deadline + limits.read_timeout)
        if now >= due:
            self.abort()
            return float("inf")
        return due

    def drain(self) -> None:
        """Take nothing new, and close when what is in flight is answered."""
        self._draining = True
        if not self.inflight:
            self._transport.close()

    def abort(self) -> None:
        """Close at once. What is in flight is handed back when the loop reports the loss."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand back what was in flight."""
        self._displaced.connection_lost(None)  # redis-py waits for it when it closes
        is_partly_sent = self._pieces.give_up() and not self._confirmations.asked  # else that part may be of a WAIT
        self._confirmations.settle(0)
        lost = self._take_all()
        executed = 0 if self._skipped else len(lost)  # those that may have been
        if executed and is_partly_sent:  # a server executes nothing of a request that it has a part of
            executed -= 1
        self._owner.lost(self, in_doubt=any(request.writes for request in lost[:executed]))
        self._owner.give_back(lost[:executed], executed=True)
        self._owner.give_back(lost[executed:], executed=False)

    def _take_all(self) -> list[Request]:
        """Every request that this connection owes a reply; it owes none then."""
        requests = [request for request in self.inflight if not isinstance(request, Wait)]
        self.inflight.clear()
        for request in requests:
            request.connection = None
            request.error = None
        return requests
