"""Free ports on the loopback interface."""

from __future__ import annotations

import random
import socket

__all__ = ["BUS_OFFSET", "HOST", "free_port"]

HOST = "127.0.0.1"

# A cluster node's bus listens on its port plus this.
BUS_OFFSET = 10_000

# Clients' own ports start at 32768 on Linux, and the buses of these ports end below: nobody is given a port
# of either range by chance, and no client can connect to itself while a server is down.
PORTS = range(10_000, 20_000)


def free_port(*, bus: bool = False) -> int:
    """A port that nobody listens on now; with `bus`, the cluster bus port that belongs to it is free as well.

    Somebody else can take it before its server does, so the caller is ready to ask again.
    """
    for _ in range(1_000):
        port = random.choice(PORTS)
        if _is_free(port) and (not bus or _is_free(port + BUS_OFFSET)):
            return port
    raise OSError(f"No free port was found between {PORTS.start} and {PORTS.stop}.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
