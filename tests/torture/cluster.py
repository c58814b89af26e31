"""The torture of a broker that is a cluster: nodes are lost while mail passes through it.

Owns the claims on a private cluster of three RabbitMQ nodes, and what became of each. Deposits and
collections are made by the stores that peers use, the set-up by what `shoal bootstrap
--setup-queue` calls. A run kills the node that leads the recipient's queue, at a random moment of a
deposit, in every other run one that the sender was connected to; the claims after the runs are made
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from peer.broker import Broker
from queueing.errors import Blocked, MailboxFull, Unavailable
from queueing.rabbitmq import RabbitStore
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_link import BrokerLink
from queueing.rabbitmq_management import management_url
from queueing.rabbitmq_messages import mail_queue, receipts_queue
from queueing.rabbitmq_url import parse_amqp_url
from tests.queueing.rabbit_mail import Parties, SealedChunks, sealed_chunks_of
from tests.support.broker import PrivateBroker
from tests.support.cluster import NODES, PrivateCluster, temporary_cluster
from tests.torture.tally import Tally

KILLS = 4
LETTER_BYTES = 20_000_000
GIVEN_BACK = 25
"""More often than newer brokers let a message be taken by default, which is 20 times."""
SMALL_QUEUE_BYTES = 17 * 1024 * 1024
PATIENT = RabbitConfig(window_max=4, reconnects_max=60, reconnect_pause_max_s=3.0)
IMPATIENT = RabbitConfig(reconnects_max=0, blocked_timeout_s=2.0, confirm_timeout_s=5.0)


def torture(runs: int | None, seed: int) -> Iterator[Tally]:
    """Yield a tally of killed leaders, and one of the other claims."""
    rng = random.Random(seed)
    with temporary_cluster() as cluster:
        tally = Tally("a deposit whose queue's leader is killed", seed)
        for number in range(runs or KILLS):
            choice = rng.randrange(1 << 32), number % 2 == 0
            _claim(tally, lambda folder, choice=choice: _lose_the_leader(cluster, folder, *choice))  # type: ignore[misc]
        yield tally
        tally = Tally("a broker that is a cluster", seed)
        for claim in (_give_back, _block, _fill, _lose_the_majority, _lose_a_classic_queue):
            _claim(tally, lambda folder, claim=claim: claim(cluster, folder))  # type: ignore[misc]
        yield tally


def _claim(tally: Tally, claim: Callable[[Path], Awaitable[str]]) -> None:
    """Count one claim, and note what it showed or where it failed."""
    tally.runs += 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            tally.notes.append(asyncio.run(_bounded(claim(Path(folder)))))
        except Exception as error:  # noqa: BLE001 - the verdict of a run, told with its kind
            tally.lost += 1
            tally.notes.append(f"FAILED: {type(error).__name__}: {error}")


async def _bounded(claim: Awaitable[str]) -> str:
    async with asyncio.timeout(240):
        return await claim


async def _lose_the_leader(
    cluster: PrivateCluster, folder: Path, place: int, is_connected: bool
) -> str:
    """Kill the leader in the midst of a deposit; collect from another node's address."""
    parties = Parties()
    await asyncio.to_thread(_set_up, cluster, parties)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    async with _store(cluster.url(), parties, folder / "first") as recipient:
        assert await _collected(recipient, parties) == 0  # it makes its queue
    leader = await asyncio.to_thread(cluster.leader_of, queue)
    others = [node for node in cluster.nodes if node is not leader]
    sender_nodes = [leader, *others] if is_connected else [*others, leader]
    manifest, chunks = parties.seal(folder, size=LETTER_BYTES)
    disturbed = DisturbedChunks(chunks, leader, at=place % manifest.count)
    try:
        async with (
            _store(cluster.url(*sender_nodes), parties, folder / "sender") as sender,
            _store(cluster.url(others[-1]), parties, folder / "recipient") as recipient,
        ):
            await sender.deposit(manifest, disturbed)
            reads = disturbed.reads
            (delivery,) = [each async for each in recipient.collect(parties.recipient.peer_id)]
            assert await sealed_chunks_of(delivery) == chunks.chunks, "another letter than sent"
            receipt = parties.receipt(manifest)
            await delivery.ack(receipt)
            found = await sender.receipts(parties.sender.peer_id, [manifest.delivery_id])
            assert found == [receipt], "no receipt"
            assert await _collected(recipient, parties) == 0, "handed out twice"
    finally:
        await asyncio.to_thread(_bring_back, cluster, leader)
    for name in (queue, receipts_queue(parties.network_id, parties.sender.peer_id)):
        _check_policy(await asyncio.to_thread(cluster.queue, name))
    await asyncio.to_thread(cluster.await_members, queue)
    way = "the sender was connected to" if is_connected else "the sender was not connected to"
    return (
        f"killed the leader, which {way}, at chunk {disturbed.at} of {manifest.count}:"
        f" {reads - manifest.count} chunks read again, {sender.counters.reconnects} reconnects"
    )


