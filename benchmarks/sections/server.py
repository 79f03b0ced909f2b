"""The server's own limit, by the tool that comes with Redis."""

from __future__ import annotations

import csv
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks.report import Report, Table, digits

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Settings

TITLE = "The server's own limit"
BYTES = {"0.2 KB": 200, "1.4 KB": 1400, "20 KB": 20_000}
CLIENTS = 64
PIPELINES = (1, 64)
TOOLS = ("redis-benchmark", "valkey-benchmark")


def steps(_: Settings) -> int:
    """Progress steps."""
    return len(BYTES) * len(PIPELINES)


def run(bench: Bench) -> Report:
    """Measure, where the tool is installed."""
    table = Table(
        f"{TITLE}: {TOOLS[0]}, {CLIENTS} connections",
        ["", *(f"{command}, pipeline of {depth}" for depth in PIPELINES for command in ("SET", "GET"))],
    )
    report = Report(tables=[table])
    tool = next((path for name in TOOLS if (path := shutil.which(name))), None)
    if tool is None:
        table.notes.append("redis-benchmark is not installed.")
        return report
    for size, length in BYTES.items():
        row = [size]
        for depth in PIPELINES:
            requests = (20_000 if bench.settings.quick else 100_000) * (2 if depth > 1 else 1)
            rates = benchmark(tool, bench.url, length, depth, requests if length < 10_000 else requests // 4)
            row += [f"{digits(rates['SET'])}/s", f"{digits(rates['GET'])}/s"]
            report.data.append({"section": "server", "size": size, "pipeline": depth, "rates": rates})
            bench.step(f"{TOOLS[0]}, {size}, pipeline of {depth}")
        table.rows.append(row)
    bench.meter.clear()
    table.notes.append("SET and GET alone, nothing is decoded; the tool is written in C and has a core of its own.")
    return report


def benchmark(tool: str, url: str, length: int, depth: int, requests: int) -> dict[str, float]:
    """Requests a second of SET and GET."""
    address = urlsplit(url)
    command = [tool, "-h", str(address.hostname), "-p", str(address.port), "-t", "set,get", "--csv", "-r", "1000"]
    command += ["-c", str(CLIENTS), "-d", str(length), "-n", str(requests), "-P", str(depth)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    return {row["test"]: float(row["rps"]) for row in csv.DictReader(output.splitlines())}
