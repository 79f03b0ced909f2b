"""What type checkers are told of the states that a store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

M = TypeVar("M")


class HasVersion(Protocol):
    """A state type with versions."""

    @property
    def version(self) -> int | None:
        """How often the session was written."""
        ...


class HasMessages(Protocol[M]):
    """A state type with messages."""

    @property
    def messages(self) -> list[M]:
        """The conversation."""
        ...


class KeepsVersions(Protocol):
    """A store of such states: for type checkers, which refuse `if_version` and `update` on others."""

    async def load(self, agent_id: str, session_id: str) -> HasVersion:
        """As the store's."""
        ...


class KeepsMessages(Protocol[M]):
    """A store of such states: for type checkers, which refuse `append` on others, and of other messages."""

    async def load(self, agent_id: str, session_id: str) -> HasMessages[M]:
        """As the store's."""
        ...


class Ids(Protocol):
    """Several ids: what a text is not, whose `in` takes texts only."""

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, value: object, /) -> bool: ...
