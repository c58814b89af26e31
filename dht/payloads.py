"""What records say: kinds, payloads, the keys made from them, and the limits of every field.

Owns the payloads' canonical bytes and the checks that need no signature and no clock. Pure; it
must not know records, publishers' signatures, storage or time. Others import all of it from
dht.records. Bytes: docs/protocol/records.md.
"""

import enum
import hashlib
import unicodedata
from typing import Annotated, Final, assert_never

import msgspec

from dht.errors import BadRecord, RecordFault
from dht.words import WORD_BYTES_MAX, words_of
from identity.address import Address, check_host
from identity.encoding import length_prefixed
from identity.errors import InvalidAddress
from identity.keys import PEER_ID_BYTES, peer_id_of

KEY_BYTES = 20
CONTENT_ID_BYTES = 32
SEALING_KEY_BYTES = 32
FILENAME_BYTES_MAX = 255
NICKNAME_BYTES_MAX = 64
# Four addresses with hosts of 90 bytes beside a 255-byte filename make a record of 864 bytes.
HOST_BYTES_MAX = 90
ADDRESSES_MAX = 4
INTEGER_MAX = 2**63 - 1
DAY_MS = 24 * 60 * 60 * 1000
WORD_SHARDS = 16
"""Further keys of a word, for what its own key has no room for."""


class Kind(enum.IntEnum):
    """What a record tells; the number is part of its key and of its bytes."""

    NAME = 1
    CONTENT = 2
    WORD = 3
    PEER = 4
    MAIL = 5


LIFETIME_MS: Final[dict[Kind, int]] = {
    Kind.NAME: DAY_MS,
    Kind.CONTENT: DAY_MS,
    Kind.WORD: DAY_MS,
    Kind.PEER: 30 * DAY_MS,
    Kind.MAIL: 30 * DAY_MS,
}

Digest32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Id20 = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
SubKey = Annotated[bytes, msgspec.Meta(max_length=KEY_BYTES)]
Addresses = Annotated[tuple[Address, ...], msgspec.Meta(max_length=ADDRESSES_MAX)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]
# Meta counts characters; `_check_texts` counts the bytes that really bound the record.
Filename = Annotated[str, msgspec.Meta(min_length=1, max_length=FILENAME_BYTES_MAX)]
Nickname = Annotated[str, msgspec.Meta(min_length=1, max_length=NICKNAME_BYTES_MAX)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=WORD_BYTES_MAX)]
Shard = Annotated[int, msgspec.Meta(ge=0, le=WORD_SHARDS)]


class NamePayload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A holder offers this content under this filename; no addresses: see its `peer` record."""

    filename: Filename
    content_id: Digest32
    size_bytes: Natural
    addresses: Addresses = ()


class ContentPayload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A holder has this content, whole or in part."""

    content_id: Digest32
    addresses: Addresses = ()


class WordPayload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A filename holds this word; under the word's own key, or in one of its shards."""

    word: Word
    filename: Filename
    content_id: Digest32
    size_bytes: Natural
    shard: Shard = 0


class PeerPayload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a peer is and how to seal for it; `under_nickname` picks which of its two keys."""

    nickname: Nickname
    addresses: Addresses
    sealing_key: Digest32
    here_until_ms: Natural
    under_nickname: bool = False


class MailPayload(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The publisher keeps mail for this recipient."""

    recipient: Id20
    addresses: Addresses = ()


Payload = NamePayload | ContentPayload | WordPayload | PeerPayload | MailPayload


_ENCODER: Final = msgspec.msgpack.Encoder()
_NAME_DECODER: Final = msgspec.msgpack.Decoder(NamePayload)
_CONTENT_DECODER: Final = msgspec.msgpack.Decoder(ContentPayload)
_WORD_DECODER: Final = msgspec.msgpack.Decoder(WordPayload)
_PEER_DECODER: Final = msgspec.msgpack.Decoder(PeerPayload)
_MAIL_DECODER: Final = msgspec.msgpack.Decoder(MailPayload)


