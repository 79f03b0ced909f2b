"""Metrics: names, units, kinds, attributes and counts, as an OpenTelemetry reader sees them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
    Sum,
)
from support.stores import Stores, on, on_one_server

from redis_state import (
    AgentState,
    InvalidIdError,
    Message,
    ServerRefusedError,
    SessionStore,
    StateDecodeError,
    StateEncodeError,
    StateNotFoundError,
    StoreClosedError,
    VersionConflictError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

Store = SessionStore[AgentState]

PREFIX: Final = "forge.integrations.redis.state."
OPERATIONS: Final = ("save", "load", "update", "append", "merge", "delete", "list")
COUNTERS: Final = {
    f"{PREFIX}save": "{state}",
    f"{PREFIX}load": "{state}",
    f"{PREFIX}update": "{state}",
    f"{PREFIX}append": "{state}",
    f"{PREFIX}merge": "{state}",
    f"{PREFIX}delete": "{state}",
    f"{PREFIX}list": "{request}",
    f"{PREFIX}errors": "{error}",
}
HISTOGRAMS: Final = {f"{PREFIX}{operation}_duration": "s" for operation in OPERATIONS}

# Metrics are the store's work, not its connection's: one row in memory and one with a server.

on_both = on("memory", "standalone")


class Recorded:
    """What one provider was told, read as an exporter would."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, Metric]:
        """Every metric with data, by name."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        found = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if scope.scope.name == "redis_state"
        ]
        assert len({metric.name for metric in found}) == len(found)
        return {metric.name: metric for metric in found}

    def scopes(self) -> list[Any]:
        """The instrumentation scopes."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return [scope.scope for resource in data.resource_metrics for scope in resource.scope_metrics]

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        metric = self.metrics().get(PREFIX + name)
        return [] if metric is None else list(metric.data.data_points)

    def counted(self) -> dict[str, int]:
        """The sums of the counters, those that are not 0."""
        sums = {name: sum(int(point.value) for point in self.points(name)) for name in OPERATIONS}
        return {name: total for name, total in sums.items() if total}

    def timed(self) -> dict[str, Counter[str]]:
        """How many durations were recorded of each operation, by `error.type`; those that ended well by ``""``."""
        found: dict[str, Counter[str]] = {}
        for name in OPERATIONS:
            for point in self.points(f"{name}_duration"):
                found.setdefault(name, Counter())[str(point.attributes.get("error.type", ""))] += point.count
        return found

    def errors(self) -> Counter[tuple[str, str]]:
        """How many errors were counted, by operation and type."""
        return Counter(
            {
                (str(point.attributes["operation"]), str(point.attributes["error.type"])): int(point.value)
                for point in self.points("errors")
            }
        )


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


def a_state(session_id: str = "s1", agent_id: str = "a1", **fields: Any) -> AgentState:
    return AgentState(agent_id=agent_id, session_id=session_id, **fields)


async def fails(call: Awaitable[object], error: type[Exception]) -> None:
    with pytest.raises(error):
        await call


@on_both
async def test_names_units_and_kinds(store: Store, recorded: Recorded) -> None:
    """Exactly those that are documented: monotonic counters, and histograms of seconds."""
    await store.save(a_state())
    await store.load("a1", "s1")
    await store.append("a1", "s1", [])
    await store.merge("a1", "s1", {})
    await store.update("a1", "s1", lambda _: None)
    await store.list("a1")
    await store.delete("a1", "s1")
    await fails(store.load("a1", "s1"), StateNotFoundError)
    metrics = recorded.metrics()
    assert {name: metric.unit for name, metric in metrics.items()} == {**COUNTERS, **HISTOGRAMS}
    assert all(metric.description for metric in metrics.values())
    for name in COUNTERS:
        data = metrics[name].data
        assert isinstance(data, Sum)
        assert data.is_monotonic
        assert data.aggregation_temporality is AggregationTemporality.CUMULATIVE
        assert all(isinstance(point, NumberDataPoint) for point in data.data_points)
    for name in HISTOGRAMS:
        assert isinstance(metrics[name].data, Histogram)
    assert {scope.name for scope in recorded.scopes()} == {"redis_state"}
    assert all(scope.version for scope in recorded.scopes())
    assert [dict(scope.attributes) for scope in recorded.scopes()] == [{"db.system.name": "redis"}]


