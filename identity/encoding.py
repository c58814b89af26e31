"""Unambiguous concatenation of byte strings, the base of everything that is hashed or signed.

Owns: the length prefix. Must not know: what the parts mean.
"""

LENGTH_BYTES = 4


def length_prefixed(*parts: bytes) -> bytes:
    """Join parts so that no two different lists of parts give the same bytes.

    Each part is preceded by its length as an unsigned big-endian 32-bit number.
    """
    return b"".join([len(part).to_bytes(LENGTH_BYTES, "big") + part for part in parts])
