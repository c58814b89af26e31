"""Words for which there is no room: sent to their shard, and remembered."""

import pytest

from dht.errors import BadRecord
from dht.heat import HOT_MS, Heat
from dht.payloads import WORD_SHARDS
from dht.records import (
    NamePayload,
    WordPayload,
    check_record,
    decode_payload,
    encode_payload,
    in_shard,
    kind_of,
    sub_key_of,
    word_key,
)
from dht.storage import RecordStore, StorageLimits, Stored, Verdict
from identity.keys import Identity
from tests.support.records import ALICE, BOB, CONTENT_ID, DAY_MS, NETWORK_ID, NOW_MS, signed

LONG = "whale a b c d e f g h.txt"
KEY = word_key(NETWORK_ID, "whale")
CROWD = [Identity.from_seed(bytes([number]) * 32) for number in range(12)]


def whale(number: int, name: str = "whale {}.txt") -> WordPayload:
    return WordPayload("whale", name.format(number), CONTENT_ID, 7)


def full_store(**limits: int) -> RecordStore:
    """A store in which one publisher has all that it may have under a word."""
    store = RecordStore(NETWORK_ID, StorageLimits(key_records_max=16, **limits))
    for number in range(2):
        assert put(store, whale(number)) is Verdict.OK
    return store


def put(
    store: RecordStore,
    payload: WordPayload | NamePayload,
    identity: Identity = ALICE,
    *,
    withdrawn: bool = False,
) -> Verdict:
    record = signed(payload, identity=identity, withdrawn=withdrawn)
    return store.store(record, now_ms=NOW_MS).verdict


def test_a_word_beyond_its_group_is_sent_to_its_shard_where_it_has_room() -> None:
    store = full_store()
    assert store.heat_of(KEY, now_ms=NOW_MS) is Heat.COOL
    assert put(store, whale(2)) is Verdict.HOT
    assert store.heat_of(KEY, now_ms=NOW_MS) is Heat.HOT
    assert put(store, in_shard(whale(2))) is Verdict.OK
    assert put(store, whale(0)) is Verdict.OK, "what is held is held"
    assert put(store, whale(3), BOB) is Verdict.OK, "another group has room"


def test_a_word_beyond_its_key_is_sent_to_its_shard() -> None:
    store = RecordStore(NETWORK_ID, StorageLimits(key_records_max=8))
    verdicts = [put(store, whale(0), identity) for identity in CROWD[:9]]
    assert verdicts == [Verdict.OK] * 8 + [Verdict.HOT]


def test_a_long_name_is_remembered_as_one_that_other_words_may_not_find() -> None:
    store = full_store()
    assert put(store, WordPayload("whale", LONG, CONTENT_ID, 7)) is Verdict.HOT
    assert store.heat_of(KEY, now_ms=NOW_MS + HOT_MS - 1) is Heat.HOT_LONG
    assert store.heat_of(KEY, now_ms=NOW_MS + HOT_MS) is Heat.COOL


def test_a_full_shard_and_a_full_store_send_nobody_on() -> None:
    store = RecordStore(NETWORK_ID, StorageLimits(key_records_max=1, group_divisor=1))
    same_shard = [each for each in map(in_shard, map(whale, range(99))) if each.shard == 3]
    assert put(store, same_shard[0]) is Verdict.OK
    assert put(store, same_shard[1]) is Verdict.FULL
    whole = full_store(records_max=2)
    assert put(whole, whale(2)) is Verdict.FULL
    assert whole.heat_of(KEY, now_ms=NOW_MS) is Heat.COOL


def test_names_have_no_shards() -> None:
    store = RecordStore(NETWORK_ID, StorageLimits(key_records_max=1, group_divisor=1))
    assert put(store, NamePayload("a.txt", CONTENT_ID, 7)) is Verdict.OK
    assert put(store, NamePayload("a.txt", CONTENT_ID, 7), BOB) is Verdict.FULL


def test_a_tombstone_of_what_is_not_here_makes_nothing_hot() -> None:
    store = full_store()
    assert put(store, whale(2), withdrawn=True) is Verdict.HOT
    assert store.heat_of(KEY, now_ms=NOW_MS) is Heat.COOL


def test_a_store_that_starts_again_takes_its_full_words_as_hot() -> None:
    before = full_store()
    assert put(before, WordPayload("orca", "orca.txt", CONTENT_ID, 7)) is Verdict.OK
    after = RecordStore(NETWORK_ID, StorageLimits(key_records_max=16))
    after.load(before.take_changes().saved, now_ms=NOW_MS)
    assert after.heat_of(KEY, now_ms=NOW_MS) is Heat.HOT_LONG
    assert after.heat_of(word_key(NETWORK_ID, "orca"), now_ms=NOW_MS) is Heat.COOL


def test_shards_share_out_the_names_and_have_keys_of_their_own() -> None:
    sharded = [in_shard(whale(number)) for number in range(400)]
    assert {each.shard for each in sharded} == set(range(1, WORD_SHARDS + 1))
    keys = {word_key(NETWORK_ID, "whale", shard) for shard in range(WORD_SHARDS + 1)}
    assert len(keys) == WORD_SHARDS + 1
    assert in_shard(sharded[0]) == sharded[0]
    assert sub_key_of(sharded[0]) == sub_key_of(whale(0))


def test_nobody_chooses_a_shard() -> None:
    good = in_shard(whale(1))
    check_record(signed(good), NETWORK_ID, now_ms=NOW_MS)
    for shard in set(range(1, WORD_SHARDS + 2)) - {good.shard}:
        payload = WordPayload("whale", good.filename, CONTENT_ID, 7, shard)
        with pytest.raises(BadRecord):
            decode_payload(kind_of(payload), encode_payload(payload))


def test_a_shard_of_nought_is_left_out_of_the_bytes() -> None:
    plain = whale(1)
    data = encode_payload(plain)
    assert data[0] == 0x94
    assert decode_payload(kind_of(plain), data) == plain
    with pytest.raises(BadRecord):
        decode_payload(kind_of(plain), b"\x95" + data[1:] + b"\x00")


def test_heat_outlives_what_was_refused_and_no_longer() -> None:
    assert HOT_MS == DAY_MS


def test_verdicts_of_hot_words_are_counted() -> None:
    store = full_store()
    assert store.store(signed(whale(2)), now_ms=NOW_MS) == Stored(Verdict.HOT)
    assert store.counters()["store-hot"] == 1
