"""Configuration: what a RedisConfig holds and what a URL says, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from redis.credentials import UsernamePasswordCredentialProvider
from support.states import state

from redis_state import MemoryStateStore, RedisConfig, RedisStateStore, open_store
from redis_state.config import parse_url

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

SECRET: Final = "S3CRET-hunter2"
TIMES: Final = ("dial_timeout", "read_timeout", "write_timeout")
SENTINEL: Final[dict[str, Any]] = {"master_name": "m", "sentinel_addrs": ["s"]}
PROVIDER: Final = UsernamePasswordCredentialProvider("ann", SECRET)
OPENERS: Final = [RedisStateStore.from_url, open_store]


def test_the_defaults_are_those_that_are_documented_and_nothing_besides() -> None:
    """They are not shared between configurations."""
    nothing = ("username", "password", "credential_provider", "unix_socket", "master_name", "sentinel_username")
    assert dataclasses.asdict(RedisConfig()) == {
        **dict.fromkeys((*nothing, "sentinel_password", "tls_ca_file", "tls_cert_file", "tls_key_file")),
        "dial_timeout": 5.0,
        "read_timeout": 3.0,
        "write_timeout": 3.0,
        "pool_size": 10,
        "db": 0,
        "addrs": ["localhost:6379"],
        "sentinel_addrs": [],
        "key_prefix": "forge:state:",
        "cluster": False,
        "tls": False,
        "tls_verify": True,
    }
    assert RedisConfig().addrs is not RedisConfig().addrs


def test_a_configuration_cannot_be_changed_and_takes_keywords_only() -> None:
    """A store reads it once; `dataclasses.replace` makes another."""
    config = RedisConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.db = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert dataclasses.replace(config, db=1).db == 1
    with pytest.raises(TypeError):
        RedisConfig(["localhost:6379"])  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="adrs"):
        RedisConfig(adrs=["localhost:6379"])  # pyright: ignore[reportCallIssue]
    for wrong in (None, "redis://localhost", {"addrs": ["a:1"]}, RedisConfig):
        with pytest.raises(TypeError, match="RedisConfig"):
            RedisStateStore.from_config(wrong)  # pyright: ignore[reportArgumentType, reportUnknownMemberType]


@pytest.mark.parametrize(
    "config",
    [
        RedisConfig(username="ann", password=SECRET, **SENTINEL),
        RedisConfig(sentinel_password=SECRET, **SENTINEL),
        RedisConfig(credential_provider=PROVIDER),
    ],
)
def test_no_password_is_shown(config: RedisConfig) -> None:
    """Neither of Redis nor of the Sentinels, nor what provides one."""
    for shown in (repr(config), str(config), f"{config}", repr([config]), repr(vars(config).keys())):
        assert SECRET not in shown


@pytest.mark.parametrize(
    ("fields", "cluster"),
    [
        ({}, False),
        ({"addrs": ["a:1", "b:2"]}, True),
        ({"addrs": ["a:1"], "cluster": True}, True),
        ({"addrs": ["a:1", "b:2"], **SENTINEL}, False),
        ({"unix_socket": "/tmp/redis.sock"}, False),
    ],
)
def test_several_addresses_are_a_cluster(fields: dict[str, Any], *, cluster: bool) -> None:
    """Unless Sentinels or a socket say where Redis is."""
    assert RedisConfig(**fields).is_cluster is cluster


TEXTS: Final = (
    *("username", "password", "unix_socket", "master_name", "sentinel_username", "sentinel_password"),
    *("tls_ca_file", "tls_cert_file", "tls_key_file", "key_prefix"),
)
WRONG_ADDRS: Final = (
    *("", ":6379", "a:", "a:b", "a:0", "a:65536", "a:-1", "a:1.5", "ann:pass@a:1", "a:\u0663", "a:" + 5000 * "9"),
    *("a\nb", "a\x1b[31m:1", "a\u202eb:1", "redis://a:1"),
)
WRONG: Final[list[tuple[dict[str, Any], type[Exception], str]]] = [
    *(({name: value}, ValueError, name) for name in TIMES for value in (0, -1, math.inf, math.nan, 10**400)),
    *(({name: value}, TypeError, name) for name in (*TIMES, "pool_size") for value in ("3", True, None)),
    *(({name: value}, TypeError, name) for name in ("cluster", "tls", "tls_verify") for value in ("no", 0, 1, None)),
    *(({name: value}, TypeError, f"{name} must be a string") for name in TEXTS for value in (5, b"x", False)),
    *(({name: "\udc80"}, ValueError, f"{name} holds a lone surrogate") for name in (*TEXTS[:3], "key_prefix")),
    *(({name: ""}, ValueError, f"{name} must not be empty") for name in ("unix_socket", "master_name", "tls_ca_file")),
    *(({name: "pw"}, ValueError, f"{name} has no effect") for name in ("sentinel_username", "sentinel_password")),
    *(({"addrs": [wrong]}, ValueError, "host:port") for wrong in WRONG_ADDRS),
    *(({"addrs": wrong}, TypeError, "addrs") for wrong in ("localhost:6379", ("localhost:6379",), [b"a:1"])),
    *(({"pool_size": value}, ValueError, "pool_size") for value in (0, 10_001)),
    *(({"db": value}, ValueError, "db") for value in (-1, 2**31)),
    *(({"db": value}, TypeError, "db") for value in (True, "1")),
    ({"pool_size": 1.0}, TypeError, "pool_size"),
    ({"credential_provider": "ann"}, TypeError, "credential_provider"),
    ({"credential_provider": PROVIDER, "password": "c"}, ValueError, "credential_provider"),
    ({"key_prefix": "{a}"}, ValueError, "braces"),
    ({"unix_socket": "/s", "cluster": True}, ValueError, "unix_socket"),
    ({"unix_socket": "/s", **SENTINEL}, ValueError, "unix_socket"),
    ({"unix_socket": "/s", "tls": True}, ValueError, "no TLS"),
    ({"cluster": True, **SENTINEL}, ValueError, "master_name"),
    ({"tls": True, "tls_key_file": "/k.pem"}, ValueError, "tls_cert_file"),
    ({"addrs": []}, ValueError, "addrs"),
    ({"sentinel_addrs": "s:26379", "master_name": "m"}, TypeError, "sentinel_addrs"),
    ({"sentinel_addrs": ["s:x"], "master_name": "m"}, ValueError, "host:port"),
    ({"master_name": "m"}, ValueError, "master_name and sentinel_addrs"),
    ({"sentinel_addrs": ["s:26379"]}, ValueError, "master_name and sentinel_addrs"),
    ({"addrs": ["a:1", "b:2"], "db": 1}, ValueError, "database 0"),
    ({"cluster": True, "db": 1}, ValueError, "database 0"),
]


@pytest.mark.parametrize(("fields", "error", "match"), WRONG)
def test_what_cannot_be_meant_is_refused_by_the_name_of_its_field(
    fields: dict[str, Any], error: type[Exception], match: str
) -> None:
    """When the configuration is made."""
    with pytest.raises(error, match=match):
        RedisConfig(**fields)


@pytest.mark.parametrize("place", [{}, {"cluster": True}, {"unix_socket": "/s"}, SENTINEL], ids=str)
@pytest.mark.parametrize("name", ["tls_ca_file", "tls_cert_file", "tls_key_file", "tls_verify"])
def test_an_option_of_tls_without_tls_is_refused(name: str, place: dict[str, Any]) -> None:
    """Who gives one believes that the password goes out encrypted."""
    option: dict[str, Any] = {name: False if name == "tls_verify" else "/file.pem"}
    with pytest.raises(ValueError, match=f"{name} has no effect without TLS") as caught:
        RedisConfig(password=SECRET, **place, **option)
    assert SECRET not in str(caught.value)
    with pytest.raises(ValueError, match=f"{name} has no effect without TLS"):
        dataclasses.replace(RedisConfig(password=SECRET, **place), **option)
    assert RedisConfig(tls_verify=True) == RedisConfig() == dataclasses.replace(RedisConfig())  # no wish for TLS


@pytest.mark.parametrize("address", ["localhost", "10.0.0.1", "[::1]", "[::1]:7000", "a:1", "a-b.example:65535"])
def test_an_address_is_a_host_and_a_port_unless_it_is_the_usual_one(address: str) -> None:
    assert RedisConfig(addrs=[address]).addrs == [address]


A: Final = {"addrs": ["a"]}
ANN: Final = {"username": "ann", "password": "pw"}
URLS: Final[dict[str, dict[str, Any]]] = {
    # Schemes
    "redis://": {},
    "redis://redis.example:7000/": {"addrs": ["redis.example:7000"]},
    "rediss://redis.example:7000/2": {"addrs": ["redis.example:7000"], "db": 2, "tls": True},
    "unix:///run/a%20b%3F.sock?db=2": {"unix_socket": "/run/a b?.sock", "db": 2},
    "unix://ann:pw@/run/redis.sock": {"unix_socket": "/run/redis.sock", **ANN},
    "unix://relative/redis.sock": {"unix_socket": "relative/redis.sock"},
    "redis+cluster://a:7001": {"addrs": ["a:7001"], "cluster": True},
    "redis+cluster://a:7001,b:7002,c": {"addrs": ["a:7001", "b:7002", "c"], "cluster": True},
    "rediss+cluster://ann:pw@a,b:7002": {"addrs": ["a", "b:7002"], "cluster": True, "tls": True, **ANN},
    "redis+sentinel://s1:26379,s2/mymaster": {"sentinel_addrs": ["s1:26379", "s2"], "master_name": "mymaster"},
    "redis+sentinel://ann:pw@s/my%2Fmaster/3?sentinel_username=bob&sentinel_password=p%26w": {
        "sentinel_addrs": ["s"],
        "master_name": "my/master",
        "db": 3,
        **ANN,
        "sentinel_username": "bob",
        "sentinel_password": "p&w",
    },
    "rediss+sentinel://s/m": {**SENTINEL, "tls": True},
    # Who
    "redis://ann@a": {**A, "username": "ann"},
    "redis://ann:@a": {**A, "username": "ann"},
    "redis://:pw@a": {**A, "password": "pw"},
    "redis://ann:pw@": ANN,
    "redis://a%40b:p%3Aw%2F%3F%23%5B%5D%40%25%20+%C3%A9@a": {**A, "username": "a@b", "password": "p:w/?#[]@% +é"},
    "redis://ann:p:w@a": {**A, "username": "ann", "password": "p:w"},
    "redis://ann:p@w@a": {**A, "username": "ann", "password": "p@w"},
    "redis://ann:p/w#@a/1": {**A, "username": "ann", "password": "p/w#", "db": 1},
    # Where
    "redis://[::1]": {"addrs": ["[::1]"]},
    "redis://:pw@[2001:db8::1]:7000/1": {"addrs": ["[2001:db8::1]:7000"], "password": "pw", "db": 1},
    "redis+cluster://[::1]:7001,[::1]:7002": {"addrs": ["[::1]:7001", "[::1]:7002"], "cluster": True},
    # Options
    "redis://a?db=4": {**A, "db": 4},
    "redis://a/?key_prefix=app%3Aé%26&pool_size=3": {**A, "key_prefix": "app:é&", "pool_size": 3},
    "redis://a?key_prefix=": {**A, "key_prefix": ""},
    "redis://a?dial_timeout=1.5&read_timeout=0.25": {**A, "dial_timeout": 1.5, "read_timeout": 0.25},
    "rediss://a?tls_ca_file=/ca.pem&tls_cert_file=/c%20d.pem&tls_key_file=/k.pem&tls_verify=true": {
        **A,
        "tls": True,
        "tls_ca_file": "/ca.pem",
        "tls_cert_file": "/c d.pem",
        "tls_key_file": "/k.pem",
    },
}
BAD: Final = """
    a a:6379 redis:a redis:/a //a http://a REDIS://a redis+tls://a redis://a:b redis://a:0 redis://a:65536 redis://a:-1
    redis://:6379 redis://a:6379:b redis://a/b redis://a/0/1 redis://a/-1 redis://a/1.5 redis://a?db=-1 redis://a?db=one
    redis://a,b redis://a:1,b:2/0 rediss://a,b unix:// unix://?db=1 redis+cluster:// redis+cluster://a/1
    redis+cluster://a,b?db=1 redis+sentinel:// redis+sentinel://s1 redis+sentinel://s1/ redis+sentinel:///m
    redis+sentinel://s1/m/x redis+sentinel://s1/m/0/1 redis+sentinel://s1:x/m redis://a?unknown=1
    redis://a?decode_responses=true redis://a?password=x redis://a?DB=1 redis://a?x redis://a?pool_size=0
    redis://a?pool_size=many redis://a?pool_size= redis://a?pool_size=1.5 redis://a?pool_size=1_0
    redis://a/1?db=5 redis://a/1?db=1 redis://a?db=1&db=1 redis://a?pool_size=1&pool_size=2 redis://a?db=+1
    redis://a?db=%201 redis://a?key_prefix=%7Ba%7D rediss://a?tls_verify=maybe rediss://a?tls_verify=false
