"""The core of what a state store promises: save, load, delete, list. The rest of the specification is `protocol.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from redis_state.models import S

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from datetime import timedelta


# What type checkers are told of the states that a store keeps

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


class StateStore(Protocol[S]):
    """The core of a store: save, load, delete, list.

    Every operation may raise `InvalidIdError` for an id that is none, `StoreClosedError` after `aclose`, and the errors
    of the server or the network that `redis_state.errors` lists. An outage never looks like "no such session".
    """

    @overload
    def save(
        self, state: S, *, if_version: None = None, key: str | None = None, ttl: timedelta | None = None
    ) -> Coroutine[Any, Any, None]: ...

    @overload
    def save(
        self: KeepsVersions,
        state: S,
        *,
        if_version: int | None = None,
        key: str | None = None,
        ttl: timedelta | None = None,
    ) -> Coroutine[Any, Any, None]: ...

    def save(
        self, state: S, *, if_version: int | None = None, key: str | None = None, ttl: timedelta | None = None
    ) -> Coroutine[Any, Any, None]:
        """Replace the session's state and put the session first in its agent's list, both or neither.

        What is saved is the state as it is when `save` is called, even if the call is awaited later. The object gets
        the next `version` and a new `updated_at`; a save that fails leaves it as it was. Without `if_version` the
        last write wins.

        Args:
            state: A state of the store's type.
            if_version: Save only if this version is stored; 0: only if nothing is. The object's own `version` saves it
                only if nobody has written the session since the object was loaded or saved, not even by a plain save
                that brought back the same number. (A Struct without ``dict=True`` and a dataclass with slots have no
                room for the note that this takes: for them only the number is compared.)
            key: The caller's idempotency key, 1 to 512 bytes. If a write with this key is among the latest of the
                session (16 at least), this one is not done: the object gets the version and time that the first one
                made, so that its next conditional save conflicts if more was written since. That holds for `save`,
                `append` and `merge` together, whatever was to be written. After a delete, an expiry, or a plain save
                by an object that did not know of the key, it is a new write.
            ttl: After how long the state expires, exact to the millisecond; None: the store's own `ttl`.

        Raises:
            VersionConflictError: Another version is stored than `if_version`. Nothing was written. A save that is
                repeated after a lost reply never conflicts with itself.
            StateEncodeError: A value would come back different, such as a tuple in `data`.
            StateTooLargeError: The state is larger than the store's `max_state_bytes`.
            OutcomeUnknownError: The reply was lost, and the server cannot tell whether the state was saved.
            TypeError: It is no state of the store's type, `if_version` is no integer or the type has no `version`, or
                the `ttl` is no timedelta.
            ValueError: A version is negative or 2**53 and more, or the `ttl` is below a millisecond.
        """
        ...

    async def load(self, agent_id: str, session_id: str) -> S:
        """The session's state, appended messages in their place. Every call makes a new object.

        Raises:
            StateNotFoundError: Nothing is stored: never saved, deleted, or expired.
            StateDecodeError: What is stored is no state of the store's type, or one with other ids.
        """
        ...

    async def delete(self, agent_id: str, session_id: str) -> bool:
        """Remove the session's state and its place in the list, both or neither.

        Returns:
            Whether there was one.

        Raises:
            OutcomeUnknownError: The reply was lost. A delete is not repeated, since somebody may have saved again.
        """
        ...

    async def list(self, agent_id: str, *, limit: int | None = None) -> list[str]:
        """The ids of the agent's sessions, most recently updated first by the writers' clocks.

        Lists what can be loaded, and nothing that has expired, was evicted or was deleted in any way.

        Args:
            agent_id: The agent.
            limit: How many at most, 0 or more; None is all.

        Raises:
            TypeError: The limit is no integer.
            ValueError: The limit is negative.
        """
        ...

    async def aclose(self) -> None:
        """Finish the operations under way, within their time, and close what the store opened. May be called again.

        What cannot be finished raises `StoreClosedError`, or `OutcomeUnknownError` if it is a write that was sent.
        """
        ...
