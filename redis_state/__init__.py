"""The state of AI agents in Redis.

Everything that is public is imported from here; `redis_state.testing` has real servers for tests.
"""

from redis_state.config import OpenOptions, RedisConfig, StoreOptions, ViewOptions
from redis_state.errors import (
    ForeignLoopError,
    InvalidIdError,
    NotReplicatedError,
    OutcomeUnknownError,
    PartitionsMismatchError,
    ServerRefusedError,
    StateDecodeError,
    StateEncodeError,
    StateNotFoundError,
    StateStoreError,
    StateTooLargeError,
    StoreClosedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from redis_state.loop_local import LoopLocal
from redis_state.memory.store import MemoryStateStore
from redis_state.models import AgentState, Message, SessionInfo
from redis_state.open import open_store
from redis_state.protocol import SessionStore, StateStore
from redis_state.redis_store import RedisStateStore

__all__ = [
    # what a store promises
    "StateStore",
    "SessionStore",
    # stores
    "RedisStateStore",
    "MemoryStateStore",
    "open_store",
    "LoopLocal",
    "RedisConfig",
    "StoreOptions",
    "OpenOptions",
    "ViewOptions",
    # data
    "AgentState",
    "Message",
    "SessionInfo",
    # errors: the caller's or the data's
    "StateStoreError",
    "StateNotFoundError",
    "VersionConflictError",
    "InvalidIdError",
    "StateEncodeError",
    "StateDecodeError",
    "StateTooLargeError",
    "StoreClosedError",
    "ForeignLoopError",
    "PartitionsMismatchError",
    # errors: the server's or the network's
    "StoreUnavailableError",
    "StoreTimeoutError",
    "OutcomeUnknownError",
    "ServerRefusedError",
    "NotReplicatedError",
]