@on_both
async def test_durations_have_buckets_below_a_millisecond(store: Store, recorded: Recorded) -> None:
    """The SDK's defaults, of which the first is 5 s wide, would tell nothing. What is recorded is seconds."""
    await store.save(a_state())
    (point,) = recorded.points("save_duration")
    assert isinstance(point, HistogramDataPoint)
    assert list(point.explicit_bounds) == sorted(set(point.explicit_bounds))
    assert len([bound for bound in point.explicit_bounds if bound < 0.001]) >= 3
    assert point.explicit_bounds[-1] >= 6
    assert 0 < point.min == point.sum == point.max < 60


@on_both
async def test_attributes_are_few_and_constant(store: Store, recorded: Recorded) -> None:
    """Never an id: of a million sessions there is one series."""
    for number in range(10):
        state = a_state(f"session-{number}", f"agent-{number}")
        await store.save(state)
        await store.load(state.agent_id, state.session_id)
        await store.list(state.agent_id)
        await store.delete(state.agent_id, state.session_id)
        await fails(store.load(state.agent_id, state.session_id), StateNotFoundError)
    for name, metric in recorded.metrics().items():
        seen = [dict(point.attributes or {}) for point in metric.data.data_points]
        done: dict[str, Any] = {}
        if name == f"{PREFIX}errors":
            assert seen == [{**done, "operation": "load", "error.type": "StateNotFoundError"}]
        elif name == f"{PREFIX}load_duration":
            assert sorted(seen, key=len) == [done, {**done, "error.type": "StateNotFoundError"}]
        else:
            assert seen == [done]


@on_both
class TestCounts:
    async def test_states_saved(self, store: Store, recorded: Recorded) -> None:
        """One for each save, plain or conditional."""
        state = a_state()
        await store.save(state)
        await store.save(state)
        await store.save(state, if_version=2)
        assert recorded.counted() == {"save": 3}
        assert recorded.timed() == {"save": {"": 3}}
        assert not recorded.errors()

    async def test_states_loaded(self, store: Store, recorded: Recorded) -> None:
        """Each that was found; a load of many is one duration."""
        for name in ("s1", "s2", "s3"):
            await store.save(a_state(name))
        await store.load("a1", "s1")
        await store.load_many("a1", ["s1", "nobody", "s2", "s3", "s1"])
        await store.load_many("a1", ["nobody"])
        assert recorded.counted() == {"save": 3, "load": 4}
        assert recorded.timed()["load"] == {"": 3}
        assert not recorded.errors()

    async def test_states_deleted(self, store: Store, recorded: Recorded) -> None:
        """Each that was there; a delete of nothing is no error and no state."""
        await store.save(a_state())
        assert await store.delete("a1", "s1")
        assert not await store.delete("a1", "s1")
        assert recorded.counted() == {"save": 1, "delete": 1}
        assert recorded.timed()["delete"] == {"": 2}
        assert not recorded.errors()

    async def test_session_lists_retrieved(self, store: Store, recorded: Recorded) -> None:
        """One for each list, however long it is."""
        for name in ("s1", "s2", "s3"):
            await store.save(a_state(name))
        for limit in (None, 0, 2):
            await store.list("a1", limit=limit)
        await store.list("nobody")
        assert recorded.counted() == {"save": 3, "list": 4}
        assert recorded.timed()["list"] == {"": 4}

    async def test_an_update_is_a_load_and_a_save(self, store: Store, recorded: Recorded) -> None:
        """For each of its attempts beside itself, and a conflict is an error of the save."""
        await store.save(a_state())
        calls = 0

        async def change(state: AgentState) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                await store.save(a_state(data={"other": 1}, version=5))

        await store.update("a1", "s1", change)
        assert recorded.counted() == {"save": 3, "load": 2, "update": 1}
        assert recorded.timed()["save"] == {"": 3, "VersionConflictError": 1}
        assert recorded.timed()["update"] == {"": 1}
        assert recorded.errors() == {("save", "VersionConflictError"): 1}

    async def test_an_append_is_one_and_no_save(self, store: Store, recorded: Recorded) -> None:
        """However many messages it brings."""
        await store.save(a_state())
        await store.append("a1", "s1", [Message(role="user", content="hi")] * 3)
        await store.append("a1", "s1", [])
        assert recorded.counted() == {"save": 1, "append": 2}
        assert recorded.timed()["append"] == {"": 2}

    async def test_a_merge_and_a_repeat_are_one_each(self, store: Store, recorded: Recorded) -> None:
        """`create=` counts as its operation, and so does what is not applied again."""
        await store.append("a1", "s1", [], create=a_state(), key="first")
        await store.append("a1", "s1", [], create=a_state(), key="first")
        await store.merge("a1", "s1", {"data": {"n": 1}})
        assert recorded.counted() == {"append": 2, "merge": 1}
        assert recorded.timed() == {"append": {"": 2}, "merge": {"": 1}}

    async def test_the_states_of_an_agent_deleted(self, store: Store, recorded: Recorded) -> None:
        """Each, and the whole agent is one duration; also those before the caller's function broke it off."""
        for name in ("s1", "s2", "s3"):
            await store.save(a_state(name))
        assert await store.delete_agent("a1") == 3
        assert await store.delete_agent("a1") == 0
        assert recorded.counted() == {"save": 3, "delete": 3}
        assert recorded.timed()["delete"] == {"": 2}

        def break_off(deleted: int) -> None:
            raise RuntimeError(deleted)

        await store.save(a_state())
        await fails(store.delete_agent("a1", progress=break_off), RuntimeError)
        assert recorded.counted() == {"save": 4, "delete": 4}
        assert recorded.errors() == {("delete", "RuntimeError"): 1}

    async def test_each_is_visible_when_the_call_returns(self, store: Store, recorded: Recorded) -> None:
        """Nothing is recorded later, beside it."""
        await store.save(a_state())
        assert recorded.counted() == {"save": 1}
        await store.append("a1", "s1", [])
        assert recorded.counted() == {"save": 1, "append": 1}
        await store.delete_agent("a1")
        assert recorded.counted() == {"save": 1, "append": 1, "delete": 1}

    async def test_what_has_no_metric(self, store: Store, recorded: Recorded) -> None:
        """Looks and pings."""
        await store.save(a_state())
        before = recorded.counted()
        await store.exists("a1", "s1")
        await store.count("a1")
        await store.ping()
        assert [info.session_id async for info in store.sessions("a1")] == ["s1"]
        assert recorded.counted() == before
        assert recorded.timed() == {"save": {"": 1}}

    async def test_at_once(self, store: Store, recorded: Recorded) -> None:
        """None is lost."""
        await asyncio.gather(*(store.save(a_state(f"s{number}")) for number in range(100)))
        await asyncio.gather(*(store.load("a1", f"s{number}") for number in range(100)))
        assert recorded.counted() == {"save": 100, "load": 100}
        assert recorded.timed() == {"save": {"": 100}, "load": {"": 100}}


