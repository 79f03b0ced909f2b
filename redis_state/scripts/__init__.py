"""The atomic operations that MULTI cannot express, one Lua file each.

Every script declares its keys, all of one slot, and uses nothing that Redis 6.2 lacks.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import hiredis


class Script:
    """A Lua script, and the heads of the two commands that run it.

    Args:
        name: The name of its file, without ``.lua``.
        uses: Files that stand before it, for functions that scripts share.
    """

    __slots__ = ("by_hash", "by_text", "name")

    def __init__(self, name: str, *uses: str) -> None:
        text = "\n".join(files(__package__).joinpath(f"{part}.lua").read_text() for part in (*uses, name)).encode()
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        self.name = name
        self.by_hash = _without_count(hiredis.pack_command(("EVALSHA", digest)))
        self.by_text = _without_count(hiredis.pack_command(("EVAL", text)))


def _without_count(command: bytes) -> bytes:
    """A packed command without the count of its arguments, to be joined to others."""
    return command[command.index(b"\n") + 1 :]


SAVE: Final = Script("save", "revision")
APPEND: Final = Script("append", "revision")
DELETE: Final = Script("delete")
REPAIR: Final = Script("repair")
