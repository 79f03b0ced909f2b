"""What a server's reply means, in plain functions: which errors pass, which redirect, which are final."""

from __future__ import annotations

import random
import re
from enum import Enum
from typing import Final

from redis_state.errors import ServerRefusedError, StateStoreError, StoreUnavailableError

# Redis 6.2 wraps what a command in a script replied, and twice what it refused by itself.
_IN_SCRIPT: Final = re.compile(r"@?user_script:\d+: (?:@user_script: \d+: )?-?([A-Z]+) ")
# As TRYAGAIN, to a script that computes its keys while their slot is being moved; Redis 8 has words of its own.
_MOVING: Final = re.compile(r"access a non local key|undeclared keys were accessed during rehashing").search
_ABORTED: Final = re.compile(r"because of: -?([A-Z]+) ")
_REDIRECTION: Final = re.compile(r"(\d{1,5}) ([\x21-\x7e]{0,255}):(\d{1,5})").fullmatch
# A permission that is wanting inside a script has the code ERR: up to Redis 7.0 with the first words, then the second.
_NOPERM_IN_SCRIPT: Final = re.compile(
    r"(?:Error running script \(call to \w+\): (?:@user_script: ?\d+: )+)?"
    r"(?:The user executing the script can't |ACL failure in script)"
).match
_FORBIDDEN_COMMAND: Final = re.compile(r"to run the '([a-z][a-z|-]{0,40})' command").search
_FORBIDDEN_KEY: Final = re.compile(
    r"[Nn]o permissions to access (?:one of the keys|a key)|can't access at least one"
).search
_UNKNOWN_COMMAND: Final = re.compile(r"unknown (?:redis )?command", re.IGNORECASE).search
_TOO_LONG: Final = re.compile(r"string exceeds maximum allowed size").search
AT_ONCE: Final = 2  # attempts after which the next is made without delay
_SAFE_CODE: Final = re.compile(r"[A-Z]{2,20}").fullmatch


class UnreadableReplyError(Exception):
    """Raised when a reply is not what a Redis server sends: nothing that this connection says can be trusted."""


class ReplyError:
    """An error reply.

    Attributes:
        code: Its first word, such as ``MOVED``; for an error inside a script the first word of that.
        text: The rest. It may quote arguments, so it never goes into an exception.
    """

    __slots__ = ("code", "text")

    def __init__(self, message: str) -> None:
        self.code, _, self.text = message.partition(" ")
        if self.code == "EXECABORT" and (inner := _ABORTED.search(self.text)):
            self.code = inner[1]  # EXEC itself was refused, and the transaction with it
        if self.code == "ERR":
            if _NOPERM_IN_SCRIPT(self.text):
                self.code = "NOPERM"
            elif inner := _IN_SCRIPT.search(self.text):
                self.code = inner[1]


OVERTAKEN: Final = ReplyError("OVERTAKEN")  # stands for the reply of a read that came before that of one before it


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


def classify(error: ReplyError) -> Verdict:
    """What an error reply means for the operation that got it."""
    if error.code == "ERR" and error.text.startswith("Protocol error"):
        return Verdict.DISCONNECTED
    if error.code == "ERR" and error.text.startswith("max number of clients"):
        return Verdict.ELSEWHERE
    if error.code == "ERR" and _MOVING(error.text):
        return Verdict.LATER
    return _VERDICTS.get(error.code, Verdict.REFUSED)


def redirection(error: ReplyError) -> tuple[int, str, int]:
    """Parse slot, host and port of a MOVED or ASK reply; the host is empty where it is the node that replied.

    Raises:
        UnreadableReplyError: It is not of that form.
    """
    match = _REDIRECTION(error.text)
    if match is None:
        raise UnreadableReplyError
    return int(match[1]), match[2], int(match[3])


def refusal(error: ReplyError, *, stored: bool = False, what: str = "") -> StateStoreError:
    """The exception for a refusal that is final, and what happened all the same."""
    if classify(error) is Verdict.DISCONNECTED:
        return ServerRefusedError("ERR", "a value is over the server's limit (proto-max-bulk-len)")
    code = error.code if _SAFE_CODE(error.code) else "ERR"
    return ServerRefusedError(code, _hint(code, error.text), stored=stored, what=what)


def _hint(code: str, text: str) -> str:
    """What is wrong and what to do, in words that quote nothing but the name of a command."""
    if code == "ERR":
        if _UNKNOWN_COMMAND(text):
            return "it lacks a command; Redis 6.2 or newer is needed"
        if _TOO_LONG(text):
            return "the state would be over the server's limit for one value (proto-max-bulk-len, 512 MB by default)"
    if code == "NOPERM":
        if command := _FORBIDDEN_COMMAND(text):
            return (
                f"the user lacks the permission to run {command[1].upper()}; allow it (ACL SETUSER ... +{command[1]})"
            )
        if _FORBIDDEN_KEY(text):
            return (
                "the user lacks the permission for a key; allow the keys of this store (ACL SETUSER ... ~key_prefix*)"
            )
    return _HINTS.get(code, "")


def exhausted(why: str) -> StateStoreError:
    """The exception for an operation that was refused with `why` until its deadline."""
    hint = _HINTS.get(why)
    return StoreUnavailableError(f"no server took the operation in time: {why}" + (f" ({hint})" if hint else ""))


def backoff(attempts: int) -> float:
    """Seconds before the next attempt: none before the first two, then up to 20 ms, doubling to half a second."""
    return 0.0 if attempts <= AT_ONCE else random.random() * min(0.5, 0.02 * 2 ** min(attempts - AT_ONCE - 1, 5))
