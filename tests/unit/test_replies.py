"""What error replies mean."""

from __future__ import annotations

import re
import uuid
from typing import Final

import pytest
from support.states import messages, state

from redis_state import RedisConfig, RedisStateStore
from redis_state.commands.replies import (
    AT_ONCE,
    ReplyError,
    Verdict,
    backoff,
    classify,
    exhausted,
    redirection,
    refusal,
)
from redis_state.errors import ServerRefusedError, StoreUnavailableError
from redis_state.testing import RedisServer

SECRET = "user-4711"


BEFORE_IT_WAS_EXECUTED: Final = {
    "LOADING Redis is loading the dataset in memory": Verdict.LATER,
    "TRYAGAIN Multiple keys request during rehashing of slot": Verdict.LATER,
    "CLUSTERDOWN The cluster is down": Verdict.LATER,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": Verdict.LATER,
    "NOREPLICAS Not enough good replicas to write.": Verdict.LATER,
    "BUSY Redis is busy running a script.": Verdict.LATER,
    "READONLY You can't write against a read only replica.": Verdict.ELSEWHERE,
    "UNBLOCKED force unblock from blocking operation": Verdict.ELSEWHERE,
    "ERR max number of clients reached": Verdict.ELSEWHERE,
    "MOVED 3999 127.0.0.1:6381": Verdict.MOVED,
    "ASK 3999 127.0.0.1:6381": Verdict.ASK,
    "NOSCRIPT No matching script. Please use EVAL.": Verdict.RELOAD,
    "ERR Protocol error: invalid bulk length": Verdict.DISCONNECTED,
}
FINAL: Final = [
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOPERM this user has no permissions to run the 'set' command",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.",
    "EXECABORT Transaction discarded because of previous errors.",
    *("ERR syntax error", "ERR the text says MOVED 1 127.0.0.1:1", "SOMETHING new", ""),
]


@pytest.mark.parametrize("message", [*BEFORE_IT_WAS_EXECUTED, *FINAL])
def test_what_was_refused_before_it_was_executed_is_tried_again_and_nothing_else(message: str) -> None:
    """Each of these errors says that nothing happened, and what to do about it; what no rule knows is final."""
    assert classify(ReplyError(message)) is BEFORE_IT_WAS_EXECUTED.get(message, Verdict.REFUSED)


IN_62: Final = "ERR Error running script (call to f_1): @user_script:12: "
USER: Final = "The user executing the script can't "
KEYS: Final = "access at least one of the keys mentioned in the command arguments"
CODES: Final = {
    "OOM command not allowed when used memory > 'maxmemory'. script: f_1, on @user_script:12.": "OOM",
    f"{IN_62}WRONGTYPE Operation against": "WRONGTYPE",
    f"{IN_62}@user_script: 12: -OOM command not": "OOM",
    f"{IN_62}-READONLY You can't write": "READONLY",
    f"{IN_62}MISCONF Redis is configured": "MISCONF",
    f"{IN_62}user_script:1: attempt to call": "ERR",
    f"{IN_62}@user_script: 1: {USER}run this command or subcommand": "NOPERM",
    f"{IN_62}@user_script: 1: {USER}{KEYS}": "NOPERM",
    f"ERR {USER}run this command or subcommand script: 4f26, on @user_script:1.": "NOPERM",
    f"ERR {USER}{KEYS} script: 4f26, on @user_script:1.": "NOPERM",
    f"ERR {USER}run this command: ACL failure in script": "NOPERM",
    "NOPERM ACL failure in script: User reader has no permissions to run the 'set' command": "NOPERM",
    "ERR ACL failure in script: User reader has no permissions to access one of the keys": "NOPERM",
    "ERR ACL failure in script: User u0 has no permissions to run the 'zadd' command script: on": "NOPERM",
    "ERR ACL failure in script: No permissions to access a key script: 4f26, on @user_script:1.": "NOPERM",
    "ERR unknown command 'X', with args beginning with: 'ACL failure in script'": "ERR",
    "LOADING": "LOADING",
}


@pytest.mark.parametrize("message", CODES)
def test_an_error_inside_of_a_script_has_the_code_of_the_error(message: str) -> None:
    """Redis 6.2 wraps what a command in a script replied, newer servers do not: both read the same."""
    assert ReplyError(message).code == CODES[message]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", (3999, "127.0.0.1", 6381)),
        ("ASK 0 redis-1.example.com:6379", (0, "redis-1.example.com", 6379)),
        ("MOVED 16383 :7000", (16383, "", 7000)),
        ("MOVED 1 2001:db8::1:6379", (1, "2001:db8::1", 6379)),
    ],
)
def test_a_redirection_names_slot_host_and_port(message: str, expected: tuple[int, str, int]) -> None:
    """Also with IPv6, and where the host is left out because it is the one that replied."""
    assert redirection(ReplyError(message)) == expected


