"""Who may connect, and to whom: TLS, certificates, unix sockets, ACL users and credential providers."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider
from support.states import Store, state
from support.tls import TlsFiles, TlsServer, make_certificates

from redis_state import (
    AgentState,
    RedisConfig,
    RedisStateStore,
    ServerRefusedError,
    StateStoreError,
    StoreUnavailableError,
)
from redis_state.testing import RedisServer

PASSWORD = "p w:@/%"
DIAL_TIMEOUT = 2.0
SLACK = 3.0  # seconds that a busy machine may add to a deadline


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(certificates: TlsFiles) -> Iterator[TlsServer]:
    with TlsServer.started(certificates, password=PASSWORD) as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex}:"


def url_of(server: TlsServer, prefix: str, **options: object) -> str:
    """The server's TLS URL; it trusts the server's authority unless it is told otherwise."""
    options = {"key_prefix": prefix, "dial_timeout": DIAL_TIMEOUT, "tls_ca_file": server.files.ca, **options}
    return f"{server.tls_url}?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())


async def works(store: RedisStateStore[AgentState]) -> None:
    """Check that a store opens and keeps a state, and leave nothing there."""
    async with store:
        await store.save(state())
        assert (await store.load("a", "s")).version == 1
        assert await store.delete("a", "s")


async def refusal(where: str | RedisConfig) -> StateStoreError:
    """The error with which a store fails to open, which it does within its dial_timeout."""
    store: Store = RedisStateStore.from_url(where) if isinstance(where, str) else RedisStateStore.from_config(where)
    async with asyncio.timeout(DIAL_TIMEOUT + SLACK):
        with pytest.raises(StateStoreError) as caught:
            await store.__aenter__()
    assert PASSWORD not in str(caught.value)
    return caught.value


async def unavailable(url: str) -> str:
    """What it says where it is StoreUnavailableError."""
    error = await refusal(url)
    assert isinstance(error, StoreUnavailableError)
    return str(error)


async def test_tls_works_with_the_authority_by_url_and_by_config(
    server: TlsServer, certificates: TlsFiles, prefix: str
) -> None:
    """`rediss://` and `tls=True` are the same, with a client certificate or without."""
    ca = str(certificates.ca)
    config = RedisConfig(addrs=[f"localhost:{server.tls_port}"], password=PASSWORD, key_prefix=prefix, tls=True)
    pair = certificates.client
    for files in ({}, {"tls_cert_file": str(pair.certificate), "tls_key_file": str(pair.key)}):
        await works(RedisStateStore.from_config(dataclasses.replace(config, tls_ca_file=ca, **files)))
    await works(RedisStateStore.from_url(url_of(server, prefix)))


async def test_a_certificate_that_cannot_be_trusted_is_refused_as_what_it_is(
    server: TlsServer, certificates: TlsFiles, prefix: str
) -> None:
    """Of an unknown authority, by our list or by the system's; expired; for another host. Checks are on by default."""
    without = url_of(server, prefix).replace(f"&tls_ca_file={quote(str(certificates.ca), safe='')}", "")
    for url in (url_of(server, prefix, tls_ca_file=certificates.other_ca), without):
        told = await unavailable(url)
        assert "the certificate is not accepted" in told
        assert "certificate" in told.partition("(")[2]
    for shown, words in ((certificates.expired, "expired"), (certificates.client, "not valid for '127.0.0.1'")):
        files = dataclasses.replace(certificates, server=shown)
        with TlsServer.started(files, password=PASSWORD) as other:
            assert words in await unavailable(url_of(other, prefix))


async def test_a_server_that_wants_a_client_certificate_gets_it_or_is_named_as_such(
    certificates: TlsFiles, prefix: str
) -> None:
    """Without one, and with one of another authority, the error speaks of certificates or their settings.

    A server may hang up before its alert is read, so it takes more than to repeat what the server said.
    """
    with TlsServer.started(certificates, password=PASSWORD, config={"tls-auth-clients": "yes"}) as strict:
        for pair, words in (
            (certificates.client, None),
            (None, r"certificate required|tls_cert_file"),
            (certificates.stranger, "TLS|tls_cert_file"),
        ):
            shown = {} if pair is None else {"tls_cert_file": pair.certificate, "tls_key_file": pair.key}
            if words is None:
                await works(RedisStateStore.from_url(url_of(strict, prefix, **shown)))
            else:
                assert re.search(words, await unavailable(url_of(strict, prefix, **shown)))


