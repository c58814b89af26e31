"""What the DHT node must not forget: others' records, contacts and the publishing schedule.

Owns the tables `dht_record`, `dht_contact` and `dht_schedule`, as the DhtPersistence that the node
asks for. Must not know what the rows mean; a row that cannot be read is dropped, since the network
has it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from dht.contacts import ContactRow
from dht.schedule import ScheduleRow
from dht.storage import SavedRecord
from peer.database import Database

Row = TypeVar("Row")

_encoder = msgspec.msgpack.Encoder()


class DhtMemory:
    """The DHT node's persistence in the home's database; each save is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load_records(self) -> Iterable[SavedRecord]:
        """Return the records that this peer stores for others."""
        return self._load("dht_record", SavedRecord)

    def save_records(self, saved: Sequence[SavedRecord], deleted: Sequence[bytes]) -> None:
        """Put and delete stored records."""
        self._save("dht_record", "entry_id", [(row.entry_id, row) for row in saved], deleted)

    def load_contacts(self) -> Iterable[ContactRow]:
        """Return the contacts of the last run."""
        return self._load("dht_contact", ContactRow)

    def save_contacts(self, rows: Sequence[ContactRow]) -> None:
        """Replace the remembered contacts."""
        with self._database.transaction():
            self._database.run("DELETE FROM dht_contact")
            for row in rows:
                self._database.run(
                    "INSERT OR REPLACE INTO dht_contact VALUES (?, ?)",
                    row.peer_id,
                    _encoder.encode(row),
                )

    def load_schedule(self) -> Iterable[ScheduleRow]:
        """Return the drafts of our own records and when they are due."""
        return self._load("dht_schedule", ScheduleRow)

    def save_schedule(self, saved: Sequence[ScheduleRow], deleted: Sequence[bytes]) -> None:
        """Put and delete drafts."""
        self._save("dht_schedule", "draft_id", [(row.draft_id, row) for row in saved], deleted)

    def _load(self, table: str, kind: type[Row]) -> list[Row]:
        rows: list[Row] = []
        for (saved,) in self._database.rows(f"SELECT saved FROM {table}"):  # noqa: S608
            try:
                rows.append(msgspec.msgpack.decode(saved, type=kind))
            except msgspec.DecodeError:
                continue
        return rows

    def _save(
        self,
        table: str,
        key: str,
        saved: Sequence[tuple[bytes, msgspec.Struct]],
        deleted: Sequence[bytes],
    ) -> None:
        with self._database.transaction():
            for row_key in deleted:
                self._database.run(f"DELETE FROM {table} WHERE {key} = ?", row_key)  # noqa: S608
            for row_key, row in saved:
                self._database.run(
                    f"INSERT OR REPLACE INTO {table} VALUES (?, ?)",  # noqa: S608
                    row_key,
                    _encoder.encode(row),
                )
