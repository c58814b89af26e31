import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.units import parse_size, parse_span, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("10GB", 10**10), ("1.5 MiB", 3 * 2**19), ("2k", 2000), ("7 TiB", 7 * 2**40)],
)
def test_sizes_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "10 XB", "1ib", "٣"])
def test_what_is_no_size_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30m", 1800), ("7d", 604800)])
def test_spans_read_as_people_write_them(text: str, seconds: int) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0d", "-1d", "7 days", "d"])
def test_what_is_no_span_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="is no span"):
        parse_span(text)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (536_870_912, "536.9 MB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_are_shown_in_units_of_the_trade(size_bytes: int, shown: str) -> None:
    assert show_size(size_bytes) == shown
