"""Records: what is made is taken, and nothing else is."""

import contextlib
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadRecord, RecordFault
from dht.records import (
    ADDRESSES_MAX,
    CLOCK_AHEAD_MAX_MS,
    HOST_BYTES_MAX,
    INTEGER_MAX,
    LIFETIME_MS,
    RECORD_BYTES_MAX,
    ContentPayload,
    Kind,
    MailPayload,
    NamePayload,
    Payload,
    PeerPayload,
    Record,
    WordPayload,
    check_record,
    decode_record,
    encode_record,
    identifying,
    key_of,
    kind_of,
    name_key,
    nickname_key,
    peer_key,
    record_digest,
    sub_key_of,
)
from dht.words import indexed_words
from identity.address import Address
from identity.keys import Identity
from identity.signing import Purpose
from tests.support.records import (
    ALICE,
    BOB,
    CONTENT_ID,
    DAY_MS,
    HERE,
    HOUR_MS,
    NETWORK_ID,
    NOW_MS,
    OTHER_NETWORK_ID,
    filenames,
    one_of_each_kind,
    payloads,
    signed,
)

LONG_HOST = "h" * 60 + "." + "x" * (HOST_BYTES_MAX - 61)
FULL_ADDRESSES = tuple(Address(LONG_HOST, 65535) for _ in range(ADDRESSES_MAX))


def fault_of(
    record: Record, *, network_id: bytes = NETWORK_ID, now_ms: int | None = NOW_MS
) -> RecordFault:
    with pytest.raises(BadRecord) as refusal:
        check_record(record, network_id, now_ms=now_ms)
    return refusal.value.reason


def resigned(record: Record, identity: Identity = ALICE, **fields: object) -> Record:
    """Change fields and sign anew, as an owner who breaks the rules can."""
    changed = msgspec.structs.replace(record, public_key=identity.public_key, **fields)
    body = encode_record(changed)[:-66]
    signature = identity.sign(Purpose.RECORD, NETWORK_ID, body)
    return msgspec.structs.replace(changed, signature=signature)


@given(payloads, st.integers(0, INTEGER_MAX), st.booleans())
def test_what_is_signed_survives_the_wire_and_is_taken(
    payload: Payload, sequence: int, withdrawn: bool
) -> None:
    record = signed(payload, sequence=sequence, withdrawn=withdrawn)
    data = encode_record(record)
    assert len(data) <= RECORD_BYTES_MAX
    assert decode_record(data) == record
    expected = identifying(payload) if withdrawn else payload
    assert check_record(decode_record(data), NETWORK_ID, now_ms=NOW_MS) == expected
    assert record.publisher == ALICE.peer_id


@given(st.sampled_from(one_of_each_kind()), st.booleans(), st.data())
def test_any_single_byte_changed_is_refused(
    payload: Payload, withdrawn: bool, data: st.DataObject
) -> None:
    good = encode_record(signed(payload, withdrawn=withdrawn))
    place = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.integers(1, 255))
    changed = good[:place] + bytes([good[place] ^ change]) + good[place + 1 :]
    with pytest.raises(BadRecord):
        check_record(decode_record(changed), NETWORK_ID, now_ms=NOW_MS)


def test_every_bit_of_one_record_matters() -> None:
    good = encode_record(signed(one_of_each_kind()[0]))
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        with pytest.raises(BadRecord):
            check_record(decode_record(bytes(changed)), NETWORK_ID, now_ms=NOW_MS)


@given(st.binary(max_size=1000))
def test_arbitrary_bytes_raise_nothing_but_bad_record(data: bytes) -> None:
    with contextlib.suppress(BadRecord):
        check_record(decode_record(data), NETWORK_ID, now_ms=NOW_MS)


@given(st.sampled_from(list(Kind)), st.binary(max_size=400))
def test_arbitrary_payloads_raise_nothing_but_bad_record(kind: Kind, payload: bytes) -> None:
    record = msgspec.structs.replace(signed(ContentPayload(CONTENT_ID)), kind=kind, payload=payload)
    with pytest.raises(BadRecord):
        check_record(record, NETWORK_ID, now_ms=NOW_MS)


@pytest.mark.parametrize(
    "filename", ["a" * 255, "\U0001f600" * 63 + "abc", "é" * 127 + "a", "e\u0301" * 85]
)
def test_the_largest_records_fit(filename: str) -> None:
    assert len(filename.encode()) == 255
    word = indexed_word_of(filename)
    for payload in (
        NamePayload(filename, CONTENT_ID, INTEGER_MAX, FULL_ADDRESSES),
        ContentPayload(CONTENT_ID, FULL_ADDRESSES),
        WordPayload(word, filename, CONTENT_ID, INTEGER_MAX),
        PeerPayload("n" * 64, FULL_ADDRESSES, CONTENT_ID, INTEGER_MAX, under_nickname=True),
        MailPayload(BOB.peer_id, FULL_ADDRESSES),
    ):
        latest_ms = INTEGER_MAX - LIFETIME_MS[kind_of(payload)]
        record = signed(payload, sequence=INTEGER_MAX, issued_ms=latest_ms)
        assert len(encode_record(record)) <= RECORD_BYTES_MAX
        assert check_record(record, NETWORK_ID, now_ms=latest_ms) == payload


