"""Configuration: what a URL says, what a RedisConfig holds, what options there are, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
import math
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from redis.credentials import UsernamePasswordCredentialProvider

from redis_state import AgentState, MemoryStateStore, RedisConfig, RedisStateStore, StoreOptions, open_store
from redis_state.checks import check
from redis_state.config import Limits, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_state.testing import RedisServer

SECRET: Final = "S3CRET-hunter2"


class TestRedisConfig:
    def test_defaults(self) -> None:
        """Those that are documented, and nothing besides."""
        assert dataclasses.asdict(RedisConfig()) == {
            "addrs": ["localhost:6379"],
            "cluster": False,
            "username": None,
            "password": None,
            "credential_provider": None,
            "db": 0,
            "key_prefix": "forge:state:",
            "dial_timeout": 5.0,
            "read_timeout": 3.0,
            "write_timeout": 3.0,
            "pool_size": 10,
            "unix_socket": None,
            "master_name": None,
            "sentinel_addrs": [],
            "sentinel_username": None,
            "sentinel_password": None,
            "tls": False,
            "tls_ca_file": None,
            "tls_cert_file": None,
            "tls_key_file": None,
            "tls_verify": True,
        }

    def test_defaults_are_not_shared(self) -> None:
        """A list of one is no list of another."""
        assert RedisConfig().addrs is not RedisConfig().addrs
        assert RedisConfig().sentinel_addrs is not RedisConfig().sentinel_addrs

    def test_cannot_be_changed(self) -> None:
        """A store reads it once; `dataclasses.replace` makes another."""
        config = RedisConfig()
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.db = 1  # pyright: ignore[reportAttributeAccessIssue]
        assert dataclasses.replace(config, db=1).db == 1

    def test_takes_keywords_only(self) -> None:
        """And none that it does not know."""
        with pytest.raises(TypeError):
            RedisConfig(["localhost:6379"])  # pyright: ignore[reportCallIssue]
        with pytest.raises(TypeError, match="adrs"):
            RedisConfig(adrs=["localhost:6379"])  # pyright: ignore[reportCallIssue]

    def test_a_password_is_not_shown(self) -> None:
        """Neither of Redis nor of the Sentinels, nor what provides one."""
        for config in (
            RedisConfig(username="ann", password=SECRET, sentinel_addrs=["s:1"], master_name="m"),
            RedisConfig(sentinel_addrs=["s:1"], master_name="m", sentinel_password=SECRET),
            RedisConfig(credential_provider=UsernamePasswordCredentialProvider("ann", SECRET)),
        ):
            for shown in (repr(config), str(config), f"{config}", repr([config]), repr(vars(config).keys())):
                assert SECRET not in shown

    @pytest.mark.parametrize(
        ("fields", "cluster"),
        [
            ({}, False),
            ({"addrs": ["a:1", "b:2"]}, True),
            ({"addrs": ["a:1"], "cluster": True}, True),
            ({"addrs": ["a:1", "b:2"], "master_name": "m", "sentinel_addrs": ["s:1"]}, False),
            ({"unix_socket": "/tmp/redis.sock"}, False),
        ],
    )
    def test_several_addresses_are_a_cluster(self, fields: dict[str, Any], *, cluster: bool) -> None:
        """Unless Sentinels or a socket say where Redis is."""
        assert RedisConfig(**fields).is_cluster is cluster

    @pytest.mark.parametrize(
        ("fields", "error", "match"),
        [
            *(
                ({name: value}, ValueError, name)
                for name in ("dial_timeout", "read_timeout", "write_timeout")
                for value in (0, -1, math.inf, math.nan)
            ),
            *(
                ({name: value}, TypeError, name)
                for name in ("dial_timeout", "read_timeout", "write_timeout")
                for value in ("3", True, None)
            ),
            ({"read_timeout": 10**400}, ValueError, "read_timeout"),
            ({"pool_size": 0}, ValueError, "pool_size"),
            ({"pool_size": 10_001}, ValueError, "pool_size"),
            ({"pool_size": 1.0}, TypeError, "pool_size"),
            ({"pool_size": True}, TypeError, "pool_size"),
            ({"db": -1}, ValueError, "db"),
            ({"db": 2**31}, ValueError, "db"),
            ({"db": True}, TypeError, "db"),
            ({"db": "1"}, TypeError, "db"),
            *(
                ({name: value}, TypeError, name)
                for name in ("cluster", "tls", "tls_verify")
                for value in ("no", 0, 1, None)
            ),
            *(
                ({name: value}, TypeError, f"{name} must be a string")
                for name in (
                    *("username", "password", "unix_socket", "master_name", "sentinel_username", "sentinel_password"),
                    *("tls_ca_file", "tls_cert_file", "tls_key_file", "key_prefix"),
                )
                for value in (5, b"x", False)
            ),
            *(
                ({name: "\udc80"}, ValueError, f"{name} holds a lone surrogate")
                for name in ("username", "password", "unix_socket", "key_prefix")
            ),
            *(
                ({name: ""}, ValueError, f"{name} must not be empty")
                for name in ("unix_socket", "master_name", "tls_ca_file")
            ),
            ({"credential_provider": "ann"}, TypeError, "credential_provider"),
            ({"key_prefix": "{a}"}, ValueError, "braces"),
            ({"addrs": [b"a:1"]}, TypeError, "addrs"),
            *(
                ({name: "pw"}, ValueError, f"{name} has no effect")
                for name in ("sentinel_username", "sentinel_password")
            ),
            ({"unix_socket": "/s", "cluster": True}, ValueError, "unix_socket"),
            ({"unix_socket": "/s", "master_name": "m", "sentinel_addrs": ["s"]}, ValueError, "unix_socket"),
            ({"cluster": True, "master_name": "m", "sentinel_addrs": ["s"]}, ValueError, "master_name"),
            ({"unix_socket": "/s", "tls": True}, ValueError, "no TLS"),
            ({"tls": True, "tls_key_file": "/k.pem"}, ValueError, "tls_cert_file"),
            ({"addrs": []}, ValueError, "addrs"),
            ({"addrs": "localhost:6379"}, TypeError, "addrs"),
            ({"addrs": ("localhost:6379",)}, TypeError, "addrs"),
            ({"sentinel_addrs": "s:26379", "master_name": "m"}, TypeError, "sentinel_addrs"),
            ({"master_name": "m"}, ValueError, "master_name and sentinel_addrs"),
            ({"sentinel_addrs": ["s:26379"]}, ValueError, "master_name and sentinel_addrs"),
            ({"addrs": ["a:1", "b:2"], "db": 1}, ValueError, "database 0"),
            ({"cluster": True, "db": 1}, ValueError, "database 0"),
            *(
                ({"addrs": [wrong]}, ValueError, "host:port")
                for wrong in (
                    "",
                    ":6379",
                    "a:",
                    "a:b",
                    "a:0",
                    "a:65536",
                    "a:-1",
                    "a:1.5",
                    "ann:pass@a:1",
                    "a:\u0663",
                    "a:" + 5000 * "9",
                    "a\nb",
                    "a\x1b[31m:1",
                    "a\u202eb:1",
                )
            ),
            ({"addrs": ["redis://a:1"]}, ValueError, "host:port"),
            ({"sentinel_addrs": ["s:x"], "master_name": "m"}, ValueError, "host:port"),
            (
                {"credential_provider": UsernamePasswordCredentialProvider("a", "b"), "password": "c"},
                ValueError,
                "credential_provider",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, fields: dict[str, Any], error: type[Exception], match: str) -> None:
        """When the configuration is made, by the name of the field."""
        with pytest.raises(error, match=match):
            RedisConfig(**fields)

    @pytest.mark.parametrize(
        "fields",
        [
            *({name: "/file.pem"} for name in ("tls_ca_file", "tls_cert_file", "tls_key_file")),
            {"tls_verify": False},
        ],
    )
    @pytest.mark.parametrize(
        "place",
        [{}, {"cluster": True}, {"unix_socket": "/s"}, {"master_name": "m", "sentinel_addrs": ["s:1"]}],
        ids=["plain", "cluster", "unix", "sentinel"],
    )
    def test_an_option_of_tls_without_tls_is_refused(self, fields: dict[str, Any], place: dict[str, Any]) -> None:
        """Who gives one believes that the password goes out encrypted."""
        (name,) = fields
        with pytest.raises(ValueError, match=f"{name} has no effect without TLS") as caught:
            RedisConfig(password=SECRET, **place, **fields)
        assert SECRET not in str(caught.value)
        config = RedisConfig(password=SECRET, **place)
        with pytest.raises(ValueError, match=f"{name} has no effect without TLS"):
            dataclasses.replace(config, **fields)

    def test_the_default_of_a_check_is_no_wish_for_tls(self) -> None:
        """A configuration without TLS has `tls_verify=True`, and may be made from another."""
        assert RedisConfig(tls_verify=True) == RedisConfig() == dataclasses.replace(RedisConfig())
        assert dataclasses.replace(RedisConfig(), tls=True).tls_verify is True

    @pytest.mark.parametrize("address", ["localhost", "10.0.0.1", "[::1]", "[::1]:7000", "a:1", "a-b.example:65535"])
    def test_what_an_address_is(self, address: str) -> None:
        """A host, and a port unless it is the usual one."""
        assert RedisConfig(addrs=[address]).addrs == [address]

    @pytest.mark.parametrize("wrong", [None, "redis://localhost", {"addrs": ["a:1"]}, RedisConfig])
    def test_what_is_none_is_a_type_error(self, wrong: Any) -> None:
        """Said before anything is connected."""
        with pytest.raises(TypeError, match="RedisConfig"):
            RedisStateStore.from_config(wrong)


URLS: Final[dict[str, dict[str, Any]]] = {
    # Schemes
    "redis://": {},
    "redis://redis.example": {"addrs": ["redis.example"]},
    "redis://redis.example:7000": {"addrs": ["redis.example:7000"]},
    "redis://redis.example:7000/": {"addrs": ["redis.example:7000"]},
    "redis://redis.example:7000/2": {"addrs": ["redis.example:7000"], "db": 2},
    "rediss://redis.example:7000/2": {"addrs": ["redis.example:7000"], "db": 2, "tls": True},
    "unix:///run/redis.sock": {"unix_socket": "/run/redis.sock"},
    "unix:///run/a%20b%3F.sock?db=2": {"unix_socket": "/run/a b?.sock", "db": 2},
    "unix://ann:pw@/run/redis.sock": {"unix_socket": "/run/redis.sock", "username": "ann", "password": "pw"},
    "unix://relative/redis.sock": {"unix_socket": "relative/redis.sock"},
    "redis+cluster://a:7001": {"addrs": ["a:7001"], "cluster": True},
    "redis+cluster://a:7001,b:7002,c": {"addrs": ["a:7001", "b:7002", "c"], "cluster": True},
    "rediss+cluster://ann:pw@a:7001,b:7002": {
        "addrs": ["a:7001", "b:7002"],
        "cluster": True,
        "tls": True,
        "username": "ann",
        "password": "pw",
    },
    "redis+sentinel://s1:26379,s2:26380/mymaster": {
        "sentinel_addrs": ["s1:26379", "s2:26380"],
        "master_name": "mymaster",
    },
    "redis+sentinel://ann:pw@s1,s2/my%2Fmaster/3?sentinel_username=bob&sentinel_password=p%26w": {
        "sentinel_addrs": ["s1", "s2"],
        "master_name": "my/master",
        "db": 3,
        "username": "ann",
        "password": "pw",
        "sentinel_username": "bob",
        "sentinel_password": "p&w",
    },
    "rediss+sentinel://s1/m": {"sentinel_addrs": ["s1"], "master_name": "m", "tls": True},
    # Who
    "redis://ann@a": {"addrs": ["a"], "username": "ann"},
    "redis://ann:@a": {"addrs": ["a"], "username": "ann"},
    "redis://:pw@a": {"addrs": ["a"], "password": "pw"},
    "redis://ann:pw@": {"username": "ann", "password": "pw"},
    "redis://a%40b:p%3Aw%2F%3F%23%5B%5D%40%25%20+%C3%A9@a": {
        "addrs": ["a"],
        "username": "a@b",
        "password": "p:w/?#[]@% +é",
    },
    "redis://ann:p:w@a": {"addrs": ["a"], "username": "ann", "password": "p:w"},
    "redis://ann:p@w@a": {"addrs": ["a"], "username": "ann", "password": "p@w"},
    "redis://ann:p/w#@a/1": {"addrs": ["a"], "username": "ann", "password": "p/w#", "db": 1},
    # Where
    "redis://[::1]": {"addrs": ["[::1]"]},
    "redis://:pw@[2001:db8::1]:7000/1": {"addrs": ["[2001:db8::1]:7000"], "password": "pw", "db": 1},
    "redis+cluster://[::1]:7001,[::1]:7002": {"addrs": ["[::1]:7001", "[::1]:7002"], "cluster": True},
    # Options
    "redis://a?db=4": {"addrs": ["a"], "db": 4},
    "redis://a/?key_prefix=app%3Aé%26&pool_size=3": {"addrs": ["a"], "key_prefix": "app:é&", "pool_size": 3},
    "redis://a?key_prefix=": {"addrs": ["a"], "key_prefix": ""},
    "redis://a?dial_timeout=1.5&read_timeout=0.25&write_timeout=2": {
        "addrs": ["a"],
        "dial_timeout": 1.5,
        "read_timeout": 0.25,
        "write_timeout": 2.0,
    },
    "rediss://a?tls_ca_file=/ca.pem&tls_cert_file=/c%20d.pem&tls_key_file=/k.pem&tls_verify=true": {
        "addrs": ["a"],
        "tls": True,
        "tls_ca_file": "/ca.pem",
        "tls_cert_file": "/c d.pem",
        "tls_key_file": "/k.pem",
    },
}

BAD_URLS: Final = [
    *("", "a", "a:6379", "redis:a", "redis:/a", "//a", "http://a", "REDIS://a", " redis://a", "redis+tls://a"),
    *("redis://a:b", "redis://a:0", "redis://a:65536", "redis://a:-1", "redis://:6379", "redis://a:6379:b"),
    *("redis://a/b", "redis://a/0/1", "redis://a/-1", "redis://a/1.5", "redis://a?db=-1", "redis://a?db=one"),
    *("redis://a,b", "redis://a:1,b:2/0", "rediss://a,b"),
    *("unix://", "unix://?db=1", "redis+cluster://", "redis+cluster://a/1", "redis+cluster://a,b?db=1"),
    *("redis+sentinel://", "redis+sentinel://s1", "redis+sentinel://s1/", "redis+sentinel:///m"),
    *("redis+sentinel://s1/m/x", "redis+sentinel://s1/m/0/1", "redis+sentinel://s1:x/m"),
    *(
        "redis://a?unknown=1",
        "redis://a?decode_responses=true",
        "redis://a?password=x",
        "redis://a?DB=1",
        "redis://a?x",
    ),
    *("redis://a?pool_size=0", "redis://a?pool_size=many", "redis://a?pool_size=", "redis://a?pool_size=1.5"),
    *(
        "redis://a?read_timeout=0",
        "redis://a?read_timeout=-1",
        "redis://a?read_timeout=inf",
        "redis://a?read_timeout=nan",
    ),
    *("redis://a/1?db=5", "redis://a/1?db=1", "redis://a?db=1&db=1", "redis://a?pool_size=1&pool_size=2"),
    *("redis://a/\u0663", "redis://a?db=\u0663", "redis://a?pool_size=1_0", "redis://a?db=+1", "redis://a?db=%201"),
    *(
        "redis://a?db=" + 5000 * "9",
        "redis://a/" + 5000 * "9",
        "redis://a?read_timeout=1_0",
        "redis://a?read_timeout=-0",
    ),
    *("redis://a\n", "redis://a\x1b", "redis://a?key_prefix=%7Ba%7D"),
    *(
        f"{place}{option}"
        for place in ("redis://ann:pw@a?", "unix:///s?", "redis+cluster://a?", "redis+sentinel://s/m?")
        for option in ("tls_verify=true", "tls_verify=false", "tls_ca_file=/ca", "tls_cert_file=/c", "tls_key_file=/k")
    ),
    *(
        "redis://a?read_timeout=3s",
        "rediss://a?tls_verify=maybe",
        "rediss://a?tls_verify=false",
        "redis://a?tls_verify=0",
    ),
]

# A password where it does not belong, or that was not percent-encoded.
MISPLACED: Final = [
    f"{SECRET}",
    f"{SECRET}://a",
    f"redis:{SECRET}@a",
    f"redis://ann:{SECRET}",
    f"redis://ann:{SECRET}:6379",
    f"redis://a/{SECRET}",
    f"redis://a/0/{SECRET}",
    f"redis://a:{SECRET}/0",
    f"redis://a?password={SECRET}",
    f"redis://a?db={SECRET}",
    f"redis://a?pool_size={SECRET}",
    f"redis://a?read_timeout={SECRET}",
    f"rediss://a?tls_verify={SECRET}",
    f"redis://:p?{SECRET}@a",
    f"redis://:{SECRET}?x@a",
    f"redis://:{SECRET}?db=1@a",
    f"redis://:{SECRET}@a:b",
    f"redis://:{SECRET}@a?unknown=1",
    f"redis://:{SECRET}@a,b",
    f"redis+cluster://:{SECRET}@a/1",
    f"redis+cluster://a,ann:{SECRET}@b:x",
    f"redis+sentinel://:{SECRET}@s1",
    f"redis+sentinel://s1,{SECRET}:x/m",
    f"redis+sentinel://s1/m?sentinel_password={SECRET}&x=1",
    f"unix://:{SECRET}@",
]


class TestUrls:
    @pytest.mark.parametrize("url", URLS)
    def test_what_they_say(self, url: str) -> None:
        """Every scheme, every option, percent-encoding and IPv6."""
        assert parse_url(url) == RedisConfig(**URLS[url])

    def test_certificate_checks_are_turned_off_by_two(self) -> None:
        """By the code alone, or by URL and code; a URL alone, which may come from anywhere, cannot."""
        assert parse_url("rediss://a").tls_verify is True
        assert parse_url("rediss://a", tls_verify=False).tls_verify is False
        assert parse_url("rediss://a?tls_verify=False", tls_verify=False).tls_verify is False
        assert parse_url("rediss://a?tls_verify=true", tls_verify=False).tls_verify is True
        with pytest.raises(ValueError, match="tls_verify=False in the code"):
            RedisStateStore.from_url("rediss://a?tls_verify=false")

    @pytest.mark.parametrize("open_it", [RedisStateStore.from_url, open_store], ids=["from_url", "open_store"])
    @pytest.mark.parametrize("url", ["redis://ann:pw@a", "unix:///s", "redis+cluster://a", "redis+sentinel://s/m"])
    @pytest.mark.parametrize("verify", [True, False])
    def test_a_keyword_of_tls_without_tls_is_refused(
        self, url: str, open_it: Callable[..., object], *, verify: bool
    ) -> None:
        """As in the URL: whoever wants certificates checked, or not, believes that there are some."""
        with pytest.raises(ValueError, match=r"tls_verify has no effect without TLS: .*rediss"):
            open_it(url, tls_verify=verify)

    @pytest.mark.parametrize("open_it", [RedisStateStore.from_url, open_store], ids=["from_url", "open_store"])
    @pytest.mark.parametrize("url", BAD_URLS)
    def test_what_cannot_be_read_is_a_value_error(self, url: str, open_it: Callable[[str], object]) -> None:
        """At once, with a message of one line."""
        with pytest.raises(ValueError, match=r"\S") as caught:
            open_it(url)
        assert type(caught.value) is ValueError
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize(
        ("url", "hint"),
        [
            ("http://a", r"redis\+sentinel://"),
            ("redis://a/1?db=5", "'db' twice"),
            ("redis://a?tls_ca_file=/ca", "tls_ca_file has no effect without TLS.*rediss"),
            ("redis://a?unknown=1", "'unknown'.*known are db, key_prefix"),
            ("redis://a?db=one", "'db'"),
            ("redis://a,b", r"redis\+cluster://"),
            ("rediss://a,b", r"rediss\+cluster://"),
            ("redis://a/b", "database number"),
            ("redis://a:b", "host:port"),
            ("redis+cluster://", "redis\\+cluster://host"),
            ("redis+sentinel://s1", "mymaster"),
            ("unix://", "unix:///path"),
            ("redis://:p?w@a", "percent-encoded"),
        ],
    )
    def test_the_message_says_what_to_write(self, url: str, hint: str) -> None:
        """Not only what is wrong."""
        with pytest.raises(ValueError, match=hint):
            parse_url(url)

    @pytest.mark.parametrize("url", MISPLACED)
    def test_a_misplaced_password_is_not_shown(self, url: str) -> None:
        """Nor is one in its place, whatever else is wrong."""
        with pytest.raises(ValueError, match=r"\S") as caught:
            RedisStateStore.from_url(url)
        error: BaseException | None = caught.value
        while error is not None:
            assert SECRET not in f"{error!r} {error} {error.args}"
            error = error.__cause__ or error.__context__

    @pytest.mark.parametrize("wrong", [None, b"redis://a", 6379, ["redis://a"]])
    def test_what_is_no_string_is_a_type_error(self, wrong: Any) -> None:
        """It says what it was given."""
        with pytest.raises(TypeError, match=type(wrong).__name__):
            RedisStateStore.from_url(wrong)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://", "localhost:6379"),
            ("redis://ann:S3CRET-hunter2@redis.example:7000/1", "redis.example:7000"),
            ("redis://[::1]:7000", "::1:7000"),
            ("unix:///run/redis.sock", "/run/redis.sock"),
            ("redis+cluster://:S3CRET-hunter2@a:7001,b:7002", "a:7001, b:7002"),
            ("redis+sentinel://:S3CRET-hunter2@s1/mymaster?sentinel_password=S3CRET-hunter2", "mymaster"),
        ],
    )
    async def test_a_store_shows_where_it_leads_and_no_password(self, url: str, shown: str) -> None:
        """In its repr."""
        store = RedisStateStore.from_url(url)
        assert shown in repr(store)
        assert SECRET not in repr(store)
        await store.aclose()

    async def test_what_they_say_reaches_the_server(self, redis_server: RedisServer) -> None:
        """User, password, database and prefix, each with characters that have to be encoded."""
        user, password, prefix = f"ann@{uuid.uuid4().hex}", "p:w/?#[]@%+é ", f"test-{uuid.uuid4().hex}:é&=:"
        redis_server.command("ACL", "SETUSER", user, "on", f">{password}", "~*", "&*", "+@all")
        where = f"{quote(user, safe='')}:{quote(password, safe='')}@{redis_server.addr}/5"
        try:
            async with RedisStateStore.from_url(f"redis://{where}?key_prefix={quote(prefix, safe='')}") as store:
                await store.save(AgentState(agent_id="a1", session_id="s1"))
                async with Redis(host=redis_server.host, port=redis_server.port, db=5) as client:
                    assert await client.exists(f"{prefix}{{a1}}:s1", f"{prefix}sessions:{{a1}}") == 2
                await store.delete("a1", "s1")
        finally:
            redis_server.command("ACL", "DELUSER", user)

    async def test_a_credential_provider_is_asked(self, redis_server: RedisServer) -> None:
        """Instead of a user and a password."""
        user = f"ann-{uuid.uuid4().hex}"
        redis_server.command("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all")
        provider = UsernamePasswordCredentialProvider(user, "pw")
        try:
            config = RedisConfig(addrs=[redis_server.addr], credential_provider=provider)
            async with RedisStateStore.from_config(config) as store:
                await store.ping()
        finally:
            redis_server.command("ACL", "DELUSER", user)


def with_a_client(**options: Any) -> object:
    return RedisStateStore(Redis(), **options)


def from_url(**options: Any) -> object:
    return RedisStateStore.from_url("redis://", **options)


def from_config(**options: Any) -> object:
    return RedisStateStore.from_config(RedisConfig(), **options)


def opened_on_redis(**options: Any) -> object:
    return open_store("redis://", **options)


def opened_in_memory(**options: Any) -> object:
    return open_store("memory://", **options)


WAYS: Final[dict[str, Callable[..., object]]] = {
    "client": with_a_client,
    "from_url": from_url,
    "from_config": from_config,
    "open_store redis": opened_on_redis,
    "open_store memory": opened_in_memory,
    "memory": MemoryStateStore,
}
in_each_way = pytest.mark.parametrize("way", WAYS)


class TestOptions:
    @in_each_way
    @pytest.mark.parametrize("name", ["ttll", "pool", "decode_responses", "password", "TTL"])
    def test_an_unknown_one_is_a_type_error(self, way: str, name: str) -> None:
        """By its name, whichever way a store is made. None is ignored."""
        with pytest.raises(TypeError, match=name):
            WAYS[way](**{name: 1})

    @in_each_way
    def test_every_one_is_taken(self, way: str) -> None:
        """By each way; in memory those of a server mean nothing."""
        options: StoreOptions = {
            "ttl": timedelta(hours=1),
            "refresh_ttl": True,
            "format": "msgpack",
            "partitions": 4,
            "replicas": 1,
            "max_state_bytes": 1_000_000,
            "schema": 2,
            "migrations": {1: dict},
            "meter_provider": None,
            "logger": None,
        }
        known: dict[str, Any] = {**options}
        if way == "memory":
            known = {name: known[name] for name in ("ttl", "refresh_ttl", "format", "meter_provider")}
        assert set(options) == set(StoreOptions.__annotations__)
        WAYS[way](**known)

    @in_each_way
    @pytest.mark.parametrize(
        ("option", "error"),
        [
            ({"ttl": timedelta(0)}, ValueError),
            ({"ttl": timedelta(microseconds=999)}, ValueError),
            ({"ttl": timedelta(seconds=-1)}, ValueError),
            ({"ttl": 60}, TypeError),
            ({"format": "yaml"}, ValueError),
            ({"ttl": True}, TypeError),
            ({"format": None}, TypeError),
            ({"format": ["json"]}, TypeError),
            ({"refresh_ttl": 1}, TypeError),
            ({"refresh_ttl": "no"}, TypeError),
            ({"refresh_ttl": None}, TypeError),
            ({"meter_provider": "x"}, TypeError),
        ],
    )
    def test_a_wrong_one_is_refused(self, way: str, option: dict[str, Any], error: type[Exception]) -> None:
        """When the store is made, by its name."""
        (name,) = option
        with pytest.raises(error, match=name):
            WAYS[way](**option)

    @pytest.mark.parametrize("way", [way for way in WAYS if way != "memory"])
    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("partitions", 0, ValueError),
            ("partitions", -1, ValueError),
            ("partitions", 4097, ValueError),
            ("partitions", 10**9, ValueError),
            ("partitions", 1.5, TypeError),
            ("partitions", "4", TypeError),
            ("partitions", True, TypeError),
            ("partitions", None, TypeError),
            ("replicas", -1, ValueError),
            ("replicas", 10**9, ValueError),
            ("replicas", 1.0, TypeError),
            ("replicas", True, TypeError),
            ("logger", "x", TypeError),
            ("logger", logging, TypeError),
        ],
    )
    def test_a_wrong_one_of_a_server_is_refused(self, way: str, name: str, value: Any, error: type[Exception]) -> None:
        """By its name; over memory:// too, where it would have no effect."""
        with pytest.raises(error, match=name):
            WAYS[way](**{name: value})

    @pytest.mark.parametrize("way", ["from_url", "open_store redis", "open_store memory"])
    @pytest.mark.parametrize("value", ["no", 0, 1])
    def test_a_check_of_certificates_is_true_or_false(self, way: str, value: Any) -> None:
        """A word or a number is a TypeError."""
        with pytest.raises(TypeError, match="tls_verify"):
            WAYS[way](tls_verify=value)

    def test_every_option_has_a_check(self) -> None:
        """One for each name, and every default passes."""
        for name in (*RedisConfig.__dataclass_fields__, *Limits.__dataclass_fields__):
            check(name, getattr(RedisConfig() if hasattr(RedisConfig(), name) else Limits(), name))
        for name, value in {"ttl": None, "refresh_ttl": False, "format": "json", "partitions": 1}.items():
            check(name, value)
        for name in StoreOptions.__annotations__:
            with pytest.raises((TypeError, ValueError), match=name):
                check(name, object())

    @pytest.mark.parametrize("name", ["dial_timeout", "read_timeout", "write_timeout"])
    @pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, 10**400, 86_401])
    def test_a_wrong_time_for_a_client_is_refused(self, name: str, value: float) -> None:
        """As in a RedisConfig."""
        with pytest.raises(ValueError, match=name):
            with_a_client(**{name: value})

    @pytest.mark.parametrize("name", ["dial_timeout", "read_timeout", "write_timeout", "pool_size"])
    @pytest.mark.parametrize("value", ["3", True, None, timedelta(seconds=3)])
    def test_what_is_no_number_is_refused_for_a_client(self, name: str, value: Any) -> None:
        """As in a RedisConfig; `True` is no second."""
        with pytest.raises(TypeError, match=name):
            with_a_client(**{name: value})

    @pytest.mark.parametrize("prefix", ["{", "a}b", "{a}:"])
    def test_a_prefix_with_braces_is_refused(self, prefix: str) -> None:
        """It would choose the slot of every key."""
        for make in (
            lambda: with_a_client(key_prefix=prefix),
            lambda: RedisStateStore.from_config(RedisConfig(key_prefix=prefix)),
            lambda: RedisStateStore.from_url(f"redis://?key_prefix={quote(prefix)}"),
        ):
            with pytest.raises(ValueError, match="braces"):
                make()

    @pytest.mark.parametrize("prefix", [None, b"p:", 7])
    def test_a_prefix_that_is_no_string_is_a_type_error(self, prefix: Any) -> None:
        """It says what it was given."""
        with pytest.raises(TypeError, match=f"key_prefix.*{type(prefix).__name__}"):
            with_a_client(key_prefix=prefix)


