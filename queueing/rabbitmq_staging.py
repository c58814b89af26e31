"""Where mail taken from RabbitMQ lies until it is whole and its recipient has settled it.

Owns one folder: a SQLite journal and one file of sealed chunks a delivery. A message is taken off
the broker only after it is in here, fsynced and journaled; from then on this folder is the store.
So an incomplete delivery (its sender died on the way) holds up nobody: it occupies disk here until
it expires, not the broker's window of unsettled messages. The journal remembers settled delivery
ids until they expire, which makes redelivered and repeated messages harmless: each delivery is
handed out until it is settled, and never after. Blocking; calls from several threads take turns.
Must not know pika or asyncio.
"""

import contextlib
import enum
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from identity.files import sync_folder, write_at
from queueing.envelope import OuterManifest, decode_manifest
from queueing.errors import BadEnvelope, Expired, StorageFailed
from queueing.rabbitmq_messages import (
    CancelMail,
    ChunkMail,
    Mail,
    ManifestMail,
    ReceiptMail,
    cancel_is_good,
)

RECEIPTS_A_DELIVERY_MAX = 8
"""Whoever may write to the broker can forge receipts; the true one must still find room."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS mail (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery_id BLOB NOT NULL UNIQUE,
    recipient BLOB NOT NULL,
    manifest BLOB,            -- NULL once settled
    have BLOB NOT NULL,       -- one byte a chunk, 1 when it is in the file
    missing INTEGER NOT NULL,
    held_bytes INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    delivery_id BLOB NOT NULL,
    receipt BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, receipt)
) STRICT;
CREATE TABLE IF NOT EXISTS sent (
    delivery_id BLOB PRIMARY KEY,
    sealed_bytes INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT;
"""


class Verdict(enum.Enum):
    """What is to become of a message on the broker."""

    KEPT = enum.auto()
    """It is in the folder, or there is no use for it: acknowledge."""
    POISON = enum.auto()
    """It is malformed, forged or damaged: drop and count."""
    NO_ROOM = enum.auto()
    """Leave it and all after it on the broker."""


@dataclass(slots=True)
class _Row:
    """A delivery under way within one batch."""

    manifest: OuterManifest
    have: bytearray
    held_bytes: int
    fresh: list[ChunkMail]


@dataclass(slots=True)
class _Taking:
    """One batch being taken in."""

    recipient: bytes
    now_ms: int
    receipts_until_ms: int
    held_bytes: int
    rows: dict[bytes, _Row] = field(default_factory=dict)
    settled: list[bytes] = field(default_factory=list)


