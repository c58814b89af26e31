import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.text import escape, get_line, human_size, human_span, is_plain, plural

DANGEROUS = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text())
def test_escaped_text_is_one_line_that_moves_and_hides_nothing(text: str) -> None:
    shown = escape(text)
    left = {c for c in shown if unicodedata.category(c) in DANGEROUS}
    assert left <= {"\u200c", "\u200d"}
    assert len(shown.splitlines()) <= 1


@pytest.mark.parametrize(
    "name",
    ["plain.txt", "Größe 漢字 😀.txt", "👩\u200d👩\u200d👧.png", "[/red].txt", "a\\b"],
)
def test_harmless_names_are_shown_as_they_are(name: str) -> None:
    assert escape(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("exe.\u202etxt", "exe.\\u202etxt"),
        ("\u2028", "\\u2028"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_could_deceive_is_shown_as_an_escape(name: str, shown: str) -> None:
    assert escape(name) == shown
    assert not is_plain(name)


@given(st.text(min_size=1))
def test_line_to_pass_on_is_one_word_that_names_the_file(name: str) -> None:
    words = shlex.split(get_line(name, "b3:00"))
    assert words[:2] == ["shoal", "get"]
    assert words[-1] in (name, "b3:00")
    assert words[2] == "--" if name.startswith("-") and is_plain(name) else len(words) == 3


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_499, "999 kB"),
        (999_999, "1.00 MB"),
        (734_003_200, "734 MB"),
        (10**16, "10.0 PB"),
    ],
)
def test_sizes_have_three_digits(size: int, shown: str) -> None:
    assert human_size(size) == shown


@given(st.integers(0, 10**18))
def test_any_size_is_short(size: int) -> None:
    assert len(human_size(size)) <= 8


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (-5, "0 s")],
)
def test_spans_show_their_two_largest_units(seconds: int, shown: str) -> None:
    assert human_span(seconds) == shown


def test_one_is_singular() -> None:
    assert [plural(n, "peer") for n in (0, 1, 2)] == ["0 peers", "1 peer", "2 peers"]
