"""The command line: its demo tells the truth, keeps passwords to itself and leaves nothing behind."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from redis_state.__main__ import main
from redis_state.testing import RedisServer
from redis_state.testing.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

# As where the `demo` extra is not installed.
WITHOUT_SDK = """
import sys
sys.modules["opentelemetry.sdk"] = None
from redis_state.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server with a password, and with something in it that is the user's."""
    with RedisServer(password="s3cret/?") as server:
        server.command("SET", "forge:demo:mine", "untouched")
        yield server


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        env=surroundings | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "redis_state", "demo", *arguments, **environment)


def test_on_a_server_of_its_own_it_shows_everything_and_stops_the_server(redis_server: RedisServer) -> None:
    """One page of at most 100 columns."""
    done = demo()
    assert (done.returncode, done.stderr) == (0, "")
    page = done.stdout
    for fact in (
        "heat-pumps",
        "VersionConflictError: expected version 1, but version 2 is stored",
        "StateNotFoundError",
        "{support}:order-4711",
        "sessions:{research}",
        '"content": "Yes, please."',
        "under forge.integrations.redis.state",
        "error.type=VersionConflictError",
        "200 loads",
    ):
        assert fact in page
    assert re.search(r"\d (µs|ms)  save\(order\) +version 1\n", page)
    assert re.search(r"\n   save_duration +s +mean of 6: [\d.]+ (µs|ms)\n", page)
    lines = page.splitlines()
    assert 60 <= len(lines) <= 100
    assert max(map(len, lines)) <= 100
    port = re.search(r"on a private .* at 127\.0\.0\.1:(\d+)\.\n", page)
    assert port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])), timeout=5)


def test_on_the_users_server_nothing_is_left_and_nothing_else_touched(server: RedisServer) -> None:
    """Nor is the password shown. `--url` comes before REDIS_URL."""
    done = demo("--url", f"{server.url}?read_timeout=5", REDIS_URL="redis://elsewhere.invalid")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].endswith(f" on redis://{server.addr}/0.")
    assert "s3cret" not in done.stdout
    assert '"role": "user"' in done.stdout
    assert server.command("KEYS", "*") == [b"forge:demo:mine"]
    assert server.command("GET", "forge:demo:mine") == b"untouched"


def test_after_a_refusal_half_way_nothing_is_left(server: RedisServer) -> None:
    """The user, whom REDIS_URL names, may save and load, but not append."""
    server.command("ACL", "SETUSER", "reader", "on", ">s3cret", "~*", "+@all", "-append")
    done = demo(REDIS_URL=f"redis://reader:s3cret@{server.addr}")
    assert "save(order)" in done.stdout
    assert done.returncode == 1
    assert re.fullmatch(r"redis-state: the server refused .*\n", done.stderr)
    assert server.command("KEYS", "*") == [b"forge:demo:mine"]


def test_without_a_server_it_says_that_it_runs_in_memory_and_without_the_sdk_how_to_see_metrics() -> None:
    done = run("-c", WITHOUT_SDK, "demo", REDIS_STATE_SERVER="no-such-server")
    assert (done.returncode, done.stderr) == (0, "")
    page = done.stdout
    assert "in memory: there is no redis-server to start" in page.splitlines()[0]
    assert "VersionConflictError: expected version 1, but version 2 is stored" in page
    assert "Nothing: this ran in memory." in page
    assert "pip install 'redis-state[demo]'" in page


def test_a_refused_port_is_one_line() -> None:
    done = demo("--url", f"redis://:s3cret@127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"redis-state: cannot connect to 127\.0\.0\.1:\d+: Connection refused\n", done.stderr)


def test_a_wrong_password_is_one_line_that_does_not_show_it(server: RedisServer) -> None:
    done = demo("--url", f"redis://:s3cret-not@{server.addr}")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"redis-state: .* does not accept the username and password\n", done.stderr)
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("http://:s3cret@localhost", "the URL must start with one of memory://, ", id="unknown scheme"),
        pytest.param("redis://:s3cret@localhost?pool=3", "unknown option 'pool' in the URL", id="unknown option"),
        pytest.param("redis://:s3cret?@localhost", "write ? and @ in the URL's password", id="unquoted password"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(url: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--url", url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"redis-state: {message}")
    assert printed.err.count("\n") == 1
    assert "s3cret" not in printed.err


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"redis-state \d+\.\d+\.\d+\n", capsys.readouterr().out)
