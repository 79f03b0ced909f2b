"""Where Redis is and what a store may be told: as values, or as a URL."""

from redis_state.config.limits import Limits
from redis_state.config.options import (
    ConnectionOptions,
    OpenOptions,
    StoreOptions,
    ViewOptions,
    check_options,
    check_view,
    schema_of,
    split_options,
)
from redis_state.config.servers import RedisConfig, split_address
from redis_state.config.url import check_fields, parse_url

__all__ = [
    "ConnectionOptions",
    "Limits",
    "OpenOptions",
    "RedisConfig",
    "StoreOptions",
    "ViewOptions",
    "check_fields",
    "check_options",
    "check_view",
    "parse_url",
    "schema_of",
    "split_address",
    "split_options",
]
