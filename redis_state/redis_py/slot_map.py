"""What a cluster says of its slots, looked at before redis-py makes an entry for every one of them."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from redis.exceptions import RedisClusterException, RedisError

_SLOTS: Final = 16384
_MOST_NODES: Final = 16384  # replicas included; the largest clusters have a thousand
_HOST: Final = re.compile(r"[\x21-\x7e]{0,255}").fullmatch
_LAST_PORT: Final = 65535


class SlotMapError(RedisError):
    """Raised when a server's slot map makes no sense."""


def check_slot_map(reply: Any, **_: Any) -> list[Any]:
    """Check the reply to CLUSTER SLOTS. A host that the server does not know is left empty: it is the one asked.

    Raises:
        SlotMapError: It is no slot map.
        RedisClusterException: No node has a slot.
    """
    if type(reply) is not list:
        raise SlotMapError
    ranges = cast("list[Any]", reply)
    if not ranges:
        raise RedisClusterException
    slots = nodes = 0
    for each in ranges:
        match each:
            case [int(first), int(last), _, *_] if 0 <= first <= last < _SLOTS:
                slots += last - first + 1
                nodes += len(each) - 2
            case _:
                raise SlotMapError
        if slots > _SLOTS or nodes > _MOST_NODES:
            raise SlotMapError
    return [[*each[:2], *map(_node, each[2:])] for each in ranges]


def _node(node: Any) -> list[Any]:
    """A node of a range: host, port, and more that is not used."""
    match node:
        case [bytes() | str() | None as host, int(port), *more] if 0 <= port <= _LAST_PORT:
            text = host.decode(errors="replace") if isinstance(host, bytes) else host or ""
            if _HOST(text):
                return [text, port, *more]
        case _:
            pass
    raise SlotMapError
