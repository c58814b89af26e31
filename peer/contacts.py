"""Whom a nickname means, who may send to me, and which peers were ever seen.

Owns the tables `contact` and `known_peer`. A nickname is only a label that its owner chose: the
first id seen under it is remembered here, and another id under it later is reported, never
followed (trust on first use). `may_send` is set by the person alone (`shoal contact add`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from peer.database import Database

KNOWN_PEERS_MAX = 10_000
CONTACTS_MAX = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class Pin:
    """A nickname and the id that it means in this home."""

    nickname: str
    peer_id: bytes
    may_send: bool


@dataclasses.dataclass(frozen=True, slots=True)
class KnownPeer:
    """A peer that proved itself to us at some time."""

    peer_id: bytes
    nickname: str
    address: str
    last_seen_ms: int


class Contacts:
    """Queries over the tables that it owns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, nickname: str, peer_id: bytes, *, may_send: bool) -> None:
        """Remember what a nickname means, replacing what it meant."""
        self._database.run(
            "INSERT OR REPLACE INTO contact VALUES (?, ?, ?, ?)",
            nickname,
            peer_id,
            int(may_send),
            time.time_ns() // 1_000_000,
        )

    def pin(self, nickname: str, peer_id: bytes) -> None:
        """Remember the first id seen under a nickname; a nickname that is pinned stays."""
        ((count,),) = self._database.rows("SELECT count(*) FROM contact")
        if count < CONTACTS_MAX:
            self._database.run(
                "INSERT OR IGNORE INTO contact VALUES (?, ?, 0, ?)",
                nickname,
                peer_id,
                time.time_ns() // 1_000_000,
            )

    def remove(self, nickname: str) -> bool:
        """Forget a nickname; False when it meant nothing."""
        return self._database.run("DELETE FROM contact WHERE nickname = ?", nickname) > 0

    def pinned(self, nickname: str) -> Pin | None:
        """Return what a nickname means here."""
        return next(iter(self._pins("WHERE nickname = ?", nickname)), None)

    def pins(self) -> list[Pin]:
        """Return all remembered nicknames."""
        return self._pins("ORDER BY nickname")

    def may_send(self, peer_id: bytes) -> bool:
        """Tell whether the person added this peer as a contact."""
        return bool(self._pins("WHERE peer_id = ? AND may_send = 1", peer_id))

    def _pins(self, where: str, *values: object) -> list[Pin]:
        rows = self._database.rows(
            f"SELECT nickname, peer_id, may_send FROM contact {where}",  # noqa: S608
            *values,
        )
        return [Pin(nickname, peer_id, bool(may_send)) for nickname, peer_id, may_send in rows]

    def seen(self, peers: Sequence[KnownPeer]) -> None:
        """Note that peers proved themselves; the longest unseen beyond the bound go."""
        with self._database.transaction():
            for peer in peers:
                self._database.run(
                    "INSERT OR REPLACE INTO known_peer VALUES (?, ?, ?, ?)",
                    peer.peer_id,
                    peer.nickname,
                    peer.address,
                    peer.last_seen_ms,
                )
            self._database.run(
                "DELETE FROM known_peer WHERE peer_id IN"
                " (SELECT peer_id FROM known_peer ORDER BY last_seen_ms DESC LIMIT -1 OFFSET ?)",
                KNOWN_PEERS_MAX,
            )

    def known(self) -> list[KnownPeer]:
        """Return the peers ever seen, the latest first."""
        rows = self._database.rows(
            "SELECT peer_id, nickname, address, last_seen_ms FROM known_peer"
            " ORDER BY last_seen_ms DESC"
        )
        return [KnownPeer(*row) for row in rows]