def indexed_word_of(filename: str) -> str:
    return indexed_words(filename)[0]


@pytest.mark.parametrize(
    "payload",
    [
        NamePayload("", CONTENT_ID, 1),
        NamePayload("a" * 256, CONTENT_ID, 1),
        NamePayload("é" * 128, CONTENT_ID, 1),
        NamePayload(".", CONTENT_ID, 1),
        NamePayload("..", CONTENT_ID, 1),
        NamePayload("../x", CONTENT_ID, 1),
        NamePayload("/etc/passwd", CONTENT_ID, 1),
        NamePayload("a\0b", CONTENT_ID, 1),
        NamePayload("a\nb", CONTENT_ID, 1),
        NamePayload("undecodable\udc80", CONTENT_ID, 1),
        NamePayload("a", b"short", 1),
        NamePayload("a", CONTENT_ID, -1),
        NamePayload("a", CONTENT_ID, 2**63),
        NamePayload("a", CONTENT_ID, 2**64),
        NamePayload("a", CONTENT_ID, 1, (HERE,) * (ADDRESSES_MAX + 1)),
        ContentPayload(CONTENT_ID, (Address("h" * 60 + "." + "x" * HOST_BYTES_MAX, 1),)),
        ContentPayload(CONTENT_ID, (Address("bad host\n", 1),)),
        ContentPayload(CONTENT_ID, (Address("192.0.2.7", 0),)),
        ContentPayload(CONTENT_ID, (Address("192.0.2.7", 65536),)),
        WordPayload("beta", "alpha.txt", CONTENT_ID, 1),
        WordPayload("Alpha", "Alpha.txt", CONTENT_ID, 1),
        WordPayload("../x", "../x", CONTENT_ID, 1),
        PeerPayload("", (), CONTENT_ID, 1),
        PeerPayload("é" * 33, (), CONTENT_ID, 1),
        PeerPayload("a", (), b"short", 1),
        MailPayload(b"short"),
    ],
    ids=repr,
)
def test_a_payload_beyond_its_limits_cannot_be_signed(payload: Payload) -> None:
    with pytest.raises(BadRecord):
        signed(payload)


@pytest.mark.parametrize("payload", one_of_each_kind(), ids=lambda p: type(p).__name__)
def test_a_foreign_network_purpose_or_publisher_is_refused(payload: Payload) -> None:
    record = signed(payload)
    assert fault_of(record, network_id=OTHER_NETWORK_ID) is RecordFault.KEY
    body = encode_record(record)[:-66]
    for purpose in Purpose:
        if purpose is not Purpose.RECORD:
            forged = ALICE.sign(purpose, NETWORK_ID, body)
            changed = msgspec.structs.replace(record, signature=forged)
            assert fault_of(changed) is RecordFault.SIGNATURE
    elsewhere = ALICE.sign(Purpose.RECORD, OTHER_NETWORK_ID, body)
    changed = msgspec.structs.replace(record, signature=elsewhere)
    assert fault_of(changed) is RecordFault.SIGNATURE
    stolen = msgspec.structs.replace(record, public_key=BOB.public_key)
    assert fault_of(stolen) in {RecordFault.SIGNATURE, RecordFault.KEY}


def test_a_record_under_another_key_sub_key_or_kind_is_refused() -> None:
    record = signed(one_of_each_kind()[0])
    assert fault_of(resigned(record, key=b"k" * 20)) is RecordFault.KEY
    assert fault_of(resigned(record, sub_key=b"s" * 20)) is RecordFault.KEY
    assert fault_of(resigned(record, sub_key=b"")) is RecordFault.KEY
    assert fault_of(resigned(record, kind=Kind.MAIL)) is RecordFault.FIELD
    assert fault_of(resigned(record, version=2)) is RecordFault.VERSION


def test_nobody_can_publish_anothers_peer_record() -> None:
    record = signed(PeerPayload("alice", (HERE,), CONTENT_ID, 1))
    assert fault_of(resigned(record, BOB)) is RecordFault.KEY


def test_times_are_judged_to_the_millisecond() -> None:
    record = signed(ContentPayload(CONTENT_ID), expires_ms=NOW_MS + HOUR_MS)
    check_record(record, NETWORK_ID, now_ms=NOW_MS + HOUR_MS - 1)
    assert fault_of(record, now_ms=NOW_MS + HOUR_MS) is RecordFault.EXPIRED
    check_record(record, NETWORK_ID, now_ms=NOW_MS - CLOCK_AHEAD_MAX_MS)
    assert fault_of(record, now_ms=NOW_MS - CLOCK_AHEAD_MAX_MS - 1) is RecordFault.AHEAD
    check_record(record, NETWORK_ID, now_ms=None)


