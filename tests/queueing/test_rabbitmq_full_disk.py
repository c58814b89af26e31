"""A recipient whose disk is full: nothing is lost, and no message goes to and fro meanwhile."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest

from queueing.errors import MailboxFull
from queueing.rabbitmq import RabbitStore
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_messages import mail_queue
from queueing.rabbitmq_url import parse_amqp_url
from tests.queueing.rabbit_mail import Parties, sealed_chunks_of
from tests.support.disks import small_disk

DISK_BYTES = 6 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes, all for this test."""
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


@contextlib.contextmanager
def channel_to(url: str) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def make_quorum_queue(url: str, queue: str) -> None:
    """Make the queue one that counts how often each message was handed over."""
    with channel_to(url) as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})


def deliveries_of_first(url: str, queue: str) -> int:
    """How often the first message that waits was handed over before; this look counts next time."""
    with channel_to(url) as channel:
        _, properties, _ = channel.basic_get(queue)
        assert properties is not None
        return int((properties.headers or {}).get("x-delivery-count", 0))


async def collected(store: RabbitStore, parties: Parties) -> int:
    """Collect and acknowledge; the number of deliveries whose content is right."""
    count = 0
    async for delivery in store.collect(parties.recipient.peer_id):
        assert len(await sealed_chunks_of(delivery)) == delivery.manifest.count
        await delivery.ack(parties.receipt(delivery.manifest))
        count += 1
    return count


@pytest.mark.parametrize("floor_bytes", [0, 64 * 1024])
async def test_full_disk_requeues_once_and_reads_no_more_until_there_is_room(
    broker: str, disk: Path, tmp_path: Path, floor_bytes: int
) -> None:
    parties = Parties()
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    await asyncio.to_thread(make_quorum_queue, broker, queue)
    url = parse_amqp_url(broker)
    sender = RabbitStore(url, parties.network_id, tmp_path / "sender")
    sent = [parties.seal(tmp_path) for _ in range(3)]
    for manifest, chunks in sent:
        await sender.deposit(manifest, chunks)
    ballast = disk / "ballast"
    config = RabbitConfig(disk_floor_bytes=floor_bytes, prefetch_max=2)
    store = RabbitStore(url, parties.network_id, disk / "staging", config=config)
    free_bytes = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(free_bytes - floor_bytes - 900_000))

    for _ in range(5):
        with pytest.raises(MailboxFull):
            await collected(store, parties)
    assert store.counters.stops == 1
    assert await asyncio.to_thread(deliveries_of_first, broker, queue) == 1

    ballast.unlink()
    taken = 0
    async with asyncio.timeout(20):
        while taken < len(sent):  # a quorum queue has what was given back a moment later
            taken += await collected(store, parties)
    assert await collected(store, parties) == 0
    await store.close()
    await sender.close()


async def test_disk_that_fills_up_under_way_is_full_and_loses_nothing(
    broker: str, disk: Path, tmp_path: Path
) -> None:
    """The room was there when it was looked at, and gone when it was written to."""
    parties = Parties()
    url = parse_amqp_url(broker)
    sender = RabbitStore(url, parties.network_id, tmp_path / "sender")
    await sender.deposit(*parties.seal(tmp_path, size=3_000_000))
    config = RabbitConfig(disk_floor_bytes=-(1 << 30))  # a floor that sees room where none is
    store = RabbitStore(url, parties.network_id, disk / "staging", config=config)
    ballast = disk / "ballast"
    free_bytes = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(free_bytes - 1_200_000))
    with pytest.raises(MailboxFull):
        await collected(store, parties)
    ballast.unlink()
    assert await collected(store, parties) == 1
    await store.close()
    await sender.close()


async def test_floor_of_free_disk_stops_reading_and_loses_nothing(
    broker: str, tmp_path: Path
) -> None:
    parties = Parties()
    url = parse_amqp_url(broker)
    sender = RabbitStore(url, parties.network_id, tmp_path / "sender")
    await sender.deposit(*parties.seal(tmp_path))
    nothing_free = RabbitConfig(disk_floor_bytes=1 << 60)
    store = RabbitStore(url, parties.network_id, tmp_path / "staging", config=nothing_free)
    for _ in range(3):
        with pytest.raises(MailboxFull):
            await collected(store, parties)
    assert store.counters.stops == 1
    await store.close()
    store = RabbitStore(url, parties.network_id, tmp_path / "staging")
    assert await collected(store, parties) == 1
    await store.close()
    await sender.close()
