"""Who may connect, and to whom: TLS, certificates, unix sockets, ACL users and credential providers."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider
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

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def state(agent_id: str = "agent", session_id: str = "s") -> AgentState:
    return AgentState(agent_id=agent_id, session_id=session_id)


def url_of(server: TlsServer, prefix: str, **options: object) -> str:
    """The server's TLS URL."""
    options = {"key_prefix": prefix, "dial_timeout": DIAL_TIMEOUT, **options}
    return f"{server.tls_url}?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in options.items())


async def works(store: RedisStateStore[AgentState]) -> None:
    """Check that a store opens and keeps a state, and leave nothing there."""
    async with store:
        await store.save(state())
        assert (await store.load("agent", "s")).version == 1
        assert await store.delete("agent", "s")


async def refusal(store: RedisStateStore[AgentState]) -> StateStoreError:
    """The error with which a store fails to open, which it does within its dial_timeout."""
    async with asyncio.timeout(DIAL_TIMEOUT + SLACK):
        with pytest.raises(StateStoreError) as caught:
            await store.__aenter__()
    assert PASSWORD not in str(caught.value)
    return caught.value


class TestTls:
    async def test_it_works_with_the_authority_by_url_and_by_config(
        self, server: TlsServer, certificates: TlsFiles, prefix: str
    ) -> None:
        """`rediss://` and `tls=True` are the same, with a client certificate or without."""
        config = RedisConfig(
            addrs=[f"localhost:{server.tls_port}"],
            password=PASSWORD,
            key_prefix=prefix,
            tls=True,
            tls_ca_file=str(certificates.ca),
        )
        await works(RedisStateStore.from_url(url_of(server, prefix, tls_ca_file=certificates.ca)))
        await works(RedisStateStore.from_config(config))
        pair = certificates.client
        shown = dataclasses.replace(config, tls_cert_file=str(pair.certificate), tls_key_file=str(pair.key))
        await works(RedisStateStore.from_config(shown))

    @pytest.mark.parametrize("authority", ["other_ca", None], ids=["another-authority", "the-system's"])
    async def test_a_certificate_of_an_unknown_authority_is_refused(
        self, server: TlsServer, certificates: TlsFiles, prefix: str, authority: str | None
    ) -> None:
        """Verification is on by default, and the error says that the certificate is not accepted."""
        ca = {} if authority is None else {"tls_ca_file": getattr(certificates, authority)}
        error = await refusal(RedisStateStore.from_url(url_of(server, prefix, **ca)))
        assert isinstance(error, StoreUnavailableError)
        assert "the certificate is not accepted" in str(error)
        assert "certificate" in str(error).partition("(")[2]

    async def test_an_expired_certificate_is_refused_as_such(self, certificates: TlsFiles, prefix: str) -> None:
        """The error says that it has expired."""
        with TlsServer.started(
            dataclasses.replace(certificates, server=certificates.expired), password=PASSWORD
        ) as expired:
            error = await refusal(RedisStateStore.from_url(url_of(expired, prefix, tls_ca_file=certificates.ca)))
        assert isinstance(error, StoreUnavailableError)
        assert "expired" in str(error)

    async def test_a_certificate_for_another_host_is_refused_as_such(self, certificates: TlsFiles, prefix: str) -> None:
        """The authority is right, the name is not: the error says that."""
        with TlsServer.started(
            dataclasses.replace(certificates, server=certificates.client), password=PASSWORD
        ) as other:
            error = await refusal(RedisStateStore.from_url(url_of(other, prefix, tls_ca_file=certificates.ca)))
        assert isinstance(error, StoreUnavailableError)
        assert "not valid for '127.0.0.1'" in str(error)

    async def test_a_server_that_wants_a_client_certificate_gets_it_or_is_named_as_such(
        self, certificates: TlsFiles, prefix: str
    ) -> None:
        """Without one, and with one of another authority, the error speaks of certificates or their settings.

        A server may hang up before its alert is read, so it takes more than to repeat what the server said.
        """
        with TlsServer.started(certificates, password=PASSWORD, config={"tls-auth-clients": "yes"}) as strict:
            ca, own, strange = certificates.ca, certificates.client, certificates.stranger
            shown = {"tls_cert_file": own.certificate, "tls_key_file": own.key}
            await works(RedisStateStore.from_url(url_of(strict, prefix, tls_ca_file=ca, **shown)))
            missing = await refusal(RedisStateStore.from_url(url_of(strict, prefix, tls_ca_file=ca)))
            assert isinstance(missing, StoreUnavailableError)
            assert re.search(r"certificate required|tls_cert_file", str(missing))
            shown = {"tls_cert_file": strange.certificate, "tls_key_file": strange.key}
            wrong = await refusal(RedisStateStore.from_url(url_of(strict, prefix, tls_ca_file=ca, **shown)))
            assert isinstance(wrong, StoreUnavailableError)
            assert re.search("TLS|tls_cert_file", str(wrong))

    async def test_a_file_that_is_not_there_is_named(self, server: TlsServer, prefix: str) -> None:
        """A wrong path is a configuration's fault, and no network's: the message holds the path or the setting."""
        url = url_of(server, prefix, tls_ca_file="/nowhere/ca.crt")
        with pytest.raises((StateStoreError, ValueError, OSError), match=r"tls_ca_file|/nowhere/ca\.crt"):
            await RedisStateStore.from_url(url).__aenter__()

    async def test_tls_on_one_side_alone_is_an_error_in_time(
        self, server: TlsServer, certificates: TlsFiles, prefix: str
    ) -> None:
        """Neither a server nor a client without TLS makes the other wait for longer than dial_timeout."""
        encrypted = url_of(server, prefix, tls_ca_file=certificates.ca)
        plain = f"{server.url}?dial_timeout={DIAL_TIMEOUT}"
        for url in (
            encrypted.replace(f":{server.tls_port}/", f":{server.port}/"),
            plain.replace(f":{server.port}/", f":{server.tls_port}/"),
        ):
            assert isinstance(await refusal(RedisStateStore.from_url(url)), StoreUnavailableError)

    async def test_checks_are_turned_off_only_in_the_url_and_in_the_code(self, server: TlsServer, prefix: str) -> None:
        """`tls_verify=false` in a URL alone is refused before anything is connected; with both it works."""
        url = url_of(server, prefix, tls_verify="false")
        with pytest.raises(ValueError, match="takes tls_verify=False in the code as well"):
            RedisStateStore.from_url(url)
        await works(RedisStateStore.from_url(url, tls_verify=False))


