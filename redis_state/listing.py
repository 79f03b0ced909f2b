"""The index of an agent's sessions: read in pages, checked against the states, repaired on the way.

An entry may outlive its state: the state expires, is evicted, or somebody deletes it by hand. So whatever is read from
an index is looked for with EXISTS before it is shown. A whole index may be lost as well, where the server evicts keys
without an expiry; it is then built again from the states.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from redis_state.clock import moment
from redis_state.errors import InvalidIdError, ServerRefusedError
from redis_state.operation import Operation, Replay, command, pack
from redis_state.scripts import REPAIR
from redis_state.state import SessionInfo
from redis_state.traffic import retrieve
from redis_state.writes import Delete

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from redis_state.keys import Keys, Partition

INFO_STATS: Final = pack(("INFO", "stats"))
PAGE: Final = 500  # entries that one command reads or checks: well below a millisecond of the server's time
# A member that no session id equals: the index that holds it has not been evicted since it was last built.
_COMPLETE: Final = b""


Execute = Callable[[Operation], Awaitable[Any]]


class Submit(Protocol):
    """Sends an operation; the future has its result, before the deadline by the loop's clock or within the budget."""

    def __call__(self, op: Operation, deadline: float | None = None) -> asyncio.Future[Any]: ...


class Entry(NamedTuple):
    """One entry of an index. Sorts as Redis sorts it: by time, then by bytes.

    Attributes:
        score: Microseconds since 1970 by the writer's clock.
        member: The session id in UTF-8.
    """

    score: float
    member: bytes

    @property
    def session_id(self) -> str:
        """The session."""
        return self.member.decode()

    def info(self) -> SessionInfo:
        """What a listing shows of it."""
        return SessionInfo(self.session_id, moment(self.score))


_NONE: Final = Entry(float("-inf"), b"")


def _entries(reply: list[Any]) -> list[Entry]:
    """Members with scores: flat in RESP2, pairs in RESP3."""
    if reply and isinstance(reply[0], list):
        pairs = [(member, score) for member, score in reply]
    else:
        pairs = list(zip(reply[::2], reply[1::2], strict=True))
    return [Entry(float(score), member) for member, score in pairs if member != _COMPLETE]


def _state_key(partition: Partition, member: bytes) -> bytes | None:
    """The key of the state that an index member stands for, None where it is no session id."""
    try:
        return partition.state(member.decode())
    except (UnicodeDecodeError, InvalidIdError):
        return None


