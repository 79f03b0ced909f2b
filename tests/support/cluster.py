"""A Redis Cluster of one's own, its failovers and the migration of its slots."""

from __future__ import annotations

from binascii import crc_hqx
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from redis_state.testing import RedisServer
from redis_state.testing.ports import HOST
from redis_state.testing.startable import Startable, in_thread
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SLOTS = 16_384

# A node that is asked and may be frozen gets this long, in seconds.
PATIENCE = 0.5

# Until servers have come together, or have done what they were asked for, in seconds.
START_TIMEOUT = 30.0


class ClusterServers(Startable):
    """Cluster nodes on 127.0.0.1 with all slots in equal ranges, in order of `nodes`; ready after 2 to 3 seconds.

    Two of these seconds are a fixed delay in the server, before which a primary that has just started refuses.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        *,
        node_timeout: float = 1.5,
        require_full_coverage: bool = True,
        password: str | None = None,
        persistence: bool = False,
        config: Mapping[str, str | int | Sequence[str]] | None = None,
    ) -> None:
        self.password = password
        self._first_primaries = primaries
        self._running: ExitStack | None = None
        directives: dict[str, str | int | Sequence[str]] = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": round(node_timeout * 1000),
            "cluster-require-full-coverage": "yes" if require_full_coverage else "no",
            # A replica stands for election however long its primary has been away, and stays with its primary.
            "cluster-replica-validity-factor": 0,
            "cluster-migration-barrier": replicas + 1,
            # CLUSTER SLOTS of 7.0 leaves out a replica that was sent nothing yet: send it something soon.
            "repl-ping-replica-period": 1,
        }
        self.nodes = [
            RedisServer(
                password=password,
                persistence=persistence,
                config={**directives, **(config or {})},
            )
            for _ in range(primaries * (1 + replicas))
        ]

    # ---- where it is

    @property
    def addrs(self) -> list[str]:
        """`127.0.0.1:port` of every node."""
        return [node.addr for node in self.nodes]

    @property
    def url(self) -> str:
        """`redis+cluster://127.0.0.1:p1,127.0.0.1:p2`, with the password if there is one."""
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis+cluster://{credentials}{','.join(self.addrs)}"

    @property
    def primaries(self) -> list[RedisServer]:
        """The primaries that own slots now, in order of their slots, as the first node that answers sees them."""
        primaries: list[RedisServer] = []
        for _, _, ports in self._slots():
            if (primary := self._node(ports[0])) not in primaries:
                primaries.append(primary)
        return primaries

    def replicas_of(self, primary: RedisServer) -> list[RedisServer]:
        """The live replicas of `primary`, as the first node that answers sees them."""
        for _, _, ports in self._slots():
            if ports[0] == primary.port:
                return [self._node(port) for port in ports[1:]]
        return []

    def node_for_slot(self, slot: int) -> RedisServer:
        """The primary that owns `slot` now, as the first node that answers sees it."""
        for first, last, ports in self._slots():
            if first <= slot <= last:
                return self._node(ports[0])
        raise LookupError(f"No node owns slot {slot}.")

    def slot_of(self, key: str | bytes) -> int:
        """The slot of `key`: of what stands between its first braces, or of all of it."""
        name = key.encode() if isinstance(key, str) else key
        _, brace, rest = name.partition(b"{")
        tag, closing, _ = rest.partition(b"}")
        return crc_hqx(tag if brace and closing and tag else name, 0) % SLOTS

    # ---- changes

    async def wait_until_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - blocks a thread
        """Wait until all running nodes accept commands, agree about the slots and have their replicas in step."""
        await in_thread(self._wait_until_ready, timeout or START_TIMEOUT)

    async def failover(self, primary: RedisServer) -> RedisServer:
        """Let the first replica of `primary` take over without losing a write; returns it as all nodes know it."""
        return await in_thread(self._failover, primary)

    async def migrate_slot(self, slot: int, target: RedisServer) -> None:
        """Move `slot` with all its keys to `target`; nothing happens when it is there."""
        source = await in_thread(self.node_for_slot, slot)
        if source is target:
            return
        await self.begin_migration(slot, source, target)
        while keys := await in_thread(source.command, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            await self.migrate_keys(slot, source, target, keys)
        await self.finish_migration(slot, source, target)

    async def begin_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """From now on `source` answers ASK for keys of `slot` that it does not have, and TRYAGAIN for several
        of which it has some (ASK before 7.0).
        """
        await in_thread(target.command, "CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        await in_thread(source.command, "CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))

    async def migrate_keys(
        self, slot: int, source: RedisServer, target: RedisServer, keys: Iterable[str | bytes]
    ) -> None:
        """Move some `keys` of `slot` from `source` to `target`; those that do not exist are passed over."""
        wanted = list(keys)
        for key in wanted:
            if self.slot_of(key) != slot:
                raise ValueError(f"{key!r} is not in slot {slot}.")
        if wanted:
            auth = ("AUTH", self.password) if self.password is not None else ()
            moving = ("MIGRATE", HOST, target.port, "", 0, 5000, *auth, "KEYS", *wanted)
            await in_thread(source.command, *moving)

    async def finish_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Make `target` the owner of `slot` for all primaries; `source` must have no key of it left."""
        # In this order no node ever sends a client to one that does not know that it owns the slot.
        for node in dict.fromkeys([target, source, *await in_thread(lambda: self.primaries)]):
            await in_thread(node.command, "CLUSTER", "SETSLOT", slot, "NODE", _id(target))

    # ---- starting

    def _start(self) -> None:
        if self._running is not None:
            return
        with ExitStack() as starting:
            for node in self.nodes:
                starting.enter_context(node)
            self._form()
            self._running = starting.pop_all()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _form(self) -> None:
        count = self._first_primaries
        bounds = [SLOTS * i // count for i in range(count + 1)]
        for i, node in enumerate(self.nodes):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)  # different ones: no conflicts to be settled
            if i < count:
                node.command("CLUSTER", "ADDSLOTS", *range(bounds[i], bounds[i + 1]))
            for other in self.nodes[:i]:
                node.command("CLUSTER", "MEET", HOST, other.port)
        wait_until(self._all_met, what="The nodes' meeting", timeout=START_TIMEOUT)
        for i, node in enumerate(self.nodes[count:]):
            node.command("CLUSTER", "REPLICATE", _id(self.nodes[i % count]))
        self._wait_until_ready(START_TIMEOUT)

    def _all_met(self) -> bool:
        lists = [node.command("CLUSTER", "NODES").decode() for node in self.nodes]
        return all("handshake" not in text and text.count("\n") == len(self.nodes) for text in lists)

    def _wait_until_ready(self, timeout: float) -> None:
        wait_until(self._is_ready, what="A cluster that is ready", timeout=timeout)

    def _is_ready(self) -> bool:
        running = [node for node in self.nodes if node.running]
        states = [node.command("CLUSTER", "INFO", timeout=PATIENCE) for node in running]
        if not all(b"cluster_state:ok" in state for state in states):
            return False
        views = [_parsed_slots(node.command("CLUSTER", "SLOTS", timeout=PATIENCE)) for node in running]
        if any(view != views[0] for view in views):
            return False
        for node in running:
            replication = node.info("replication")
            if replication["role"] == "slave":
                primary = int(replication["master_port"])
                listed = any(ports[0] == primary and node.port in ports for _, _, ports in views[0])
                if not listed or replication["master_link_status"] != "up":
                    return False
        return True

    def _failover(self, primary: RedisServer) -> RedisServer:
        replicas = self.replicas_of(primary)
        if not replicas:
            raise LookupError(f"{primary} has no live replica.")
        replicas[0].command("CLUSTER", "FAILOVER")
        wait_until(
            lambda: replicas[0].info("replication")["role"] == "master" and self._is_ready(),
            what="The failover",
            timeout=START_TIMEOUT,
        )
        return replicas[0]

    # ---- looking inside

    def _slots(self) -> list[tuple[int, int, list[int]]]:
        return _parsed_slots(self._ask("CLUSTER", "SLOTS"))

    def _ask(self, *command: object) -> Any:
        """The reply of the first node that answers."""
        last: OSError | None = None
        for node in self.nodes:
            if node.running:
                try:
                    return node.command(*command, timeout=PATIENCE)
                except OSError as error:
                    last = error
        raise ConnectionError("No node of the cluster answers.") from last

    def _node(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)


def _id(node: RedisServer) -> str:
    return node.command("CLUSTER", "MYID").decode()


def _parsed_slots(reply: Any) -> list[tuple[int, int, list[int]]]:
    """Ranges with first and last slot and the ports of the primary and its replicas, from CLUSTER SLOTS."""
    ranges: list[tuple[int, int, list[int]]] = []
    for first, last, primary, *replicas in sorted(reply, key=lambda item: item[0]):
        ranges.append((first, last, [primary[1], *sorted(replica[1] for replica in replicas)]))
    return ranges
