"""The metrics that a store records, by the OpenTelemetry API."""

from __future__ import annotations

from importlib.metadata import version
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from opentelemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

PREFIX: Final = "forge.integrations.redis.state."
OPERATIONS: Final = ("save", "load", "delete", "list")
# Seconds. A call on a near server takes tens of microseconds, one that waits for a failover takes seconds.
BUCKETS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_COUNTERS: Final = {
    "save": ("{state}", "States saved."),
    "load": ("{state}", "States loaded."),
    "delete": ("{state}", "States deleted."),
    "list": ("{request}", "Session lists retrieved."),
}
_DONE: Final = {"db.system.name": "redis"}


class Operation:
    """The instruments of one operation.

    Its methods take the reading of `perf_counter` at the operation's start.
    """

    __slots__ = ("_count", "_duration", "_errors", "_name")

    def __init__(self, meter: metrics.Meter, errors: metrics.Counter, name: str) -> None:
        unit, description = _COUNTERS[name]
        self._name = name
        self._errors = errors
        self._count = meter.create_counter(PREFIX + name, unit, description)
        self._duration = meter.create_histogram(
            f"{PREFIX}{name}_duration",
            "s",
            f"How long a {name} took, failed ones included.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )

    def measure(self) -> Measured:
        """Record what happens in a block. The hot paths call `done` and `failed` themselves."""
        return Measured(self)

    def done(self, started: float, count: int = 1) -> None:
        """Record a success that counted `count` states or requests."""
        self._duration.record(perf_counter() - started, _DONE)
        if count:
            self._count.add(count, _DONE)

    def failed(self, started: float, error: BaseException) -> None:
        """Record a failure by the name of its class."""
        kind = type(error).__name__
        self._duration.record(perf_counter() - started, {**_DONE, "error.type": kind})
        self._errors.add(1, {**_DONE, "operation": self._name, "error.type": kind})


class Measured:
    """One call of an operation, recorded when its block ends.

    Attributes:
        count: How many states or requests a success counts.
    """

    __slots__ = ("_operation", "_started", "count")

    def __init__(self, operation: Operation) -> None:
        self.count = 1
        self._operation = operation
        self._started = perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._operation.done(self._started, self.count)
        else:
            self._operation.failed(self._started, error)


class Metrics:
    """The instruments of a store.

    Every one carries ``db.system.name``, durations of failures and errors also ``error.type``, the name of the class.

    Args:
        provider: Where they are made; None is the global provider.
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        meter = metrics.get_meter("redis_state", version("redis-state"), provider)
        errors = meter.create_counter(PREFIX + "errors", "{error}", "Operations that raised.")
        self.save = Operation(meter, errors, "save")
        self.load = Operation(meter, errors, "load")
        self.delete = Operation(meter, errors, "delete")
        self.list = Operation(meter, errors, "list")
