"""The index of an agent's sessions: read in pages by one script each, which checks them against the states.

An entry may outlive its state: the state expires, is evicted, or somebody deletes it by hand. So whatever is read from
an index is looked for before it is shown, and removed where it has gone.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis_state.clock import moment
from redis_state.commands.request import Replay, Request, command
from redis_state.commands.scripts import PAGE as PAGE_SCRIPT
from redis_state.commands.scripts import SCAN
from redis_state.commands.shapes import is_cursor, is_integer, is_list, is_scan, is_scored, is_texts
from redis_state.commands.writes import Delete
from redis_state.errors import InvalidIdError, ServerRefusedError
from redis_state.index.cursors import Walk
from redis_state.models import SessionInfo
from redis_state.transport.dispatcher import NodeGoneError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from redis_state.commands.keys import Keys, Partition
    from redis_state.index.eviction import Evictions

PAGE: Final = 500  # entries that one command reads or checks: well below a millisecond of the server's time
_LATEST: Final = 253402300799_000000  # microseconds: the last that a datetime can express

Submit = Callable[[Request], Awaitable[Any]]


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
        """What a listing shows of it. A score that is no time, written by hand, is shown as the nearest one."""
        return SessionInfo(self.session_id, moment(min(max(self.score, 0), _LATEST)))


_NONE: Final = Entry(float("-inf"), b"")


def _state_key(partition: Partition, member: bytes) -> bytes | None:
    """The key of the state that an index member stands for, None where it is no session id."""
    try:
        return partition.state(member.decode())
    except (UnicodeDecodeError, InvalidIdError):
        return None


class Listing:
    """Reads the indexes of a store.

    Args:
        keys: The names of keys.
        evictions: Which servers lose indexes.
    """

    def __init__(self, keys: Keys, evictions: Evictions) -> None:
        self._keys = keys
        self.evictions = evictions

    async def newest(self, submit: Submit, agent_id: str, limit: int | None) -> list[Entry]:
        """The newest entries with a state, newest first; None is all of them."""
        parts = self._keys.agent(agent_id)
        if limit == 0:
            return []
        reads = [self._all(submit, part) if limit is None else self._first(submit, part, limit) for part in parts]
        if len(reads) == 1:
            entries = await reads[0]
        else:
            entries = [entry for found in await asyncio.gather(*reads) for entry in found]
        entries.sort(reverse=True)
        return entries if limit is None else entries[:limit]

    async def iterate(
        self, submit: Submit, agent_id: str, before: Entry | None, limit: int | None
    ) -> AsyncGenerator[Entry]:
        """Every entry with a state, newest first. What moved while this ran comes at the end, once."""
        parts = self._keys.agent(agent_id)
        size = PAGE if limit is None else min(PAGE, limit)
        seen: set[bytes] = set()
        pages = [_Pages(self, submit, part, before, size) for part in parts]
        await asyncio.gather(*(each.fill() for each in pages))
        while True:
            newest = max(pages, key=lambda each: each.head or _NONE)
            entry = newest.head
            if entry is None:
                break
            newest.entries.popleft()
            if entry.member not in seen:
                seen.add(entry.member)
                yield entry
            await newest.fill()
        # A session that is saved while this runs jumps over the cursor. ZSCAN shows what is there throughout.
        for part in parts:
            late = [entry for entry in await self._all(submit, part) if entry.member not in seen]
            for entry in sorted(late, reverse=True):
                if before is None or entry < before:
                    yield entry

    async def agents(self, submit: Submit, nodes: Callable[[], Awaitable[list[str]]]) -> AsyncGenerator[str]:
        """The agents that have a session, each once."""
        seen: set[str] = set()
        done: set[str] = set()
        while remaining := [node for node in await nodes() if node not in done]:
            try:
                async with aclosing(self._agents_of(submit, remaining[0], seen)) as agent_ids:
                    async for agent_id in agent_ids:
                        yield agent_id
            except NodeGoneError:
                continue  # another has taken its place
            done.add(remaining[0])

    async def _agents_of(self, submit: Submit, node: str, seen: set[str]) -> AsyncGenerator[str]:
        """The agents of one node that were not seen on another."""
        patterns = [self._keys.index_pattern]
        evictions = self.evictions
        if await evictions.threaten_node(node) and await evictions.have_happened(submit, evictions.question_to(node)):
            patterns.append(self._keys.state_pattern)  # an index may be gone while its states are there
        for pattern in patterns:
            walk = Walk()
            while True:
                scan = command(None, "SCAN", walk.cursor, "MATCH", pattern, "COUNT", PAGE, node=node, fits=is_scan)
                cursor, found = await submit(scan)
                agent_ids = {agent for agent in map(self._keys.agent_of, found) if agent is not None} - seen
                living = await asyncio.gather(*(self._is_living(submit, agent_id) for agent_id in agent_ids))
                seen |= agent_ids
                for agent_id, lives in zip(agent_ids, living, strict=True):
                    if lives:
                        yield agent_id
                if not walk.to(cursor):
                    break

    async def _is_living(self, submit: Submit, agent_id: str) -> bool:
        try:
            return bool(await self.newest(submit, agent_id, 1))
        except ServerRefusedError as error:
            if error.code == "WRONGTYPE":
                return False  # something else stands under the name of its index
            raise

    async def check(self, submit: Submit, partition: Partition, cursor: int, count: int) -> tuple[int, int, int]:
        """Check the next part of an index, of about so many entries.

        Returns:
            The next cursor, and how many entries were read and how many of them were dead.
        """
        following, read, dead, *_ = await submit(self._scan_request(partition, cursor, count))
        return int(following), int(read), int(dead)

    async def delete_all(self, submit: Submit, agent_id: str, progress: Callable[[int], None] | None) -> int:
        """Delete every state and index entry of an agent, a page at a time."""
        deleted = 0
        for part in self._keys.agent(agent_id):
            await self.evictions.restore(submit, part)
            walk, before = Walk(), None
            while members := await submit(command(part.slot, "ZRANGE", part.index, 0, PAGE - 1, fits=is_texts)):
                walk.step(is_new=members != before)
                before = members
                states = [state for state in map(_state_key, repeat(part), members) if state is not None]
                if len(states) < len(members):  # some are no session's
                    foreign = [member for member in members if _state_key(part, member) is None]
                    await submit(command(part.slot, "ZREM", part.index, *foreign, fits=is_integer))
                    continue
                deleted += (await self.delete(submit, part, states, members))[0]
                if progress is not None:
                    progress(deleted)
        return deleted

    async def delete(
        self, submit: Submit, partition: Partition, states: list[bytes], members: list[bytes]
    ) -> tuple[int, int]:
        """Delete states and their entries in one MULTI. Returns how many of each there were."""
        session = states[0] if len(states) == 1 else None
        request = Delete(
            b"",
            partition.slot,
            replay=Replay.NEVER,
            session=session,
            partition=partition,
            keys=states,
            members=members,
        )
        request.become_block()
        return request.outcome(await submit(request))

    async def _first(self, submit: Submit, partition: Partition, limit: int) -> list[Entry]:
        """The newest entries of one partition that have a state."""
        pages = _Pages(self, submit, partition, None, min(PAGE, limit))
        found: list[Entry] = []
        while len(found) < limit:
            await pages.fill()
            if not pages.entries:
                break
            found += pages.entries
            pages.entries.clear()
        return found[:limit]

    async def page(
        self, submit: Submit, partition: Partition, top: str, offset: int, size: int
    ) -> tuple[list[Entry], int | None]:
        """Entries with a state up to a score, and how many to skip for those after them; None: there are no more."""
        request = Request(b"", partition.slot)
        request.call(PAGE_SCRIPT, (partition.index,), (partition.state_prefix, top, offset, size), _is_page)
        more, following, *reply = await submit(request)
        return await self._readable(submit, partition, reply), int(following) if more else None

    async def _all(self, submit: Submit, partition: Partition) -> list[Entry]:
        """Every entry of one partition that has a state, in no order."""
        await self.evictions.restore(submit, partition)
        found: dict[bytes, Entry] = {}
        walk = Walk()
        while True:
            following, _, _, *reply = await submit(self._scan_request(partition, walk.cursor, PAGE))
            before = len(found)
            found.update((entry.member, entry) for entry in await self._readable(submit, partition, reply))
            if not walk.to(following, is_new=len(found) > before):
                return list(found.values())

    @staticmethod
    def _scan_request(partition: Partition, cursor: int, count: int) -> Request:
        return Request(b"", partition.slot).call(
            SCAN, (partition.index,), (partition.state_prefix, cursor, count), _is_scan
        )

    async def _readable(self, submit: Submit, partition: Partition, reply: list[Any]) -> list[Entry]:
        """The entries of a flat reply; those that are no session's are removed from the index."""
        entries = [Entry(_score(score), member) for member, score in zip(reply[::2], reply[1::2], strict=True)]
        foreign = [entry.member for entry in entries if _state_key(partition, entry.member) is None]
        if foreign:
            await submit(command(partition.slot, "ZREM", partition.index, *foreign, fits=is_integer))
            entries = [entry for entry in entries if entry.member not in set(foreign)]
        return entries


