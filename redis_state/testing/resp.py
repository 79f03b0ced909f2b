"""One command to a server and its reply, over a short-lived blocking connection."""

from __future__ import annotations

import contextlib
import socket
from typing import IO, Any

from redis_state.testing.errors import CommandError

__all__ = ["send_command"]


def send_command(
    address: str | tuple[str, int], *command: object, password: str | None = None, timeout: float = 5.0
) -> Any:
    """Send one command and return its reply.

    Args:
        address: The path of a unix socket, or host and port.
        command: The command and its arguments: bytes as they are, everything else as `str()` of it.
        password: Sent with AUTH first.
        timeout: How long connecting and each wait for bytes may take, in seconds.

    Returns:
        Bulk strings as bytes, status replies as str, integers, None, and lists of these. An error inside a
        list is a `CommandError` that is an item of it.

    Raises:
        CommandError: The server answered with an error.
        OSError: There is no server, or it did not answer in time (`TimeoutError`) or hung up.
    """
    with contextlib.closing(_connect(address, timeout)) as connection, connection.makefile("rb") as replies:
        if password is not None:
            connection.sendall(_packed(("AUTH", password)))
            _raise_error(_read(replies))
        connection.sendall(_packed(command))
        return _raise_error(_read(replies))


def _connect(address: str | tuple[str, int], timeout: float) -> socket.socket:
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _packed(command: tuple[object, ...]) -> bytes:
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _raise_error(reply: Any) -> Any:
    if isinstance(reply, CommandError):
        raise reply
    return reply


def _read(replies: IO[bytes]) -> Any:
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("The server closed the connection before its reply was complete.")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        return CommandError(rest.decode(errors="replace"))
    length = int(rest)
    if kind == b":":
        return length
    if length < 0:
        return None
    if kind == b"*":
        return [_read(replies) for _ in range(length)]
    body = replies.read(length + 2)
    if len(body) < length + 2:
        raise ConnectionResetError("The server closed the connection before its reply was complete.")
    return body[:-2]
