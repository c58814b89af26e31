"""Manifests: canonical bytes, limits and content ids."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import BadContentId, BadManifest, FileTooLarge
from transfer.manifest import (
    CHUNK_SIZE_MIN_BYTES,
    CHUNKS_MAX,
    FILE_SIZE_MAX_BYTES,
    Manifest,
    chunk_size_for,
    decode_manifest,
    digest_of,
    parse_content_id,
    parse_content_prefix,
    show_content_id,
)

CHUNK = CHUNK_SIZE_MIN_BYTES


def manifest_of(data: bytes) -> Manifest:
    spans = range(0, len(data), chunk_size_for(len(data)))
    return Manifest.of(len(data), [digest_of(data[at : at + CHUNK]) for at in spans])


def test_bytes_of_a_manifest_are_as_the_protocol_says() -> None:
    manifest = manifest_of(b"shoal")
    golden = "73686f616c4601000000000000000500080000" + blake3(b"shoal").hexdigest()
    assert manifest.encode().hex() == golden
    assert manifest.content_id == blake3(bytes.fromhex(golden)).digest()


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(0, 0), (1, 1), (CHUNK - 1, 1), (CHUNK, 1), (CHUNK + 1, 2), (3 * CHUNK, 3)],
)
def test_chunks_cover_the_file_exactly(size: int, chunks: int) -> None:
    manifest = Manifest(size, bytes(32 * chunks))
    spans = [manifest.span(chunk) for chunk in range(manifest.chunk_count)]
    assert len(spans) == chunks
    assert sum(length for _, length in spans) == size
    assert all(offset == number * CHUNK for number, (offset, _) in enumerate(spans))


def test_chunk_size_doubles_only_when_chunks_run_out() -> None:
    assert chunk_size_for(CHUNK * CHUNKS_MAX) == CHUNK
    assert chunk_size_for(CHUNK * CHUNKS_MAX + 1) == 2 * CHUNK
    with pytest.raises(FileTooLarge):
        chunk_size_for(FILE_SIZE_MAX_BYTES + 1)


@given(st.integers(0, FILE_SIZE_MAX_BYTES))
def test_no_file_has_more_chunks_than_allowed(size: int) -> None:
    assert -(-size // chunk_size_for(size)) <= CHUNKS_MAX


@given(st.binary(max_size=64), st.integers(0, 70), st.integers(1, 255))
def test_any_altered_byte_is_detected(data: bytes, at: int, flip: int) -> None:
    manifest = manifest_of(data)
    encoded = bytearray(manifest.encode())
    assert decode_manifest(bytes(encoded), manifest.content_id) == manifest
    encoded[at % len(encoded)] ^= flip
    with pytest.raises(BadManifest):
        decode_manifest(bytes(encoded), manifest.content_id)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for candidate in (data, b"shoalF\x01" + data, manifest_of(b"x").encode() + data):
        try:
            decode_manifest(candidate)
        except BadManifest:
            continue


def test_manifest_of_a_file_is_none_of_a_folder() -> None:
    tree = bytearray(manifest_of(b"x").encode())
    tree[5:6] = b"T"
    with pytest.raises(BadManifest, match="chunks"):
        decode_manifest(bytes(tree))


def test_chunk_of_another_length_never_verifies() -> None:
    manifest = manifest_of(b"12345")
    assert manifest.verifies(0, b"12345")
    assert not manifest.verifies(0, b"1234")
    assert not manifest.verifies(0, b"12346")


@given(st.binary(min_size=32, max_size=32))
def test_content_id_survives_its_text(content_id: bytes) -> None:
    assert parse_content_id(show_content_id(content_id)) == content_id
    assert parse_content_id(show_content_id(content_id).upper()) == content_id


@pytest.mark.parametrize("text", ["", "b3:", "b3:12", "b2:" + "0" * 64, "b3:" + "g" * 64])
def test_other_text_is_no_content_id(text: str) -> None:
    with pytest.raises(BadContentId):
        parse_content_id(text)
    with pytest.raises(BadContentId):
        parse_content_prefix(text)


def test_prefix_of_eight_digits_is_taken() -> None:
    assert parse_content_prefix("b3:0123ABCD") == "0123abcd"
    with pytest.raises(BadContentId):
        parse_content_prefix("b3:0123abc")
    with pytest.raises(BadContentId):
        parse_content_prefix("b3:" + "0" * 65)
