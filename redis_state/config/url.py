"""The configuration that a URL describes, together with keywords beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Unpack
from urllib.parse import parse_qsl, unquote

from redis_state.checks import check_all
from redis_state.config.options import ConnectionOptions
from redis_state.config.servers import RedisConfig, without_tls

_NUMBER: Final = re.compile(r"[0-9]{1,10}").fullmatch
_DECIMAL: Final = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})?").fullmatch
_SCHEMES: Final = {
    "redis": (False, ""),
    "rediss": (True, ""),
    "unix": (False, "unix"),
    "redis+cluster": (False, "cluster"),
    "rediss+cluster": (True, "cluster"),
    "redis+sentinel": (False, "sentinel"),
    "rediss+sentinel": (True, "sentinel"),
}


def _integer(text: str) -> int:
    if not _NUMBER(text):
        raise ValueError
    return int(text)


def _decimal(text: str) -> float:
    if not _DECIMAL(text):
        raise ValueError
    return float(text)


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


# What may stand after the question mark, and how it is read.
_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "db": _integer,
    "key_prefix": str,
    "dial_timeout": _decimal,
    "read_timeout": _decimal,
    "write_timeout": _decimal,
    "pool_size": _integer,
    "sentinel_username": str,
    "sentinel_password": str,
    "tls_ca_file": str,
    "tls_cert_file": str,
    "tls_key_file": str,
    "tls_verify": _flag,
}


_SAID_BY_THE_URL: Final = {
    "addrs": "its addresses stand in the URL, such as redis://host:6379",
    "unix_socket": "write unix:///path/to/redis.sock as the URL",
    "cluster": "write redis+cluster:// in the URL",
}


def parse_url(url: str, **fields: Unpack[ConnectionOptions]) -> RedisConfig:
    """The configuration that a URL and the fields beside it describe.

    Args:
        url: See `RedisStateStore.from_url`.
        fields: Those of `RedisConfig`; one that is given here wins over the URL. Only `tls_verify=False` in the URL
            takes `tls_verify=False` here as well.

    Raises:
        TypeError: The URL is no string, or a field is of another type.
        ValueError: The scheme or an option is unknown, a value cannot be read or is given twice, there are options of
            TLS without TLS, or a field says where Redis is, as the URL does. The text holds no password.
    """
    check_fields(fields)
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the URL must be a string, not {type(url).__name__}")
    values = _read(url)
    if values["addrs"] and (fields.get("master_name") or fields.get("sentinel_addrs")):
        raise ValueError("master_name and sentinel_addrs go with a redis+sentinel:// URL; this one names a server")
    in_url, in_code = values.pop("tls_verify", None), fields.get("tls_verify")
    values |= fields
    values["tls_verify"] = _verification(tls=values["tls"], in_url=in_url, in_code=in_code)
    if not values["addrs"]:
        del values["addrs"]
    return RedisConfig(**values)


def check_fields(fields: ConnectionOptions) -> None:
    """Validate fields of `RedisConfig` that are given beside a URL, each by itself.

    Raises:
        TypeError: A field is of another type.
        ValueError: A value is out of range, or says where Redis is.
    """
    check_all({name: value for name, value in fields.items() if (name, value) != ("tls_verify", None)})
    for name, instead in _SAID_BY_THE_URL.items():
        if name in fields:
            raise ValueError(f"{name} does not go beside a URL: {instead}; or use a RedisConfig")


def _read(url: str) -> dict[str, Any]:
    """What a URL says."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in ("memory", *_SCHEMES))
        raise ValueError(f"the URL must start with one of {known}")
    tls, kind = _SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    credentials, at, rest = rest.rpartition("@")
    values: dict[str, Any] = {"tls": tls, "cluster": kind == "cluster", "addrs": []}
    if at:
        username, _, password = credentials.partition(":")
        values["username"] = unquote(username) or None
        values["password"] = unquote(password) or None
    values.update(_place(scheme, kind, rest))
    for name, value in _options(query).items():
        if name in values:
            raise ValueError(f"the URL says {name!r} twice")
        values[name] = value
    return values


def _place(scheme: str, kind: str, rest: str) -> dict[str, Any]:
    """The fields that say where Redis is, from what follows the credentials."""
    if kind == "unix":
        if not rest:
            raise ValueError("a Unix socket URL looks like unix:///path/to/redis.sock")
        return {"unix_socket": unquote(rest)}
    values: dict[str, Any] = {}
    authority, _, path = rest.partition("/")
    addrs = [address for address in authority.split(",") if address]
    segments = [unquote(segment) for segment in path.split("/") if segment]
    if kind == "sentinel":
        if not addrs or not segments:
            raise ValueError("a Sentinel URL looks like redis+sentinel://host:26379,host:26379/mymaster/0")
        values["sentinel_addrs"], values["master_name"] = addrs, segments.pop(0)
    elif addrs:
        values["addrs"] = addrs
    elif kind == "cluster":
        raise ValueError("a cluster URL looks like redis+cluster://host:7001,host:7002")
    if segments:
        if len(segments) > 1 or not _NUMBER(segments[0]):
            raise ValueError("the URL's path must be a database number")
        values["db"] = int(segments[0])
    if kind == "" and len(addrs) > 1:
        raise ValueError(f"several addresses are a cluster: write {scheme}+cluster://")
    return values


def _verification(*, tls: bool, in_url: bool | None, in_code: bool | None) -> bool:
    """Whether certificates are checked; None stands for what was not said."""
    if not tls and (in_code is not None or in_url is not None):
        raise without_tls("tls_verify")
    if in_url is False and in_code is None:
        raise ValueError("the URL turns certificate checks off; that takes tls_verify=False in the code as well")
    return (in_url is not False) if in_code is None else in_code or in_url is True


def _options(query: str) -> dict[str, Any]:
    if "@" in query:  # what follows is not shown: it may be a part of a password
        raise ValueError("in a URL the characters ?, /, # and @ of a password must be percent-encoded")
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        read = _OPTIONS.get(name)
        if read is None:
            shown = f" {name!r}" if name.isidentifier() else ""
            raise ValueError(f"unknown option{shown} in the URL; known are {', '.join(_OPTIONS)}")
        if name in values:
            raise ValueError(f"the URL says {name!r} twice")
        try:
            values[name] = read(text)
        except (ValueError, KeyError):
            values = {}
        if name not in values:
            raise ValueError(f"the value of {name!r} in the URL cannot be read")
    return values
