"""What a state store promises. These docstrings are the specification, for every store and topology.

`StateStore`, the core, stands in `core_protocol.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

from redis_state.config.options import ViewOptions
from redis_state.core_protocol import HasMessages, Ids, KeepsMessages, KeepsVersions, M, StateStore
from redis_state.models import S, T

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
    from datetime import datetime, timedelta
    from types import TracebackType

    from redis_state.models import SessionInfo


class SessionStore(StateStore[S], Protocol[S]):
    """All that the stores of this library offer: the type to annotate a store with."""

    async def update(
        self: KeepsVersions,
        agent_id: str,
        session_id: str,
        fn: Callable[[S], Any | Awaitable[Any]],
        *,
        attempts: int = 100,
        ttl: timedelta | None = None,
    ) -> S:
        """Load a state, let `fn` change it, and save it if nobody else has written it meanwhile; else start again.

        The whole state is written as the store's type has it. If a newer worker's type has more fields, an older
        worker's `update` drops them, as its `save` does. To be told, set ``forbid_unknown_fields=True`` on the state
        type: then the older worker's load is a `StateDecodeError`.

        Args:
            agent_id: The agent.
            session_id: The session.
            fn: Changes the state that it is given, in place; plain or async. It may run several times. What it returns
                is ignored, unless that is another object of the state type.
            attempts: How often to try, 1 or more, with random pauses that grow.
            ttl: As for `save`.

        Returns:
            The state that was saved.

        Raises:
            StateNotFoundError: Nothing is stored.
            VersionConflictError: Somebody else wrote the session during every attempt.
            ValueError: `fn` changed `agent_id` or `session_id`. Nothing was written.
            TypeError: `fn` returned another state than it was given, and nothing was written; or the state type has
                no `version`.
        """
        ...

    async def append(
        self: KeepsMessages[M],
        agent_id: str,
        session_id: str,
        messages: M | Iterable[M],
        *,
        merge: Mapping[str, Any] | None = None,
        if_version: int | HasMessages[M] | None = None,
        create: HasMessages[M] | None = None,
        key: str | None = None,
        ttl: timedelta | None = None,
    ) -> int:
        """Add messages to a state without rewriting it. Counts as one version; a retry never adds them twice.

        Args:
            agent_id: The agent.
            session_id: The session.
            messages: What to add at the end of the state's `messages`: one message, or several in anything that can be
                iterated. Text, bytes, a mapping, a Struct and a dataclass are one message each.
            merge: Changes that are made in the same write, as by `merge`.
            if_version: Append only if this version is stored; 0, with `create`: only if nothing is. A state: only if
                nobody has written the session since it was loaded or saved, whatever the numbers. The state is not
                changed: go on with the version that is returned.
            create: A state that is stored first if there is none, in the same write: the session then has version 1.
                The object is not changed. Of several first writers one object is stored, and the messages and changes
                of all.
            key: As for `save`: a repeat returns the version that the first write made.
            ttl: As for `save`; if neither it nor the store's is given, the expiry stays as it is.

        Returns:
            The version that the session has with these messages.

        Raises:
            StateNotFoundError: Nothing is stored, and neither `create` nor `if_version` is given.
            VersionConflictError: Another version is stored than `if_version`, or nothing. Nothing was written.
            StateEncodeError: A value would come back different, such as a tuple in `metadata`.
            StateTooLargeError: The state would be larger than the store's `max_state_bytes`.
            OutcomeUnknownError: The reply was lost, and the server cannot tell whether the messages were added.
            TypeError: The state type has no `messages`, or checks its fields together (``__post_init__``); or what was
                given is neither one message nor several.
            ValueError: A state given is of another session, or was never loaded or saved; ``if_version=0`` without
                `create`; or the key is empty or too long.
        """
        ...

    async def merge(
        self,
        agent_id: str,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        if_version: int | S | None = None,
        create: S | None = None,
        key: str | None = None,
        ttl: timedelta | None = None,
    ) -> int:
        """Change fields of a state without rewriting it. Counts as one version; a retry never does it twice.

        Merges of different fields, or of different entries of a mapping, never conflict and lose nothing; of the same
        entry the later wins.

        Args:
            agent_id: The agent.
            session_id: The session.
            changes: New values by the Python names of fields. Of a mapping field, such as `context` and `data`, the
                entries to set; `msgspec.UNSET` removes one, and a nested mapping is replaced as a whole. Any other
                field is replaced. Ids, `messages`, `version` and times are not to be merged.
            if_version: As for `append`.
            create: As for `append`.
            key: As for `save`.
            ttl: As for `append`.

        Returns:
            The version that the session has with these changes.

        Raises:
            StateNotFoundError: Nothing is stored, and neither `create` nor `if_version` is given.
            VersionConflictError: Another version is stored than `if_version`, or nothing. Nothing was written.
            StateEncodeError: A value is not of its field's type, or would come back different.
            StateTooLargeError: The state would be larger than the store's `max_state_bytes`.
            OutcomeUnknownError: The reply was lost, and the server cannot tell whether the changes were made.
            TypeError: The changes are no mapping, or the state type checks its fields together (``__post_init__``).
            ValueError: A field is none, or not to be merged; otherwise as for `append`.
        """
        ...

    async def load_messages(
        self: KeepsMessages[M], agent_id: str, session_id: str, *, limit: int | None = None
    ) -> list[M]:
        """The newest messages of a session, oldest first.

        Reads about as many bytes as it returns, where they were appended; else the whole state.

        Args:
            agent_id: The agent.
            session_id: The session.
            limit: How many at most, 0 or more; None is all.

        Raises:
            StateNotFoundError: Nothing is stored.
            StateDecodeError: What is stored is no state of the store's type, or has no such messages.
            TypeError: The state type has no `messages`, or the limit is no integer.
            ValueError: The limit is negative.
        """
        ...

    async def fork(
        self: KeepsVersions,
        agent_id: str,
        session_id: str,
        new_session_id: str,
        *,
        new_agent_id: str | None = None,
        messages: int | None = None,
    ) -> int:
        """Copy a state to another session, which must not be there. The source is not touched.

        The copy keeps `created_at`, its `updated_at` is now, and the store's `ttl` counts for it.

        Args:
            agent_id: The agent whose session is copied.
            session_id: That session.
            new_session_id: The session that is made.
            new_agent_id: Its agent; None: the same.
            messages: How many of the first messages it gets; None: all.

        Returns:
            The version of the copy, 1.

        Raises:
            StateNotFoundError: There is no source.
            VersionConflictError: The target is there, or it is the source.
            OutcomeUnknownError: The reply was lost, and the target is not there now.
            TypeError: The state type has no `version`, or no `messages` where their number is given.
            ValueError: The number is negative.
        """
        ...

    async def migrate(self, agent_id: str) -> int:
        """Rewrite the agent's states that have an older schema than the store, in bounded batches beside live traffic.

        This is no write: versions, times, expiry and places in the list stay. It may be interrupted and repeated.

        Args:
            agent_id: The agent.

        Returns:
            How many states were rewritten.

        Raises:
            StateDecodeError: A state has a newer schema, or a migration is missing or fails.
        """
        ...

    def sessions(
        self, agent_id: str, *, limit: int | None = None, before: SessionInfo | datetime | None = None
    ) -> AsyncIterator[SessionInfo]:
        """The agent's sessions, newest first, read in pages as they are asked for.

        A session that is there from the first page to the last is shown exactly once, however often it is saved
        meanwhile; one that was saved after its place was passed may come at the end. States are not loaded.

        Args:
            agent_id: The agent.
            limit: How many at most; None is all.
            before: Where to start: after this session, which an earlier iteration returned, or with sessions that are
                older than this time.

        Raises:
            TypeError: The limit is no integer, or `before` neither a `SessionInfo` nor a datetime.
            ValueError: The limit is negative, or the time is naive.
        """
        ...

    async def load_many(self, agent_id: str, session_ids: Ids | Iterator[str]) -> dict[str, S]:
        """The states of several sessions by id, in the order of the ids. Ids without a state are left out.

        Raises:
            StateDecodeError: What is stored for one of them is no state.
            TypeError: The ids are one text, or cannot be iterated.
        """
        ...

    async def count(self, agent_id: str) -> int:
        """How many sessions of the agent can be loaded. Looks at every one: O(n), in bounded steps."""
        ...

    async def exists(self, agent_id: str, session_id: str) -> bool:
        """Whether the session has a state."""
        ...

    async def touch(self, agent_id: str, session_id: str, *, ttl: timedelta | None = None) -> bool:
        """Let the state expire after `ttl` (None: the store's own) from now. Neither version nor place change.

        Returns:
            Whether there is one.

        Raises:
            ValueError: Neither `ttl` nor the store's own is given.
        """
        ...

    async def touch_agent(self, agent_id: str, *, ttl: timedelta | None = None) -> int:
        """Let all sessions of the agent expire together, `ttl` (None: the store's own) from now, in bounded steps.

        Neither versions nor places change. A session that is saved meanwhile keeps the expiry of that save or gets this
        one. Where an agent's sessions belong together, a call after a tenth of the `ttl` keeps all of them alive.

        Returns:
            How many there are.

        Raises:
            ValueError: Neither `ttl` nor the store's own is given.
        """
        ...

    async def delete_agent(self, agent_id: str, *, progress: Callable[[int], None] | None = None) -> int:
        """Delete every session of exactly this agent, in bounded batches. It may be interrupted and repeated.

        Args:
            agent_id: The agent.
            progress: Called after each batch with the number of states deleted so far.

        Returns:
            How many states were deleted.
        """
        ...

    def agents(self) -> AsyncIterator[str]:
        """The ids of the agents that have a session, each once, in no order. Looks at every key of every primary."""
        ...

    def view(self, state_type: type[T], *, namespace: str, **options: Unpack[ViewOptions]) -> SessionStore[T]:
        """Another store over the same connections, for states of another type, under ``{key_prefix}{namespace}:``.

        Neither sees anything of the other: its `agents`, listings and `delete_agent` are those of its own keys. It has
        the options of this store where it is given no others, and shares connections, limits and metrics. Closing it
        closes it alone; closing this store closes its views. A view may have views.

        Args:
            state_type: A msgspec Struct or dataclass with `agent_id` and `session_id`.
            namespace: 1 to 64 letters, digits, ``-``, ``_`` and ``.``, and neither ``sessions`` nor ``partitions``.
            options: Those of `ViewOptions`: `ttl`, `refresh_ttl`, `format`, `partitions`, `replicas` and
                `max_state_bytes`. Whether the data has this number of partitions is checked at the first operation.

        Raises:
            TypeError: An option is none of these, such as one of the connections, or of another type.
            ValueError: The namespace is none, or an option is out of range.
            StoreClosedError: This store is closed.
        """
        ...

    def reopen(self) -> SessionStore[S]:
        """A store with the same settings that is not open yet, for another event loop; `LoopLocal` makes one for each.

        In memory it has the same data, which is kept until all of them are closed, and may be in another thread. Of a
        view it is a store with connections of its own.

        Raises:
            TypeError: The store was made from a client of the caller's, whose connections belong to one event loop.
        """
        ...

    async def ping(self) -> None:
        """Check that a server answers; if none does, raise as every operation would."""
        ...

    async def __aenter__(self) -> Self:
        """Connect, and check that the server answers."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        ...
