"""Who is there: the DHT's contacts now, and the peers that were seen before.

Owns the merge of both into what a person sees. Presence is asked for, not announced: `current`
asks all known peers at once and waits a moment, so that what it says is true now (ADR 3).
"""

from __future__ import annotations

import time

from dht.records import NICKNAME_BYTES_MAX
from dht.views import ContactView
from identity.address import Address
from identity.keys import show_peer_id
from peer.contacts import KnownPeer
from peer.core import Core
from peer.resolve import Named, resolve_peer
from peer.views import PeerState, PeerView, utc_text

CHECK_TIMEOUT_S = 1.5
PEERS_SHOWN_MAX = 1_000


class Presence:
    """Remembers peers as they prove themselves, and tells which of them answer."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def seen(self, peer_id: bytes, nickname: str, address: Address) -> None:
        """Note that a peer proved itself just now."""
        self._core.contacts.seen([KnownPeer(peer_id, nickname, str(address), _now_ms())])

    def remember(self) -> None:
        """Note of all peers that answer when they were last heard of."""
        now_ms = _now_ms()
        peers = [
            KnownPeer(peer.peer_id, peer.nickname, str(peer.address), _seen_ms(peer, now_ms))
            for peer in self._core.dht.contacts()
            if peer.alive and not peer.is_passing
        ]
        if peers:
            self._core.contacts.seen(peers)

    async def current(self) -> list[PeerView]:
        """Ask every known peer whether it is there, and return all, active ones first."""
        await self._core.dht.check(None, timeout_s=CHECK_TIMEOUT_S)
        self.remember()
        return self.known()

    def known(self) -> list[PeerView]:
        """Return all known peers as they were last heard of, without asking."""
        now_ms = _now_ms()
        views: dict[bytes, PeerView] = {}
        for contact in self._core.dht.contacts():
            if not contact.is_passing:
                views[contact.peer_id] = PeerView(
                    id=show_peer_id(contact.peer_id),
                    nickname=contact.nickname,
                    address=str(contact.address),
                    state=PeerState.ACTIVE if contact.alive else PeerState.INACTIVE,
                    last_seen=utc_text(_seen_ms(contact, now_ms)),
                    rtt_ms=None if contact.rtt_s is None else round(contact.rtt_s * 1000, 2),
                )
        for peer in self._core.contacts.known():
            if peer.peer_id not in views and peer.peer_id != self._core.identity.peer_id:
                views[peer.peer_id] = PeerView(
                    id=show_peer_id(peer.peer_id),
                    nickname=peer.nickname,
                    address=peer.address,
                    state=PeerState.INACTIVE,
                    last_seen=utc_text(peer.last_seen_ms),
                    rtt_ms=None,
                )
        ordered = sorted(
            views.values(), key=lambda view: (view.state, view.nickname.casefold(), view.id)
        )
        return ordered[:PEERS_SHOWN_MAX]

    async def resolve(self, text: str) -> bytes:
        """Turn PEER into an id, asking the DHT who publishes it as a nickname."""
        publishers: list[bytes] = []
        if len(text.encode(errors="replace")) <= NICKNAME_BYTES_MAX:
            found = await self._core.dht.find_nickname(text)
            publishers = [item.publisher for item in found]
        return resolve_peer(
            text, self._core.contacts, under_nickname=publishers, known=self.named()
        )

    def named(self) -> list[Named]:
        """Return the ids and nicknames of all peers that were ever seen."""
        known = {peer.peer_id: peer.nickname for peer in self._core.contacts.known()}
        known.update(
            (contact.peer_id, contact.nickname)
            for contact in self._core.dht.contacts()
            if not contact.is_passing
        )
        return [Named(peer_id, nickname) for peer_id, nickname in known.items()]


def _seen_ms(contact: ContactView, now_ms: int) -> int:
    return now_ms - round((contact.last_seen_s_ago or 0.0) * 1000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
