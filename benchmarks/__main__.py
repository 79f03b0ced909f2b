"""Run the suite: `python -m benchmarks [--quick] [--only NAME ...] [--seed N] [--out DIR]`."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import benchmarks
from benchmarks.bench import Bench, Settings
from benchmarks.machine import describe
from benchmarks.measure import Meter
from benchmarks.payloads import sizes
from benchmarks.sections import aims
from redis_state.testing import RedisServer

if TYPE_CHECKING:
    from benchmarks.report import Report

SECTIONS = {
    "table": "benchmarks.sections.table",
    "peers": "benchmarks.sections.peers",
    "distance": "benchmarks.sections.distance",
    "listing": "benchmarks.sections.listing",
    "pages": "benchmarks.sections.pages",
    "extras": "benchmarks.sections.extras",
    "conversation": "benchmarks.sections.conversation",
    "counts": "benchmarks.sections.counts",
    "memory": "benchmarks.sections.memory",
    "uvloop": "benchmarks.sections.loops",
    "metrics": "benchmarks.sections.metrics",
    "cluster": "benchmarks.sections.cluster",
    "server": "benchmarks.sections.server",
}
RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Measure the chosen sections, print their tables and write tables, charts and data."""
    options = arguments()
    whole = not options.quick and not options.only
    out: Path = options.out or (RESULTS if whole else RESULTS / "partial")
    settings = Settings(
        quick=options.quick,
        seed=options.seed,
        rounds=2 if options.quick else 5,
        seconds=0.05 if options.quick else 0.1,
    )
    console = Console(stderr=True)
    names = [name for name in SECTIONS if not options.only or name in options.only]
    began = time.monotonic()
    with console.status("Importing the peers"):
        sections: dict[str, Any] = {name: importlib.import_module(SECTIONS[name]) for name in names}
    # What is imported stays: a collection between two regions need not look at it.
    gc.collect()
    gc.freeze()
    with RedisServer() as redis_server, Progress(*columns(), console=console) as progress:
        meter = Meter([redis_server.url])
        bench = Bench(settings, redis_server.url, meter, sizes(settings.seed, quick=settings.quick), lambda _: None)
        reports = {name: measure(name, section, bench, progress) for name, section in sections.items()}
        meter.close()
        machine = describe(".".join(map(str, redis_server.version)))
    run = {
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(time.monotonic() - began),
        "quick": settings.quick,
        "seed": settings.seed,
        "machine": machine,
        "payload_bytes": {name: payload.encoded_size() for name, payload in sizes(settings.seed).items()},
    }
    write(out, run, {sections[name].TITLE: report for name, report in reports.items()})
    print((out / "results.md").read_text())
    console.print(f"Took {run['seconds']} s; tables, charts and data are in {out}.")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("--quick", action="store_true", help="a look in about two minutes, not a measurement")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", help=f"some of: {', '.join(SECTIONS)}")
    parser.add_argument("--seed", type=int, default=1, help="what the payloads are made from (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        help="where to write (default: benchmarks/results, its folder `partial` with --quick or --only)",
    )
    return parser.parse_args()


def columns() -> tuple[Any, ...]:
    """The parts of the progress bar."""
    return (
        TextColumn("{task.fields[section]:<13}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )


def measure(name: str, section: Any, bench: Bench, progress: Progress) -> Report:
    """Run one section under a line of the progress bar."""
    steps = section.steps(bench.settings)
    task = progress.add_task("", total=steps, section=name)

    def step(what: str) -> None:
        progress.update(task, advance=1, description=what)

    report = section.run(dataclasses.replace(bench, step=step))
    progress.update(task, completed=steps, description="done")
    progress.refresh()
    return report


def write(out: Path, run: dict[str, Any], reports: dict[str, Report]) -> None:
    """One JSON, one page of tables, one file for each chart; `reports` are by title."""
    out.mkdir(parents=True, exist_ok=True)
    figures = [row for report in reports.values() for row in report.data]
    (out / "results.json").write_text(json.dumps({**run, "figures": figures}, indent=1) + "\n")
    page = [heading(run), aims.table(figures).markdown()]
    for title, report in reports.items():
        page += [f"## {title}", ""]
        page += [each.markdown() for each in report.tables]
        for file, svg in report.charts.items():
            (out / file).write_text(svg)
            page += [f"![{file.removesuffix('.svg')}]({file})", ""]
    (out / "results.md").write_text("\n".join(page))


def heading(run: dict[str, Any]) -> str:
    """Where and with what the figures were made."""
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return "\n".join(
        (
            f"# Benchmarks, {run['date']}" + (" (--quick: a look, not a measurement)" if run["quick"] else ""),
            "",
            f"{machine['cpu']}, {machine['cores']} cores for client and server together, {machine['system']}.",
            f"{machine['python']}, Redis {machine['redis']}; {versions}.",
            f"Payloads from seed {run['seed']}. The run took {run['seconds']} s.",
            "",
            "Rates count operations whose results were read back and checked, over the timed region.",
            "A ratio is to redis.asyncio in the same round: the median of the rounds (lowest-highest).",
            "Figures have two significant digits; `results.json` has all of them.",
            "",
        )
    )


if __name__ == "__main__":
    main()
