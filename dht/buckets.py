"""One bucket of the routing table: `kademlia`'s KBucket with time injected.

Owns who has a place in a bucket, who waits for one, and the share of an address block. Knows no
clock, task or socket, and not which bucket is whose (`routing`).
Source: Maymounkov & Mazières, "Kademlia", sections 2.2 and 4.1; block limits as in go-libp2p.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from kademlia.node import Node
from kademlia.routing import KBucket

from dht.contacts import Contact
from identity.keys import PEER_ID_BYTES

ID_BITS: Final = 8 * PEER_ID_BYTES


@dataclass(frozen=True, slots=True)
class TableConfig:
    """The limits of one routing table."""

    k: int = 20
    """Contacts a bucket."""
    split_bits: int = 3
    """Buckets away from our own id split until their depth is a multiple of this (section 4.2)."""
    contacts_max: int = 1_000
    """No bucket splits from this many contacts on: only the places left in buckets fill up."""
    block_contacts_max: int = 2
    """Contacts of one public address block in a bucket, and among its replacements."""
    closest_block_contacts_max: int = 1
    """Contacts of one such block among those closest to a key, while enough others are there."""
    failures_max: int = 3
    """Failures in a row after which a contact goes."""
    failures_replaced_max: int = 2
    """The same where a proven replacement waits."""
    failure_spacing_s: float = 1.0
    """Failures closer together than this count once: one burst of loss evicts nobody."""
    refresh_s: float = 3600.0
    """A bucket in which we looked nothing up for this long is stale."""
    sparse_contacts: int = 2
    """Whoever joins looks around in buckets with fewer contacts. More would cost every join more
    and find nobody else: with two, as many parts of the id space are known as with ten."""
    departed_max: int = 256
    """Evicted contacts that are remembered, for the list of inactive peers and a later rejoin."""

    def __post_init__(self) -> None:
        assert self.k >= 1
        assert self.split_bits >= 1
        assert 1 <= self.failures_replaced_max <= self.failures_max


class Bucket(KBucket):  # type: ignore[misc]
    """A k-bucket of proven contacts, least recently seen first; both bounds belong to it.

    `last_updated` is the time of our own last lookup in the range, never that of a query of others.
    `placed` is the index of all contacts of a table, by their ids as numbers; its buckets keep it.
    """

    nodes: OrderedDict[bytes, Contact]
    replacement_nodes: OrderedDict[bytes, Contact]
    range: tuple[int, int]

    def __init__(
        self,
        lower: int,
        upper: int,
        config: TableConfig,
        *,
        last_updated: float,
        placed: dict[int, Contact],
    ) -> None:
        super().__init__(lower, upper, config.k, replacementNodeFactor=1)
        self._config = config
        self._placed = placed
        self.by_number: dict[int, Contact] = {}
        """The same contacts as `nodes`, by their ids as numbers: quicker to go through."""
        self._width_bits = (upper - lower).bit_length()
        self.last_updated = last_updated

    def touch_last_updated(self) -> None:
        """Do nothing: the stock class reads the clock here, for everybody's queries."""

    def depth(self) -> int:
        """Return how many leading bits all ids of the range share."""
        return ID_BITS - self._width_bits

    def split(self) -> tuple[Bucket, Bucket]:
        """Return both halves; replacements move up where a half has room."""
        lower, upper = self.range
        middle = (lower + upper) // 2
        one, two = self._half(lower, middle), self._half(middle + 1, upper)
        for contact in self.nodes.values():
            half = one if contact.long_id <= middle else two
            half.nodes[contact.id] = half.by_number[contact.long_id] = contact
        for contact in self.replacement_nodes.values():
            (one if contact.long_id <= middle else two).add_node(contact)
        return one, two

    def _half(self, lower: int, upper: int) -> Bucket:
        since = self.last_updated
        return Bucket(lower, upper, self._config, last_updated=since, placed=self._placed)

    def has_block_room(self, contact: Contact) -> bool:
        """Say whether the contact's public address block may have one more place here."""
        return self._has_room(self.nodes, contact)

    def add_node(self, node: Contact) -> bool:
        """Place a contact, or let it wait when the bucket is full; True when it was placed."""
        if node.id in self.nodes or (
            len(self.nodes) < self._config.k and self.has_block_room(node)
        ):
            self.replacement_nodes.pop(node.id, None)
            self.nodes[node.id] = node
            self.nodes.move_to_end(node.id)
            self.by_number[node.long_id] = self._placed[node.long_id] = node
            return True
        self.replacement_nodes.pop(node.id, None)
        if self._has_room(self.replacement_nodes, node):
            self.replacement_nodes[node.id] = node
            while len(self.replacement_nodes) > self.max_replacement_nodes:
                self.replacement_nodes.popitem(last=False)
        return False

    def remove_node(self, node: Node) -> None:
        """Remove a contact; the freshest replacement whose block has room takes its place."""
        self.replacement_nodes.pop(node.id, None)
        if self.nodes.pop(node.id, None) is None:
            return
        del self._placed[node.long_id], self.by_number[node.long_id]
        for replacement in reversed(self.replacement_nodes.values()):
            if self.has_block_room(replacement):
                self.add_node(replacement)
                return

    def replacement_waits_for(self, contact: Contact) -> bool:
        """Say whether a replacement could take this contact's place."""
        others = {key: node for key, node in self.nodes.items() if key != contact.id}
        return any(self._has_room(others, waiting) for waiting in self.replacement_nodes.values())

    def _has_room(self, nodes: dict[bytes, Contact], contact: Contact) -> bool:
        if not contact.block:
            return True
        same = sum(
            1 for node in nodes.values() if node.id != contact.id and node.block == contact.block
        )
        return same < self._config.block_contacts_max
