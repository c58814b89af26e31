"""The desk before a real broker: nothing is lost between its disk, the broker and the staging."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from queueing.broker_desk import BrokerDesk
from queueing.envelope import OuterManifest
from queueing.errors import BadEnvelope, MailboxFull, NoMailbox, Refused
from queueing.rabbitmq import RabbitStore
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_link import BrokerLink
from queueing.rabbitmq_messages import mail_queue
from queueing.rabbitmq_url import parse_amqp_url
from queueing.spool import Spool
from queueing.spool_index import SpoolConfig
from tests.queueing.rabbit_mail import Parties, SealedChunks, now_ms
from tests.support.broker import free_ports

QUICK = RabbitConfig(connect_timeout_s=1.0, reconnects_max=0)


class Office:
    """An operator's desk, which may be closed and opened again on the same folder."""

    def __init__(self, url: str, folder: Path, parties: Parties) -> None:
        self.url = url
        self.folder = folder
        self.parties = parties
        self.closing = contextlib.AsyncExitStack()

    async def open(self, *, disk_floor_bytes: int = 0) -> BrokerDesk:
        store = RabbitStore(
            parse_amqp_url(self.url), self.parties.network_id, self.folder / "staging", config=QUICK
        )
        self.closing.push_async_callback(store.close)
        own = await Spool.open(
            self.folder / "own", self.parties.network_id, wall_ms=now_ms, config=SpoolConfig()
        )
        self.closing.push_async_callback(own.close)
        desk = await BrokerDesk.open(
            self.folder / "desk", self.parties.network_id, store, own,
            config=SpoolConfig(disk_floor_bytes=disk_floor_bytes), wall_ms=now_ms,
        )  # fmt: skip
        self.closing.push_async_callback(desk.close)
        return desk

    async def reopen(self, *, disk_floor_bytes: int = 0) -> BrokerDesk:
        await self.closing.aclose()
        return await self.open(disk_floor_bytes=disk_floor_bytes)


@pytest.fixture
def parties() -> Parties:
    return Parties()


@pytest.fixture
async def office(broker: str, parties: Parties, tmp_path: Path) -> AsyncIterator[Office]:
    made = Office(broker, tmp_path, parties)
    yield made
    await made.closing.aclose()


async def deposit(desk: BrokerDesk, manifest: OuterManifest, chunks: SealedChunks) -> None:
    for index in await desk.begin(manifest):
        await desk.put(manifest, index, await chunks.read(index))
    await desk.finish(manifest)


async def chunks_at(desk: BrokerDesk, manifest: OuterManifest) -> dict[int, bytes]:
    return {index: await desk.read(manifest, index) for index in range(manifest.count)}


async def waiting_at(desk: BrokerDesk, parties: Parties) -> list[bytes]:
    rows = await desk.waiting(parties.recipient.peer_id, 0, 100)
    return [row.delivery_id for row in rows]


async def test_delivery_is_handed_out_from_disk_from_the_broker_and_after_a_restart(
    office: Office, parties: Parties, tmp_path: Path
) -> None:
    desk = await office.open()
    manifest, chunks = parties.seal(tmp_path)
    await deposit(desk, manifest, chunks)
    assert await chunks_at(desk, manifest) == chunks.chunks
    desk = await office.reopen()  # it was promised, and not forwarded yet
    assert await desk.forward_all()
    assert desk.forwarded == 1
    assert await desk.begin(manifest) == []  # a repeated deposit sends nothing
    desk = await office.reopen()
    assert await waiting_at(desk, parties) == [manifest.delivery_id]
    assert await chunks_at(desk, manifest) == chunks.chunks
    desk = await office.reopen()  # now it lies in the staging folder
    assert await chunks_at(desk, manifest) == chunks.chunks
    receipt = parties.receipt(manifest)
    await desk.settle(manifest.delivery_id, receipt)
    await desk.settle(manifest.delivery_id, receipt)
    assert await waiting_at(desk, parties) == []
    asked = [manifest.delivery_id]
    assert await desk.receipts(parties.sender.peer_id, asked) == [receipt]
    assert await desk.receipts(parties.recipient.peer_id, asked) == []


async def test_broker_that_is_down_loses_and_delays_nothing(
    office: Office, broker: str, parties: Parties, tmp_path: Path
) -> None:
    office.url = f"amqp://127.0.0.1:{free_ports(1)[0]}/"
    desk = await office.open()
    manifest, chunks = parties.seal(tmp_path)
    await deposit(desk, manifest, chunks)
    assert not await desk.forward_all()
    assert await waiting_at(desk, parties) == [manifest.delivery_id]
    assert await chunks_at(desk, manifest) == chunks.chunks
    office.url = broker
    desk = await office.reopen()
    assert await desk.forward_all()
    assert await chunks_at(desk, manifest) == chunks.chunks


