"""Bitmaps and upload slots."""

from hypothesis import given
from hypothesis import strategies as st

from transfer.bitmap import chunks_in, decode_bitmap, encode_bitmap, full_bitmap
from transfer.limits import Slots


@given(st.sets(st.integers(0, 100)))
def test_bitmap_survives_its_bytes(chunks: set[int]) -> None:
    bits = sum(1 << chunk for chunk in chunks)
    assert decode_bitmap(encode_bitmap(bits, 101), 101) == bits
    assert list(chunks_in(bits)) == sorted(chunks)


def test_first_chunk_is_the_lowest_bit_of_the_first_byte() -> None:
    assert encode_bitmap(0b1, 9) == b"\x01\x00"
    assert encode_bitmap(1 << 8, 9) == b"\x00\x01"


@given(st.binary(max_size=50), st.integers(0, 99))
def test_bits_beyond_the_last_chunk_are_dropped(data: bytes, count: int) -> None:
    assert decode_bitmap(data, count) <= full_bitmap(count)


def test_slots_are_bounded_in_all_and_by_peer() -> None:
    slots = Slots(3, 2)
    assert [slots.enter(b"a") for _ in range(3)] == [True, True, False]
    assert [slots.enter(b"b"), slots.enter(b"c")] == [True, False]
    slots.leave(b"a")
    assert slots.enter(b"c")
    assert slots.in_use == 3
