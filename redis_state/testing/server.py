"""One Redis or Valkey server of one's own, for as long as a block of code runs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from redis_state.testing.binaries import find_server, server_version
from redis_state.testing.errors import CommandError, ServerStartError
from redis_state.testing.ports import HOST, free_port
from redis_state.testing.process import ServerProcess
from redis_state.testing.resp import send_command
from redis_state.testing.startable import Startable, in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["RedisServer"]

# How often a start is tried with other ports when somebody else was faster to take the first ones.
PORT_ATTEMPTS = 10


class RedisServer(Startable):
    """A real server process with nothing in it, reachable on this machine only.

    `async with RedisServer() as server:` and `with RedisServer() as server:` start and stop it, and so do
    `start` and `stop`. A `start` after `kill` finds the same port, configuration and persisted data; one after
    `stop` finds nothing. The process ends and its directory goes when it is stopped, when this Python process
    exits, and when this Python process is killed.

    Args:
        port: The TCP port on 127.0.0.1; None takes a free one, and 0 means no TCP (only the unix socket), as
            in redis.conf.
        password: What clients must give, and what a replica gives its primary.
        persistence: Whether an append-only file keeps the data across `kill` and `restart`.
        config: Further directives of redis.conf, such as `{"maxmemory": "10mb"}` or, for a replica,
            `{"replicaof": "127.0.0.1 6379"}`. The value is the rest of the line as it stands there; a list of values
            repeats the directive.
        binary: Which server, as `find_server` takes it.
        start_timeout: How long a start may take, in seconds.

    Raises:
        ServerNotFoundError: There is no such binary.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        password: str | None = None,
        persistence: bool = False,
        config: Mapping[str, str | int | Sequence[str]] | None = None,
        binary: str | Path | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        self.binary = find_server(binary)
        self.password = password
        self.persistence = persistence
        self.config = dict(config or {})
        self.start_timeout = start_timeout
        self._wanted_port = port
        self._port = port or 0
        self._process = ServerProcess()
        self._starting = threading.RLock()

    def __repr__(self) -> str:
        state = f"pid={self.pid}" if self.running else "not running"
        return f"<{type(self).__name__} {self.host}:{self._port} {state}>"

    # ---- where it is

    @property
    def host(self) -> str:
        """The address it listens on, always 127.0.0.1."""
        return HOST

    @property
    def port(self) -> int:
        """The TCP port; it stays the same until `stop`."""
        return self._port

    @property
    def addr(self) -> str:
        """`127.0.0.1:port`."""
        return f"{HOST}:{self._port}"

    @property
    def socket_path(self) -> Path:
        """The unix socket."""
        return self._process.directory / "redis.sock"

    @property
    def directory(self) -> Path:
        """The private directory with the server's configuration, its log and its data."""
        return self._process.directory

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:port/0`, with the password if there is one."""
        return f"redis://{self._credentials}{HOST}:{self._port}/0"

    @property
    def unix_url(self) -> str:
        """`unix:///path/of/the.sock`, with the password if there is one."""
        return f"unix://{self._credentials}{self.socket_path}"

    @property
    def _credentials(self) -> str:
        return f":{quote(self.password, safe='')}@" if self.password else ""

    @property
    def quoted_password(self) -> str:
        """The password as redis.conf takes it, whatever characters it has."""
        return '"{}"'.format("".join(f"\\x{byte:02x}" for byte in (self.password or "").encode()))

    # ---- the process

    @property
    def running(self) -> bool:
        """Whether the process is there; a frozen one is."""
        return self._process.running

    @property
    def pid(self) -> int:
        """The id of the running process; `RuntimeError` when there is none."""
        return self._process.pid

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version, such as `(7, 0, 15)`."""
        return server_version(self.binary)

    async def restart(self) -> None:
        """`kill` and `start`: with `persistence` every acknowledged write is there, without it none is.

        Raises:
            ServerStartError: As on `start`.
        """
        self.kill()
        await self.start()

    async def wait_until_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - it is the server's
        """Wait until the server answers PING and has loaded its data, `start_timeout` at most by default.

        Raises:
            ServerStartError: It ended or stayed silent.
        """
        await in_thread(self._wait_until_ready, timeout or self.start_timeout)

    def kill(self) -> None:
        """End it with SIGKILL, frozen or not; `start` brings it back."""
        self._process.kill()

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections stay open and are even accepted, and nothing is answered."""
        self._process.freeze()

    def thaw(self) -> None:
        """Let a frozen server go on; it then answers what has arrived meanwhile."""
        self._process.thaw()

    # ---- looking inside

    def command(self, *command: object, timeout: float = 5.0) -> Any:
        """Send one command through the unix socket and return its reply; blocks, so it is for tests.

        Args:
            command: The command and its arguments: bytes as they are, everything else as `str()` of it.
            timeout: In seconds.

        Returns:
            Bulk strings as bytes, status replies as str, integers, None, and lists of these.

        Raises:
            CommandError: The server answered with an error.
            OSError: The server is not there, or did not answer in time (`TimeoutError`).
        """
        return send_command(str(self.socket_path), *command, password=self.password, timeout=timeout)

    def info(self, section: str = "default") -> dict[str, str]:
        """The fields of one section of INFO, such as `info("replication")["role"]`."""
        text = self.command("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    # ---- starting

    def _start(self) -> None:
        with self._starting:
            if self._process.running:
                return
            if self._process.prepared:
                self._launch()
                return
            self._process.prepare()
            try:
                self._launch_with_new_ports()
            except BaseException:
                self._process.remove()
                raise

    def _stop(self) -> None:
        with self._starting:
            self._process.remove()

    def _launch_with_new_ports(self) -> None:
        for attempt in range(PORT_ATTEMPTS):
            self._take_ports()
            text = "".join(f"{line}\n" for line in self._directives())
            (self._process.directory / "redis.conf").write_text(text)
            try:
                self._launch()
            except ServerStartError as error:
                if "Address already in use" not in str(error) or attempt == PORT_ATTEMPTS - 1:
                    raise
                self._process.forget_log()
            else:
                return

    def _take_ports(self) -> None:
        if self._wanted_port is None:
            self._port = free_port(bus=self.config.get("cluster-enabled") == "yes")

    def _launch(self) -> None:
        self._process.launch([self.binary, "redis.conf", *self._arguments()])
        try:
            self._wait_until_ready(self.start_timeout)
        except BaseException:
            self._process.kill()
            raise

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._process.running and (left := deadline - time.monotonic()) > 0:
            try:
                self.command("PING", timeout=left)
            except OSError:
                time.sleep(0.002)
            except CommandError as error:
                if not str(error).startswith("LOADING"):
                    return  # it answers; what it thinks of a PING is the test's business
                time.sleep(0.002)
            else:
                return
        log = self._process.log_tail()
        reason = f"did not answer within {timeout:g} s" if self._process.running else "ended"
        raise ServerStartError(f"{self.binary} {reason}:\n{log}")

    def _arguments(self) -> list[str]:
        return []

    def _directives(self) -> list[str]:
        """The lines of redis.conf; the last one that names a directive wins, so the caller's come last."""
        lines = [
            f"bind {HOST}",
            f"port {self._port}",
            f'unixsocket "{self.socket_path}"',
            "unixsocketperm 700",
            f'dir "{self._process.directory}"',
            'save ""',
            f"appendonly {'yes' if self.persistence else 'no'}",
            # A new replica gets its data at once and through the socket, not after five seconds or by disk.
            "repl-diskless-sync yes",
            "repl-diskless-sync-delay 0",
        ]
        if self.version >= (7, 0):
            lines.append("enable-debug-command local")  # as before 7.0
        if self.password is not None:
            lines += [f"requirepass {self.quoted_password}", f"masterauth {self.quoted_password}"]
        for name, value in self.config.items():
            values = [str(value)] if isinstance(value, (str, int)) else list(value)
            lines += [f"{name} {each}" for each in values]
        return lines
