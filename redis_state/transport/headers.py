"""Refuses headers that announce more than any Redis server sends, before the parser makes room for it or waits for it.

The parser gives no access to a header before its reply is complete, so headers are found beside it, exactly: a payload
may hold any text. What is complete needs no look, except for what the parser allocates as soon as it reads a header.
"""

from __future__ import annotations

import re
from typing import Final

from redis_state.commands.replies import UnreadableReplyError

MAX_BULK: Final = 512 * 1024 * 1024  # bytes of one string: the default of proto-max-bulk-len
MAX_ELEMENTS: Final = 1024 * 1024  # of all aggregates that are open at one time; this library asks for 2000 at most
MAX_LINE: Final = 64 * 1024  # bytes of an error, a status or a number
_SMALLEST: Final = 3  # bytes of an element: ``_\r\n``
_ALLOCATED: Final = 1000  # elements; with fewer, room for all levels that the parser takes is nothing
# Strings of below a hundred bytes, each length with its own alternative: a fifth of the time of one step each.
_SHORT: Final = (
    b"|".join(
        b"%d(?:%b)" % (tens, b"|".join(rb"%d\r\n(?s:.{%d})" % (ones, 10 * tens + ones) for ones in range(10)))
        for tens in range(1, 10)
    )
    + b"|"
    + b"|".join(rb"%d\r\n(?s:.{%d})" % (length, length) for length in range(10))
)
# What replies to saves, or such strings, other items without a payload, and arrays of a few of them.
_SMALL: Final = re.compile(
    rb"(?:\+OK\r\n\+QUEUED\r\n\+QUEUED\r\n\*2\r\n(?:\+OK|\$-1)\r\n:[01]\r\n"
    rb"|[+:,#_(-][^\r\n]*\r\n|[*>~%|][0-9]{1,3}\r\n|[$=*>~%]-1\r\n"
    rb"|\$(?:" + _SHORT + rb")\r\n)*+"
).match
_STRING, _VERBATIM, _ARRAY, _PUSH, _SET, _ATTRIBUTE = b"$=*>~|"
_AGGREGATES: Final = frozenset(b"*>~%|")
_KINDS: Final = _AGGREGATES | frozenset(b"$=+-:,#_(")
_LINE_END: Final = b"\n"[0]
_SHORT_HEADER: Final = len(b"$99\r")


class Headers:
    """Follows the headers of one connection's replies.

    All of its state:
        skip: bytes still to come of the string that has begun.
        begun: the first bytes of a header that has not ended.
        room: how many elements may still be announced before a reply is complete.
        announced: how many were in the piece that is looked at.

    Attributes:
        is_inside: Whether an item has begun and not ended, or room was taken.
    """

    __slots__ = ("_announced", "_begun", "_room", "_skip", "is_inside")

    def __init__(self) -> None:
        self._skip = 0
        self._begun = b""
        self._room = MAX_ELEMENTS
        self._announced = 0
        self.is_inside = False

    def before(self, data: bytes) -> bool:
        """Look at what was received before it is parsed. Returns whether every header was looked at.

        Raises:
            UnreadableReplyError: An aggregate is too large.
        """
        # The parser allocates what is announced before it comes, except for maps. Looking for a byte is almost free.
        if _ARRAY in data or _PUSH in data or _SET in data or _ATTRIBUTE in data or self._begun:
            self._walk(data)
            return True
        return False

    def after(self, data: bytes, unparsed: int, *, walked: bool, completed: bool) -> None:
        """Look at where it ended, unless it ended with a reply and began with one.

        Args:
            data: What was received and parsed.
            unparsed: How many bytes the parser holds, 0 if none is unparsed. They begin with an item, of which the
                first byte may be gone, or with some that are parsed.
            walked: Whether `before` has looked at every header.
            completed: Whether a reply was completed.

        Raises:
            UnreadableReplyError: The string that has begun is too large, or a line has no end.
        """
        size = len(data)
        if not walked:
            if (
                completed and not unparsed and data[-1] == _LINE_END
            ):  # an item that has begun would show, but for its first byte
                self._skip = 0
            elif self._skip > size:
                self._skip -= size
            elif 0 < unparsed < size and data[-unparsed - 1] not in _KINDS:  # the parser has passed over the others
                self._skip = 0
                self._walk(data[-unparsed:])
            else:
                self._walk(data)
        if completed:  # what was announced before this piece is complete; of what is new, as much as it can hold
            self._room = MAX_ELEMENTS - self._announced
        self._announced = 0
        if self._room < MAX_ELEMENTS:
            self._room = min(MAX_ELEMENTS, self._room + size // _SMALLEST)
        self.is_inside = bool(self._skip or self._begun) or self._room < MAX_ELEMENTS

    def _walk(self, data: bytes) -> None:
        """Go from header to header."""
        if self._begun:
            data, self._begun = self._begun + data, b""
        size = len(data)
        at = self._skip
        try:
            while at < size:
                kind = data[at]
                if kind != _STRING or data.find(b"\r", at, at + _SHORT_HEADER) > 0:
                    at = _SMALL(data, at).end()  # pyright: ignore[reportOptionalMemberAccess]  # it matches nothing too
                    if at == size:
                        break
                    kind = data[at]
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._begin(data[at:])
                    at = size
                    break
                if kind in (_STRING, _VERBATIM):
                    length = int(data[at + 1 : end])
                    if length > MAX_BULK:
                        raise UnreadableReplyError
                    at = end + 4 + length if length >= 0 else end + 2
                else:
                    if kind in _AGGREGATES:
                        self._announce(int(data[at + 1 : end]))
                    at = end + 2
        except ValueError:  # not a number, which the parser would say as well
            raise UnreadableReplyError from None
        self._skip = at - size

    def _begin(self, header: bytes) -> None:
        """Keep the beginning of a header."""
        if len(header) > MAX_LINE:
            raise UnreadableReplyError
        self._begun = header

    def _announce(self, count: int) -> None:
        """Take room for elements."""
        if count >= _ALLOCATED:
            self._room -= count
            self._announced += count
            if self._room < 0:
                raise UnreadableReplyError
