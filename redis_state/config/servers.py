"""How to reach Redis."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

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
                    raise without_tls(name)
            if not self.tls_verify:
                raise without_tls("tls_verify")
        if self.tls_key_file and not self.tls_cert_file:
            raise ValueError("tls_key_file needs a tls_cert_file")

    @property
    def is_cluster(self) -> bool:
        """Whether it names nodes of a cluster."""
        return (self.cluster or len(self.addrs) > 1) and not self.master_name and not self.unix_socket


def without_tls(name: str) -> ValueError:
    """The error for an option of TLS where there is none."""
    return ValueError(f"{name} has no effect without TLS: set tls=True, or write rediss:// in a URL")


_PORTS: Final = 65536
_HOST: Final = re.compile(r"[^\s:@/\[\]]+|\[[0-9A-Fa-f:.%]+\]").fullmatch
_PORT: Final = re.compile(r"[0-9]{1,10}").fullmatch


def split_address(address: str, default_port: int) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        ValueError: It is none. The text does not show it.
    """
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(default_port)
    # What is no address may be a misplaced password, so it is not shown.
    if not _HOST(host) or not host.isprintable() or not _PORT(port) or not 0 < int(port) < _PORTS:
        raise ValueError("an address is not of the form host:port")
    return host.strip("[]"), int(port)
