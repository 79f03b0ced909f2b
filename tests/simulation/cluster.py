"""A cluster: which node holds which slot, and slots that move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.crc import key_slot

from .keyspace import Error, Reply, Status

if TYPE_CHECKING:
    from .faults import Dice
    from .loop import VirtualLoop
    from .server import Node

SLOTS: Final = 48  # instead of 16,384, which redis-py counts one by one whenever it learns the map


class Cluster:
    """What all nodes of a cluster believe about its slots. A change is known to its two nodes at once, to others later.

    All of its state:
        owners: the node that holds each range of slots; ranges as pairs of first and last.
        moved: slots that another node holds than their range; None: no node does.
        unserved: who will hold the slots again that no node serves.
        migrating: slots on the move, with source and target.
    """

    def __init__(self, loop: VirtualLoop, dice: Dice, primaries: list[Node]) -> None:
        self.loop = loop
        self.dice = dice
        size = SLOTS // len(primaries)
        self.ranges: list[tuple[int, int, Node]] = [
            (number * size, SLOTS - 1 if number == len(primaries) - 1 else (number + 1) * size - 1, node)
            for number, node in enumerate(primaries)
        ]
        self.nodes = list(primaries)
        self.moved: dict[int, Node | None] = {}
        self.unserved: dict[int, Node] = {}
        self.migrating: dict[int, tuple[Node, Node]] = {}
        for node in primaries:
            node.cluster = self

    def owner(self, slot: int) -> Node | None:
        """The node that holds a slot."""
        if slot in self.moved:
            return self.moved[slot]
        return next(node for first, last, node in self.ranges if first <= slot <= last)

    def redirect(self, node: Node, keys: list[bytes], *, asking: bool) -> str | None:
        """The error for a request that this node does not serve."""
        if not keys:
            return None
        slots = {key_slot(key) for key in keys}
        if len(slots) > 1:
            return "CROSSSLOT Keys in request don't hash to the same slot"
        slot = slots.pop()
        owner = self.owner(slot)
        if owner is None:
            self.dice.note("unserved_slot")
            return "CLUSTERDOWN Hash slot not served"
        if owner is not node and not (asking and node is self.migrating.get(slot, (None, None))[1]):
            self.dice.note("moved")
            return f"MOVED {slot} {owner.host}:{owner.port}"
        return self._on_the_move(node, slot, keys)

    def _on_the_move(self, node: Node, slot: int, keys: list[bytes]) -> str | None:
        """The error where keys of a slot that moves are not all at this node."""
        missing = [key for key in keys if slot in self.migrating and not node.keyspace.has(key)]
        if not missing:
            return None
        source, target = self.migrating[slot]
        is_some = len(missing) < len(keys) if node is source else len(set(keys)) > 1
        if is_some:
            self.dice.note("tryagain")
            return "TRYAGAIN Multiple keys request during rehashing of slot"
        if node is target:
            return None
        self.dice.note("ask")
        return f"ASK {slot} {target.host}:{target.port}"

    def answer(self, node: Node, request: list[bytes]) -> Reply:
        """The reply to CLUSTER."""
        if request[1].upper() != b"SLOTS":
            return Error("ERR unknown subcommand") if request[1].upper() != b"RESET" else Status(b"OK")
        reply: list[Any] = []
        for first, last, owner in self.ranges:
            cuts = sorted(slot for slot in self.moved if first <= slot <= last)
            start = first
            for slot in cuts:
                if start < slot:
                    reply.append(_range(start, slot - 1, owner))
                holder = self.moved[slot]
                if holder is not None:
                    reply.append(_range(slot, slot, holder))
                start = slot + 1
            if start <= last:
                reply.append(_range(start, last, owner))
        return reply

    def replace(self, old: Node, new: Node) -> None:
        """Let a node hold what another held."""
        self.ranges = [(first, last, new if node is old else node) for first, last, node in self.ranges]
        self.moved = {slot: new if node is old else node for slot, node in self.moved.items()}
        self.unserved = {slot: new if node is old else node for slot, node in self.unserved.items()}
        self.migrating = {
            slot: (new if source is old else source, new if target is old else target)
            for slot, (source, target) in self.migrating.items()
        }

    def migrate(self, slot: int, target: Node, pause: float) -> None:
        """Move a slot to another node, a key at a time."""
        source = self.owner(slot)
        if source is None or source is target or slot in self.migrating:
            return
        self.dice.note("migration", f"{slot} from {source} to {target}")
        self.migrating[slot] = (source, target)
        self.loop.happen(self.loop.time() + pause, lambda: self._move_key(slot, pause))

    def _move_key(self, slot: int, pause: float) -> None:
        if slot not in self.migrating:
            return
        source, target = self.migrating[slot]
        keys = [key for key in source.keyspace.all_keys() if key_slot(key) == slot]
        if keys:
            key = self.dice.rng.choice(sorted(keys))
            target.take_over(source, key)
            self.loop.happen(self.loop.time() + pause, lambda: self._move_key(slot, pause))
        else:
            del self.migrating[slot]
            self.moved[slot] = target
            self.dice.say(f"slot {slot} is at {target}")

    def unserve(self, slot: int, seconds: float) -> None:
        """Let no node hold a slot for a while."""
        holder = self.owner(slot)
        if holder is None or slot in self.migrating:
            return
        self.dice.say(f"slot {slot} is not served for {seconds}")
        self.moved[slot] = None
        self.unserved[slot] = holder
        self.loop.happen(self.loop.time() + seconds, lambda: self.serve(slot))

    def serve(self, slot: int) -> None:
        """Let the node serve a slot again that held it."""
        if slot in self.unserved:
            self.moved[slot] = self.unserved.pop(slot)


def _range(first: int, last: int, node: Node) -> list[Any]:
    nodes = [node, *node.replicas]
    return [first, last, *([each.host.encode(), each.port, f"{each.port:040}".encode()] for each in nodes)]
