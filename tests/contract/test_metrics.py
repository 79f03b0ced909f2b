"""Metrics: names, units, kinds, attributes and counts, as an OpenTelemetry reader sees them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, InMemoryMetricReader, Metric, Sum
from support.states import Store, messages, session_ids, state
from support.stores import Stores, on, on_one_server

from redis_state import AgentState, StateNotFoundError

PREFIX: Final = "forge.integrations.redis.state."
OPERATIONS: Final = ("save", "load", "delete", "list")
UNITS: Final = {
    **{f"{PREFIX}{name}": "{state}" for name in ("save", "load", "delete")},
    f"{PREFIX}list": "{request}",
    f"{PREFIX}errors": "{error}",
    **{f"{PREFIX}{name}_duration": "s" for name in OPERATIONS},
}
REDIS: Final = {"db.system.name": "redis"}

# Metrics are the store's work, not its connection's: one kind in memory and one with a server.
on_both = on("memory", "standalone")


class Recorded:
    """What one provider was told, read as an exporter would."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    def scopes(self) -> list[Any]:
        """The instrumentation scopes with their metrics."""
        data = self._reader.get_metrics_data()
        return [] if data is None else [scope for resource in data.resource_metrics for scope in resource.scope_metrics]

    def metrics(self) -> dict[str, Metric]:
        """Every metric with data, by name."""
        found = [metric for scope in self.scopes() for metric in scope.metrics if scope.scope.name == "redis_state"]
        assert len({metric.name for metric in found}) == len(found)
        return {metric.name: metric for metric in found}

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        metric = self.metrics().get(PREFIX + name)
        return [] if metric is None else list(metric.data.data_points)

    def counted(self) -> dict[str, int]:
        """The sums of the four counters, those that are not 0."""
        sums = {name: sum(int(point.value) for point in self.points(name)) for name in OPERATIONS}
        return {name: total for name, total in sums.items() if total}

    def timed(self) -> dict[str, dict[str, int]]:
        """How many durations were recorded of each operation, by `error.type`; those that ended well by ``""``."""
        found: dict[str, dict[str, int]] = {}
        for name in OPERATIONS:
            for point in self.points(f"{name}_duration"):
                found.setdefault(name, {})[str(point.attributes.get("error.type", ""))] = point.count
        return found

    def errors(self) -> dict[tuple[str, str], int]:
        """How many errors were counted, by operation and type."""
        return {
            (point.attributes["operation"], point.attributes["error.type"]): int(point.value)
            for point in self.points("errors")
        }


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    """A provider of the test's own."""
    recorded = Recorded()
    yield recorded
    recorded.provider.shutdown()


@pytest.fixture
async def store(stores: Stores, recorded: Recorded) -> Store:
    """A store that records there."""
    return await stores.open(meter_provider=recorded.provider)


