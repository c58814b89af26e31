"""Signed records: what peers store for one another under a key of the DHT.

Owns the record's bytes, its signature and the checks that storer and reader alike make (what it
may say is dht.payloads', passed on here). Pure: it is given the time and holds no socket, file,
clock or log. It must not know who stores a record, where, or why. Bytes: docs/protocol/records.md.

Anything remote goes through `decode_record` and then `check_record`; both raise BadRecord only.
Checks are made cheapest first: the signature (111 µs) comes after everything else has passed.
"""

import hashlib
from typing import Annotated, Final

import msgspec

from dht.errors import BadRecord, RecordFault
from dht.payloads import (
    ADDRESSES_MAX,
    CONTENT_ID_BYTES,
    DAY_MS,
    FILENAME_BYTES_MAX,
    HOST_BYTES_MAX,
    INTEGER_MAX,
    KEY_BYTES,
    LIFETIME_MS,
    NICKNAME_BYTES_MAX,
    SEALING_KEY_BYTES,
    WORD_SHARDS,
    ContentPayload,
    Digest32,
    Id20,
    Kind,
    MailPayload,
    NamePayload,
    Natural,
    Payload,
    PeerPayload,
    SubKey,
    WordPayload,
    content_key,
    decode_payload,
    encode_payload,
    identifying,
    in_shard,
    key_of,
    kind_of,
    mail_key,
    name_key,
    nickname_key,
    peer_key,
    sub_key_of,
    word_key,
)
from identity.keys import Identity, peer_id_of
from identity.signing import Purpose, verify

__all__ = [
    "ADDRESSES_MAX",
    "CLOCK_AHEAD_MAX_MS",
    "CONTENT_ID_BYTES",
    "DAY_MS",
    "FILENAME_BYTES_MAX",
    "HOST_BYTES_MAX",
    "INTEGER_MAX",
    "KEY_BYTES",
    "LIFETIME_MS",
    "NICKNAME_BYTES_MAX",
    "PUBLIC_KEY_BYTES",
    "RECORD_BYTES_MAX",
    "RECORD_VERSION",
    "SEALING_KEY_BYTES",
    "SIGNATURE_BYTES",
    "WORD_SHARDS",
    "BadRecord",
    "ContentPayload",
    "Kind",
    "MailPayload",
    "NamePayload",
    "Payload",
    "PeerPayload",
    "Record",
    "RecordFault",
    "WordPayload",
    "check_record",
    "content_key",
    "decode_payload",
    "decode_record",
    "encode_payload",
    "encode_record",
    "identifying",
    "in_shard",
    "inspect_record",
    "key_of",
    "kind_of",
    "mail_key",
    "name_key",
    "nickname_key",
    "peer_key",
    "record_digest",
    "sign_record",
    "sub_key_of",
    "verify_signature",
    "word_key",
]

RECORD_VERSION = 1
RECORD_BYTES_MAX = 900
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
CLOCK_AHEAD_MAX_MS = 10 * 60 * 1000

# A record ends with its signature: a two-byte msgpack bin 8 header and 64 bytes.
_SIGNATURE_TAIL_BYTES = 2 + SIGNATURE_BYTES
_NO_SIGNATURE = bytes(SIGNATURE_BYTES)