class TestRepr:
    @pytest.mark.parametrize("store", [RedisStateStore, MemoryStateStore])
    def test_a_store_whose_constructor_failed_has_one(self, store: type[Any]) -> None:
        """A debugger or a log line may show an object that was never finished."""
        assert repr(object.__new__(store)).startswith(f"<{store.__name__}")

    def test_a_store_that_was_refused_late_has_one(self) -> None:
        """Wherever its constructor stopped."""
        store: RedisStateStore[AgentState] = RedisStateStore.__new__(RedisStateStore)
        with pytest.raises(TypeError, match="client"):
            store.__init__("redis://")  # pyright: ignore[reportArgumentType]
        assert repr(store).startswith("<RedisStateStore")


class TestOpenStore:
    def test_memory(self) -> None:
        """A store in memory, of the given type."""
        assert isinstance(open_store("memory://"), MemoryStateStore)

    @pytest.mark.parametrize("url", ["memory:", "memory", "memory://x", "memory://?ttl=1", "Memory://"])
    def test_memory_has_no_address(self, url: str) -> None:
        """Anything after it is a ValueError, not ignored."""
        with pytest.raises(ValueError, match="memory://"):
            open_store(url)

    @pytest.mark.parametrize(
        "url", ["redis://a", "rediss://a", "unix:///a", "redis+cluster://a", "redis+sentinel://a/m"]
    )
    def test_every_other_one_is_a_redis(self, url: str) -> None:
        """What `RedisStateStore.from_url` takes."""
        assert isinstance(open_store(url), RedisStateStore)
