"""The envelope: what goes in comes out, for the recipient alone, and nothing can be altered."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import length_prefixed
from identity.network import Network
from identity.signing import Purpose
from queueing.envelope import (
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    CHUNK_COUNT_MAX,
    LIFETIME_MAX_MS,
    NAME_BYTES_MAX,
    PADDED_BYTES_MAX,
    PADDED_BYTES_MIN,
    OuterManifest,
    chunk_bytes_for,
    decode_manifest,
    open_chunk,
    open_letter,
    padded_size,
    seal_file,
    sign_manifest,
)
from queueing.errors import BadEnvelope, Expired, SourceChanged, TooLarge
from tests.queueing.letters import (
    HOUR_MS,
    NETWORK_ID,
    content_id_of,
    content_of,
    identity,
    seal,
)

NOW_MS = 1_800_000_000_000
ALICE, BOB, EVE = identity("alice"), identity("bob"), identity("eve")
CHUNK = CHUNK_BYTES_MIN


def _sealed(content: bytes, **options):
    return seal(ALICE, BOB, content, created_ms=NOW_MS, expires_ms=NOW_MS + HOUR_MS, **options)


SMALL, SMALL_SOURCE = _sealed(b"some content")


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_the_recipient_reads_what_was_sealed(size: int) -> None:
    content = content_of(size)
    manifest, source = _sealed(content)
    manifest.check(NETWORK_ID, NOW_MS)
    letter = open_letter(BOB, NETWORK_ID, decode_manifest(manifest.encoded))
    opened = b"".join(open_chunk(letter, n, sealed) for n, sealed in enumerate(source.chunks))
    assert opened == content
    assert (letter.size, letter.content_id) == (size, content_id_of(content))
    assert letter.content_digest == blake3(content).digest()
    assert letter.sender_id == ALICE.peer_id
    assert [len(sealed) for sealed in source.chunks] == [
        manifest.sealed_size(n) for n in range(manifest.count)
    ]
    assert sum(map(len, source.chunks)) == manifest.sealed_bytes


class Fed:
    """Finds the content id from what it is fed, by whichever thread, in whichever order."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}

    def feed(self, offset: int, content: bytes) -> None:
        assert offset not in self.pieces
        self.pieces[offset] = content

    def content_id(self) -> bytes:
        return content_id_of(b"".join(self.pieces[offset] for offset in sorted(self.pieces)))


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 7 * CHUNK])
def test_a_content_id_is_found_out_while_its_file_is_sealed(tmp_path: Path, size: int) -> None:
    content, fed = content_of(size), Fed()
    (tmp_path / "source").write_bytes(content)
    manifest = _seal_path(tmp_path / "source", size, lambda _index, _sealed: None, fed)
    assert open_letter(BOB, NETWORK_ID, manifest).content_id == content_id_of(content)
    assert b"".join(fed.pieces[offset] for offset in sorted(fed.pieces)) == content
    assert all(offset % CHUNK == 0 for offset in fed.pieces)


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
        lambda name: not name.endswith("/")
    )
)
def test_every_name_travels_as_it_is(name: str) -> None:
    manifest, _source = _sealed(b"", name=name)
    assert open_letter(BOB, NETWORK_ID, manifest).name == name


@pytest.mark.parametrize("name", ["", "x" * (NAME_BYTES_MAX + 1), "é" * 128])
def test_a_name_of_wrong_length_is_not_sealed(name: str) -> None:
    with pytest.raises(TooLarge):
        _sealed(b"", name=name)


def test_a_name_of_the_greatest_length_is_sealed() -> None:
    manifest, _source = _sealed(b"", name="é" * 127 + "x")
    assert open_letter(BOB, NETWORK_ID, manifest).name == "é" * 127 + "x"


