"""Which hosts keep which delivery of ours, what they promised, and what was found of them.

Owns the tables `placements`, `hosts` and `untold` in the journal's file. Must not know wires, nor
when anybody is asked: the caretaker decides that.

A placement is entered before its deposit begins, without a promise: a host may have all of it
though its answer never came. With the promise the host counts as a keeper, until it is struck off.
What is struck off stays entered until the delivery's end was told there, so that a host that was
away lets go of its copy when it is back. Told or expired placements go.
"""

# ruff: noqa: S608 - statements are joined from constants of this module only

from collections.abc import Sequence
from dataclasses import dataclass

from queueing.ledger import Ledger
from queueing.states import ENDS, State

SCHEMA = """
CREATE TABLE IF NOT EXISTS placements (
    delivery_id BLOB NOT NULL,
    host BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    promise BLOB NOT NULL DEFAULT x'',
    audited_ms INTEGER NOT NULL DEFAULT 0,
    told_attempts INTEGER NOT NULL DEFAULT 0,
    next_tell_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (delivery_id, host)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS placements_by_host ON placements (host);
CREATE TABLE IF NOT EXISTS hosts (
    host BLOB PRIMARY KEY,
    next_audit_ms INTEGER NOT NULL,
    silent_since_ms INTEGER NOT NULL DEFAULT 0,
    shunned_until_ms INTEGER NOT NULL DEFAULT 0,
    note TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS untold (
    delivery_id BLOB PRIMARY KEY,
    sender BLOB NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
"""
_ADDED = {
    "promise": "BLOB NOT NULL DEFAULT x''",
    "audited_ms": "INTEGER NOT NULL DEFAULT 0",
    "told_attempts": "INTEGER NOT NULL DEFAULT 0",
    "next_tell_ms": "INTEGER NOT NULL DEFAULT 0",
}
HOSTS_PER_DELIVERY_MAX = 24
"""More than ever get a copy; it bounds what others can have entered here."""
UNTOLD_MAX = 10_000
_TELL_MAX = 1024
_TOLD_ENDS = (State.DELIVERED, State.REFUSED, State.CANCELLED)
assert set(_TOLD_ENDS) == ENDS - {State.EXPIRED}, "hosts see an expiry by themselves"


@dataclass(frozen=True, slots=True)
class WatchedHost:
    """A host that promised to keep deliveries of ours that are under way."""

    host: bytes
    next_audit_ms: int | None
    """None: no audit was planned yet."""
    silent_since_ms: int
    """0: it answered when it was last asked."""


@dataclass(frozen=True, slots=True)
class Untold:
    """One ended delivery that a host is still to hear of."""

    host: bytes
    delivery_id: bytes
    attempts: int


