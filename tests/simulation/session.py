"""The server's end of a connection: requests in, replies out, and where a connection may break between them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import hiredis

from .keyspace import Reply, encode

if TYPE_CHECKING:
    from .network import Link
    from .server import Node


class Session:
    """The server's end of a connection.

    All of its state:
        requests: what has come and was not executed.
        queued: the commands of an open MULTI; None outside.
        broken: a command of it was refused.
        asking: the next command may use a slot that this node imports.
        written: the offset of the last write, for WAIT.
        blocked: WAIT has not been answered.
        channels: what it listens to, each with the command that said so.
    """

    def __init__(self, node: Node, link: Link) -> None:
        self.node = node
        self.link = link
        self.requests: deque[list[bytes]] = deque()
        self.queued: list[list[bytes]] | None = None
        self.broken = False
        self.asking = False
        self.written = 0
        self.blocked = False
        self.open = True
        self.channels: set[tuple[bytes, bytes]] = set()
        self._reader: Any = hiredis.Reader()

    def received(self, data: bytes) -> None:
        if self.open:
            self._reader.feed(data)
            try:
                while (request := self._reader.gets()) is not False:
                    self.requests.append(request)
            except hiredis.ProtocolError as error:
                self.node.protocol_errors.append(str(error))
                self.link.finish()
            self.go_on()

    def lost(self) -> None:
        self.open = False
        self.node.sessions.discard(self)

    def go_on(self) -> None:
        """Execute what has come."""
        while self.requests and self.open and not self.blocked:
            self._take(self.requests.popleft())

    def _take(self, request: list[bytes]) -> None:
        dice, name = self.node.dice, request[0].upper()
        if dice.happens("cut_before_execution"):
            dice.note("cut_before_execution", f"#{self.link.number} {name!r}")
            self.link.reset()
            return
        reply = self.node.execute(self, request, name)
        if reply is None:
            return  # blocked
        if dice.happens("cut_before_reply"):
            dice.note("cut_before_reply", f"#{self.link.number} {name!r}")
            self.link.reset()
        elif dice.happens("cut_in_reply"):
            dice.note("cut_in_reply", f"#{self.link.number} {name!r}")
            self.link.send(reply[: dice.rng.randrange(len(reply))])
            self.link.finish()
        else:
            self.link.send(reply)
            if dice.happens("cut_after_reply"):
                dice.note("cut_after_reply", f"#{self.link.number} {name!r}")
                self.link.finish()

    def unblock(self, reply: Reply) -> None:
        """Answer a WAIT."""
        if self.blocked and self.open:
            self.blocked = False
            self.link.send(encode(reply))
            self.go_on()
