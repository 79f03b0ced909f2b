"""Sentinels: they name the primary, and publish what they do about it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .keyspace import Error, Reply, encode
from .server import Node

if TYPE_CHECKING:
    from .faults import Dice
    from .loop import VirtualLoop
    from .session import Session

SERVICE = "main"


class Sentinel(Node):
    """One Sentinel.

    All of its state:
        named: the primary that it names.
        others: the other Sentinels.
        fails_over: whether it runs a failover.
    """

    def __init__(self, loop: VirtualLoop, dice: Dice, port: int, primary: Node) -> None:
        super().__init__(loop, dice, "127.0.0.1", port)
        self.named = primary
        self.others: list[Sentinel] = []
        self.fails_over = False

    def execute(self, session: Session, request: list[bytes], name: bytes) -> bytes | None:
        if name in (b"SUBSCRIBE", b"PSUBSCRIBE"):
            replies = b""
            for channel in request[1:]:
                session.channels.add((name, channel))
                replies += encode([name.lower(), channel, len(session.channels)])
            return replies
        if name in (b"UNSUBSCRIBE", b"PUNSUBSCRIBE"):
            session.channels.clear()
            return encode([name.lower(), None, 0])
        return encode(self.run(session, request, name))

    def _do_sentinel(self, session: Session, request: list[bytes]) -> Reply:
        what = request[1].lower()
        self.asked.append(self.loop.time())
        if what == b"get-master-addr-by-name":
            return [self.named.host.encode(), b"%d" % self.named.port]
        if what == b"master":
            flags = b"master,failover_in_progress" if self.fails_over else b"master"
            return [b"name", SERVICE.encode(), b"flags", flags]
        if what == b"sentinels":
            return [
                [
                    b"name",
                    b"s%d" % each.port,
                    b"ip",
                    each.host.encode(),
                    b"port",
                    b"%d" % each.port,
                    b"flags",
                    b"sentinel",
                ]
                for each in self.others
            ]
        return Error(f"ERR Unknown sentinel subcommand '{what.decode('latin-1')}'")

    def publish(self, channel: str, text: str) -> None:
        """Tell those who listen."""
        self.fails_over = channel == "+try-failover"
        if self.stopped:
            self.later(lambda: self.publish(channel, text))
            return
        self.dice.counts["published"] += 1
        name, data = channel.encode(), text.encode()
        for session in sorted(self.sessions, key=lambda session: session.link.number):
            for how, listened in sorted(session.channels):
                if how == b"SUBSCRIBE" and listened == name:
                    session.link.send(encode([b"message", name, data]))
                elif how == b"PSUBSCRIBE" and fnmatchcase(channel, listened.decode("latin-1")):
                    session.link.send(encode([b"pmessage", listened, name, data]))

    def name(self, primary: Node) -> None:
        """Name another primary, and say so."""
        old, self.named = self.named, primary
        if old is not primary:
            self.publish("+switch-master", f"{SERVICE} {old.host} {old.port} {primary.host} {primary.port}")
