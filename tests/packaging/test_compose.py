"""compose.yaml without containers: its commands run here as plain processes, on other ports and on loopback only."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from ruamel.yaml import YAML

from redis_state.testing.binaries import find_server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose.yaml"
GITHUB = ROOT / ".github"


class Dependency(msgspec.Struct):
    condition: str


class Healthcheck(msgspec.Struct):
    test: list[str]


class Service(msgspec.Struct):
    image: str
    command: list[str] | str
    profiles: list[str] = []
    ports: list[str] = []
    environment: dict[str, int] = {}
    depends_on: dict[str, Dependency] = {}
    healthcheck: Healthcheck | None = None

    @property
    def published(self) -> set[int]:
        """The ports of this machine that lead into the service's network, each under its own number."""
        found: set[int] = set()
        for port in self.ports:
            address, outside, inside = port.split(":")
            assert address == "127.0.0.1"
            assert outside == inside
            first, _, last = inside.partition("-")
            found.update(range(int(first), int(last or first) + 1))
        return found


class Compose(msgspec.Struct):
    services: dict[str, Service]


class Up:
    """The services of one profile as processes; every port is `offset` higher than in the file."""

    def __init__(self, services: dict[str, Service], directory: Path) -> None:
        self.services = services
        self.directory = directory
        self.published = set[int]().union(*(service.published for service in services.values()))
        self.offset = free_offset(self.published)
        self.environment = {**os.environ, "PATH": f"{commands(directory)}{os.pathsep}{os.environ['PATH']}"}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def shifted(self, text: str) -> str:
        """`text` as the containers' shell would get it, with the ports that are used here."""

        def shift(number: re.Match[str]) -> str:
            port = int(number[0])
            return str(port + self.offset if port in self.published else port)

        return re.sub(r"\b\d+\b", shift, text).replace("$$", "$")

    def start(self, name: str) -> None:
        service = self.services[name]
        command = shlex.split(service.command) if isinstance(service.command, str) else service.command
        directory = self.directory / name
        directory.mkdir()
        with (directory / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [self.shifted(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=self.environment | {key: self.shifted(str(n)) for key, n in service.environment.items()},
                start_new_session=True,
            )

    def wait_until_healthy(self, name: str) -> None:
        """Ask the service's own health check, as often as the file allows, while every process is up."""
        check = self.services[name].healthcheck
        if check is None:
            return
        kind, *words = check.test
        command = [*{"CMD": [], "CMD-SHELL": ["sh", "-c"]}[kind], *map(self.shifted, words)]
        deadline = time.monotonic() + 30
        while subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode:
            for other, process in self.processes.items():
                assert process.poll() is None, f"{other} ended: {self.log(other)}"
            assert time.monotonic() < deadline, f"{name} is not healthy: {self.log(name)}"
            time.sleep(0.1)

    def ask(self, port: int, *command: str) -> list[str]:
        """The lines that the server of `port` in the file answers to a client outside of the containers."""
        whole = ["redis-cli", "-p", str(port + self.offset), *command]
        return subprocess.check_output(whole, env=self.environment, text=True).split("\n")[:-1]

    def log(self, name: str) -> str:
        return (self.directory / name / "log").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        for process in self.processes.values():
            with suppress(ProcessLookupError):  # it has ended by itself, which the test reports
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes.values():
            process.wait()


def read() -> dict[str, Service]:
    loaded: Any = YAML(typ="safe", pure=True).load(COMPOSE)  # pyright: ignore[reportUnknownMemberType]
    return msgspec.convert(loaded, Compose).services


def commands(directory: Path) -> Path:
    """A directory with the images' two commands; the server listens on loopback whatever its other options are."""
    server = find_server()
    client = shutil.which("redis-cli", path=str(server.resolve().parent)) or shutil.which("redis-cli")
    if client is None:
        reason = "compose.yaml's health checks need redis-cli, which is not on PATH"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    found = directory / "bin"
    found.mkdir()
    (found / "redis-cli").symlink_to(client)
    script = found / "redis-server"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(server))} "$@" --bind 127.0.0.1\n')
    script.chmod(0o755)
    return found


def free_offset(ports: set[int]) -> int:
    """A distance at which all `ports` are free, and the ports of the cluster bus 10000 above them."""
    for _ in range(100):
        offset = random.randrange(1000, 5000)
        with ExitStack() as held:
            try:
                for port in ports | {port + 10_000 for port in ports}:
                    held.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            except OSError:
                continue
        return offset
    raise AssertionError("No free ports were found.")


@pytest.fixture
def up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Up]:
    """The services of the profile that the test names ("" for those without one), healthy."""
    profile: str = request.param
    wanted = {name: one for name, one in read().items() if one.profiles == ([profile] if profile else [])}
    running = Up(wanted, tmp_path)
    try:
        for name, service in wanted.items():
            for dependency, how in service.depends_on.items():
                assert how.condition == "service_healthy"
                running.wait_until_healthy(dependency)
            running.start(name)
        for name in wanted:
            running.wait_until_healthy(name)
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        pytest.param("vendor.compose-spec", COMPOSE, id="compose"),
        pytest.param("vendor.github-workflows", GITHUB / "workflows/ci.yml", id="ci"),
        pytest.param("vendor.github-workflows", GITHUB / "workflows/release.yml", id="release"),
        pytest.param("vendor.github-issue-forms", GITHUB / "ISSUE_TEMPLATE/bug.yml", id="bug"),
        pytest.param("vendor.github-issue-forms", GITHUB / "ISSUE_TEMPLATE/feature.yml", id="feature"),
    ],
)
def test_the_file_is_what_its_reader_expects(schema: str, path: Path) -> None:
    """compose.yaml, the workflows and the issue forms follow the schemas of the programs that read them."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_runs_the_chosen_image() -> None:
    """REDIS_IMAGE decides for the whole file."""
    assert {service.image for service in read().values()} == {"${REDIS_IMAGE:-redis:8}"}


@pytest.mark.parametrize("up", [""], ids=["default"], indirect=True)
def test_the_default_is_one_server(up: Up) -> None:
    """Without a profile there is one Redis on its usual port."""
    assert up.published == {6379}
    assert up.ask(6379, "PING") == ["PONG"]


@pytest.mark.parametrize("up", ["cluster"], indirect=True)
def test_the_cluster_can_be_reached_from_this_machine(up: Up) -> None:
    """Three primaries and three replicas, and what they announce to clients are the ports that are published."""
    nodes = [line.split() for line in up.ask(7001, "CLUSTER", "NODES")]
    addresses = {address.partition("@")[0] for _, address, *_ in nodes}
    assert addresses == {f"127.0.0.1:{port + up.offset}" for port in up.published}
    roles = sorted(flags.removeprefix("myself,") for _, _, flags, *_ in nodes)
    assert roles == ["master"] * 3 + ["slave"] * 3


@pytest.mark.parametrize("up", ["sentinel"], indirect=True)
def test_the_sentinels_can_be_reached_from_this_machine(up: Up) -> None:
    """One primary, two replicas and three sentinels, and what they tell clients are the ports that are published."""
    told = [
        line for what in ("MASTER", "REPLICAS", "SENTINELS") for line in up.ask(26379, "SENTINEL", what, "mymaster")
    ]
    addresses = {value for key, value in pairwise(told) if key == "ip"}
    assert addresses == {"127.0.0.1"}
    ports = {int(value) for key, value in pairwise(told) if key == "port"}
    assert ports | {26379 + up.offset} == {port + up.offset for port in up.published}
