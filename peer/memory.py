"""What the DHT node must not forget: others' records, contacts and the publishing schedule.

Owns the tables `dht_record`, `dht_contact` and `dht_schedule`, as the DhtPersistence that the node
asks for. Must not know what the rows mean; a row that cannot be read is dropped, since the network
has it too. While the disk is full or the file is locked the peer lives on: what could not be saved
is kept and saved with what comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from dht.contacts import ContactRow
from dht.schedule import ScheduleRow
from dht.storage import SavedRecord
from peer.database import Database
from peer.errors import DatabaseBusy, HomeFull

UNSAVED_MAX = 500_000
"""Changes kept of one table; more than its owner holds, so that only old deletions are lost."""

Row = TypeVar("Row")

_encoder = msgspec.msgpack.Encoder()
_log = logging.getLogger(__name__)


class DhtMemory:
    """The DHT node's persistence in the home's database; each save is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records = _Table(database, "dht_record", "entry_id")
        self._contacts = _Table(database, "dht_contact", "peer_id")
        self._schedule = _Table(database, "dht_schedule", "draft_id")
        self._is_failing = False

    def load_records(self) -> Iterable[SavedRecord]:
        """Return the records that this peer stores for others."""
        return self._records.load(SavedRecord)

    def save_records(self, saved: Sequence[SavedRecord], deleted: Sequence[bytes]) -> None:
        """Put and delete stored records."""
        self._records.change({row.entry_id: row for row in saved}, deleted)
        self._write()

    def load_contacts(self) -> Iterable[ContactRow]:
        """Return the contacts of the last run."""
        return self._contacts.load(ContactRow)

    def save_contacts(self, rows: Sequence[ContactRow]) -> None:
        """Replace the remembered contacts."""
        self._contacts.replace({row.peer_id: row for row in rows})
        self._write()

    def load_schedule(self) -> Iterable[ScheduleRow]:
        """Return the drafts of our own records and when they are due."""
        return self._schedule.load(ScheduleRow)

    def save_schedule(self, saved: Sequence[ScheduleRow], deleted: Sequence[bytes]) -> None:
        """Put and delete drafts."""
        self._schedule.change({row.draft_id: row for row in saved}, deleted)
        self._write()

    def _write(self) -> None:
        tables = [each for each in (self._records, self._contacts, self._schedule) if each.is_due]
        try:
            with self._database.transaction():
                for table in tables:
                    table.write()
        except (HomeFull, DatabaseBusy) as error:
            level = logging.DEBUG if self._is_failing else logging.WARNING
            _log.log(level, "not saved yet: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False
            for table in tables:
                table.written()


class _Table:
    """One table of encoded rows, and the changes that are not in it yet."""

    def __init__(self, database: Database, table: str, key: str) -> None:
        self._database = database
        self._table = table
        self._key = key
        self._unsaved: dict[bytes, bytes | None] = {}
        self._begins_anew = False

    def load(self, kind: type[Row]) -> list[Row]:
        rows: list[Row] = []
        for (saved,) in self._database.rows(f"SELECT saved FROM {self._table}"):  # noqa: S608
            try:
                rows.append(msgspec.msgpack.decode(saved, type=kind))
            except msgspec.DecodeError:
                continue
        return rows

    @property
    def is_due(self) -> bool:
        return bool(self._unsaved) or self._begins_anew

    def change(self, saved: Mapping[bytes, msgspec.Struct], deleted: Sequence[bytes]) -> None:
        self._unsaved.update(dict.fromkeys(deleted))
        self._unsaved.update((key, _encoder.encode(row)) for key, row in saved.items())
        while len(self._unsaved) > UNSAVED_MAX:
            del self._unsaved[next(iter(self._unsaved))]

    def replace(self, saved: Mapping[bytes, msgspec.Struct]) -> None:
        self._unsaved = {key: _encoder.encode(row) for key, row in saved.items()}
        self._begins_anew = True

    def write(self) -> None:
        if self._begins_anew:
            self._database.run(f"DELETE FROM {self._table}")  # noqa: S608
        gone = [(key,) for key, row in self._unsaved.items() if row is None]
        put = [(key, row) for key, row in self._unsaved.items() if row is not None]
        self._database.run_many(f"DELETE FROM {self._table} WHERE {self._key} = ?", gone)  # noqa: S608
        self._database.run_many(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?)", put)  # noqa: S608

    def written(self) -> None:
        self._unsaved.clear()
        self._begins_anew = False