class Listing:
    """Reads the indexes of a store.

    Args:
        submit: Sends an operation; the future has its result.
        keys: The names of keys.
        score: Tells from a stored value where its session stands, for an index that is built again.
    """

    def __init__(self, submit: Submit, keys: Keys, score: Callable[[bytes], float]) -> None:
        self._submit = submit
        self._keys = keys
        self._score = score
        self._asked: dict[int, asyncio.Future[Any]] = {}  # evictions asked for in this turn of the loop, by slot

    async def newest(self, agent_id: str, limit: int | None) -> list[Entry]:
        """The newest entries with a state, newest first; None is all of them."""
        parts = self._keys.agent(agent_id)
        if limit == 0:
            return []
        reads = [self._all(part) if limit is None else self._first(part, limit) for part in parts]
        if len(reads) == 1:
            entries = await reads[0]
        else:
            entries = [entry for found in await asyncio.gather(*reads) for entry in found]
        entries.sort(reverse=True)
        return entries if limit is None else entries[:limit]

    async def iterate(self, agent_id: str, before: Entry | None) -> AsyncIterator[Entry]:
        """Every entry with a state, newest first. What moved while this ran comes at the end, once."""
        parts = self._keys.agent(agent_id)
        seen: set[bytes] = set()
        pages = [self._pages(part, before) for part in parts]
        heads = [(await anext(entries, None), entries) for entries in pages]
        while True:
            entry, entries = max(heads, key=lambda head: head[0] or _NONE)
            if entry is None:
                break
            heads[pages.index(entries)] = (await anext(entries, None), entries)
            if entry.member not in seen:
                seen.add(entry.member)
                yield entry
        # A session that is saved while this runs jumps over the cursor. ZSCAN shows what is there throughout.
        for part in parts:
            late = [entry for entry in await self._all(part) if entry.member not in seen]
            for entry in sorted(late, reverse=True):
                if before is None or entry < before:
                    yield entry

    async def agents(self, nodes: list[str]) -> AsyncIterator[str]:
        """The agents that have a session, each once."""
        seen: set[str] = set()
        for node in nodes:
            patterns = [self._keys.index_pattern]
            if await self._has_evicted(Operation(INFO_STATS, None, node=node)):
                patterns.append(self._keys.state_pattern)  # an index may be gone while its states are there
            for pattern in patterns:
                cursor = b"0"
                while True:
                    scan = command(None, "SCAN", cursor, "MATCH", pattern, "COUNT", PAGE, node=node)
                    cursor, found = await self._submit(scan)
                    agent_ids = {agent for agent in map(self._keys.agent_of, found) if agent is not None} - seen
                    seen |= agent_ids
                    living = await asyncio.gather(*(self.newest(agent_id, 1) for agent_id in agent_ids))
                    for agent_id, entries in zip(agent_ids, living, strict=True):
                        if entries:
                            yield agent_id
                    if int(cursor) == 0:
                        break

    async def sweep(self, partition: Partition, cursor: int) -> tuple[int, int, int]:
        """Check the next part of an index. Returns the next cursor, and how many entries were read and were dead."""
        cursor, page = await self._scan(partition, cursor)
        return cursor, len(page), len(page) - len(await self._living(partition, page))

    async def delete_all(self, agent_id: str, progress: Callable[[int], None] | None) -> int:
        """Delete every state and index entry of an agent, a page at a time."""
        deleted = 0
        for part in self._keys.agent(agent_id):
            if await self._evictions(part.slot):
                await self._restore(part)
            while members := await self._submit(command(part.slot, "ZRANGE", part.index, 0, PAGE - 1)):
                states = [state for state in map(_state_key, repeat(part), members) if state is not None]
                if len(states) < len(members):  # some are no session's
                    foreign = [member for member in members if _state_key(part, member) is None]
                    await self._submit(command(part.slot, "ZREM", part.index, *foreign))
                    continue
                deleted += (await self.delete(part, states, members))[0]
                if progress is not None:
                    progress(deleted)
        return deleted

    async def delete(
        self, partition: Partition, states: list[bytes], members: list[bytes], execute: Execute | None = None
    ) -> tuple[int, int]:
        """Delete states and their entries in one MULTI. Returns how many of each there were."""
        execute = execute or self._submit
        op = Delete(b"", partition.slot, replay=Replay.NEVER, partition=partition, keys=states, members=members)
        op.become_block()
        try:
            reply = await execute(op)
        except ServerRefusedError as error:
            if error.code != "OOM":
                raise
            op.become_script()  # a full server takes no MULTI, but it can be relieved
            reply = await execute(op)
        return op.outcome(reply)

    async def _first(self, partition: Partition, limit: int) -> list[Entry]:
        """The newest entries of one partition that have a state."""
        found: list[Entry] = []
        cursor: Entry | None = None
        more = True
        while more and len(found) < limit:
            page, more = await self._page(partition, cursor, min(PAGE, limit - len(found)))
            found += await self._living(partition, page)
            cursor = page[-1] if page else cursor
        return found

    async def _pages(self, partition: Partition, cursor: Entry | None) -> AsyncIterator[Entry]:
        """Every entry of one partition after a cursor that has a state, newest first."""
        more = True
        while more:
            page, more = await self._page(partition, cursor, PAGE)
            for entry in await self._living(partition, page):
                yield entry
            cursor = page[-1] if page else cursor

    async def _page(self, partition: Partition, cursor: Entry | None, size: int) -> tuple[list[Entry], bool]:
        """Up to `size` entries after a cursor, newest first, and whether more may follow."""
        slot, index = partition.slot, partition.index
        top = "+inf" if cursor is None else repr(cursor.score)
        offset = 0
        while True:
            page = ("ZREVRANGEBYSCORE", index, top, "-inf", "WITHSCORES", "LIMIT", offset, size)
            read = self._submit(command(slot, *page))
            if cursor is None:
                evictions, reply = await asyncio.gather(self._evictions(slot), read)
                if evictions and await self._restore(partition):
                    continue
            else:
                reply = await read
            entries = _entries(reply)
            fresh = entries if cursor is None else [entry for entry in entries if entry < cursor]
            read_all = len(entries) < size
            if fresh or read_all:
                return fresh, not read_all
            offset += size  # all of them share the cursor's score and stand before it

    async def _all(self, partition: Partition) -> list[Entry]:
        """Every entry of one partition that has a state, in no order. A page is checked while the next is read."""
        if await self._evictions(partition.slot):
            await self._restore(partition)
        found: dict[bytes, Entry] = {}
        page: list[Entry] = []
        cursor = 0
        while True:
            (cursor, following), living = await asyncio.gather(
                self._scan(partition, cursor), self._living(partition, page)
            )
            found.update((entry.member, entry) for entry in living)
            page = following
            if not cursor:
                break
        found.update((entry.member, entry) for entry in await self._living(partition, page))
        return list(found.values())

    async def _scan(self, partition: Partition, cursor: int) -> tuple[int, list[Entry]]:
        reply = await self._submit(command(partition.slot, "ZSCAN", partition.index, cursor, "COUNT", PAGE))
        return int(reply[0]), _entries(reply[1])

    async def _living(self, partition: Partition, entries: Sequence[Entry]) -> list[Entry]:
        """Those entries that have a state; the others are removed."""
        slot = partition.slot
        keys = [_state_key(partition, entry.member) for entry in entries]
        if None in keys:
            foreign = [entry.member for entry, key in zip(entries, keys, strict=True) if key is None]
            await self._submit(command(slot, "ZREM", partition.index, *foreign))
            entries = [entry for entry, key in zip(entries, keys, strict=True) if key is not None]
        if not entries:
            return []
        states = [key for key in keys if key is not None]
        if await self._submit(command(slot, "EXISTS", *states)) == len(states):
            return list(entries)
        found = await asyncio.gather(*(self._submit(command(slot, "EXISTS", state)) for state in states))
        dead = [number for number, exists in enumerate(found) if not exists]
        if dead:
            looked_at = [partition.index, *(states[number] for number in dead)]
            members = [entries[number].member for number in dead]
            await self._submit(Operation(b"", slot).call(REPAIR, looked_at, members))
        return [entry for entry, exists in zip(entries, found, strict=True) if exists]

    def _evictions(self, slot: int) -> asyncio.Future[bool]:
        """Whether the server that holds a slot has evicted anything. Asked once for all that ask in one turn."""
        asked = self._asked.get(slot)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = self._asked[slot] = loop.create_task(self._has_evicted(Operation(INFO_STATS, slot)))
            asked.add_done_callback(retrieve)
            loop.call_soon(self._asked.pop, slot, None)
        return asyncio.shield(asked)

    async def _has_evicted(self, info: Operation) -> bool:
        try:
            stats = await self._submit(info)
        except ServerRefusedError:  # a user without INFO; a server that evicts indexes should allow it
            return False
        return not re.search(rb"evicted_keys:0\r", bytes(stats))

    async def _restore(self, partition: Partition) -> bool:
        """Build an index again that the server may have evicted. Returns whether it was built."""
        slot, index = partition.slot, partition.index
        if await self._submit(command(slot, "ZSCORE", index, _COMPLETE)) is not None:
            return False
        if b"maxmemory_policy:allkeys" not in bytes(await self._submit(command(slot, "INFO", "memory"))):
            return False  # without an expiry of its own an index is evicted by no other policy
        pattern, cursor = self._keys.pattern_of(partition), b"0"
        while True:
            cursor, states = await self._submit(command(slot, "SCAN", cursor, "MATCH", pattern, "COUNT", PAGE))
            values = await asyncio.gather(*(self._submit(command(slot, "GET", state)) for state in states))
            for state, value in zip(states, values, strict=True):
                if value is not None:
                    entry = (self._score(value), self._keys.session_of(state))
                    await self._submit(command(slot, "ZADD", index, "NX", *entry))
            if int(cursor) == 0:
                break
        await self._submit(command(slot, "ZADD", index, 0, _COMPLETE))
        return True
