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
import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from blake3 import blake3

from identity.files import sync_folder, write_at
from identity.keys import PEER_ID_BYTES
from queueing.envelope import OuterManifest, decode_manifest
from queueing.errors import BadEnvelope, Expired, MailboxFull, StorageFailed
from queueing.rabbitmq_messages import (
    CancelMail,
    ChunkMail,
    ClaimMail,
    Mail,
    ManifestMail,
    ReceiptMail,
    cancel_is_good,
    kind_of,
)
from queueing.rabbitmq_tables import SCHEMA

CLAIMS_MAX = 10_000
"""Deliveries that lie with mailbox peers and are remembered; the next are not."""
POISON_MAX = 1_000
"""Rejected messages that are remembered, the latest ones."""
POISON_LIFE_MS = 7 * 24 * 3600 * 1000
"""For so long, which is how long the broker's dead letter keeps them too."""
ORPHANS_BYTES_MAX = 64 * 1024 * 1024
"""Chunks that came before their manifest: a broker may give back what it gets back in any order."""
ORPHAN_LIFE_MS = 24 * 3600 * 1000
"""A chunk that nobody has announced after this time is poison after all."""
RECEIPTS_A_DELIVERY_MAX = 8
"""Whoever may write to the broker can forge receipts; the true one must still find room."""


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
    room_bytes: int
    rows: dict[bytes, _Row] = field(default_factory=dict)
    settled: list[bytes] = field(default_factory=list)


