"""Certificates for tests: good ones, one of a stranger and one that has expired."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme

__all__ = ["KeyPair", "TlsFiles", "make_certificates"]


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


def make_certificates(directory: str | Path) -> TlsFiles:
    """Write new certificates into `directory`, which exists; takes the trustme package.

    Raises:
        ModuleNotFoundError: trustme is not installed.
    """
    import trustme  # noqa: PLC0415 - the rest of the package does without it

    folder = Path(directory)
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
