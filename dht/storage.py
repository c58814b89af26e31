"""The records that this peer keeps for the network.

Owns which records are taken, replaced, found and forgotten, and the caps that bound them. Pure: it
is given the wall time in milliseconds; it must not know sockets, SQLite or who is close to a key.

Inputs: `store`, `expire`, `load`. Outputs: verdicts, pages of records, `take_changes` for a shell
that persists. A record is in one of two states: live or withdrawn (a tombstone); only a record of
the same identity with a higher sequence moves it on, only its expiry removes it.

Invariants (`validate` asserts them): one record an identity; never more than the caps in all, per
key, per publisher, per public address block, and per group within a key; no stored record skipped
`check_record`, or, for those loaded from our own disk, its signature. A group is the public address
block of whoever sent the record, or its publisher where there is no public block: nobody fills a
key alone (S/Kademlia's point that ids are free while addresses are not). Replication cannot extend
a life: the expiry is signed by the owner.
"""

import bisect
import collections
import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from dht.errors import BadRecord
from dht.heat import Heat, HotKeys
from dht.records import (
    KEY_BYTES,
    Kind,
    NamePayload,
    Payload,
    Record,
    WordPayload,
    decode_record,
    encode_record,
    inspect_record,
    verify_signature,
)
from dht.verdicts import Stored, Verdict, refusal
from dht.words import WordFilter, is_fully_indexed, spelled
from identity.encoding import length_prefixed

__all__ = [
    "Changes",
    "Page",
    "RecordStore",
    "SavedRecord",
    "StorageLimits",
    "Stored",
    "Verdict",
    "entry_id_of",
]

Name = TypeVar("Name", bytes, str)

