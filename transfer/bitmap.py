"""Sets of chunks: bits of an int inside, bytes on the wire and in the journal.

Chunk i is bit i % 8, least significant first, of byte i / 8. Pure.
"""

from collections.abc import Iterator


def full_bitmap(chunk_count: int) -> int:
    """Return the set of all chunks."""
    return (1 << chunk_count) - 1


def encode_bitmap(bits: int, chunk_count: int) -> bytes:
    """Return the bytes of a set."""
    return bits.to_bytes((chunk_count + 7) // 8, "little")


def decode_bitmap(data: bytes, chunk_count: int) -> int:
    """Return a set; bits beyond the last chunk are dropped, missing bytes count as zero."""
    return int.from_bytes(data[: (chunk_count + 7) // 8], "little") & full_bitmap(chunk_count)


def chunks_in(bits: int) -> Iterator[int]:
    """Yield the chunks of a set in order."""
    for at, byte in enumerate(bits.to_bytes((bits.bit_length() + 7) // 8, "little")):
        while byte:
            lowest = byte & -byte
            yield at * 8 + lowest.bit_length() - 1
            byte ^= lowest
