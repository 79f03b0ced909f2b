"""The options of a store, beside where its Redis is."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TypedDict

from opentelemetry.metrics import MeterProvider

from redis_state.checks import check_all
from redis_state.codec import Format, Migrations, Schema


class StoreOptions(TypedDict, total=False):
    """The options that every way to open a `RedisStateStore` takes, by keyword.

    Attributes:
        ttl: After how long a saved state expires. By default never, None.
        refresh_ttl: Whether a load starts the `ttl` anew, in the same command. By default False.
        format: What is written, ``"json"`` (the default) or ``"msgpack"``. Both are read.
        partitions: Over how many slots of a cluster the sessions of one agent are spread, 1 (the default) to 4096.
            Cannot be changed for existing data.
        replicas: How many replicas must confirm a write before it returns, else `NotReplicatedError`. By default 0.
        max_state_bytes: How many bytes a state may have as it is stored, else `StateTooLargeError`. By default 64 MB.
        schema: The number of the state type's schema, 1 (the default) or more. It stands in every document; one of a
            newer schema is a `StateDecodeError`, so that an older worker never drops what it does not know.
        migrations: For each older schema that may still be stored, a function that makes a document of the next one,
            from a plain dict to a plain dict. They run when a state is loaded; see `SessionStore.migrate`.
        meter_provider: Where metrics are recorded. By default the global provider.
        logger: Where debug lines go. By default ``logging.getLogger("redis_state")``.
    """

    ttl: timedelta | None
    refresh_ttl: bool
    format: Format
    partitions: int
    replicas: int
    max_state_bytes: int
    schema: int
    migrations: Migrations
    meter_provider: MeterProvider | None
    logger: logging.Logger | None


def check_options(options: StoreOptions) -> None:
    """Validate every option, and refuse a name that is none of theirs, which would be ignored.

    Raises:
        TypeError: A name is unknown, or a value is of another type.
        ValueError: A value is none that the option may have.
    """
    unknown = sorted(set(options) - set(StoreOptions.__annotations__))
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known are {', '.join(StoreOptions.__annotations__)}")
    check_all({**options})


def schema_of(options: StoreOptions) -> Schema:
    """The schema that the options say.

    Raises:
        TypeError: A migration is no function.
        ValueError: They are no chain that leads to the schema.
    """
    return Schema(options.get("schema", 1), options.get("migrations"))
