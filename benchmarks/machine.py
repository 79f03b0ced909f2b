"""Where a run took place, as far as it matters for its figures."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "redis-state",
    "redis",
    "hiredis",
    "msgspec",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "uvloop",
    "aiogram",
    "py-key-value-aio",
    "openai-agents",
    "valkey-glide",
    "coredis",
)


def describe(server_version: str) -> dict[str, Any]:
    """Versions and hardware."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "redis": server_version,
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "optimized": bool(sys.flags.optimize),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