@on_both
class TestFailures:
    async def test_are_timed_and_counted_by_their_type(self, store: Store, recorded: Recorded) -> None:
        """And not as states or lists."""
        state = a_state()
        await store.save(state, if_version=0)
        await fails(store.save(a_state(), if_version=7), VersionConflictError)
        await fails(store.save(a_state(data={"n": float("nan")})), StateEncodeError)
        await fails(store.save(a_state("")), InvalidIdError)
        await fails(store.save("state"), TypeError)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownArgumentType]
        await fails(store.load("a1", "nobody"), StateNotFoundError)
        await fails(store.load("", "s1"), InvalidIdError)
        await fails(store.load_many("", ["s1"]), InvalidIdError)
        await fails(store.append("a1", "nobody", []), StateNotFoundError)
        await fails(store.append("a1", "s1", 7), TypeError)  # pyright: ignore[reportArgumentType]
        await fails(store.merge("a1", "s1", {"messages": []}), ValueError)
        await fails(store.update("a1", "", lambda _: None), InvalidIdError)
        await fails(store.delete("a1", ""), InvalidIdError)
        await fails(store.delete_agent(""), InvalidIdError)
        await fails(store.list(""), InvalidIdError)
        await fails(store.list("a1", limit=-1), ValueError)
        errors = {
            ("save", "VersionConflictError"): 1,
            ("save", "StateEncodeError"): 1,
            ("save", "InvalidIdError"): 1,
            ("save", "TypeError"): 1,
            ("load", "StateNotFoundError"): 1,
            ("load", "InvalidIdError"): 3,
            ("append", "StateNotFoundError"): 1,
            ("append", "TypeError"): 1,
            ("merge", "ValueError"): 1,
            ("update", "InvalidIdError"): 1,
            ("delete", "InvalidIdError"): 2,
            ("list", "InvalidIdError"): 1,
            ("list", "ValueError"): 1,
        }
        assert recorded.errors() == errors
        assert recorded.counted() == {"save": 1}
        timed: dict[str, dict[str, int]] = {operation: {} for operation in OPERATIONS}
        timed["save"][""] = 1
        for (operation, kind), count in errors.items():
            timed[operation][kind] = count
        assert recorded.timed() == timed

    async def test_of_a_closed_store(self, store: Store, recorded: Recorded) -> None:
        """They are errors like others."""
        await store.aclose()
        await fails(store.save(a_state()), StoreClosedError)
        await fails(store.load("a1", "s1"), StoreClosedError)
        await fails(store.update("a1", "s1", lambda _: None), StoreClosedError)
        await fails(store.append("a1", "s1", []), StoreClosedError)
        await fails(store.merge("a1", "s1", {}), StoreClosedError)
        await fails(store.delete("a1", "s1"), StoreClosedError)
        await fails(store.list("a1"), StoreClosedError)
        assert recorded.errors() == {(operation, "StoreClosedError"): 1 for operation in OPERATIONS}
        assert recorded.timed() == {operation: {"StoreClosedError": 1} for operation in OPERATIONS}
        assert recorded.counted() == {}


