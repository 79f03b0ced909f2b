"""Documents that another program wrote or edited: they have no revision where one stands, so they are parsed for it."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from redis_state.codec.revision import MAX_VERSION, UNKNOWN, DamagedRevisionError, Revision, parse

_WHITE: Final = b" \t\r\n"


def fields_of(document: bytes) -> dict[str, Any]:
    """The fields of a document in JSON, white space around it allowed, or in MessagePack.

    Raises:
        ValueError: It is neither, or no object.
    """
    is_json = document.lstrip(_WHITE)[:1] == b"{"
    fields: Any = msgspec.json.decode(document) if is_json else msgspec.msgpack.decode(document)
    if type(fields) is not dict:
        raise ValueError("it is no object")
    return cast("dict[str, Any]", fields)


def revision_of(fields: dict[str, Any]) -> Revision:
    """The revision of a foreign document: its own if it was edited by hand, otherwise the version that it says.

    Raises:
        DamagedRevisionError: Its version is none that a store can have given.
    """
    text = fields.get("_rev")
    if type(text) is str:
        try:
            return parse(text.encode())
        except DamagedRevisionError:
            pass
    version = fields.get("version", 0)
    if type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise DamagedRevisionError
    return Revision(version) if version else UNKNOWN
