"""The schema of a state type, and how documents of older ones become its."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

Document = dict[str, Any]
Migration = Callable[[Document], Document]
Migrations = Mapping[int, Migration]


class SchemaError(ValueError):
    """Raised when a document cannot be brought to the store's schema. The text holds nothing of it."""


class OtherSchemaError(Exception):
    """Raised when a part has another schema than the store, so that it must be read as a document."""


class Schema:
    """A schema and the steps to it.

    Args:
        number: The schema of the state type, 1 or more.
        migrations: For each older schema, from the oldest that is still stored, a function that makes a document of the
            next one: from a plain dict, as JSON or MessagePack decodes it, to a plain dict.

    Raises:
        TypeError: A number is no integer, or a migration no function.
        ValueError: The migrations are no chain that leads to the schema.
    """

    def __init__(self, number: int = 1, migrations: Migrations | None = None) -> None:
        steps = dict(migrations or {})
        for step, function in steps.items():
            if type(step) is not int or not callable(function):
                raise TypeError("migrations must map schema numbers to functions")
        if steps and sorted(steps) != list(range(min(steps), number)):
            raise ValueError(f"migrations must be a chain of schema numbers that ends with {number - 1}, without a gap")
        if steps and min(steps) < 1:
            raise ValueError("migrations must begin with schema 1 or a later one")
        self.number = number
        self.mark = b"" if number == 1 else b"#%d" % number
        self._steps = steps

    def lift(self, document: Document, schema: int, to: int | None = None) -> Document:
        """A document of another schema, as it is in this one.

        Args:
            document: A plain dict, which may be changed.
            schema: Its schema.
            to: A schema on the way to stop at.

        Raises:
            SchemaError: It is newer, a step is missing, or one fails.
        """
        target = self.number if to is None else to
        if max(schema, target) > self.number:
            raise SchemaError(f"it has schema {max(schema, target)}, and this store knows schema {self.number}")
        for step in range(schema, target):
            function = self._steps.get(step)
            if function is None:
                has = f"it has schema {schema}, this store has schema {self.number}"
                raise SchemaError(f"{has}, and no migration from {step} to {step + 1}")
            document = _applied(function, document, step)
        return document


def _applied(function: Migration, document: Document, step: int) -> Document:
    try:
        result: Any = function(document)
    except Exception as error:  # noqa: BLE001  # it is the user's function
        failure = SchemaError(f"the migration from schema {step} to {step + 1} failed with {type(error).__name__}")
    else:
        if isinstance(result, dict):
            return cast("Document", result)
        failure = SchemaError(f"the migration from schema {step} to {step + 1} returned no dict")
    raise failure  # outside of the handler, whose error would be its context and may quote the payload


FIRST_SCHEMA: Final = Schema()