class TestUnixSocket:
    async def test_a_unix_socket_works_by_url_and_by_config(self, redis_server: RedisServer, prefix: str) -> None:
        """`unix:///path` and `unix_socket=` are the same."""
        await works(RedisStateStore.from_url(f"{redis_server.unix_url}?key_prefix={prefix}"))
        config = RedisConfig(unix_socket=str(redis_server.socket_path), key_prefix=prefix)
        await works(RedisStateStore.from_config(config))

    async def test_a_socket_that_is_not_there_is_named(self, prefix: str) -> None:
        """The error holds the path."""
        store = RedisStateStore.from_url(f"unix:///nowhere/redis.sock?key_prefix={prefix}&dial_timeout=2")
        error = await refusal(store)
        assert isinstance(error, StoreUnavailableError)
        assert "/nowhere/redis.sock" in str(error)


class Rotating(CredentialProvider):
    """Gives the user's credentials, and counts how often."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return self.user, PASSWORD


class TestUsers:
    @pytest.fixture
    def user(self, redis_server: RedisServer, prefix: str) -> Iterator[str]:
        """A user that may do everything, but only with keys of agents whose names start with ``good``."""
        name = f"user-{uuid.uuid4().hex}"
        patterns = [f"~{prefix}{{good*", f"~{prefix}sessions:{{good*", f"~{prefix}partitions"]
        redis_server.command("ACL", "SETUSER", name, "on", f">{PASSWORD}", "+@all", *patterns)
        yield name
        redis_server.command("ACL", "DELUSER", name)

    async def test_a_key_that_the_user_may_not_touch_is_refused_alone(
        self, redis_server: RedisServer, prefix: str, user: str
    ) -> None:
        """NOPERM goes to the operations on that agent; those that share their write are done."""
        config = RedisConfig(addrs=[redis_server.addr], username=user, password=PASSWORD, key_prefix=prefix)
        async with RedisStateStore.from_config(config) as store:
            saves = [store.save(state("good", f"s{n}")) for n in range(50)]
            denied = [store.save(state("bad", f"s{n}")) for n in range(50)]
            mixed: list[Any] = [each for both in zip(saves, denied, strict=True) for each in both]
            results = await asyncio.gather(*mixed, return_exceptions=True)
            assert results[::2] == [None] * 50
            assert {type(error) for error in results[1::2]} == {ServerRefusedError}
            assert {error.code for error in results[1::2] if isinstance(error, ServerRefusedError)} == {"NOPERM"}
            for denied_call in (store.load("bad", "s0"), store.delete("bad", "s0"), store.list("bad")):
                with pytest.raises(ServerRefusedError, match="NOPERM"):
                    await denied_call
            assert redis_server.command("KEYS", f"{prefix}*bad*") == []
            assert await store.delete_agent("good") == 50

    async def test_a_user_whose_index_is_out_of_reach_writes_no_state(
        self, redis_server: RedisServer, prefix: str, user: str
    ) -> None:
        """State and index are written together: where one key of the two is forbidden, neither is there."""
        redis_server.command("ACL", "SETUSER", user, f"~{prefix}{{half*")
        config = RedisConfig(addrs=[redis_server.addr], username=user, password=PASSWORD, key_prefix=prefix)
        async with RedisStateStore.from_config(config) as store:
            for if_version in (None, 0):
                with pytest.raises(ServerRefusedError, match="NOPERM"):
                    await store.save(state("half"), if_version=if_version)
        assert redis_server.command("KEYS", f"{prefix}*") == []

    async def test_a_wrong_password_says_so(self, redis_server: RedisServer, prefix: str, user: str) -> None:
        """WRONGPASS, without the password."""
        config = RedisConfig(addrs=[redis_server.addr], username=user, password="canary", dial_timeout=DIAL_TIMEOUT)
        error = await refusal(RedisStateStore.from_config(config))
        assert isinstance(error, ServerRefusedError)
        assert error.code == "WRONGPASS"
        assert "canary" not in str(error)

    async def test_a_credential_provider_is_asked_for_every_connection(
        self, redis_server: RedisServer, prefix: str, user: str
    ) -> None:
        """Credentials that change are those of the next connection."""
        provider = Rotating(user)
        config = RedisConfig(addrs=[redis_server.addr], credential_provider=provider, key_prefix=prefix)
        async with RedisStateStore.from_config(config) as store:
            await store.save(state("good"))
            asked = provider.asked
            assert asked >= 1
            redis_server.command("CLIENT", "KILL", "USER", user)
            assert (await store.load("good", "s")).version == 1
            assert provider.asked > asked
            assert await store.delete("good", "s")

    async def test_redis_pys_own_provider_works(self, redis_server: RedisServer, prefix: str, user: str) -> None:
        """With a user of the server's access list."""
        provider = UsernamePasswordCredentialProvider(user, PASSWORD)
        config = RedisConfig(addrs=[redis_server.addr], credential_provider=provider, key_prefix=prefix)
        async with RedisStateStore.from_config(config) as store:
            await store.save(state("good"))
            assert await store.delete_agent("good") == 1