async def test_what_came_over_amqp_is_handed_out_and_its_sender_gets_the_receipt_there(
    office: Office, broker: str, parties: Parties, tmp_path: Path
) -> None:
    sender = RabbitStore(parse_amqp_url(broker), parties.network_id, tmp_path / "sender")
    manifest, chunks = parties.seal(tmp_path)
    await sender.deposit(manifest, chunks)
    desk = await office.open()
    assert await waiting_at(desk, parties) == [manifest.delivery_id]
    assert await chunks_at(desk, manifest) == chunks.chunks
    receipt = parties.receipt(manifest)
    await desk.settle(manifest.delivery_id, receipt)
    assert await sender.receipts(parties.sender.peer_id, [manifest.delivery_id]) == [receipt]
    await sender.close()


async def test_mail_that_comes_right_after_a_look_is_found_by_the_next(
    office: Office, broker: str, parties: Parties, tmp_path: Path
) -> None:
    """The recipient may ask no third time for half an hour."""
    desk = await office.open()
    assert await waiting_at(desk, parties) == []
    sender = RabbitStore(parse_amqp_url(broker), parties.network_id, tmp_path / "sender")
    manifest, chunks = parties.seal(tmp_path)
    await sender.deposit(manifest, chunks)
    await sender.close()
    assert await waiting_at(desk, parties) == [manifest.delivery_id]


async def test_recipient_with_an_account_collects_and_its_receipt_reaches_the_sender_at_the_desk(
    office: Office, broker: str, parties: Parties, tmp_path: Path
) -> None:
    desk = await office.open()
    first, second = parties.seal(tmp_path), parties.seal(tmp_path)
    for manifest, chunks in (first, second):
        await deposit(desk, manifest, chunks)
    assert await desk.forward_all()
    recipient = RabbitStore(parse_amqp_url(broker), parties.network_id, tmp_path / "recipient")
    taken = [found async for found in recipient.collect(parties.recipient.peer_id)]
    assert [delivery.manifest for delivery in taken] == [first[0], second[0]]
    receipt = parties.receipt(first[0])
    await taken[0].ack(receipt)
    await recipient.close()
    asked = [first[0].delivery_id, second[0].delivery_id]
    assert await desk.receipts(parties.sender.peer_id, asked) == [receipt]
    # The second was taken, never settled: the desk does not have it and says so.
    with pytest.raises(BadEnvelope):
        await desk.read(second[0], 0)
    assert await desk.begin(second[0]) == list(range(second[0].count))


async def test_what_was_taken_back_is_handed_out_no_more_though_the_broker_has_it(
    office: Office, parties: Parties, tmp_path: Path
) -> None:
    desk = await office.open()
    manifest, chunks = parties.seal(tmp_path)
    await deposit(desk, manifest, chunks)
    assert await desk.forward_all()
    assert await desk.drop(manifest.delivery_id)
    assert not await desk.drop(manifest.delivery_id)
    assert await waiting_at(desk, parties) == []
    with pytest.raises(Refused):
        await desk.begin(manifest)


async def test_asking_for_mail_makes_no_queue_on_the_broker(
    office: Office, broker: str, parties: Parties
) -> None:
    desk = await office.open()
    assert await waiting_at(desk, parties) == []
    assert await desk.receipts(parties.sender.peer_id, [bytes(32)]) == []
    link = await BrokerLink.open(parse_amqp_url(broker), QUICK)
    with pytest.raises(NoMailbox):
        await link.look(mail_queue(parties.network_id, parties.recipient.peer_id))
    await link.close()


async def test_disk_below_its_floor_takes_nothing_and_keeps_no_room_reserved(
    office: Office, parties: Parties, tmp_path: Path
) -> None:
    desk = await office.open(disk_floor_bytes=1 << 60)
    manifest, chunks = parties.seal(tmp_path)
    with pytest.raises(MailboxFull):
        await desk.begin(manifest)
    assert (await desk.usage()).bytes == 0
    assert await desk.row(manifest.delivery_id) is None
    desk = await office.reopen()
    assert 0 in await desk.begin(manifest)
    desk = await office.reopen(disk_floor_bytes=1 << 60)  # others fill the disk meanwhile
    with pytest.raises(MailboxFull):
        await desk.put(manifest, 0, await chunks.read(0))
