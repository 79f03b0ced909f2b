"""What reaches an exception or a log line: printable, and with the reason."""

from __future__ import annotations

import logging
import pickle
import uuid

import pytest
from support.scripted import Command, ScriptedServer, bulk
from support.tls import TlsServer

from redis_state import RedisConfig, RedisStateStore, StateNotFoundError, StateStoreError, StoreUnavailableError
from redis_state.errors import printable
from redis_state.testing import RedisServer

EVIL = "evil\r\n\x1b[31mINFO forged line\u202e"


def slots(host: str) -> bytes:
    """One node with all slots, as CLUSTER SLOTS tells it."""
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n%b:1\r\n%b" % (bulk(host.encode()), bulk(b"n" * 40))


@pytest.mark.parametrize("text", ["", "plain", "Grüße: ä\u20ac", "a b"])
def test_what_can_be_printed_stays(text: str) -> None:
    """Whatever its script."""
    assert printable(text) == text


def test_what_steers_a_terminal_is_escaped() -> None:
    """Line ends, escapes, and signs that turn the direction of writing."""
    assert printable(EVIL) == "evil\\r\\n\\x1b[31mINFO forged line\\u202e"
    assert printable("\udc80").isprintable()


def test_no_error_of_a_store_breaks_a_line() -> None:
    """Whatever text it was made of; its data stay as they are, in copies too."""
    error = StoreUnavailableError(f"cannot connect to {EVIL}")
    assert str(error) == f"cannot connect to {printable(EVIL)}"
    again = pickle.loads(pickle.dumps(StateNotFoundError("a\n", "s\x1b")))
    assert (again.agent_id, again.session_id) == ("a\n", "s\x1b")
    assert str(again).isprintable()


async def test_a_host_that_a_cluster_names_and_that_is_none_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the exception nor in the debug lines."""

    def answer(command: Command) -> bytes | None:
        return slots(EVIL) if command[:2] == [b"CLUSTER", b"SLOTS"] else None

    caplog.set_level(logging.DEBUG, "redis_state")
    async with ScriptedServer(answer) as server:
        url = f"redis+cluster://{server.addr}?dial_timeout=0.5&read_timeout=0.3&write_timeout=0.2"
        store = RedisStateStore.from_url(url)
        with pytest.raises(StateStoreError, match="slot map") as caught:
            await store.list("a")
        await store.aclose()
    shown = [str(caught.value), *(each.getMessage() for each in caplog.records if each.name == "redis_state")]
    for text in shown:
        assert text.isprintable()
        assert "forged" not in text


class TestTls:
    @pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
    async def test_a_server_without_tls_is_told(self, redis_server: RedisServer, scheme: str) -> None:
        """It takes the handshake for a command without an end, so nothing comes back but the time limit."""
        store = RedisStateStore.from_url(f"{scheme}://{redis_server.addr}?dial_timeout=0.5")
        with pytest.raises(StoreUnavailableError, match=r"did not answer in time.*may not speak TLS.*tls=False"):
            await store.ping()
        await store.aclose()

    @pytest.mark.parametrize("greeting", [b"-ERR unknown command\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
    async def test_an_answer_without_tls_is_told(self, greeting: bytes) -> None:
        """At once, since no handshake looks like that."""
        async with ScriptedServer() as server:
            server.greeting = greeting
            store = RedisStateStore.from_url(f"rediss://{server.addr}")
            with pytest.raises(StoreUnavailableError, match=r"may not speak TLS.*tls=False"):
                await store.ping()
            await store.aclose()

    @pytest.mark.parametrize("cluster", [True, False])
    async def test_a_server_that_wants_tls_is_told(self, tls_server: TlsServer, *, cluster: bool) -> None:
        """It ends a connection that does not begin with a handshake."""
        addr = f"127.0.0.1:{tls_server.tls_port}"
        store = RedisStateStore.from_config(RedisConfig(addrs=[addr], cluster=cluster))
        with pytest.raises(StoreUnavailableError, match=r"may speak TLS.*tls=True"):
            await store.ping()
        await store.aclose()

    async def test_a_time_limit_without_tls_has_no_word_of_it(self) -> None:
        """A hint stands where it may be true."""
        async with ScriptedServer() as server:
            server.pause()
            prefix = uuid.uuid4().hex
            store = RedisStateStore.from_url(f"redis://{server.addr}?dial_timeout=0.2&key_prefix={prefix}")
            with pytest.raises(StoreUnavailableError) as caught:
                await store.ping()
            assert "TLS" not in str(caught.value)
            await store.aclose()