"""
BAD_URLS: Final = [
    *BAD.split(),
    *(f"redis://a?read_timeout={value}" for value in ("0", "-1", "inf", "nan", "1_0", "-0", "3s")),
    *("", " redis://a", "redis://a/\u0663", "redis://a?db=\u0663", "redis://a\n", "redis://a\x1b"),
    *("redis://a?db=" + 5000 * "9", "redis://a/" + 5000 * "9"),
    *(
        f"{place}{option}"
        for place in ("redis://ann:pw@a?", "unix:///s?", "redis+cluster://a?", "redis+sentinel://s/m?")
        for option in ("tls_verify=true", "tls_verify=false", "tls_ca_file=/ca", "tls_cert_file=/c", "tls_key_file=/k")
    ),
]

# A password where it does not belong, or that was not percent-encoded.
MISPLACED: Final = """
    SECRET SECRET://a redis:SECRET@a redis://ann:SECRET redis://ann:SECRET:6379 redis://a/SECRET redis://a/0/SECRET
    redis://a:SECRET/0 redis://a?password=SECRET redis://a?db=SECRET redis://a?pool_size=SECRET
    redis://a?read_timeout=SECRET rediss://a?tls_verify=SECRET redis://:p?SECRET@a redis://:SECRET?x@a
    redis://:SECRET?db=1@a redis://:SECRET@a:b redis://:SECRET@a?unknown=1 redis://:SECRET@a,b redis+cluster://:SECRET@a/1
    redis+cluster://a,ann:SECRET@b:x redis+sentinel://:SECRET@s1 redis+sentinel://s1,SECRET:x/m
    redis+sentinel://s1/m?sentinel_password=SECRET&x=1 unix://:SECRET@