Signature64 = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A signed statement; its identity is (key, kind, public key, sub-key)."""

    version: int
    kind: Kind
    key: Id20
    sub_key: SubKey
    payload: bytes
    sequence: Natural
    issued_ms: Natural
    expires_ms: Natural
    withdrawn: bool
    public_key: Digest32
    signature: Signature64

    @property
    def publisher(self) -> bytes:
        """The peer id of whoever signed the record."""
        return peer_id_of(self.public_key)


_ENCODER: Final = msgspec.msgpack.Encoder()
_RECORD_DECODER: Final = msgspec.msgpack.Decoder(Record)


def sign_record(
    identity: Identity,
    network_id: bytes,
    payload: Payload,
    *,
    sequence: int,
    issued_ms: int,
    expires_ms: int | None = None,
    withdrawn: bool = False,
) -> Record:
    """Make a record that every storer accepts, or raise BadRecord.

    Without `expires_ms` it lives its kind's longest life. A withdrawal always does, so that it
    outlives every record it withdraws, and carries the identifying fields of the payload only.
    """
    kind = kind_of(payload)
    body = identifying(payload) if withdrawn else payload
    if expires_ms is None or withdrawn:
        expires_ms = issued_ms + LIFETIME_MS[kind]
    unsigned = Record(
        version=RECORD_VERSION,
        kind=kind,
        key=key_of(network_id, body, identity.public_key),
        sub_key=sub_key_of(body),
        payload=encode_payload(body),
        sequence=sequence,
        issued_ms=issued_ms,
        expires_ms=expires_ms,
        withdrawn=withdrawn,
        public_key=identity.public_key,
        signature=_NO_SIGNATURE,
    )
    inspect_record(unsigned, network_id, now_ms=None)
    signature = identity.sign(Purpose.RECORD, network_id, _signed_body(unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


def encode_record(record: Record) -> bytes:
    """Give the canonical bytes of a record."""
    return _ENCODER.encode(record)


def decode_record(data: bytes) -> Record:
    """Read the bytes of one record: shape and size only; `check_record` judges it."""
    if len(data) > RECORD_BYTES_MAX:
        raise BadRecord(RecordFault.TOO_LARGE, f"{len(data)} bytes, at most {RECORD_BYTES_MAX}")
    try:
        record = _RECORD_DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(RecordFault.MALFORMED, str(error)) from error
    # One record has one encoding: otherwise a digest or a signature could be dodged.
    if _ENCODER.encode(record) != data:
        raise BadRecord(RecordFault.NOT_CANONICAL, "not in its shortest form")
    return record


def record_digest(record: Record) -> bytes:
    """Hash a record, signature included, for signed acknowledgements; 32 bytes."""
    return hashlib.sha256(encode_record(record)).digest()


def check_record(record: Record, network_id: bytes, *, now_ms: int | None) -> Payload:
    """Make every check that storer and reader owe, signature last, and return the payload.

    `now_ms` None leaves out the two comparisons with the clock. Raises BadRecord.
    """
    payload = inspect_record(record, network_id, now_ms=now_ms)
    verify_signature(record, network_id)
    return payload


def inspect_record(record: Record, network_id: bytes, *, now_ms: int | None) -> Payload:
    """Make every check but the signature's; for callers that can drop a record before that cost."""
    if record.version != RECORD_VERSION:
        raise BadRecord(RecordFault.VERSION, f"version {record.version}, not {RECORD_VERSION}")
    if len(record.payload) > RECORD_BYTES_MAX or len(encode_record(record)) > RECORD_BYTES_MAX:
        raise BadRecord(RecordFault.TOO_LARGE, f"over {RECORD_BYTES_MAX} bytes")
    _check_times(record, now_ms)
    payload = decode_payload(record.kind, record.payload)
    if record.key != key_of(network_id, payload, record.public_key):
        raise BadRecord(RecordFault.KEY, "the key is not its payload's in this network")
    if record.sub_key != sub_key_of(payload):
        raise BadRecord(RecordFault.KEY, "the sub-key is not its payload's")
    return payload


def verify_signature(record: Record, network_id: bytes) -> None:
    """Check the owner's signature; BadRecord where it is not the owner's in this network."""
    body = _signed_body(record)
    if not verify(record.public_key, record.signature, Purpose.RECORD, network_id, body):
        raise BadRecord(RecordFault.SIGNATURE, "the signature is not its publisher's")


def _signed_body(record: Record) -> bytes:
    """Everything that stands before the signature, so that the array header is covered too."""
    return encode_record(record)[:-_SIGNATURE_TAIL_BYTES]


def _check_times(record: Record, now_ms: int | None) -> None:
    if not 0 <= record.sequence <= INTEGER_MAX:
        raise BadRecord(RecordFault.FIELD, "sequence out of range")
    life_ms = record.expires_ms - record.issued_ms
    longest_ms = LIFETIME_MS[record.kind]
    if record.issued_ms < 0 or not 0 < life_ms <= longest_ms:
        raise BadRecord(RecordFault.LIFETIME, f"lives {life_ms} ms, at most {longest_ms}")
    if record.withdrawn and life_ms != longest_ms:
        raise BadRecord(RecordFault.LIFETIME, "a withdrawal lives its kind's longest life")
    if now_ms is None:
        return
    if record.issued_ms > now_ms + CLOCK_AHEAD_MAX_MS:
        raise BadRecord(RecordFault.AHEAD, f"issued {record.issued_ms - now_ms} ms ahead")
    if record.expires_ms <= now_ms:
        raise BadRecord(RecordFault.EXPIRED, f"expired {now_ms - record.expires_ms} ms ago")
