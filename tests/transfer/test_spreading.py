"""What a whole holder gives to whom, as a transcript and under random readers."""

from hypothesis import given
from hypothesis import strategies as st

from protos import transfer_pb2
from transfer.bitmap import full_bitmap
from transfer.spreading import SpreadConfig, Spreading

CONTENT = bytes(32)
CHUNKS = 16
READERS = [bytes([number]) for number in range(6)]


def asked_by(
    spreading: Spreading, readers: list[bytes], *, spreads: bool = True, now: float = 0.0
) -> list[int | None]:
    return [
        spreading.asked(CONTENT, CHUNKS, reader, spreads=spreads, now=now) for reader in readers
    ]


def test_few_readers_are_given_everything() -> None:
    spreading = Spreading()
    assert asked_by(spreading, READERS[:3]) == [None] * 3
    for reader in READERS[:3]:
        assert all(spreading.give(CONTENT, reader, chunk, now=0.0) for chunk in range(CHUNKS))


def test_chunk_is_given_to_two_of_many_and_then_no_longer_offered() -> None:
    spreading = Spreading()
    asked_by(spreading, READERS)
    assert [spreading.give(CONTENT, reader, 3, now=0.0) for reader in READERS[:4]] == [
        True,
        True,
        False,
        False,
    ]
    assert asked_by(spreading, [READERS[5]]) == [full_bitmap(CHUNKS) & ~(1 << 3)]


def test_reader_that_finds_nobody_else_is_given_everything_again() -> None:
    spreading = Spreading()
    asked_by(spreading, READERS)
    for reader in READERS[:2]:
        spreading.give(CONTENT, reader, 3, now=0.0)
    assert not spreading.give(CONTENT, READERS[4], 3, now=0.0)
    assert asked_by(spreading, [READERS[4]], spreads=False) == [None]
    assert spreading.give(CONTENT, READERS[4], 3, now=0.0)


def test_readers_that_do_not_spread_and_small_files_are_never_held_back() -> None:
    spreading = Spreading()
    assert asked_by(spreading, READERS, spreads=False) == [None] * 6
    assert all(spreading.give(CONTENT, reader, 1, now=0.0) for reader in READERS)
    small = [spreading.asked(CONTENT, 15, reader, spreads=True, now=0.0) for reader in READERS]
    assert small == [None] * 6


def test_silent_readers_are_forgotten_with_what_they_were_given() -> None:
    spreading = Spreading()
    asked_by(spreading, READERS)
    for reader in READERS[:2]:
        spreading.give(CONTENT, reader, 3, now=0.0)
    assert asked_by(spreading, READERS, now=20.0) == [None] * 3 + [full_bitmap(CHUNKS)] * 3


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, CHUNKS - 1), st.booleans())))
def test_no_chunk_is_given_to_more_of_many_than_the_rule_says(
    calls: list[tuple[int, int, bool]],
) -> None:
    config = SpreadConfig(readers_max=8)
    spreading, given_out = Spreading(config), dict.fromkeys(range(CHUNKS), 0)
    asked_by(spreading, [bytes([number]) for number in range(10)])
    for number, chunk, asks in calls:
        reader = bytes([number])
        if asks:
            offered = spreading.asked(CONTENT, CHUNKS, reader, spreads=True, now=0.0)
            if number >= config.readers_max:
                assert offered is None
            else:
                assert offered == sum(1 << c for c, count in given_out.items() if count < 2)
        elif spreading.give(CONTENT, reader, chunk, now=0.0) and number < config.readers_max:
            given_out[chunk] += 1
    assert max(given_out.values()) <= config.copies_max


def test_request_says_that_its_sender_spreads() -> None:
    request = transfer_pb2.HaveRequest(content_id=b"\1" * 32, spreads=True)
    assert request.SerializeToString() == b"\x0a\x20" + b"\1" * 32 + b"\x10\x01"
