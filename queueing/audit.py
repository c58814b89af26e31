"""Proofs that a host still has a chunk: what is asked, what the answer must be; pure.

Owns the bytes of a proof (docs/protocol/delivery.md). Must not know who is asked when, nor wires.

A proof is a keyed hash of the whole sealed chunk under a fresh nonce. The host's own id goes into
the key: what one host answers is worth nothing for another, so none can ask its neighbour instead.
"""

import enum
import struct
from dataclasses import dataclass

from blake3 import blake3

from identity.encoding import length_prefixed

NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Challenge:
    """One chunk that a host is to prove it has."""

    delivery_id: bytes
    index: int


class Finding(enum.Enum):
    """What one answer says of one delivery."""

    PROVEN = enum.auto()
    WRONG = enum.auto()
    """The proof is not that of the chunk."""
    GONE = enum.auto()
    """The host says itself that it has neither the delivery nor a receipt."""
    SETTLED = enum.auto()
    """A receipt came instead; whoever checks it decides."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host says to one challenge; nothing of it is checked yet."""

    proof: bytes = b""
    receipt: bytes = b""


def proof_of(nonce: bytes, host_id: bytes, delivery_id: bytes, index: int, sealed: bytes) -> bytes:
    """Return the 32 bytes that prove that this host has this sealed chunk now."""
    context = length_prefixed(
        b"shoal/audit/1", nonce, host_id, delivery_id, struct.pack(">I", index)
    )
    return blake3(sealed, key=blake3(context).digest()).digest()


def judge(answer: Answer, expected_proof: bytes) -> Finding:
    """Compare an answer with the proof that the sealed copy at the sender gives."""
    if answer.receipt:
        return Finding.SETTLED
    if not answer.proof:
        return Finding.GONE
    return Finding.PROVEN if answer.proof == expected_proof else Finding.WRONG
