"""What a section found, as tables in Markdown, charts and data."""

from __future__ import annotations

import dataclasses
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


def rate(found: Figures) -> str:
    """Operations a second."""
    return f"{found.rate:,.0f}/s"


def times(found: Figures) -> str:
    """The ratio to the baseline, with its extremes over the rounds."""
    if found.ratio is None:
        return DASH
    return f"{found.ratio:.2f}x ({found.low:.2f}-{found.high:.2f})"


def milliseconds(value: float) -> str:
    """A latency with three significant digits, roughly."""
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"