async def _give_back(cluster: PrivateCluster, folder: Path) -> str:
    """A recipient loses its connection again and again before it has written anything."""
    parties = Parties()
    await asyncio.to_thread(_set_up, cluster, parties)
    manifest, chunks = parties.seal(folder)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    async with _store(cluster.url(), parties, folder / "store") as store:
        await store.deposit(manifest, chunks)
        for number in range(GIVEN_BACK):
            node = cluster.nodes[number % NODES]
            link = await BrokerLink.open(parse_amqp_url(cluster.url(node)), PATIENT)
            link.consume(queue)
            assert await link.received(20.0), "nothing was given back"
            await link.close()
        (delivery,) = [each async for each in store.collect(parties.recipient.peer_id)]
        assert await sealed_chunks_of(delivery) == chunks.chunks
        assert (await store.health()).dead == 0, "healthy mail was buried"
    return f"taken {GIVEN_BACK} times without an acknowledgement: nothing buried, all collected"


async def _block(cluster: PrivateCluster, folder: Path) -> str:
    """A memory alarm on one node blocks publishers at every node."""
    parties = Parties()
    await asyncio.to_thread(_set_up, cluster, parties)
    letter = parties.seal(folder)
    starved, other = cluster.nodes[:2]
    async with _store(cluster.url(other), parties, folder / "store", IMPATIENT) as store:
        await asyncio.to_thread(starved.starve)
        try:
            await _refused(Blocked, store.deposit(*letter))
        finally:
            await asyncio.to_thread(starved.feed)
    async with _store(cluster.url(other), parties, folder / "again") as store:
        await store.deposit(*letter)
        assert await _collected(store, parties) == 1
    return "a memory alarm of one node: Blocked at another, and stored after it"


async def _fill(cluster: PrivateCluster, folder: Path) -> str:
    """A queue that has reached the policy's size refuses, and drops nothing."""
    parties = Parties()
    await asyncio.to_thread(_set_up, cluster, parties, SMALL_QUEUE_BYTES)
    kept, too_much = parties.seal(folder), parties.seal(folder, size=2 * SMALL_QUEUE_BYTES)
    async with _store(cluster.url(), parties, folder / "store") as store:
        await store.deposit(*kept)
        await _refused(MailboxFull, store.deposit(*too_much))
        found = [each async for each in store.collect(parties.recipient.peer_id)]
        assert [each.manifest for each in found] == [kept[0]], "the first is not there alone"
    return (
        f"a queue of {SMALL_QUEUE_BYTES >> 20} MiB: MailboxFull for more, and what it had is there"
    )


