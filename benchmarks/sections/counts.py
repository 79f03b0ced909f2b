"""What is counted instead of timed: the commands of an operation, and the memory of an appended message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.report import Report, Table, digits
from benchmarks.subjects.ours import Ours
from benchmarks.subjects.plain import turn
from redis_state import AgentState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.bench import Bench, Settings

TITLE = "What is counted"
SIZE = "1.4 KB"
SAVES = 100
LISTINGS = 300
APPENDS = 1_000


def steps(_: Settings) -> int:
    """Progress steps."""
    return 4


def run(bench: Bench) -> Report:
    """Count."""
    return asyncio.run(count(bench))


async def count(bench: Bench) -> Report:
    """The commands of calls, by INFO commandstats, and the bytes of appends, by MEMORY USAGE."""
    report = Report()
    bench.meter.clear()
    # The first agent opens the connection; the others are new to the process.
    subject = Ours(bench.url, bench.payloads[SIZE].states(SAVES + 1, agents=SAVES + 1))
    await subject.open()
    await subject.save(SAVES)
    await subject.list(10)
    table = Table(f"Commands of {Ours.label}", ["", "commands a call", "which", "INFO"])
    plan: tuple[tuple[str, int, Callable[[int], Awaitable[object]]], ...] = (
        ("first save to an agent", SAVES, subject.save),
        ("load", SAVES, subject.load),
        ("newest 10 of an agent", LISTINGS, lambda _: subject.list(10)),
    )
    for name, calls, call in plan:
        commands = await sent(bench, call, calls)
        each = sum(commands.values()) / calls
        which = ", ".join(f"{command.upper()} {digits(n / calls)}" for command, n in commands.items())
        table.rows.append([f"{name}, {calls} calls", digits(each), which, str(commands.get("info", 0))])
        report.data.append({"section": "counts", "what": name, "calls": calls, "commands": commands})
        bench.step(name)
    table.notes.append(
        "The server's count, with what a script calls; a page of an index is cleaned after so many saves."
    )
    await subject.close()
    report.tables += [table, await appended(bench, report)]
    bench.meter.clear()
    return report


async def sent(bench: Bench, call: Callable[[int], Awaitable[object]], calls: int) -> dict[str, int]:
    """How often the server carried out each command during the calls, one after the other."""
    (server,) = bench.meter.servers
    server.config_resetstat()
    for i in range(calls):
        await call(i)
    stats: dict[str, Any] = server.info("commandstats")
    found = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}
    return {name: n for name, n in found.items() if not name.startswith("config")}


async def appended(bench: Bench, report: Report) -> Table:
    """Redis memory and text of a message, over a thousand appends to a session without messages."""
    bench.meter.clear()
    subject = Ours(bench.url, [AgentState(agent_id="agent-0", session_id="session-000000")])
    await subject.open()
    await subject.save(0)
    memory, text = bench.meter.memory(), bench.meter.text()
    for _ in range(APPENDS):
        await subject.append(0)
    memory, text = (bench.meter.memory() - memory) / APPENDS, (bench.meter.text() - text) / APPENDS
    if len(await subject.load(0)) != APPENDS:
        raise RuntimeError("messages are missing")
    await subject.close()
    bench.step("appends")
    row = {"section": "counts", "what": "append", "calls": APPENDS, "message_bytes": memory, "text_bytes": text}
    report.data.append(row)
    content = len(turn(0).content)
    plain = len(msgspec.json.encode(turn(0)))
    return Table(
        f"Redis memory of an appended message of {content} characters, {APPENDS:,} appends",
        ["", "bytes a message"],
        rows=[
            ["MEMORY USAGE", f"{digits(memory)} B"],
            ["stored text", f"{digits(text)} B"],
            ["the message as JSON", f"{digits(plain)} B"],
        ],
    )
