"""Sybils: one attacker's many peers, with ids ground towards one key, in few address blocks.

Owns how they get into tables and what they answer. Must not know what is measured. They speak the
real wire format and prove real keys; nothing but their answers is dishonest.
"""

import asyncio
import enum
import hashlib
import ipaddress
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dht import acks, wire
from dht.calling import NO_BODY
from dht.errors import BadMessage, BadRecord
from dht.hello import UNKNOWN_ID
from dht.hints import pack_contact
from dht.records import decode_record, encode_record
from dht.self_view import SelfView
from dht.storage import Stored, Verdict
from dht.tokens import TOKEN_BYTES
from identity.address import Address
from identity.keys import Identity, peer_id_of
from simulation.network import Endpoint, Place, VirtualTransport
from simulation.world import PORT, World

FIRST_BLOCK = int(ipaddress.IPv4Address("45.0.0.0")) >> 8
"""The attacker's /24 blocks."""
MADE_UP_BLOCK = int(ipaddress.IPv4Address("60.0.0.0")) >> 8
MADE_UP_BLOCKS = 1 << 16
HOSTS_A_BLOCK = 250
NAMED = 20
LOOT_MAX = 8
"""Versions of one publisher's record that are kept."""


class SybilKind(enum.StrEnum):
    """What the attacker's peers do once the attack begins."""

    SILENT = "silent"
    """Proved themselves and then swallow everything."""
    LYING = "lying"
    """Name each other, peers that do not exist, and honest peers where they are not."""
    POISONING = "poisoning"
    """Acknowledge and keep nothing; withhold records; send forged, mangled and outdated ones."""


def grind(seed: str, target: bytes, within: int, count: int) -> Iterator[Identity]:
    """Yield this many identities whose ids are closer to the target than `within`."""
    number = int.from_bytes(target, "big")
    made = tried = 0
    while made < count:
        key_seed = hashlib.blake2b(f"{seed}/{tried}".encode(), digest_size=32).digest()
        tried += 1
        public_key = Ed25519PrivateKey.from_private_bytes(key_seed).public_key().public_bytes_raw()
        if int.from_bytes(peer_id_of(public_key), "big") ^ number < within:
            made += 1
            yield Identity.from_seed(key_seed)


