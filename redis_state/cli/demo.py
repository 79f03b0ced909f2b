"""The demo: two agents, four sessions, what a store does with them, and what of it stands in Redis."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from redis_state.commands.keys import Keys
from redis_state.config import RedisConfig, parse_url
from redis_state.errors import StateNotFoundError, StateStoreError, VersionConflictError
from redis_state.memory.store import MemoryStateStore
from redis_state.models import AgentState, Message
from redis_state.protocol import SessionStore
from redis_state.redis_store import RedisStateStore
from redis_state.telemetry import PREFIX
from redis_state.testing import RedisServer, ServerNotFoundError

T = TypeVar("T")

MEMORY: Final = "memory://"
TTL: Final = timedelta(minutes=10)  # a demo that is killed leaves no state for longer
AT_ONCE: Final = 200
WIDTH: Final = 96
MILLISECOND: Final = 0.001

AGENTS: Final = ("support", "research")
ORDER: Final = ("support", "order-4711")
REFUND: Final = ("support", "refund-1138")
STUDY: Final = ("research", "heat-pumps")
DRAFT: Final = ("research", "draft")


def conversations() -> dict[str, AgentState]:
    """What the agents remember when the demo begins, by the names that the page gives the states."""
    order, refund, study, draft = (AgentState(agent_id=a, session_id=s) for a, s in (ORDER, REFUND, STUDY, DRAFT))
    order.context = {"user_id": "user-456"}
    order.messages = [
        Message("user", "Where is my order 4711? It should have come on Monday."),
        Message("tool", "left the depot in Leeds at 06:40", metadata={"name": "parcels.track"}),
        Message("assistant", "It left the depot this morning and comes before noon."),
    ]
    refund.context = {"user_id": "user-789"}
    refund.messages = [
        Message("user", "The lamp arrived broken. Can I have my money back?"),
        Message("assistant", "I am sorry! May I refund the 39.90 to your card?"),
    ]
    refund.data = {"refund": {"amount": 39.9, "currency": "EUR", "approved": False}}
    study.messages = [Message("user", "How well do heat pumps work in old houses?")]
    study.data = {"plan": ["field trials", "costs", "summary"]}
    return {"order": order, "refund": refund, "study": study, "draft": draft}


async def demo(wanted: str | None) -> None:
    """Write the demo's page to stdout. What it saves is deleted, also after an error or Ctrl-C.

    Args:
        wanted: Any URL that `open_store` takes; None is a private Redis, or memory where there is none to start.
    """
    async with place(wanted) as (url, where):
        prefix = f"forge:demo:{secrets.token_hex(2)}:"
        config = None if url == MEMORY else replace(parse_url(url), key_prefix=prefix)
        reader, provider = recorder()
        if config is None:
            store: SessionStore[AgentState] = MemoryStateStore(ttl=TTL, meter_provider=provider)
        else:
            store = RedisStateStore.from_config(config, ttl=TTL, meter_provider=provider)
        async with store:
            say(f"redis-state {version('redis-state')} {where}.")
            say(f"Keys start with {prefix} and are deleted at the end." if config else "Nothing is kept.")
            try:
                await operations(store)
                await stored(url, config, Keys(prefix, 1))
                metrics(reader)
                if config is not None:
                    await many(store)
            finally:
                deleted = [await timed(store.delete_agent(agent_id)) for agent_id in AGENTS]
            say("", "Clean up")
            for agent_id, (count, took) in zip(AGENTS, deleted, strict=True):
                row(took, f"delete_agent({agent_id!r})", f"{count} deleted")


@asynccontextmanager
async def place(url: str | None) -> AsyncGenerator[tuple[str, str], None]:
    """The URL to use, and where that is in words. A private server runs as long as the block."""
    if url is not None:
        if "@" in url.partition("?")[2]:  # what stands before it is no address but part of the password
            raise ValueError("write ? and @ in the URL's password or options as %3F and %40")
        yield url, "in memory" if url == MEMORY else f"on {without_password(url)}"
        return
    try:
        server = RedisServer()
    except ServerNotFoundError:
        yield MEMORY, "in memory: there is no redis-server to start. With --url it runs on yours"
        return
    async with server:
        release = ".".join(map(str, server.version))
        yield server.url, f"on a private {server.binary.name} {release} at {server.addr}"


def without_password(url: str) -> str:
    """The URL's scheme, server and database."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


async def operations(store: SessionStore[AgentState]) -> None:
    """Save, list, load, append, update, delete."""
    say("", "Save: the state and its place in the agent's list, both or neither")
    for name, state in conversations().items():
        await show(f"save({name})", store.save(state), lambda _, state=state: f"version {state.version}")

    say("", "List, newest first, and load")
    for agent_id in AGENTS:
        await show(f"list({agent_id!r})", store.list(agent_id), ", ".join)
    mine = await show(f"load{ORDER}", store.load(*ORDER), lambda state: f"{len(state.messages)} messages")
    for message in mine.messages:
        say(f"{message.role:>21}: {message.content}")

    say("", "Append: what is sent does not grow with the conversation")
    answer = Message("user", "Yes, please.")
    await show("append('support', 'refund-1138', [answer])", store.append(*REFUND, [answer]), "version {}".format)

    say("", "Two workers change one session: nothing is lost")
    theirs = await store.load(*ORDER)
    mine.context["mood"] = "relieved"
    await show("save(mine, if_version=1)", store.save(mine, if_version=1), lambda _: f"version {mine.version}")
    theirs.context["priority"] = "high"
    await show_error("save(theirs, if_version=1)", store.save(theirs, if_version=1), VersionConflictError)
    change = store.update(*ORDER, lambda state: state.context.update(priority="high"))
    both = await show("update('support', 'order-4711', change)", change, lambda state: f"version {state.version}")
    say(f"{'context':>21}: {json.dumps(both.context)}")

    say("", "Delete")
    await show(f"delete{DRAFT}", store.delete(*DRAFT), str)
    await show_error(f"load{DRAFT}", store.load(*DRAFT), StateNotFoundError)


