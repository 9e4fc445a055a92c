"""What reaches a terminal of what others wrote."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from styx_cli.sanitize import TerminalFilter, plain

_SGR = re.compile(r"\x1b\[[0-9;:]*m")
# Text that is dense in the beginnings, middles and ends of control sequences.
_PIECES = st.sampled_from(
    [
        *(b"\x1b", b"[", b"]", b"P", b"m", b"31", b";", b"0", b"K", b"\x07", b"\\", b"\r", b"\n", b"\t", b"a", b"\x9b"),
        *(b"\xc2\x9b", b"\xc2\x9d", b"\xc2\x9c", b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b"\xff", b"\x00", b"\x18", b"("),
        *(b"\xed\xa0\x80", b"\xf3\xa0\x80\x81", b"?25l", b" ", b"\x7f", b"X", b"^", b"_", "\u00e4".encode()),
    ]
)
_OUTPUT = st.one_of(st.binary(max_size=60), st.lists(_PIECES, max_size=30).map(b"".join))


def shown(data: bytes, *cuts: int) -> str:
    """What a terminal gets of `data` when it comes cut at these places."""
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    terminal = TerminalFilter()
    parts = [terminal.feed(data[start:end]) for start, end in itertools.pairwise(borders)]
    return "".join(parts) + terminal.finish()


@settings(max_examples=400)
@given(_OUTPUT, st.lists(st.integers(0, 60), max_size=6))
def test_cutting_the_output_anywhere_changes_nothing(data: bytes, cuts: list[int]) -> None:
    assert shown(data, *cuts) == shown(data) == shown(data, *range(len(data)))


@settings(max_examples=400)
@given(_OUTPUT)
@example(b"\x1b]0;title")
@example(b"\x1b[31")
def test_nothing_but_text_and_colours_reaches_the_terminal(data: bytes) -> None:
    rest = _SGR.sub("", shown(data))
    assert not [char for char in rest if char not in "\n\t" and (char < " " or "\x7f" <= char <= "\x9f")]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\u2028\u2029\ufeff]", rest)


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=40))
def test_plain_text_passes_untouched(text: str) -> None:
    assert shown(text.encode()) == text
    assert plain(text) == text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\x1b[31mred\x1b[0mb", "a\x1b[31mred\x1b[0mb"),
        (b"\x1b[1;38;5;208mx\x1b[m", "\x1b[1;38;5;208mx\x1b[m"),
        (b"\x1b[31mred", "\x1b[31mred\x1b[0m"),
        (b"a\x1b[2Jb\x1b[1;1Hc\x1b[Kd\x1b[?25le", "abcde"),
        (b"\x1b]0;evil\x07title", "title"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bPq#0;2;0;0;0\x1b\\sixel", "sixel"),
        (b"\x1b_apc\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\ok", "ok"),
        (b"\x1bcreset\x1b7\x1b(0x", "resetx"),
        (b"\xc2\x9b31mred", "\x1b[31mred\x1b[0m"),
        (b"\xc2\x9d0;title\xc2\x9cok", "ok"),
        (b"\x1b]0;never ended\nnext line\n", "\nnext line\n"),
        (b"10%\r20%\r\n", "10%\n20%\n"),
        (b"good\rbad", "good\nbad"),
        (b"line\r\n", "line\n"),
        (b"end\r", "end\n"),
        (b"\x00\x07\x08\x7f", "\u2400\u2407\u2408\u2421"),
        (b"\xff\xc3", "\ufffd\ufffd"),
        ("a\u202eb".encode(), "a\ufffdb"),
        (b"\x1b[31", ""),
        (b"\x1b", ""),
        (b"\x1b[" + b"1;" * 200 + b"mx", "x"),
        (b"\x1b[31\nm", "\nm"),
        (b"\x1b[>4;2mx", "x"),
    ],
)
def test_sequences_are_judged_one_by_one(data: bytes, expected: str) -> None:
    assert shown(data) == expected


@given(st.text(max_size=40))
def test_a_name_becomes_one_harmless_line(text: str) -> None:
    made = plain(text)
    assert not [char for char in made if char < " " or "\x7f" <= char <= "\x9f"]
    made.encode()


def test_a_name_shows_what_was_in_it() -> None:
    assert plain("a\x1b[31m\nb") == "a\u241b[31m\u240ab"
    assert plain("a\nb", keep_lines=True) == "a\nb"
