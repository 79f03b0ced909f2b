"""The names of keys.

    {prefix}{{agent}}:{session}      the state           forge:state:{agent-1}:session-123
    {prefix}sessions:{{agent}}       the index (ZSET)    forge:state:sessions:{agent-1}
    {prefix}partitions               how many partitions, where a store uses more than one

With partitions the hash tag is ``{agent:p}``. Ids are percent-escaped, so a ``:`` or a brace inside a key is always the
layout's own: different ids give different keys, and no id can choose its slot or act as a pattern.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Final, TypeVar
from urllib.parse import unquote

from redis.crc import key_slot

from redis_state.checks import check
from redis_state.codec.revision import UNKNOWN, Origin
from redis_state.errors import InvalidIdError

K = TypeVar("K")
V = TypeVar("V")

MAX_ID_BYTES: Final = 512
_RECENT_PARTITIONS: Final = 4096  # of the agents used last, so that few are remade for every operation
_RECENT_SESSIONS: Final = 4096
# All that means something in a key, in a glob pattern or on a terminal; everything else stays readable.
_SPECIAL: Final = re.compile(r"[\x00-\x20%:{}*?\[\]\\^\x7f]")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.@+=/-]{1,512}").fullmatch
_SPECIAL_BYTES: Final = bytes(each for each in range(128) if _SPECIAL.match(chr(each)))


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def check_id(value: object, name: str) -> str:
    """The id itself, if it is one.

    Args:
        value: What the caller gave as an id.
        name: What the caller calls it, for the message.

    Raises:
        InvalidIdError: It is no string, empty, longer than 512 bytes, or not encodable as UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidIdError(f"{name} must be a string, not {type(value).__name__}")
    if _PLAIN(value):
        return value
    if not value:
        raise InvalidIdError(f"{name} must not be empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidIdError(f"{name} holds a lone surrogate, which UTF-8 cannot express") from None
    if size > MAX_ID_BYTES:
        raise InvalidIdError(f"{name} has {size} bytes; at most {MAX_ID_BYTES} are allowed")
    return value


def bulk(text: bytes) -> bytes:
    """A string as the Redis protocol has it."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def bulks(beginning: bytes, endings: Sequence[bytes]) -> bytes:
    """Strings with one beginning as the Redis protocol has them: one join for each run of endings of one length."""
    parts: list[bytes] = []
    runs = [(len(endings[0]), endings)] if len(set(map(len, endings))) == 1 else groupby(endings, len)
    for length, run in runs:
        head = b"$%d\r\n%b" % (len(beginning) + length, beginning)
        parts += head, (b"\r\n" + head).join(run), b"\r\n"
    return b"".join(parts)


def escape(value: str) -> str:
    """The id as it stands in a key."""
    return value if _PLAIN(value) else _SPECIAL.sub(_percent, value)


def plain_ids(members: Sequence[bytes]) -> list[str] | None:
    """The session ids that members are, None where one is no id, or is escaped in keys.

    It looks at all of them at once, in the time that it takes to decode a few.
    """
    if not members:
        return []
    text = b"\n".join(members)
    lengths = set(map(len, members))
    if len(text) - len(text.translate(None, _SPECIAL_BYTES)) != len(members) - 1:
        return None
    if 0 in lengths or max(lengths) > MAX_ID_BYTES:
        return None
    with suppress(UnicodeDecodeError):
        return text.decode().split("\n")
    return None


class Partition:
    """The keys of one agent that share a slot.

    Attributes:
        agent_id: The agent.
        index: The key of the index.
        sent_index: That key as it is sent.
        slot: The hash slot of all its keys.
        state_prefix: What the keys of its states begin with.
        writes: How many writes were counted for the cleaning of the index; it begins anywhere, since an agent that is
            seldom in use is forgotten in between.
        cursor: Where the cleaning goes on.
        is_checked: Whether a page is being checked.
    """

    __slots__ = (
        "_state_prefix", "agent_id", "cursor", "index", "is_checked", "sent_index", "slot", "state_prefix", "writes",
    )  # fmt: skip

    def __init__(self, prefix: str, agent_id: str, tag: str) -> None:
        self.agent_id = agent_id
        self.writes = random.getrandbits(6)
        self.cursor = 0
        self.is_checked = False
        self.index = f"{prefix}sessions:{{{tag}}}".encode()
        self.sent_index = bulk(self.index)
        self._state_prefix = f"{prefix}{{{tag}}}:"
        self.state_prefix = self._state_prefix.encode()
        self.slot = key_slot(self.index)

    def state(self, session_id: str) -> bytes:
        """The key of a session's state.

        Raises:
            InvalidIdError: The id is not one.
        """
        if type(session_id) is not str or not _PLAIN(session_id):
            session_id = escape(check_id(session_id, "session_id"))
        return (self._state_prefix + session_id).encode()

    def sent_states(self, session_ids: Sequence[str]) -> bytes:
        """The keys of several states as they are sent.

        Raises:
            InvalidIdError: One of the ids is not one.
        """
        with suppress(TypeError, UnicodeEncodeError):
            members = "\n".join(session_ids).encode().split(b"\n")
            if len(members) == len(session_ids) and plain_ids(members) is not None:
                return bulks(self.state_prefix, members)
        return b"".join(map(bulk, map(self.state, session_ids)))


class Session:
    """One session in use.

    Attributes:
        partition: The keys of its agent, or of a part of them.
        session_id: Its id.
        key: The key of its state.
        seen: The latest write that the store has seen of it.
    """

    __slots__ = ("key", "partition", "seen", "session_id")

    def __init__(self, partition: Partition, session_id: str) -> None:
        self.partition = partition
        self.session_id = session_id
        self.key = partition.state(session_id)
        self.seen: Origin = UNKNOWN


class _Recent(dict[K, V]):
    """What was used last, made when it is missing.

    It has two generations: when the younger is full, it takes the place of the older, which is dropped. So a miss costs
    the same however many there are, and what is in use stays.

    Args:
        make: Makes the value of a key.
        size: How many values a generation holds.
    """

    __slots__ = ("_make", "_older", "_size")

    def __init__(self, make: Callable[[K], V], size: int) -> None:
        super().__init__()
        self._make = make
        self._size = size
        self._older: dict[K, V] = {}

    def __missing__(self, key: K) -> V:
        value = self._older.get(key)
        if value is None:
            value = self._make(key)
        if len(self) >= self._size:
            self._older = self.copy()
            self.clear()
        self[key] = value
        return value


class Keys:
    """The keys of a store.

    Args:
        prefix: What every key starts with.
        partitions: Over how many slots the sessions of one agent are spread, at least 1.
    """

    def __init__(self, prefix: str, partitions: int) -> None:
        check("key_prefix", prefix)
        check("partitions", partitions)
        self.prefix = prefix
        self.partitions = partitions
        self.layout = f"{prefix}partitions".encode()
        self._agents = _Recent(self._make_agent, max(16, _RECENT_PARTITIONS // partitions))
        self._sessions = _Recent(self._make_session, _RECENT_SESSIONS)
        literal = re.sub(r"([*?\[\]\\^])", r"\\\1", prefix)
        self.index_pattern = f"{literal}sessions:{{*}}".encode()
        self.state_pattern = f"{literal}{{*}}:*".encode()

    def agent(self, agent_id: str) -> tuple[Partition, ...]:
        """Every partition of an agent.

        Raises:
            InvalidIdError: The id is not one.
        """
        try:
            return self._agents[agent_id]
        except TypeError:  # it cannot be looked for
            check_id(agent_id, "agent_id")
            raise

    def _make_agent(self, agent_id: str) -> tuple[Partition, ...]:
        tag = escape(check_id(agent_id, "agent_id"))
        if self.partitions == 1:
            return (Partition(self.prefix, agent_id, tag),)
        return tuple(Partition(self.prefix, agent_id, f"{tag}:{n}") for n in range(self.partitions))

    def session(self, agent_id: str, session_id: str) -> Session:
        """A session, the same object as long as it is in use: of the latest few thousand.

        Raises:
            InvalidIdError: One of the ids is not one.
        """
        try:
            return self._sessions[agent_id, session_id]
        except TypeError:  # it cannot be looked for
            check_id(agent_id, "agent_id")
            check_id(session_id, "session_id")
            raise

    def _make_session(self, ids: tuple[str, str]) -> Session:
        agent_id, session_id = ids
        return Session(self.partition(agent_id, session_id), session_id)

    def partition(self, agent_id: str, session_id: str) -> Partition:
        """The partition that holds a session: the CRC-32 of its id, modulo the number of partitions.

        Raises:
            InvalidIdError: One of the ids is not one.
        """
        parts = self.agent(agent_id)
        if self.partitions == 1:
            return parts[0]
        return parts[zlib.crc32(check_id(session_id, "session_id").encode()) % self.partitions]

    def agent_of(self, key: bytes) -> str | None:
        """The agent whose index or state stands under a key, None where the key is not this library's."""
        tag, is_tag, _ = key.partition(b"{")[2].partition(b"}")
        return _id_of(tag.partition(b":")[0], "agent_id") if is_tag else None

    def pattern_of(self, partition: Partition) -> bytes:
        """A SCAN pattern for the state keys of one partition."""
        tag = partition.index[partition.index.rindex(b"{") :]
        return self.state_pattern.partition(b"{")[0] + re.sub(rb"([*?\[\]\\^])", rb"\\\1", tag) + b":*"

    def session_of(self, key: bytes) -> str | None:
        """The session whose state stands under a key, None where the key is not this library's."""
        return _id_of(key.partition(b"}:")[2], "session_id")


def _id_of(escaped: bytes, kind: str) -> str | None:
    """The id that stands in a key; None where none does."""
    try:
        return check_id(unquote(escaped.decode(), errors="strict"), kind)
    except (UnicodeDecodeError, InvalidIdError):
        return None
