"""Random ids, jitter and time, handed in, so that a seed replays exactly."""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import redis.asyncio.cluster
from redis.crc import key_slot

from .cluster import SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .loop import VirtualLoop

_EPOCH: Final = 1_750_000_000.0  # when the virtual clock began, in seconds since 1970
_REPLACED: Final = ("redis_state", "redis.", "fakeredis", "opentelemetry")
_version = lru_cache(metadata.version)
_OF_A_WORKER: Final = ("random", "randbytes", "getrandbits", "randint", "randrange", "uniform", "choice", "shuffle")
_found: dict[Callable[..., Any], list[tuple[Any, str]]] = {}

# What `random` draws from for the running code: workers are processes, and each has its own.
worker: ContextVar[random.Random] = ContextVar("worker")


@contextmanager
def sources(seed: int, loop: VirtualLoop) -> Generator[None]:
    """Draw all that is random from the seed, and read all clocks from the loop."""
    entropy = random.Random(seed ^ 0x5EED)
    start = loop.time()

    def now() -> float:
        return _EPOCH + loop.time() - start

    replacements: dict[Any, Any] = {
        os.urandom: entropy.randbytes,
        time.time: now,
        time.time_ns: lambda: int(now() * 1e9),
        time.monotonic: loop.time,
        time.perf_counter: loop.time,
    }
    # Neither changes what happens: redis-py looks for its own version for each client, and at each slot of a map.
    replacements[metadata.version] = _version
    patches = [
        mock.patch.object(random, "_urandom", entropy.randbytes),
        mock.patch.object(redis.asyncio.cluster, "REDIS_CLUSTER_HASH_SLOTS", SLOTS),
        mock.patch.object(key_slot, "__defaults__", (SLOTS,)),
    ]
    patches += [mock.patch.object(random, name, _of_worker(name)) for name in _OF_A_WORKER]
    token = worker.set(random.Random(seed))
    patches += [
        mock.patch.object(module, name, replacement)
        for original, replacement in replacements.items()
        for module, name in _places(original)
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in reversed(patches):
            patch.stop()
        worker.reset(token)


def _of_worker(name: str) -> Callable[..., Any]:
    def draw(*args: Any, **kwargs: Any) -> Any:
        return getattr(worker.get(), name)(*args, **kwargs)

    return draw


def _places(original: Any) -> list[tuple[Any, str]]:
    """Where a function of the standard library is used: its own module, and what has imported it by name."""
    if original not in _found:
        home: Any = sys.modules["os" if original.__module__ == "posix" else original.__module__]
        _found[original] = [(home, original.__name__)] + [
            (module, name)
            for title, module in list(sys.modules.items())
            if title.startswith(_REPLACED)
            for name, value in list(vars(module).items())
            if value is original
        ]
    return _found[original]
