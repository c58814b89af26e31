"""Signatures that are good for one purpose in one network only.

Owns: the list of purposes and the bytes that a signature covers.
Must not know: what the signed bodies contain, or where keys are kept.
"""

import enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from identity.encoding import length_prefixed


class Purpose(enum.StrEnum):
    """What a signature states. A new meaning needs a new purpose."""

    RECORD = "record"
    HELLO = "hello"
    HELLO_ANSWER = "hello-answer"
    STORE_ACK = "store-ack"
    TLS_LEAF = "tls-leaf"
    ENVELOPE = "envelope"
    LETTER = "letter"
    OFFER = "offer"
    RECEIPT = "receipt"
    PROMISE = "promise"


def signed_bytes(purpose: Purpose, network_id: bytes, body: bytes) -> bytes:
    """Return the bytes that a signature for this purpose covers."""
    return length_prefixed(f"shoal/{purpose.value}/1".encode(), network_id, body)


def verify(
    public_key: bytes, signature: bytes, purpose: Purpose, network_id: bytes, body: bytes
) -> bool:
    """Tell whether the signature holds. Malformed keys and signatures are just False."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, signed_bytes(purpose, network_id, body))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
