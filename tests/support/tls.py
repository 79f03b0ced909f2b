"""A server that speaks TLS, and certificates: good ones, one of a stranger and one that has expired."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from redis_state.testing import RedisServer, ServerStartError
from redis_state.testing.ports import HOST, free_port

# What a server without TLS says about `tls-port`: Redis 6.2, then Redis 7.2 and newer and Valkey.
WITHOUT_TLS = (">>> 'tls-port", "Failed finding TLS support")


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """What a server, its clients and those that it must not trust need.

    `dataclasses.replace(files, server=files.expired)` makes a server show another certificate.

    Attributes:
        ca: The authority that server and clients trust.
        server: The server's certificate, for 127.0.0.1 and localhost.
        client: A client's certificate.
        expired: As `server`, but it ended a day ago.
        other_ca: An authority that `server` and `client` are not from.
        stranger: A certificate of `other_ca` for 127.0.0.1 and localhost.
    """

    ca: Path
    server: KeyPair
    client: KeyPair
    expired: KeyPair
    other_ca: Path
    stranger: KeyPair


def make_certificates(folder: Path) -> TlsFiles:
    """Write new certificates into a directory."""
    ca, other_ca = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.crt")
    other_ca.cert_pem.write_to_path(folder / "other-ca.crt")
    hosts = ("127.0.0.1", "localhost")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return TlsFiles(
        ca=folder / "ca.crt",
        server=_written(ca.issue_cert(*hosts), folder, "server"),
        client=_written(ca.issue_cert("client.test"), folder, "client"),
        expired=_written(ca.issue_cert(*hosts, not_after=yesterday), folder, "expired"),
        other_ca=folder / "other-ca.crt",
        stranger=_written(other_ca.issue_cert(*hosts), folder, "stranger"),
    )


def _written(issued: trustme.LeafCert, folder: Path, name: str) -> KeyPair:
    pair = KeyPair(certificate=folder / f"{name}.crt", key=folder / f"{name}.key")
    issued.cert_chain_pems[0].write_to_path(pair.certificate)
    issued.private_key_pem.write_to_path(pair.key)
    return pair


class TlsServer(RedisServer):
    """A server that listens with TLS too. A client may show a certificate of `files.ca`, and need not.

    Args:
        files: The certificates; the server shows `files.server`.
        options: As for `RedisServer`; `config={"tls-auth-clients": "yes"}` makes clients show one.
    """

    def __init__(self, files: TlsFiles, **options: Any) -> None:
        super().__init__(**options)
        self.files = files
        self.tls_port = 0

    @classmethod
    @contextmanager
    def started(cls, files: TlsFiles, **options: Any) -> Generator[TlsServer]:
        """A running server; skips the test where the binary was built without TLS."""
        server = cls(files, **options)
        try:
            server.__enter__()
        except ServerStartError as error:
            if any(words in str(error) for words in WITHOUT_TLS):
                pytest.skip(f"{server.binary} was built without TLS")
            raise
        with server:
            yield server

    @property
    def tls_url(self) -> str:
        """`rediss://127.0.0.1:tls_port/0`, with the password if there is one."""
        return self.url.replace("redis:", "rediss:").replace(f"{HOST}:{self.port}", f"{HOST}:{self.tls_port}")

    @property
    def credentials(self) -> str:
        """What a client needs, as the options of a URL."""
        pair = self.files.client
        return f"tls_ca_file={self.files.ca}&tls_cert_file={pair.certificate}&tls_key_file={pair.key}"

    def _take_ports(self) -> None:
        super()._take_ports()
        self.tls_port = free_port()

    def _directives(self) -> list[str]:
        return [
            f"tls-port {self.tls_port}",
            f'tls-ca-cert-file "{self.files.ca}"',
            f'tls-cert-file "{self.files.server.certificate}"',
            f'tls-key-file "{self.files.server.key}"',
            "tls-auth-clients optional",
            *super()._directives(),
        ]
