from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import LENGTH_BYTES, length_prefixed


def split(data: bytes) -> list[bytes]:
    """The reference decoder: what makes the encoding unambiguous."""
    parts = []
    while data:
        end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
        parts.append(data[LENGTH_BYTES:end])
        data = data[end:]
    return parts


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_parts_can_be_told_apart_again(parts: list[bytes]) -> None:
    assert split(length_prefixed(*parts)) == parts


def test_moving_a_byte_between_parts_changes_the_bytes() -> None:
    assert length_prefixed(b"ab", b"c") != length_prefixed(b"a", b"bc")
    assert length_prefixed(b"a") != length_prefixed(b"a", b"")
