"""Our bytes are protobuf's bytes, and no message raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import transfer_pb2
from transfer.wire import (
    PACK_CONTENTS_MAX,
    RUN_BYTES_MAX,
    RUN_CHUNKS_MAX,
    RUN_FRAME_BYTES_MAX,
    FetchRequest,
    FrameStatus,
    decode_fetch_request,
    decode_frame,
    encode_fetch_request,
    encode_frame,
    encode_frame_limit,
    encode_pack_request,
)

NUMBERS = st.integers(0, (1 << 32) - 1)
CONTENT_IDS = st.binary(min_size=32, max_size=32)


@given(NUMBERS, CONTENT_IDS, NUMBERS)
def test_fetch_request_is_byte_for_byte_protobuf(number: int, content: bytes, chunk: int) -> None:
    theirs = transfer_pb2.FetchRequest(request=number, content_id=content, chunk=chunk)
    ours = FetchRequest(number, content, chunk)
    assert encode_fetch_request(ours) == theirs.SerializeToString()
    assert decode_fetch_request(theirs.SerializeToString()) == ours


@given(NUMBERS, CONTENT_IDS, NUMBERS, st.integers(2, RUN_CHUNKS_MAX))
def test_request_for_a_run_is_byte_for_byte_protobuf(
    number: int, content: bytes, chunk: int, count: int
) -> None:
    theirs = transfer_pb2.FetchRequest(request=number, content_id=content, chunk=chunk, count=count)
    ours = FetchRequest(number, content, chunk, count=count)
    assert encode_fetch_request(ours) == theirs.SerializeToString()
    assert decode_fetch_request(theirs.SerializeToString()) == ours


def test_bytes_of_a_request_for_a_run_are_as_the_protocol_says() -> None:
    content = b"c" * 32
    run = FetchRequest(5, content, 300, count=4)
    one = b"\x08\x05\x12\x20" + content + b"\x18\xac\x02"
    assert encode_fetch_request(run) == one + b"\x28\x04"
    # One chunk is asked for as it was before there were runs.
    assert encode_fetch_request(FetchRequest(5, content, 300)) == one


def test_bytes_of_what_a_peer_says_of_runs_are_as_the_protocol_says() -> None:
    reply = transfer_pb2.HaveReply(chunk_count=3, complete=True, run_bytes_max=RUN_BYTES_MAX)
    assert reply.SerializeToString() == bytes.fromhex("0803100120") + b"\x80\x80\x80\x02"


@given(NUMBERS, st.lists(CONTENT_IDS, min_size=1, max_size=PACK_CONTENTS_MAX))
def test_pack_request_is_byte_for_byte_protobuf(number: int, contents: list[bytes]) -> None:
    theirs = transfer_pb2.FetchRequest(request=number, pack=b"".join(contents))
    assert encode_pack_request(number, contents) == theirs.SerializeToString()
    found = decode_fetch_request(theirs.SerializeToString())
    assert found == FetchRequest(number, b"", 0, tuple(contents))


def test_bytes_of_a_pack_request_are_as_the_protocol_says() -> None:
    one, other = b"a" * 32, b"b" * 32
    assert encode_pack_request(5, [one, other]) == b"\x08\x05\x22\x40" + one + other


def test_short_frames_are_asked_for_at_the_end_of_any_request() -> None:
    content = b"c" * 32
    limit = encode_frame_limit(20_000)
    assert limit == b"\x30\xa0\x9c\x01"
    assert encode_frame_limit(0) == b""
    for theirs, ours in (
        (
            transfer_pb2.FetchRequest(content_id=content, count=2, frame_bytes_max=20_000),
            encode_fetch_request(FetchRequest(0, content, 0, count=2)),
        ),
        (
            transfer_pb2.FetchRequest(pack=content, frame_bytes_max=20_000),
            encode_pack_request(0, [content]),
        ),
    ):
        assert ours + limit == theirs.SerializeToString()
        parsed = decode_fetch_request(ours + limit)
        assert parsed is not None
        assert parsed.frame_bytes_max == 20_000


@pytest.mark.parametrize(
    "theirs",
    [
        transfer_pb2.FetchRequest(pack=b"a" * 31),
        transfer_pb2.FetchRequest(pack=b"a" * 32 * (PACK_CONTENTS_MAX + 1)),
        transfer_pb2.FetchRequest(content_id=b"c" * 32, pack=b"a" * 32),
        transfer_pb2.FetchRequest(chunk=1, pack=b"a" * 32),
        transfer_pb2.FetchRequest(count=2, pack=b"a" * 32),
        transfer_pb2.FetchRequest(content_id=b"c" * 32, count=RUN_CHUNKS_MAX + 1),
    ],
)
def test_pack_or_run_that_is_cut_or_too_long_or_something_else_too_is_refused(
    theirs: transfer_pb2.FetchRequest,
) -> None:
    assert decode_fetch_request(theirs.SerializeToString()) is None


@given(NUMBERS, st.sampled_from(FrameStatus), NUMBERS, st.binary(max_size=300))
def test_frame_is_byte_for_byte_protobuf(
    number: int, status: FrameStatus, offset: int, data: bytes
) -> None:
    theirs = transfer_pb2.FetchFrame(
        request=number,
        status=transfer_pb2.FetchFrame.Status.Name(status),
        offset=offset,
        data=data,
    )
    assert encode_frame(number, status, offset, data) == theirs.SerializeToString()
    frame = decode_frame(theirs.SerializeToString())
    assert frame is not None
    assert (frame.request, frame.status, frame.offset) == (number, status, offset)
    assert bytes(frame.data) == data


def test_largest_frame_parses_and_one_byte_more_does_not() -> None:
    data = bytes(RUN_FRAME_BYTES_MAX)
    message = encode_frame(7, FrameStatus.DATA, 9, data)
    parsed = transfer_pb2.FetchFrame.FromString(message)
    assert (parsed.request, parsed.offset, parsed.data) == (7, 9, data)
    assert decode_frame(message) is not None
    assert decode_frame(encode_frame(7, FrameStatus.DATA, 9, data + b"x")) is None


@given(st.binary(max_size=80))
def test_no_bytes_raise(message: bytes) -> None:
    decode_frame(message)
    decode_fetch_request(message)


@given(st.integers(7, 200), st.binary(max_size=20), CONTENT_IDS)
def test_unknown_fields_are_skipped(field: int, value: bytes, content: bytes) -> None:
    tag = field << 3 | 2
    head = bytes((tag & 0x7F | 0x80, tag >> 7)) if tag > 0x7F else bytes((tag,))
    message = encode_fetch_request(FetchRequest(1, content, 2)) + head + bytes((len(value),))
    assert decode_fetch_request(message + value) == FetchRequest(1, content, 2)


@pytest.mark.parametrize(
    "message",
    [
        b"\x08",
        b"\x22\x05abc",
        b"\x10\x03",
        b"\x0b",
        b"\x00\x01",
        b"\x08" + b"\xff" * 11,
        b"\x20\x01",
    ],
)
def test_malformed_frame_is_none(message: bytes) -> None:
    assert decode_frame(message) is None