async def test_a_file_that_is_not_there_is_named(server: TlsServer, prefix: str) -> None:
    """A wrong path is a configuration's fault, and no network's: the message holds the path or the setting."""
    with pytest.raises((StateStoreError, ValueError, OSError), match=r"tls_ca_file|/nowhere/ca\.crt"):
        await RedisStateStore.from_url(url_of(server, prefix, tls_ca_file="/nowhere/ca.crt")).__aenter__()
    assert "/nowhere/redis.sock" in await unavailable(f"unix:///nowhere/redis.sock?dial_timeout={DIAL_TIMEOUT}")


async def test_tls_on_one_side_alone_is_an_error_in_time(server: TlsServer, prefix: str) -> None:
    """Neither a server nor a client without TLS makes the other wait for longer than dial_timeout."""
    await unavailable(url_of(server, prefix).replace(f":{server.tls_port}/", f":{server.port}/"))
    plain = f"{server.url}?dial_timeout={DIAL_TIMEOUT}"
    await unavailable(plain.replace(f":{server.port}/", f":{server.tls_port}/"))


async def test_checks_are_turned_off_only_in_the_url_and_in_the_code(server: TlsServer, prefix: str) -> None:
    """`tls_verify=false` in a URL alone is refused before anything is connected; with both it works."""
    url = url_of(server, prefix, tls_verify="false")
    with pytest.raises(ValueError, match="takes tls_verify=False in the code as well"):
        RedisStateStore.from_url(url)
    await works(RedisStateStore.from_url(url, tls_verify=False))


async def test_a_unix_socket_works_by_url_and_by_config(redis_server: RedisServer, prefix: str) -> None:
    await works(RedisStateStore.from_url(f"{redis_server.unix_url}?key_prefix={prefix}"))
    config = RedisConfig(unix_socket=str(redis_server.socket_path), key_prefix=prefix)
    await works(RedisStateStore.from_config(config))


@pytest.fixture
def user(redis_server: RedisServer, prefix: str) -> Iterator[str]:
    """A user that may do everything, but only with keys of agents whose names start with ``good``."""
    name = f"user-{uuid.uuid4().hex}"
    patterns = [f"~{prefix}{{good*", f"~{prefix}sessions:{{good*", f"~{prefix}partitions", f"~{prefix}{{half*"]
    redis_server.command("ACL", "SETUSER", name, "on", f">{PASSWORD}", "+@all", *patterns)
    yield name
    redis_server.command("ACL", "DELUSER", name)


async def test_a_key_that_the_user_may_not_touch_is_refused_alone(
    redis_server: RedisServer, prefix: str, user: str
) -> None:
    """NOPERM goes to the operations on that agent; state and index are written together or not at all."""
    config = RedisConfig(addrs=[redis_server.addr], username=user, password=PASSWORD, key_prefix=prefix)
    async with RedisStateStore.from_config(config) as store:
        calls = [store.save(state(f"s{n}", agent_id=("good", "bad")[n % 2])) for n in range(100)]
        results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        assert results[::2] == [None] * 50
        assert {(type(error), error.code) for error in results[1::2]} == {(ServerRefusedError, "NOPERM")}
        for denied in (
            store.load("bad", "s0"),
            store.delete("bad", "s0"),
            store.list("bad"),
            store.save(state(agent_id="half")),
            store.save(state(agent_id="half"), if_version=0),
        ):
            with pytest.raises(ServerRefusedError, match="NOPERM"):
                await denied
        assert await store.delete_agent("good") == 50
    assert redis_server.command("KEYS", f"{prefix}*") == []


async def test_a_wrong_password_says_so(redis_server: RedisServer, user: str) -> None:
    """WRONGPASS, without the password."""
    config = RedisConfig(addrs=[redis_server.addr], username=user, password="canary", dial_timeout=DIAL_TIMEOUT)
    error = await refusal(config)
    assert isinstance(error, ServerRefusedError)
    assert error.code == "WRONGPASS"
    assert "canary" not in str(error)


class Rotating(CredentialProvider):
    """Gives the user's credentials, and counts how often."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return self.user, PASSWORD


async def test_a_credential_provider_is_asked_for_every_connection(
    redis_server: RedisServer, prefix: str, user: str
) -> None:
    """Credentials that change are those of the next connection; redis-py's own provider works as well."""
    provider = Rotating(user)
    config = RedisConfig(addrs=[redis_server.addr], credential_provider=provider, key_prefix=prefix)
    async with RedisStateStore.from_config(config) as store:
        await store.save(state(agent_id="good"))
        asked = provider.asked
        assert asked >= 1
        redis_server.command("CLIENT", "KILL", "USER", user)
        assert (await store.load("good", "s")).version == 1
        assert provider.asked > asked
    theirs = dataclasses.replace(config, credential_provider=UsernamePasswordCredentialProvider(user, PASSWORD))
    async with RedisStateStore.from_config(theirs) as store:
        assert await store.delete("good", "s")
