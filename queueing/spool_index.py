"""The SQLite table behind a spool: which deliveries lie there, for whom, until when.

Owns the rows and the quotas, in one synchronous class; each method is one transaction, durable
when it returns. Must not know files, sockets or asyncio: the spool calls it in a thread.
"""

# ruff: noqa: S608 - statements are joined from constants of this module only

import enum
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from queueing.envelope import OuterManifest
from queueing.errors import MailboxFull, Refused, TooLarge
from queueing.ledger import add_columns
from queueing.store import Usage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery_id BLOB NOT NULL UNIQUE,
    sender BLOB NOT NULL,
    recipient BLOB NOT NULL,
    manifest BLOB NOT NULL,
    sealed_bytes INTEGER NOT NULL,
    begun_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    stage TEXT NOT NULL,
    receipt BLOB,
    own INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS deliveries_of_recipient ON deliveries (recipient, stage, position);
CREATE INDEX IF NOT EXISTS deliveries_of_sender ON deliveries (sender, stage);
CREATE INDEX IF NOT EXISTS deliveries_by_expiry ON deliveries (expires_ms);
PRAGMA user_version = 1;
"""


class Stage(enum.StrEnum):
    """What a spool has of a delivery."""

    PARTIAL = "partial"
    HELD = "held"
    SETTLED = "settled"  # only the receipt is left, until the expiry
    DROPPED = "dropped"  # taken back, or rejected without a receipt


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """Limits of one spool."""

    limit_bytes: int = 16 * 1024**3
    """All deliveries together."""
    sender_limit_bytes: int = 4 * 1024**3
    """What one sender may have here."""
    recipient_limit_bytes: int = 8 * 1024**3
    """What may wait for one recipient."""
    delivery_bytes_max: int = 4 * 1024**3
    """One delivery."""
    deliveries_max: int = 20_000
    """Rows of every stage, receipts kept as tombstones included."""
    sender_deliveries_max: int = 5_000
    """Rows of every stage from one sender, so that no single one fills the table."""
    disk_floor_bytes: int = 256 * 1024**2
    """This much of the disk stays free."""
    partial_lifetime_ms: int = 24 * 3600 * 1000
    """An interrupted deposit is forgotten after this time."""

    def __post_init__(self) -> None:
        assert 0 < self.delivery_bytes_max <= self.limit_bytes


@dataclass(frozen=True, slots=True)
class Row:
    """One delivery as the index knows it."""

    position: int
    delivery_id: bytes
    sender: bytes
    recipient: bytes
    sealed_bytes: int
    created_ms: int
    expires_ms: int
    stage: Stage


_ROW = "position, delivery_id, sender, recipient, sealed_bytes, created_ms, expires_ms, stage"
_IN_USE = "stage IN ('partial', 'held')"


class SpoolIndex:
    """The rows of one spool; not thread-safe, use it from one thread at a time."""

    def __init__(self, path: Path, config: SpoolConfig) -> None:
        self._config = config
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")  # durable when a call returns
        self._database.executescript(_SCHEMA)
        add_columns(self._database, "deliveries", {"own": "INTEGER NOT NULL DEFAULT 0"})

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def begin(self, manifest: OuterManifest, now_ms: int, *, own: bool = False) -> Row:
        """Reserve room and return the row, new or as it stands.

        The limits are for what others leave here: `own` deliveries have none.
        TooLarge, MailboxFull; Refused when the delivery was dropped here.
        """
        known = self.get(manifest.delivery_id)
        if known is not None:
            if known.stage is Stage.DROPPED:
                raise Refused("this delivery was taken back or rejected before")
            return known
        if not own:
            self._check_room(manifest)
        values = (
            manifest.delivery_id, manifest.sender, manifest.recipient, manifest.encoded,
            manifest.sealed_bytes, now_ms, manifest.created_ms, manifest.expires_ms, Stage.PARTIAL,
            own,
        )  # fmt: skip
        self._database.execute(
            "INSERT INTO deliveries (delivery_id, sender, recipient, manifest, sealed_bytes,"
            " begun_ms, created_ms, expires_ms, stage, own) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        row = self.get(manifest.delivery_id)
        assert row is not None
        return row

    def hold(self, delivery_id: bytes) -> None:
        """Note that all chunks are durable."""
        self._database.execute(
            "UPDATE deliveries SET stage = 'held' WHERE delivery_id = ? AND stage = 'partial'",
            (delivery_id,),
        )

    def settle(self, delivery_id: bytes, receipt: bytes) -> None:
        """Keep only the receipt."""
        self._database.execute(
            "UPDATE deliveries SET stage = 'settled', manifest = x'', receipt = ?"
            f" WHERE delivery_id = ? AND {_IN_USE}",
            (receipt, delivery_id),
        )

    def drop(self, delivery_id: bytes) -> bool:
        """Keep only the mark that it was here; False when nothing was left to drop."""
        cursor = self._database.execute(
            "UPDATE deliveries SET stage = 'dropped', manifest = x''"
            f" WHERE delivery_id = ? AND {_IN_USE}",
            (delivery_id,),
        )
        return cursor.rowcount > 0

    def forget(self, delivery_id: bytes) -> None:
        """Delete the row."""
        self._database.execute("DELETE FROM deliveries WHERE delivery_id = ?", (delivery_id,))

    def get(self, delivery_id: bytes) -> Row | None:
        """Return one row."""
        found = self._database.execute(
            f"SELECT {_ROW} FROM deliveries WHERE delivery_id = ?", (delivery_id,)
        ).fetchone()
        return None if found is None else _row(found)

    def manifest_bytes(self, delivery_id: bytes) -> bytes | None:
        """Return the encoded outer manifest while the chunks are here."""
        found = self._database.execute(
            f"SELECT manifest FROM deliveries WHERE delivery_id = ? AND {_IN_USE}", (delivery_id,)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def waiting(self, recipient: bytes, after: int, limit: int, now_ms: int) -> list[Row]:
        """Return whole deliveries for a recipient after a position, oldest first."""
        found = self._database.execute(
            f"SELECT {_ROW} FROM deliveries WHERE recipient = ? AND stage = 'held'"
            " AND position > ? AND expires_ms > ? ORDER BY position LIMIT ?",
            (recipient, after, now_ms, limit),
        )
        return [_row(values) for values in found]

    def receipt(self, sender: bytes, delivery_id: bytes) -> bytes | None:
        """Return the receipt for one of this sender's deliveries."""
        found = self._database.execute(
            "SELECT receipt FROM deliveries WHERE delivery_id = ? AND sender = ?"
            " AND stage = 'settled'",
            (delivery_id, sender),
        ).fetchone()
        return None if found is None else bytes(found[0])

    def held_ids(self, sender: bytes) -> list[bytes]:
        """Return the deliveries of a sender that are held whole."""
        found = self._database.execute(
            "SELECT delivery_id FROM deliveries WHERE sender = ? AND stage = 'held'", (sender,)
        )
        return [bytes(delivery_id) for (delivery_id,) in found]

    def kept_for_others(self, now_ms: int, limit: int) -> list[Row]:
        """Return whole deliveries of other senders, the smallest first."""
        found = self._database.execute(
            f"SELECT {_ROW} FROM deliveries WHERE stage = 'held' AND NOT own AND expires_ms > ?"
            " ORDER BY sealed_bytes, position LIMIT ?",
            (now_ms, limit),
        )
        return [_row(values) for values in found]

    def forget_own_partial(self) -> None:
        """Delete own letters whose sealing a crash cut off: the next try seals anew."""
        self._database.execute("DELETE FROM deliveries WHERE own AND stage = 'partial'")

    def rows(self) -> Iterable[Row]:
        """Return every row."""
        return [_row(values) for values in self._database.execute(f"SELECT {_ROW} FROM deliveries")]

    def recipients(self, now_ms: int) -> dict[bytes, int]:
        """Return for whom whole deliveries wait, each with the latest expiry among them."""
        found = self._database.execute(
            "SELECT recipient, MAX(expires_ms) FROM deliveries"
            " WHERE stage = 'held' AND expires_ms > ? GROUP BY recipient",
            (now_ms,),
        )
        return {bytes(recipient): expires_ms for recipient, expires_ms in found}

    def expire(self, now_ms: int) -> list[bytes]:
        """Delete what has expired, and partial deposits that nobody continues; return the ids."""
        found = self._database.execute(
            "DELETE FROM deliveries WHERE expires_ms <= ?"
            " OR (stage = 'partial' AND begun_ms <= ?) RETURNING delivery_id",
            (now_ms, now_ms - self._config.partial_lifetime_ms),
        )
        return [bytes(delivery_id) for (delivery_id,) in found.fetchall()]

    def usage(self, sender: bytes | None = None) -> Usage:
        """Return how much others' mail fills of the spool, or one sender's."""
        if sender is None:
            deliveries, size = self._sum("1", ())
            return Usage(deliveries, size, self._config.limit_bytes)
        deliveries, size = self._sum("sender = ?", (sender,))
        return Usage(deliveries, size, self._config.sender_limit_bytes)

    def _check_room(self, manifest: OuterManifest) -> None:
        config, size = self._config, manifest.sealed_bytes
        if size > config.delivery_bytes_max:
            raise TooLarge
        (count,) = self._database.execute(
            "SELECT COUNT(*) FROM deliveries WHERE NOT own"
        ).fetchone()
        if count >= config.deliveries_max:
            raise MailboxFull
        (count,) = self._database.execute(
            "SELECT COUNT(*) FROM deliveries WHERE sender = ?", (manifest.sender,)
        ).fetchone()
        if count >= config.sender_deliveries_max:
            raise MailboxFull("the sender has too many deliveries in this mailbox")
        if self._sum("1", ())[1] + size > config.limit_bytes:
            raise MailboxFull
        if self._sum("sender = ?", (manifest.sender,))[1] + size > config.sender_limit_bytes:
            raise MailboxFull("the sender has used up its room in this mailbox")
        used = self._sum("recipient = ?", (manifest.recipient,))[1]
        if used + size > config.recipient_limit_bytes:
            raise MailboxFull("too much waits for this recipient already")

    def _sum(self, condition: str, values: tuple[bytes, ...]) -> tuple[int, int]:
        deliveries, size = self._database.execute(
            "SELECT COUNT(*), COALESCE(SUM(sealed_bytes), 0) FROM deliveries"
            f" WHERE {_IN_USE} AND NOT own AND {condition}",
            values,
        ).fetchone()
        return int(deliveries), int(size)


def _row(values: tuple[int, bytes, bytes, bytes, int, int, int, str]) -> Row:
    return Row(*values[:-1], Stage(values[-1]))
