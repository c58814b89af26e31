"""What Shoal puts on a RabbitMQ broker: queue names and the messages in them; pure.

Owns their names, headers and bodies. Must not know pika, files or clocks. Remote bytes become a
typed message or None, never an exception.

Queues, all durable, on the default exchange, whose routing key is the queue's name:
- `shoal.<network>.mail.<peer>`: sealed deliveries for that peer, manifest before its chunks;
- `shoal.<network>.receipts.<peer>`: receipts for what that peer has sent;
- `shoal.<network>.dead`: what was rejected or has expired, where the operator set this up;
- `shoal.<network>.quorum`: empty; where it is, mail and receipts are quorum queues.
`<network>` is the first 16 hex digits of the network id, `<peer>` the peer id as people see it.

Headers: `shoal` (what it is), `delivery` (hex of 64), and for chunks `index` and `count`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from identity.encoding import length_prefixed
from identity.keys import PEER_ID_BYTES, Identity, show_peer_id
from identity.signing import Purpose, verify
from queueing.envelope import (
    CHUNK_BYTES_MAX,
    CHUNK_COUNT_MAX,
    DELIVERY_ID_BYTES,
    TAG_BYTES,
    OuterManifest,
    decode_manifest,
)
from queueing.errors import BadEnvelope
from queueing.receipt import RECEIPT_BYTES_MAX

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""What RabbitMQ 4 takes at most; the largest sealed chunk is half of it."""
assert CHUNK_BYTES_MAX + TAG_BYTES < MESSAGE_BYTES_MAX
CLAIM_HOSTS_MAX = 16
"""Hosts that one claim names."""
EXPIRATION_MAX_MS = 2**32 - 1
_SIGNATURE_BYTES = 64
_CANCEL_TAG = b"shoal cancel 1"


class Kind(StrEnum):
    """The `shoal` header."""

    MANIFEST = "manifest"
    CHUNK = "chunk"
    CANCEL = "cancel"
    RECEIPT = "receipt"
    CLAIM = "claim"


@dataclass(frozen=True, slots=True)
class ManifestMail:
    """A delivery begins."""

    manifest: OuterManifest

    @property
    def delivery_id(self) -> bytes:
        """Hash of the manifest."""
        return self.manifest.delivery_id


@dataclass(frozen=True, slots=True)
class ChunkMail:
    """One sealed chunk of a delivery whose manifest came before it."""

    delivery_id: bytes
    index: int
    count: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class CancelMail:
    """The sender takes a delivery back."""

    delivery_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class ReceiptMail:
    """The recipient's receipt, not yet checked."""

    delivery_id: bytes
    receipt: bytes


@dataclass(frozen=True, slots=True)
class ClaimMail:
    """A delivery whose chunks lie with mailbox peers: its manifest, and the ids of those peers."""

    manifest: OuterManifest
    hosts: tuple[bytes, ...]

    @property
    def delivery_id(self) -> bytes:
        """Hash of the manifest."""
        return self.manifest.delivery_id


Mail = ManifestMail | ChunkMail | CancelMail | ReceiptMail | ClaimMail


@dataclass(frozen=True, slots=True)
class Encoded:
    """Headers and body of one message."""

    headers: dict[str, Any]
    body: bytes


def kind_of(mail: Mail) -> Kind:
    """Return what a message is."""
    match mail:
        case ManifestMail():
            return Kind.MANIFEST
        case ChunkMail():
            return Kind.CHUNK
        case CancelMail():
            return Kind.CANCEL
        case ReceiptMail():
            return Kind.RECEIPT
        case ClaimMail():
            return Kind.CLAIM
    assert_never(mail)


def network_name(network_id: bytes) -> str:
    """Return how a network is named on a broker."""
    return network_id[:8].hex()


def mail_queue(network_id: bytes, recipient: bytes) -> str:
    """Return the name of the queue that holds a peer's mail."""
    return f"shoal.{network_name(network_id)}.mail.{show_peer_id(recipient)}"


def receipts_queue(network_id: bytes, sender: bytes) -> str:
    """Return the name of the queue that holds the receipts for a sender."""
    return f"shoal.{network_name(network_id)}.receipts.{show_peer_id(sender)}"


def dead_queue(network_id: bytes) -> str:
    """Return the name of the queue that holds what readers rejected and what expired."""
    return f"shoal.{network_name(network_id)}.dead"