@pytest.mark.parametrize("payload", one_of_each_kind(), ids=lambda p: type(p).__name__)
def test_nobody_lives_longer_than_the_kind(payload: Payload) -> None:
    record = signed(payload)
    longest_ms = LIFETIME_MS[kind_of(payload)]
    assert record.expires_ms == NOW_MS + longest_ms
    for expires_ms in (NOW_MS + longest_ms + 1, NOW_MS, NOW_MS - 1, 0):
        assert fault_of(resigned(record, expires_ms=expires_ms)) is RecordFault.LIFETIME
        with pytest.raises(BadRecord):
            signed(payload, expires_ms=expires_ms)


def test_lifetimes_are_those_of_the_design() -> None:
    days = {kind.name: life // DAY_MS for kind, life in LIFETIME_MS.items()}
    assert days == {"NAME": 1, "CONTENT": 1, "WORD": 1, "PEER": 30, "MAIL": 30}


@pytest.mark.parametrize("payload", one_of_each_kind(), ids=lambda p: type(p).__name__)
def test_a_withdrawal_has_the_same_identity_and_the_longest_life(payload: Payload) -> None:
    record = signed(payload, expires_ms=NOW_MS + HOUR_MS)
    gone = signed(payload, sequence=NOW_MS + 1, expires_ms=NOW_MS + HOUR_MS, withdrawn=True)
    assert (gone.key, gone.kind, gone.sub_key) == (record.key, record.kind, record.sub_key)
    assert gone.expires_ms == NOW_MS + LIFETIME_MS[gone.kind]
    assert b"192.0.2.7" not in gone.payload
    check_record(gone, NETWORK_ID, now_ms=NOW_MS)
    short = resigned(gone, expires_ms=NOW_MS + HOUR_MS)
    assert fault_of(short) is RecordFault.LIFETIME


def test_longer_encodings_and_trailing_bytes_are_refused() -> None:
    good = encode_record(signed(ContentPayload(CONTENT_ID)))
    fields = msgspec.msgpack.decode(good)
    longer = b"\xdc\x00\x0b" + good[1:]
    extra = msgspec.msgpack.encode([*fields, 0])
    for data in (longer, extra, good + b"\x00", good[:-1], b""):
        with pytest.raises(BadRecord):
            decode_record(data)
    payload = fields[4][:1].replace(b"\x92", b"\xdc\x00\x02") + fields[4][1:]
    assert len(payload) == len(fields[4]) + 2
    record = resigned(decode_record(good), payload=payload)
    assert fault_of(record) is RecordFault.NOT_CANONICAL


def test_an_oversized_record_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadRecord) as refusal:
        decode_record(bytes(RECORD_BYTES_MAX + 1))
    assert refusal.value.reason is RecordFault.TOO_LARGE
    record = signed(ContentPayload(CONTENT_ID))
    huge = msgspec.structs.replace(record, payload=bytes(RECORD_BYTES_MAX))
    assert fault_of(huge) is RecordFault.TOO_LARGE


@given(filenames)
def test_a_name_has_one_key_however_it_is_composed(filename: str) -> None:
    decomposed = unicodedata.normalize("NFD", filename)
    composed = unicodedata.normalize("NFC", filename)
    assert name_key(NETWORK_ID, decomposed) == name_key(NETWORK_ID, composed)
    one = sub_key_of(NamePayload(decomposed, CONTENT_ID, 1))
    assert one == sub_key_of(NamePayload(composed, CONTENT_ID, 1))


def test_keys_of_kinds_networks_ids_and_nicknames_are_distinct() -> None:
    keys = [key_of(NETWORK_ID, payload, ALICE.public_key) for payload in one_of_each_kind()]
    keys += [key_of(OTHER_NETWORK_ID, payload, ALICE.public_key) for payload in one_of_each_kind()]
    assert len(set(keys)) == len(keys) == 14
    assert all(len(key) == 20 for key in keys)
    nickname = "n" * 20
    assert nickname_key(NETWORK_ID, nickname) != peer_key(NETWORK_ID, nickname.encode())


def test_one_name_with_two_contents_is_two_records_and_size_is_no_identity() -> None:
    one = NamePayload("a.txt", b"1" * 32, 1)
    assert sub_key_of(one) != sub_key_of(NamePayload("a.txt", b"2" * 32, 1))
    assert sub_key_of(one) == sub_key_of(NamePayload("a.txt", b"1" * 32, 2, (HERE,)))


def test_digests_tell_records_apart_by_signature_too() -> None:
    record = signed(ContentPayload(CONTENT_ID))
    other = msgspec.structs.replace(record, signature=bytes(64))
    assert record_digest(record) == record_digest(decode_record(encode_record(record)))
    assert record_digest(record) != record_digest(other)
    assert len(record_digest(record)) == 32
