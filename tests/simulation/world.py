"""The servers of one run, and what befalls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.crc import key_slot

from .cluster import Cluster
from .faults import CALM
from .network import Network
from .sentinel import SERVICE, Sentinel
from .server import Node

if TYPE_CHECKING:
    from .faults import Dice, Topology
    from .loop import VirtualLoop


class World:
    """Standalone with a replica, a cluster of three with a replica each, or a primary, its replica and three Sentinels.

    All of its state:
        primaries: the nodes that take writes.
        nodes: all nodes, replicas included.
        has_lost: whether a failover may have lost writes.
    """

    def __init__(self, loop: VirtualLoop, dice: Dice, topology: Topology) -> None:
        self.loop = loop
        self.dice = dice
        self.topology: Topology = topology
        self.network = Network(loop, dice)
        loop.network = self.network
        count = 3 if topology == "cluster" else 1
        self.primaries = [self._node(7000 + number) for number in range(count)]
        self.nodes = list(self.primaries)
        self.sentinels: list[Sentinel] = []
        self.has_lost = False
        self._busy = False  # one failover at a time
        for primary in self.primaries:
            replica = self._node(primary.port + 100)
            self.nodes.append(replica)
            replica.primary = primary
            primary.replicas.append(replica)
        self.cluster = Cluster(loop, dice, self.primaries) if topology == "cluster" else None
        for node in self.nodes:
            node.cluster = self.cluster
        if topology == "sentinel":
            self.sentinels = [Sentinel(loop, dice, 26379 + number, self.primaries[0]) for number in range(3)]
            for sentinel in self.sentinels:
                sentinel.others = [each for each in self.sentinels if each is not sentinel]
                self.network.listeners[sentinel.host, sentinel.port] = sentinel

    def _node(self, port: int) -> Node:
        node = Node(self.loop, self.dice, "127.0.0.1", port)
        self.network.listeners[node.host, port] = node
        return node

    @property
    def url(self) -> str:
        """What a store is opened with."""
        if self.topology == "cluster":
            return "redis+cluster://127.0.0.1:7000,127.0.0.1:7001"
        if self.topology == "sentinel":
            return f"redis+sentinel://127.0.0.1:26379,127.0.0.1:26380/{SERVICE}"
        return "redis://127.0.0.1:7000"

    @property
    def routes_asked(self) -> list[float]:
        """When a node was asked for the slot map or a Sentinel for the primary."""
        return sorted(when for node in (*self.nodes, *self.sentinels) for when in node.asked)

    def is_durable(self, token: bytes) -> bool:
        """Whether a replica has this write, or a primary that was one."""
        for node in self.nodes:
            node.catch_up()
            if token in node.durable:
                return True
        return False

    # What befalls servers

    def plan(self, seconds: float, keys: list[bytes]) -> None:
        """Draw what happens to the servers within so many seconds."""
        dice, rng = self.dice, self.dice.rng
        plans = [
            ("refusing_period", self._refuse),
            ("stopped_server", self._stop),
            ("restart", self._restart),
        ]
        if self.topology != "standalone":
            plans += [("failover", self._fail_over), ("planned_failover", self._plan_failover)]
        if self.cluster is not None:
            plans += [("migration", lambda: self._migrate(keys)), ("unserved_slot", lambda: self._unserve(keys))]
        for fault, happen in plans:
            if dice.happens(fault):
                when = self.loop.time() + rng.choice((rng.random() * 0.05, rng.random() * seconds))
                if dice.faults == CALM:
                    when = self.loop.time() + 1.0 + rng.random() * 2  # every Sentinel is listened to by then
                self.loop.happen(when, lambda happen=happen: None if dice.healed else happen())
        if dice.happens("outage"):
            dice.note("outage")
            self.network.closed = True
            self.loop.happen(self.loop.time() + rng.choice((0.01, 0.5, 3.0)), self._open)

    def _open(self) -> None:
        self.network.closed = False

    def _refuse(self) -> None:
        rng = self.dice.rng
        code = rng.choice(("OOM", "BUSY", "NOREPLICAS", "READONLY", "LOADING", "MASTERDOWN"))
        node = rng.choice(self.primaries)
        node.refusing = (code, self.loop.time() + rng.choice((0.02, 0.3, 4.0)))
        self.dice.say(f"{node} refuses with {code}")

    def _stop(self) -> None:
        node = self.dice.rng.choice([*self.primaries, *self.sentinels])
        self.dice.note("stopped_server", str(node))
        node.stopped = True
        self.loop.happen(self.loop.time() + self.dice.rng.choice((0.05, 0.5, 4.0)), node.resume)

    def _restart(self) -> None:
        node = self.dice.rng.choice(self.primaries)
        if node.stopped:
            return
        self.dice.note("restart", str(node))
        node.keyspace.forget_scripts()
        node.drop_connections()
        node.down = True
        seconds = self.dice.rng.choice((0.01, 0.3, 2.0))
        self.loop.happen(self.loop.time() + seconds, lambda: self._load(node))

    def _load(self, node: Node) -> None:
        node.down = False
        node.refusing = ("LOADING", self.loop.time() + self.dice.rng.choice((0.01, 0.2, 1.0)))

    def _fail_over(self) -> None:
        """A primary is gone; after a while its replica takes over; the old one comes back as a replica."""
        old = self.dice.rng.choice(self.primaries)
        if self._busy or not old.replicas or old.stopped or old.down:
            return
        self._busy = True
        self.dice.note("failover", str(old))
        new = old.replicas[0]
        frozen = self.loop.time()
        old.down = True
        old.drop_connections()
        new.behind = type(new.behind)(each for each in new.behind if each[0] <= frozen)
        rng = self.dice.rng
        gone = rng.choice((0.05, 0.5, 1.5))
        if self.sentinels:
            leader = self.sentinels[0]
            self.loop.happen(self.loop.time() + gone * 0.9, lambda: leader.publish("+try-failover", self._who(old)))
        self.loop.happen(self.loop.time() + gone, lambda: self._switch(old, new, complete=False))
        self.loop.happen(self.loop.time() + gone + rng.choice((0.3, 2.0)), lambda: self._return(old, new))

    def _who(self, node: Node) -> str:
        return f"master {SERVICE} {node.host} {node.port}"

    def _switch(self, old: Node, new: Node, *, complete: bool) -> None:
        if new.primary is not old:
            return
        self.has_lost = self.has_lost or not complete
        new.promote(complete=complete)
        self.primaries[self.primaries.index(old)] = new
        if self.cluster is not None:
            self.cluster.replace(old, new)
        for sentinel in self.sentinels:
            later = self.loop.time() + self.dice.rng.choice((0.01, 0.1, 0.4))
            self.loop.happen(later, lambda sentinel=sentinel: sentinel.name(new))

    def _return(self, old: Node, new: Node) -> None:
        old.down = False
        old.keyspace.forget_scripts()
        old.follow(new)
        self._busy = False

    def _plan_failover(self) -> None:
        """A primary is told to hand over. A cluster's loses nothing; a Sentinel's takes writes that are lost."""
        old = self.dice.rng.choice(self.primaries)
        if self._busy or not old.replicas or old.stopped or old.down:
            return
        self._busy = True
        self.dice.note("planned_failover", str(old))
        new = old.replicas[0]
        rng = self.dice.rng
        if self.cluster is not None:
            self._switch(old, new, complete=True)
            old.follow(new)
            self._busy = False
            return
        leader = rng.choice(self.sentinels)
        leader.publish("+try-failover", self._who(old))
        took_over = rng.choice((0.1, 0.5, 1.0))
        is_calm = self.dice.faults == CALM  # then the replica has all that was written before the store knew of it
        self.loop.happen(self.loop.time() + took_over, lambda: self._switch(old, new, complete=is_calm))
        demoted = took_over + rng.choice((0.5, 1.0))
        self.loop.happen(self.loop.time() + demoted, lambda: self._demote(old, new))

    def _demote(self, old: Node, new: Node) -> None:
        old.follow(new)
        old.drop_connections()
        self._busy = False

    def _migrate(self, keys: list[bytes]) -> None:
        assert self.cluster is not None
        rng = self.dice.rng
        self.cluster.migrate(key_slot(rng.choice(keys)), rng.choice(self.primaries), rng.choice((0.005, 0.1, 0.5)))

    def _unserve(self, keys: list[bytes]) -> None:
        assert self.cluster is not None
        rng = self.dice.rng
        self.cluster.unserve(key_slot(rng.choice(keys)), rng.choice((0.2, 1.0, 30.0)))

    def heal(self) -> None:
        """Let nothing go wrong any more: every server is up and serves."""
        self.dice.heal()
        self._open()
        for node in (*self.nodes, *self.sentinels):
            node.refusing = ("", 0.0)
            node.resume()
            if node in self.primaries and not self._busy:
                node.down = False
        if self.cluster is not None:
            for slot in list(self.cluster.unserved):
                self.cluster.serve(slot)
