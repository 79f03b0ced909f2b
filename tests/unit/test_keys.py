"""Names of keys: one for each pair of ids, in the slot of the agent, and no pattern."""

from __future__ import annotations

import fnmatch
import re
import uuid
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot
from support.states import state

from redis_state import InvalidIdError, MemoryStateStore
from redis_state.commands.keys import Keys, bulk, bulks, plain_ids

if TYPE_CHECKING:
    from redis_state.testing import RedisServer

# Everything that means something in a key, a pattern or a percent escape, and a few that do not.
HOSTILE: Final = st.text("ab:{}*?[]^-!\\%0123ABDF5 \x00\n\x7fé\u0301💡/.", min_size=1, max_size=8)
IDS: Final = HOSTILE | st.text(min_size=1, max_size=100)
PREFIXES: Final = st.sampled_from(["forge:state:", "", "p", "a*[?]\\^:", "sessions:", "%7B", "é:"])
PARTITIONS: Final = st.sampled_from([1, 2, 7])


def state_key(keys: Keys, agent_id: str, session_id: str) -> bytes:
    return keys.partition(agent_id, session_id).state(session_id)


def slot(key: bytes) -> int:
    """As Redis computes it, from the hash tag."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    return key_slot(key[start + 1 : end] if 0 <= start < end - 1 else key, 16384)


@pytest.mark.parametrize(
    ("agent", "session", "key", "index"),
    [
        ("agent-1", "session-123", "{agent-1}:session-123", "sessions:{agent-1}"),
        ("a", "user@example.com/2026.01+x=é💡", "{a}:user@example.com/2026.01+x=é💡", "sessions:{a}"),
        ("a:{b}", "*?[x]\\^% \0\n\x7f", "{a%3A%7Bb%7D}:%2A%3F%5Bx%5D%5C%5E%25%20%00%0A%7F", "sessions:{a%3A%7Bb%7D}"),
    ],
)
def test_plain_ids_stand_as_they_are_and_what_means_something_is_escaped(
    agent: str, session: str, key: str, index: str
) -> None:
    """So that a person finds them; in the way of URLs."""
    part = Keys("p:", 1).partition(agent, session)
    assert (part.state(session), part.index) == (f"p:{key}".encode(), f"p:{index}".encode())


def test_partitions_are_named_in_the_hash_tag() -> None:
    """The partition of a session is the CRC-32 of its id, modulo their number."""
    keys = Keys("p:", 4)
    assert [part.index for part in keys.agent("a")] == [b"p:sessions:{a:%d}" % n for n in range(4)]
    assert state_key(keys, "a", "session-123") == b"p:{a:3}:session-123"


@given(PREFIXES, PARTITIONS, st.tuples(IDS, IDS), st.tuples(IDS, IDS))
@example("", 1, ("a:b", "c"), ("a", "b:c"))
@example("", 1, ("a}", ":b"), ("a", "}:b"))
@example("", 1, ("%7D", "a"), ("}", "a"))
def test_different_ids_have_different_keys_that_are_one_printable_line(
    prefix: str, partitions: int, pair: tuple[str, str], other: tuple[str, str]
) -> None:
    """No state's key is an index's, nor that of the layout; no control character reaches a terminal or a log."""
    keys = Keys(prefix, partitions)
    one, two = state_key(keys, *pair), state_key(keys, *other)
    assert (one == two) == (pair == other)
    indexes = [part.index for agent in (pair[0], other[0]) for part in keys.agent(agent)]
    assert len(set(indexes)) == partitions * len({pair[0], other[0]})
    assert not {one, two, keys.layout} & set(indexes)
    assert keys.layout not in (one, two)
    assert re.search(rb"[\x00-\x20\x7f]", one) is None


@given(PREFIXES, PARTITIONS, IDS, IDS)
def test_a_state_is_in_the_slot_of_its_index_and_its_ids_can_be_read_from_its_key(
    prefix: str, partitions: int, agent: str, session: str
) -> None:
    """Whatever the ids hold; no id chooses another slot."""
    keys = Keys(prefix, partitions)
    part = keys.partition(agent, session)
    assert part in keys.agent(agent)
    assert part.slot == slot(part.index) == slot(part.state(session))
    assert (keys.agent_of(part.state(session)), keys.session_of(part.state(session))) == (agent, session)
    assert all(keys.agent_of(part.index) == agent for part in keys.agent(agent))


def test_what_is_remembered_of_agents_and_sessions_is_bounded_and_nothing_depends_on_it() -> None:
    """A session in use is one object with its key, so what is seen of it is known to all operations."""
    keys = Keys("p:", 2)
    before = [part.index for part in keys.agent("first")]
    session = keys.session("a", "s")
    assert session is keys.session("a", "s")
    assert session is not keys.session("a", "t")
    assert (session.partition, session.key) == (keys.partition("a", "s"), session.partition.state("s"))
    for number in range(10_000):
        keys.agent(f"agent-{number}")
        keys.session("a", str(number))
    assert [part.index for part in keys.agent("first")] == before
    assert len(keys._sessions) <= 8192  # pyright: ignore[reportPrivateUsage]


@settings(max_examples=40)
@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=8, unique=True), PARTITIONS)
@example([("a*", "s"), ("ab", "s"), ("a", "s"), ("a:0", "s"), ("a:1", "s"), ("[a]", "s"), ("\\", "s")], 1)
def test_a_pattern_matches_its_own_keys_only(
    redis_server: RedisServer, pairs: list[tuple[str, str]], partitions: int
) -> None:
    """SCAN with the pattern of a partition finds its states, one with the pattern of indexes finds the indexes."""
    keys = Keys(f"pattern[{uuid.uuid4().hex}]*?:", partitions)
    states = {state_key(keys, *pair): keys.partition(*pair) for pair in pairs}
    indexes = {part.index for part in states.values()}
    everything = [*states, *indexes, keys.layout]
    for key in everything:
        redis_server.command("SET", key, "")

    def scan(pattern: bytes) -> set[bytes]:
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, some = redis_server.command("SCAN", cursor, "MATCH", pattern, "COUNT", 10_000)
            found.update(some)
            if cursor == b"0":
                return found

    try:
        for part in states.values():
            assert scan(keys.pattern_of(part)) == {key for key, its in states.items() if its.index == part.index}
        assert scan(keys.index_pattern) == indexes
        assert scan(keys.state_pattern) == set(states)
    finally:
        redis_server.command("DEL", *everything)


@given(PREFIXES, PREFIXES, IDS, IDS)
def test_no_key_of_another_prefix_is_taken_for_an_index(prefix: str, other: str, agent: str, session: str) -> None:
    """A pattern holds the whole prefix, letter by letter."""
    pattern = re.compile(fnmatch.translate(re.sub(r"\\(.)", r"[\1]", Keys(prefix, 1).index_pattern.decode())))
    stranger = Keys(other, 1).partition(agent, session)
    if prefix != other:
        if not stranger.index.startswith(f"{prefix}sessions:{{".encode()):
            assert not pattern.match(stranger.index.decode())
        assert not pattern.match(stranger.state(session).decode())


@pytest.mark.parametrize(
    ("prefix", "partitions", "words"),
    [*((prefix, 1, "braces") for prefix in ("{", "}", "{a}:", "a}b")), *(("p:", n, "partitions") for n in (0, -1))],
)
def test_a_prefix_with_braces_and_less_than_one_partition_are_value_errors(
    prefix: str, partitions: int, words: str
) -> None:
    """Braces would choose the slot of every key."""
    with pytest.raises(ValueError, match=words):
        Keys(prefix, partitions)


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=600))
def test_an_id_is_taken_if_it_is_1_to_512_bytes_of_utf_8(text: str) -> None:
    try:
        fits = 1 <= len(text.encode()) <= 512
    except UnicodeEncodeError:
        fits = False
    for keys in (Keys("p:", 1), Keys("p:", 3)):
        if fits:
            state_key(keys, text, text)
        else:
            for call in (lambda keys=keys: keys.agent(text), lambda keys=keys: state_key(keys, "a", text)):
                with pytest.raises(InvalidIdError):
                    call()


async def test_the_message_does_not_quote_the_id() -> None:
    """It may be a megabyte long, or hold anything."""
    with pytest.raises(InvalidIdError) as caught:
        await MemoryStateStore().save(state("x" * 1_000_000))
    assert str(caught.value) == "session_id has 1000000 bytes; at most 512 are allowed"


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.binary(max_size=10))
def test_many_strings_are_packed_as_one_by_one(endings: list[bytes], beginning: bytes) -> None:
    """Whatever their lengths, in their order."""
    assert bulks(beginning, endings) == b"".join(bulk(beginning + ending) for ending in endings)


@given(st.lists(st.one_of(st.text(max_size=5), st.from_regex(r"[a-z\n%: ]{0,4}", fullmatch=True))))
def test_ids_are_plain_if_each_stands_in_its_key_as_it_is(ids: list[str]) -> None:
    """Only then may many be decoded at once."""
    partition = Keys("p:", 1).agent("a")[0]
    try:
        members = [each.encode() for each in ids]
        are_plain = [partition.state(each) for each in ids] == [b"p:{a}:" + member for member in members]
    except (UnicodeEncodeError, InvalidIdError):
        return
    assert plain_ids(members) == (ids if are_plain else None)


@given(st.lists(st.text(min_size=1, max_size=5)))
def test_the_keys_of_many_states_are_those_of_each(ids: list[str]) -> None:
    """In their order, and refused for what is no id."""
    partition = Keys("p:", 1).agent("a")[0]
    try:
        expected = b"".join(bulk(partition.state(each)) for each in ids)
    except InvalidIdError:
        with pytest.raises(InvalidIdError):
            partition.sent_states(ids)
        return
    assert partition.sent_states(ids) == expected