class Staging:
    """Deliveries and receipts taken from the broker, in `folder`."""

    def __init__(
        self, folder: Path, network_id: bytes, *, limit_bytes: int, disk_floor_bytes: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._network_id = network_id
        self.limit_bytes = limit_bytes
        self._disk_floor_bytes = disk_floor_bytes
        self._lock = threading.Lock()
        self._db = sqlite3.connect(folder / "rabbitmq.db", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)
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
        MailboxFull where the disk was full all the same: then none of them was taken in.
        """
        with self._lock:
            taking = _Taking(recipient, now_ms, now_ms + grace_ms, self._room_bytes())
            verdicts: list[Verdict] = []
            with self._commit():
                for mail in batch:
                    if verdicts and verdicts[-1] is Verdict.NO_ROOM:
                        verdicts.append(Verdict.NO_ROOM)
                    else:
                        verdicts.append(self._accept(mail, taking))
                    if verdicts[-1] is Verdict.POISON:
                        self._note_poison(mail, now_ms)
                self._write(taking.rows)
            for delivery_id in taking.settled:
                self._path(delivery_id).unlink(missing_ok=True)
            return verdicts

    def room_bytes(self) -> int:
        """Return how much more may lie here: by the limit, and by what the disk has left."""
        with self._lock:
            return self._room_bytes()

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

    def claims(self, recipient: bytes, *, now_ms: int) -> dict[bytes, tuple[bytes, ...]]:
        """Return the deliveries that lie with mailbox peers, each with those peers' ids."""
        query = "SELECT delivery_id, hosts FROM claims WHERE recipient = ? AND expires_ms > ?"
        with self._lock:
            rows = self._db.execute(query, (recipient, now_ms)).fetchall()
        return {
            delivery_id: tuple(
                hosts[at : at + PEER_ID_BYTES] for at in range(0, len(hosts), PEER_ID_BYTES)
            )
            for delivery_id, hosts in rows
        }

    def poison(self) -> list[tuple[str, int, int]]:
        """Return what was rejected of late: (kind of message, how many, when last)."""
        query = "SELECT what, count(*), max(at_ms) FROM poison GROUP BY what ORDER BY what"
        with self._lock:
            return [(what, count, at_ms) for what, count, at_ms in self._db.execute(query)]

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
                self._db.execute("DELETE FROM claims WHERE expires_ms <= ?", (now_ms,))
                self._expire_orphans(now_ms)
                self._db.execute("DELETE FROM poison WHERE at_ms <= ?", (now_ms - POISON_LIFE_MS,))
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
            case ClaimMail():
                return self._accept_claim(mail, taking)
        assert_never(mail)

    def _accept_manifest(self, manifest: OuterManifest, taking: _Taking) -> Verdict:
        if self._known(manifest.delivery_id):
            return Verdict.KEPT
        if (verdict := self._dismissed(manifest, taking)) is not None:
            return verdict
        if manifest.sealed_bytes > self.limit_bytes:
            return Verdict.POISON
        size_bytes = len(manifest.encoded)
        if size_bytes + manifest.sealed_bytes > taking.room_bytes:
            return Verdict.NO_ROOM  # half a delivery would help nobody, and be in the way
        taking.room_bytes -= size_bytes
        self._db.execute(
            "INSERT INTO mail (delivery_id, recipient, manifest, have, missing, held_bytes,"
            " expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (manifest.delivery_id, taking.recipient, manifest.encoded, bytes(manifest.count),
             manifest.count, size_bytes, manifest.expires_ms),
        )  # fmt: skip
        self._adopt_orphans(manifest.delivery_id, taking)
        return Verdict.KEPT

    def _dismissed(self, manifest: OuterManifest, taking: _Taking) -> Verdict | None:
        """Return what becomes of a manifest that is not to be taken in; None for a good one."""
        try:
            manifest.check(self._network_id, taking.now_ms)
        except Expired:
            return Verdict.KEPT
        except BadEnvelope:
            return Verdict.POISON
        return None if manifest.recipient == taking.recipient else Verdict.POISON

    def _accept_chunk(self, chunk: ChunkMail, taking: _Taking) -> Verdict:
        row = self._row(chunk.delivery_id, taking)
        if row is None:
            # Settled or expired: no use for it. Announced by nobody yet: kept for a while.
            known = self._known(chunk.delivery_id)
            return Verdict.KEPT if known else self._keep_orphan(chunk, taking)
        if not row.manifest.chunk_is_good(chunk.index, chunk.sealed):
            return Verdict.POISON
        if row.have[chunk.index]:
            return Verdict.KEPT
        size_bytes = len(chunk.sealed)
        if size_bytes > taking.room_bytes:
            return Verdict.NO_ROOM
        taking.room_bytes -= size_bytes
        row.held_bytes += size_bytes
        row.have[chunk.index] = 1
        row.fresh.append(chunk)
        return Verdict.KEPT

    def _accept_claim(self, claim: ClaimMail, taking: _Taking) -> Verdict:
        manifest = claim.manifest
        if (verdict := self._dismissed(manifest, taking)) is not None:
            return verdict
        (count,) = self._db.execute("SELECT count(*) FROM claims").fetchone()
        if count < CLAIMS_MAX:  # else its `mail` record is found all the same
            self._db.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                (claim.delivery_id, taking.recipient, b"".join(claim.hosts), manifest.expires_ms),
            )
        return Verdict.KEPT

    def _keep_orphan(self, chunk: ChunkMail, taking: _Taking) -> Verdict:
        size_bytes = len(chunk.sealed)
        if self._orphan_bytes() + size_bytes > ORPHANS_BYTES_MAX:
            return Verdict.POISON
        if size_bytes > taking.room_bytes:
            return Verdict.NO_ROOM
        digest = blake3(chunk.sealed).digest()
        row = (chunk.delivery_id, digest, chunk.index, chunk.sealed, taking.now_ms)
        self._db.execute("INSERT OR IGNORE INTO orphans VALUES (?, ?, ?, ?, ?)", row)
        taking.room_bytes -= size_bytes
        return Verdict.KEPT

    def _adopt_orphans(self, delivery_id: bytes, taking: _Taking) -> None:
        """Take in what came before its manifest; what is not the manifest's own was a forgery."""
        query = "SELECT place, sealed FROM orphans WHERE delivery_id = ?"
        for place, sealed in self._db.execute(query, (delivery_id,)).fetchall():
            orphan = ChunkMail(delivery_id, place, place + 1, sealed)
            taking.room_bytes += len(sealed)
            if self._accept_chunk(orphan, taking) is Verdict.POISON:
                self._note_poison(orphan, taking.now_ms)
        self._db.execute("DELETE FROM orphans WHERE delivery_id = ?", (delivery_id,))

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

    def _note_poison(self, mail: Mail | None, now_ms: int) -> None:
        what = "malformed" if mail is None else kind_of(mail).value
        self._db.execute("INSERT INTO poison (what, at_ms) VALUES (?, ?)", (what, now_ms))
        self._db.execute(
            "DELETE FROM poison WHERE place <= (SELECT max(place) FROM poison) - ?", (POISON_MAX,)
        )

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

    def _room_bytes(self) -> int:
        (total,) = self._db.execute("SELECT total(held_bytes) FROM mail").fetchone()
        held_bytes = int(total) + self._orphan_bytes()
        free_bytes = shutil.disk_usage(self._folder).free - self._disk_floor_bytes
        return max(0, min(self.limit_bytes - held_bytes, free_bytes))

    def _orphan_bytes(self) -> int:
        (total,) = self._db.execute("SELECT total(length(sealed)) FROM orphans").fetchone()
        return int(total)

    def _expire_orphans(self, now_ms: int) -> None:
        query = "DELETE FROM orphans WHERE at_ms <= ? RETURNING delivery_id, place"
        before = (now_ms - ORPHAN_LIFE_MS,)
        for delivery_id, place in self._db.execute(query, before).fetchall():
            self._note_poison(ChunkMail(delivery_id, place, place + 1, b""), now_ms)

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
            if _is_full(error):
                raise MailboxFull(
                    "the disk is full", hint="free some space in the home; nothing is lost"
                ) from error
            raise StorageFailed(
                f"the folder for collected mail cannot be written: {error}"
            ) from error


def _is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