def _is_page(reply: Any) -> bool:
    """Whether there may be more, how many to skip for that, members and scores."""
    return is_list(reply) and [type(each) for each in reply[:2]] == [int, int] and is_scored(reply[2:])


def _is_scan(reply: Any) -> bool:
    """The next cursor, how many were read and removed, members and scores."""
    if not is_list(reply) or [type(each) for each in reply[:3]] != [bytes, int, int]:
        return False
    return is_cursor(reply[0]) and is_scored(reply[3:])


class _Pages:
    """The entries of one partition that have a state, newest first, a page at a time.

    All of its state:
        entries: those that were read and not taken.
        cursor: the last entry that was read.
        offset: how many entries from the cursor's score on were read; None: there are no more.
        walk: counts the pages.

    Args:
        listing: Reads a page.
        submit: Sends a request.
        partition: The partition.
        before: The entry after which to begin; None: with the newest.
        size: How many entries a page has.
    """

    def __init__(self, listing: Listing, submit: Submit, partition: Partition, before: Entry | None, size: int) -> None:
        self.entries: deque[Entry] = deque()
        self._listing = listing
        self._submit = submit
        self._partition = partition
        self._size = size
        self._cursor = before
        self._offset: int | None = 0
        self._is_restored = before is not None
        self._walk = Walk()

    @property
    def head(self) -> Entry | None:
        """The next entry, None where there is none."""
        return self.entries[0] if self.entries else None

    async def fill(self) -> None:
        """Read a page, if there is no entry left and may be more."""
        if not self._is_restored:
            self._is_restored = True
            await self._listing.evictions.restore(self._submit, self._partition)
        while not self.entries and self._offset is not None:
            cursor = self._cursor
            top = "+inf" if cursor is None else repr(cursor.score)
            found, following = await self._listing.page(self._submit, self._partition, top, self._offset, self._size)
            self.entries.extend(entry for entry in found if cursor is None or entry < cursor)
            self._offset = following
            self._walk.step(is_new=bool(self.entries))
            if self.entries and following is not None:
                self._cursor, self._offset = self.entries[-1], 0


def _score(text: bytes) -> float:
    score = float(text)
    return 0.0 if math.isnan(score) else score
