"""Manifests: what a content id stands for.

Owns the chunk size rule, the canonical bytes of a file's manifest and the textual content id. Pure;
knows no file and no network.

Layout (docs/protocol/transfer.md): `shoal` · kind `F` · version 1 · size, 8 bytes · chunk size,
4 bytes · BLAKE3 of each chunk, 32 bytes. Integers are big-endian. The chunk size follows from the
size, so that one file has one manifest and one content id. Kind `T` is a folder: the same of its
listing (tree.py), and after the chunk size the number of entries, 4 bytes, and their size, 8 bytes.
"""

import dataclasses
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Self

from blake3 import blake3

from transfer.errors import BadContentId, BadManifest, FileTooLarge

CONTENT_ID_BYTES = 32
DIGEST_BYTES = 32
CHUNK_SIZE_MIN_BYTES = 512 * 1024
CHUNK_SIZE_MAX_BYTES = 64 * 1024 * 1024
CHUNKS_MAX = 16_384
FILE_SIZE_MAX_BYTES = CHUNKS_MAX * CHUNK_SIZE_MAX_BYTES
PREFIX_DIGITS_MIN = 8

_MAGIC = b"shoal"
_KIND_FILE = b"F"
_KIND_TREE = b"T"
_VERSION = 1
_HEADER = struct.Struct(">5scBQI")
_TREE_HEADER = struct.Struct(">IQ")
TREE_ENTRIES_MAX = 250_000
LISTING_BYTES_MAX = 32 * 1024 * 1024
TREE_BYTES_MAX = FILE_SIZE_MAX_BYTES
MANIFEST_BYTES_MAX = _HEADER.size + CHUNKS_MAX * DIGEST_BYTES

_ID_PATTERN = re.compile(r"b3:([0-9a-f]{64})")
_PREFIX_PATTERN = re.compile(r"b3:([0-9a-f]{8,64})")


def chunk_size_for(size_bytes: int) -> int:
    """Return the chunk size of a file: 512 KiB, doubled until 16,384 chunks suffice."""
    if not 0 <= size_bytes <= FILE_SIZE_MAX_BYTES:
        raise FileTooLarge
    chunk_size = CHUNK_SIZE_MIN_BYTES
    while chunk_size * CHUNKS_MAX < size_bytes:
        chunk_size *= 2
    return chunk_size


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """Return the digest of one chunk."""
    return blake3(data).digest()


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A file's size and the digest of each chunk, joined; the content id follows from both."""

    size_bytes: int
    digests: bytes = dataclasses.field(repr=False)
    chunk_size_bytes: int = dataclasses.field(init=False)
    content_id: bytes = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        chunk_size = chunk_size_for(self.size_bytes)
        assert len(self.digests) == _chunk_count(self.size_bytes, chunk_size) * DIGEST_BYTES
        object.__setattr__(self, "chunk_size_bytes", chunk_size)
        object.__setattr__(self, "content_id", blake3(self.encode()).digest())

    @classmethod
    def of(cls, size_bytes: int, digests: Iterable[bytes]) -> Self:
        """Build a manifest from the chunk digests in order."""
        return cls(size_bytes, b"".join(digests))

    @property
    def chunk_count(self) -> int:
        return len(self.digests) // DIGEST_BYTES

    def span(self, chunk: int) -> tuple[int, int]:
        """Return offset and length of a chunk in the file."""
        assert 0 <= chunk < self.chunk_count
        offset = chunk * self.chunk_size_bytes
        return offset, min(self.chunk_size_bytes, self.size_bytes - offset)

    def run(self, chunks: range) -> tuple[int, int]:
        """Return offset and length of chunks in a row; no length where there are none."""
        if not chunks:
            return 0, 0
        offset = self.span(chunks[0])[0]
        return offset, sum(self.span(chunks[-1])) - offset

    def digest(self, chunk: int) -> bytes:
        return self.digests[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES]

    def verifies(self, chunk: int, data: bytes | bytearray | memoryview) -> bool:
        """Tell whether these bytes are that chunk, its length included."""
        return len(data) == self.span(chunk)[1] and digest_of(data) == self.digest(chunk)

    def encode(self) -> bytes:
        """Return the canonical bytes, whose BLAKE3 is the content id."""
        return file_header(self.size_bytes) + self.digests


def file_header(size_bytes: int) -> bytes:
    """Return what precedes the digests in a file's manifest."""
    return _HEADER.pack(_MAGIC, _KIND_FILE, _VERSION, size_bytes, chunk_size_for(size_bytes))


