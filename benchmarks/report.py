"""What a section found, as tables in Markdown, charts and data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.measure import Figures

DASH = "-"


@dataclass(slots=True)
class Table:
    """A table: its first column names the row, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table with its title above and its notes below."""
        lines = [
            f"**{self.title}**",
            "",
            line(self.columns),
            line(["---", *("---:" for _ in self.columns[1:])]),
            *(line(row) for row in self.rows),
        ]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join((*lines, ""))


@dataclass(slots=True)
class Report:
    """What a section found.

    Attributes:
        tables: For people.
        charts: SVG texts by file name.
        data: All figures, for JSON.
    """

    tables: list[Table] = field(default_factory=list)
    charts: dict[str, str] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)

    def add(self, section: str, found: Mapping[str, Figures], **cell: Any) -> None:
        """Keep the figures of a cell."""
        for label, each in found.items():
            self.data.append({"section": section, **cell, "subject": label, **dataclasses.asdict(each)})


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def digits(value: float) -> str:
    """A figure with two significant digits: runs differ by more than the third."""
    if not value:
        return "0"
    places = max(0, 1 - math.floor(math.log10(abs(value))))
    rounded = float(f"{value:.1e}")
    if rounded >= 10 ** (1 - places) * 10:  # 0.996 is 1.0, not 1.00
        places = max(0, places - 1)
    return f"{rounded:,.{places}f}"


def rate(found: Figures) -> str:
    """Operations a second."""
    return f"{digits(found.rate)}/s"


def times(found: Figures) -> str:
    """The ratio to the baseline, with its extremes over the rounds."""
    if found.ratio is None or found.low is None or found.high is None:
        return DASH
    return f"{digits(found.ratio)}x ({digits(found.low)}-{digits(found.high)})"


def milliseconds(value: float) -> str:
    """A latency."""
    return f"{digits(value)} ms"


def cost_table(operation: str, size: str, found: Mapping[str, Figures], in_flight: int = 64) -> Table:
    """Latency, CPU time on both sides and bytes on the wire."""
    table = Table(
        f"Cost of a {operation}, {size}, {in_flight} in flight",
        ["", "p50", "p99", "client CPU", "server CPU", "bytes sent", "bytes received"],
    )
    for label, cell in found.items():
        latency = [milliseconds(cell.p50), milliseconds(cell.p99)]
        cpu = [f"{digits(cell.client_cpu)} µs", f"{digits(cell.server_cpu)} µs"]
        table.rows.append([label, *latency, *cpu, digits(cell.sent), digits(cell.received)])
    return table
