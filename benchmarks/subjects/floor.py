"""The floor: what an asyncio protocol costs that sends the same bytes and does nothing else."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import urlsplit

import hiredis

from benchmarks.subjects.subject import Keys, decode, encode, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis_state import AgentState

pack: Callable[..., bytes] = cast("Any", hiredis).pack_command  # its annotation has tuples of one
MULTI = pack(("MULTI",))
EXEC = pack(("EXEC",))


class Pipe(asyncio.Protocol):
    """Commands out in the order of the calls, one write for each turn of the loop; replies back in that order.

    No deadlines, no retries, no limits, no errors but the reply itself, no metrics.
    """

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.loop = asyncio.get_running_loop()
        self.unsent: list[bytes] = []
        self.waiting: deque[tuple[int, asyncio.Future[Any]]] = deque()
        self.read = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.WriteTransport", transport)

    def request(self, commands: bytes, replies: int) -> asyncio.Future[Any]:
        """Send commands; the future is the last of their replies."""
        if not self.unsent:
            self.loop.call_soon(self.flush)
        self.unsent.append(commands)
        future = self.loop.create_future()
        self.waiting.append((replies, future))
        return future

    def flush(self) -> None:
        """Write what this turn of the loop asked for."""
        self.transport.write(b"".join(self.unsent))
        self.unsent.clear()

    def data_received(self, data: bytes) -> None:
        """Hand out replies."""
        self.reader.feed(data)
        waiting, gets = self.waiting, self.reader.gets
        read = self.read
        while (reply := gets()) is not False:
            read += 1
            if read == waiting[0][0]:
                waiting.popleft()[1].set_result(reply)
                read = 0
        self.read = read


class Floor:
    """One connection, `hiredis.pack_command` and `hiredis.Reader`, futures, the same codec."""

    label: ClassVar[str] = "bare protocol"
    how: ClassVar[str] = (
        "an asyncio.Protocol with hiredis that sends the same commands over one connection, one write for each turn "
        "of the event loop, and resolves futures in order: no errors, deadlines, retries, limits or metrics"
    )
    missing: ClassVar[Mapping[str, str]] = {
        "save_if": "the floor is measured for save, load, delete and list",
        "append": "the floor is measured for save, load, delete and list",
    }

    def __init__(self, url: str, states: list[AgentState]) -> None:
        self.url = url
        self.states = states
        self.keys = Keys("floor:")

    async def open(self) -> None:
        """Connect."""
        address = urlsplit(self.url)
        loop = asyncio.get_running_loop()
        _, self.pipe = await loop.create_connection(Pipe, address.hostname or "localhost", address.port or 6379)

    async def close(self) -> None:
        """Disconnect."""
        self.pipe.transport.close()

    async def save(self, i: int) -> bool:
        """Write the state and its place in the index."""
        state = self.states[i]
        score = stamp(state)
        save = pack(("SET", self.keys.state(state), encode(state)))
        place = pack(("ZADD", self.keys.index(state.agent_id), score, state.session_id))
        replies = await self.pipe.request(b"".join((MULTI, save, place, EXEC)), 4)
        return replies[0] == b"OK"

    async def load(self, i: int) -> Sequence[Any]:
        """Read the state."""
        value = await self.pipe.request(pack(("GET", self.keys.state(self.states[i]))), 1)
        return decode(value).messages

    async def delete(self, i: int) -> bool:
        """Remove the state and its place in the index."""
        state = self.states[i]
        delete = pack(("DEL", self.keys.state(state)))
        unlist = pack(("ZREM", self.keys.index(state.agent_id), state.session_id))
        return await self.pipe.request(b"".join((MULTI, delete, unlist, EXEC)), 4) == [1, 1]

    async def list(self, limit: int | None = None) -> Sequence[Any]:
        """Read the index."""
        key = self.keys.index(self.states[0].agent_id)
        found = await self.pipe.request(pack(("ZREVRANGE", key, 0, (limit or 0) - 1)), 1)
        return [session_id.decode() for session_id in found]

    async def load_many(self, many: range) -> Sequence[Any]:
        """MGET."""
        keys = (self.keys.state(self.states[i]) for i in many)
        found = await self.pipe.request(pack(("MGET", *keys)), 1)
        return [decode(value) for value in found if value is not None]
