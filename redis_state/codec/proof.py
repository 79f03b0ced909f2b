"""The proof that a value comes back as it was: by the types in it where they tell, else by decoding and comparing."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from redis_state.codec.nesting import LEVELS, fits, in_fresh_stack
from redis_state.codec.refusal import UNENCODABLE, difference, too_deep, unencodable
from redis_state.codec.roundtrip import compile_check
from redis_state.errors import StateEncodeError

_JSON: Final = msgspec.json.Encoder()
_MSGPACK: Final = msgspec.msgpack.Encoder()


class Proof:
    """Encodes values of one type, and refuses those that would come back different.

    Args:
        declared: The type.
        levels: How deeply a value may be nested.
        is_state: Whether it is the state type: attributes of the store's own are on its objects.
        is_packed: Whether it is to be stored in MessagePack too, sooner or later.

    Attributes:
        is_known: Tells of a value whether its types prove that it comes back.
        from_json: Decodes a value.
    """

    def __init__(self, declared: Any, *, levels: int = LEVELS, is_state: bool = False, is_packed: bool = False) -> None:
        self.is_known = compile_check(declared, levels=levels, is_state=is_state)
        self.from_json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(declared)
        self._levels = levels
        self._formats: list[tuple[Any, Any]] = [(_JSON, self.from_json)]
        if is_packed:
            self._formats.append((_MSGPACK, msgspec.msgpack.Decoder(declared)))

    def json(self, value: Any, path: str) -> bytes:
        """The JSON of a value.

        Args:
            value: The value.
            path: Where it stands, for the error.

        Raises:
            StateEncodeError: What would be loaded is not equal to it.
        """
        try:
            if self.is_known(value):
                return _JSON.encode(value)
        except (*UNENCODABLE, RecursionError):
            pass
        return self.compare(value, path)[0]

    def compare(self, value: Any, path: str = "$") -> list[bytes]:
        """Encode a value in each format, JSON first, decode that again and compare. Arguments and errors as `json`."""
        try:
            result = self._compared(value, path)
        except RecursionError:
            result = in_fresh_stack(self._compared, value, path)
        if isinstance(result, StateEncodeError):
            raise result
        return result

    def _compared(self, value: Any, path: str) -> list[bytes] | StateEncodeError:
        if not fits(value, self._levels):
            return too_deep(value, path, self._levels)
        encoded: list[bytes] = []
        for encoder, decoder in self._formats:
            try:
                encoded.append(encoder.encode(value))
                loaded = decoder.decode(encoded[-1])
            except UNENCODABLE as error:
                return unencodable(encoder, value, error, path)
            if (refusal := difference(value, loaded, path)) is not None:
                return refusal
        return encoded
