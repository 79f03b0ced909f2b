"""The lists of an agent's sessions and of all agents, in slices that let other tasks run.

An entry may outlive its state: the state expires, is evicted, or somebody deletes it by hand. So whatever is read from
an index is looked for before it is shown, and removed where it has gone.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from redis_state.commands.keys import plain_ids
from redis_state.commands.request import Replay, command
from redis_state.commands.shapes import is_integer, is_scan, is_texts
from redis_state.commands.writes import Delete
from redis_state.errors import ServerRefusedError
from redis_state.index.cursors import Walk
from redis_state.index.entries import Entry, joined, newest_first, state_key
from redis_state.index.pages import PAGE, Pages, newest, scan, scan_all
from redis_state.index.whole import all_ids
from redis_state.transport.dispatcher import NodeGoneError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from redis_state.commands.keys import Keys, Partition
    from redis_state.index.eviction import Evictions
    from redis_state.index.living import Submit

_IDS: Final = 1000  # sessions that one script reads without scores: less than a millisecond of the server's time
_AGENTS: Final = 50  # looked at together
_NONE: Final = (float("-inf"), b"")


class Listing:
    """Reads the indexes of a store.

    Args:
        keys: The names of keys.
        evictions: Which servers lose indexes.
    """

    def __init__(self, keys: Keys, evictions: Evictions) -> None:
        self._keys = keys
        self.evictions = evictions

    async def newest(self, submit: Submit, agent_id: str, limit: int | None) -> list[str]:
        """The newest sessions with a state, newest first; None is all of them."""
        parts = self._keys.agent(agent_id)
        if limit == 0:
            return []
        if limit is None:
            return await joined(await self._all(submit, parts))
        if len(parts) == 1 and limit <= _IDS:
            ids, is_all = await self._first(submit, parts[0], limit)
            if is_all or len(ids) == limit:
                return ids
        found: list[str] = []
        async with aclosing(self._in_order(submit, parts, None, min(PAGE, limit))) as entries:
            async for _, member in entries:
                found.append(member.decode())
                if len(found) == limit:
                    break
        return found

    async def count(self, submit: Submit, agent_id: str) -> int:
        """How many sessions have a state."""
        counts = [self._count(submit, part) for part in self._keys.agent(agent_id)]
        return sum(await asyncio.gather(*counts))

    async def _count(self, submit: Submit, partition: Partition) -> int:
        pieces = await self._all(submit, (partition,))
        count = 0
        while pieces:
            count += len(pieces.pop())
            await asyncio.sleep(0)  # to forget a million ids takes as long as to make them
        return count

    async def _first(self, submit: Submit, partition: Partition, size: int) -> tuple[list[str], bool]:
        """The newest sessions of one partition by one script, and whether these are all; none where it cannot tell."""
        if self.evictions.policies.possible:
            await self.evictions.restore(submit, partition)
        more, _, _, members = await submit(newest(partition, size))
        ids = plain_ids(members)
        return ids or [], ids is not None and not more

    async def _all(self, submit: Submit, parts: tuple[Partition, ...]) -> list[list[str]]:
        """All sessions in pieces, newest first."""
        if len(parts) == 1:
            found, is_all = await self._first(submit, parts[0], _IDS + 1)
            if is_all:
                return [found]
            pieces = await all_ids(submit, parts[0])
            if pieces is not None:
                return pieces
        runs = await asyncio.gather(*(self._scan(submit, part, set()) for part in parts))
        return [[member.decode() for _, member in entries] async for entries in newest_first(*runs)]

    async def iterate(
        self, submit: Submit, agent_id: str, before: Entry | None, limit: int | None
    ) -> AsyncGenerator[Entry]:
        """Every entry with a state, newest first. What moved while this ran comes at the end, once."""
        size = PAGE if limit is None else min(PAGE, limit)
        async with aclosing(self._in_order(submit, self._keys.agent(agent_id), before, size)) as entries:
            async for entry in entries:
                yield entry

    async def _in_order(
        self, submit: Submit, parts: tuple[Partition, ...], before: Entry | None, size: int
    ) -> AsyncGenerator[Entry]:
        seen: set[bytes] = set()
        pages = [Pages(submit, part, self.evictions, before, size) for part in parts]
        await asyncio.gather(*(each.fill() for each in pages))
        while True:
            first = max(pages, key=lambda each: each.head or _NONE)
            entry = first.head
            if entry is None:
                break
            first.entries.popleft()
            if entry[1] not in seen:
                seen.add(entry[1])
                yield entry
            await first.fill()
        # A session that is saved while this runs jumps over the cursor. ZSCAN shows what is there throughout.
        for part, read in zip(parts, pages, strict=True):
            if not read.is_whole:
                async for entries in newest_first(await self._scan(submit, part, seen)):
                    for entry in entries:
                        if before is None or entry < before:
                            yield entry

    async def _scan(self, submit: Submit, partition: Partition, known: set[bytes]) -> Iterator[Entry]:
        """Every entry of one partition that has a state and is not known, in no order."""
        await self.evictions.restore(submit, partition)
        found: dict[bytes, float] = {}
        async with aclosing(scan_all(submit, partition)) as pages:
            async for entries in pages:
                found.update((member, score) for score, member in entries if member not in known)
        return ((score, member) for member, score in found.items())

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
        if await self.evictions.may_have_hit(submit, node):
            patterns.append(self._keys.state_pattern)  # an index may be gone while its states are there
        for pattern in patterns:
            walk = Walk()
            while True:
                scan = command(None, "SCAN", walk.cursor, "MATCH", pattern, "COUNT", PAGE, node=node, fits=is_scan)
                cursor, found = await submit(scan)
                agent_ids = {agent for agent in map(self._keys.agent_of, found) if agent is not None} - seen
                seen |= agent_ids
                remaining = list(agent_ids)
                while some := remaining[:_AGENTS]:
                    del remaining[:_AGENTS]
                    living = await asyncio.gather(*(self._is_living(submit, agent_id) for agent_id in some))
                    for agent_id, lives in zip(some, living, strict=True):
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
        following, read, dead, *_ = await submit(scan(partition, cursor, count))
        return int(following), read, dead

    async def delete_all(self, submit: Submit, agent_id: str, progress: Callable[[int], None]) -> int:
        """Delete every state and index entry of an agent, a page at a time; tell how many states that were so far."""
        deleted = 0
        for part in self._keys.agent(agent_id):
            await self.evictions.restore(submit, part)
            walk, before = Walk(), None
            while members := await submit(command(part.slot, "ZRANGE", part.index, 0, PAGE - 1, fits=is_texts)):
                walk.step(is_new=members != before)
                before = members
                keys = {member: state_key(part, member) for member in members}
                states = [key for key in keys.values() if key is not None]
                if len(states) < len(members):  # some are no session's
                    foreign = [member for member, key in keys.items() if key is None]
                    await submit(command(part.slot, "ZREM", part.index, *foreign, fits=is_integer))
                    continue
                deleted += (await self.delete(submit, part, states, members))[0]
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