async def stored(url: str, config: RedisConfig | None, keys: Keys) -> None:
    """What stands in Redis, read by a plain client."""
    say("", "What stands in Redis")
    states = [keys.session(*session).key.decode() for session in (ORDER, REFUND, STUDY)]
    indexes = [keys.agent(agent_id)[0].index.decode() for agent_id in AGENTS]
    if config is None:
        say("   Nothing: this ran in memory.")
        return
    try:
        async with plain_client(url, config) as client:
            rows = [f"string  {await client.strlen(key)} bytes, expires in {await client.ttl(key)} s" for key in states]
            rows += [f"zset    {b', '.join(await client.zrevrange(key, 0, -1)).decode()}" for key in indexes]
            documents = (await client.get(states[1]) or b"").splitlines()
    except (RedisError, ValueError):
        say(*(f"   {key}" for key in states + indexes))
        say("   Their values are shown where one plain connection can read them all.")
        return
    say(*(f"   {key:<43}{row}" for key, row in zip(states + indexes, rows, strict=True)))
    say("", f"   GET {states[1]}", *(f"   {pretty(json.loads(document), '   ')}" for document in documents))
    say("   The second document is what append added. A load puts the two together.")


def plain_client(url: str, config: RedisConfig) -> Any:
    """A client of redis-py for the store's server."""
    settings: dict[str, Any] = {"username": config.username, "password": config.password}
    if config.tls:
        settings |= {"ssl_certfile": config.tls_cert_file, "ssl_keyfile": config.tls_key_file}
        settings |= {"ssl_ca_certs": config.tls_ca_file}
    client: Any = Redis
    return client.from_url(f"{without_password(url)}?db={config.db}", **settings)


def recorder() -> tuple[Any, Any]:
    """What records metrics, where the SDK for it is installed: a reader and a provider."""
    try:
        from opentelemetry.sdk.metrics import MeterProvider, export  # noqa: PLC0415 - it is an extra
    except ImportError:
        return None, None
    reader = export.InMemoryMetricReader()
    return reader, MeterProvider([reader], shutdown_on_exit=False)


def metrics(reader: Any) -> None:
    """What was recorded so far."""
    say("", f"Metrics, by OpenTelemetry, under {PREFIX.rstrip('.')}")
    recorded = reader and reader.get_metrics_data()
    if not recorded:
        say("   They are shown where opentelemetry-sdk is: pip install 'redis-state[demo]'")
        return
    for metric in sorted(recorded.resource_metrics[0].scope_metrics[0].metrics, key=lambda metric: metric.name):
        name = metric.name.removeprefix(PREFIX)
        for point in metric.data.data_points:
            timing = metric.unit == "s"
            value = f"mean of {point.count}: {duration(point.sum / point.count)}" if timing else point.value
            attributes = "  ".join(f"{key}={text}" for key, text in point.attributes.items())
            say(f"   {name:<17}{metric.unit:<11}{value:<20}{attributes}".rstrip())


async def many(store: SessionStore[AgentState]) -> None:
    """Loads at the same time."""
    say("", "Many at once: they share a connection and its round trips")
    _, took = await timed(asyncio.gather(*(store.load(*ORDER) for _ in range(AT_ONCE))))
    row(took, f"gather({AT_ONCE} loads)", f"{duration(took / AT_ONCE)} each")


def say(*lines: str) -> None:
    """Lines of the page."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def row(took: float, call: str, result: str = "") -> None:
    """A call: how long it took, what it was, and what came back."""
    say(f"{duration(took):>10}  {call:<44}{result}".rstrip())


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    return f"{seconds * 1e6:.0f} µs" if seconds < MILLISECOND else f"{seconds * 1e3:.2f} ms"


async def timed(operation: Awaitable[T]) -> tuple[T, float]:
    """An operation's result, and how many seconds it took."""
    started = perf_counter()
    return await operation, perf_counter() - started


async def show(call: str, operation: Awaitable[T], tell: Callable[[T], str]) -> T:
    """A row for an operation."""
    result, took = await timed(operation)
    row(took, call, tell(result))
    return result


async def show_error(call: str, operation: Awaitable[object], expected: type[StateStoreError]) -> None:
    """A row for an operation that raises, and its error."""
    started = perf_counter()
    try:
        await operation
    except expected as error:
        row(perf_counter() - started, call)
        say(f"{'':12}{expected.__name__}: {error}")


def pretty(value: Any, indent: str = "") -> str:
    """JSON over several lines where it is too long for one; what fits beside its neighbour stands there."""
    text = json.dumps(value, ensure_ascii=False)
    if text[0] not in "{[" or len(indent + text) <= WIDTH:
        return text
    inner = indent + "  "
    if text[0] == "{":
        items = [f"{json.dumps(name)}: {pretty(item, inner)}" for name, item in value.items()]
    else:
        items = [pretty(item, inner) for item in value]
    lines = [inner + items[0]]
    for item in items[1:]:
        lines[-1] += ","
        if "\n" in lines[-1] + item or len(lines[-1] + item) >= WIDTH:
            lines.append(inner + item)
        else:
            lines[-1] += f" {item}"
    return "\n".join([text[0], *lines, indent + text[-1]])
