"""Configuration: as values, or as a URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote

from redis_state.checks import check

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """How to reach Redis. Durations are in seconds.

    Attributes:
        addrs: ``host:port`` each. One is a standalone server, several are nodes of a cluster.
        cluster: Whether a single address in `addrs` is that of a cluster's node.
        username: ACL user; None is the default user.
        password: Its password; never part of a repr, a log line or an exception.
        credential_provider: A `redis.credentials.CredentialProvider`, instead of username and password.
        db: Database number; 0 on a cluster.
        key_prefix: What every key starts with.
        dial_timeout: How long opening a connection may take, TLS and authentication included.
        read_timeout: How long the server may take for a reply.
        write_timeout: How much longer it may take while a request is being written. An operation, retries included,
            ends within `read_timeout` plus `write_timeout`, the first one plus `dial_timeout`.
        pool_size: How many connections to one server there may be.
        unix_socket: Path of a Unix socket, instead of `addrs`.
        master_name: The name under which Sentinel knows the primary.
        sentinel_addrs: ``host:port`` of the Sentinels.
        sentinel_username: ACL user at the Sentinels.
        sentinel_password: Its password.
        tls: Encrypt connections, those to Sentinels too.
        tls_ca_file: Certificates to trust, PEM; None trusts the system's.
        tls_cert_file: Client certificate, PEM.
        tls_key_file: Its key, PEM.
        tls_verify: Check the server's certificate and name.

    Raises:
        TypeError: A field is of another type than it is declared.
        ValueError: A value is out of range, or has no effect beside the others, such as a `tls_ca_file` without `tls`.
    """

    addrs: list[str] = field(default_factory=lambda: ["localhost:6379"])
    cluster: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_provider: CredentialProvider | None = field(default=None, repr=False)
    db: int = 0
    key_prefix: str = "forge:state:"
    dial_timeout: float = 5.0
    read_timeout: float = 3.0
    write_timeout: float = 3.0
    pool_size: int = 10
    unix_socket: str | None = None
    master_name: str | None = None
    sentinel_addrs: list[str] = field(default_factory=list[str])
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_ca_file: str | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_verify: bool = True

    def __post_init__(self) -> None:
        """Validate: each field by itself, then those that go together or exclude each other."""
        for name in self.__dataclass_fields__:
            check(name, getattr(self, name))
        if not self.addrs:
            raise ValueError("addrs must name at least one host:port")
        if bool(self.master_name) != bool(self.sentinel_addrs):
            raise ValueError("master_name and sentinel_addrs go together")
        if self.unix_socket and (self.cluster or self.master_name):
            raise ValueError("a unix_socket is one server: it goes neither with cluster nor with master_name")
        if self.cluster and self.master_name:
            raise ValueError("master_name names one server: it does not go with cluster")
        if self.is_cluster and self.db:
            raise ValueError("a cluster has only database 0")
        if self.credential_provider is not None and (self.username or self.password):
            raise ValueError("give a credential_provider, or username and password, not both")
        for name in ("sentinel_username", "sentinel_password"):
            if getattr(self, name) and not self.sentinel_addrs:
                raise ValueError(f"{name} has no effect without sentinel_addrs")
        self._check_tls()
        for address in (*self.addrs, *self.sentinel_addrs):
            split_address(address, 6379)

    def _check_tls(self) -> None:
        """Validate what concerns TLS: who gives a certificate or turns checks off believes that TLS is on.

        `tls_verify=True` says nothing: it is what everybody has who says nothing.
        """
        if self.tls and self.unix_socket:
            raise ValueError("a unix_socket has no TLS")
        if not self.tls:
            for name in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
                if getattr(self, name) is not None:
                    raise _without_tls(name)
            if not self.tls_verify:
                raise _without_tls("tls_verify")
        if self.tls_key_file and not self.tls_cert_file:
            raise ValueError("tls_key_file needs a tls_cert_file")

    @property
    def is_cluster(self) -> bool:
        """Whether it names nodes of a cluster."""
        return (self.cluster or len(self.addrs) > 1) and not self.master_name and not self.unix_socket


def _without_tls(name: str) -> ValueError:
    return ValueError(f"{name} has no effect without TLS: set tls=True, or write rediss:// in a URL")


_PORTS: Final = 65536
_HOST: Final = re.compile(r"[^\s:@/\[\]]+|\[[0-9A-Fa-f:.%]+\]").fullmatch
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


def parse_url(url: str, *, tls_verify: bool | None = None) -> RedisConfig:
    """The configuration that a URL describes.

    Args:
        url: See `RedisStateStore.from_url`.
        tls_verify: False turns certificate checks off, and lets the URL say so; None is True where there is TLS.

    Raises:
        ValueError: The scheme or an option is unknown, a value cannot be read or is given twice, or there are options
            of TLS without TLS. The text holds no password.
    """
    if tls_verify is not None:
        check("tls_verify", tls_verify)
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the URL must be a string, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in ("memory", *_SCHEMES))
        raise ValueError(f"the URL must start with one of {known}")
    tls, kind = _SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    credentials, at, rest = rest.rpartition("@")
    values: dict[str, Any] = {"tls": tls}
    if at:
        username, _, password = credentials.partition(":")
        values["username"] = unquote(username) or None
        values["password"] = unquote(password) or None
    values.update(_place(scheme, kind, rest))
    for name, value in _options(query).items():
        if name in values:
            raise ValueError(f"the URL says {name!r} twice")
        values[name] = value
    values["tls_verify"] = _verification(tls=tls, in_url=values.get("tls_verify"), in_code=tls_verify)
    return RedisConfig(cluster=kind == "cluster", **values)


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
        raise _without_tls("tls_verify")
    if in_url is False and in_code is not False:
        raise ValueError("the URL turns certificate checks off; that takes tls_verify=False in the code as well")
    return in_code is not False if in_url is None else in_url


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


def split_address(address: str, default_port: int) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        ValueError: It is none. The text does not show it.
    """
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(default_port)
    # What is no address may be a misplaced password, so it is not shown.
    if not _HOST(host) or not host.isprintable() or not _NUMBER(port) or not 0 < int(port) < _PORTS:
        raise ValueError("an address is not of the form host:port")
    return host.strip("[]"), int(port)
