"""One connection: operations out, replies in, in the same order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import hiredis

from redis_state.operation import Operation, pack
from redis_state.replies import ReplyError, Verdict, judge

if TYPE_CHECKING:
    from redis_state.channel import Channel
    from redis_state.connect import Connection

_NOT_ENOUGH: Final = object()
_NOTHING: Final = memoryview(b"")
_PushNotification: Final = hiredis.PushNotification
_ASKING: Final = pack(("ASKING",))
MAX_BATCH: Final = 1024  # operations in flight on one connection; more would only wait in the server
MAX_BATCH_BYTES: Final = 1024 * 1024  # in one batch
_SLICE: Final = 16 * 1024  # bytes parsed at once: hiredis moves the rest of them for every large reply that it returns
BULK: Final = 64 * 1024  # bytes: what is larger travels apart, so that the small do not wait for it
_AT_ONCE: Final = 256 * 1024  # bytes; what is larger is written in pieces, or it would hold up the loop and the server
_PIECE: Final = 64 * 1024  # at least
_LONE_PIECE: Final = 1024 * 1024  # where nothing else is under way; a small one would cost time and gain nobody any


class _Confirmation(Operation):
    """The WAIT that follows writes when replicas are to confirm them. No caller waits for it."""


class Lane(asyncio.Protocol):
    """One connection that redis-py has opened and authenticated, spoken on directly.

    redis-py awaits every reply by itself; here one call parses all that have come and completes their operations.

    All state of a connection:
        inflight: what was sent and not answered, oldest first.
        unconfirmed: writes that were answered but not yet confirmed by the replicas, with their results.
        loaded: the scripts that this connection has sent by text, so that the server knows their hash.
        left: replies still to come of the oldest operation in flight; 0 if none of them has come.
        partial: bytes received of a reply that is not complete.
        rest: what is still to be written of a large operation, a piece in each turn of the loop.
        paused: the transport holds as much as it should.
        progress: when the server last sent something, took a piece, or got work after it had none.
        skipped: the server closes the connection, and has executed nothing of what is in flight.
        retired: it takes nothing new and closes when nothing is in flight.
    """

    def __init__(self, channel: Channel, connection: Connection, transport: asyncio.Transport) -> None:
        self.connection = connection
        self.inflight: deque[Operation] = deque()
        self._unconfirmed: list[tuple[Operation, Any]] = []
        self._loaded: set[str] = set()
        self._left = 0
        self._partial = 0
        self._rest = _NOTHING
        self._paused = False
        self._progress = 0.0
        self._skipped = False
        self._retired = False
        self._timer: asyncio.TimerHandle | None = None
        self._channel = channel
        self._limits = channel.wire.limits
        self._loop = asyncio.get_running_loop()
        self._reader: Any = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOT_ENOUGH)  # pyright: ignore[reportArgumentType]
        self._transport = transport
        self._displaced = transport.get_protocol()
        transport.set_protocol(self)

    def __repr__(self) -> str:
        return f"<Lane {len(self.inflight)} in flight>"

    @property
    def usable(self) -> bool:
        """Whether operations can be sent on it."""
        return not self._retired and not self._transport.is_closing()

    @property
    def clogged(self) -> bool:
        """Whether what is sent now would wait for something large, or for replicas."""
        if self._partial > BULK or self._rest:
            return True
        return bool(self.inflight) and (self._limits.replicas > 0 or self._transport.get_write_buffer_size() > BULK)

    def send(self, queue: deque[Operation]) -> int:
        """Write the oldest operations of a queue, as many as there is room for; they become in flight.

        Returns:
            How many operations were left out because their callers are gone.
        """
        inflight, replicas = self.inflight, self._limits.replicas
        parts: list[bytes] = []
        room = MAX_BATCH - len(inflight)
        if not inflight:
            self._progress = self._loop.time()
        size = gone = 0
        tried = written = large = False
        while queue and room and size < MAX_BATCH_BYTES:
            op = queue.popleft()
            if op.future.done():
                gone += 1
                continue
            payload = op.payload
            length = len(payload)
            if length > BULK and parts:  # alone, so that a refusal of its size is its own
                queue.appendleft(op)
                break
            if op.attempts or op.script is not None:
                tried = tried or op.attempts > 0
                self._introduce(op, parts)
            parts.append(payload)
            inflight.append(op)
            room -= 1
            size += length
            if replicas and op.writes:
                written = True
            if length > BULK:
                large = length > _AT_ONCE
                break
        if written:
            parts.append(self._await_replicas())
        data = b"".join(parts)
        if large:
            self._rest = memoryview(data)
            self._write_piece()
        else:
            self._transport.write(data)
        if self._timer is None or tried:
            self._arm()
        return gone

    def _write_piece(self) -> None:
        """Write the next piece of something large, and see to the one after it."""
        if self._transport.is_closing():
            return
        is_alone = self._channel.wire.traffic.pending == 1
        size = _LONE_PIECE if is_alone else max(_PIECE, len(self._rest) // 16)  # a share: long turns are no bound to it
        piece, self._rest = self._rest[:size], self._rest[size:]
        self._transport.write(piece)
        self._progress = self._loop.time()
        if not self._rest:
            self._rest = _NOTHING  # an empty view would keep what it is a view of
            self._arm()
            self._channel.flush_soon()
        elif not self._paused:
            self._loop.call_later(0, self._write_piece)  # after what has been received by then, which may say no

    def pause_writing(self) -> None:
        """The server takes less than is written."""
        self._paused = True

    def resume_writing(self) -> None:
        """It takes more again."""
        self._paused = False
        if self._rest:
            self._write_piece()

    def _introduce(self, op: Operation, parts: list[bytes]) -> None:
        """What comes before the payload of an operation that is redirected or a script."""
        if op.asking:
            parts.append(_ASKING)
        script = op.script
        if script is not None:
            parts.append(b"*%d\r\n" % (op.arguments + 2))
            parts.append(script.by_hash if script.name in self._loaded else script.by_text)
            self._loaded.add(script.name)

    def abort(self) -> None:
        """Close at once. What is in flight is handed back when the loop reports the loss."""
        self._transport.abort()

    def retire(self) -> None:
        """Take nothing new, and close when what is in flight is answered."""
        self._retired = True
        if not self.inflight:
            self._transport.close()

    def _await_replicas(self) -> bytes:
        """The question for the replicas' confirmation of all writes before; its reply completes them."""
        milliseconds = int(self._limits.read_timeout * 500)
        wait = _Confirmation(pack(("WAIT", self._limits.replicas, milliseconds)), None)
        wait.deadline = self.inflight[-1].deadline
        self.inflight.append(wait)
        return wait.payload

    def data_received(self, data: bytes) -> None:
        """Complete every operation whose last reply has come."""
        answered = 0
        try:
            for start in range(0, len(data), _SLICE):
                self._reader.feed(data, start, min(_SLICE, len(data) - start))
                answered += self._take_replies()
        except (hiredis.ProtocolError, IndexError):  # a reply nobody waits for: this is no Redis, or a broken one
            self.abort()
        self._progress = self._loop.time()
        if self._skipped:
            self.abort()  # it takes nothing more, whether it closes at once or not
        elif self._retired and not self.inflight:
            self._transport.close()
        if answered:
            self._partial = 0
            self._channel.answered(answered)
        elif self._partial + len(data) > BULK >= self._partial:
            self._partial += len(data)
            self._channel.flush_soon()  # what waits for this connection may take another
        else:
            self._partial += len(data)

    def _take_replies(self) -> int:
        """Hand out the replies that are complete. Returns how many operations have left the wire with theirs."""
        gets, inflight, replicas = self._reader.gets, self.inflight, self._limits.replicas
        answered, left = 0, self._left
        while (reply := gets()) is not _NOT_ENOUGH:
            if type(reply) is _PushNotification:
                continue
            if not left:
                op = inflight[0]
                left = op.replies + 1 if op.asking else op.replies
            left -= 1
            if type(reply) is ReplyError and self._note(inflight[0], reply):
                left = 0
            if left:
                continue
            op = inflight.popleft()
            answered += 1
            if op.error is not None or replicas:
                answered -= self._complete(op, reply)
            elif not (future := op.future).done():
                future.set_result(reply)
        self._left = left
        return answered

    def _note(self, op: Operation, error: ReplyError) -> bool:
        """Note the first error among an operation's replies. Returns whether no other will follow."""
        if op.error is None:
            op.error = error
        if judge(error) is Verdict.DISCONNECTED:
            self._skipped = True
        return self._skipped

    def _complete(self, op: Operation, reply: Any) -> int:
        """Complete an operation that failed, or that replicas confirm. Returns 1 if it stays with the wire."""
        if isinstance(op, _Confirmation):  # an error, such as UNBLOCKED on a demotion, means that nobody confirmed
            self._confirm(0 if op.error is not None else reply)
            return 1
        if op.error is not None:
            if op.error.code == "NOSCRIPT":
                self._loaded.clear()
            return self._channel.refused(self, op)
        if op.writes:
            self._unconfirmed.append((op, reply))
            return 1
        if not op.future.done():
            op.future.set_result(reply)
        return 0

    def _confirm(self, replicas: int) -> None:
        """Complete the writes that so many replicas have confirmed."""
        for write, result in self._unconfirmed:
            self._channel.confirmed(write, result, replicas)
        self._unconfirmed.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand back what was in flight."""
        self._displaced.connection_lost(None)  # redis-py waits for it when it closes
        if self._timer is not None:
            self._timer.cancel()
        self._confirm(0)
        lost = [op for op in self.inflight if not isinstance(op, _Confirmation)]
        self.inflight.clear()
        executed = 0 if self._skipped else len(lost)  # those that may have been
        if executed and self._rest and not self._limits.replicas:  # with replicas the rest may be the WAIT
            executed -= 1  # a server executes nothing of a request that it has a part of
        self._channel.lost(self, lost[:executed], lost[executed:])

    def _arm(self) -> None:
        """Look again when the first operation's time is up, or when the server has been silent too long."""
        if self._timer is not None:
            self._timer.cancel()
        due = [op.deadline for op in self.inflight if not op.expired]
        self._timer = self._loop.call_at(min((self._silent_until(), *due)), self._check) if self.inflight else None

    def _silent_until(self) -> float:
        limits = self._limits
        is_writing = self._rest or self._transport.get_write_buffer_size()
        return self._progress + limits.read_timeout + (limits.write_timeout if is_writing else 0.0)

    def _check(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self.inflight and now >= self._silent_until():
            self.abort()
            return
        for op in self.inflight:
            if op.deadline <= now and not op.expired:
                op.expired = True  # its reply is still to come, and will be dropped
                if not isinstance(op, _Confirmation):
                    self._channel.expire(op)
        self._arm()
