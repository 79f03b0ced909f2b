"""What may go wrong, how often, and what has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import random

Topology = Literal["standalone", "cluster", "sentinel"]


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Every fault with its probability: for each request, each chunk of bytes, each operation or each run.

    Attributes:
        split: A chunk: bytes are split somewhere.
        cut_in_request: A write: the connection breaks when a part of it has come.
        cut_before_execution: A request: the connection breaks before it is executed.
        cut_before_reply: A request: it is executed, and nothing of the reply is sent.
        cut_in_reply: A request: a part of the reply is sent.
        cut_after_reply: A request: the reply is sent, and the connection breaks.
        stall: A chunk: it comes much later, and what follows on the connection too.
        refused_connect: A connect: nobody listens.
        silent_connect: A connect: nobody answers.
        refusal: A request: OOM, BUSY, NOREPLICAS, READONLY, LOADING or TRYAGAIN, for it alone.
        script_flush: A request: the server forgets its scripts.
        cancel: An operation: its caller is cancelled at some turn of the loop.
        large: A write: the state has 200 to 400 KB.
        freeze: An operation: the loop runs nothing for a while.
        refusing_period: A run: the server refuses everything for a while with one of these codes.
        stopped_server: A run: a server reads nothing for a while.
        restart: A run: a server loses its connections and loads for a while.
        failover: A run: a replica takes over from a primary that is gone.
        planned_failover: A run: a replica takes over from a primary that is told so.
        lag: A write: the replicas get it much later.
        migration: A run: a slot moves to another node, a key at a time (MOVED, ASK, TRYAGAIN).
        unserved_slot: A run: no node serves a slot for a while.
        close: A run: the store is closed while operations are running.
        outage: A run: no server can be reached when the store is used for the first time.
    """

    split: float = 0.1
    cut_in_request: float = 0.02
    cut_before_execution: float = 0.02
    cut_before_reply: float = 0.03
    cut_in_reply: float = 0.02
    cut_after_reply: float = 0.02
    stall: float = 0.01
    refused_connect: float = 0.1
    silent_connect: float = 0.05
    refusal: float = 0.05
    script_flush: float = 0.05
    cancel: float = 0.1
    large: float = 0.1
    freeze: float = 0.02
    refusing_period: float = 0.3
    stopped_server: float = 0.3
    restart: float = 0.3
    failover: float = 0.4
    planned_failover: float = 0.4
    lag: float = 0.2
    migration: float = 0.5
    unserved_slot: float = 0.4
    close: float = 0.3
    outage: float = 0.1


NONE: Final = replace(Faults(), **{field.name: 0.0 for field in fields(Faults)})


CALM: Final = replace(NONE, planned_failover=1.0, split=0.1, cancel=0.1, large=0.1)


def draw(rng: random.Random, topology: Topology) -> Faults:
    """A subset of the faults: with few at a time, each shows what others would hide.

    Of Sentinels, some runs have a planned failover and nothing else: then no acknowledged write may be lost.
    """
    if topology == "sentinel" and rng.random() < 0.2:
        return CALM
    share = rng.choice((0.0, 0.15, 0.3, 0.6, 1.0))
    scale = rng.choice((0.3, 1.0, 1.0, 2.0))
    return Faults(
        **{
            field.name: min(0.9, getattr(Faults(), field.name) * scale) if rng.random() < share else 0.0
            for field in fields(Faults)
        }
    )


class Dice:
    """Decides whether a fault happens, and counts those that did.

    Args:
        faults: The probabilities.
        rng: Draws.
    """

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self.faults = faults
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self.clock: object = None
        self.healed = False

    def happens(self, fault: str) -> bool:
        """Draw for one fault."""
        probability: float = getattr(self.faults, fault)
        return probability > 0 and self.rng.random() < probability

    def note(self, fault: str, what: str = "") -> None:
        """Count what really happened."""
        self.counts[fault] += 1
        self.say(f"{fault} {what}")

    def say(self, what: str) -> None:
        """Add a line to the trace."""
        now = self.clock() if callable(self.clock) else 0.0
        self.trace.append(f"{now:.5f} {what}")

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self.faults = NONE
        self.healed = True
