"""What a store may be told by keyword."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict, cast

from opentelemetry.metrics import MeterProvider

from redis_state.checks import check, check_all
from redis_state.codec import Format, Migrations, Schema
from redis_state.config.servers import RedisConfig

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider


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
            from a plain dict to a plain dict. They run when a state is loaded; see `SessionStore.migrate`. They must
            not mind missing fields: what an older worker adds to a newer document is lifted by itself.
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


class ViewOptions(TypedDict, total=False):
    """The options of `StoreOptions` that a view may have otherwise than its store, by keyword."""

    ttl: timedelta | None
    refresh_ttl: bool
    format: Format
    partitions: int
    replicas: int
    max_state_bytes: int
    schema: int
    migrations: Migrations


class ConnectionOptions(TypedDict, total=False):
    """The fields of `RedisConfig` that may be given by keyword beside a URL. One that is given wins over the URL.

    `addrs`, `unix_socket` and `cluster` are what the URL itself says.
    """

    username: str | None
    password: str | None
    credential_provider: CredentialProvider | None
    db: int
    key_prefix: str
    dial_timeout: float
    read_timeout: float
    write_timeout: float
    pool_size: int
    master_name: str | None
    sentinel_addrs: list[str]
    sentinel_username: str | None
    sentinel_password: str | None
    tls: bool
    tls_ca_file: str | None
    tls_cert_file: str | None
    tls_key_file: str | None
    tls_verify: bool | None


class OpenOptions(StoreOptions, ConnectionOptions, total=False):
    """What `open_store` and `RedisStateStore.from_url` take by keyword: `StoreOptions`, and fields of `RedisConfig`."""


def split_options(options: OpenOptions) -> tuple[ConnectionOptions, StoreOptions]:
    """Tell fields of `RedisConfig` from the options of a store.

    Raises:
        TypeError: A name is neither.
    """
    fields: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in options.items():
        (fields if name in RedisConfig.__dataclass_fields__ else others)[name] = value
    unknown = sorted(set(others) - set(StoreOptions.__annotations__))
    if unknown:
        known = ", ".join((*StoreOptions.__annotations__, *ConnectionOptions.__annotations__))
        raise TypeError(f"unknown option {unknown[0]!r}; known are {known}")
    return cast("ConnectionOptions", fields), cast("StoreOptions", others)


def check_view(namespace: str, options: ViewOptions) -> None:
    """Validate the arguments of `view`.

    Raises:
        TypeError: An option is none of a view's, or a value is of another type.
        ValueError: The namespace is none, or a value is out of range.
    """
    check("namespace", namespace)
    unknown = sorted(set(options) - set(ViewOptions.__annotations__))
    if unknown:
        raise TypeError(
            f"view() does not take {unknown[0]!r}: connections, limits and metrics are those of its store; it takes "
            f"{', '.join(ViewOptions.__annotations__)}"
        )
    check_all({**options})


def check_options(options: StoreOptions) -> None:
    """Validate every option, and refuse a name that is none of theirs, which would be ignored.

    Raises:
        TypeError: A name is unknown, or a value is of another type.
        ValueError: A value is none that the option may have.
    """
    unknown = sorted(set(options) - set(StoreOptions.__annotations__))
    if unknown and unknown[0] in RedisConfig.__dataclass_fields__:
        raise TypeError(f"{unknown[0]!r} is no option here: set it where the connections are made, in the RedisConfig")
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
