"""Random operations on a store in Redis and on the one in memory, which is the model: they agree at every step."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from support.states import agent_ids, infos

from redis_state import AgentState, MemoryStateStore, Message, RedisStateStore, SessionInfo, SessionStore, StoreOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis_state.testing import RedisServer

Store = SessionStore[AgentState]

# Few ids, so that operations meet; some of them hold what means something in a key.
AGENTS: Final = st.sampled_from(["a", "a:0", "{a}"])
SESSIONS: Final = st.sampled_from(["s1", "s2", "s*", ":"])
IDS: Final = st.sampled_from(["", 7]) | SESSIONS | SESSIONS | SESSIONS | SESSIONS
VERSIONS: Final = st.integers(-1, 4)
VALUES: Final = st.sampled_from([None, 1, "text", 2.5, [True, {"deep": "ü"}], float("nan"), {1: 2}])
MESSAGES: Final = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant"]),
        content=st.text(max_size=5),
        timestamp=st.just(datetime(2026, 1, 2, tzinfo=UTC)),
        metadata=st.none() | st.fixed_dictionaries({"n": st.integers(0, 3)}),
    ),
    max_size=3,
)
LIMITS: Final = st.none() | st.integers(-1, 4)
TTLS: Final = st.none() | st.just(timedelta(hours=1))  # which is as good as for ever here


@dataclass(eq=False)
class Twins:
    """One object of a caller's, once for each side.

    Attributes:
        model: For the store in memory.
        real: For the stores in Redis.
    """

    model: AgentState
    real: AgentState


def shown(value: Any) -> Any:
    """A result without what differs between the sides: times, and objects without equality."""
    if isinstance(value, AgentState):
        fields = msgspec.structs.asdict(value)
        return {name: field for name, field in fields.items() if not name.endswith("_at")}
    if isinstance(value, SessionInfo):
        return value.session_id
    if isinstance(value, dict):
        return [(key, shown(child)) for key, child in cast("dict[Any, Any]", value).items()]
    if isinstance(value, list):
        return [shown(child) for child in cast("list[Any]", value)]
    if isinstance(value, Exception):
        return (type(value), str(value), vars(value))
    return value


def several(twins: list[Twins]) -> Any:
    """Any number of objects for a bundle."""
    return multiple(*twins)  # pyright: ignore[reportUnknownVariableType]


class Agreement(RuleBasedStateMachine):
    """A store in memory against two in Redis, of which each operation uses one."""

    url: str
    options: StoreOptions

    objects: Bundle[Twins] = Bundle("objects")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        prefix = f"test-{uuid.uuid4().hex}:"
        self.prefix = prefix
        url = f"{self.url}?key_prefix={prefix}"
        self.model: Store = MemoryStateStore(format=self.options.get("format", "json"))
        self.real: list[Store] = [RedisStateStore.from_url(url, **self.options) for _ in range(2)]

    def teardown(self) -> None:
        async def clean() -> None:
            async for agent_id in self.real[0].agents():
                await self.real[0].delete_agent(agent_id)
            for store in (self.model, *self.real):
                await store.aclose()

        self.runner.run(clean())
        self.runner.close()

    def both(
        self, which: int, call: Callable[[Store, AgentState | None], Awaitable[Any]], twins: Twins | None = None
    ) -> tuple[Any, Any]:
        """Do the same on both sides; returns both results. What they show is the same, errors too."""

        async def outcome(store: Store, state: AgentState | None) -> Any:
            try:
                return await call(store, state)
            except Exception as error:  # noqa: BLE001  # whatever it is, the other side must raise the same
                return error

        async def outcomes() -> tuple[Any, Any]:
            model = await outcome(self.model, twins and twins.model)
            return model, await outcome(self.real[which], twins and twins.real)

        model, real = self.runner.run(outcomes())
        assert shown(real) == shown(model)
        if twins is not None:
            assert shown(twins.real) == shown(twins.model)
        return model, real

    which = st.integers(0, 1)

    # Objects

    @rule(target=objects, agent=AGENTS, session=IDS, version=st.sampled_from([0, 0, 0, 1, 2, -1]))
    def make(self, agent: str, session: Any, version: int) -> Twins:
        """A new object, which may pretend to have been saved."""
        return Twins(
            *(AgentState(agent_id=agent, session_id=session, version=version) for _ in range(2)),
        )

    @rule(twins=objects, value=VALUES)
    def change(self, twins: Twins, value: Any) -> None:
        """A change of the object only; some make it one that cannot be stored."""
        twins.model.data["value"] = twins.real.data["value"] = value

    @rule(twins=consumes(objects))
    def forget(self, twins: Twins) -> None:
        """The caller lets go of the object."""

    @rule(target=objects, which=which, agent=AGENTS, session=IDS)
    def load(self, which: int, agent: str, session: Any) -> Any:
        """An object of what is stored."""
        model, real = self.both(which, lambda store, _: store.load(agent, session))
        return several([] if isinstance(model, Exception) else [Twins(model, real)])

    @rule(target=objects, which=which, agent=AGENTS, sessions=st.lists(IDS, max_size=4))
    def load_many(self, which: int, agent: str, sessions: list[Any]) -> Any:
        """Objects of what is stored."""
        model, real = self.both(which, lambda store, _: store.load_many(agent, sessions))
        return several([] if isinstance(model, Exception) else [Twins(model[name], real[name]) for name in model])

    # Writes

    @rule(which=which, twins=objects, version=st.none() | st.just("its own") | VERSIONS, ttl=TTLS)
    def save(self, which: int, twins: Twins, version: Any, ttl: timedelta | None) -> None:
        """Plain, over its own version as a caller should, and over any number."""

        async def call(store: Store, state: AgentState | None) -> None:
            assert state is not None
            await store.save(state, if_version=state.version if version == "its own" else version, ttl=ttl)

        self.both(which, call, twins)

    @rule(which=which, agent=AGENTS, session=IDS, value=VALUES, attempts=st.integers(0, 2))
    def update(self, which: int, agent: str, session: Any, value: Any, attempts: int) -> None:
        """A change of what is stored."""
        self.both(
            which,
            lambda store, _: store.update(agent, session, lambda of: of.data.update(value=value), attempts=attempts),
        )

    @rule(which=which, agent=AGENTS, session=IDS, messages=MESSAGES, ttl=TTLS)
    def append(self, which: int, agent: str, session: Any, messages: list[Message], ttl: timedelta | None) -> None:
        """Messages at the end of what is stored."""
        self.both(which, lambda store, _: store.append(agent, session, messages, ttl=ttl))

    @rule(which=which, agent=AGENTS, session=IDS, ttl=TTLS, what=st.sampled_from(["touch", "delete", "exists"]))
    def session(self, which: int, agent: str, session: Any, ttl: timedelta | None, what: str) -> None:
        """Another expiry, the end of a session, and whether there is one."""
        calls: dict[str, Callable[[Store, Any], Awaitable[Any]]] = {
            "touch": lambda store, _: store.touch(agent, session, ttl=ttl),
            "delete": lambda store, _: store.delete(agent, session),
            "exists": lambda store, _: store.exists(agent, session),
        }
        self.both(which, calls[what])

    @rule(which=which, agent=AGENTS)
    def delete_agent(self, which: int, agent: str) -> None:
        """All sessions of an agent."""
        self.both(which, lambda store, _: store.delete_agent(agent))

    # Looks

    @rule(which=which, agent=AGENTS, limit=LIMITS, size=st.integers(1, 3))
    def sessions(self, which: int, agent: str, limit: int | None, size: int) -> None:
        """In order, at once and page by page, and how many."""

        async def pages(store: Store, _: AgentState | None) -> list[SessionInfo]:
            found: list[SessionInfo] = []
            page = await infos(store, agent, limit=size)
            while page:
                found += page
                page = await infos(store, agent, limit=size, before=page[-1])
            return found

        self.both(which, lambda store, _: store.list(agent, limit=limit))
        self.both(which, lambda store, _: infos(store, agent, limit=limit))
        self.both(which, pages)
        self.both(which, lambda store, _: store.count(agent))

    @invariant()
    def the_agents_are_the_same(self) -> None:
        """Those that have a session."""
        self.both(0, lambda store, _: agent_ids(store))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="json"),
        pytest.param({"format": "msgpack", "partitions": 3}, id="msgpack-partitions"),
    ],
)
def test_the_stores_agree(redis_server: RedisServer, options: StoreOptions) -> None:
    """Results, errors with their texts and data, the caller's objects, and the order of lists."""

    class Machine(Agreement):
        url = redis_server.url

    Machine.options = options
    run_state_machine_as_test(  # pyright: ignore[reportUnknownMemberType]
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
        ),
    )
    for key in redis_server.command("KEYS", "test-*:partitions"):
        redis_server.command("DEL", key)