def quorum_sign(network_id: bytes) -> str:
    """Return the name of the empty queue that says: declare quorum queues here."""
    return f"shoal.{network_name(network_id)}.quorum"


def expiration(expires_ms: int, now_ms: int) -> str:
    """Return AMQP's per-message expiration: whole milliseconds from now, as text.

    A classic queue drops expired messages at its head only, so one may outlive its time behind a
    longer-lived one; the recipient checks the expiry in the manifest too.
    """
    return str(min(max(0, expires_ms - now_ms), EXPIRATION_MAX_MS))


def encode_mail(mail: Mail) -> Encoded:
    """Return headers and body."""
    headers: dict[str, Any] = {"delivery": mail.delivery_id.hex(), "shoal": kind_of(mail).value}
    match mail:
        case ManifestMail(manifest):
            return Encoded(headers, manifest.encoded)
        case ChunkMail(_, index, count, sealed):
            return Encoded(headers | {"index": index, "count": count}, sealed)
        case CancelMail(_, signature):
            return Encoded(headers, signature)
        case ReceiptMail(_, receipt):
            return Encoded(headers, receipt)
        case ClaimMail(manifest, hosts):
            return Encoded(headers, bytes([len(hosts)]) + b"".join(hosts) + manifest.encoded)
    assert_never(mail)


def decode_mail(headers: Mapping[str, Any] | None, body: bytes) -> Mail | None:
    """Read a message that anybody may have put into the queue; None when it is not well formed."""
    headers = headers or {}
    delivery_id = _delivery_id(headers.get("delivery"))
    if delivery_id is None:
        return None
    match headers.get("shoal"):
        case Kind.MANIFEST.value:
            return _manifest(delivery_id, body)
        case Kind.CHUNK.value:
            return _chunk(delivery_id, headers, body)
        case Kind.CANCEL.value if len(body) == _SIGNATURE_BYTES:
            return CancelMail(delivery_id, body)
        case Kind.RECEIPT.value if 0 < len(body) <= RECEIPT_BYTES_MAX:
            return ReceiptMail(delivery_id, body)
        case Kind.CLAIM.value:
            return _claim(delivery_id, body)
    return None


def sign_cancel(identity: Identity, network_id: bytes, delivery_id: bytes) -> CancelMail:
    """Return the sender's order to drop a delivery."""
    body = length_prefixed(_CANCEL_TAG, delivery_id)
    return CancelMail(delivery_id, identity.sign(Purpose.ENVELOPE, network_id, body))


def cancel_is_good(cancel: CancelMail, network_id: bytes, manifest: OuterManifest) -> bool:
    """Tell whether the sender of this delivery signed the order.

    The purpose is the envelope's; no manifest starts with a length of 14, as this body does, so
    neither signature can stand for the other.
    """
    if cancel.delivery_id != manifest.delivery_id:
        return False
    body = length_prefixed(_CANCEL_TAG, cancel.delivery_id)
    return verify(manifest.sender_key, cancel.signature, Purpose.ENVELOPE, network_id, body)


def _manifest(delivery_id: bytes, body: bytes) -> ManifestMail | None:
    try:
        manifest = decode_manifest(body)
    except BadEnvelope:
        return None
    return ManifestMail(manifest) if manifest.delivery_id == delivery_id else None


def _claim(delivery_id: bytes, body: bytes) -> ClaimMail | None:
    count = body[0] if body else 0
    end = 1 + PEER_ID_BYTES * count
    announced = _manifest(delivery_id, body[end:]) if 1 <= count <= CLAIM_HOSTS_MAX else None
    if announced is None:
        return None
    hosts = (body[at : at + PEER_ID_BYTES] for at in range(1, end, PEER_ID_BYTES))
    return ClaimMail(announced.manifest, tuple(dict.fromkeys(hosts)))


def _chunk(delivery_id: bytes, headers: Mapping[str, Any], body: bytes) -> ChunkMail | None:
    index, count = headers.get("index"), headers.get("count")
    if type(index) is not int or type(count) is not int:
        return None
    if not 0 <= index < count <= CHUNK_COUNT_MAX or len(body) > CHUNK_BYTES_MAX + TAG_BYTES:
        return None
    return ChunkMail(delivery_id, index, count, body)


def _delivery_id(value: object) -> bytes | None:
    if not isinstance(value, str) or len(value) != 2 * DELIVERY_ID_BYTES:
        return None
    try:
        return bytes.fromhex(value)
    except ValueError:
        return None
