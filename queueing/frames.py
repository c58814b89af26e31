"""Sealed chunks as pieces on the wire: cut by the sending side, joined by the receiving one.

Owns the rule that pieces come in order and are bounded; pure. Must not know gRPC calls or stores.
"""

from collections.abc import Iterator, Sequence

from protos import mailbox_pb2
from queueing.envelope import TAG_BYTES, OuterManifest
from queueing.errors import BadEnvelope

FRAME_BYTES_MAX = 512 * 1024 + TAG_BYTES
"""A sealed chunk of the usual size goes in one piece."""


def split(index: int, sealed: bytes, most_bytes: int) -> Iterator[mailbox_pb2.Frame]:
    """Cut one sealed chunk into frames."""
    for offset in range(0, len(sealed), most_bytes):
        piece = sealed[offset : offset + most_bytes]
        yield mailbox_pb2.Frame(index=index, offset=offset, data=piece)


class Joiner:
    """Joins frames to sealed chunks and checks each against the manifest.

    Holds at most one chunk. `add` returns a chunk when a frame completes it; BadEnvelope when
    frames are out of order, too long, or the chunk does not match its digest.
    """

    def __init__(self, manifest: OuterManifest) -> None:
        self._manifest = manifest
        self._pieces: list[bytes] = []
        self._index = 0
        self._joined_bytes = 0

    def add(self, frame: mailbox_pb2.Frame) -> tuple[int, bytes] | None:
        """Take the next frame; return (index, sealed chunk) when it is complete."""
        if self._joined_bytes == 0:
            self._index = frame.index
        if frame.index != self._index or frame.index >= self._manifest.count:
            raise BadEnvelope("a piece belongs to another chunk")
        wanted_bytes = self._manifest.sealed_size(frame.index)
        self._joined_bytes += len(frame.data)
        in_order = frame.offset == self._joined_bytes - len(frame.data)
        if not in_order or not frame.data or self._joined_bytes > wanted_bytes:
            raise BadEnvelope("the pieces of a chunk are out of order")
        self._pieces.append(frame.data)
        if self._joined_bytes < wanted_bytes:
            return None
        sealed = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces, self._joined_bytes = [], 0
        if not self._manifest.chunk_is_good(frame.index, sealed):
            raise BadEnvelope("a sealed chunk is damaged")
        return frame.index, sealed


def bitmap_of(indexes: Sequence[int], count: int) -> bytes:
    """Return one bit a chunk, chunk 0 lowest, set for the given indexes."""
    bits = bytearray(-(-count // 8))
    for index in indexes:
        bits[index // 8] |= 1 << (index % 8)
    return bytes(bits)


def indexes_of(bitmap: bytes, count: int) -> list[int]:
    """Return the indexes whose bit is set; BadEnvelope when the bitmap has a wrong length."""
    if len(bitmap) != -(-count // 8):
        raise BadEnvelope("the host's list of missing chunks has a wrong length")
    return [index for index in range(count) if bitmap[index // 8] >> (index % 8) & 1]
