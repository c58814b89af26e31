"""Whom we know: contacts that proved themselves, and nodes that speak only the stock protocol.

Owns what is remembered of one peer (address, liveness, round-trip time) and the small table of
stock nodes. Knows no bucket rule (`routing`), no socket and no clock: every time is given.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final

import msgspec
from kademlia.node import Node

from dht.hints import address_to_tell, pack_contact
from identity.address import Address

SOFT_TIMEOUT_DEFAULT_S: Final = 0.5
SOFT_TIMEOUT_MIN_S: Final = 0.05
SOFT_TIMEOUT_MAX_S: Final = 1.0

# Weights of RFC 6298, section 2.3.
_SRTT_WEIGHT: Final = 1 / 8
_RTT_VARIANCE_WEIGHT: Final = 1 / 4


class ContactRow(msgspec.Struct, frozen=True):
    """One remembered contact as it is kept on disk; wall time, because it outlives the process."""

    peer_id: bytes
    public_key: bytes
    address: str
    nickname: str
    last_seen_ms: int


class Contact(Node):  # type: ignore[misc]
    """A peer of this network: a `kademlia` Node that carries its key and its liveness.

    `address` is where its answers come from; `advertised` is where it says that others reach it.
    `last_seen` is monotonic, None before it has proved itself.
    """

    id: bytes
    ip: str
    port: int
    long_id: int

    def __init__(
        self,
        peer_id: bytes,
        address: Address,
        *,
        public_key: bytes | None = None,
        advertised: Address | None = None,
        nickname: str = "",
        client: bool = False,
        last_seen: float | None = None,
        rtt_s: float | None = None,
    ) -> None:
        super().__init__(peer_id, address.host, address.port)
        self.public_key = public_key
        self._settle(address, advertised)
        self.nickname = nickname
        self.client = client
        self.last_seen = last_seen
        self.last_heard: float | None = None
        """When it asked us something from its address: no proof, but a sign of life."""
        self.rtt_s: float | None = None
        self.rtt_variance_s = 0.0
        self.failures = 0
        self.last_failure: float | None = None
        if rtt_s is not None:
            self.observe_rtt(rtt_s)

    @property
    def peer_id(self) -> bytes:
        return self.id

    def observe_rtt(self, sample_s: float) -> None:
        """Take one measured round trip into the smoothed time and its variance (RFC 6298)."""
        if self.rtt_s is None:
            self.rtt_s, self.rtt_variance_s = sample_s, sample_s / 2
            return
        deviation_s = abs(self.rtt_s - sample_s)
        self.rtt_variance_s += (deviation_s - self.rtt_variance_s) * _RTT_VARIANCE_WEIGHT
        self.rtt_s += (sample_s - self.rtt_s) * _SRTT_WEIGHT

    @property
    def rtt_bound_s(self) -> float | None:
        """Return SRTT + 4·RTTVAR: hardly a round trip takes longer. None before the first one."""
        return None if self.rtt_s is None else self.rtt_s + 4 * self.rtt_variance_s

    def soft_timeout_s(self) -> float:
        """Return that time within bounds: after it a lookup no longer waits for us alone."""
        bound_s = self.rtt_bound_s
        if bound_s is None:
            return SOFT_TIMEOUT_DEFAULT_S
        return min(max(bound_s, SOFT_TIMEOUT_MIN_S), SOFT_TIMEOUT_MAX_S)

    def answered(self, now: float, rtt_s: float | None = None) -> None:
        """Note an answer from this contact's own address: it lives, and nothing failed."""
        self.last_seen = now
        self.failures = 0
        self.last_failure = None
        if rtt_s is not None:
            self.observe_rtt(rtt_s)

    def absorb(self, newer: Contact, now: float) -> None:
        """Take over what a newer proof of the same peer says; a new address has no known RTT."""
        assert newer.id == self.id, "only the same peer is absorbed"
        if newer.address != self.address:
            self.ip, self.port = newer.ip, newer.port
            self.rtt_s, self.rtt_variance_s = None, 0.0
        self.public_key = newer.public_key or self.public_key
        self._settle(newer.address, newer.advertised)
        self.nickname = newer.nickname
        self.client = newer.client
        self.answered(now, newer.rtt_s)

    def _settle(self, address: Address, advertised: Address | None) -> None:
        """Be there from now on, and packed as others are told: once, not for each of them."""
        self.address = address
        self.block = address.block
        """The public address block that limits count; "" for a private host."""
        self.advertised = advertised
        self.block = address.block
        """The public address block that limits count, or "" for a private host."""
        near = address_to_tell(address, advertised, asker_is_near=True)
        far = address_to_tell(address, advertised, asker_is_near=False)
        self.told_near = None if near is None else pack_contact(self.id, near)
        """What askers on our loopback hear; None: nothing that is of use to them."""
        self.told_far = None if far is None else pack_contact(self.id, far)
        """What all others hear."""

    def row(self, now: float, wall_ms: int) -> ContactRow:
        """Return this contact as it is kept on disk; `wall_ms` is the wall time at `now`."""
        age_ms = 0 if self.last_seen is None else round((now - self.last_seen) * 1000)
        return ContactRow(
            peer_id=self.id,
            public_key=self.public_key or b"",
            address=str(self.address),
            nickname=self.nickname,
            last_seen_ms=wall_ms - age_ms,
        )


class StockNode(Node):  # type: ignore[misc]
    """A node that speaks only the stock protocol: it proved nothing, and we store nothing there."""

    id: bytes
    ip: str
    port: int
    long_id: int

    def __init__(self, node_id: bytes, ip: str, port: int, *, last_seen: float) -> None:
        super().__init__(node_id, ip, port)
        self.last_seen = last_seen


class StockContacts:
    """Remember the last stock nodes that spoke to us, so that they stay routed among themselves.

    Inputs: `seen`, `failed`. Output: `closest`. Invariant: at most `stock_contacts_max` nodes, one
    an id, never older than `fresh_s` when handed out.
    """

    def __init__(self, *, stock_contacts_max: int = 64, fresh_s: float = 900.0) -> None:
        self._contacts_max = stock_contacts_max
        self._fresh_s = fresh_s
        self._nodes: OrderedDict[bytes, StockNode] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._nodes

    def seen(self, node_id: bytes, ip: str, port: int, now: float) -> None:
        """Remember a stock node that spoke; the longest silent one goes when the table is full."""
        self._nodes[node_id] = StockNode(node_id, ip, port, last_seen=now)
        self._nodes.move_to_end(node_id)
        while len(self._nodes) > self._contacts_max:
            self._nodes.popitem(last=False)

    def failed(self, node_id: bytes) -> None:
        """Forget a stock node that did not answer."""
        self._nodes.pop(node_id, None)

    def closest(
        self, key: bytes, k: int, now: float, *, exclude: bytes | None = None
    ) -> list[StockNode]:
        """Return the k fresh nodes closest to a key, closest first."""
        target = int.from_bytes(key, "big")
        fresh = (
            node
            for node in self._nodes.values()
            if now - node.last_seen <= self._fresh_s and node.id != exclude
        )
        return heapq.nsmallest(k, fresh, key=lambda node: node.long_id ^ target)
