"""The routing table: `kademlia`'s buckets with time injected and its known defects cured.

Owns which proven contacts are kept, where, and how long. Knows no socket, task, clock or message:
the protocol tells it who proved itself and who failed; it never asks anybody.
Source: Maymounkov & Mazières, "Kademlia", sections 2.2, 2.4, 4.1 and 4.2; address-block limits as
in go-libp2p. The replacements: a stock bucket walks left and right (not the k closest), misplaces
ids on its upper bound, reads the clock, spawns pings, and ignores a contact on a new address.
"""

from __future__ import annotations

import bisect
import enum
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, NoReturn

from kademlia.node import Node
from kademlia.routing import RoutingTable

from dht.buckets import ID_BITS, Bucket, TableConfig
from dht.contacts import Contact, ContactRow, StockContacts, StockNode
from dht.doubt import is_spread, spread
from identity.address import Address
from identity.errors import ShoalError
from identity.keys import PEER_ID_BYTES, peer_id_of

__all__ = [
    "Admission",
    "Bucket",
    "Contact",
    "ContactRow",
    "StockContacts",
    "StockNode",
    "Table",
    "TableConfig",
    "contacts_from_rows",
]


FAILURES_MAX: Final = 1 << 30
"""More failures in a row than any contact has."""


class Admission(enum.Enum):
    """What became of a contact that proved itself."""

    ADMITTED = "admitted"
    REFRESHED = "refreshed"
    MOVED = "moved"
    WAITING = "waiting"
    """Its bucket is full: it replaces the next one that fails."""
    CROWDED = "crowded"
    """Its public address block has its share of the bucket already."""
    REFUSED = "refused"
    """Ourselves, or a peer that says it cannot be reached."""


