"""What options and arguments may be: one rule a name, a TypeError for a wrong type, a ValueError for a wrong value.

The messages name the option and never show the value, which may be a password.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, cast

import msgspec
from opentelemetry.metrics import MeterProvider
from redis.credentials import CredentialProvider

from redis_state.clock import microseconds, milliseconds
from redis_state.models import SessionInfo

MAX_PARTITIONS: Final = 4096  # a listing asks every one
MAX_POOL_SIZE: Final = 10_000  # clients that a server takes unless it is told otherwise
MAX_SECONDS: Final = 86_400.0  # an operation that may take longer than a day is not waited for
MAX_REPLICAS: Final = 1000
MAX_STATE_BYTES: Final = 512 * 1024 * 1024  # what a server takes in one value unless it is told otherwise
MAX_SCHEMA: Final = 999_999_999  # nine digits
MAX_DATABASES: Final = 2**31  # what the server's own setting can hold
MAX_KEY_BYTES: Final = 512  # of an idempotency key, as of an id
MAX_VERSION: Final = 2**53  # up to there Lua's numbers are exact

_ONE_MESSAGE: Final = (str, bytes, bytearray, memoryview, Mapping, msgspec.Struct)

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch
_TAKEN: Final = ("sessions", "partitions")  # see commands/keys.py

Rule = Callable[[str, object], None]


def check(name: str, value: object) -> None:
    """Validate an option or argument by its name.

    Raises:
        TypeError: The value is of another type than the option.
        ValueError: The value is none that the option may have.
    """
    _RULES[name](name, value)


def check_all(values: dict[str, Any]) -> None:
    """Validate several by their names."""
    for name, value in values.items():
        _RULES[name](name, value)


def messages_of(value: object) -> list[Any]:
    """The messages that `append` was given: one, or several in anything that can be iterated.

    Text, bytes, a mapping, a Struct and a dataclass are one message each, although some of them can be iterated.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(value, list):
        return cast("list[Any]", value).copy()
    one = isinstance(value, _ONE_MESSAGE) or (dataclasses.is_dataclass(value) and not isinstance(value, type))
    if one:
        return [value]
    if not isinstance(value, Iterable):
        raise TypeError(f"append() takes a message, or several in a list, not {type(value).__name__}")
    return list(cast("Iterable[Any]", value))


def ids_of(value: object) -> list[Any]:
    """The ids that `load_many` was given, each once.

    Raises:
        TypeError: It is one id, which could be iterated letter by letter, or cannot be iterated.
    """
    if isinstance(value, str | bytes | bytearray):
        raise TypeError("load_many() takes several session ids: put one into a list, or use load()")
    if not isinstance(value, Iterable):
        raise TypeError(f"load_many() takes several session ids in a list, not {type(value).__name__}")
    return list(dict.fromkeys(cast("Iterable[Any]", value)))


def _instance(kind: type, described: str) -> Rule:
    def rule(name: str, value: object) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {described}, not {type(value).__name__}")

    return rule


def _optional(inner: Rule) -> Rule:
    def rule(name: str, value: object) -> None:
        if value is not None:
            inner(name, value)

    return rule


def _integer(lowest: int, below: int | None = None) -> Rule:
    allowed = f"{lowest} or more" if below is None else f"{lowest} to {below - 1}"

    def rule(name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
        if value < lowest or (below is not None and value >= below):
            raise ValueError(f"{name} must be {allowed}")

    return rule


def _seconds(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value <= MAX_SECONDS or math.isnan(value):
        raise ValueError(f"{name} must be a number of seconds above 0, at most {MAX_SECONDS:.0f}")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        refusal = ValueError(f"{name} holds a lone surrogate, which UTF-8 cannot express")
    else:
        return
    raise refusal  # outside of the handler, whose error would be its context and quotes the value


def _named(name: str, value: object) -> None:
    _text(name, value)
    if not value:
        raise ValueError(f"{name} must not be empty")


def _prefix(name: str, value: object) -> None:
    _text(name, value)
    if "{" in cast("str", value) or "}" in cast("str", value):
        raise ValueError(f"{name} must not hold braces: they would put every key into one slot")


def _namespace(name: str, value: object) -> None:
    _text(name, value)
    if not _NAMESPACE(cast("str", value)):
        raise ValueError(f"{name} must be 1 to 64 of A-Z, a-z, 0-9, '-', '_' and '.'")
    if value in _TAKEN:
        raise ValueError(f"{name} must not be {value!r}: keys of every store begin so")


def _addresses(name: str, value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[Any]", value)):
        raise TypeError(f"{name} must be a list of host:port")


def _format(name: str, value: object) -> None:
    _text(name, value)
    if value not in {"json", "msgpack"}:
        raise ValueError(f"{name} must be 'json' or 'msgpack'")


def _key(name: str, value: object) -> None:
    _named(name, value)
    size = len(cast("str", value).encode())
    if size > MAX_KEY_BYTES:
        raise ValueError(f"{name} has {size} bytes; at most {MAX_KEY_BYTES} are allowed")


def _ttl(_: str, value: object) -> None:
    milliseconds(cast("Any", value))


def _before(name: str, value: object) -> None:
    time: object = value
    if isinstance(value, SessionInfo):
        _text(f"{name}.session_id", value.session_id)
        time = value.updated_at
    if not isinstance(time, datetime):
        raise TypeError(f"{name} must be a SessionInfo or a datetime, not {type(time).__name__}")
    microseconds(time)


def _callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {type(value).__name__}")


_flag: Final = _instance(bool, "True or False")

_RULES: Final[dict[str, Rule]] = {
    # where Redis is
    "addrs": _addresses,
    "cluster": _flag,
    "username": _optional(_text),
    "password": _optional(_text),
    "credential_provider": _optional(_instance(CredentialProvider, "a redis.credentials.CredentialProvider")),
    "db": _integer(0, MAX_DATABASES),
    "unix_socket": _optional(_named),
    "master_name": _optional(_named),
    "sentinel_addrs": _addresses,
    "sentinel_username": _optional(_text),
    "sentinel_password": _optional(_text),
    "tls": _flag,
    "tls_ca_file": _optional(_named),
    "tls_cert_file": _optional(_named),
    "tls_key_file": _optional(_named),
    "tls_verify": _flag,
    # how it is used
    "key_prefix": _prefix,
    "namespace": _namespace,
    "dial_timeout": _seconds,
    "read_timeout": _seconds,
    "write_timeout": _seconds,
    "pool_size": _integer(1, MAX_POOL_SIZE + 1),
    # of a store
    "ttl": _ttl,
    "refresh_ttl": _flag,
    "format": _format,
    "partitions": _integer(1, MAX_PARTITIONS + 1),
    "replicas": _integer(0, MAX_REPLICAS + 1),
    "max_state_bytes": _integer(1, MAX_STATE_BYTES + 1),
    "schema": _integer(1, MAX_SCHEMA + 1),
    "migrations": _instance(Mapping, "a mapping from schema numbers to functions"),
    "meter_provider": _optional(_instance(MeterProvider, "an opentelemetry.metrics.MeterProvider")),
    "logger": _optional(_instance(logging.Logger, "a logging.Logger")),
    # of an operation
    "if_version": _integer(0, MAX_VERSION),  # where one is given
    "key": _key,
    "limit": _optional(_integer(0)),
    "before": _optional(_before),
    "attempts": _integer(1),
    "changes": _instance(Mapping, "a mapping from fields to values"),
    "messages": _integer(0),  # how many
    "progress": _optional(_callable),
    "fn": _callable,
    "open": _callable,
}