async def error_of(call: Any) -> str:
    """The name of the error that it ends with."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the test compares its name
        await call
    return type(caught.value).__name__


@on_both
async def test_names_units_and_kinds_are_exactly_those_that_are_documented(store: Store, recorded: Recorded) -> None:
    """Monotonic counters, and histograms of seconds with buckets below a millisecond."""
    await store.save(state())
    await store.load("a", "s")
    await store.list("a")
    await store.delete("a", "s")
    await error_of(store.load("a", "s"))
    metrics = recorded.metrics()
    assert {name: metric.unit for name, metric in metrics.items()} == UNITS
    assert all(metric.description for metric in metrics.values())
    for name, metric in metrics.items():
        if UNITS[name] == "s":
            assert isinstance(metric.data, Histogram)
        else:
            assert isinstance(metric.data, Sum)
            assert metric.data.is_monotonic
            assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE
    assert {scope.scope.name for scope in recorded.scopes()} == {"redis_state"}
    assert all(scope.scope.version for scope in recorded.scopes())
    (point,) = recorded.points("save_duration")
    bounds = list(point.explicit_bounds)
    assert bounds == sorted(set(bounds))
    assert len([bound for bound in bounds if bound < 0.001]) >= 3
    assert bounds[-1] >= 6
    assert 0 < point.min == point.sum == point.max < 60


@on_both
async def test_attributes_are_few_and_constant(store: Store, recorded: Recorded) -> None:
    """Never an id: of a million sessions there is one series."""
    for number in range(10):
        ids = f"agent-{number}", f"session-{number}"
        await store.save(state(ids[1], agent_id=ids[0]))
        await store.load(*ids)
        await store.list(ids[0])
        await store.delete(*ids)
        await error_of(store.load(*ids))
    failed = {**REDIS, "error.type": "StateNotFoundError"}
    expected = {f"{PREFIX}errors": [{**failed, "operation": "load"}], f"{PREFIX}load_duration": [REDIS, failed]}
    for name, metric in recorded.metrics().items():
        seen = [dict(point.attributes or {}) for point in metric.data.data_points]
        assert sorted(seen, key=len) == expected.get(name, [REDIS])


@on_both
async def test_states_and_requests_are_counted_and_timed(store: Store, recorded: Recorded) -> None:
    """A save each, a loaded state each, a delete of something each, a list each; a load of many is one duration."""
    mine = state()
    await store.save(mine)
    await store.save(mine)
    await store.save(mine, if_version=2)
    await store.save(state("s2"))
    await store.load("a", "s")
    await store.load_many("a", ["s", "nobody", "s2", "s"])
    await store.load_many("a", ["nobody"])
    assert [await store.delete("a", "s2"), await store.delete("a", "s2")] == [True, False]
    for limit in (None, 0, 2):
        await store.list("a", limit=limit)
    expected = {"save": 4, "load": 3, "delete": 1, "list": 3}
    durations = {"save": {"": 4}, "load": {"": 3}, "delete": {"": 2}, "list": {"": 3}}
    assert (recorded.counted(), recorded.timed(), recorded.errors()) == (expected, durations, {})
    # Appends, looks and pings are none of the four.
    await store.append("a", "s", messages("hi"))
    await store.exists("a", "s")
    await store.count("a")
    await store.ping()
    assert await session_ids(store) == ["s"]
    assert (recorded.counted(), recorded.timed()) == (expected, durations)


@on_both
async def test_at_once_none_is_lost(store: Store, recorded: Recorded) -> None:
    await asyncio.gather(*(store.save(state(f"s{number}")) for number in range(100)))
    await asyncio.gather(*(store.load("a", f"s{number}") for number in range(100)))
    assert recorded.counted() == {"save": 100, "load": 100}
    assert recorded.timed() == {"save": {"": 100}, "load": {"": 100}}


@on_both
async def test_an_update_is_a_load_and_a_save_for_each_attempt(store: Store, recorded: Recorded) -> None:
    """A conflict is an error of the save."""
    await store.save(state())
    calls = 0

    async def change(of: AgentState) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await store.save(state(version=5, other=1))

    await store.update("a", "s", change)
    assert recorded.counted() == {"save": 3, "load": 2}
    assert recorded.timed()["save"] == {"": 3, "VersionConflictError": 1}
    assert recorded.errors() == {("save", "VersionConflictError"): 1}


@on_both
async def test_failures_are_timed_and_counted_by_their_type_and_not_as_states(store: Store, recorded: Recorded) -> None:
    """Also those of a caller's mistakes, of a cancelled call and of a closed store."""
    await store.save(state(), if_version=0)
    wrong: Any = "state"
    calls: list[tuple[str, Any]] = [
        ("save", store.save(state(), if_version=7)),
        ("save", store.save(state(n=float("nan")))),
        ("save", store.save(state(""))),
        ("save", store.save(wrong)),
        ("load", store.load("a", "nobody")),
        ("load", store.load("", "s")),
        ("delete", store.delete("a", "")),
        ("list", store.list("")),
        ("list", store.list("a", limit=-1)),
    ]
    errors = Counter([(name, await error_of(call)) for name, call in calls])
    await store.aclose()
    closed = [store.save(state()), store.load("a", "s"), store.delete("a", "s"), store.list("a")]
    errors.update([(name, await error_of(call)) for name, call in zip(OPERATIONS, closed, strict=True)])
    assert {kind for _, kind in errors} == {
        *("VersionConflictError", "StateEncodeError", "InvalidIdError", "TypeError", "StateNotFoundError"),
        *("ValueError", "StoreClosedError"),
    }
    assert recorded.errors() == errors
    assert recorded.counted() == {"save": 1}
    timed = {name: {kind: n for (which, kind), n in errors.items() if which == name} for name in OPERATIONS}
    timed["save"][""] = 1
    assert recorded.timed() == timed


@on_one_server
async def test_failures_of_the_server_and_of_what_it_holds_are_counted_too(
    store: Store, stores: Stores, recorded: Recorded
) -> None:
    """A refusal, foreign bytes, and a call that is cancelled: its time was spent."""
    key, index = stores.state_key("a", "s"), stores.index_key("a", "s")
    stores.command("SET", key, "foreign")
    await error_of(store.load("a", "s"))
    await error_of(store.load_many("a", ["s"]))
    stores.command("DEL", key)
    stores.command("SET", index, "foreign")
    for call in (store.save(state()), store.delete("a", "s"), store.list("a")):
        await error_of(call)
    stores.command("DEL", index)
    load = asyncio.ensure_future(store.load("a", "s"))
    await asyncio.sleep(0)
    load.cancel()
    await asyncio.wait([load])
    assert recorded.errors() == {
        ("load", "StateDecodeError"): 2,
        ("load", "CancelledError"): 1,
        **{(operation, "ServerRefusedError"): 1 for operation in ("save", "delete", "list")},
    }
    assert recorded.counted() == {}


@on_both
async def test_each_store_has_its_own_provider_and_the_global_one_is_the_default(
    stores: Stores, store: Store, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores with one provider are counted together; the global one is not touched where one is given."""
    other = Recorded()
    before = api.get_meter_provider()
    with monkeypatch.context() as patched:
        for name in ("get_meter_provider", "set_meter_provider"):
            patched.setattr(api, name, None)  # whoever calls it fails
            patched.setattr(f"opentelemetry.metrics._internal.{name}", None)
        theirs = await stores.open(meter_provider=other.provider)
        ours = await stores.open(meter_provider=recorded.provider)
        for number, each in enumerate((store, ours, theirs)):
            await each.save(state(f"s{number}"))
    assert api.get_meter_provider() is before
    assert (recorded.counted(), other.counted()) == ({"save": 2}, {"save": 1})
    with monkeypatch.context() as patched:
        patched.setattr("opentelemetry.metrics._internal.get_meter_provider", lambda: other.provider)
        await (await stores.open()).save(state())
    assert other.counted() == {"save": 2}
    other.provider.shutdown()
    await theirs.save(state())  # a program ends in any order
    with pytest.raises(StateNotFoundError):
        await theirs.load("a", "nobody")
