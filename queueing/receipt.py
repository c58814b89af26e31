"""Signed statements about a delivery: the recipient's receipt, and a keeper's promise.

Owns their canonical bytes and their checks; pure. Must not know stores, wires or clocks.
"""

import enum
import struct
from dataclasses import dataclass

from identity.keys import Identity, peer_id_of
from identity.signing import Purpose, verify
from queueing.errors import BadReceipt

REASON_BYTES_MAX = 200
_RECEIPT_MAGIC = b"shoal receipt 1\0"
_PROMISE_MAGIC = b"shoal promise 2\0"
# magic, delivery id, seal id, content id, sender, recipient key, outcome, at, reason length
_RECEIPT = struct.Struct(">16s32s16s32s20s32sBQB")
_PROMISE = struct.Struct(">16s32s32sQQ")  # magic, delivery id, keeper's key, made at, kept until
_SIGNATURE_BYTES = 64
RECEIPT_BYTES_MAX = _RECEIPT.size + REASON_BYTES_MAX + _SIGNATURE_BYTES
PROMISE_BYTES = _PROMISE.size + _SIGNATURE_BYTES


class Outcome(enum.IntEnum):
    """What the recipient did with a delivery."""

    DELIVERED = 1
    REFUSED = 2


@dataclass(frozen=True, slots=True)
class Receipt:
    """The recipient's statement on one delivery."""

    delivery_id: bytes
    seal_id: bytes
    content_id: bytes
    """All zeros when the recipient could not open the letter."""
    sender_id: bytes
    recipient_key: bytes
    outcome: Outcome
    reason: str
    """Remote text: escape it before it reaches a screen."""
    at_ms: int

    @property
    def recipient_id(self) -> bytes:
        """The recipient's peer id."""
        return peer_id_of(self.recipient_key)


@dataclass(frozen=True, slots=True)
class Promise:
    """A keeper's statement that it has a delivery on disk and keeps it."""

    delivery_id: bytes
    keeper_key: bytes
    made_ms: int
    """By the keeper's clock."""
    until_ms: int

    @property
    def keeper_id(self) -> bytes:
        """The keeper's peer id."""
        return peer_id_of(self.keeper_key)


def make_receipt(
    identity: Identity,
    network_id: bytes,
    *,
    delivery_id: bytes,
    seal_id: bytes,
    content_id: bytes,
    sender_id: bytes,
    outcome: Outcome,
    at_ms: int,
    reason: str = "",
) -> bytes:
    """Return a signed receipt; a reason that is too long is cut."""
    text = reason.encode("utf-8", "replace")[:REASON_BYTES_MAX]
    text = text.decode("utf-8", "ignore").encode("utf-8")  # never half a character
    body = _RECEIPT.pack(
        _RECEIPT_MAGIC, delivery_id, seal_id, content_id, sender_id, identity.public_key,
        outcome, at_ms, len(text),
    ) + text  # fmt: skip
    return body + identity.sign(Purpose.RECEIPT, network_id, body)


def check_receipt(
    data: bytes, network_id: bytes, *, delivery_id: bytes, recipient_id: bytes
) -> Receipt:
    """Return the receipt if that recipient signed it for that delivery; else BadReceipt."""
    receipt = decode_receipt(data)
    body, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
    if not verify(receipt.recipient_key, signature, Purpose.RECEIPT, network_id, body):
        raise BadReceipt("the receipt's signature is wrong")
    if receipt.recipient_id != recipient_id:
        raise BadReceipt("the receipt is signed by another peer than the recipient")
    if receipt.delivery_id != delivery_id:
        raise BadReceipt("the receipt is another delivery's")
    return receipt


def decode_receipt(data: bytes) -> Receipt:
    """Read a receipt without judging its signature; BadReceipt when it has no such form."""
    if not _RECEIPT.size + _SIGNATURE_BYTES <= len(data) <= RECEIPT_BYTES_MAX:
        raise BadReceipt("the receipt has a wrong size")
    (magic, delivery_id, seal_id, content_id, sender_id, recipient_key, outcome, at_ms,
     reason_bytes) = _RECEIPT.unpack_from(data)  # fmt: skip
    if magic != _RECEIPT_MAGIC or outcome not in (Outcome.DELIVERED, Outcome.REFUSED):
        raise BadReceipt("these bytes are no receipt that this version reads")
    if _RECEIPT.size + reason_bytes + _SIGNATURE_BYTES != len(data):
        raise BadReceipt("the receipt does not have the size that it claims")
    try:
        reason = data[_RECEIPT.size : _RECEIPT.size + reason_bytes].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadReceipt("the receipt's reason is not UTF-8") from error
    return Receipt(
        delivery_id, seal_id, content_id, sender_id, recipient_key, Outcome(outcome), reason, at_ms
    )


def make_promise(
    identity: Identity, network_id: bytes, *, delivery_id: bytes, made_ms: int, until_ms: int
) -> bytes:
    """Return this keeper's signed and dated promise to hold a delivery until `until_ms`."""
    body = _PROMISE.pack(_PROMISE_MAGIC, delivery_id, identity.public_key, made_ms, until_ms)
    return body + identity.sign(Purpose.PROMISE, network_id, body)


def check_promise(
    data: bytes, network_id: bytes, *, delivery_id: bytes, keeper_id: bytes | None = None
) -> Promise:
    """Return the promise if that keeper (None: anybody) signed it for that delivery.

    Else BadReceipt.
    """
    if len(data) != PROMISE_BYTES:
        raise BadReceipt("the promise has a wrong size")
    magic, promised_id, keeper_key, made_ms, until_ms = _PROMISE.unpack_from(data)
    if magic != _PROMISE_MAGIC or promised_id != delivery_id:
        raise BadReceipt("the promise is another delivery's")
    body, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
    if keeper_id not in (None, peer_id_of(keeper_key)):
        raise BadReceipt("the promise is signed by another peer than the keeper")
    if not verify(keeper_key, signature, Purpose.PROMISE, network_id, body):
        raise BadReceipt("the promise's signature is wrong")
    return Promise(promised_id, keeper_key, made_ms, until_ms)
