"""Why a connection could not be opened."""

from __future__ import annotations

import errno
import os
import ssl
from dataclasses import dataclass

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError

from redis_state.errors import ServerRefusedError, StateStoreError, StoreUnavailableError, printable
from redis_state.redis_py.sentinel import NoPrimaryError
from redis_state.redis_py.slot_map import SlotMapError


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection could not be opened.

    Attributes:
        reason: In words, without a password.
        code: The server's, where it answered.
        final: Whether trying again is no use, as with a wrong password.
    """

    reason: str
    code: str = ""
    final: bool = False

    def error(self) -> StateStoreError:
        """The exception for an operation that waited for the connection."""
        return ServerRefusedError(self.code, self.reason) if self.code else StoreUnavailableError(self.reason)


def describe(error: BaseException | None, name: str, *, tls: bool) -> Failure:  # noqa: C901, PLR0911, PLR0912  # a table
    """What redis-py's failure to connect means. None stands for a pool without a free connection.

    Args:
        error: What redis-py raised.
        name: The server's name, which may be another server's word.
        tls: Whether the connection was to be encrypted.
    """
    name = printable(name)
    if error is None:
        return Failure(f"the client's pool has no free connection to {name}; raise its max_connections")
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.AuthorizationError):
        code = "NOAUTH" if "required" in str(error).lower() else "WRONGPASS"
        return Failure(f"{name} does not accept the username and password", code, final=True)
    if isinstance(error, redis_errors.NoPermissionError):
        return Failure(f"the user may not connect to {name}", "NOPERM", final=True)
    if isinstance(error, NoPrimaryError):
        return Failure(error.reason, "WRONGPASS" if error.refused else "", final=error.refused)
    if isinstance(error, MasterNotFoundError):
        return Failure(f"no Sentinel names {name}")
    if isinstance(error, redis_errors.ResponseError) and "DB index" in str(error):
        return Failure(f"{name} has no database of that number", "ERR", final=True)
    if isinstance(error, redis_errors.BusyLoadingError):
        return Failure(f"{name} is loading its data")
    if isinstance(error, redis_errors.RedisClusterException):
        if "not enabled" in str(error) or "not enabled" in str(error.__cause__):
            return Failure(f"{name} is no cluster; give one address, or a redis:// URL", final=True)
        if error.__cause__ is not None:
            return describe(error.__cause__, name, tls=tls)
        return Failure(f"no node of the cluster at {name} can be reached, or slots are not covered")
    if isinstance(error, SlotMapError):
        return Failure(f"the slot map of {name} makes no sense; is it a Redis cluster?")
    if isinstance(error, TimeoutError | redis_errors.TimeoutError):
        # A server without TLS takes the handshake for a command that has not ended, and waits for the rest.
        hint = "; it may not speak TLS, then write redis:// or tls=False" if tls else ""
        return Failure(f"{name} did not answer in time (dial_timeout, read_timeout){hint}")
    cause = _os_error(error)
    if isinstance(cause, ssl.SSLError):
        return Failure(f"TLS with {name} failed: {_tls_reason(cause)}", final=True)
    if cause is not None and cause.errno:
        reason = os.strerror(cause.errno) if cause.errno > 0 else "its name cannot be resolved"
        if cause.errno == errno.ECONNRESET:
            hint = "a tls_cert_file may be wanting" if tls else "it may speak TLS, then write rediss:// or tls=True"
            reason += f"; {hint}"
        return Failure(f"cannot connect to {name}: {reason}")
    return Failure(f"cannot connect to {name}: {type(error).__name__}")


def _os_error(error: BaseException) -> OSError | None:
    """The operating system's error behind one of redis-py's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and not isinstance(seen, redis_errors.RedisError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted ({error.verify_message})"
    reason = str(error.reason or "the handshake failed").replace("_", " ").lower()
    return f"{reason}; it may not speak TLS, then write redis:// or tls=False" if "wrong version" in reason else reason
