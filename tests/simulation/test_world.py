import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from dht.config import DhtConfig
from dht.lookup import LookupConfig
from dht.records import Kind, NamePayload, name_key
from dht.routing import TableConfig
from identity.keys import Identity
from simulation import loop
from simulation.measuring import publish, read
from simulation.signing import StubIdentity, stub_signatures
from simulation.world import Peer, World, WorldConfig
from tests.dht.nodes import peer_payload

CONTENT_ID = b"c" * 32


def simulated(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        with stub_signatures():
            loop.run(test())

    run.__name__ = test.__name__
    return run


def keeping(seed: int = 1) -> WorldConfig:
    return WorldConfig(seed, node=DhtConfig(flush_s=1.0), is_persistent=True)


@simulated
async def test_peers_have_public_addresses_in_blocks_of_their_own() -> None:
    world = World(WorldConfig(1))
    peers = [world.add() for _ in range(600)]
    assert all(peer.address.is_public for peer in peers)
    assert len({peer.address.block for peer in peers}) == 600


@simulated
async def test_peers_a_block_can_be_more() -> None:
    world = World(WorldConfig(1, peers_per_block=3))
    blocks = [world.add().address.block for _ in range(6)]
    assert blocks == [blocks[0]] * 3 + [blocks[3]] * 3
    assert blocks[0] != blocks[3]


@simulated
async def test_what_one_peer_publishes_another_reads() -> None:
    world = await World.grown(WorldConfig(1), 30)
    published = await publish(world, world.peers[7], "a file.dat")
    assert published.stored_on == 20
    result = await read(world, world.peers[21], published.offer)
    assert result.is_found
    assert 1 <= result.hops <= 3
    assert result.first_s is not None
    assert 0 <= result.first_s <= result.took_s
    await world.close()


@simulated
async def test_a_killed_peer_says_nothing_and_saves_nothing_more() -> None:
    world = await World.grown(keeping(), 10)
    peer = world.peers[5]
    await publish(world, peer, "before.dat")
    await asyncio.sleep(5)
    assert peer.persistence is not None
    saved = dict(peer.persistence.schedule)
    peer.running.schedule.add(NamePayload("late.dat", CONTENT_ID, 1), now_ms=world.wall_ms())
    sent = world.network.traffic.sent
    await world.kill(peer)
    assert world.network.traffic.sent == sent
    assert peer.persistence.schedule == saved
    assert not peer.is_up
    await world.close()


@simulated
async def test_a_peer_that_left_took_its_records_along_and_a_killed_one_did_not() -> None:
    world = await World.grown(keeping(), 30)
    left = await publish(world, world.peers[8], "left.dat")
    killed = await publish(world, world.peers[9], "killed.dat")
    await world.leave(world.peers[8])
    await world.kill(world.peers[9])
    assert not (await read(world, world.peers[20], left.offer)).is_found
    assert (await read(world, world.peers[20], killed.offer)).is_found
    await world.close()


@simulated
async def test_a_peer_returns_with_its_contacts_with_every_bootstrap_node_gone() -> None:
    world = await World.grown(keeping(), 12)
    peer = world.peers[9]
    await asyncio.sleep(5)
    await world.kill(peer)
    for entry in world.peers[:4]:
        await world.kill(entry)
    assert await world.join(peer) > 0
    assert peer.lives == 2
    await world.close()


@simulated
async def test_a_peer_whose_last_contact_left_asks_its_bootstrap_node_until_that_is_back() -> None:
    world = await World.grown(WorldConfig(1), 2)
    entry, peer = world.peers
    await entry.running.publish([peer_payload(entry.running)])  # who has one says farewell
    await world.leave(entry)
    await asyncio.sleep(300)
    assert peer.running.contact_count() == 0
    await world.start(entry)  # it asks nobody itself
    await asyncio.sleep(75)
    assert peer.running.contact_count() == 1
    await asyncio.sleep(300)
    asked = peer.port.sent
    await asyncio.sleep(300)
    assert peer.port.sent - asked < 5, "in company it asks no more"
    await world.close()


def parts_unknown_to(peer: Peer, peers: Sequence[Peer]) -> int:
    """Count the parts of the id space beside a peer's own that are peopled, and not by contacts."""
    own = int.from_bytes(peer.identity.peer_id, "big")
    ids = [int.from_bytes(each.identity.peer_id, "big") for each in peers]
    known = [each.long_id for each in peer.running.engine.table.contacts()]
    beside = [(bits, own >> bits ^ 1) for bits in (159, 158, 157)]
    return sum(
        any(each >> bits == part for each in ids) and all(each >> bits != part for each in known)
        for bits, part in beside
    )


@simulated
async def test_peers_that_joined_at_once_know_somebody_in_each_part_of_the_id_space() -> None:
    few = DhtConfig(table=TableConfig(k=3), lookup=LookupConfig(k=3, alpha=3, beta=2))
    world = await World.grown(WorldConfig(1, node=few), 80)
    unknown = sum(parts_unknown_to(peer, world.peers) for peer in world.peers)
    assert unknown <= 12, "of 240 parts; 53 where a joining peer looks up its neighbours alone"
    await world.close()


@simulated
async def test_a_long_set_goes_in_process_and_is_counted() -> None:
    world = await World.grown(WorldConfig(1), 30)
    holder = world.peers[3]
    payloads = [NamePayload("one name.dat", bytes([n]) * 32, n) for n in range(40)]
    report = await holder.running.publish(payloads)
    assert report.stored_on_min == 20
    traffic = world.network.traffic
    assert traffic.bulk_calls == 20
    assert traffic.bulk_bytes > 20 * 40 * 200
    key = name_key(world.config.network.network_id, "one name.dat")
    assert len(await world.peers[25].running.read(key, (Kind.NAME,))) == 40
    await world.close()


@simulated
async def test_an_unreachable_storer_takes_no_long_set() -> None:
    world = await World.grown(WorldConfig(1), 30)
    for peer in world.peers:
        peer.reachable = peer.number == 3
    payloads = [NamePayload("one name.dat", bytes([n]) * 32, n) for n in range(40)]
    report = await world.peers[3].running.publish(payloads)
    assert world.network.traffic.bulk_calls == 0
    assert report.stored_on_min == 20, "datagrams carry them instead"
    await world.close()


def test_stand_ins_count_within_the_block_only() -> None:
    stub, real = StubIdentity(b"s" * 32), Identity(b"s" * 32)
    from identity.signing import Purpose, verify

    stand_in = stub.sign(Purpose.RECORD, bytes(32), b"body")
    signature = real.sign(Purpose.RECORD, bytes(32), b"body")
    assert len(stand_in) == len(signature)
    assert len(stub.public_key) == len(real.public_key)
    assert not verify(stub.public_key, stand_in, Purpose.RECORD, bytes(32), b"body")
    with stub_signatures() as counts:
        assert verify(stub.public_key, stand_in, Purpose.RECORD, bytes(32), b"body")
        assert not verify(stub.public_key, stand_in, Purpose.RECORD, bytes(32), b"other")
        assert not verify(real.public_key, signature, Purpose.RECORD, bytes(32), b"body")
        assert counts.checked == 3
    assert verify(real.public_key, signature, Purpose.RECORD, bytes(32), b"body")


@pytest.mark.parametrize("number", [0, 1])
def test_a_peers_identity_depends_on_the_seed_and_its_number_alone(number: int) -> None:
    async def main(seed: int, others: int) -> bytes:
        world = World(WorldConfig(seed))
        return [world.add() for _ in range(number + 1 + others)][number].identity.peer_id

    assert loop.run(main(1, 0)) == loop.run(main(1, 5))
    assert loop.run(main(1, 0)) != loop.run(main(2, 0))