def kind_of(payload: Payload) -> Kind:
    """Name the kind of record that carries this payload."""
    match payload:
        case NamePayload():
            return Kind.NAME
        case ContentPayload():
            return Kind.CONTENT
        case WordPayload():
            return Kind.WORD
        case PeerPayload():
            return Kind.PEER
        case MailPayload():
            return Kind.MAIL
        case _:
            assert_never(payload)


def key_of(network_id: bytes, payload: Payload, publisher_public_key: bytes) -> bytes:
    """Derive the 20-byte DHT key under which a publisher's payload belongs."""
    match payload:
        case NamePayload():
            return name_key(network_id, payload.filename)
        case ContentPayload():
            return content_key(network_id, payload.content_id)
        case WordPayload():
            return word_key(network_id, payload.word, payload.shard)
        case PeerPayload(under_nickname=True):
            return nickname_key(network_id, payload.nickname)
        case PeerPayload():
            return peer_key(network_id, peer_id_of(publisher_public_key))
        case MailPayload():
            return mail_key(network_id, payload.recipient)
        case _:
            assert_never(payload)


def sub_key_of(payload: Payload) -> bytes:
    """Tell apart the records that one publisher has under one key; empty where there is one."""
    match payload:
        case NamePayload() | WordPayload():
            parts = length_prefixed(payload.content_id, _nfc(payload.filename))
            return hashlib.sha256(parts).digest()[:KEY_BYTES]
        case ContentPayload() | PeerPayload() | MailPayload():
            return b""
        case _:
            assert_never(payload)


def name_key(network_id: bytes, filename: str) -> bytes:
    """Derive the key of an exact filename, compared in NFC."""
    return _key(network_id, Kind.NAME, _nfc(filename))


def content_key(network_id: bytes, content_id: bytes) -> bytes:
    """Derive the key of a content id."""
    return _key(network_id, Kind.CONTENT, content_id)


def word_key(network_id: bytes, word: str, shard: int = 0) -> bytes:
    """Derive the key of one word, as `words_of` gives it, or of one of its shards."""
    if not shard:
        return _key(network_id, Kind.WORD, _utf8(word))
    return _key(network_id, Kind.WORD, _utf8(word), bytes([shard]))


def in_shard(payload: WordPayload) -> WordPayload:
    """Move a word's payload to its shard: that is told by content and filename, not chosen."""
    return msgspec.structs.replace(payload, shard=_shard_of(payload))


def _shard_of(payload: WordPayload) -> int:
    return 1 + sub_key_of(payload)[0] % WORD_SHARDS


def peer_key(network_id: bytes, peer_id: bytes) -> bytes:
    """Derive the key of the record by which a peer id is found."""
    return _key(network_id, Kind.PEER, peer_id)


def nickname_key(network_id: bytes, nickname: str) -> bytes:
    """Derive the key of a nickname, compared in NFC; no peer id can collide with it."""
    return _key(network_id, Kind.PEER, b"nickname", _nfc(nickname))


def mail_key(network_id: bytes, recipient: bytes) -> bytes:
    """Derive the key under which hosts say that they keep mail for a recipient's peer id."""
    return _key(network_id, Kind.MAIL, recipient)


def _key(network_id: bytes, kind: Kind, *data: bytes) -> bytes:
    parts = length_prefixed(network_id, bytes([kind]), *data)
    return hashlib.sha256(parts).digest()[:KEY_BYTES]


def identifying(payload: Payload) -> Payload:
    """Empty the fields from which neither key nor sub-key is made."""
    match payload:
        case NamePayload():
            return msgspec.structs.replace(payload, size_bytes=0, addresses=())
        case ContentPayload() | MailPayload():
            return msgspec.structs.replace(payload, addresses=())
        case WordPayload():
            return msgspec.structs.replace(payload, size_bytes=0)
        case PeerPayload():
            return msgspec.structs.replace(payload, addresses=(), here_until_ms=0)
        case _:
            assert_never(payload)


