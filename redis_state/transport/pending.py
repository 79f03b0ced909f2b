"""Every request that was taken and not settled, until when, and whose turn it is in its session."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.replies import OVERTAKEN
from redis_state.transport.outcomes import overdue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_state.commands.request import Request
    from redis_state.errors import StateStoreError

_SETTLED: Final = object()


class PendingRequests:
    """The one table of pending requests, wherever they are: queued, in flight, or waiting for anything.

    A request enters by `add` and leaves by `settle`. Requests of one session are started in their order: a write waits
    for all before it, a read for the writes before it, so that a retry can never be overtaken.

    All of its state:
        start: what takes a request whose turn it is.
        table: the requests, oldest first.
        turns: for each session that has requests, the one that runs, or a `_Turn` where there are several.
        starts: whether requests are started; not while all of them are being settled.
        on_empty: called whenever the table becomes empty, while somebody waits for that.

    Args:
        start: Takes a request whose turn it is.
        spread: By how many seconds the deadline of a request may be later than that of one added after it.
    """

    def __init__(self, start: Callable[[Request], None], spread: float) -> None:
        self.start = start
        self._spread = spread
        self._table: dict[Request, None] = {}
        self._turns: dict[bytes, Request | _Turn] = {}
        self.starts = True
        self.on_empty: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, request: Request) -> bool:
        return request in self._table

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._table))

    def add(self, request: Request) -> None:
        """Take a request, and start it when its turn in its session comes."""
        self._table[request] = None
        session = request.session
        if session is None or self._turns.setdefault(session, request) is request:
            self.start(request)
        else:
            self._wait(session, request)

    def add_started(self, request: Request) -> None:
        """Take a request that is started already, or is begun later."""
        self._table[request] = None

    def begin(self, request: Request) -> None:
        """Start a request that was taken, when its turn in its session comes, unless it was settled meanwhile."""
        if request in self._table:
            self.add(request)

    def settle(self, request: Request, result: Any = None, error: BaseException | None = None) -> None:
        """Complete a request, if it was not settled before; when no connection owes its reply, its turn ends."""
        if self._table.pop(request, _SETTLED) is None:
            future = request.future
            if not future.done():  # else its caller has cancelled it
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
            if self.on_empty is not None and not self._table:
                self.on_empty()
        if request.connection is None:
            session = request.session
            if session is not None:
                if self._turns.get(session) is request:
                    del self._turns[session]
                else:
                    self._end_turn(session, request)

    def settle_all(self, error: Callable[[Request], StateStoreError]) -> None:
        """Fail every request."""
        self.starts = False
        try:
            for request in list(self._table):
                self.settle(request, error=error(request))
        finally:
            self.starts = True

    def expire(self, now: float) -> float:
        """Settle what is late. Returns when the next request will be, infinity if there is none."""
        due: list[Request] = []
        following = float("inf")
        for request in self._table:
            deadline = request.deadline
            if deadline <= now:
                due.append(request)
            else:
                following = min(following, deadline)
                if deadline > now + self._spread:  # whatever was added later has time as well, but perhaps less
                    following = min(following, deadline - self._spread)
                    break
        for request in due:
            self.settle(request, error=overdue(request))
        return following

    def hold_back(self, request: Request) -> None:
        """Have the reads that run beside a request and came after it answered after it: it is tried again."""
        turn = self._turns.get(request.session) if request.session is not None else None
        if isinstance(turn, _Turn):
            turn.hold_back(request)

    def start_again(self, request: Request) -> None:
        """Start a read anew that was held back, when its turn comes."""
        turn = self._turns.get(request.session) if request.session is not None else None
        if isinstance(turn, _Turn) and len(turn.running) > 1:
            del turn.running[request]
            turn.again.append(request)
        else:
            self.start(request)

    def _wait(self, session: bytes, request: Request) -> None:
        turn = self._turns[session]
        if not isinstance(turn, _Turn):
            turn = self._turns[session] = _Turn(turn)
        if turn.joins(request):
            self.start(request)

    def _end_turn(self, session: bytes, request: Request) -> None:
        turn = self._turns.get(session)
        if not isinstance(turn, _Turn) or request not in turn.running:
            return  # it was settled while it waited for its turn, or before
        del turn.running[request]
        if turn.running:
            return
        started = list(turn.advance(self._table))
        if not started:
            del self._turns[session]
        elif self.starts:
            for each in started:
                self.start(each)


class _Turn:
    """The requests of one session: a write or some reads that run, and what waits behind them.

    Args:
        first: The request that runs.
    """

    __slots__ = ("again", "running", "waiting", "writing")

    def __init__(self, first: Request) -> None:
        self.running = {first: None}
        self.again: deque[Request] = deque()  # reads that were held back
        self.waiting: deque[Request] = deque()
        self.writing = first.writes

    def joins(self, request: Request) -> bool:
        """Take a request. Returns whether it runs at once, as a read among reads."""
        if self.again or self.waiting or self.writing or request.writes or any(map(_may_be_overtaken, self.running)):
            self.waiting.append(request)
            return False
        self.running[request] = None
        return True

    def hold_back(self, request: Request) -> None:
        """Mark the reads that run and came after a request: their replies do not count."""
        for other in list(self.running)[list(self.running).index(request) + 1 :]:
            other.error = OVERTAKEN

    def advance(self, table: dict[Request, None]) -> Iterator[Request]:
        """The next write, or all reads before it; what was settled meanwhile is left out."""
        while queue := self.again or self.waiting:
            request = queue[0]
            if request in table:
                if self.running and request.writes:
                    return
                self.running[request] = None
                self.writing = request.writes
                yield request
            queue.popleft()
            if self.writing and self.running:
                return


def _may_be_overtaken(read: Request) -> bool:
    """Whether what is sent after a read may be answered before it: it is tried again, or its connection is avoided."""
    return read.attempts > 0 or (read.connection is not None and read.connection.congested)
