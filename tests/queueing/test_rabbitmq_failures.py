"""The RabbitMQ store against a broker that is killed, starved and locked down."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from queueing.errors import Blocked, NoMailbox, Unavailable
from queueing.rabbitmq import RabbitStore
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_url import parse_amqp_url
from tests.queueing.rabbit_mail import Parties, SealedChunks, sealed_chunks_of
from tests.support.broker import PrivateBroker

PATIENT = RabbitConfig(reconnects_max=60, reconnect_pause_max_s=0.5)


@contextlib.asynccontextmanager
async def stores(
    url: str, parties: Parties, folder: Path, config: RabbitConfig = PATIENT
) -> AsyncIterator[tuple[RabbitStore, RabbitStore]]:
    address = parse_amqp_url(url)
    sender, recipient = (
        RabbitStore(address, parties.network_id, folder / name, config=config)
        for name in ("sender", "recipient")
    )
    try:
        yield sender, recipient
    finally:
        await sender.close()
        await recipient.close()


class DisturbedChunks(SealedChunks):
    """A source that kills the broker when a chunk in the middle is read, and counts reads."""

    def __init__(self, whole: SealedChunks, broker: PrivateBroker, at: int) -> None:
        super().__init__(whole.chunks)
        self.broker = broker
        self.at = at
        self.reads = 0

    async def read(self, index: int) -> bytes:
        self.reads += 1
        if index == self.at and self.reads == index + 1:
            # In one go: a chunk that is read ahead is given up when the connection is lost.
            await asyncio.to_thread(self._kill_and_start)
        return await super().read(index)

    def _kill_and_start(self) -> None:
        self.broker.kill()
        self.broker.start()


async def test_deposit_survives_the_death_of_the_broker_and_sends_only_what_is_unconfirmed(
    broker_control: PrivateBroker, tmp_path: Path
) -> None:
    parties = Parties()
    manifest, chunks = parties.seal(tmp_path, size=10_000_000)
    # A window of two: but for these, and the one read ahead, all is confirmed before the kill.
    config = RabbitConfig(window_max=2, reconnects_max=60, reconnect_pause_max_s=0.5)
    async with stores(broker_control.url, parties, tmp_path, config) as (sender, recipient):
        disturbed = DisturbedChunks(chunks, broker_control, at=12)
        await sender.deposit(manifest, disturbed)
        assert sender.counters.reconnects >= 1
        # All again only where the killed broker came back without the queue itself.
        again = manifest.count * sender.counters.restored
        assert manifest.count < disturbed.reads <= manifest.count + 5 + again
        me = parties.recipient.peer_id
        (delivery,) = [found async for found in recipient.collect(me)]
        assert await sealed_chunks_of(delivery) == chunks.chunks


async def test_delivery_stays_with_the_recipient_until_the_broker_took_the_receipt(
    broker_control: PrivateBroker, tmp_path: Path
) -> None:
    parties = Parties()
    manifest, chunks = parties.seal(tmp_path)
    impatient = RabbitConfig(reconnects_max=0)
    me = parties.recipient.peer_id
    async with stores(broker_control.url, parties, tmp_path, impatient) as (sender, recipient):
        await sender.deposit(manifest, chunks)
        (delivery,) = [found async for found in recipient.collect(me)]
        await asyncio.to_thread(broker_control.kill)
        try:
            with pytest.raises(Unavailable):
                await delivery.ack(parties.receipt(manifest))
        finally:
            await asyncio.to_thread(broker_control.start)
        (delivery,) = [found async for found in recipient.collect(me)]
        await delivery.ack(parties.receipt(manifest))
        assert [found async for found in recipient.collect(me)] == []


async def close_while_blocked(url: str, parties: Parties, folder: Path) -> None:
    config = RabbitConfig(blocked_timeout_s=60)
    store = RabbitStore(parse_amqp_url(url), parties.network_id, folder / "blocked", config=config)
    deposit = asyncio.create_task(store.deposit(*parties.seal(folder)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(deposit), 0.5)
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < 4
    with pytest.raises(Unavailable):
        await deposit


async def test_memory_alarm_of_the_broker_is_blocked_and_passes(
    broker_control: PrivateBroker, tmp_path: Path
) -> None:
    parties = Parties()
    manifest, chunks = parties.seal(tmp_path)
    config = RabbitConfig(blocked_timeout_s=0.5)
    async with stores(broker_control.url, parties, tmp_path, config) as (sender, recipient):
        await asyncio.to_thread(broker_control.starve)
        began = time.monotonic()
        try:
            with pytest.raises(Blocked):
                await sender.deposit(manifest, chunks)
            assert time.monotonic() - began < 10
            await close_while_blocked(broker_control.url, parties, tmp_path)
        finally:
            await asyncio.to_thread(broker_control.feed)
        await sender.deposit(manifest, chunks)
        found = [delivery async for delivery in recipient.collect(parties.recipient.peer_id)]
        assert len(found) == 1


async def test_sender_without_the_right_to_declare_waits_for_the_recipient(
    broker_control: PrivateBroker, tmp_path: Path
) -> None:
    parties = Parties()
    manifest, chunks = parties.seal(tmp_path)
    await asyncio.to_thread(broker_control.control, "add_user", "writer", "pass")
    rights = ("^$", r"^amq\.default$", "^$")
    await asyncio.to_thread(broker_control.control, "set_permissions", "-p", "/", "writer", *rights)
    limited_url = broker_control.url.replace("guest:guest@", "writer:pass@")
    me = parties.recipient.peer_id
    async with (
        stores(limited_url, parties, tmp_path / "writer") as (limited, _),
        stores(broker_control.url, parties, tmp_path / "reader") as (_, recipient),
    ):
        with pytest.raises(NoMailbox):
            await limited.deposit(manifest, chunks)
        assert [found async for found in recipient.collect(me)] == []
        await limited.deposit(manifest, chunks)
        assert len([found async for found in recipient.collect(me)]) == 1
