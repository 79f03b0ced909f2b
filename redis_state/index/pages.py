"""An index read in pages by one script each, which looks for the states and removes the entries without one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from redis_state.commands.keys import plain_ids
from redis_state.commands.request import Request
from redis_state.commands.scripts import PAGE as PAGE_SCRIPT
from redis_state.commands.scripts import SCAN
from redis_state.commands.shapes import is_cursor, is_list, is_scored, is_texts
from redis_state.index.cursors import Walk
from redis_state.index.entries import Entry, scored
from redis_state.index.living import living_ids, sessions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from redis_state.commands.keys import Partition
    from redis_state.index.eviction import Evictions
    from redis_state.index.living import Submit

PAGE: Final = 500  # entries that one script reads with scores: about a millisecond of the server's time


def newest(partition: Partition, size: int) -> Request:
    """What reads the newest sessions without scores: {whether there may be more, _, whether it is unsure, members}."""
    arguments = (partition.state_prefix, "+inf", 0, size, 1)
    return Request(b"", partition.slot).call(PAGE_SCRIPT, (partition.index,), arguments, _is_page)


def scan(partition: Partition, cursor: int, count: int) -> Request:
    """What reads a part in no order: {next cursor, how many were read, removed, whether it is unsure, entries}."""
    arguments = (partition.state_prefix, cursor, count)
    return Request(b"", partition.slot).call(SCAN, (partition.index,), arguments, _is_scan)


async def scan_all(submit: Submit, partition: Partition) -> AsyncGenerator[list[Entry]]:
    """Every entry that has a state, in no order and perhaps repeatedly. What is there throughout is among them."""
    walk = Walk()
    seen: set[bytes] = set()
    while True:
        following, _, _, unsure, reply = await submit(scan(partition, walk.cursor, PAGE))
        before = len(seen)
        seen.update(reply[::2])
        yield await _checked(submit, partition, reply, unsure=unsure)
        if not walk.to(following, is_new=len(seen) > before):
            break


async def _checked(submit: Submit, partition: Partition, reply: list[bytes], *, unsure: bool) -> list[Entry]:
    """The entries of a script's reply that are sessions; where the script is unsure, they are looked for again."""
    entries = scored(reply)
    members = reply[::2]
    if plain_ids(members) is not None:
        return entries
    if unsure:
        ids, _ = await living_ids(submit, partition, members)
        known = {session_id.encode() for session_id in ids}
    else:
        known = (await sessions(submit, partition, members)).keys()
    return [entry for entry in entries if entry[1] in known]


class Pages:
    """The entries of one partition that have a state, newest first, a page at a time.

    All of its state:
        entries: those that were read and not taken.
        cursor: the last entry that was read.
        offset: how many entries from the cursor's score on were read; None: there are no more.
        is_whole: whether all of them were read at one time.
        walk: counts the pages.

    Args:
        submit: Sends a request.
        partition: The partition.
        evictions: Builds its index again, where that was evicted.
        before: The entry after which to begin; None: with the newest.
        size: How many entries a page has.
    """

    def __init__(
        self, submit: Submit, partition: Partition, evictions: Evictions, before: Entry | None, size: int
    ) -> None:
        self.entries: deque[Entry] = deque()
        self.is_whole = False
        self._submit = submit
        self._partition = partition
        self._evictions = evictions
        self._size = size
        self._cursor = before
        self._offset: int | None = 0
        self._is_restored = before is not None
        self._walk = Walk()
        self._read = 0

    @property
    def head(self) -> Entry | None:
        """The next entry, None where there is none."""
        return self.entries[0] if self.entries else None

    async def fill(self) -> None:
        """Read a page, if there is no entry left and may be more."""
        if not self._is_restored:
            self._is_restored = True
            await self._evictions.restore(self._submit, self._partition)
        while not self.entries and self._offset is not None:
            cursor = self._cursor
            top = "+inf" if cursor is None else repr(cursor[0])
            found, following = await self._page(top, self._offset)
            self.entries.extend(entry for entry in found if cursor is None or entry < cursor)
            self._offset = following
            self._walk.step(is_new=bool(self.entries))
            if self.entries and following is not None:
                self._cursor, self._offset = self.entries[-1], 0

    async def _page(self, top: str, offset: int) -> tuple[list[Entry], int | None]:
        """Entries with a state up to a score, and how many to skip for those after them; None: there are no more."""
        arguments = (self._partition.state_prefix, top, offset, self._size, 2)
        request = Request(b"", self._partition.slot)
        request.call(PAGE_SCRIPT, (self._partition.index,), arguments, _is_scored_page)
        more, following, unsure, reply = await self._submit(request)
        self._read += 1
        self.is_whole = self._read == 1 and not more
        return await _checked(self._submit, self._partition, reply, unsure=unsure), following if more else None


def _is_page(reply: Any) -> bool:
    return is_list(reply) and [type(each) for each in reply] == [int, int, int, list] and is_texts(reply[3])


def _is_scored_page(reply: Any) -> bool:
    return is_list(reply) and [type(each) for each in reply] == [int, int, int, list] and is_scored(reply[3])


def _is_scan(reply: Any) -> bool:
    if not is_list(reply) or [type(each) for each in reply] != [bytes, int, int, int, list]:
        return False
    return is_cursor(reply[0]) and is_scored(reply[4])
