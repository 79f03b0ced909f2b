"""Fields of `RedisConfig` as keywords beside a URL: which may be given, and which of the two wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from redis.credentials import UsernamePasswordCredentialProvider

from redis_state import MemoryStateStore, OpenOptions, RedisConfig, RedisStateStore, StoreOptions, open_store
from redis_state.config import ConnectionOptions, parse_url

OPENERS: Final[list[Callable[..., object]]] = [RedisStateStore.from_url, open_store]
openers = pytest.mark.parametrize("opener", OPENERS, ids=["from_url", "open_store"])
WHERE: Final[dict[str, Any]] = {"addrs": ["a:1"], "unix_socket": "/s", "cluster": True}
PROVIDER: Final = UsernamePasswordCredentialProvider("ann", "pw")

# A URL that says something of a field, the field beside it, and what both describe.
BOTH: Final[list[tuple[str, dict[str, Any], dict[str, Any]]]] = [
    ("redis://ann:one@a", {"username": "bob"}, {"username": "bob", "password": "one"}),
    ("redis://ann:one@a", {"password": "two"}, {"username": "ann", "password": "two"}),
    ("redis://ann:one@a", {"username": None, "password": None}, {}),
    ("redis://a", {"credential_provider": PROVIDER}, {"credential_provider": PROVIDER}),
    ("redis://a/1", {"db": 2}, {"db": 2}),
    ("redis://a?db=1", {"db": 0}, {"db": 0}),
    ("redis://a?key_prefix=one:", {"key_prefix": "two:"}, {"key_prefix": "two:"}),
    ("redis://a?dial_timeout=1", {"dial_timeout": 2.5}, {"dial_timeout": 2.5}),
    ("redis://a?read_timeout=1", {"read_timeout": 2.5}, {"read_timeout": 2.5}),
    ("redis://a?write_timeout=1", {"write_timeout": 2}, {"write_timeout": 2}),
    ("redis://a?pool_size=1", {"pool_size": 2}, {"pool_size": 2}),
    ("redis://a?pool_size=0", {"pool_size": 2}, {"pool_size": 2}),
    ("redis://a", {"tls": True}, {"tls": True}),
    ("rediss://a", {"tls": False}, {"tls": False}),
    ("rediss://a?tls_ca_file=/1", {"tls_ca_file": "/2"}, {"tls": True, "tls_ca_file": "/2"}),
    ("redis://a?tls_ca_file=/1", {"tls": True}, {"tls": True, "tls_ca_file": "/1"}),
    ("rediss://a?tls_cert_file=/1", {"tls_cert_file": "/2"}, {"tls": True, "tls_cert_file": "/2"}),
    ("rediss://a?tls_cert_file=/1&tls_key_file=/2", {"tls_key_file": "/3"},
     {"tls": True, "tls_cert_file": "/1", "tls_key_file": "/3"}),
]  # fmt: skip
SENTINEL: Final[list[tuple[dict[str, Any], dict[str, Any]]]] = [
    ({"master_name": "two"}, {"master_name": "two"}),
    ({"sentinel_addrs": ["s2", "s3"]}, {"sentinel_addrs": ["s2", "s3"]}),
    ({"sentinel_username": "bob"}, {"sentinel_username": "bob"}),
    ({"sentinel_password": "two"}, {"sentinel_password": "two"}),
]


class TestWhichWins:
    @pytest.mark.parametrize(("url", "given", "described"), BOTH)
    def test_a_keyword_wins_over_the_url(self, url: str, given: Any, described: dict[str, Any]) -> None:
        """Whatever the URL says of the same field, in whichever place."""
        assert parse_url(url, **given) == RedisConfig(addrs=["a"], **described)

    @pytest.mark.parametrize(("given", "described"), SENTINEL)
    def test_a_keyword_wins_over_a_sentinel_url(self, given: Any, described: dict[str, Any]) -> None:
        """Also what stands in its path and among its hosts."""
        said: dict[str, Any] = {
            "sentinel_addrs": ["s1"],
            "master_name": "one",
            "sentinel_username": "ann",
            "sentinel_password": "one",
        }
        url = "redis+sentinel://s1/one?sentinel_username=ann&sentinel_password=one"
        assert parse_url(url, **given) == RedisConfig(**{**said, **described})

    def test_sentinels_can_be_named_beside_a_url_that_names_no_server(self) -> None:
        """Where it names one, that would have no effect."""
        config = parse_url("redis://:pw@/1", master_name="m", sentinel_addrs=["s1"])
        assert config == RedisConfig(master_name="m", sentinel_addrs=["s1"], password="pw", db=1)
        for fields in ({"master_name": "m"}, {"sentinel_addrs": ["s1"]}):
            with pytest.raises(ValueError, match=r"redis\+sentinel://"):
                parse_url("redis://a", **fields)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(
        ("in_url", "in_code", "checked"),
        [
            ("", None, True),
            ("", True, True),
            ("", False, False),
            ("?tls_verify=true", None, True),
            ("?tls_verify=true", True, True),
            ("?tls_verify=true", False, True),
            ("?tls_verify=false", True, True),
            ("?tls_verify=false", False, False),
        ],
    )
    def test_turning_certificate_checks_off_takes_both(
        self, in_url: str, *, in_code: bool | None, checked: bool
    ) -> None:
        """Where either of them wants certificates checked they are."""
        assert parse_url(f"rediss://a{in_url}", tls_verify=in_code).tls_verify is checked

    def test_a_url_alone_cannot_turn_certificate_checks_off(self) -> None:
        """It may come from anywhere."""
        with pytest.raises(ValueError, match="tls_verify=False in the code"):
            parse_url("rediss://a?tls_verify=false")


class TestWhichMayBeGiven:
    def test_type_checkers_know_every_field(self) -> None:
        """Less those that say where Redis is."""
        assert set(ConnectionOptions.__annotations__) == set(RedisConfig.__dataclass_fields__) - set(WHERE)
        both = {*StoreOptions.__annotations__, *ConnectionOptions.__annotations__}
        assert set(OpenOptions.__annotations__) == both

    @openers
    @pytest.mark.parametrize("url", ["redis://", "redis+cluster://a", "unix:///s", "memory://"])
    @pytest.mark.parametrize("name", WHERE)
    def test_what_the_url_says_itself_is_refused_with_what_to_do(
        self, opener: Callable[..., object], url: str, name: str
    ) -> None:
        """Two places for one thing would be a riddle."""
        if (opener, url) == (RedisStateStore.from_url, "memory://"):
            return
        with pytest.raises(ValueError, match=f"^{name} does not go beside a URL.*RedisConfig"):
            opener(url, **{name: WHERE[name]})

    @openers
    def test_fields_that_exclude_each_other_are_refused(self, opener: Callable[..., object]) -> None:
        """As in a `RedisConfig`, wherever each of them stands."""
        with pytest.raises(ValueError, match="unix_socket has no TLS"):
            opener("unix:///s", tls=True)
        with pytest.raises(ValueError, match="only database 0"):
            opener("redis+cluster://a", db=1)
        with pytest.raises(ValueError, match="credential_provider, or username"):
            opener("redis://ann:pw@a", credential_provider=PROVIDER)
        with pytest.raises(ValueError, match="tls_ca_file has no effect without TLS"):
            opener("redis://a", tls_ca_file="/ca")

    @openers
    @pytest.mark.parametrize("url", ["redis://", "memory://"])
    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"pool_size": 0}, ValueError),
            ({"pool_size": "3"}, TypeError),
            ({"read_timeout": 0}, ValueError),
            ({"dial_timeout": "1"}, TypeError),
            ({"write_timeout": None}, TypeError),
            ({"db": -1}, ValueError),
            ({"key_prefix": "{a}"}, ValueError),
            ({"key_prefix": b"a:"}, TypeError),
            ({"password": 7}, TypeError),
            ({"username": b"ann"}, TypeError),
            ({"credential_provider": "pw"}, TypeError),
            ({"tls": "yes"}, TypeError),
            ({"tls_verify": "no"}, TypeError),
            ({"tls_ca_file": ""}, ValueError),
            ({"sentinel_addrs": "s1"}, TypeError),
            ({"master_name": ""}, ValueError),
            ({"readtimeout": 1}, TypeError),
        ],
    )
    def test_a_wrong_one_is_refused_by_its_name(
        self, opener: Callable[..., object], url: str, given: dict[str, Any], error: type[Exception]
    ) -> None:
        """When the store is made, in memory as well."""
        if (opener, url) == (RedisStateStore.from_url, "memory://"):
            return
        (name,) = given
        with pytest.raises(error, match=name):
            opener(url, **given)

    def test_a_value_that_is_refused_is_not_shown(self) -> None:
        """It may be a password."""
        with pytest.raises(TypeError, match="password") as caught:
            open_store("redis://", password=["S3CRET"])  # pyright: ignore[reportArgumentType]
        assert "S3CRET" not in str(caught.value)

    def test_in_memory_they_have_no_effect(self) -> None:
        """So one call serves a server and a test without one."""
        store = open_store("memory://", key_prefix="p:", pool_size=2, tls_ca_file="/ca", master_name="m", db=3)
        assert isinstance(store, MemoryStateStore)

    def test_beside_a_configuration_they_belong_into_it(self) -> None:
        """The error says so."""
        with pytest.raises(TypeError, match=r"'key_prefix'.*in the RedisConfig"):
            RedisStateStore.from_config(RedisConfig(), key_prefix="p:")  # pyright: ignore[reportCallIssue]