# --- bytes ----------------------------------------------------------------------------------


def encode_payload(payload: Payload) -> bytes:
    """Give the canonical bytes of a payload; BadRecord where a text is no Unicode."""
    try:
        return _packed(payload)
    except (UnicodeEncodeError, OverflowError) as error:
        raise BadRecord(RecordFault.FIELD, str(error)) from error


def decode_payload(kind: Kind, data: bytes) -> Payload:
    """Read and check the payload of a record of this kind."""
    try:
        payload = _decode_as(kind, data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(RecordFault.FIELD, f"payload: {error}") from error
    if _packed(payload) != data:
        raise BadRecord(RecordFault.NOT_CANONICAL, "payload not in its shortest form")
    _check_texts(payload)
    return payload


def _packed(payload: Payload) -> bytes:
    """Pack a payload; a shard of 0 is left out, as in the records that know of none."""
    if isinstance(payload, WordPayload) and not payload.shard:
        word, filename = payload.word, payload.filename
        return _ENCODER.encode((word, filename, payload.content_id, payload.size_bytes))
    return _ENCODER.encode(payload)


def _decode_as(kind: Kind, data: bytes) -> Payload:
    match kind:
        case Kind.NAME:
            return _NAME_DECODER.decode(data)
        case Kind.CONTENT:
            return _CONTENT_DECODER.decode(data)
        case Kind.WORD:
            return _WORD_DECODER.decode(data)
        case Kind.PEER:
            return _PEER_DECODER.decode(data)
        case Kind.MAIL:
            return _MAIL_DECODER.decode(data)
        case _:
            assert_never(kind)


def _check_texts(payload: Payload) -> None:
    """Check what the decoder cannot: lengths in bytes, safe names, words of their filename."""
    match payload:
        case NamePayload():
            _check_filename(payload.filename)
            _check_hosts(payload.addresses)
        case WordPayload():
            _check_filename(payload.filename)
            if payload.word not in words_of(payload.filename):
                raise BadRecord(RecordFault.FIELD, "the word is none of its filename's")
            if payload.shard not in (0, _shard_of(payload)):
                raise BadRecord(RecordFault.FIELD, "the shard is not its content's and filename's")
        case PeerPayload():
            if len(_utf8(payload.nickname)) > NICKNAME_BYTES_MAX:
                raise BadRecord(RecordFault.FIELD, f"nickname over {NICKNAME_BYTES_MAX} bytes")
            _check_hosts(payload.addresses)
        case ContentPayload() | MailPayload():
            _check_hosts(payload.addresses)
        case _:
            assert_never(payload)


def _check_filename(filename: str) -> None:
    """Refuse what can be no single file in a folder; a reader checks again before it writes."""
    if len(_utf8(filename)) > FILENAME_BYTES_MAX:
        raise BadRecord(RecordFault.FILENAME, f"over {FILENAME_BYTES_MAX} bytes")
    if filename in {".", ".."} or "/" in filename:
        raise BadRecord(RecordFault.FILENAME, "a path, not a filename")
    if any(unicodedata.category(character) == "Cc" for character in filename):
        raise BadRecord(RecordFault.FILENAME, "control characters")


def _check_hosts(addresses: tuple[Address, ...]) -> None:
    for address in addresses:
        if len(_utf8(address.host)) > HOST_BYTES_MAX:
            raise BadRecord(RecordFault.FIELD, f"a host is over {HOST_BYTES_MAX} bytes")
        try:
            check_host(address.host)
        except InvalidAddress as error:
            raise BadRecord(RecordFault.FIELD, str(error)) from error


def _nfc(text: str) -> bytes:
    return _utf8(unicodedata.normalize("NFC", text))


def _utf8(text: str) -> bytes:
    """Encode a text; a lone surrogate (an undecodable filename) is BadRecord, not a crash."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord(RecordFault.FIELD, "text that is no Unicode") from error


assert KEY_BYTES == PEER_ID_BYTES
