"""The options of a store: which there are, what they may be, and that each way to make a store takes them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from redis_state import MemoryStateStore, RedisConfig, RedisStateStore, StoreOptions, open_store
from redis_state.checks import check
from redis_state.config import Limits


def with_a_client(**options: Any) -> object:
    return RedisStateStore(Redis(), **options)


WAYS: Final[dict[str, Callable[..., object]]] = {
    "client": with_a_client,
    "from_url": partial(RedisStateStore.from_url, "redis://"),
    "from_config": partial(RedisStateStore.from_config, RedisConfig()),
    "open_store redis": partial(open_store, "redis://"),
    "open_store memory": partial(open_store, "memory://"),
    "memory": MemoryStateStore,
}
in_each_way = pytest.mark.parametrize("way", WAYS)
ON_A_SERVER: Final = [way for way in WAYS if way != "memory"]
OF_URLS: Final = ["from_url", "open_store redis", "open_store memory"]


@in_each_way
def test_every_option_is_taken_and_no_unknown_one_is_ignored(way: str) -> None:
    """In memory those of a server mean nothing."""
    options: dict[str, Any] = {
        "ttl": timedelta(hours=1),
        "refresh_ttl": True,
        "format": "msgpack",
        "meter_provider": None,
        "partitions": 4,
        "replicas": 1,
        "max_state_bytes": 1_000_000,
        "schema": 2,
        "migrations": {1: dict},
        "logger": None,
    }
    assert set(options) == set(StoreOptions.__annotations__)
    known = ("ttl", "refresh_ttl", "format", "meter_provider") if way == "memory" else options
    WAYS[way](**{name: options[name] for name in known})
    for name in ("ttll", "pool", "decode_responses", "passwords", "TTL"):
        with pytest.raises(TypeError, match=name):
            WAYS[way](**{name: 1})


@pytest.mark.parametrize(
    ("ways", "name", "values", "error"),
    [
        (WAYS, "ttl", (timedelta(0), timedelta(microseconds=999), timedelta(seconds=-1)), ValueError),
        (WAYS, "ttl", (60, True), TypeError),
        (WAYS, "format", ("yaml",), ValueError),
        (WAYS, "format", (None, ["json"]), TypeError),
        (WAYS, "refresh_ttl", (1, "no", None), TypeError),
        (WAYS, "meter_provider", ("x",), TypeError),
        (ON_A_SERVER, "partitions", (0, -1, 4097, 10**9), ValueError),
        (ON_A_SERVER, "partitions", (1.5, "4", True, None), TypeError),
        (ON_A_SERVER, "replicas", (-1, 10**9), ValueError),
        (ON_A_SERVER, "replicas", (1.0, True), TypeError),
        (ON_A_SERVER, "logger", ("x", logging), TypeError),
        (OF_URLS, "tls_verify", ("no", 0, 1), TypeError),
        *(
            (["client"], name, (0, -1, math.inf, math.nan, 10**400, 86_401), ValueError)
            for name in ("dial_timeout", "read_timeout", "write_timeout")
        ),
        *(
            (["client"], name, ("3", True, None, timedelta(seconds=3)), TypeError)
            for name in ("dial_timeout", "read_timeout", "write_timeout", "pool_size")
        ),
        (["client"], "key_prefix", ("{", "a}b", "{a}:"), ValueError),
        (["client"], "key_prefix", (None, b"p:", 7), TypeError),
    ],
)
def test_a_wrong_value_is_refused_by_the_options_name_whichever_way_a_store_is_made(
    ways: list[str], name: str, values: tuple[Any, ...], error: type[Exception]
) -> None:
    """Over memory:// too, where it would have no effect."""
    for way in ways:
        for value in values:
            with pytest.raises(error, match=name):
                WAYS[way](**{name: value})


@pytest.mark.parametrize("prefix", ["{", "a}b", "{a}:"])
def test_a_prefix_with_braces_is_refused(prefix: str) -> None:
    """It would choose the slot of every key."""
    for make in (
        lambda: RedisStateStore.from_config(RedisConfig(key_prefix=prefix)),
        lambda: RedisStateStore.from_url(f"redis://?key_prefix={quote(prefix)}"),
    ):
        with pytest.raises(ValueError, match="braces"):
            make()


def test_every_option_has_a_check() -> None:
    """One for each name, and every default passes."""
    for name in (*RedisConfig.__dataclass_fields__, *Limits.__dataclass_fields__):
        check(name, getattr(RedisConfig() if hasattr(RedisConfig(), name) else Limits(), name))
    for name, value in {"ttl": None, "refresh_ttl": False, "format": "json", "partitions": 1}.items():
        check(name, value)
    for name in StoreOptions.__annotations__:
        with pytest.raises((TypeError, ValueError), match=name):
            check(name, object())


@pytest.mark.parametrize("store", [RedisStateStore, MemoryStateStore])
def test_a_store_whose_constructor_failed_has_a_repr(store: type[Any]) -> None:
    """A debugger or a log line may show an object that was never finished."""
    unfinished = object.__new__(store)
    assert repr(unfinished).startswith(f"<{store.__name__}")
    with pytest.raises(TypeError):
        unfinished.__init__("redis://", nothing=1)
    assert repr(unfinished).startswith(f"<{store.__name__}")
