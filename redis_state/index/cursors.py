"""Walks that have an end, whatever a server says of where they go on."""

from __future__ import annotations

from typing import Final

from redis_state.errors import StoreUnavailableError

LONGEST: Final = 2**22  # steps of one walk: SCAN has seen two billion keys by then
BARREN: Final = 100_000  # steps in a row that brought nothing new: a table with few entries left has thousands of them


class Walk:
    """Counts the steps of a walk, and tells one that goes round.

    All of its state:
        cursor: where it goes on.
        steps, barren: how many steps there were, and how many since one brought anything.
        mark, due: a cursor from before, and after how many steps a later one takes its place. The steps between double,
            so that a circle of any length is seen (Brent).
    """

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self._steps = self._barren = 0
        self._mark = cursor
        self._due: int = 1

    def to(self, cursor: bytes | int, *, is_new: bool = True) -> bool:
        """Go on. Returns whether there is more.

        Args:
            cursor: Where; 0 is the end.
            is_new: Whether this step brought anything that others did not.

        Raises:
            StoreUnavailableError: It was there before, or has no end.
        """
        self.cursor = int(cursor)
        if not self.cursor:
            return False
        self.step(is_new=is_new)
        if self.cursor == self._mark:
            raise endless()
        if self._steps == self._due:
            self._mark = self.cursor
            self._due += self._due
        return True

    def step(self, *, is_new: bool) -> None:
        """Count a step of a walk that has no cursor.

        Raises:
            StoreUnavailableError: It has no end.
        """
        self._steps += 1
        self._barren = 0 if is_new else self._barren + 1
        if self._steps > LONGEST or self._barren > BARREN:
            raise endless()


def endless() -> StoreUnavailableError:
    """The error for a walk without an end."""
    return StoreUnavailableError("the server's reply makes no sense: a listing of it has no end")