@dataclass(slots=True, eq=False)
class Gang:
    """What all Sybils of one attacker share."""

    world: World
    target: bytes
    kind: SybilKind
    rng: random.Random
    members: list["Sybil"] = field(default_factory=list)
    loot: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Records that were given to a Sybil to store, by their publisher's key, oldest first."""
    censored: bytes = b""
    """The public key of the publisher whose records are withheld."""
    victims: Sequence[bytes] = ()
    """Ids of honest peers near the target, to be named at wrong addresses."""

    @classmethod
    def gather(
        cls,
        world: World,
        target: bytes,
        kind: SybilKind,
        identities: Sequence[Identity],
        blocks: int,
    ) -> "Gang":
        """Bind a Sybil for each identity, spread evenly over the blocks."""
        gang = cls(world, target, kind, world.random("gang"))
        places = [world.network.new_place() for _ in range(blocks)]
        for number, identity in enumerate(identities):
            host, block = divmod(number, blocks)
            octets = ((FIRST_BLOCK + block) << 8) + 1 + host % HOSTS_A_BLOCK
            address = Address(str(ipaddress.IPv4Address(octets)), PORT + host // HOSTS_A_BLOCK)
            place = Place(places[block].x, places[block].y, 0.0)
            gang.members.append(Sybil(gang, identity, address, place))
        number = int.from_bytes(target, "big")
        honest = [peer.identity.peer_id for peer in world.peers]
        gang.victims = sorted(honest, key=lambda each: int.from_bytes(each, "big") ^ number)[:NAMED]
        return gang

    async def infiltrate(self, victims: int, others: int, gap_s: float) -> None:
        """Let each Sybil greet the honest peers closest to the target, and a few at random."""
        number = int.from_bytes(self.target, "big")
        peers = sorted(
            self.world.up(), key=lambda p: int.from_bytes(p.identity.peer_id, "big") ^ number
        )
        for member in self.members:
            for peer in [*peers[:victims], *self.rng.sample(peers, others)]:
                member.greet(peer.address)
            await asyncio.sleep(gap_s)

    def begin(self) -> None:
        """Begin the attack: the silent go silent; the others behaved as they do from the start."""
        if self.kind is SybilKind.SILENT:
            for member in self.members:
                member.endpoint.silent = True

    def contacts(self, asker_id: bytes) -> tuple[bytes, ...]:
        """Choose whom to name to an asker."""
        chosen = self.rng.sample(self.members, min(NAMED, len(self.members)))
        named = [(each.own.peer_id, each.address) for each in chosen]
        match self.kind:
            case SybilKind.SILENT | SybilKind.POISONING:
                pass
            case SybilKind.LYING:
                made_up = [(self._near_id(), self._made_up_address()) for _ in range(NAMED // 3)]
                framed = [
                    (each, self._made_up_address())
                    for each in self.rng.sample(self.victims, NAMED // 3)
                ]
                named = [*made_up, *framed, *named][:NAMED]
            case _:
                assert_never(self.kind)
        packed = [pack_contact(*each) for each in named if each[0] != asker_id]
        return tuple(each for each in packed if each is not None)

    def records(self, key: bytes) -> tuple[bytes, ...]:
        """Choose which records to send to a reader of a key."""
        if self.kind is not SybilKind.POISONING or key != self.target:
            return ()
        outdated = [kept[0] for publisher, kept in self.loot.items() if publisher != self.censored]
        censored = self.loot.get(self.censored, [])
        forged = [_forge(each) for each in censored[:1]]
        mangled = [bytes([each[0] ^ 0xFF]) + each[1:] for each in censored[:1]]
        return (*outdated[:1], *forged, *mangled, self.rng.randbytes(200))

    def steal(self, data: bytes) -> None:
        """Keep a record that was given to be stored, to replay it later."""
        try:
            record = decode_record(data)
        except BadRecord:
            return
        if record.key != self.target:
            return
        kept = self.loot.setdefault(record.public_key, [])
        if data not in kept and len(kept) < LOOT_MAX:
            kept.append(data)

    def _near_id(self) -> bytes:
        """Make up an id that is closer to the target than any real one."""
        return self.target[:10] + self.rng.randbytes(10)

    def _made_up_address(self) -> Address:
        block = MADE_UP_BLOCK + self.rng.randrange(MADE_UP_BLOCKS)
        return Address(str(ipaddress.IPv4Address((block << 8) + 1)), PORT)


class Sybil(asyncio.DatagramProtocol):
    """One of the attacker's peers."""

    def __init__(self, gang: Gang, identity: Identity, address: Address, place: Place) -> None:
        self.address = address
        self.endpoint = Endpoint(address, place)
        self._gang = gang
        entropy = gang.rng.randbytes
        network = gang.world.config.network
        self.own = SelfView(identity, network, "", False, entropy)
        self.own.advertise([address])
        self._transport: VirtualTransport = gang.world.network.bind(self.endpoint, self)

    def greet(self, address: Address) -> None:
        """Send a hello; the answer's token lets us be noticed as a newcomer."""
        sender = wire.Sender(self.own.peer_id, b"", self.own.hello(address, UNKNOWN_ID))
        message_id = self.own.entropy(wire.MESSAGE_ID_BYTES)
        self._send(
            wire.pack_call(message_id, wire.Call.HELLO, sender, NO_BODY, wire.DATAGRAM_BYTES_MAX),
            address,
        )

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a request; use the token in the answer to a hello of ours."""
        address = Address(*addr)
        frame = wire.split_frame(data)
        try:
            if frame.kind is wire.FrameKind.REQUEST:
                self._answer(wire.read_request(frame.value), frame.message_id, address)
            else:
                self._use_token(wire.read_reply(frame.value), address)
        except BadMessage:
            return  # stock calls and the like: a Sybil answers only what helps it

    def _use_token(self, reply: wire.Reply, address: Address) -> None:
        if reply.proof is None:
            return
        sender = wire.Sender(self.own.peer_id, reply.proof.token)
        body = wire.pack_body(wire.FindRecords(self._gang.target, contacts_wanted=0))
        message_id = self.own.entropy(wire.MESSAGE_ID_BYTES)
        self._send(wire.pack_call(message_id, wire.Call.FIND_RECORDS, sender, body, 0), address)

    def _answer(self, request: wire.Request, message_id: bytes, address: Address) -> None:
        if request.name not in wire.OUR_CALLS:
            return
        arguments = wire.read_arguments(request.arguments)
        sender = arguments.sender
        proof = None
        if sender.hello is not None:
            token = self.own.entropy(TOKEN_BYTES)
            wall_ms = self._gang.world.wall_ms()
            proof = wire.Proof(self.own.answer(sender.hello, address), token, wall_ms)
        match wire.Call(request.name):
            case wire.Call.FIND_RECORDS:
                find = wire.read_find(arguments.body)
                records = self._gang.records(find.key) if find.kinds else ()
                found = wire.FoundRecords(records, b"", self._gang.contacts(sender.peer_id))
                self._reply(message_id, proof, wire.pack_body(found), address)
            case wire.Call.STORE_RECORDS if proof is None:
                body = self._acknowledge(wire.read_store(arguments.body), sender, message_id)
                self._reply(message_id, proof, wire.pack_body(body), address)
            case _:
                self._reply(message_id, proof, b"\xc0", address)

    def _acknowledge(
        self, batch: wire.StoreRecords, sender: wire.Sender, message_id: bytes
    ) -> wire.StoredRecords:
        """Sign that everything is stored, and store nothing."""
        for data in batch.records:
            self._gang.steal(data)
        return acks.sign(
            self.own.identity,
            self.own.network.network_id,
            requester_id=sender.peer_id,
            message_id=message_id,
            encoded=batch.records,
            stored=[Stored(Verdict.OK)] * len(batch.records),
        )

    def _reply(
        self, message_id: bytes, proof: wire.Proof | None, body: bytes, address: Address
    ) -> None:
        self._send(wire.pack_reply(message_id, wire.Status.OK, proof, body), address)

    def _send(self, data: bytes, address: Address) -> None:
        self._transport.sendto(data, (address.host, address.port))


def _forge(data: bytes) -> bytes:
    """Claim that the owner has issued a newer record, under the old one's signature."""
    record = decode_record(data)
    return encode_record(msgspec.structs.replace(record, sequence=record.sequence + 1_000))