class Table(RoutingTable):  # type: ignore[misc]
    """The buckets of one peer. Only a contact that answered a hello of ours is handed to it.

    Inputs: `proven`, `answered`, `failed`, `left`, `looked_up`. Outputs: `closest`, `contacts`,
    `departed`, `stale_buckets`, `refresh_ids`, `rows`.
    Invariants: buckets tile the id space in aligned halves; each contact lies in the bucket of its
    id, once; our own id and clients never; per bucket ≤ k contacts, ≤ `block_contacts_max` a
    public address block; `validate_state` asserts them.
    """

    buckets: list[Bucket]

    def __init__(self, own_id: bytes, config: TableConfig | None = None, *, now: float) -> None:
        self._config = config or TableConfig()
        self._created = now
        self._departed: OrderedDict[bytes, Contact] = OrderedDict()
        self._placed: dict[int, Contact] = {}
        super().__init__(None, self._config.k, Node(own_id))

    def flush(self) -> None:
        """Forget all contacts; one bucket spans the id space, both ends included."""
        self._placed.clear()
        since, top = self._created, (1 << ID_BITS) - 1
        whole = Bucket(0, top, self._config, last_updated=since, placed=self._placed)
        self.buckets = [whole]
        self._index_buckets()

    def split_bucket(self, index: int) -> None:
        """Put both halves of a bucket in its place."""
        super().split_bucket(index)
        self._index_buckets()

    def __len__(self) -> int:
        return len(self._placed)

    # What the protocol tells us

    def proven(self, contact: Contact, now: float) -> Admission:
        """Admit or refresh a contact that has just answered a hello of ours from its address."""
        if contact.id == self.node.id:
            return Admission.REFUSED
        if contact.client:
            self._bucket_of(contact.long_id).remove_node(contact)
            return Admission.REFUSED
        self._departed.pop(contact.id, None)
        bucket = self._bucket_of(contact.long_id)
        known = bucket.nodes.get(contact.id)
        if known is None:
            contact.answered(now)
            return self._admit(contact)
        moved = known.address != contact.address
        if moved and not bucket.has_block_room(contact):
            bucket.remove_node(known)
            return Admission.CROWDED
        known.absorb(contact, now)
        bucket.nodes.move_to_end(known.id)
        return Admission.MOVED if moved else Admission.REFRESHED

    def answered(
        self, peer_id: bytes, address: Address, now: float, rtt_s: float | None = None
    ) -> bool:
        """Note an answer to a request of ours; False when it is no contact of ours there.

        An answer from another address than the proven one is no proof: the caller says hello.
        """
        number = int.from_bytes(peer_id, "big")
        bucket = self._bucket_of(number)
        placed = self._placed.get(number)
        known = bucket.replacement_nodes.get(peer_id) if placed is None else placed
        if known is None or known.address != address:
            return False
        known.answered(now, rtt_s)
        if placed is not None:
            bucket.nodes.move_to_end(peer_id)
        return True

    def heard(self, peer_id: bytes, address: Address, now: float) -> bool:
        """Note a request from a contact at its proven address: a sign of life, no proof.

        False when it is no contact of ours there.
        """
        known = self.contact(peer_id)
        if known is None or known.address != address:
            return False
        known.last_heard = now
        return True

    def failed(self, peer_id: bytes, now: float) -> Contact | None:
        """Count a request without an answer; return the contact when that evicts it."""
        bucket = self._bucket_of(int.from_bytes(peer_id, "big"))
        known = bucket.nodes.get(peer_id)
        if known is None:
            bucket.replacement_nodes.pop(peer_id, None)
            return None
        spacing_s = self._config.failure_spacing_s
        if known.last_failure is not None and now - known.last_failure < spacing_s:
            return None
        known.failures += 1
        known.last_failure = now
        waits = bucket.replacement_waits_for(known)
        limit = self._config.failures_replaced_max if waits else self._config.failures_max
        if known.failures < limit:
            return None
        return self._evict(bucket, known)

    def left(self, peer_id: bytes) -> Contact | None:
        """Drop a contact that took its leave; return it when it was in the table."""
        bucket = self._bucket_of(int.from_bytes(peer_id, "big"))
        bucket.replacement_nodes.pop(peer_id, None)
        known = bucket.nodes.get(peer_id)
        return None if known is None else self._evict(bucket, known)

    def looked_up(self, target: bytes, now: float) -> None:
        """Mark the target's bucket fresh: only our own lookups do."""
        self._bucket_of(int.from_bytes(target, "big")).last_updated = now

    # What the table answers

    def contact(self, peer_id: bytes) -> Contact | None:
        """Return the contact in the table with this id."""
        return self._placed.get(int.from_bytes(peer_id, "big"))

    def remembered(self, peer_id: bytes) -> Contact | None:
        """Return the contact with this id, in the table or evicted from it."""
        return self.contact(peer_id) or self._departed.get(peer_id)

    def contacts(self) -> list[Contact]:
        """Return all contacts in the table, in id order of their buckets."""
        return [contact for bucket in self.buckets for contact in bucket.nodes.values()]

    def departed(self) -> list[Contact]:
        """Return the evicted contacts still remembered, oldest first."""
        return list(self._departed.values())

    def closest(
        self,
        key: bytes,
        k: int,
        *,
        exclude: bytes | None = None,
        failures_max: int | None = None,
    ) -> list[Contact]:
        """Return the k contacts closest to a key by XOR, closest first.

        `exclude` leaves one peer out; `failures_max` leaves out contacts with more recent failures
        than that, for lists that are handed to others.
        """
        found: list[Contact] = []
        for ranked in self._ranked(key, exclude, failures_max):
            found += ranked
            if len(found) >= k:
                return found[:k]
        return found

    def closest_spread(
        self,
        key: bytes,
        k: int,
        *,
        exclude: bytes | None = None,
        failures_max: int | None = None,
    ) -> list[Contact]:
        """Return the k closest of which few share a public address block, closest first.

        The same choice as a lookup's: whoever has an address block to spare for each of the k
        places, and not whoever has many ids, decides what is told of a key and stored there.
        """
        found = self.closest(key, k, exclude=exclude, failures_max=failures_max)
        if is_spread([contact.block for contact in found], self._config.closest_block_contacts_max):
            return found
        return spread(
            chain.from_iterable(self._ranked(key, exclude, failures_max)),
            k,
            block_of=lambda contact: contact.block,
            block_contacts_max=self._config.closest_block_contacts_max,
        )

    def oldest_beside(self, peer_id: bytes) -> Contact | None:
        """Return the longest silent contact of the id's bucket: whom to ping for a waiting one."""
        nodes = self._bucket_of(int.from_bytes(peer_id, "big")).nodes.values()
        return min(nodes, key=lambda contact: contact.last_seen or 0.0, default=None)

    def stale_buckets(self, now: float, refresh_s: float | None = None) -> list[Bucket]:
        """Return the buckets in which we looked nothing up for `refresh_s`; None: the table's."""
        oldest = now - (self._config.refresh_s if refresh_s is None else refresh_s)
        return [bucket for bucket in self.buckets if bucket.last_updated <= oldest]

    def refresh_ids(
        self, now: float, rng: random.Random, refresh_s: float | None = None
    ) -> list[bytes]:
        """Return one random id in each stale bucket's range."""
        return [
            rng.randint(*bucket.range).to_bytes(PEER_ID_BYTES, "big")
            for bucket in self.stale_buckets(now, refresh_s)
        ]

    def sparse_ids(self, rng: random.Random) -> Iterator[bytes]:
        """Yield a random id of each bucket not our own with hardly a contact, the farthest first.

        What has filled up when its turn comes is left out.
        """
        own, enough = self.node.long_id, self._config.sparse_contacts
        for bucket in sorted(self.buckets, key=lambda bucket: -(bucket.range[0] ^ own)):
            is_own = bucket.range[0] <= own <= bucket.range[1]
            if not is_own and len(bucket.nodes) < enough:
                yield rng.randint(*bucket.range).to_bytes(PEER_ID_BYTES, "big")

    def rows(self, now: float, wall_ms: int) -> list[ContactRow]:
        """Return what to keep on disk: every contact, then the departed that are remembered."""
        return [contact.row(now, wall_ms) for contact in self._kept()]

    def shape(self) -> tuple[tuple[bytes, Address], ...]:
        """Return who and where the rows are: whether they changed but for times, at less cost."""
        return tuple([(contact.id, contact.address) for contact in self._kept()])

    def validate_state(self) -> None:
        """Assert the invariants of the class docstring."""
        assert self.buckets[0].range[0] == 0
        assert self.buckets[-1].range[1] == (1 << ID_BITS) - 1
        for left, right in zip(self.buckets, self.buckets[1:], strict=False):
            assert left.range[1] + 1 == right.range[0]
        assert self._lowers == [bucket.range[0] for bucket in self.buckets]
        assert list(self._by_lower.values()) == self.buckets
        nodes = [contact for bucket in self.buckets for contact in bucket.nodes.values()]
        assert {contact.long_id: contact for contact in nodes} == self._placed
        for bucket in self.buckets:
            assert bucket.by_number.keys() == {each.long_id for each in bucket.nodes.values()}
            assert len(bucket.nodes) <= self._config.k
            assert len(bucket.replacement_nodes) <= bucket.max_replacement_nodes
            assert not bucket.nodes.keys() & bucket.replacement_nodes.keys()
            for contact in (*bucket.nodes.values(), *bucket.replacement_nodes.values()):
                assert bucket.range[0] <= contact.long_id <= bucket.range[1]
                assert contact.id != self.node.id
                assert not contact.client
            blocks = [contact.block for contact in bucket.nodes.values() if contact.block]
            for block in blocks:
                assert blocks.count(block) <= self._config.block_contacts_max

    # The stock interface, made safe

    def get_bucket_for(self, node: Node) -> int:
        """Return the index of the bucket whose range holds the id, upper bound included."""
        return self._position_of(node.long_id)

    def find_neighbors(
        self, node: Node, k: int | None = None, exclude: Node | None = None
    ) -> list[Contact]:
        """Return the true k closest; by address like the stock call, `exclude` and itself left out.

        The answer for stock askers, too: they pass nodes, not ids.
        """
        wanted = k or self.ksize
        found = self.closest(node.id, wanted + self.ksize)
        return [
            contact
            for contact in found
            if contact.id != node.id and not (exclude and contact.same_home_as(exclude))
        ][:wanted]

    def add_contact(self, node: Node) -> NoReturn:
        """Refuse: only `proven` admits, and the stock method spawns a ping."""
        raise TypeError(f"{node!r}: contacts enter the table by proven() only")

    def lonely_buckets(self) -> NoReturn:
        """Refuse: the stock method reads the clock; ask stale_buckets(now)."""
        raise TypeError("ask stale_buckets(now)")

    # Helpers

    def _ranked(
        self, key: bytes, exclude: bytes | None, failures_max: int | None
    ) -> Iterator[list[Contact]]:
        """Yield those that suit by their distance to a key, a bucket's at a time."""
        target = int.from_bytes(key, "big")
        excluded = None if exclude is None else self.contact(exclude)
        failures_max = FAILURES_MAX if failures_max is None else failures_max
        # Buckets are aligned: all ids of one are closer to the key than all ids of a farther one,
        # and so is its lower bound.
        buckets = self._by_lower
        for nearness in sorted([lower ^ target for lower in buckets]):
            contacts = buckets[nearness ^ target].by_number
            distances = sorted([number ^ target for number in contacts])
            ranked = [contacts[distance ^ target] for distance in distances]
            yield [
                each for each in ranked if each.failures <= failures_max and each is not excluded
            ]

    def _index_buckets(self) -> None:
        self._lowers = [bucket.range[0] for bucket in self.buckets]
        self._by_lower = dict(zip(self._lowers, self.buckets, strict=True))

    def _kept(self) -> list[Contact]:
        kept = [*self.contacts(), *reversed(self._departed.values())]
        return [contact for contact in kept if contact.public_key]

    def _bucket_of(self, long_id: int) -> Bucket:
        return self.buckets[self._position_of(long_id)]

    def _position_of(self, long_id: int) -> int:
        return bisect.bisect_right(self._lowers, long_id) - 1

    def _admit(self, contact: Contact) -> Admission:
        for _ in range(ID_BITS + 1):
            bucket = self._bucket_of(contact.long_id)
            if not bucket.has_block_room(contact) and len(bucket) < self._config.k:
                bucket.replacement_nodes.pop(contact.id, None)
                return Admission.CROWDED
            if bucket.add_node(contact):
                return Admission.ADMITTED
            if not self._may_split(bucket):
                break
            bucket.replacement_nodes.pop(contact.id, None)
            self.split_bucket(self.buckets.index(bucket))
        return self._replace_failing(bucket, contact)

    def _may_split(self, bucket: Bucket) -> bool:
        if len(self) >= self._config.contacts_max or bucket.range[0] == bucket.range[1]:
            return False
        own = bucket.range[0] <= self.node.long_id <= bucket.range[1]
        return own or bucket.depth() % self._config.split_bits != 0

    def _replace_failing(self, bucket: Bucket, contact: Contact) -> Admission:
        if contact.id not in bucket.replacement_nodes:
            return Admission.CROWDED
        for known in list(bucket.nodes.values()):
            if known.failures < self._config.failures_replaced_max:
                continue
            if bucket.replacement_waits_for(known):
                self._evict(bucket, known)
                return Admission.ADMITTED if contact.id in bucket.nodes else Admission.WAITING
        return Admission.WAITING

    def _evict(self, bucket: Bucket, contact: Contact) -> Contact:
        bucket.remove_node(contact)
        self._departed[contact.id] = contact
        self._departed.move_to_end(contact.id)
        while len(self._departed) > self._config.departed_max:
            self._departed.popitem(last=False)
        return contact


def contacts_from_rows(rows: Iterable[ContactRow], *, contacts_max: int = 1_000) -> list[Contact]:
    """Return remembered contacts to greet, in their order; they are not proven and not admitted.

    A row that cannot be read (a damaged disk) is left out.
    """
    contacts: list[Contact] = []
    for row in rows:
        if len(contacts) >= contacts_max:
            break
        try:
            address = Address.parse(row.address)
        except ShoalError:
            continue
        if peer_id_of(row.public_key) == row.peer_id:
            contacts.append(
                Contact(row.peer_id, address, public_key=row.public_key, nickname=row.nickname)
            )
    return contacts
