"""The record store as others see it: pages of records and contacts, verdicts, signatures.

Owns what fits a reply and in which order, and the acknowledgement of a batch. Must not know
sockets, tokens or gRPC: `dht.answering` serves it over UDP, `dht.bulk` over gRPC.
"""

from collections.abc import Callable, Sequence

from dht import acks, wire
from dht.budget import VerifyBudget
from dht.errors import BadRecord
from dht.hints import Scope, scope_of
from dht.records import Kind, Record, decode_record, encode_record
from dht.routing import Table
from dht.self_view import SelfView
from dht.storage import Page, RecordStore, Stored, Verdict, entry_id_of

BIN_HEAD_BYTES = 3
"""What msgpack writes before a record or contact, at most."""
TOLD_FAILURES_MAX = 0
"""Contacts with more failures in a row are not told to others."""
_KINDS = {int(kind): kind for kind in Kind}
_LOOPBACK = Scope.LOOPBACK


class RecordDesk:
    """Answer finds and stores from the local store and table."""

    def __init__(
        self,
        own: SelfView,
        table: Table,
        store: RecordStore,
        budget: VerifyBudget,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        on_stored: Callable[[Record, bytes], None],
    ) -> None:
        self._own = own
        self._table = table
        self._records = store
        self._budget = budget
        self._clock = clock
        self._wall_ms = wall_ms
        self._on_stored = on_stored

    def find(
        self, body: wire.FindRecords, asker_id: bytes, asker_host: str, room_bytes: int
    ) -> wire.FoundRecords:
        """Collect a page of records and the closest contacts into room_bytes.

        The first record goes before contacts; the others share what the contacts leave.
        """
        contacts = self._contacts(body, asker_id, asker_host)
        page = self._page(body)
        encoded = [encode_record(record) for record in page]
        first_bytes = len(encoded[0]) + BIN_HEAD_BYTES if encoded else 0
        first_fits = first_bytes <= room_bytes
        told, left_bytes = _fitting(contacts, room_bytes - (first_bytes if first_fits else 0))
        taken = 0
        if encoded and first_fits:
            rest, _ = _fitting(encoded[1 : wire.RECORDS_MAX], left_bytes)
            taken = 1 + len(rest)
        cursor = b""
        if taken < len(page):
            cursor = entry_id_of(page[taken - 1]) if taken else body.cursor or b"\0"
        heat = self._records.heat_of(body.key, now_ms=self._wall_ms()) if body.kinds else 0
        return wire.FoundRecords(tuple(encoded[:taken]), cursor, tuple(told), heat)

    def store(self, encoded: Sequence[bytes], source_block: str, sender_id: bytes) -> list[Stored]:
        """Judge a datagram's batch; what the sender's share of checks does not allow is BUSY."""
        sender = source_block or sender_id.hex()

        def may_verify() -> bool:
            return self._budget.allows(sender, now=self._clock())

        return self._store(encoded, source_block, sender_id, may_verify)

    def store_waited(
        self, encoded: Sequence[bytes], source_block: str, sender_id: bytes
    ) -> list[Stored]:
        """Judge one turn of a long batch, for which the checks' budget was waited for."""
        now = self._clock()
        return self._store(encoded, source_block, sender_id, lambda: self._budget.spend(now=now))

    def _store(
        self,
        encoded: Sequence[bytes],
        source_block: str,
        sender_id: bytes,
        may_verify: Callable[[], bool],
    ) -> list[Stored]:
        """Judge a batch; a client keeps nothing."""
        if self._own.client:
            return [Stored(Verdict.FULL) for _ in encoded]
        now_ms = self._wall_ms()
        stored: list[Stored] = []
        for data in encoded:
            try:
                record = decode_record(data)
            except BadRecord:
                # Stored all the same: the store counts what it refuses.
                stored.append(self._records.store(data, now_ms=now_ms, source_block=source_block))
                continue
            verdict = self._records.store(
                record, now_ms=now_ms, source_block=source_block, may_verify=may_verify
            )
            stored.append(verdict)
            if verdict.verdict is Verdict.OK:
                self._on_stored(record, sender_id)
        return stored

    def acknowledge(
        self,
        encoded: Sequence[bytes],
        stored: Sequence[Stored],
        requester_id: bytes,
        message_id: bytes,
    ) -> wire.StoredRecords:
        """Sign what became of a batch."""
        return acks.sign(
            self._own.identity,
            self._own.network.network_id,
            requester_id=requester_id,
            message_id=message_id,
            encoded=encoded,
            stored=stored,
        )

    def bulk_page(self, body: wire.FindRecords, limit: int) -> tuple[list[bytes], bytes]:
        """Collect up to limit encoded records and the cursor of the next page."""
        page = self._find(body, limit)
        return [encode_record(record) for record in page.records], page.cursor

    def _contacts(self, body: wire.FindRecords, asker_id: bytes, asker_host: str) -> list[bytes]:
        if not body.contacts_wanted:
            return []
        closest = self._table.closest_spread(
            body.key, body.contacts_wanted, exclude=asker_id, failures_max=TOLD_FAILURES_MAX
        )
        if scope_of(asker_host) is _LOOPBACK:
            return [told for each in closest if (told := each.told_near) is not None]
        return [told for each in closest if (told := each.told_far) is not None]

    def _page(self, body: wire.FindRecords) -> tuple[Record, ...]:
        return self._find(body, wire.RECORDS_MAX + 1).records

    def _find(self, body: wire.FindRecords, limit: int) -> Page:
        kinds = [_KINDS[number] for number in body.kinds if number in _KINDS]
        if not kinds or self._own.client:
            return Page((), b"")
        return self._records.find(
            body.key,
            kinds,
            now_ms=self._wall_ms(),
            words=body.words,
            after=body.cursor,
            limit=limit,
            withdrawn=body.withdrawn,
            prefix=body.prefix,
        )


def _fitting(items: Sequence[bytes], room_bytes: int) -> tuple[Sequence[bytes], int]:
    """Return the first items that fit into room_bytes, and what they leave."""
    needed_bytes = sum(map(len, items)) + BIN_HEAD_BYTES * len(items)
    while needed_bytes > room_bytes and items:
        needed_bytes -= len(items[-1]) + BIN_HEAD_BYTES
        items = items[:-1]
    return items, room_bytes - needed_bytes
