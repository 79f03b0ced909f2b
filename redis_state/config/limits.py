"""How long things may take, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass

from redis_state.checks import check


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, and counts.

    Attributes:
        dial_timeout: For opening a connection, TLS and authentication included.
        read_timeout: How long a server may owe a reply in silence before its connection is given up.
        write_timeout: What is added to it while something is still being written.
        pool_size: Connections to one server at most.
        replicas: How many replicas must confirm a write.
    """

    dial_timeout: float = 5.0
    read_timeout: float = 3.0
    write_timeout: float = 3.0
    pool_size: int = 10
    replicas: int = 0

    def __post_init__(self) -> None:
        """Validate."""
        for name in self.__slots__:
            check(name, getattr(self, name))

    @property
    def budget(self) -> float:
        """How long one operation may take, from the call to the result, retries included."""
        return self.read_timeout + self.write_timeout
