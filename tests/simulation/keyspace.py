"""The keys and the script engine of one node: fakeredis, without its connections."""

from __future__ import annotations

import copy
import hashlib
import re
import time
from typing import Any, Final, cast

import fakeredis
from fakeredis._core import FakeServer
from fakeredis._helpers import SimpleError, SimpleString
from fakeredis._socket._fakesocket import FakeSocket
from fakeredis.model import ZSet, is_write_command
from lupa.lua51 import LuaError

__all__ = ["Change", "Error", "Keyspace", "Reply", "Status", "encode", "is_write", "keys_of"]

Error: Final = SimpleError
Status: Final = SimpleString
Reply = Any
Change = tuple[bytes, Any]  # a key and what it holds now; None: nothing

TOKEN: Final = re.compile(rb"~[0-9]+~")  # what the workload writes into every value, each once
_ALL_KEYS: Final = {b"DEL", b"UNLINK", b"EXISTS", b"TOUCH", b"MGET"}
_TWO_KEYS: Final = {b"COPY", b"RENAME", b"RENAMENX"}
_NO_KEYS: Final = {
    b"PING", b"ECHO", b"INFO", b"SCAN", b"WAIT", b"ROLE", b"CLUSTER", b"CLIENT", b"AUTH", b"HELLO", b"SELECT", b"MULTI",
    b"EXEC", b"DISCARD", b"ASKING", b"READONLY", b"READWRITE", b"SCRIPT", b"CONFIG", b"COMMAND", b"SENTINEL", b"TIME",
    b"SUBSCRIBE", b"PSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"DBSIZE", b"PUBLISH",
}  # fmt: skip
_PREPARED: dict[str, Any] = {}
_ALWAYS_WRITES: Final = {b"SET", b"APPEND", b"SETRANGE"}  # replicated even where they change nothing
_COMPILED: dict[bytes, Any] = {}


class _Engine(FakeSocket):
    """Runs one command at a time, and returns its reply as it is."""

    wrote = False  # whether anything was executed that is replicated even where it changes nothing

    def _lua_redis_call(self, lua_runtime: Any, expected_globals: set[Any], op: bytes, *args: Any) -> Any:
        self.wrote = self.wrote or op.upper() in _ALWAYS_WRITES
        return super()._lua_redis_call(lua_runtime, expected_globals, op, *args)

    def eval(self, script: bytes, numkeys: int, *keys_and_args: bytes) -> Reply:
        """What fakeredis does, without compiling a script again and collecting garbage after each."""
        server: Any = self._server
        digest = hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
        server.script_cache[digest] = script
        lua = self._get_server_runtime(server)
        server._lua_current_socket[0] = self
        self._script_resp = 2
        table = lua.table_from
        server._lua_set_keys_argv(table(keys_and_args[:numkeys]), table(keys_and_args[numkeys:]))
        if digest not in _COMPILED:
            _COMPILED[digest] = lua.compile(script)
        try:
            result = _COMPILED[digest]()
        except LuaError as error:
            raise SimpleError(f"ERR {error} script: {digest.decode()}") from None
        finally:
            self._script_resp = None
        return self._convert_lua_result(result, nested=False)

    def run(self, fields: list[bytes]) -> Reply:
        name = fields[0].decode("latin-1").lower()
        try:
            func, signature = self._name_to_func(name)
            arguments = fields[1:]
            signature.check_arity(arguments, self.version)
            self._db.time = time.time()
            with self._server.lock:  # fakeredis notifies under it
                return self._run_command(func, signature, arguments, False)  # noqa: FBT003  # fakeredis' own
        except SimpleError as error:
            return error


class Keyspace:
    """One node's keys and scripts."""

    def __init__(self) -> None:
        self._server: Any = FakeServer(version=(7, 0))
        if not _PREPARED:
            self._prepare()
        for name, value in _PREPARED.items():
            setattr(self._server, name, value)
        self._engine: Any = _Engine(self._server, 0, client_class=fakeredis.FakeRedis)

    def _prepare(self) -> None:
        """Make one Lua interpreter for all nodes of all runs: nothing of a run stays in it."""
        engine: Any = _Engine(self._server, 0, client_class=fakeredis.FakeRedis)
        engine._get_server_runtime(self._server)
        prepared = cast("dict[str, Any]", vars(self._server))
        _PREPARED.update({name: value for name, value in prepared.items() if name.startswith("_lua_")})

    def run(self, fields: list[bytes]) -> Reply:
        """Execute one command."""
        self._engine.wrote = fields[0].upper() in _ALWAYS_WRITES
        return self._engine.run(fields)

    @property
    def wrote(self) -> bool:
        """Whether the last command has executed a write that is replicated even where it changes nothing."""
        return self._engine.wrote

    def has(self, key: bytes) -> bool:
        """Whether a key is there."""
        return bool(self._engine.run([b"EXISTS", key]))

    def all_keys(self) -> list[bytes]:
        return list(self._server.dbs[0])

    def value(self, key: bytes) -> Any:
        """What a key holds, apart from what happens to it later."""
        item = self._server.dbs[0]._dict.get(key)
        if item is None:
            return None
        other = copy.copy(item)
        if isinstance(item.value, ZSet):
            other.value = ZSet()
            for member, score in cast("Any", item.value)._bylex.items():
                other.value.add(member, score)
        elif not isinstance(item.value, bytes):
            other.value = copy.deepcopy(item.value)
        return other

    def content(self, key: bytes) -> object:
        """What a key holds, to see whether a script has changed it."""
        item = self._server.dbs[0]._dict.get(key)
        if item is None:
            return None
        return (dict(cast("Any", item.value)._bylex) if isinstance(item.value, ZSet) else item.value), item.expireat

    def put(self, change: Change) -> None:
        """Take a value over from another node."""
        key, item = change
        database = self._server.dbs[0]
        if item is None:
            database._dict.pop(key, None)
        else:
            database[key] = item

    def take_all(self, other: Keyspace) -> None:
        """Become a copy of another node's keys."""
        self._server.dbs[0]._dict.clear()
        for key in other.all_keys():
            self.put((key, other.value(key)))

    def tokens(self, key: bytes) -> list[bytes]:
        """The marks of the workload's writes in a string."""
        item = self._server.dbs[0]._dict.get(key)
        return TOKEN.findall(item.value) if item is not None and isinstance(item.value, bytes) else []

    def forget_scripts(self) -> None:
        """Lose the scripts, as by SCRIPT FLUSH."""
        self._server.script_cache.clear()


def keys_of(fields: list[bytes]) -> list[bytes]:
    """The keys that a command names."""
    name = fields[0].upper()
    if name in _NO_KEYS:
        return []
    if name in (b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO"):
        return fields[3 : 3 + int(fields[2])]
    if name in _ALL_KEYS:
        return fields[1:]
    return fields[1:3] if name in _TWO_KEYS else fields[1:2]


def is_write(fields: list[bytes]) -> bool:
    """Whether a command may write."""
    name = fields[0].upper()
    return name in (b"EVAL", b"EVALSHA") or is_write_command(name.lower())


def encode(reply: Reply) -> bytes:
    """A reply as RESP2 has it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Status):
        return b"+%b\r\n" % reply.value
    if isinstance(reply, Error):
        return b"-%b\r\n" % reply.value.encode()
    if isinstance(reply, (bool, int)):
        return b":%d\r\n" % reply
    if isinstance(reply, float):
        reply = repr(reply).removesuffix(".0").encode()
    if isinstance(reply, str):
        reply = reply.encode()
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n%b" % (len(reply), b"".join(map(encode, reply)))
