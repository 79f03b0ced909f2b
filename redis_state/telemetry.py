"""The metrics that a store records, by the OpenTelemetry API."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from opentelemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

PREFIX: Final = "forge.integrations.redis.state."
# Seconds. A call on a near server takes tens of microseconds, one that waits for a failover takes seconds.
BUCKETS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Operation:
    """The instruments of one operation.

    Its methods take the reading of `perf_counter` at the operation's start.
    """

    __slots__ = ("_count", "_duration", "_errors", "_name")

    def __init__(
        self, meter: metrics.Meter, errors: metrics.Counter, name: str, description: str, unit: str = "{state}"
    ) -> None:
        self._name = name
        self._errors = errors
        self._count = meter.create_counter(PREFIX + name, unit, description)
        self._duration = meter.create_histogram(
            f"{PREFIX}{name}_duration",
            "s",
            f"How long each {name} took, failed ones included.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )

    def measure(self) -> Measured:
        """Record what happens in a block. The hot paths call `done` and `failed` themselves."""
        return Measured(self)

    def done(self, started: float, count: int = 1) -> None:
        """Record a success that counted `count` states or requests."""
        self._duration.record(perf_counter() - started)
        if count:
            self._count.add(count)

    def failed(self, started: float, error: BaseException, count: int = 0) -> None:
        """Record a failure by the name of its class, and what had been done before it."""
        kind = type(error).__name__
        self._duration.record(perf_counter() - started, {"error.type": kind})
        self._errors.add(1, {"operation": self._name, "error.type": kind})
        if count:
            self._count.add(count)


class Measured:
    """One call of an operation, recorded when its block ends.

    Attributes:
        count: How many states or requests it has dealt with; None is one for a success and none for a failure.
    """

    __slots__ = ("_operation", "_started", "count")

    def __init__(self, operation: Operation) -> None:
        self.count: int | None = None
        self._operation = operation
        self._started = perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._operation.done(self._started, 1 if self.count is None else self.count)
        else:
            self._operation.failed(self._started, error, self.count or 0)


class Metrics:
    """The instruments of a store.

    Their meter carries ``db.system.name``. Durations of failures and errors carry ``error.type``, the name of the
    class, errors also ``operation``. A success is recorded without attributes, which an SDK looks up fastest.

    Args:
        provider: Where they are made; None is the global provider.
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        constants = {"db.system.name": "redis"}
        meter = metrics.get_meter("redis_state", version("redis-state"), provider, attributes=constants)
        errors = meter.create_counter(PREFIX + "errors", "{error}", "Operations that raised.")
        operation = partial(Operation, meter, errors)
        self.save = operation("save", "States saved.")
        self.load = operation("load", "States loaded.")
        self.update = operation("update", "States updated: loaded, changed and saved.")
        self.append = operation("append", "States appended to.")
        self.merge = operation("merge", "States merged into.")
        self.delete = operation("delete", "States deleted, those of whole agents included.")
        self.list = operation("list", "Session lists retrieved.", "{request}")
