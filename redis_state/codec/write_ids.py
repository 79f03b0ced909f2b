"""The ids of writes, from the operating system's random source."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Final

ID: Final = 6  # letters of 6 bits
_BLOCK: Final = 432  # random bytes drawn at once: 96 ids

_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  # a process has one
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def write_ids() -> Iterator[bytes]:
    """Random ids without end, of 36 bits. A forked child draws its own: it does not go on with its parent's block."""
    while True:
        block, forks = urlsafe_b64encode(os.urandom(_BLOCK)), _forks
        for start in range(0, len(block), ID):
            if forks != _forks:
                break
            yield block[start : start + ID]