ENTRY_ID_BYTES = 20
# An expiry queue keeps an item for each replaced record; past this slack it is built anew.
EXPIRY_SLACK_MAX = 1024
SOURCE_BLOCK_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """How much this peer keeps; the operator's role has larger ones."""

    records_max: int = 100_000
    """Records in all, tombstones included; about 1 KB of memory each."""
    publisher_records_max: int = 25_000
    """Records of one public key."""
    block_records_max: int = 25_000
    """Records that came from one public address block, whoever signed them: ids are free."""
    key_records_max: int = 2_048
    """Records under one key."""
    group_divisor: int = 8
    """One group has at most this fraction of a key's cap."""
    deletions_max: int = 100_000
    """Deletions remembered for the shell; forgetting one only leaves a dead row on disk."""
    page_records_max: int = 512
    """Records that one call of `find` returns at most."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            assert getattr(self, name) > 0, f"{name} must be positive"

    @property
    def group_records_max(self) -> int:
        """Records of one group under one key."""
        return max(1, self.key_records_max // self.group_divisor)


@dataclass(frozen=True, slots=True)
class Page:
    """Records in a stable order, and where to go on; an empty cursor ends the set."""

    records: tuple[Record, ...]
    cursor: bytes


class SavedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One stored record as a shell persists it; `entry_id` is its row's key."""

    entry_id: bytes
    data: bytes
    source_block: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What a shell must write to be as the store is: rows to put and rows to delete."""

    saved: tuple[SavedRecord, ...]
    deleted: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    group: bytes
    source_block: str
    words: str
    """Those of its filename, spelled out; kept because a filter looks at all that is there."""


@dataclass(slots=True)
class _Shelf:
    """All entries under one key; `order` is the sorted ids, so that a cursor can be found."""

    entries: dict[bytes, _Entry] = field(default_factory=dict)
    order: list[bytes] = field(default_factory=list)
    groups: collections.Counter[bytes] = field(default_factory=collections.Counter)


def entry_id_of(record: Record) -> bytes:
    """Hash a record's identity (key, kind, public key, sub-key): its place in a key's order.

    A hash mixes publishers, so that a page that is cut off favours nobody's public key.
    """
    return entry_id(record.key, record.kind, record.public_key, record.sub_key)


def entry_id(key: bytes, kind: Kind, public_key: bytes, sub_key: bytes) -> bytes:
    """Hash an identity; see `entry_id_of`."""
    parts = (key, bytes([kind]), public_key, sub_key)
    return hashlib.sha256(length_prefixed(*parts)).digest()[:ENTRY_ID_BYTES]


class RecordStore:
    """Keep verified records within limits; see the module for states and invariants."""

    def __init__(self, network_id: bytes, limits: StorageLimits | None = None) -> None:
        self._network_id = network_id
        self._limits = limits or StorageLimits()
        self._shelves: dict[bytes, _Shelf] = {}
        self._publishers: collections.Counter[bytes] = collections.Counter()
        self._blocks: collections.Counter[str] = collections.Counter()
        self._expiries: list[tuple[int, bytes, bytes]] = []
        self._count = 0
        self._saved: dict[bytes, bytes] = {}
        self._deleted: dict[bytes, None] = {}
        self._counters: collections.Counter[str] = collections.Counter()
        self._hot = HotKeys()

    def __len__(self) -> int:
        return self._count

    # --- taking ---------------------------------------------------------------------------------

    def store(
        self,
        data: bytes | Record,
        *,
        now_ms: int,
        source_block: str = "",
        may_verify: Callable[[], bool] = lambda: True,
    ) -> Stored:
        """Judge one record and keep it if it is good, new and within the caps.

        `source_block` is the public address block of whoever sent it, empty for other addresses.
        The same record again is OK and costs no signature check. `may_verify` is asked before a
        check; where it says no, the verdict is BUSY. Never raises on remote input.
        """
        try:
            record = data if isinstance(data, Record) else decode_record(data)
            stored = self._judge(record, now_ms, source_block, may_verify)
        except BadRecord as error:
            self._counters[f"store-bad-{error.reason}"] += 1
            stored = refusal(error.reason, now_ms)
        self._counters[f"store-{stored.verdict.name.lower()}"] += 1
        return stored

    def load(self, rows: Iterable[SavedRecord], *, now_ms: int, more: bool = False) -> int:
        """Take back what `take_changes` gave out earlier and return how many rows were good.

        `more`: further rows follow, in another turn.

        Our own disk is trusted for signatures (they were checked before), for nothing else; rows
        that are expired, damaged or beyond the caps are dropped and given out as deleted.
        """
        loaded = 0
        for row in rows:
            try:
                good = self._load_row(row, now_ms)
            except BadRecord as error:
                self._counters[f"load-bad-{error.reason}"] += 1
                good = False
            if good:
                loaded += 1
            elif row.entry_id not in self._saved:
                self._note_deleted(row.entry_id)
        if not more:
            self._mark_full_words(now_ms)
        return loaded

    def _load_row(self, row: SavedRecord, now_ms: int) -> bool:
        record = decode_record(row.data)
        payload = inspect_record(record, self._network_id, now_ms=now_ms)
        if row.entry_id != entry_id_of(record):
            return False
        if self._find_entry(record.key, row.entry_id) is not None:
            return True  # what came over the network meanwhile stays, and so does its row
        words = _words_of(payload)
        if self._put(record, row.entry_id, row.source_block, words) is not Verdict.OK:
            return False
        self._saved.pop(row.entry_id, None)
        return True

    def _judge(
        self, record: Record, now_ms: int, source_block: str, may_verify: Callable[[], bool]
    ) -> Stored:
        """Check the cheap things first and the signature only of what would be stored."""
        self.expire(now_ms)
        entry_id = entry_id_of(record)
        held = self._find_entry(record.key, entry_id)
        if held is not None and held.record == record:
            return Stored(Verdict.OK)
        if held is not None and held.record.sequence >= record.sequence:
            return Stored(Verdict.STALE, sequence=held.record.sequence)
        payload = inspect_record(record, self._network_id, now_ms=now_ms)
        if held is None:
            group = _group_of(record, source_block)
            if self._is_full(record, source_block):
                return Stored(Verdict.FULL)
            if self._is_key_full(record.key, group):
                return Stored(self._refuse_for_room(record, payload, now_ms))
        if not may_verify():
            return Stored(Verdict.BUSY)
        verify_signature(record, self._network_id)
        return Stored(self._put(record, entry_id, source_block, _words_of(payload)))

    def _put(self, record: Record, entry_id: bytes, source_block: str, words: str) -> Verdict:
        source_block = source_block[:SOURCE_BLOCK_CHARS_MAX]
        group = _group_of(record, source_block)
        shelf = self._shelves.get(record.key)
        held = shelf.entries.get(entry_id) if shelf is not None else None
        if shelf is None or held is None:
            if self._is_full(record, source_block) or self._is_key_full(record.key, group):
                return Verdict.FULL
            shelf = self._shelves.setdefault(record.key, _Shelf())
            bisect.insort(shelf.order, entry_id)
            shelf.groups[group] += 1
            self._publishers[record.public_key] += 1
            self._blocks[source_block] += 1
            self._count += 1
        elif group != held.group:
            # The record moves to its new sender's group where that has room, else it stays.
            has_room = shelf.groups[group] < self._limits.group_records_max
            if has_room and not self._is_block_full(source_block):
                _uncount(shelf.groups, held.group)
                _uncount(self._blocks, held.source_block)
                shelf.groups[group] += 1
                self._blocks[source_block] += 1
            else:
                group, source_block = held.group, held.source_block
        shelf.entries[entry_id] = _Entry(record, group, source_block, words)
        self._queue_expiry(record, entry_id)
        self._saved[entry_id] = record.key
        self._deleted.pop(entry_id, None)
        return Verdict.OK

    def _is_full(self, record: Record, source_block: str) -> bool:
        """Tell whether the store, or its publisher's or sender's part of it, is full."""
        limits = self._limits
        if self._count >= limits.records_max or self._is_block_full(source_block):
            return True
        return self._publishers[record.public_key] >= limits.publisher_records_max

    def _is_block_full(self, block: str) -> bool:
        return bool(block) and self._blocks[block] >= self._limits.block_records_max

    def _is_key_full(self, key: bytes, group: bytes) -> bool:
        """Tell whether a key, or a group within it, is full."""
        shelf = self._shelves.get(key)
        if shelf is None:
            return False
        if len(shelf.entries) >= self._limits.key_records_max:
            return True
        return shelf.groups[group] >= self._limits.group_records_max

    def _refuse_for_room(self, record: Record, payload: Payload, now_ms: int) -> Verdict:
        """Send a word to its shard and remember that it is there; the rest finds no room at all.

        A tombstone is sent on like the record that it buries, which is then not here either.
        """
        if not isinstance(payload, WordPayload) or payload.shard:
            return Verdict.FULL
        if not record.withdrawn:
            is_long = not is_fully_indexed(payload.filename)
            self._hot.refused(record.key, is_long=is_long, now_ms=now_ms)
        return Verdict.HOT

    def _mark_full_words(self, now_ms: int) -> None:
        """Take word keys that are full as hot: what was refused there before is not known."""
        for key, shelf in self._shelves.items():
            if len(shelf.entries) < self._limits.group_records_max:
                continue
            full = self._is_key_full(key, max(shelf.groups, key=shelf.groups.__getitem__))
            if full and any(each.record.kind is Kind.WORD for each in shelf.entries.values()):
                self._hot.refused(key, is_long=True, now_ms=now_ms)

    # --- finding --------------------------------------------------------------------------------

    def find(
        self,
        key: bytes,
        kinds: Sequence[Kind] = (),
        *,
        now_ms: int,
        words: Sequence[str] = (),
        after: bytes = b"",
        limit: int = 300,
        withdrawn: bool = False,
        prefix: str = "",
    ) -> Page:
        """List live records under a key, a page at a time.

        No kinds means all. `words` and `prefix` keep only `name` and `word` records whose filename
        has all of the words, and one that begins with the prefix. Pass a page's cursor as `after`
        for the next one. `withdrawn` adds tombstones, which only replication wants.
        """
        shelf = self._shelves.get(key)
        if shelf is None:
            return Page((), b"")
        limit = max(1, min(limit, self._limits.page_records_max))
        wanted = WordFilter(words, prefix) if words or prefix else None
        found: list[Record] = []
        last = b""
        for entry_id in shelf.order[bisect.bisect_right(shelf.order, after) :]:
            if len(found) == limit:
                return Page(tuple(found), last)
            entry = shelf.entries[entry_id]
            record = entry.record
            if record.expires_ms <= now_ms or (record.withdrawn and not withdrawn):
                continue
            if kinds and record.kind not in kinds:
                continue
            if wanted is None or wanted.matches(entry.words):
                found.append(record)
                last = entry_id
        return Page(tuple(found), b"")

    def heat_of(self, key: bytes, *, now_ms: int) -> Heat:
        """Tell whether word records were refused under a key for want of room."""
        return self._hot.heat_of(key, now_ms=now_ms)

    def keys(self) -> list[bytes]:
        """List all keys that hold a record, in order."""
        return sorted(self._shelves)

    def near_keys(self, target: bytes, limit: int | None = None) -> list[bytes]:
        """List the keys closest to a 20-byte id by XOR, closest first, for hand-off."""
        assert len(target) == KEY_BYTES
        number = int.from_bytes(target)
        nearest = sorted(self._shelves, key=lambda key: int.from_bytes(key) ^ number)
        return nearest if limit is None else nearest[:limit]

    def records(self) -> Iterable[Record]:
        """Go through every stored record, tombstones included, in the order of keys."""
        for key in self.keys():
            shelf = self._shelves.get(key)
            if shelf is not None:
                yield from [shelf.entries[entry_id].record for entry_id in shelf.order]

    def counters(self) -> dict[str, int]:
        """Count verdicts and reasons of refusal since the start."""
        return dict(self._counters)

    def _find_entry(self, key: bytes, entry_id: bytes) -> _Entry | None:
        shelf = self._shelves.get(key)
        return None if shelf is None else shelf.entries.get(entry_id)

    # --- forgetting -----------------------------------------------------------------------------

    def expire(self, now_ms: int) -> int:
        """Forget what has expired and return how much that was; cheap when nothing has."""
        expired = 0
        while self._expiries and self._expiries[0][0] <= now_ms:
            expires_ms, key, entry_id = heapq.heappop(self._expiries)
            entry = self._find_entry(key, entry_id)
            # A replaced record leaves its item behind; only the item of what is stored counts.
            if entry is not None and entry.record.expires_ms == expires_ms:
                self._remove(key, entry_id, entry)
                expired += 1
        return expired

    def _remove(self, key: bytes, entry_id: bytes, entry: _Entry) -> None:
        shelf = self._shelves[key]
        del shelf.entries[entry_id]
        del shelf.order[bisect.bisect_left(shelf.order, entry_id)]
        _uncount(shelf.groups, entry.group)
        _uncount(self._publishers, entry.record.public_key)
        _uncount(self._blocks, entry.source_block)
        self._count -= 1
        if not shelf.entries:
            del self._shelves[key]
        self._note_deleted(entry_id)

    def _queue_expiry(self, record: Record, entry_id: bytes) -> None:
        heapq.heappush(self._expiries, (record.expires_ms, record.key, entry_id))
        if len(self._expiries) <= 2 * self._count + EXPIRY_SLACK_MAX:
            return
        self._expiries = [
            (entry.record.expires_ms, key, kept_id)
            for key, shelf in self._shelves.items()
            for kept_id, entry in shelf.entries.items()
        ]
        heapq.heapify(self._expiries)

    # --- journal --------------------------------------------------------------------------------

    def take_changes(self, limit: int | None = None) -> Changes:
        """Give out what changed since the last calls, once; `limit` rows of each kind at most."""
        saved: list[SavedRecord] = []
        for entry_id in list(itertools.islice(self._saved, limit)):
            entry = self._find_entry(self._saved.pop(entry_id), entry_id)
            assert entry is not None, "the journal names an entry that is not stored"
            data = encode_record(entry.record)
            saved.append(SavedRecord(entry_id, data, entry.source_block))
        deleted = tuple(itertools.islice(self._deleted, limit))
        for entry_id in deleted:
            del self._deleted[entry_id]
        return Changes(tuple(saved), deleted)

    def _note_deleted(self, entry_id: bytes) -> None:
        self._saved.pop(entry_id, None)
        self._deleted[entry_id] = None
        if len(self._deleted) > self._limits.deletions_max:
            del self._deleted[next(iter(self._deleted))]

    def validate(self) -> None:
        """Assert the invariants of the module; for tests and debugging."""
        limits = self._limits
        publishers: collections.Counter[bytes] = collections.Counter()
        blocks: collections.Counter[str] = collections.Counter()
        for key, shelf in self._shelves.items():
            assert shelf.order == sorted(shelf.entries)
            assert 0 < len(shelf.entries) <= limits.key_records_max
            groups = collections.Counter(entry.group for entry in shelf.entries.values())
            assert groups == shelf.groups
            assert max(groups.values()) <= limits.group_records_max
            for entry_id, entry in shelf.entries.items():
                assert entry.record.key == key
                assert entry_id == entry_id_of(entry.record)
                publishers[entry.record.public_key] += 1
                blocks[entry.source_block] += 1
        assert publishers == self._publishers
        assert +blocks == +self._blocks
        assert max((blocks[each] for each in blocks if each), default=0) <= limits.block_records_max
        assert publishers.total() == self._count <= limits.records_max
        assert max(publishers.values(), default=0) <= limits.publisher_records_max
        assert len(self._expiries) <= 2 * self._count + EXPIRY_SLACK_MAX + 1


def _group_of(record: Record, source_block: str) -> bytes:
    return source_block.encode() if source_block else record.public_key


def _uncount(counter: collections.Counter[Name], name: Name) -> None:
    """Count one less and forget names at zero, so that counters stay as small as the store."""
    counter[name] -= 1
    if counter[name] == 0:
        del counter[name]


def _words_of(payload: Payload) -> str:
    match payload:
        case NamePayload(filename=filename) | WordPayload(filename=filename):
            return spelled(filename)
        case _:
            return ""
