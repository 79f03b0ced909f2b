"""What can go wrong between asking for a server and having one."""

from __future__ import annotations

__all__ = [
    "CommandError",
    "LocalServerError",
    "ServerNotFoundError",
    "ServerStartError",
]


class LocalServerError(Exception):
    """The root of this package's errors."""


class ServerNotFoundError(LocalServerError):
    """Raised when no server binary is installed, or the one that was asked for does not exist."""


class ServerStartError(LocalServerError):
    """Raised when a server ended or stayed silent instead of answering; the message ends with its log."""


class CommandError(LocalServerError):
    """Raised when the server answered `command(...)` with an error; the message is the server's."""
