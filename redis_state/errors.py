"""Every error that a store raises.

StateStoreError
├─ the caller's or the data's
│  ├─ StateNotFoundError
│  ├─ VersionConflictError
│  ├─ InvalidIdError (also a ValueError)
│  ├─ StateEncodeError
│  ├─ StateDecodeError
│  ├─ StateTooLargeError
│  ├─ StoreClosedError
│  ├─ ForeignLoopError
│  └─ PartitionsMismatchError (also a ValueError)
└─ the server's or the network's
   ├─ StoreUnavailableError
   ├─ StoreTimeoutError (also a TimeoutError)
   ├─ OutcomeUnknownError
   ├─ ServerRefusedError
   └─ NotReplicatedError

Messages carry ids, versions and codes, never a state's content and never a password. Wrong arguments (a state of
another type, an unknown URL scheme) are plain ``TypeError`` and ``ValueError``.
"""


def printable(text: str) -> str:
    """A text with what would break a line or steer a terminal escaped, such as a server's word for a host."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class StateStoreError(Exception):
    """The root of every error that a store raises."""

    def __str__(self) -> str:
        return printable(super().__str__())

    def __reduce__(self) -> tuple[object, ...]:
        """Copies and pickles keep the data."""
        return _again, (type(self), self.args, self.__dict__)


def _again(cls: type[StateStoreError], args: tuple[object, ...], data: dict[str, object]) -> StateStoreError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(data)
    return error


class StateNotFoundError(StateStoreError):
    """Raised when a session has no state: never saved, deleted, or expired.

    Attributes:
        agent_id: The agent that was asked for.
        session_id: The session that was asked for.
    """

    def __init__(self, agent_id: str, session_id: str) -> None:
        super().__init__(f"no state is stored for session {session_id!r} of agent {agent_id!r}")
        self.agent_id = agent_id
        self.session_id = session_id


class VersionConflictError(StateStoreError):
    """Raised when a conditional save finds another version than it expects. Nothing was written.

    Attributes:
        expected: The version that the caller named (0: nothing is stored).
        stored: The version that is stored (0: nothing is stored). It equals `expected` if that number was written
            by somebody else, such as by a plain save of an older object.
    """

    def __init__(self, expected: int, stored: int) -> None:
        super().__init__(f"expected version {expected}, but version {stored} is stored; load it and try again")
        self.expected = expected
        self.stored = stored


class InvalidIdError(StateStoreError, ValueError):
    """Raised when an agent or session id is not a string of 1 to 512 bytes of valid UTF-8."""


class StateEncodeError(StateStoreError):
    """Raised when a state would not come back equal, such as a tuple in `data`. Nothing was written.

    Attributes:
        path: Where the value stands, such as ``$.context.score``.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be stored: {reason}")
        self.path = path


class StateDecodeError(StateStoreError):
    """Raised when the bytes under a session's key are not a state of the store's type.

    Attributes:
        agent_id: The agent whose session was read.
        session_id: The session that was read.
    """

    def __init__(self, agent_id: str, session_id: str, reason: str) -> None:
        super().__init__(f"what is stored for session {session_id!r} of agent {agent_id!r} is no state: {reason}")
        self.agent_id = agent_id
        self.session_id = session_id


class StateTooLargeError(StateStoreError):
    """Raised when a state would be larger than the store's `max_state_bytes`. Nothing was written.

    Attributes:
        size: How many bytes it would have.
        limit: How many it may have.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the state would have {size} bytes; max_state_bytes allows {limit}")
        self.size = size
        self.limit = limit


class StoreClosedError(StateStoreError):
    """Raised when a closed store is used. Open another one."""


class ForeignLoopError(StateStoreError):
    """Raised when a store is used in another event loop or process than the one that used it first.

    Connections belong to one event loop: open a store in each, as `LoopLocal` does, or `reopen()` a store there.
    """


class PartitionsMismatchError(StateStoreError, ValueError):
    """Raised when the data was written with another number of `partitions` than the store has.

    Attributes:
        configured: The store's number.
        stored: The data's; None if the key ``{key_prefix}partitions`` holds no number.
    """

    def __init__(self, configured: int, stored: int | None) -> None:
        has = f"has {stored}" if stored is not None else "notes no number: is the key 'partitions' another program's?"
        super().__init__(f"the store has partitions={configured}, but the data under its key_prefix {has}")
        self.configured = configured
        self.stored = stored


class StoreUnavailableError(StateStoreError):
    """Raised when no server could be reached or none would serve the operation. It did not happen."""


class StoreTimeoutError(StateStoreError, TimeoutError):
    """Raised when an operation was not sent, or a read was not answered, in time. Nothing was written."""


class OutcomeUnknownError(StateStoreError):
    """Raised when a write was sent, its reply was lost, and the server cannot tell what became of it.

    The write happened once or not at all: load the session to see.
    """


class ServerRefusedError(StateStoreError):
    """Raised when the server refused an operation. Nothing was written, unless `stored` says so.

    Attributes:
        code: The first word of the server's reply, such as ``OOM``, ``NOPERM`` or ``WRONGTYPE``.
        stored: Whether the state was stored all the same, and only its place in the list or its expiry was refused.
    """

    def __init__(self, code: str, hint: str, *, stored: bool = False, what: str = "") -> None:
        text = f"{what}: the server refused with {code}" if what else f"the server refused with {code}"
        super().__init__(f"{text}: {hint}" if hint else text)
        self.code = code
        self.stored = stored


class NotReplicatedError(StateStoreError):
    """Raised when a write was applied but fewer replicas than asked for confirmed it in time.

    Attributes:
        wanted: How many replicas were asked for.
        confirmed: How many confirmed.
    """

    def __init__(self, wanted: int, confirmed: int) -> None:
        super().__init__(f"applied, but {confirmed} of {wanted} replicas confirmed it in time")
        self.wanted = wanted
        self.confirmed = confirmed
