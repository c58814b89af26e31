"""The store of records: what it takes, keeps, finds and forgets, whatever it is sent."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dht.storage
from dht.records import (
    ContentPayload,
    Kind,
    NamePayload,
    Payload,
    Record,
    WordPayload,
    content_key,
    encode_record,
    name_key,
    word_key,
)
from dht.storage import (
    RecordStore,
    SavedRecord,
    StorageLimits,
    Stored,
    Verdict,
    entry_id_of,
)
from dht.words import words_of
from identity.keys import Identity
from tests.support.records import (
    ALICE,
    BOB,
    CAROL,
    CONTENT_ID,
    DAY_MS,
    HERE,
    HOUR_MS,
    NETWORK_ID,
    NOW_MS,
    OTHER_NETWORK_ID,
    one_of_each_kind,
    signed,
)

OK = Stored(Verdict.OK)
BAD = Stored(Verdict.BAD)
FULL = Stored(Verdict.FULL)
CROWD = [Identity.from_seed(bytes([number]) * 32) for number in range(12)]


def make_store(**limits: int) -> RecordStore:
    return RecordStore(NETWORK_ID, StorageLimits(**limits))


def all_found(store: RecordStore, *, now_ms: int = NOW_MS, withdrawn: bool = False) -> list[Record]:
    keys = store.keys()
    return [
        record
        for key in keys
        for record in store.find(key, now_ms=now_ms, limit=512, withdrawn=withdrawn).records
    ]


# --- verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", one_of_each_kind(), ids=lambda p: type(p).__name__)
def test_a_good_record_is_stored_found_and_the_same_to_the_byte(payload: Payload) -> None:
    store = make_store()
    record = signed(payload)
    assert store.store(encode_record(record), now_ms=NOW_MS) == OK
    (found,) = store.find(record.key, [record.kind], now_ms=NOW_MS).records
    assert encode_record(found) == encode_record(record)


def test_the_same_record_again_is_ok_and_changes_nothing() -> None:
    store = make_store()
    record = signed(ContentPayload(CONTENT_ID))
    store.store(record, now_ms=NOW_MS)
    store.take_changes()
    assert store.store(record, now_ms=NOW_MS + 1) == OK
    assert len(store) == 1
    assert store.take_changes().saved == ()


def test_an_older_or_equal_but_different_record_is_stale_and_told_our_sequence() -> None:
    store = make_store()
    store.store(signed(ContentPayload(CONTENT_ID), sequence=7), now_ms=NOW_MS)
    for sequence in (6, 7):
        other = signed(ContentPayload(CONTENT_ID, (HERE,)), sequence=sequence)
        assert store.store(other, now_ms=NOW_MS) == Stored(Verdict.STALE, sequence=7)
    newer = signed(ContentPayload(CONTENT_ID, (HERE,)), sequence=8)
    assert store.store(newer, now_ms=NOW_MS) == OK
    assert all_found(store) == [newer]


def test_a_forged_newer_record_does_not_replace_a_good_one() -> None:
    store = make_store()
    good = signed(ContentPayload(CONTENT_ID), sequence=7)
    store.store(good, now_ms=NOW_MS)
    forged = msgspec.structs.replace(good, sequence=8)
    assert store.store(forged, now_ms=NOW_MS) == BAD
    assert all_found(store) == [good]


def test_a_clock_that_is_off_is_told_our_time() -> None:
    store = make_store()
    clock = Stored(Verdict.CLOCK, our_ms=NOW_MS)
    for off_ms in (2 * HOUR_MS, 2 * DAY_MS, -2 * DAY_MS):
        record = signed(ContentPayload(CONTENT_ID), issued_ms=NOW_MS + off_ms)
        assert store.store(record, now_ms=NOW_MS) == clock
    assert len(store) == 0


def test_foreign_forged_and_damaged_records_are_bad_and_counted() -> None:
    store = make_store()
    good = signed(ContentPayload(CONTENT_ID))
    foreign = signed(ContentPayload(CONTENT_ID), network_id=OTHER_NETWORK_ID)
    forged = msgspec.structs.replace(good, signature=bytes(64))
    for data in (encode_record(foreign), encode_record(forged), b"", b"\xc1", bytes(5000)):
        assert store.store(data, now_ms=NOW_MS) == BAD
    assert len(store) == 0
    assert store.counters() == {
        "store-bad": 5,
        "store-bad-key": 1,
        "store-bad-signature": 1,
        "store-bad-malformed": 2,
        "store-bad-too-large": 1,
    }


@given(st.binary(max_size=1000))
def test_arbitrary_bytes_are_bad_and_never_raise(data: bytes) -> None:
    assert make_store().store(data, now_ms=NOW_MS) == BAD


def test_no_signature_is_checked_for_what_would_not_be_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_store(records_max=1)
    held = signed(ContentPayload(CONTENT_ID), sequence=7)
    assert store.store(held, now_ms=NOW_MS) == OK

    def spent(record: Record, network_id: bytes) -> None:
        raise AssertionError("a signature was checked")

    monkeypatch.setattr(dht.storage, "verify_signature", spent)
    stale = signed(ContentPayload(CONTENT_ID), sequence=6)
    unrelated = signed(ContentPayload(b"2" * 32))
    late = signed(ContentPayload(b"3" * 32), issued_ms=NOW_MS - 2 * DAY_MS)
    verdicts = [store.store(r, now_ms=NOW_MS).verdict for r in (held, stale, unrelated, late)]
    assert verdicts == [Verdict.OK, Verdict.STALE, Verdict.FULL, Verdict.CLOCK]


# --- withdrawals --------------------------------------------------------------------------------


def test_a_withdrawn_record_is_not_found_and_never_resurrected() -> None:
    store = make_store()
    payload = NamePayload("a.txt", CONTENT_ID, 5, (HERE,))
    old = signed(payload, sequence=1)
    gone = signed(payload, sequence=2, withdrawn=True)
    assert store.store(old, now_ms=NOW_MS) == OK
    assert store.store(gone, now_ms=NOW_MS) == OK
    assert store.store(old, now_ms=NOW_MS) == Stored(Verdict.STALE, sequence=2)
    assert all_found(store) == []
    assert all_found(store, withdrawn=True) == [gone]
    # The old record has expired by the time that its tombstone goes.
    store.expire(gone.expires_ms)
    assert len(store) == 0
    assert store.store(old, now_ms=gone.expires_ms).verdict is Verdict.CLOCK


def test_a_tombstone_that_comes_first_holds_against_the_record() -> None:
    store = make_store()
    payload = ContentPayload(CONTENT_ID, (HERE,))
    assert store.store(signed(payload, sequence=2, withdrawn=True), now_ms=NOW_MS) == OK
    assert store.store(signed(payload, sequence=1), now_ms=NOW_MS).verdict is Verdict.STALE
    assert store.store(signed(payload, sequence=3), now_ms=NOW_MS) == OK
    assert len(all_found(store)) == 1


def test_only_the_owner_withdraws() -> None:
    store = make_store()
    alices = signed(ContentPayload(CONTENT_ID))
    bobs = signed(ContentPayload(CONTENT_ID), identity=BOB, sequence=NOW_MS + 1, withdrawn=True)
    assert store.store(alices, now_ms=NOW_MS) == OK
    assert store.store(bobs, now_ms=NOW_MS) == OK
    assert all_found(store) == [alices]


# --- expiry -------------------------------------------------------------------------------------


def test_an_expired_record_is_neither_found_nor_kept_and_its_room_is_free() -> None:
    store = make_store(records_max=1)
    first = signed(ContentPayload(CONTENT_ID), expires_ms=NOW_MS + HOUR_MS)
    store.store(first, now_ms=NOW_MS)
    later_ms = NOW_MS + HOUR_MS
    assert store.find(first.key, now_ms=later_ms - 1).records == (first,)
    assert store.find(first.key, now_ms=later_ms).records == ()
    second = signed(ContentPayload(b"2" * 32), issued_ms=later_ms)
    assert store.store(second, now_ms=later_ms) == OK
    assert store.keys() == [second.key]


def test_a_replicated_copy_does_not_live_longer() -> None:
    store = make_store()
    record = signed(ContentPayload(CONTENT_ID), expires_ms=NOW_MS + HOUR_MS)
    for minute in range(0, 60, 10):
        store.store(record, now_ms=NOW_MS + minute * 60_000)
    assert store.expire(NOW_MS + HOUR_MS) == 1
    assert len(store) == 0


def test_a_renewed_record_outlives_its_first_expiry() -> None:
    store = make_store()
    store.store(signed(ContentPayload(CONTENT_ID), expires_ms=NOW_MS + HOUR_MS), now_ms=NOW_MS)
    renewed = signed(ContentPayload(CONTENT_ID), sequence=NOW_MS + 1)
    store.store(renewed, now_ms=NOW_MS)
    assert store.expire(NOW_MS + HOUR_MS) == 0
    assert store.find(renewed.key, now_ms=NOW_MS + HOUR_MS).records == (renewed,)


def test_the_expiry_queue_stays_bounded_under_endless_renewal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dht.storage, "EXPIRY_SLACK_MAX", 8)
    store = make_store()
    for sequence in range(50):
        record = signed(ContentPayload(CONTENT_ID), sequence=sequence)
        assert store.store(record, now_ms=NOW_MS) == OK
        store.validate()


# --- caps ---------------------------------------------------------------------------------------


def contents(count: int) -> list[ContentPayload]:
    return [ContentPayload(bytes([number]) * 32) for number in range(count)]


def test_a_full_store_and_a_publisher_at_its_cap_are_refused() -> None:
    store = make_store(records_max=5, publisher_records_max=3)
    verdicts = [store.store(signed(payload), now_ms=NOW_MS).verdict for payload in contents(4)]
    assert verdicts == [Verdict.OK] * 3 + [Verdict.FULL]
    for identity in (BOB, CAROL):
        assert store.store(signed(contents(1)[0], identity=identity), now_ms=NOW_MS) == OK
    late = signed(contents(2)[1], identity=BOB)
    assert store.store(late, now_ms=NOW_MS) == FULL
    # What is there may still be renewed.
    renewed = signed(contents(1)[0], identity=BOB, sequence=NOW_MS + 1)
    assert store.store(renewed, now_ms=NOW_MS) == OK


def test_one_public_block_gets_an_eighth_of_a_key() -> None:
    store = make_store(key_records_max=16)
    records = [signed(ContentPayload(CONTENT_ID), identity=identity) for identity in CROWD[:5]]
    first = [store.store(r, now_ms=NOW_MS, source_block="192.0.2.0/24") for r in records[:3]]
    assert first == [OK, OK, FULL]
    assert store.store(records[3], now_ms=NOW_MS, source_block="198.51.100.0/24") == OK
    assert store.store(records[4], now_ms=NOW_MS, source_block="") == OK


def test_a_flood_of_one_block_pushes_out_no_record_and_leaves_room_for_others() -> None:
    store = make_store(records_max=400, key_records_max=64, block_records_max=100)
    kept = signed(NamePayload("a.txt", CONTENT_ID, 1), identity=ALICE)
    assert store.store(kept, now_ms=NOW_MS, source_block="198.51.100.0/24") == OK
    taken = 0
    for number in range(900):  # all good records, of many publishers, under many keys and hers
        name = f"{number // 2}.txt" if number % 2 else "a.txt"
        payload = NamePayload(name, number.to_bytes(32, "big"), 1)
        flood = signed(payload, identity=CROWD[number % len(CROWD)])
        taken += store.store(flood, now_ms=NOW_MS, source_block="192.0.2.0/24") == OK
    assert taken == 100, "as many as one block may have"
    late = signed(NamePayload("a.txt", CONTENT_ID, 1), identity=BOB)
    assert store.store(late, now_ms=NOW_MS, source_block="203.0.113.0/24") == OK
    found = store.find(kept.key, now_ms=NOW_MS, limit=100).records
    assert {kept, late} <= {*found}
    store.validate()


def test_a_flood_of_one_publisher_pushes_out_no_record_where_there_are_no_blocks() -> None:
    store = make_store(records_max=400, key_records_max=64, publisher_records_max=100)
    kept = signed(NamePayload("a.txt", CONTENT_ID, 1), identity=ALICE)
    assert store.store(kept, now_ms=NOW_MS) == OK
    verdicts = [
        store.store(
            signed(NamePayload("a.txt", n.to_bytes(32, "big"), 1), identity=BOB), now_ms=NOW_MS
        )
        for n in range(300)
    ]
    assert verdicts.count(OK) == 8, "an eighth of the key"
    assert (
        store.store(signed(NamePayload("a.txt", CONTENT_ID, 1), identity=CAROL), now_ms=NOW_MS)
        == OK
    )
    assert kept in store.find(kept.key, now_ms=NOW_MS, limit=100).records


def test_without_a_public_block_each_publisher_gets_an_eighth_of_a_key() -> None:
    store = make_store(key_records_max=16)
    for identity in (ALICE, BOB):
        names = [NamePayload("a.txt", payload.content_id, 1) for payload in contents(3)]
        stored = [store.store(signed(n, identity=identity), now_ms=NOW_MS) for n in names]
        assert stored == [OK, OK, FULL]


def test_a_key_is_full_at_its_cap() -> None:
    store = make_store(key_records_max=8)
    records = [signed(ContentPayload(CONTENT_ID), identity=identity) for identity in CROWD[:9]]
    verdicts = [store.store(record, now_ms=NOW_MS).verdict for record in records]
    assert verdicts == [Verdict.OK] * 8 + [Verdict.FULL]


def test_a_renewal_moves_to_its_senders_block_only_where_that_has_room() -> None:
    store = make_store(key_records_max=8)
    payload = ContentPayload(CONTENT_ID)
    store.store(signed(payload), now_ms=NOW_MS, source_block="a")
    store.store(signed(payload, identity=BOB), now_ms=NOW_MS, source_block="b")
    renewed = signed(payload, sequence=NOW_MS + 1)
    assert store.store(renewed, now_ms=NOW_MS, source_block="b") == OK
    store.validate()
    assert store.store(signed(payload, identity=CAROL), now_ms=NOW_MS, source_block="a") == FULL
    again = signed(payload, sequence=NOW_MS + 2)
    assert store.store(again, now_ms=NOW_MS, source_block="c") == OK
    assert store.store(signed(payload, identity=CAROL), now_ms=NOW_MS, source_block="a") == OK
    store.validate()


def test_limits_must_be_positive() -> None:
    with pytest.raises(AssertionError):
        StorageLimits(key_records_max=0)


# --- finding ------------------------------------------------------------------------------------


def test_pages_give_every_record_once_in_a_stable_order() -> None:
    store = make_store()
    for identity in CROWD:
        store.store(signed(ContentPayload(CONTENT_ID), identity=identity), now_ms=NOW_MS)
    key = content_key(NETWORK_ID, CONTENT_ID)
    seen: list[Record] = []
    cursor = b""
    for _ in range(len(CROWD)):
        page = store.find(key, now_ms=NOW_MS, after=cursor, limit=5)
        seen += page.records
        cursor = page.cursor
        if not cursor:
            break
    assert len(seen) == len({record.public_key for record in seen}) == len(CROWD)
    assert tuple(seen) == store.find(key, now_ms=NOW_MS).records


def test_a_cursor_outlives_the_record_it_names() -> None:
    store = make_store()
    records = [signed(ContentPayload(CONTENT_ID), identity=identity) for identity in CROWD[:4]]
    records.sort(key=entry_id_of)
    brief = signed(
        ContentPayload(CONTENT_ID),
        identity=next(i for i in CROWD if i.public_key == records[1].public_key),
        expires_ms=NOW_MS + 1,
    )
    for record in (records[0], brief, records[2], records[3]):
        store.store(record, now_ms=NOW_MS)
    page = store.find(brief.key, now_ms=NOW_MS, limit=2)
    store.expire(NOW_MS + 1)
    rest = store.find(brief.key, now_ms=NOW_MS + 1, after=page.cursor)
    assert rest.records == tuple(records[2:])


@pytest.mark.parametrize("after", [b"", b"\x00", b"\xff" * 100, b"x" * 20])
def test_any_cursor_and_limit_from_outside_are_harmless(after: bytes) -> None:
    store = make_store(page_records_max=2)
    for identity in CROWD[:5]:
        store.store(signed(ContentPayload(CONTENT_ID), identity=identity), now_ms=NOW_MS)
    key = content_key(NETWORK_ID, CONTENT_ID)
    for limit in (-1, 0, 1, 10**9):
        assert len(store.find(key, now_ms=NOW_MS, after=after, limit=limit).records) <= 2


def test_kinds_and_words_filter_at_the_storer() -> None:
    store = make_store()
    names = ["Linear Algebra.pdf", "Algebra exercises.pdf", "Algebra.txt"]
    for number, name in enumerate(names):
        for word in words_of(name):
            payload = WordPayload(word, name, bytes([number]) * 32, 1)
            store.store(signed(payload), now_ms=NOW_MS)
    key = word_key(NETWORK_ID, "algebra")

    def found(words: Sequence[str]) -> set[bytes]:
        records = store.find(key, [Kind.WORD], now_ms=NOW_MS, words=words).records
        return {record.sub_key for record in records}

    assert len(found([])) == 3
    assert len(found(["PDF"])) == 2
    assert len(found(["algebra", "pdf", "linear"])) == 1
    assert found(["alge"]) == set()
    assert store.find(key, [Kind.NAME], now_ms=NOW_MS).records == ()


def test_a_word_filter_leaves_out_kinds_without_a_filename() -> None:
    store = make_store()
    store.store(signed(ContentPayload(CONTENT_ID)), now_ms=NOW_MS)
    key = content_key(NETWORK_ID, CONTENT_ID)
    assert store.find(key, now_ms=NOW_MS, words=["a"]).records == ()


def test_two_holders_of_one_name_are_two_records() -> None:
    store = make_store()
    for identity in (ALICE, BOB):
        payload = NamePayload("a.txt", CONTENT_ID, 5)
        store.store(signed(payload, identity=identity), now_ms=NOW_MS)
    found = store.find(name_key(NETWORK_ID, "a.txt"), now_ms=NOW_MS).records
    assert {record.publisher for record in found} == {ALICE.peer_id, BOB.peer_id}


def test_near_keys_are_ordered_by_xor() -> None:
    store = make_store()
    for payload in contents(8):
        store.store(signed(payload), now_ms=NOW_MS)
    own = ALICE.peer_id
    near = store.near_keys(own)

    def distance(key: bytes) -> list[int]:
        return [a ^ b for a, b in zip(key, own, strict=True)]

    assert near == sorted(store.keys(), key=distance)
    assert store.near_keys(own, 3) == near[:3]


# --- persistence --------------------------------------------------------------------------------


def apply(disk: dict[bytes, SavedRecord], store: RecordStore) -> None:
    """Write a journal as a shell does."""
    changes = store.take_changes()
    disk.update({row.entry_id: row for row in changes.saved})
    for entry_id in changes.deleted:
        disk.pop(entry_id, None)


def test_a_disk_that_follows_the_journal_holds_the_store() -> None:
    store = make_store()
    disk: dict[bytes, SavedRecord] = {}
    brief = signed(ContentPayload(b"1" * 32), expires_ms=NOW_MS + 1)
    kept = signed(ContentPayload(b"2" * 32))
    store.store(brief, now_ms=NOW_MS, source_block="192.0.2.0/24")
    apply(disk, store)
    store.store(kept, now_ms=NOW_MS + 1)
    apply(disk, store)
    assert [row.data for row in disk.values()] == [encode_record(kept)]
    assert store.take_changes() == dht.storage.Changes((), ())


def test_a_restart_has_the_same_records_and_blocks_and_skips_expired_and_damaged_rows() -> None:
    store = make_store(key_records_max=8)
    payload = ContentPayload(CONTENT_ID)
    store.store(signed(payload), now_ms=NOW_MS, source_block="a")
    store.store(signed(ContentPayload(b"1" * 32), expires_ms=NOW_MS + 1), now_ms=NOW_MS)
    disk: dict[bytes, SavedRecord] = {}
    apply(disk, store)
    damaged = SavedRecord(b"d" * 20, b"\xc1", "")
    misplaced = SavedRecord(b"m" * 20, next(iter(disk.values())).data, "")
    again = make_store(key_records_max=8)
    assert again.load([*disk.values(), damaged, misplaced], now_ms=NOW_MS + 1) == 1
    again.validate()
    assert len(again) == 1
    assert again.store(signed(payload, identity=BOB), now_ms=NOW_MS, source_block="a") == FULL
    changes = again.take_changes()
    assert changes.saved == ()
    kept = {entry_id_of(record) for record in again.records()}
    assert set(changes.deleted) == {*disk, b"d" * 20, b"m" * 20} - kept


def test_what_expires_and_comes_back_between_two_journals_stays_on_disk() -> None:
    store = make_store()
    disk: dict[bytes, SavedRecord] = {}
    store.store(signed(ContentPayload(CONTENT_ID), expires_ms=NOW_MS + 1), now_ms=NOW_MS)
    apply(disk, store)
    back = signed(ContentPayload(CONTENT_ID), sequence=NOW_MS + 1)
    assert store.expire(NOW_MS + 1) == 1
    assert store.store(back, now_ms=NOW_MS + 1) == OK
    apply(disk, store)
    assert [row.data for row in disk.values()] == [encode_record(back)]


def test_the_journal_of_deletions_is_bounded() -> None:
    store = make_store(deletions_max=2)
    for payload in contents(5):
        store.store(signed(payload, expires_ms=NOW_MS + 1), now_ms=NOW_MS)
    store.expire(NOW_MS + 1)
    assert len(store.take_changes().deleted) == 2
