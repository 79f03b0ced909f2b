"""The atomic operations that MULTI cannot express, one Lua file each.

Every script declares its keys, all of one slot, and uses nothing that Redis 6.2 lacks.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final


class Script:
    """A Lua script, and the packed heads of the two commands that run it, which lack the count of arguments.

    Args:
        name: The name of its file, without ``.lua``.
        uses: Files that stand before it, for functions that scripts share.
    """

    __slots__ = ("by_hash", "by_text", "name")

    def __init__(self, name: str, *uses: str) -> None:
        lines = (line for part in (*uses, name) for line in _source(part).splitlines())
        text = "\n".join(line for line in lines if not line.lstrip().startswith("--")).encode()
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        self.name = name
        self.by_hash = b"$7\r\nEVALSHA\r\n$%d\r\n%b\r\n" % (len(digest), digest)
        self.by_text = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (len(text), text)


def _source(name: str) -> str:
    return files("redis_state.commands.scripts").joinpath(f"{name}.lua").read_text()


SAVE: Final = Script("save", "revision")
APPEND: Final = Script("append", "revision")
DELETE: Final = Script("delete")
REPAIR: Final = Script("repair")
PAGE: Final = Script("page", "index")
SCAN: Final = Script("scan", "index")
BOUNDS: Final = Script("bounds")
PRUNE: Final = Script("prune")
REPLACE: Final = Script("replace")
TAIL: Final = Script("tail", "revision")
TOUCH: Final = Script("touch", "index")
