"""What sections share: the server, the payloads, how long to measure, and the comparison of subjects."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.measure import BASELINE, fill, in_turns, offering, read_back, timed
from benchmarks.payloads import contents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from benchmarks.measure import Figures, Meter, Region
    from benchmarks.payloads import Payload
    from benchmarks.subjects.subject import Subject

# Opens the connections that the most callers of a run need, before anything is timed.
WARM_UP = 0.2
READ_BACK = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure.

    Attributes:
        quick: Whether this is a look rather than a measurement: fewer cells, rounds and sessions.
        seed: What the payloads are made from.
        rounds: Regions of each subject in a cell.
        seconds: Length of a region.
    """

    quick: bool
    seed: int
    rounds: int
    seconds: float

    @property
    def in_flight(self) -> tuple[int, ...]:
        """How many callers: always one, where sharing a round trip with others is not possible."""
        return (1, 64) if self.quick else (1, 8, 64, 256)


@dataclass(slots=True)
class Bench:
    """A run.

    Attributes:
        settings: How much to measure.
        url: The standalone server.
        meter: Its counters.
        payloads: The four sizes.
        step: Called with what was just measured, for the progress bar.
    """

    settings: Settings
    url: str
    meter: Meter
    payloads: dict[str, Payload]
    step: Callable[[str], None]

    @asynccontextmanager
    async def opened(
        self,
        kinds: Sequence[Callable[..., Any]],
        payload: Payload,
        *,
        agents: int = 1,
        most_in_flight: int | None = None,
    ) -> AsyncIterator[list[Subject]]:
        """Subjects of these kinds on an empty server, warmed up, each with states of its own."""
        most = min(most_in_flight or self.settings.in_flight[-1], payload.sessions)
        self.meter.clear()
        async with AsyncExitStack() as stack:
            subjects: list[Subject] = []
            for kind in kinds:
                subject = kind(self.url, payload.states(agents=agents))
                await subject.open()
                stack.push_async_callback(subject.close)
                await self.warm_up(subject, payload, most)
                subjects.append(subject)
            yield subjects
        self.meter.clear()

    async def compare(
        self,
        subjects: Sequence[Subject],
        operation: str,
        payload: Payload,
        in_flight: int,
        *,
        rounds: int | None = None,
        seconds: float | None = None,
        baseline: str = BASELINE,
    ) -> dict[str, Figures]:
        """The figures of the subjects that have the operation, by label.

        A load needs stored sessions: `fill` them before. A delete and an append get fresh ones for every region.
        """
        subjects = offering(subjects, operation)
        is_right = right_result(operation, payload)

        async def region(subject: Subject) -> Region:
            numbers: Any = range(payload.sessions)
            if operation in {"delete", "append"}:
                numbers = range(max(in_flight, payload.sessions // 2))
                await fill(subject, len(numbers))
            if operation != "delete":
                numbers = itertools.cycle(numbers)
            return await timed(
                getattr(subject, operation),
                iter(numbers),
                is_right=is_right,
                in_flight=in_flight,
                seconds=seconds or self.settings.seconds,
                meter=self.meter,
            )

        found = await in_turns(
            subjects,
            region,
            rounds=rounds or self.settings.rounds,
            step=lambda subject: self.step(f"{payload.name} {operation}, {in_flight} in flight, {subject.label}"),
            baseline=baseline,
        )
        if operation == "save":
            said = [contents(state.messages) for state in payload.states(min(READ_BACK, in_flight))]
            for subject in subjects:
                await read_back(subject, said)
        return found

    async def warm_up(self, subject: Subject, payload: Payload, in_flight: int) -> None:
        """Save for a moment, with as many callers as there will be."""
        numbers = itertools.cycle(range(payload.sessions))
        await timed(subject.save, numbers, is_right=bool, in_flight=in_flight, seconds=WARM_UP, meter=self.meter)

    async def fill(self, subjects: Sequence[Subject], payload: Payload) -> None:
        """Save all sessions of all subjects, and read the first ones back."""
        said = [contents(state.messages) for state in payload.states(READ_BACK)]
        for subject in subjects:
            await fill(subject, payload.sessions)
            await read_back(subject, said)


def right_result(operation: str, payload: Payload) -> Callable[[Any], object]:
    """The check of one result that is cheap enough for the timed region."""
    if operation == "load":
        return lambda messages: len(messages) == payload.messages
    return bool
