"""Chunks in pieces: joined as they were cut, and never out of order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import mailbox_pb2
from queueing import frames
from queueing.errors import BadEnvelope
from tests.queueing.letters import HOUR_MS, content_of, identity, seal

MANIFEST, SOURCE = seal(
    identity("alice"), identity("bob"), content_of(1024 * 1024 + 5), created_ms=1,
    expires_ms=HOUR_MS,
)  # fmt: skip


@pytest.mark.parametrize("piece_bytes", [100_000, frames.FRAME_BYTES_MAX])
def test_pieces_join_to_the_chunk(piece_bytes: int) -> None:
    joiner = frames.Joiner(MANIFEST)
    joined = [
        chunk
        for index, sealed in enumerate(SOURCE.chunks)
        for frame in frames.split(index, sealed, piece_bytes)
        if (chunk := joiner.add(frame)) is not None
    ]
    assert joined == list(enumerate(SOURCE.chunks))


@pytest.mark.parametrize(
    ("index", "offset", "data"),
    [
        (0, 1, SOURCE.chunks[0][1:]),
        (99, 0, SOURCE.chunks[0]),
        (0, 0, b""),
        (0, 0, SOURCE.chunks[0] + b"x"),
        (0, 0, SOURCE.chunks[1]),
        (1, 0, SOURCE.chunks[0]),
    ],
)
def test_a_wrong_piece_is_refused(index: int, offset: int, data: bytes) -> None:
    with pytest.raises(BadEnvelope):
        frames.Joiner(MANIFEST).add(mailbox_pb2.Frame(index=index, offset=offset, data=data))


def test_a_chunk_ends_before_the_next_begins() -> None:
    joiner = frames.Joiner(MANIFEST)
    joiner.add(mailbox_pb2.Frame(index=0, offset=0, data=SOURCE.chunks[0][:100]))
    with pytest.raises(BadEnvelope):
        joiner.add(mailbox_pb2.Frame(index=1, offset=100, data=SOURCE.chunks[1][100:]))


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_bitmaps_round_trip(case: tuple[int, set[int]]) -> None:
    count, indexes = case
    bitmap = frames.bitmap_of(sorted(indexes), count)
    assert frames.indexes_of(bitmap, count) == sorted(indexes)
    with pytest.raises(BadEnvelope):
        frames.indexes_of(bitmap + b"\0", count)