""".replace("SECRET", SECRET)
HINTS: Final = {
    "http://a": r"redis\+sentinel://",
    "redis://a/1?db=5": "'db' twice",
    "redis://a?tls_ca_file=/ca": "tls_ca_file has no effect without TLS.*rediss",
    "redis://a?unknown=1": "'unknown'.*known are db, key_prefix",
    "redis://a?db=one": "'db'",
    "redis://a,b": r"redis\+cluster://",
    "rediss://a,b": r"rediss\+cluster://",
    "redis://a/b": "database number",
    "redis://a:b": "host:port",
    "redis+cluster://": "redis\\+cluster://host",
    "redis+sentinel://s1": "mymaster",
    "unix://": "unix:///path",
    "redis://:p?w@a": "percent-encoded",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_read_as_it_stands(url: str) -> None:
    """Every scheme, every option, percent-encoding and IPv6."""
    assert parse_url(url) == RedisConfig(**URLS[url])


@pytest.mark.parametrize("url", [*BAD_URLS, *MISPLACED.split()])
def test_a_url_that_cannot_be_read_is_a_value_error_of_one_line_without_a_password(url: str) -> None:
    """At once, whoever opens it."""
    for open_it in OPENERS:
        with pytest.raises(ValueError, match=r"\S") as caught:
            open_it(url)
        assert type(caught.value) is ValueError
        assert "\n" not in str(caught.value)
        error: BaseException | None = caught.value
        while error is not None:
            assert SECRET not in f"{error!r} {error} {error.args}"
            error = error.__cause__ or error.__context__


@pytest.mark.parametrize("url", HINTS)
def test_the_message_says_what_to_write(url: str) -> None:
    with pytest.raises(ValueError, match=HINTS[url]):
        parse_url(url)


def test_certificate_checks_are_turned_off_by_two() -> None:
    """By the code alone, or by URL and code; a URL alone, which may come from anywhere, cannot."""
    assert parse_url("rediss://a").tls_verify is True
    assert parse_url("rediss://a", tls_verify=False).tls_verify is False
    assert parse_url("rediss://a?tls_verify=False", tls_verify=False).tls_verify is False
    assert parse_url("rediss://a?tls_verify=true", tls_verify=False).tls_verify is True
    for open_it in OPENERS:
        with pytest.raises(ValueError, match="tls_verify=False in the code"):
            open_it("rediss://a?tls_verify=false")
        for url in ("redis://ann:pw@a", "unix:///s", "redis+cluster://a", "redis+sentinel://s/m"):
            for verify in (True, False):
                with pytest.raises(ValueError, match=r"tls_verify has no effect without TLS: .*rediss"):
                    open_it(url, tls_verify=verify)


@pytest.mark.parametrize("wrong", [None, b"redis://a", 6379, ["redis://a"]])
def test_what_is_no_string_is_a_type_error(wrong: Any) -> None:
    """It says what it was given."""
    with pytest.raises(TypeError, match=type(wrong).__name__):
        RedisStateStore.from_url(wrong)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "localhost:6379"),
        ("redis://ann:SECRET@redis.example:7000/1", "redis.example:7000"),
        ("redis://[::1]:7000", "::1:7000"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        ("redis+cluster://:SECRET@a:7001,b:7002", "a:7001, b:7002"),
        ("redis+sentinel://:SECRET@s1/mymaster?sentinel_password=SECRET", "mymaster"),
    ],
)
async def test_a_store_shows_where_it_leads_and_no_password(url: str, shown: str) -> None:
    """In its repr."""
    store = RedisStateStore.from_url(url.replace("SECRET", SECRET))
    assert shown in repr(store)
    assert SECRET not in repr(store)
    await store.aclose()


async def test_what_a_url_says_reaches_the_server(redis_server: RedisServer) -> None:
    """User, password, database and prefix, each with characters that have to be encoded."""
    user, password, prefix = f"ann@{uuid.uuid4().hex}", "p:w/?#[]@%+é ", f"test-{uuid.uuid4().hex}:é&=:"
    redis_server.command("ACL", "SETUSER", user, "on", f">{password}", "~*", "&*", "+@all")
    where = f"{quote(user, safe='')}:{quote(password, safe='')}@{redis_server.addr}/5"
    try:
        async with RedisStateStore.from_url(f"redis://{where}?key_prefix={quote(prefix, safe='')}") as store:
            await store.save(state())
            async with Redis(host=redis_server.host, port=redis_server.port, db=5) as client:
                assert await client.exists(f"{prefix}{{a}}:s", f"{prefix}sessions:{{a}}") == 2
            await store.delete("a", "s")
    finally:
        redis_server.command("ACL", "DELUSER", user)


def test_memory_has_no_address_and_every_other_url_is_a_redis() -> None:
    assert isinstance(open_store("memory://"), MemoryStateStore)
    for url in ("memory:", "memory", "memory://x", "memory://?ttl=1", "Memory://"):
        with pytest.raises(ValueError, match="memory://"):
            open_store(url)
    for url in ("redis://a", "rediss://a", "unix:///a", "redis+cluster://a", "redis+sentinel://a/m"):
        assert isinstance(open_store(url), RedisStateStore)