@on_one_server
class TestFailuresOnAServer:
    async def test_of_the_server_and_of_what_it_holds(self, store: Store, stores: Stores, recorded: Recorded) -> None:
        """A refusal and foreign bytes."""
        key = stores.state_key("a1", "s1")
        stores.command("SET", key, "foreign")
        await fails(store.load("a1", "s1"), StateDecodeError)
        await fails(store.load_many("a1", ["s1"]), StateDecodeError)
        stores.command("DEL", key)
        index = stores.index_key("a1", "s1")
        stores.command("SET", index, "foreign")
        await fails(store.save(a_state()), ServerRefusedError)
        await fails(store.delete("a1", "s1"), ServerRefusedError)
        await fails(store.list("a1"), ServerRefusedError)
        stores.command("DEL", index)
        assert recorded.errors() == {
            ("load", "StateDecodeError"): 2,
            **{(operation, "ServerRefusedError"): 1 for operation in ("save", "delete", "list")},
        }
        assert recorded.counted() == {}

    async def test_a_cancelled_call_is_one(self, store: Store, recorded: Recorded) -> None:
        """Its time was spent."""
        load = asyncio.ensure_future(store.load("a1", "s1"))
        await asyncio.sleep(0)
        load.cancel()
        await asyncio.wait([load])
        assert recorded.errors() == {("load", "CancelledError"): 1}
        assert recorded.timed() == {"load": {"CancelledError": 1}}


@on_both
class TestProviders:
    async def test_each_store_has_its_own(self, stores: Stores, store: Store, recorded: Recorded) -> None:
        """Two stores with two providers do not mix; two with one are counted together."""
        other = Recorded()
        theirs = await stores.open(meter_provider=other.provider)
        ours = await stores.open(meter_provider=recorded.provider)
        await store.save(a_state("s1"))
        await ours.save(a_state("s2"))
        await theirs.save(a_state("s3"))
        assert recorded.counted() == {"save": 2}
        assert other.counted() == {"save": 1}
        other.provider.shutdown()

    async def test_the_global_one_is_left_alone(
        self, stores: Stores, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a provider is given the global one is neither asked for nor set."""
        before = api.get_meter_provider()

        def refuse(*_: object) -> None:
            pytest.fail("the global provider was touched")

        for name in ("get_meter_provider", "set_meter_provider"):
            monkeypatch.setattr(api, name, refuse)
            monkeypatch.setattr(f"opentelemetry.metrics._internal.{name}", refuse)
        store = await stores.open(meter_provider=recorded.provider)
        await store.save(a_state())
        monkeypatch.undo()
        assert api.get_meter_provider() is before
        assert recorded.counted() == {"save": 1}

    async def test_the_global_one_is_the_default(
        self, stores: Stores, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As everywhere in OpenTelemetry."""
        monkeypatch.setattr("opentelemetry.metrics._internal.get_meter_provider", lambda: recorded.provider)
        store = await stores.open()
        await store.save(a_state())
        assert recorded.counted() == {"save": 1}

    async def test_a_provider_that_was_shut_down_stops_nothing(self, store: Store, recorded: Recorded) -> None:
        """A program ends in any order."""
        recorded.provider.shutdown()
        await store.save(a_state())
        assert await store.list("a1") == ["s1"]
