"""What was to be reached, and what this run has reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.report import DASH, Table, digits
from benchmarks.sections.metrics import Recorded
from benchmarks.subjects.floor import Floor
from benchmarks.subjects.ours import Ours

if TYPE_CHECKING:
    from collections.abc import Sequence

TITLE = "Reached and aimed at"
NOTE = (
    "Rates are ratios to redis.asyncio in the same round, 64 in flight unless it says otherwise, 1.4 KB; the tables "
    "below show their extremes."
)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """A row: its name, what was found (None: not measured in this run), and what is to be reached.

    Attributes:
        row: What is compared.
        reached: What was found.
        aim: What is to be reached.
        unit: Written behind both.
        most: Whether the aim is a limit from above.
    """

    row: str
    reached: float | None
    aim: float
    unit: str = "x"
    most: bool = False

    def cells(self) -> list[str]:
        """The row of the table. It is judged by the figure that it shows."""
        aim = ("at most " if self.most else "") + f"{self.aim:g}{self.unit}"
        if self.reached is None:
            return [self.row, DASH, aim, DASH]
        shown = digits(self.reached)
        value = float(shown.replace(",", ""))
        met = value <= self.aim if self.most else value >= self.aim
        if met:
            return [self.row, shown + self.unit, aim, "yes"]
        missed = f", {abs(value - self.aim) / self.aim:.0%} off" if self.aim else ""
        return [self.row, shown + self.unit, aim, f"**no**{missed}"]


def table(figures: Sequence[Row]) -> Table:
    """All aims, from the figures of a run."""
    return Table(
        TITLE,
        ["", "reached", "aim", "met"],
        rows=[aim.cells() for aim in aims(figures)],
        notes=[NOTE],
    )


def aims(figures: Sequence[Row]) -> list[Aim]:
    """The rows, with what the figures say."""

    def find(field: str = "ratio", **cell: Any) -> Any:
        wanted = {"subject": Ours.label, "in_flight": 64, **cell}
        rows = [row for row in figures if all(row.get(name) == value for name, value in wanted.items())]
        return rows[0].get(field) if rows else None

    def counted(what: str) -> Row | None:
        return next((row for row in figures if row["section"] == "counts" and row["what"] == what), None)

    found: list[Aim] = []
    for operation, by_agents in (
        ("save", {100: 9.0, 20_000: 7.0, 100_000: 6.0}),
        ("load", {100: 6.0, 20_000: 5.0, 100_000: 4.5}),
    ):
        for agents, aim in by_agents.items():
            ratio = find(section="table", operation=operation, agents=agents)
            found.append(Aim(f"{operation}, {agents:,} agents", ratio, aim))
    one_agent = {"section": "table", "operation": "save", "agents": 1}
    found.append(Aim("save as a share of the bare protocol", share(find, one_agent), 0.7, ""))
    save, listing, append = (counted(what) for what in ("first save to an agent", "newest 10 of an agent", "append"))
    # What cleans the index belongs to no save in particular.
    commands = sum(round(n / save["calls"]) for n in save["commands"].values()) if save else None
    found.append(Aim("commands of a plain save to an agent that the process has not seen", commands, 4, "", most=True))
    for name, operation, sessions, by_callers in (
        ("newest 10 of an agent", "newest 10", 1_000, {1: 0.8, 64: 3.0}),
        ("newest 100 of 1,000", "newest 100", 1_000, {1: 0.7, 64: 1.2}),
        ("`load_many` of 1,000, to MGET and decode", "load_many", 1_000, {1: 0.95, 64: 0.95}),
    ):
        for in_flight, aim in by_callers.items():
            ratio = find(section="pages", operation=operation, sessions=sessions, in_flight=in_flight)
            found.append(Aim(f"{name}, {in_flight} in flight", ratio, aim))
    ratio = find(section="pages", operation="all ids", sessions=100_000, in_flight=1)
    found.append(Aim("all 100,000 ids, 1 in flight", 1 / ratio if ratio else None, 4, "x the time", most=True))
    infos = listing["commands"].get("info", 0) if listing else None
    found.append(Aim("INFO commands in 300 listings", infos, 0, "", most=True))
    for operation, aim in (("save", 0.8), ("load", 0.75)):
        ratio = find(section="metrics", operation=operation, subject=Recorded.label)
        found.append(Aim(f"{operation} with an SDK recording, to without", ratio, aim))
    memory = append["message_bytes"] if append else None
    found.append(Aim("an appended message of about 90 characters, Redis memory", memory, 224, " B", most=True))
    return found


def share(find: Any, cell: Row) -> float | None:
    """The rate as a share of the bare protocol's."""
    ours, floor = find("rate", **cell), find("rate", **cell, subject=Floor.label)
    return ours / floor if ours and floor else None
