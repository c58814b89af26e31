"""Properties of the store of records: whatever comes in whatever order."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from dht.records import (
    NamePayload,
    Record,
    encode_record,
)
from dht.storage import (
    RecordStore,
    SavedRecord,
    StorageLimits,
    Stored,
    Verdict,
    entry_id_of,
)
from identity.keys import Identity
from tests.support.records import (
    ALICE,
    BOB,
    CAROL,
    HOUR_MS,
    NETWORK_ID,
    NOW_MS,
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


def apply(disk: dict[bytes, SavedRecord], store: RecordStore) -> None:
    """Write a journal as a shell does."""
    changes = store.take_changes()
    disk.update({row.entry_id: row for row in changes.saved})
    for entry_id in changes.deleted:
        disk.pop(entry_id, None)


TINY = StorageLimits(
    records_max=12,
    publisher_records_max=6,
    block_records_max=5,
    key_records_max=8,
    group_divisor=4,
    deletions_max=10,
)
PEOPLE = (ALICE, BOB, CAROL)


def make_pool() -> list[Record]:
    """Sign once what the properties draw from: 3 owners, 4 contents, 3 versions each."""
    pool = []
    for identity in PEOPLE:
        for number in range(4):
            payload = NamePayload(f"name {number % 2}", bytes([number]) * 32, 1)
            for version in range(3):
                record = signed(
                    payload,
                    identity=identity,
                    sequence=version,
                    issued_ms=NOW_MS + version * HOUR_MS,
                    withdrawn=(version, number) in {(1, 1), (1, 2), (2, 3)},
                )
                pool.append(record)
    return pool


POOL = make_pool()
steps = st.lists(
    st.tuples(
        st.sampled_from(POOL),
        st.sampled_from(["", "192.0.2.0/24", "198.51.100.0/24"]),
        st.integers(0, 3 * HOUR_MS),
    ),
    max_size=60,
)


@given(steps)
def test_caps_hold_and_nothing_expired_or_withdrawn_is_found(
    sent: list[tuple[Record, str, int]],
) -> None:
    store = RecordStore(NETWORK_ID, TINY)
    disk: dict[bytes, SavedRecord] = {}
    now_ms = NOW_MS
    sequences: dict[bytes, int] = {}
    for record, block, pause_ms in sent:
        now_ms += pause_ms
        store.store(record, now_ms=now_ms, source_block=block)
        store.validate()
        apply(disk, store)
        held = {entry_id_of(kept): kept for kept in store.records()}
        assert {row.entry_id: row.data for row in disk.values()} == {
            entry_id: encode_record(kept) for entry_id, kept in held.items()
        }
        for entry_id, kept in held.items():
            assert kept.sequence >= sequences.get(entry_id, 0)
            sequences[entry_id] = kept.sequence
        for found in all_found(store, now_ms=now_ms):
            assert not found.withdrawn
            assert found.expires_ms > now_ms


@given(st.permutations(POOL), st.permutations(POOL))
def test_stores_fed_in_different_orders_converge(one: list[Record], two: list[Record]) -> None:
    roomy = dataclasses.replace(
        TINY, records_max=100, publisher_records_max=100, group_divisor=1, block_records_max=100
    )
    stores = [RecordStore(NETWORK_ID, roomy), RecordStore(NETWORK_ID, roomy)]
    for store, records in zip(stores, (one, two), strict=True):
        for record in records:
            store.store(record, now_ms=NOW_MS + 2 * HOUR_MS)
    assert list(stores[0].records()) == list(stores[1].records())
    assert {record.sequence for record in stores[0].records()} == {2}