class PlacementBook:
    """The tables; the journal opens it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        ledger.add_columns("placements", _ADDED)

    # What the mailbox store enters and asks.

    async def intend(self, delivery_id: bytes, host: bytes, expires_ms: int) -> None:
        """Note that a host may get a copy; a promise that is there stays."""
        await self._ledger.execute(
            "INSERT OR IGNORE INTO placements (delivery_id, host, expires_ms) VALUES (?, ?, ?)",
            delivery_id, host, expires_ms,
        )  # fmt: skip

    async def promise(
        self, delivery_id: bytes, host: bytes, expires_ms: int, signed: bytes
    ) -> None:
        """Enter a host's checked promise: it is a keeper from now on."""
        await self._ledger.execute(
            "INSERT INTO placements (delivery_id, host, expires_ms, promise) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (delivery_id, host) DO UPDATE SET promise = excluded.promise",
            delivery_id, host, expires_ms, signed,
        )  # fmt: skip

    async def forget(self, delivery_id: bytes, host: bytes) -> None:
        """Note that a host has nothing of a delivery, and need not be told of its end."""
        await self._ledger.execute(
            "DELETE FROM placements WHERE delivery_id = ? AND host = ?", delivery_id, host
        )

    async def hosts_of(self, delivery_id: bytes) -> list[bytes]:
        """Return every host that may have something of a delivery."""
        found = await self._ledger.fetch(
            f"SELECT host FROM placements WHERE delivery_id = ? ORDER BY host"
            f" LIMIT {HOSTS_PER_DELIVERY_MAX}",
            delivery_id,
        )
        return [bytes(host) for (host,) in found]

    async def keepers(self, delivery_id: bytes) -> list[bytes]:
        """Return the hosts whose promise stands."""
        found = await self._ledger.fetch(
            f"SELECT host FROM placements WHERE delivery_id = ? AND promise != x''"
            f" ORDER BY host LIMIT {HOSTS_PER_DELIVERY_MAX}",
            delivery_id,
        )
        return [bytes(host) for (host,) in found]

    async def hosts(self) -> list[bytes]:
        """Return every host that keeps a delivery of ours."""
        found = await self._ledger.fetch(
            "SELECT DISTINCT host FROM placements WHERE promise != x'' ORDER BY host"
        )
        return [bytes(host) for (host,) in found]

    async def shunned(self, now_ms: int) -> set[bytes]:
        """Return hosts that get no deliveries at present."""
        found = await self._ledger.fetch(
            "SELECT host FROM hosts WHERE shunned_until_ms > ?", now_ms
        )
        return {bytes(host) for (host,) in found}

    # What the caretaker enters and asks.

    async def watched(self, now_ms: int, limit: int) -> list[WatchedHost]:
        """Return hosts of deliveries under way whose audit is due or not planned yet."""
        found = await self._ledger.fetch(
            "SELECT DISTINCT p.host, h.next_audit_ms, COALESCE(h.silent_since_ms, 0)"
            " FROM placements p JOIN outbox o USING (delivery_id) LEFT JOIN hosts h USING (host)"
            " WHERE p.promise != x'' AND o.state = 'stored'"
            " AND COALESCE(h.next_audit_ms, 0) <= ? ORDER BY h.next_audit_ms LIMIT ?",
            now_ms, limit,
        )  # fmt: skip
        return [WatchedHost(bytes(host), next_ms, since_ms) for host, next_ms, since_ms in found]

    async def least_audited(self, host: bytes, limit: int) -> list[bytes]:
        """Return deliveries under way that a host promised to keep, longest unaudited first."""
        found = await self._ledger.fetch(
            "SELECT p.delivery_id FROM placements p JOIN outbox o USING (delivery_id)"
            " WHERE p.host = ? AND p.promise != x'' AND o.state = 'stored'"
            " ORDER BY p.audited_ms, p.delivery_id LIMIT ?",
            host, limit,
        )  # fmt: skip
        return [bytes(delivery_id) for (delivery_id,) in found]

    async def audited(self, host: bytes, delivery_ids: Sequence[bytes], now_ms: int) -> None:
        """Note that a host proved what it has."""
        await self._ledger.execute_all(
            [
                (
                    "UPDATE placements SET audited_ms = ? WHERE host = ? AND delivery_id = ?",
                    (now_ms, host, delivery_id),
                )
                for delivery_id in delivery_ids
            ]
        )

    async def plan_audit(self, host: bytes, next_ms: int, *, silent_since_ms: int = 0) -> None:
        """Note when a host is asked next, and since when it is silent, if it is."""
        await self._ledger.execute(
            "INSERT INTO hosts (host, next_audit_ms, silent_since_ms) VALUES (?, ?, ?)"
            " ON CONFLICT (host) DO UPDATE SET next_audit_ms = excluded.next_audit_ms,"
            " silent_since_ms = excluded.silent_since_ms",
            host, next_ms, silent_since_ms,
        )  # fmt: skip

    async def note(self, host: bytes, note: str, shunned_until_ms: int) -> None:
        """Note what is held against a host, and until when it gets no deliveries."""
        await self._ledger.execute(
            "INSERT INTO hosts (host, next_audit_ms, shunned_until_ms, note) VALUES (?, 0, ?, ?)"
            " ON CONFLICT (host) DO UPDATE SET note = excluded.note,"
            " shunned_until_ms = MAX(shunned_until_ms, excluded.shunned_until_ms)",
            host, shunned_until_ms, note,
        )  # fmt: skip

    async def noted(self, now_ms: int) -> dict[bytes, str]:
        """Return what is held against hosts at present."""
        found = await self._ledger.fetch(
            "SELECT host, note FROM hosts WHERE shunned_until_ms > ? ORDER BY host", now_ms
        )
        return {bytes(host): note for host, note in found}

    async def strike(self, host: bytes, delivery_id: bytes | None = None) -> list[bytes]:
        """Believe a host's promise for a delivery (None: all) no more; return the deliveries."""
        found = await self._ledger.fetch(
            "UPDATE placements SET promise = x'' WHERE host = ? AND promise != x''"
            " AND delivery_id = COALESCE(?, delivery_id) RETURNING delivery_id",
            host, delivery_id,
        )  # fmt: skip
        return [bytes(struck) for (struck,) in found]

    # Ends that hosts are to hear of.

    async def to_tell(self, now_ms: int) -> list[Untold]:
        """Return ended deliveries and hosts that do not know of the end; bounded."""
        marks = ", ".join("?" * len(_TOLD_ENDS))
        found = await self._ledger.fetch(
            "SELECT p.host, p.delivery_id, p.told_attempts FROM placements p"
            f" JOIN outbox o USING (delivery_id) WHERE o.state IN ({marks})"
            f" AND p.next_tell_ms <= ? ORDER BY p.host, p.next_tell_ms LIMIT {_TELL_MAX}",
            *_TOLD_ENDS, now_ms,
        )  # fmt: skip
        return [Untold(bytes(host), bytes(each), attempts) for host, each, attempts in found]

    async def tell_later(self, host: bytes, next_ms: int) -> None:
        """Note that a host could not be told anything."""
        await self._ledger.execute(
            "UPDATE placements SET next_tell_ms = ?, told_attempts = told_attempts + 1"
            " WHERE host = ?",
            next_ms, host,
        )  # fmt: skip

    async def told(self, host: bytes, delivery_ids: Sequence[bytes]) -> None:
        """Note that a host knows of these ends."""
        await self._ledger.execute_all(
            [
                ("DELETE FROM placements WHERE host = ? AND delivery_id = ?", (host, delivery_id))
                for delivery_id in delivery_ids
            ]
        )

    async def is_back(self, host: bytes) -> None:
        """Let a host that shows itself be told and audited now, if either failed before."""
        await self._ledger.execute_all(
            [
                (
                    "UPDATE placements SET next_tell_ms = 0 WHERE host = ? AND next_tell_ms > 0",
                    (host,),
                ),
                (
                    "UPDATE hosts SET next_audit_ms = 0 WHERE host = ? AND silent_since_ms > 0",
                    (host,),
                ),
            ]
        )

    # Deliveries that this peer took over from a host that left.

    async def take_over(self, delivery_id: bytes, sender: bytes, expires_ms: int) -> None:
        """Note that a sender is to hear that its delivery is here now."""
        await self._ledger.execute(
            "INSERT OR IGNORE INTO untold SELECT ?, ?, ?"
            " WHERE (SELECT COUNT(*) FROM untold) < ?",
            delivery_id, sender, expires_ms, UNTOLD_MAX,
        )  # fmt: skip

    async def taken_over(self, sender: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Return deliveries of a sender that it does not know to be here, with their expiry."""
        found = await self._ledger.fetch(
            "SELECT delivery_id, expires_ms FROM untold WHERE sender = ? LIMIT ?", sender, limit
        )
        return [(bytes(delivery_id), expires_ms) for delivery_id, expires_ms in found]

    async def sender_knows(self, delivery_ids: Sequence[bytes]) -> None:
        """Note that a sender has heard."""
        await self._ledger.execute_all(
            [("DELETE FROM untold WHERE delivery_id = ?", (each,)) for each in delivery_ids]
        )

    async def prune(self, now_ms: int) -> None:
        """Forget what has expired, and hosts that nothing is known of any more."""
        idle_hosts = (
            "DELETE FROM hosts WHERE shunned_until_ms <= ? AND NOT EXISTS"
            " (SELECT 1 FROM placements p WHERE p.host = hosts.host)"
        )
        await self._ledger.execute_all(
            [
                ("DELETE FROM placements WHERE expires_ms <= ?", (now_ms,)),
                ("DELETE FROM untold WHERE expires_ms <= ?", (now_ms,)),
                (idle_hosts, (now_ms,)),
            ]
        )
