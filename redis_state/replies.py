"""What a server's reply means, in plain functions: which errors pass, which redirect, which are final."""

from __future__ import annotations

import random
import re
from enum import Enum
from typing import Final

from redis_state.errors import ServerRefusedError, StateStoreError, StoreUnavailableError

_IN_SCRIPT: Final = re.compile(r"@?user_script:\d+: (?:@user_script: \d+: )?-?([A-Z]+) ")
AT_ONCE: Final = 2  # attempts after which the next is made without delay
_SAFE_CODE: Final = re.compile(r"[A-Z]{2,20}").fullmatch


class ReplyError:
    """An error reply.

    Attributes:
        code: Its first word, such as ``MOVED``; for an error inside a script the first word of that.
        text: The rest. It may quote arguments, so it never goes into an exception.
    """

    __slots__ = ("code", "text")

    def __init__(self, message: str) -> None:
        self.code, _, self.text = message.partition(" ")
        if "ACL failure in script" in self.text or "executing the script can't run this command" in self.text:
            self.code = "NOPERM"  # in the words of Redis 7.2 and later, and of those before
        elif self.code == "ERR" and (inner := _IN_SCRIPT.search(self.text)):
            self.code = inner[1]  # Redis 6.2 wraps what a command in a script replied


class Verdict(Enum):
    """What becomes of an operation that the server refused before executing it."""

    REFUSED = "it failed"
    LATER = "try again later"
    ELSEWHERE = "the connection leads to a server that takes no writes any more: open another, try again"
    MOVED = "another node holds the slot now"
    ASK = "another node holds the slot for this one operation"
    RELOAD = "the server has lost the script"
    DISCONNECTED = "the server could not parse it and closes the connection; what follows was not executed"


_VERDICTS: Final = {
    "LOADING": Verdict.LATER,
    "TRYAGAIN": Verdict.LATER,
    "CLUSTERDOWN": Verdict.LATER,
    "MASTERDOWN": Verdict.LATER,
    "NOREPLICAS": Verdict.LATER,
    "BUSY": Verdict.LATER,
    "READONLY": Verdict.ELSEWHERE,
    "UNBLOCKED": Verdict.ELSEWHERE,
    "MOVED": Verdict.MOVED,
    "ASK": Verdict.ASK,
    "NOSCRIPT": Verdict.RELOAD,
}
_HINTS: Final = {
    "OOM": "it is out of memory; raise maxmemory, or choose a maxmemory-policy that evicts",
    "NOPERM": "the user lacks a permission; allow the commands and the key pattern of this store",
    "WRONGTYPE": "a key of this store holds another type; another program uses the same key_prefix",
    "NOAUTH": "it wants a password; give username and password",
    "WRONGPASS": "the username or the password is wrong",
    "MISCONF": "it cannot persist to disk and takes no writes",
    "NOREPLICAS": "it has too few replicas",
    "READONLY": "it is a replica; connect to the primary",
    "MOVED": "it is part of a cluster; give several addrs, a redis+cluster:// URL or a redis.asyncio.RedisCluster",
}


def judge(error: ReplyError) -> Verdict:
    """What an error reply means for the operation that got it."""
    if error.code == "ERR" and error.text.startswith("Protocol error"):
        return Verdict.DISCONNECTED
    if error.code == "ERR" and error.text.startswith("max number of clients"):
        return Verdict.ELSEWHERE
    return _VERDICTS.get(error.code, Verdict.REFUSED)


def redirection(error: ReplyError) -> tuple[int, str, int]:
    """Slot, host and port of a MOVED or ASK reply; the host is empty where it is the node that replied."""
    slot, _, address = error.text.partition(" ")
    host, _, port = address.rpartition(":")
    return int(slot), host, int(port)


def refusal(error: ReplyError) -> StateStoreError:
    """The exception for a refusal that is final."""
    if judge(error) is Verdict.DISCONNECTED:
        return ServerRefusedError("ERR", "a value is over the server's limit (proto-max-bulk-len)")
    code = error.code if _SAFE_CODE(error.code) else "ERR"
    if code == "ERR" and "unknown command" in error.text:
        return ServerRefusedError(code, "it lacks a command; Redis 6.2 or newer is needed")
    return ServerRefusedError(code, _HINTS.get(code, ""))


def exhausted(why: str) -> StateStoreError:
    """The exception for an operation that was refused with `why` until its deadline."""
    hint = _HINTS.get(why)
    return StoreUnavailableError(f"no server took the operation in time: {why}" + (f" ({hint})" if hint else ""))


def backoff(attempts: int) -> float:
    """Seconds before the next attempt: none before the first two, then up to 20 ms, doubling to half a second."""
    return 0.0 if attempts <= AT_ONCE else random.random() * min(0.5, 0.02 * 2 ** min(attempts - AT_ONCE - 1, 5))