def tree_header_bytes() -> int:
    """Return how long what precedes the digests in a folder's manifest is."""
    return _HEADER.size + _TREE_HEADER.size


def content_id_of_chunk(data: bytes | bytearray | memoryview) -> bytes:
    """Return the content id of a file of at most one chunk."""
    digests = digest_of(data) if len(data) else b""
    return blake3(file_header(len(data)) + digests).digest()


def digest_of_pieces(pieces: Sequence[memoryview]) -> bytes:
    """Return the digest of a chunk that came in pieces."""
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


@dataclasses.dataclass(frozen=True, slots=True)
class TreeManifest(Manifest):
    """The manifest of a folder: that of its listing, with what the listing sums up to."""

    entry_count: int
    tree_bytes: int
    """Sum of the sizes of all files in the folder."""

    def encode(self) -> bytes:
        """Return the canonical bytes; their kind differs from a file's, and so does the id."""
        header = _HEADER.pack(
            _MAGIC, _KIND_TREE, _VERSION, self.size_bytes, chunk_size_for(self.size_bytes)
        )
        return header + _TREE_HEADER.pack(self.entry_count, self.tree_bytes) + self.digests


def is_tree_manifest(data: bytes) -> bool:
    """Tell a folder's canonical bytes from a file's, without parsing them."""
    return data[5:6] == _KIND_TREE


def decode_manifest(data: bytes, content_id: bytes | None = None) -> Manifest:
    """Parse canonical bytes, a TreeManifest for a folder; BadManifest.

    Checked against a content id where one is given.
    """
    if len(data) > MANIFEST_BYTES_MAX or len(data) < _HEADER.size:
        raise BadManifest("a manifest has a wrong length")
    magic, kind, version, size_bytes, chunk_size = _HEADER.unpack_from(data)
    if magic != _MAGIC or kind not in (_KIND_FILE, _KIND_TREE) or version != _VERSION:
        raise BadManifest
    if size_bytes > FILE_SIZE_MAX_BYTES or chunk_size != chunk_size_for(size_bytes):
        raise BadManifest("a manifest has a size that its chunks do not allow")
    digests_bytes = _chunk_count(size_bytes, chunk_size) * DIGEST_BYTES
    manifest: Manifest
    if kind == _KIND_TREE:
        manifest = _decode_tree(data, size_bytes, digests_bytes)
    elif len(data) == _HEADER.size + digests_bytes:
        manifest = Manifest(size_bytes, data[_HEADER.size :])
    else:
        raise BadManifest("a manifest has too few or too many chunks")
    if content_id is not None and manifest.content_id != content_id:
        raise BadManifest("a manifest does not belong to the content id")
    return manifest


def _decode_tree(data: bytes, size_bytes: int, digests_bytes: int) -> TreeManifest:
    if size_bytes > LISTING_BYTES_MAX:
        raise BadManifest("the listing of a folder is too long")
    start = _HEADER.size + _TREE_HEADER.size
    if len(data) != start + digests_bytes:
        raise BadManifest("a manifest has too few or too many chunks")
    entry_count, tree_bytes = _TREE_HEADER.unpack_from(data, _HEADER.size)
    if entry_count > TREE_ENTRIES_MAX or tree_bytes > TREE_BYTES_MAX:
        raise BadManifest("a folder is larger than is allowed")
    return TreeManifest(size_bytes, data[start:], entry_count, tree_bytes)


def show_content_id(content_id: bytes) -> str:
    """Return `b3:` and 64 hexadecimal digits."""
    return f"b3:{content_id.hex()}"


def parse_content_id(text: str) -> bytes:
    """Parse a full content id; BadContentId."""
    found = _ID_PATTERN.fullmatch(text.strip().lower())
    if found is None:
        raise BadContentId(f"not a content id: {text[:80]!a}")
    return bytes.fromhex(found[1])


def parse_content_prefix(text: str) -> str:
    """Parse `b3:` and 8 to 64 digits into the lower-case digits; BadContentId."""
    found = _PREFIX_PATTERN.fullmatch(text.strip().lower())
    if found is None:
        raise BadContentId(
            f"not a content id or the start of one: {text[:80]!a}",
            hint=f"give b3: and {PREFIX_DIGITS_MIN} or more hexadecimal characters",
        )
    return found[1]


def _chunk_count(size_bytes: int, chunk_size_bytes: int) -> int:
    return -(-size_bytes // chunk_size_bytes)