async def _lose_the_majority(cluster: PrivateCluster, folder: Path) -> str:
    """With one node of three nothing is confirmed; with two it is."""
    parties = Parties()
    await asyncio.to_thread(_set_up, cluster, parties)
    manifest, chunks = parties.seal(folder)
    left, *lost = cluster.nodes
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    async with _store(cluster.url(), parties, folder / "first") as recipient:
        assert await _collected(recipient, parties) == 0
    await asyncio.to_thread(cluster.await_members, queue)
    for node in lost:
        await asyncio.to_thread(node.kill)
    try:
        async with _store(cluster.url(left), parties, folder / "store", IMPATIENT) as store:
            try:
                await store.deposit(manifest, chunks)
            except (Blocked, Unavailable) as error:
                refusal = type(error).__name__
            else:
                raise AssertionError("confirmed without a majority")
    finally:
        await asyncio.to_thread(_bring_back, cluster, *lost)
    await asyncio.to_thread(cluster.await_members, queue)
    async with _store(cluster.url(), parties, folder / "again") as store:
        await store.deposit(manifest, chunks)
        (delivery,) = [each async for each in store.collect(parties.recipient.peer_id)]
        assert await sealed_chunks_of(delivery) == chunks.chunks
    return f"two nodes of three killed: {refusal}; with them again stored, and collected once"


async def _lose_a_classic_queue(cluster: PrivateCluster, folder: Path) -> str:
    """A classic queue whose node is down is there all the same: nobody makes another one."""
    parties = Parties()  # no set-up, hence no sign: a classic queue
    letter = parties.seal(folder)
    *others, node = cluster.nodes
    async with _store(cluster.url(node), parties, folder / "first") as recipient:
        assert await _collected(recipient, parties) == 0
    await asyncio.to_thread(node.kill)
    try:
        async with _store(cluster.url(*others), parties, folder / "store", IMPATIENT) as store:
            await _refused(Unavailable, store.deposit(*letter))
    finally:
        await asyncio.to_thread(_bring_back, cluster, node)
    async with _store(cluster.url(*others), parties, folder / "again") as store:
        await store.deposit(*letter)
        assert await _collected(store, parties) == 1
    return "the node of a classic queue killed: Unavailable, and stored when it is back"


class DisturbedChunks(SealedChunks):
    """A source that kills a node when a chunk is first read, and counts reads."""

    def __init__(self, whole: SealedChunks, node: PrivateBroker, at: int) -> None:
        super().__init__(whole.chunks)
        self.at = at
        self.reads = 0
        self._node = node
        self._is_killed = False

    async def read(self, index: int) -> bytes:
        self.reads += 1
        if index == self.at and not self._is_killed:
            self._is_killed = True
            await asyncio.to_thread(self._node.kill)
        return await super().read(index)


@contextlib.asynccontextmanager
async def _store(
    url: str, parties: Parties, folder: Path, config: RabbitConfig = PATIENT
) -> AsyncIterator[RabbitStore]:
    store = RabbitStore(parse_amqp_url(url), parties.network_id, folder, config=config)
    try:
        yield store
    finally:
        await store.close()


async def _collected(store: RabbitStore, parties: Parties) -> int:
    return len([each async for each in store.collect(parties.recipient.peer_id)])


async def _refused(kind: type[Exception], deposit: Awaitable[object]) -> None:
    try:
        await deposit
    except kind:
        return
    raise AssertionError(f"not {kind.__name__}")


def _set_up(cluster: PrivateCluster, parties: Parties, queue_bytes_max: int = 1 << 30) -> None:
    """Do what `shoal bootstrap --setup-queue` does, and look what it chose."""
    url = parse_amqp_url(cluster.url())
    management = management_url(cluster.nodes[0].management, url)
    broker = Broker(parties.network_id, url, management, None, queue_bytes_max)
    told = broker.set_up(None, lambda *_: None)
    assert told["done"], told
    assert told["queue_type"] == "quorum", told


def _check_policy(told: dict[str, object]) -> None:
    assert told["type"] == "quorum", told
    policy = told["effective_policy_definition"]
    assert isinstance(policy, dict), told
    assert policy["delivery-limit"] >= 1000, policy
    assert policy["overflow"] == "reject-publish", policy
    members = told["members"]
    assert isinstance(members, Sequence), told
    assert len(members) == NODES, told


def _bring_back(cluster: PrivateCluster, *nodes: PrivateBroker) -> None:
    for node in nodes:
        node.start()
    cluster.await_nodes(NODES)
