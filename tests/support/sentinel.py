"""A primary with replicas and the sentinels that watch over it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from redis_state.testing import CommandError, RedisServer
from redis_state.testing.ports import HOST
from redis_state.testing.startable import Startable, in_thread
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A process that is asked and may be frozen gets this long, in seconds.
PATIENCE = 0.5

# Until servers have come together, or have done what they were asked for, in seconds.
START_TIMEOUT = 30.0


class Sentinel(RedisServer):
    """One sentinel process; `kill`, `freeze` and the rest are those of `RedisServer`."""

    def __init__(
        self,
        watched: Sequence[RedisServer],
        *,
        service_name: str,
        quorum: int,
        down_after: float,
        failover_timeout: float,
        password: str | None,
    ) -> None:
        super().__init__(password=password)
        self._watched = watched
        self._service_name = service_name
        self._quorum = quorum
        self._down_after = down_after
        self._failover_timeout = failover_timeout

    def _arguments(self) -> list[str]:
        return ["--sentinel"]

    def _directives(self) -> list[str]:
        name, primary = self._service_name, self._watched[0]
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f'unixsocket "{self.socket_path}"',
            "unixsocketperm 700",
            f'dir "{self.directory}"',
            f"sentinel monitor {name} {primary.host} {primary.port} {self._quorum}",
            f"sentinel down-after-milliseconds {name} {round(self._down_after * 1000)}",
            f"sentinel failover-timeout {name} {round(self._failover_timeout * 1000)}",
            f"sentinel parallel-syncs {name} {max(1, len(self._watched) - 1)}",
        ]
        if primary.password is not None:
            lines.append(f"sentinel auth-pass {name} {primary.quoted_password}")
        if self.password is not None:
            lines.append(f"requirepass {self.quoted_password}")
            lines.append(f"sentinel sentinel-pass {self.quoted_password}")
        return lines


class SentinelServers(Startable):
    """A primary, its replicas and their sentinels on 127.0.0.1; ready after 2 to 4 seconds.

    Most of that is the time after which the sentinels tell each other of themselves.
    """

    def __init__(
        self,
        replicas: int = 2,
        sentinels: int = 3,
        service_name: str = "mymaster",
        *,
        down_after: float = 0.5,
        failover_timeout: float = 2.0,
        password: str | None = None,
        sentinel_password: str | None = None,
        persistence: bool = False,
        config: Mapping[str, str | int | Sequence[str]] | None = None,
    ) -> None:
        self.service_name = service_name
        self.password = password
        self.sentinel_password = sentinel_password
        self._running: ExitStack | None = None
        # A replica that was sent nothing yet has an offset that says nothing; send it something soon.
        directives: dict[str, str | int | Sequence[str]] = {"repl-ping-replica-period": 1, **(config or {})}
        self.servers = [
            RedisServer(
                password=password,
                persistence=persistence,
                config=directives,
            )
            for _ in range(1 + replicas)
        ]
        self.sentinels = [
            Sentinel(
                self.servers,
                service_name=service_name,
                quorum=sentinels // 2 + 1,
                down_after=down_after,
                failover_timeout=failover_timeout,
                password=sentinel_password,
            )
            for _ in range(sentinels)
        ]

    # ---- where it is

    @property
    def sentinel_addrs(self) -> list[str]:
        """`127.0.0.1:port` of every sentinel."""
        return [sentinel.addr for sentinel in self.sentinels]

    @property
    def url(self) -> str:
        """`redis+sentinel://h1:p1,h2:p2,h3:p3/mymaster/0`, with the servers' password if there is one."""
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis+sentinel://{credentials}{','.join(self.sentinel_addrs)}/{self.service_name}/0"

    async def primary(self) -> RedisServer:
        """The server that the first sentinel that answers calls the primary."""
        return await in_thread(self._primary)

    # ---- changes

    async def wait_until_ready(self, timeout: float = 60.0) -> None:  # noqa: ASYNC109 - blocks a thread
        """Wait until the running sentinels agree and see each other, one primary, and all else as its replicas.

        A primary that was failed over from or comes back is made a replica 10 to 30 seconds later.
        """
        await in_thread(self._wait_until_ready, timeout)

    async def failover(self) -> RedisServer:
        """Let the sentinels make another server the primary while the present one lives; returns the new one.

        The old one accepts writes, which are lost later, until the sentinels make it a replica.
        """
        old = await self.primary()
        await in_thread(self.sentinels[0].command, "SENTINEL", "FAILOVER", self.service_name)
        return await self.wait_for_other_primary(old)

    async def wait_for_other_primary(
        self,
        old: RedisServer,
        timeout: float | None = None,  # noqa: ASYNC109 - blocks a thread
    ) -> RedisServer:
        """Wait until all running sentinels call the same server but `old` the primary, and it is one."""
        await in_thread(
            wait_until,
            lambda: self._agreed_primary() not in (None, old),
            what="Another primary",
            timeout=timeout or START_TIMEOUT,
        )
        return await self.primary()

    # ---- starting

    def _start(self) -> None:
        if self._running is not None:
            return
        with ExitStack() as starting:
            primary, *replicas = self.servers
            starting.enter_context(primary)
            for replica in replicas:
                replica.config["replicaof"] = f"{primary.host} {primary.port}"
                starting.enter_context(replica)
            wait_until(
                lambda: all(replica.info("replication")["master_link_status"] == "up" for replica in replicas),
                what="The replicas' first synchronization",
                timeout=START_TIMEOUT,
            )
            for sentinel in self.sentinels:
                starting.enter_context(sentinel)
            self._wait_until_ready(START_TIMEOUT)
            self._running = starting.pop_all()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    # ---- looking inside

    def _wait_until_ready(self, timeout: float) -> None:
        wait_until(self._is_ready, what="Sentinels that agree", timeout=timeout)

    def _is_ready(self) -> bool:
        replicas = sum(server.running for server in self.servers) - 1
        sentinels = sum(sentinel.running for sentinel in self.sentinels) - 1
        if self._agreed_primary() is None:
            return False
        for sentinel in self.sentinels:
            if not sentinel.running:
                continue
            listed = [_fields(item) for item in self._ask(sentinel, "REPLICAS")]
            linked = [one for one in listed if one["flags"] == "slave" and one["master-link-status"] == "ok"]
            others = [_fields(item) for item in self._ask(sentinel, "SENTINELS")]
            if len(linked) < replicas or [one["flags"] for one in others].count("sentinel") < sentinels:
                return False
        return True

    def _agreed_primary(self) -> RedisServer | None:
        """The server that all running sentinels call a primary in good health and that is one."""
        ports: set[str] = set()
        for sentinel in self.sentinels:
            if sentinel.running:
                seen = _fields(self._ask(sentinel, "MASTER"))
                ports.add(seen["port"] if seen["flags"] == "master" else "")
        primary = next((server for server in self.servers if ports == {str(server.port)}), None)
        if primary is None or primary.info("replication")["role"] != "master":
            return None
        return primary

    def _primary(self) -> RedisServer:
        last: Exception | None = None
        for sentinel in self.sentinels:
            if sentinel.running:
                try:
                    _, port = self._ask(sentinel, "GET-MASTER-ADDR-BY-NAME")
                    return next(server for server in self.servers if server.port == int(port))
                except (OSError, CommandError) as error:
                    last = error
        raise ConnectionError("No sentinel answers.") from last

    def _ask(self, sentinel: Sentinel, question: str) -> Any:
        return sentinel.command("SENTINEL", question, self.service_name, timeout=PATIENCE)


def _fields(reply: Any) -> dict[str, str]:
    texts = [text.decode() for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
