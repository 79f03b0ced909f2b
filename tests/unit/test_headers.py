"""What a reply may announce: headers that are absurd end a connection, and nothing else does."""

from __future__ import annotations

import itertools
from typing import Any, Final

import hiredis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_state.commands.replies import UnreadableReplyError
from redis_state.transport.headers import MAX_BULK, MAX_ELEMENTS, MAX_LINE, Headers

SLICE: Final = 512  # parsed at once, as a connection does with larger slices


class Stream:
    """The parser and what looks at headers beside it, as a connection uses them."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.received = 0
        self.headers = Headers()
        self._reader: Any = hiredis.Reader(notEnoughData=Ellipsis, replyError=str)  # pyright: ignore[reportArgumentType]

    def receive_all(self, data: list[bytes]) -> None:
        for piece in data:
            self.receive(piece)

    def receive(self, data: bytes) -> None:
        self.received += len(data)
        before = len(self.replies)
        walked = self.headers.before(data)
        for start in range(0, len(data), SLICE):
            self._reader.feed(data, start, min(SLICE, len(data) - start))
            while (reply := self._reader.gets()) is not Ellipsis:
                self.replies.append(reply)
        unparsed = self._reader.len() if self._reader.has_data() else 0
        completed = len(self.replies) > before
        if walked or not completed or self.headers.is_inside or data[-1:] != b"\n" or unparsed:
            self.headers.after(data, unparsed, walked=walked, completed=completed)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Data cut at these places."""
    bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


# What looks like a header and stands inside of a string, or is broken there by anything.
LURES: Final = st.lists(
    st.sampled_from(
        [b"\r\n", b"*500000000\r\n", b"$10000000000\r\n", b">99999", b"~12345678", b"|9999999", b"\r", b"x"]
    )
    | st.binary(max_size=12),
    max_size=12,
).map(b"".join) | st.integers(900, 3000).map(lambda size: b"*1000000\r\n".ljust(size, b"\n"))
STRINGS: Final = LURES.map(lambda text: b"$%d\r\n%b\r\n" % (len(text), text))
VERBATIM: Final = LURES.map(lambda text: b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text))
SHORT: Final = st.sampled_from(
    [
        b"+OK\r\n",
        b":-1\r\n",
        b"-ERR *500000000\r\n",
        b"_\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"*0\r\n",
    ]
)


def aggregates(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Arrays and pushes of some items."""
    return st.tuples(st.sampled_from([b"*", b">"]), st.lists(items, max_size=5)).map(
        lambda made: b"%b%d\r\n%b" % (made[0], len(made[1]), b"".join(made[1]))
    )


REPLIES: Final = st.recursive(STRINGS | SHORT | VERBATIM, aggregates, max_leaves=8)
BIG_ARRAYS: Final = st.integers(1000, 1200).map(lambda count: b"*%d\r\n" % count + b"$2\r\nab\r\n" * count)
STREAMS: Final = st.lists(REPLIES | BIG_ARRAYS, min_size=1, max_size=8).map(b"".join)
CUTS: Final = st.lists(st.integers(0, 100_000), max_size=12)

ABSURD: Final = st.one_of(
    st.integers(MAX_BULK + 1, 2**63 - 1).map(lambda size: b"$%d\r\n" % size),
    st.integers(MAX_BULK + 1, 2**40).map(lambda size: b"=%d\r\n" % size),
    st.tuples(st.sampled_from(b"*>~|"), st.integers(MAX_ELEMENTS + 1, 2**32 - 1)).map(lambda made: b"%c%d\r\n" % made),
    st.integers(1, 9999).map(lambda below: b"*%d\r\n*10000\r\n" % (MAX_ELEMENTS - below)),
    st.integers(1000, 9999).map(lambda count: b"*%d\r\n" % count * (MAX_ELEMENTS // 1000 + 20)),
)


@given(stream=STREAMS, cuts=CUTS)
@example(stream=b"$3\r\nabc\r\n" * 400 + b"$2000\r\n" + b"*" * 2000 + b"\r\n:1\r\n", cuts=[3615, 3625, 5000])
def test_what_a_server_sends_is_never_refused(stream: bytes, cuts: list[int]) -> None:
    """Whatever a string holds and wherever the stream is split: every reply is read."""
    whole, split = Stream(), Stream()
    whole.receive(stream)
    split.receive_all(pieces(stream, cuts))
    assert split.replies == whole.replies


@given(
    before=STREAMS,
    opened=st.lists(st.sampled_from([b"*2\r\n", b"*3\r\n:1\r\n", b">4\r\n$2\r\n*9\r\n"]), max_size=3).map(b"".join),
    absurd=ABSURD,
    after=st.binary(max_size=40),
    cuts=CUTS,
)
@example(before=b"$0\r\n\r\n", opened=b"", absurd=b"*1048575\r\n*10000\r\n", after=b"", cuts=[18])
def test_an_absurd_header_is_refused_wherever_it_stands(
    before: bytes, opened: bytes, absurd: bytes, after: bytes, cuts: list[int]
) -> None:
    """Alone, in an array, behind anything, in one piece or many; with its last byte at the latest."""
    whole = before + opened + absurd
    stream = Stream()
    with pytest.raises((UnreadableReplyError, hiredis.ProtocolError)):  # the parser's own is for depth
        stream.receive_all(pieces(whole + after, [*cuts, len(whole)]))
    assert stream.received <= len(whole)


@given(text=LURES, ending=st.sampled_from([b"\r\n", b"xy", b"\n\r"]), cuts=CUTS)
def test_a_header_behind_a_string_that_ends_as_it_should_not_is_found(
    text: bytes, ending: bytes, cuts: list[int]
) -> None:
    """The parser does not look at the end of a string, so nothing can be told by line ends."""
    stream = Stream()
    with pytest.raises(UnreadableReplyError):
        stream.receive_all(pieces(b"$%d\r\n%b%b*500000000\r\n" % (len(text), text, ending), cuts))


@pytest.mark.parametrize("kind", "+-:(,")
def test_a_line_without_an_end_is_refused(kind: str) -> None:
    """It would be read from its beginning at every piece."""
    stream = Stream()
    stream.receive(kind.encode() + b"1" * 1000)
    with pytest.raises(UnreadableReplyError):
        stream.receive_all([b"1" * 1000] * (MAX_LINE // 1000 + 1))


def test_many_large_arrays_one_after_the_other_are_read() -> None:
    """What one reply announces is forgotten when it is complete."""
    stream = Stream()
    page = b"*2002\r\n" + b"$1\r\na\r\n" * 2002
    data = page * 600
    for start in range(0, len(data), 40_000):
        stream.receive(data[start : start + 40_000])
    assert len(stream.replies) == 600
