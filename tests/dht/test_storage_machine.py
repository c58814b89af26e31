"""Two stores over a long time: differing clocks, replication, restarts; what never happens."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dht.records import CLOCK_AHEAD_MAX_MS, NamePayload, Record
from dht.storage import RecordStore, SavedRecord, StorageLimits, Verdict, entry_id_of
from identity.keys import Identity
from tests.support.records import ALICE, BOB, HOUR_MS, NETWORK_ID, NOW_MS, signed

LIMITS = StorageLimits(
    records_max=3, publisher_records_max=2, key_records_max=2, group_divisor=1, deletions_max=50
)
SKEWS_MS = (-CLOCK_AHEAD_MAX_MS // 2, CLOCK_AHEAD_MAX_MS // 2)
VERSIONS = 4
CONTENTS = 2


def make_pool() -> list[Record]:
    """Each identity's records in the order of their sequences, a tombstone now and then."""

    def version(identity: Identity, content: int, number: int) -> Record:
        return signed(
            NamePayload(f"name {content % 2}", bytes([content]) * 32, 1),
            identity=identity,
            sequence=number,
            issued_ms=NOW_MS + number * HOUR_MS,
            withdrawn=(number + content) % 3 == 1,
        )

    people = (ALICE, BOB)
    return [version(p, c, n) for p in people for c in range(CONTENTS) for n in range(VERSIONS)]


POOL = make_pool()
stores = st.integers(0, 1)


class Stores(RuleBasedStateMachine):
    """What a network of two storers does, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = [RecordStore(NETWORK_ID, LIMITS) for _ in range(2)]
        self.disks: list[dict[bytes, SavedRecord]] = [{}, {}]
        self.buried: list[dict[bytes, int]] = [{}, {}]
        """The highest tombstone that each store ever took, by identity."""
        self.now_ms = NOW_MS

    def clock_ms(self, number: int) -> int:
        return self.now_ms + SKEWS_MS[number]

    def give(self, number: int, record: Record, block: str) -> None:
        stored = self.stores[number].store(record, now_ms=self.clock_ms(number), source_block=block)
        if stored.verdict is Verdict.OK and record.withdrawn:
            buried = self.buried[number]
            entry_id = entry_id_of(record)
            buried[entry_id] = max(buried.get(entry_id, 0), record.sequence)

    @rule(number=stores, record=st.sampled_from(POOL), block=st.sampled_from(["", "192.0.2.0/24"]))
    def publish(self, number: int, record: Record, block: str) -> None:
        self.give(number, record, block)

    @rule(giver=stores)
    def replicate(self, giver: int) -> None:
        for record in list(self.stores[giver].records()):
            self.give(1 - giver, record, "198.51.100.0/24")

    @rule(number=stores)
    def restart(self, number: int) -> None:
        self.save()
        again = RecordStore(NETWORK_ID, LIMITS)
        again.load(list(self.disks[number].values()), now_ms=self.clock_ms(number))
        self.stores[number] = again

    @rule(pause_ms=st.integers(0, 8).map(lambda hours: hours * HOUR_MS))
    def wait(self, pause_ms: int) -> None:
        self.now_ms += pause_ms

    @invariant()
    def save(self) -> None:
        for store, disk in zip(self.stores, self.disks, strict=True):
            changes = store.take_changes()
            disk.update({row.entry_id: row for row in changes.saved})
            for entry_id in changes.deleted:
                disk.pop(entry_id, None)

    @invariant()
    def caps_hold(self) -> None:
        for store in self.stores:
            store.validate()

    @invariant()
    def nothing_buried_or_expired_is_found(self) -> None:
        for number, store in enumerate(self.stores):
            now_ms = self.clock_ms(number)
            keys = store.keys()
            for key in keys:
                for record in store.find(key, now_ms=now_ms, limit=512).records:
                    assert record in POOL, "replication changes no byte, no expiry either"
                    assert record.expires_ms > now_ms
                    assert not record.withdrawn
                    assert record.sequence > self.buried[number].get(entry_id_of(record), -1)


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
