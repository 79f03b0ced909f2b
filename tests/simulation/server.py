"""One node: what it answers to a connection's requests."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from .keyspace import TOKEN, Change, Error, Keyspace, Reply, Status, encode, is_write, keys_of
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from .faults import Dice
    from .loop import VirtualLoop
    from .network import Link

OK: Final = Status(b"OK")
_HANDSHAKE: Final = {b"CLIENT", b"AUTH", b"HELLO", b"SELECT"}
_REFUSALS: Final = {
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "NOREPLICAS": "NOREPLICAS Not enough good replicas to write.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "TRYAGAIN": "TRYAGAIN Multiple keys request during rehashing of slot",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
}
_WRITES_ONLY: Final = {"OOM", "NOREPLICAS", "READONLY"}


class Node:
    """One server.

    All of its state:
        keyspace: its keys.
        primary: the node that it is a replica of; None of a primary.
        replicas: those that follow it.
        offset: how many writes it has made.
        has: the marks of all writes in its data; durable: of those that came by replication.
        behind: writes of its primary that it has not applied: when it will have, the primary's offset, what changed.
        refusing: a code that it refuses with until a time.
        stopped, down: it reads nothing; nobody listens.
    """

    def __init__(self, loop: VirtualLoop, dice: Dice, host: str, port: int) -> None:
        self.loop = loop
        self.dice = dice
        self.host = host
        self.port = port
        self.keyspace = Keyspace()
        self.primary: Node | None = None
        self.replicas: list[Node] = []
        self.offset = 0
        self.applied = 0
        self.has: set[bytes] = set()
        self.durable: set[bytes] = set()
        self.behind: deque[tuple[float, int, list[Change], list[bytes]]] = deque()
        self.refusing: tuple[str, float] = ("", 0.0)
        self.stopped = False
        self.down = False
        self.sessions: set[Session] = set()
        self._postponed: list[Callable[[], None]] = []
        self.cluster: Any = None
        self.asked: list[float] = []  # when routes were asked for
        self.unknown: set[bytes] = set()
        self.protocol_errors: list[str] = []

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"

    # As a listener

    def accept(self, link: Link) -> Session:
        session = Session(self, link)
        self.sessions.add(session)
        return session

    def later(self, work: Callable[[], None]) -> None:
        self._postponed.append(work)

    def resume(self) -> None:
        """Run again after a stop."""
        self.stopped = False
        postponed, self._postponed = self._postponed, []
        for work in postponed:
            work()

    def drop_connections(self) -> None:
        """Close every connection."""
        for session in sorted(self.sessions, key=lambda session: session.link.number):
            session.link.reset()
        self.sessions.clear()

    # Requests

    def execute(self, session: Session, request: list[bytes], name: bytes) -> bytes | None:
        """The reply to a request; None if it comes later."""
        if name == b"WAIT":
            return self._wait(session, int(request[1]), int(request[2]))
        asking, session.asking = session.asking, False
        special = self._refused(session, request, name, asking=asking) or self._transact(session, request, name)
        return special or encode(self.run(session, request, name))

    def _refused(self, session: Session, request: list[bytes], name: bytes, *, asking: bool) -> bytes | None:
        refusal = self._refusal(request, name) or self._elsewhere(session, request, asking=asking)
        if refusal is None:
            return None
        if name == b"EXEC":
            session.queued, session.broken = None, False
            return encode(Error(f"EXECABORT Transaction discarded because of: {refusal}"))
        session.broken = session.broken or session.queued is not None
        return encode(Error(refusal))

    def _transact(self, session: Session, request: list[bytes], name: bytes) -> bytes | None:
        if name == b"MULTI":
            session.queued, session.broken = [], False
            return encode(OK)
        if name == b"EXEC":
            return self._exec(session)
        if session.queued is not None:
            session.queued.append(request)
            return b"+QUEUED\r\n"
        return None

    def _exec(self, session: Session) -> bytes:
        queued, session.queued = session.queued, None
        if queued is None:
            return encode(Error("ERR EXEC without MULTI"))
        if session.broken:
            return encode(Error("EXECABORT Transaction discarded because of previous errors."))
        return encode([self.run(session, each, each[0].upper()) for each in queued])

    def _refusal(self, request: list[bytes], name: bytes) -> str | None:
        if name in _HANDSHAKE:
            return None
        code, until = self.refusing
        if self.loop.time() < until and (code not in _WRITES_ONLY or is_write(request)):
            self.dice.note("refusing_period")
            return _REFUSALS[code]
        if name not in (b"MULTI", b"SENTINEL") and self.dice.happens("refusal"):
            code = self.dice.rng.choice(("OOM", "BUSY", "NOREPLICAS", "READONLY", "LOADING", "TRYAGAIN"))
            if code not in _WRITES_ONLY or is_write(request):
                self.dice.note("refusal", f"{code} {name!r} {self}")
                return _REFUSALS[code]
        if self.primary is not None and self.cluster is None and is_write(request):
            self.dice.counts["readonly"] += 1
            return _REFUSALS["READONLY"]
        return None

    def _elsewhere(self, session: Session, request: list[bytes], *, asking: bool) -> str | None:
        if self.cluster is None:
            return None
        keys = keys_of(request)
        if request[0].upper() == b"EXEC" and session.queued:
            keys = [key for each in session.queued for key in keys_of(each)]
        return self.cluster.redirect(self, keys, asking=asking)

    def run(self, session: Session, request: list[bytes], name: bytes) -> Reply:
        """Execute one command."""
        special = getattr(self, f"_do_{name.decode('latin-1').lower()}", None)
        if special is not None:
            return special(session, request)
        if name in (b"EVAL", b"EVALSHA") and self.dice.happens("script_flush"):
            self.dice.note("script_flush")
            self.keyspace.forget_scripts()
        writes = is_write(request)
        keys = keys_of(request) if writes else []
        before = [self.keyspace.content(key) for key in keys]
        reply = self.keyspace.run(request)
        if isinstance(reply, Error) and "unknown command" in reply.value:
            self.unknown.add(name)
        if isinstance(reply, Error) and reply.value.startswith("NOSCRIPT"):
            self.dice.counts["noscript"] += 1
        if self.keyspace.wrote or before != [
            self.keyspace.content(key) for key in keys
        ]:  # what changes nothing is no write for WAIT
            self._replicate(session, request)
        return reply

    # What fakeredis does not know

    def _do_ping(self, session: Session, request: list[bytes]) -> Reply:
        return Status(b"PONG") if len(request) == 1 else request[1]

    def _do_client(self, session: Session, request: list[bytes]) -> Reply:
        return OK

    def _do_auth(self, session: Session, request: list[bytes]) -> Reply:
        return OK

    def _do_select(self, session: Session, request: list[bytes]) -> Reply:
        return OK

    def _do_asking(self, session: Session, request: list[bytes]) -> Reply:
        session.asking = True
        return OK

    def _do_readonly(self, session: Session, request: list[bytes]) -> Reply:
        return OK

    def _do_script(self, session: Session, request: list[bytes]) -> Reply:
        return self.keyspace.run([b"SCRIPT " + request[1].upper(), *request[2:]])

    def _do_info(self, session: Session, request: list[bytes]) -> Reply:
        return (
            b"# Server\r\nredis_version:8.2.0\r\nredis_mode:standalone\r\n# Memory\r\nmaxmemory:0\r\n"
            b"maxmemory_policy:noeviction\r\n# Stats\r\nevicted_keys:0\r\n# Replication\r\nrole:%b\r\n"
            b"# Cluster\r\ncluster_enabled:%d\r\n" % (b"slave" if self.primary else b"master", self.cluster is not None)
        )

    def _do_role(self, session: Session, request: list[bytes]) -> Reply:
        if self.primary is None:
            return [b"master", self.offset, []]
        return [b"slave", self.primary.host.encode(), self.primary.port, b"connected", self.applied]

    def _do_cluster(self, session: Session, request: list[bytes]) -> Reply:
        if self.cluster is None:
            return Error("ERR This instance has cluster support disabled")
        self.asked.append(self.loop.time())
        return self.cluster.answer(self, request)

    # Replication

    def _replicate(self, session: Session, request: list[bytes]) -> None:
        self.offset += 1
        session.written = self.offset
        keys = keys_of(request)
        tokens = [token for field in request for token in TOKEN.findall(field)]
        self.has.update(tokens)
        for replica in self.replicas:
            delay = self.dice.rng.choice((0.0002, 0.001, 0.003))
            if self.dice.happens("lag"):
                self.dice.note("lag")
                delay += self.dice.rng.choice((0.1, 0.5, 2.0))
            last = replica.behind[-1][0] if replica.behind else 0.0
            changes = [(key, self.keyspace.value(key)) for key in keys]
            replica.behind.append((max(last, self.loop.time() + delay), self.offset, changes, tokens))

    def catch_up(self, until: float | None = None) -> None:
        """Apply what has come from the primary."""
        until = self.loop.time() if until is None else until
        while self.behind and self.behind[0][0] <= until:
            _, self.applied, changes, tokens = self.behind.popleft()
            self.durable.update(tokens)
            self.has.update(tokens)
            for change in changes:
                self.keyspace.put(change)

    def _wait(self, session: Session, wanted: int, milliseconds: int) -> bytes | None:
        self.dice.counts["wait"] += 1
        now, until = self.loop.time(), self.loop.time() + milliseconds / 1000
        when = sorted(replica.has_at(session.written) for replica in self.replicas)
        ready = when[wanted - 1] if len(when) >= wanted else float("inf")
        if ready <= now:
            return encode(sum(each <= now for each in when))
        session.blocked, written = True, session.written

        def answer() -> None:
            if self.stopped:
                self.later(answer)
            else:  # a replica may have left meanwhile
                session.unblock(sum(replica.has_at(written) <= self.loop.time() for replica in self.replicas))

        self.loop.happen(min(ready, until), answer)
        return None

    def has_at(self, offset: int) -> float:
        """When this replica will have applied so many writes of its primary."""
        self.catch_up()
        if offset <= self.applied:
            return 0.0
        return next((when for when, number, _, _ in self.behind if number >= offset), 1e9)

    def follow(self, primary: Node) -> None:
        """Become a replica: its keys replace those of this node."""
        for session in sorted(self.sessions, key=lambda session: session.link.number):
            session.unblock(Error("UNBLOCKED force unblock from blocking operation, instance state changed"))
        self.primary, self.replicas, self.offset = primary, [], 0
        self.behind.clear()
        primary.catch_up()
        self.keyspace.take_all(primary.keyspace)
        self.applied = primary.offset
        self.has, self.durable = set(primary.has), set(primary.has)
        if self not in primary.replicas:
            primary.replicas.append(self)

    def promote(self, *, complete: bool) -> None:
        """Take over from the primary, with all that it has written, or with what has come."""
        self.catch_up(1e12 if complete else None)
        lost = len(self.behind)
        if lost:
            self.dice.note("lost_writes", f"{lost} at {self}")
        self.behind.clear()
        old = self.primary
        if old is not None and self in old.replicas:
            old.replicas.remove(self)
        self.primary, self.offset, self.applied = None, 0, 0
        self.dice.say(f"{self} is primary")

    def take_over(self, source: Node, key: bytes) -> None:
        """Move one key here, as MIGRATE does: it is in one place at any time, and so for the replicas."""
        item = source.keyspace.value(key)
        tokens = source.keyspace.tokens(key)
        self.has.update(tokens)
        for node, value in ((source, None), (self, item)):
            node.keyspace.put((key, value))
            node.offset += 1
            for replica in node.replicas:
                last = replica.behind[-1][0] if replica.behind else 0.0
                replica.behind.append((max(last, self.loop.time()), node.offset, [(key, value)], tokens))
