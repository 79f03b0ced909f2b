"""A state and its bytes: the type, the proof that it comes back, the document and its revision. See README.md."""

from redis_state.codec.addition import Addition, draft_addition, key_id
from redis_state.codec.document import MAX_STATE_BYTES, Codec, Format
from redis_state.codec.lines import finish_line
from redis_state.codec.revision import UNKNOWN, Origin, Revision
from redis_state.codec.schema import Migrations, Schema
from redis_state.codec.state_type import Stamp, StateType

__all__ = [
    "MAX_STATE_BYTES", "UNKNOWN", "Addition", "Codec", "Format", "Migrations", "Origin", "Revision", "Schema",
    "Stamp", "StateType",
    "draft_addition", "finish_line", "key_id",
]  # fmt: skip
