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
from typing import Final
from urllib.parse import unquote

from redis.crc import key_slot

from redis_state.checks import check
from redis_state.codec.revision import UNKNOWN, Origin
from redis_state.errors import InvalidIdError

MAX_ID_BYTES: Final = 512
_CACHED_PARTITIONS: Final = 8192  # of the agents used last, so that few are remade for every operation
_CACHED_SESSIONS: Final = 8192
# All that means something in a key, in a glob pattern or on a terminal; everything else stays readable.
_SPECIAL: Final = re.compile(r"[\x00-\x20%:{}*?\[\]\\^\x7f]")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.@+=/-]{1,512}").fullmatch


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


def escape(value: str) -> str:
    """The id as it stands in a key."""
    return value if _PLAIN(value) else _SPECIAL.sub(_percent, value)


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


class Session:
    """One session in use.

    Attributes:
        partition: The keys of its agent, or of a part of them.
        session_id: Its id.
        key: The key of its state.
        sent_key: That key as it is sent.
        sent_get: The command that reads it.
        sent_member: The session's entry in the index as it is sent.
        seen: The latest write that the store has seen of it.
    """

    __slots__ = ("key", "partition", "seen", "sent_get", "sent_key", "sent_member", "session_id")

    def __init__(self, partition: Partition, session_id: str) -> None:
        self.partition = partition
        self.session_id = session_id
        self.key = partition.state(session_id)
        self.sent_key = bulk(self.key)
        self.sent_get = b"*2\r\n" + bulk(b"GET") + self.sent_key
        self.sent_member = bulk(session_id.encode())
        self.seen: Origin = UNKNOWN


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
        self._cached_agents = max(16, _CACHED_PARTITIONS // partitions)
        self._agents: dict[str, tuple[Partition, ...]] = {}
        self._sessions: dict[tuple[str, str], Session] = {}
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
        except (KeyError, TypeError):
            tag = escape(check_id(agent_id, "agent_id"))
        if self.partitions == 1:
            parts = (Partition(self.prefix, agent_id, tag),)
        else:
            parts = tuple(Partition(self.prefix, agent_id, f"{tag}:{n}") for n in range(self.partitions))
        if len(self._agents) >= self._cached_agents:
            del self._agents[next(iter(self._agents))]
        self._agents[agent_id] = parts
        return parts

    def session(self, agent_id: str, session_id: str) -> Session:
        """A session, the same object as long as it is in use: of the latest few thousand.

        Raises:
            InvalidIdError: One of the ids is not one.
        """
        try:
            session = self._sessions.get((agent_id, session_id))
        except TypeError:  # of an id that is none
            session = None
        if session is None:
            session = Session(self.partition(agent_id, session_id), session_id)
            if len(self._sessions) >= _CACHED_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[agent_id, session_id] = session
        return session

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
        tag = key[key.index(b"{") + 1 : key.index(b"}")]
        try:
            return check_id(unquote(tag.partition(b":")[0].decode(), errors="strict"), "agent_id")
        except (UnicodeDecodeError, InvalidIdError):
            return None

    def pattern_of(self, partition: Partition) -> bytes:
        """A SCAN pattern for the state keys of one partition."""
        tag = partition.index[partition.index.rindex(b"{") :]
        return self.state_pattern.partition(b"{")[0] + re.sub(rb"([*?\[\]\\^])", rb"\\\1", tag) + b":*"

    def session_of(self, key: bytes) -> str:
        """The session whose state stands under a key, given as SCAN returns it."""
        return unquote(key[key.index(b"}:") + 2 :].decode(), errors="strict")