@pytest.mark.parametrize("code", ["OOM", "NOPERM", "WRONGTYPE", "NOAUTH", "WRONGPASS", "MISCONF", "READONLY", "MOVED"])
def test_a_refusal_carries_the_code_and_what_to_do(code: str) -> None:
    """The server's text is left out: it may quote what was sent."""
    error = refusal(ReplyError(f"{code} {SECRET}"))
    assert isinstance(error, ServerRefusedError)
    assert error.code == code
    assert len(str(error)) > len(str(refusal(ReplyError("SOMETHING new"))))
    assert SECRET not in str(error)


@pytest.mark.parametrize("message", [SECRET, f"{SECRET} {SECRET}", f"ERR {SECRET}", f"ERR: {SECRET}", f" {SECRET}", ""])
def test_a_refusal_quotes_nothing_that_is_no_code(message: str) -> None:
    """An error without a code of capitals is reported as ERR."""
    error = refusal(ReplyError(message))
    assert isinstance(error, ServerRefusedError)
    assert error.code == "ERR"
    assert SECRET not in str(error)


def test_a_value_over_the_limit_and_a_server_that_is_too_old_are_told() -> None:
    """Two errors that both begin with ERR mean something to a user."""
    assert "proto-max-bulk-len" in str(refusal(ReplyError("ERR Protocol error: invalid bulk length")))
    assert "6.2" in str(refusal(ReplyError(f"ERR unknown command 'GETEX', with args beginning with: '{SECRET}'")))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("NOPERM this user has no permissions to run the 'zadd' command or its subcommand", "ZADD.*[+]zadd"),
        ("NOPERM User u0 has no permissions to run the 'config|get' command", "CONFIG[|]GET"),
        ("ERR ACL failure in script: User u0 has no permissions to run the 'pexpire' command script: on", "PEXPIRE"),
        ("NOPERM this user has no permissions to access one of the keys used as arguments", "key_prefix"),
        ("NOPERM No permissions to access a key", "key_prefix"),
        ("ERR The user executing the script can't access at least one of the keys mentioned", "key_prefix"),
        ("ERR The user executing the script can't run this command or subcommand script: 4f26", "allow the commands"),
        (f"NOPERM User x has no permissions to run the '{SECRET.upper()}' command", "allow the commands"),
        (
            "ERR string exceeds maximum allowed size (proto-max-bulk-len) script: on @user_script:1.",
            "proto-max-bulk-len",
        ),
        (
            "ERR Error running script (call to f_1): @user_script:1: ERR string exceeds maximum allowed size (512MB)",
            "proto-max-bulk-len",
        ),
        ("ERR Unknown Redis command called from script script: 7ae0", "Redis 6.2 or newer"),
        ("ERR Unknown command called from script script: on @user_script:1.", "Redis 6.2 or newer"),
    ],
)
def test_a_refusal_says_what_was_forbidden_or_too_large(message: str, told: str) -> None:
    """In the words of any server, inside of a script or not, by the command's name where the server names it."""
    error = refusal(ReplyError(message))
    assert isinstance(error, ServerRefusedError)
    assert re.search(told, str(error))
    assert SECRET.lower() not in str(error).lower()


@pytest.mark.parametrize("command", ["zadd", "append"])
async def test_a_script_that_lacks_a_permission_says_so(redis_server: RedisServer, command: str) -> None:
    """Of a real server, whichever it is: NOPERM, not ERR."""
    prefix, user = f"test-{uuid.uuid4().hex}:", f"user-{uuid.uuid4().hex}"
    redis_server.command("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", f"-{command}")
    config = RedisConfig(addrs=[redis_server.addr], username=user, password="pw", key_prefix=prefix)
    try:
        async with (
            RedisStateStore.from_url(f"{redis_server.url}?key_prefix={prefix}") as whole,
            RedisStateStore.from_config(config) as half,
        ):
            await whole.save(state())
            try:
                with pytest.raises(ServerRefusedError, match=r"NOPERM: the user .*allow") as caught:
                    await half.append("a", "s", messages("hello"))
            finally:
                await whole.delete_agent("a")
        assert caught.value.code == "NOPERM"
    finally:
        redis_server.command("ACL", "DELUSER", user)


def test_what_was_refused_until_its_deadline_is_unavailable_and_says_why() -> None:
    """The last refusal is in the error, with advice where there is one."""
    assert isinstance(exhausted("LOADING"), StoreUnavailableError)
    assert "LOADING" in str(exhausted("LOADING"))
    assert "replica" in str(exhausted("READONLY"))


def test_the_first_attempts_are_at_once_and_no_pause_is_longer_than_half_a_second() -> None:
    """Pauses are random, and grow to a bound however many attempts there were."""
    for attempts in range(AT_ONCE + 1):
        assert backoff(attempts) == 0.0
    highest = 0.0
    for attempts in (*range(AT_ONCE + 1, 40), 10_000):
        bound = min(0.5, 0.02 * 2 ** (attempts - AT_ONCE - 1)) if attempts < 40 else 0.5
        pauses = [backoff(attempts) for _ in range(200)]
        assert all(0 <= pause <= bound for pause in pauses)
        assert len(set(pauses)) > 100
        assert max(pauses) > 0.8 * bound
        highest = max(highest, *pauses)
    assert highest <= 0.5