class Staging:
    """Deliveries and receipts taken from the broker, in `folder`."""

    def __init__(self, folder: Path, network_id: bytes, *, limit_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._network_id = network_id
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._db = sqlite3.connect(folder / "rabbitmq.db", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)
        self._sweep_files()

    def close(self) -> None:
        """Close the journal; a second time does nothing."""
        with self._lock:
            self._db.close()

    def accept(
        self, batch: Sequence[Mail | None], recipient: bytes, *, now_ms: int, grace_ms: int
    ) -> list[Verdict]:
        """Take messages in, durable when this returns; one verdict each.

        After the first NO_ROOM all are NO_ROOM, for a manifest must be kept before its chunks.
        """
        with self._lock:
            taking = _Taking(recipient, now_ms, now_ms + grace_ms, self._held_bytes())
            verdicts: list[Verdict] = []
            with self._commit():
                for mail in batch:
                    if verdicts and verdicts[-1] is Verdict.NO_ROOM:
                        verdicts.append(Verdict.NO_ROOM)
                    else:
                        verdicts.append(self._accept(mail, taking))
                self._write(taking.rows)
            for delivery_id in taking.settled:
                self._path(delivery_id).unlink(missing_ok=True)
            return verdicts

    def waiting(self, recipient: bytes, *, now_ms: int) -> list[OuterManifest]:
        """Return what is whole and not settled, oldest first."""
        with self._lock:
            found = self._db.execute(
                "SELECT manifest FROM mail WHERE recipient = ? AND manifest IS NOT NULL"
                " AND missing = 0 AND expires_ms > ? ORDER BY place",
                (recipient, now_ms),
            )
            return [decode_manifest(manifest) for (manifest,) in found]

    def read(self, manifest: OuterManifest, index: int) -> bytes:
        """Return one sealed chunk; BadEnvelope when the disk no longer holds what was kept."""
        with self._path(manifest.delivery_id).open("rb") as file:
            file.seek(manifest.sealed_offset(index))
            sealed = file.read(manifest.sealed_size(index))
        if not manifest.chunk_is_good(index, sealed):
            raise BadEnvelope("a staged chunk is damaged")
        return sealed

    def settle(self, delivery_id: bytes) -> bool:
        """Let go of a delivery's chunks, remember its id; False when that was done before."""
        with self._lock:
            with self._commit():
                changed = self._settle(delivery_id)
            self._path(delivery_id).unlink(missing_ok=True)
            return changed

    def is_settled(self, delivery_id: bytes) -> bool:
        """Tell whether a delivery was settled or has expired."""
        query = "SELECT 1 FROM mail WHERE delivery_id = ? AND manifest IS NOT NULL"
        with self._lock:
            return self._db.execute(query, (delivery_id,)).fetchone() is None

    def note_sent(self, manifest: OuterManifest) -> None:
        """Remember what was deposited from here."""
        row = (manifest.delivery_id, manifest.sealed_bytes, manifest.expires_ms)
        with self._lock, self._commit():
            self._db.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?)", row)

    def was_sent(self, delivery_id: bytes) -> bool:
        """Tell whether that delivery was deposited from here and not forgotten."""
        with self._lock:
            query = "SELECT 1 FROM sent WHERE delivery_id = ?"
            return self._db.execute(query, (delivery_id,)).fetchone() is not None

    def forget_sent(self, delivery_id: bytes) -> None:
        """Forget a deposit: it is answered or taken back."""
        with self._lock, self._commit():
            self._db.execute("DELETE FROM sent WHERE delivery_id = ?", (delivery_id,))

    def receipts(self, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Return the receipts that came for these deliveries."""
        query = "SELECT receipt FROM receipts WHERE delivery_id = ?"
        with self._lock:
            return [
                receipt
                for delivery_id in delivery_ids
                for (receipt,) in self._db.execute(query, (delivery_id,))
            ]

    def usage(self) -> tuple[int, int]:
        """Return the deliveries kept here or deposited from here, and the bytes they occupy."""
        query = (
            "SELECT count(*), total(held_bytes) FROM mail WHERE manifest IS NOT NULL"
            " UNION ALL SELECT count(*), total(sealed_bytes) FROM sent"
        )
        with self._lock:
            found = self._db.execute(query).fetchall()
        return sum(count for count, _ in found), int(sum(held for _, held in found))

    def expire(self, *, now_ms: int) -> None:
        """Forget everything whose time is over."""
        with self._lock:
            query = "SELECT delivery_id FROM mail WHERE expires_ms <= ?"
            expired = [row[0] for row in self._db.execute(query, (now_ms,))]
            with self._commit():
                self._db.execute("DELETE FROM mail WHERE expires_ms <= ?", (now_ms,))
                self._db.execute("DELETE FROM receipts WHERE expires_ms <= ?", (now_ms,))
                self._db.execute("DELETE FROM sent WHERE expires_ms <= ?", (now_ms,))
            for delivery_id in expired:
                self._path(delivery_id).unlink(missing_ok=True)

    def _accept(self, mail: Mail | None, taking: _Taking) -> Verdict:
        match mail:
            case None:
                return Verdict.POISON
            case ManifestMail(manifest):
                return self._accept_manifest(manifest, taking)
            case ChunkMail():
                return self._accept_chunk(mail, taking)
            case CancelMail():
                return self._accept_cancel(mail, taking)
            case ReceiptMail():
                return self._accept_receipt(mail, taking)
        assert_never(mail)

    def _accept_manifest(self, manifest: OuterManifest, taking: _Taking) -> Verdict:
        if self._known(manifest.delivery_id):
            return Verdict.KEPT
        try:
            manifest.check(self._network_id, taking.now_ms)
        except Expired:
            return Verdict.KEPT
        except BadEnvelope:
            return Verdict.POISON
        if manifest.recipient != taking.recipient or manifest.sealed_bytes > self.limit_bytes:
            return Verdict.POISON
        size_bytes = len(manifest.encoded)
        if taking.held_bytes + size_bytes > self.limit_bytes:
            return Verdict.NO_ROOM
        taking.held_bytes += size_bytes
        self._db.execute(
            "INSERT INTO mail (delivery_id, recipient, manifest, have, missing, held_bytes,"
            " expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (manifest.delivery_id, taking.recipient, manifest.encoded, bytes(manifest.count),
             manifest.count, size_bytes, manifest.expires_ms),
        )  # fmt: skip
        return Verdict.KEPT

    def _accept_chunk(self, chunk: ChunkMail, taking: _Taking) -> Verdict:
        row = self._row(chunk.delivery_id, taking)
        if row is None:
            # Settled or expired: no use for it. Announced by nobody: not ours to keep.
            return Verdict.KEPT if self._known(chunk.delivery_id) else Verdict.POISON
        if not row.manifest.chunk_is_good(chunk.index, chunk.sealed):
            return Verdict.POISON
        if row.have[chunk.index]:
            return Verdict.KEPT
        size_bytes = len(chunk.sealed)
        if taking.held_bytes + size_bytes > self.limit_bytes:
            return Verdict.NO_ROOM
        taking.held_bytes += size_bytes
        row.held_bytes += size_bytes
        row.have[chunk.index] = 1
        row.fresh.append(chunk)
        return Verdict.KEPT

    def _accept_cancel(self, cancel: CancelMail, taking: _Taking) -> Verdict:
        row = self._row(cancel.delivery_id, taking)
        if row is None:
            return Verdict.KEPT
        if not cancel_is_good(cancel, self._network_id, row.manifest):
            return Verdict.POISON
        self._settle(cancel.delivery_id)
        del taking.rows[cancel.delivery_id]
        taking.settled.append(cancel.delivery_id)
        return Verdict.KEPT

    def _accept_receipt(self, mail: ReceiptMail, taking: _Taking) -> Verdict:
        query = "SELECT count(*) FROM receipts WHERE delivery_id = ?"
        if self._db.execute(query, (mail.delivery_id,)).fetchone()[0] >= RECEIPTS_A_DELIVERY_MAX:
            return Verdict.POISON
        row = (mail.delivery_id, mail.receipt, taking.receipts_until_ms)
        self._db.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?, ?)", row)
        self._db.execute("DELETE FROM sent WHERE delivery_id = ?", (mail.delivery_id,))
        return Verdict.KEPT

    def _row(self, delivery_id: bytes, taking: _Taking) -> _Row | None:
        if delivery_id not in taking.rows:
            query = "SELECT manifest, have, held_bytes FROM mail WHERE delivery_id = ?"
            found = self._db.execute(query, (delivery_id,)).fetchone()
            if found is None or found[0] is None:
                return None
            row = _Row(decode_manifest(found[0]), bytearray(found[1]), found[2], [])
            taking.rows[delivery_id] = row
        return taking.rows[delivery_id]

    def _write(self, rows: dict[bytes, _Row]) -> None:
        """Put the fresh chunks on the disk, then into the journal."""
        for delivery_id, row in rows.items():
            if not row.fresh:
                continue
            path = self._path(delivery_id)
            is_new = not path.exists()
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                for chunk in row.fresh:
                    write_at(descriptor, chunk.sealed, row.manifest.sealed_offset(chunk.index))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self._folder)
            self._db.execute(
                "UPDATE mail SET have = ?, missing = ?, held_bytes = ? WHERE delivery_id = ?",
                (bytes(row.have), row.have.count(0), row.held_bytes, delivery_id),
            )

    def _settle(self, delivery_id: bytes) -> bool:
        changed = self._db.execute(
            "UPDATE mail SET manifest = NULL, have = x'', held_bytes = 0"
            " WHERE delivery_id = ? AND manifest IS NOT NULL",
            (delivery_id,),
        ).rowcount
        return bool(changed)

    def _known(self, delivery_id: bytes) -> bool:
        query = "SELECT 1 FROM mail WHERE delivery_id = ?"
        return self._db.execute(query, (delivery_id,)).fetchone() is not None

    def _held_bytes(self) -> int:
        return int(self._db.execute("SELECT total(held_bytes) FROM mail").fetchone()[0])

    def _sweep_files(self) -> None:
        """Remove what a crash between the journal and the disk left over."""
        query = "SELECT delivery_id FROM mail WHERE manifest IS NOT NULL"
        kept = {self._path(row[0]) for row in self._db.execute(query)}
        for path in self._folder.glob("*.mail"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _path(self, delivery_id: bytes) -> Path:
        return self._folder / f"{delivery_id.hex()}.mail"

    @contextlib.contextmanager
    def _commit(self) -> Iterator[None]:
        try:
            with self._db:
                yield
        except (OSError, sqlite3.OperationalError) as error:
            # What was not journaled is not acknowledged: it stays on the broker.
            raise StorageFailed(
                f"the folder for collected mail cannot be written: {error}"
            ) from error