@given(at=st.integers(0, len(SMALL.encoded) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_manifest_is_detected(at: int, bit: int) -> None:
    altered = bytearray(SMALL.encoded)
    altered[at] ^= 1 << bit
    with pytest.raises(BadEnvelope):
        decode_manifest(bytes(altered)).check(NETWORK_ID, NOW_MS)


@given(at=st.integers(0, 4096 + 15), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_chunk_is_detected(at: int, bit: int) -> None:
    altered = bytearray(SMALL_SOURCE.chunks[0])
    altered[at] ^= 1 << bit
    letter = open_letter(BOB, NETWORK_ID, SMALL)
    with pytest.raises(BadEnvelope):
        open_chunk(letter, 0, bytes(altered))


@given(data=st.binary(max_size=2000))
def test_bytes_that_are_no_manifest_are_bad_envelopes(data: bytes) -> None:
    with pytest.raises(BadEnvelope):
        decode_manifest(data)


@given(cut=st.integers(0, len(SMALL.encoded) - 1), more=st.binary(min_size=1, max_size=64))
def test_a_manifest_of_another_length_is_bad(cut: int, more: bytes) -> None:
    for data in (SMALL.encoded[:cut], SMALL.encoded + more):
        with pytest.raises(BadEnvelope):
            decode_manifest(data)


def test_encoding_is_canonical() -> None:
    assert decode_manifest(SMALL.encoded) == SMALL
    assert decode_manifest(SMALL.encoded).delivery_id == blake3(SMALL.encoded).digest()


def test_only_the_recipient_opens_it() -> None:
    with pytest.raises(BadEnvelope, match="another peer"):
        open_letter(EVE, NETWORK_ID, SMALL)
    with pytest.raises(BadEnvelope, match="cannot be opened"):
        open_letter(EVE, NETWORK_ID, replace(SMALL, recipient=EVE.peer_id))


def test_another_network_neither_checks_nor_opens_it() -> None:
    other = Network(name="another").network_id
    with pytest.raises(BadEnvelope):
        SMALL.check(other, NOW_MS)
    with pytest.raises(BadEnvelope):
        open_letter(BOB, other, SMALL)


def test_nobody_can_pass_it_off_as_his_own() -> None:
    stolen = sign_manifest(EVE, NETWORK_ID, replace(SMALL, sender_key=EVE.public_key))
    stolen.check(NETWORK_ID, NOW_MS)  # Eve may sign what she likes
    with pytest.raises(BadEnvelope, match="cannot be opened"):
        open_letter(BOB, NETWORK_ID, stolen)


class _Impostor:
    """Signs the envelope as Alice and the letter inside as Eve."""

    public_key = ALICE.public_key

    def sign(self, purpose: Purpose, network_id: bytes, body: bytes) -> bytes:
        signer = EVE if purpose is Purpose.LETTER else ALICE
        return signer.sign(purpose, network_id, body)


def test_the_letter_inside_is_signed_too() -> None:
    manifest, _source = seal(
        _Impostor(), BOB, b"content", created_ms=NOW_MS, expires_ms=NOW_MS + HOUR_MS
    )
    manifest.check(NETWORK_ID, NOW_MS)
    with pytest.raises(BadEnvelope, match="signature inside"):
        open_letter(BOB, NETWORK_ID, manifest)


def test_the_seal_id_is_bound_to_the_content() -> None:
    moved = sign_manifest(ALICE, NETWORK_ID, replace(SMALL, seal_id=b"x" * 16))
    with pytest.raises(BadEnvelope):
        open_letter(BOB, NETWORK_ID, moved)


def test_chunks_cannot_be_swapped_even_by_the_sender() -> None:
    manifest, source = _sealed(content_of(2 * CHUNK))
    swapped = sign_manifest(
        ALICE, NETWORK_ID, replace(manifest, digests=tuple(reversed(manifest.digests)))
    )
    letter = open_letter(BOB, NETWORK_ID, swapped)
    with pytest.raises(BadEnvelope, match="cannot be opened"):
        open_chunk(letter, 0, source.chunks[1])


def test_lifetime_is_checked() -> None:
    with pytest.raises(Expired):
        SMALL.check(NETWORK_ID, SMALL.expires_ms)
    for expires_ms in (NOW_MS, NOW_MS - 1, NOW_MS + LIFETIME_MAX_MS + 1):
        odd = sign_manifest(ALICE, NETWORK_ID, replace(SMALL, expires_ms=expires_ms))
        with pytest.raises(BadEnvelope):
            odd.check(NETWORK_ID, NOW_MS)


def test_the_envelope_does_not_show_name_content_or_size() -> None:
    content = b"secret content " * 10
    manifest, source = _sealed(content, name="secret name.txt")
    seen = manifest.encoded + b"".join(source.chunks)
    for secret in (b"secret", content_id_of(content), len(content).to_bytes(8, "big")):
        assert secret not in seen
    other, _source = _sealed(content_of(3000), name="n")
    assert len(other.encoded) == len(manifest.encoded)
    assert other.sealed_bytes == manifest.sealed_bytes


@given(size=st.integers(0, PADDED_BYTES_MAX))
def test_padding_is_bounded_and_monotonic(size: int) -> None:
    padded = padded_size(size)
    assert padded >= max(size, PADDED_BYTES_MIN)
    assert padded <= max(PADDED_BYTES_MIN, size * 1.12)
    assert padded_size(padded) == padded
    assert padded_size(size + 1) >= padded


@given(size=st.integers(PADDED_BYTES_MIN, PADDED_BYTES_MAX))
def test_chunks_are_few_enough_and_small_enough(size: int) -> None:
    chunk_bytes = chunk_bytes_for(size)
    assert CHUNK_BYTES_MIN <= chunk_bytes <= CHUNK_BYTES_MAX
    assert -(-size // chunk_bytes) <= CHUNK_COUNT_MAX


@pytest.mark.parametrize("claimed", [3, 5])
def test_a_file_of_another_size_than_was_hashed_is_not_sealed(tmp_path: Path, claimed: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"four")
    with pytest.raises(SourceChanged):
        _seal_path(path, claimed, lambda _index, _sealed: None)


def test_a_file_that_changes_meanwhile_is_not_sealed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content_of(2 * CHUNK))

    def touch(_index: int, _sealed: bytes) -> None:
        path.write_bytes(content_of(2 * CHUNK, seed=2) + b"longer")

    with pytest.raises(SourceChanged):
        _seal_path(path, 2 * CHUNK, touch)


def test_a_file_beyond_the_limit_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        _seal_path(tmp_path / "unread", PADDED_BYTES_MAX + 1, lambda _index, _sealed: None)


class Stream:
    """A content that is no file; it may find in the end that it changed."""

    def __init__(self, content: bytes, *, changes: bool = False) -> None:
        self.file = io.BytesIO(content)
        self.changes = changes
        self.is_closed = False

    def read(self, length_bytes: int, /) -> bytes:
        return self.file.read(length_bytes)

    def check(self) -> None:
        if self.changes:
            raise SourceChanged

    def close(self) -> None:
        self.is_closed = True


def _seal_stream(stream: Stream, size: int, name: str) -> tuple[OuterManifest, list[bytes]]:
    chunks: list[bytes] = []
    manifest = seal_file(
        ALICE, NETWORK_ID, BOB.peer_id, BOB.sealing_public_key, lambda: stream, name, bytes(32),
        size, created_ms=NOW_MS, expires_ms=NOW_MS + HOUR_MS, seal_id=b"s" * 16,
        sink=lambda _index, sealed: chunks.append(sealed), is_folder=True,
    )  # fmt: skip
    return manifest, chunks


def test_letter_of_a_folder_says_so_by_its_name_alone() -> None:
    content, name = content_of(CHUNK + 9), "é" * 127 + "x"  # 255 bytes
    stream = Stream(content)
    manifest, chunks = _seal_stream(stream, len(content), name)
    letter = open_letter(BOB, NETWORK_ID, manifest)
    assert (letter.name, letter.is_folder, letter.size) == (name, True, len(content))
    assert b"".join(open_chunk(letter, at, each) for at, each in enumerate(chunks)) == content
    assert letter.content_digest == blake3(content).digest()
    assert stream.is_closed
    # The sealed header has the length of any other: a keeper sees no difference.
    assert len(manifest.sealed_header) == 528
    # Who knows no folders reads the name with its slash, and takes no such name.
    plain = ChaCha20Poly1305(letter.content_key).decrypt(
        b"\xff" * 12, manifest.sealed_header, _info(manifest)
    )
    assert plain[74 : 74 + int.from_bytes(plain[72:74])].decode() == f"{name}/"


def test_stream_that_changed_meanwhile_is_not_sealed() -> None:
    stream = Stream(b"abc", changes=True)
    with pytest.raises(SourceChanged):
        _seal_stream(stream, 3, "photos")
    assert stream.is_closed


def _info(manifest: OuterManifest) -> bytes:
    parts = (NETWORK_ID, ALICE.public_key, BOB.sealing_public_key, manifest.seal_id)
    return length_prefixed(b"shoal/seal/1", *parts)


def _seal_path(path: Path, size: int, sink, content_id=bytes(32)) -> OuterManifest:
    return seal_file(
        ALICE, NETWORK_ID, BOB.peer_id, BOB.sealing_public_key, path, "name", content_id, size,
        created_ms=NOW_MS, expires_ms=NOW_MS + HOUR_MS, seal_id=b"s" * 16, sink=sink,
    )  # fmt: skip
