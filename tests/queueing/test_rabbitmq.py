"""The RabbitMQ store against a real broker that it shares with other tests."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pika
import pytest

from identity.keys import Identity
from queueing.envelope import open_chunk, open_letter
from queueing.errors import Expired, MailboxFull, NotPermitted, QueueError, Unavailable
from queueing.rabbitmq import RabbitStore, reachable
from queueing.rabbitmq_config import RabbitConfig
from queueing.rabbitmq_link import BrokerLink
from queueing.rabbitmq_messages import (
    ChunkMail,
    Mail,
    ReceiptMail,
    encode_mail,
    mail_queue,
    receipts_queue,
)
from queueing.rabbitmq_url import parse_amqp_url
from queueing.states import State
from queueing.store import DepositReceipt, StoreKind
from tests.queueing.contract import StoreContract
from tests.queueing.letters import HOUR_MS, NETWORK_ID, content_of
from tests.queueing.rabbit_mail import (
    CONTENT,
    NAME,
    Parties,
    SealedChunks,
    now_ms,
    sealed_chunks_of,
)
from tests.queueing.test_courier import Clock, World
from tests.support.broker import free_ports


class RabbitBed:
    """One broker, and a folder a peer."""

    resumes = False
    checks_deposits = True
    checks_chunks = False
    cancels = True
    full_at_bytes = None
    errors = frozenset({Unavailable})

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.stores: dict[bytes, RabbitStore] = {}

    async def store_of(self, identity: Identity) -> RabbitStore:
        if identity.peer_id not in self.stores:
            folder = self.folder / identity.peer_id.hex()
            self.stores[identity.peer_id] = RabbitStore(
                parse_amqp_url(self.url), NETWORK_ID, folder, identity=identity
            )
        return self.stores[identity.peer_id]

    async def second_store_of(self, identity: Identity) -> RabbitStore:
        second = RabbitStore(
            parse_amqp_url(self.url),
            NETWORK_ID,
            self.folder / f"{identity.peer_id.hex()}-second",
            identity=identity,
        )
        self.stores[b"second of " + identity.peer_id] = second
        return second

    @contextlib.asynccontextmanager
    async def failing(
        self, _error: type[QueueError], identity: Identity
    ) -> AsyncIterator[tuple[RabbitStore, int]]:
        (port,) = free_ports(1)
        url = parse_amqp_url(f"amqp://127.0.0.1:{port}/")
        store = RabbitStore(url, NETWORK_ID, self.folder / "cut off", identity=identity)
        yield store, 1000
        await store.close()

    async def crash(self) -> None:
        """Lose all connections and journals; test_rabbitmq_failures.py kills the broker itself."""
        stores, self.stores = self.stores, {}
        for store in stores.values():
            await store.close()

    def now_ms(self) -> int:
        return now_ms()

    async def pass_time(self, until_ms: int) -> None:
        await asyncio.sleep((until_ms + 1 - now_ms()) / 1000)


@pytest.fixture
async def bed(broker: str, tmp_path: Path) -> AsyncIterator[RabbitBed]:
    made = RabbitBed(broker, tmp_path)
    yield made
    await made.crash()


class TestRabbitKeepsTheContract(StoreContract):
    """Every test of the suite, on a broker."""


Opener = Callable[..., RabbitStore]
QUICK = RabbitConfig(connect_timeout_s=1.0, reconnects_max=0)


@pytest.fixture
def parties() -> Parties:
    return Parties()


@pytest.fixture
async def open_store(broker: str, parties: Parties, tmp_path: Path) -> AsyncIterator[Opener]:
    """Open the store of the sender or the recipient; the folder is theirs across openings."""
    async with contextlib.AsyncExitStack() as stack:

        def opener(owner: Identity, config: RabbitConfig | None = None) -> RabbitStore:
            store = RabbitStore(
                parse_amqp_url(broker),
                parties.network_id,
                tmp_path / owner.peer_id.hex(),
                identity=owner,
                config=config,
            )
            stack.push_async_callback(store.close)
            return store

        yield opener


def messages_on_broker(url: str, queue: str) -> list[tuple[pika.BasicProperties, bytes]]:
    """Read a queue as somebody who owns the broker could."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        found = []
        while True:
            method, properties, body = channel.basic_get(queue)
            if method is None:
                return found
            found.append((properties, body))
    finally:
        connection.close()


async def publish(url: str, queue: str, *mails: Mail) -> None:
    link = await BrokerLink.open(parse_amqp_url(url), RabbitConfig())
    await link.declare(queue)
    for mail in mails:
        encoded = encode_mail(mail)
        await link.publish(queue, encoded.headers, encoded.body, "60000")
    await link.close()


async def test_mail_goes_from_sender_to_recipient_and_the_receipt_comes_back(
    open_store: Opener, parties: Parties, tmp_path: Path
) -> None:
    sender, recipient = open_store(parties.sender), open_store(parties.recipient)
    manifest, chunks = parties.seal(tmp_path)
    receipt = await sender.deposit(manifest, chunks)
    assert receipt == DepositReceipt(StoreKind.RABBITMQ, ("rabbitmq",), manifest.expires_ms)
    (delivery,) = [found async for found in recipient.collect(parties.recipient.peer_id)]
    letter = open_letter(parties.recipient, parties.network_id, delivery.manifest)
    content = [open_chunk(letter, i, sealed) async for i, sealed in delivery.chunks()]
    assert letter.name == NAME
    assert b"".join(content) == (tmp_path / NAME).read_bytes()
    assert await sender.receipts(parties.sender.peer_id, [manifest.delivery_id]) == []
    answer = parties.receipt(manifest)
    await delivery.ack(answer)
    await delivery.ack(answer)
    assert await sender.receipts(parties.sender.peer_id, [manifest.delivery_id]) == [answer]
    assert [found async for found in recipient.collect(parties.recipient.peer_id)] == []


async def test_courier_delivers_through_the_broker_while_the_sender_is_away(
    broker: str, tmp_path: Path
) -> None:
    alice, bob = Identity.generate(), Identity.generate()
    content = content_of(1_200_000)
    (tmp_path / "source").write_bytes(content)
    async with contextlib.AsyncExitStack() as closing:
        clock = Clock()
        store = RabbitStore(parse_amqp_url(broker), NETWORK_ID, tmp_path / "staging", wall_ms=clock)
        closing.push_async_callback(store.close)
        world = World(tmp_path, clock, store, closing)  # type: ignore[arg-type]
        sender, recipient = await world.post(alice), await world.post(bob)
        sent = await sender.courier.send(
            tmp_path / "source",
            name="a.txt",
            content_id=b"\1" * 32,
            size=len(content),
            recipient=bob.peer_id,
            recipient_sealing_key=bob.sealing_public_key,
            expires_ms=clock() + HOUR_MS,
        )
        assert (sent.row.state, sent.row.held_by) == (State.STORED, ("rabbitmq",))
        ((letter, path),) = (await recipient.courier.receive_all()).received
        assert (letter.name, Path(path).read_bytes()) == ("a.txt", content)
        assert (await recipient.courier.receive_all()).received == []
        await sender.courier.poll_receipts()
        (row,) = await sender.courier.rows()
        assert row.state is State.DELIVERED


async def test_the_broker_sees_neither_name_nor_content_and_keeps_it_on_disk(
    open_store: Opener, parties: Parties, tmp_path: Path, broker: str
) -> None:
    manifest, chunks = parties.seal(tmp_path)
    await open_store(parties.sender).deposit(manifest, chunks)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    found = await asyncio.to_thread(messages_on_broker, broker, queue)
    assert len(found) == manifest.count + 1
    everything = b"".join(repr(vars(properties)).encode() + body for properties, body in found)
    for secret in (NAME.encode(), CONTENT, (b"\1" * 32).hex().encode(), b"\1" * 32):
        assert secret not in everything
    assert {properties.delivery_mode for properties, _ in found} == {2}


async def test_mail_waits_on_the_broker_no_longer_than_its_expiry(
    open_store: Opener, parties: Parties, tmp_path: Path, broker: str
) -> None:
    manifest, chunks = parties.seal(tmp_path, lives_ms=1_500)
    store = open_store(parties.sender)
    await store.deposit(manifest, chunks)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    link = await BrokerLink.open(parse_amqp_url(broker), RabbitConfig())
    async with asyncio.timeout(10):
        while await link.ready(queue):  # each look is a question to the broker
            pass
    await link.close()
    assert now_ms() >= manifest.expires_ms
    with pytest.raises(Expired):
        await store.deposit(manifest, chunks)


async def test_poison_is_dropped_and_counted_and_holds_up_nothing(
    open_store: Opener, parties: Parties, tmp_path: Path, broker: str
) -> None:
    manifest, chunks = parties.seal(tmp_path)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    await publish(broker, queue, ReceiptMail(b"\3" * 32, b""))  # an empty one is none
    await open_store(parties.sender).deposit(manifest, chunks)
    await publish(broker, queue, ChunkMail(manifest.delivery_id, 0, manifest.count, b"damaged"))
    recipient = open_store(parties.recipient)
    found = [delivery async for delivery in recipient.collect(parties.recipient.peer_id)]
    assert [delivery.manifest.delivery_id for delivery in found] == [manifest.delivery_id]
    assert recipient.counters.poison == 2
    assert await asyncio.to_thread(messages_on_broker, broker, queue) == []


class TornChunks(SealedChunks):
    """A source whose sender dies on the way."""

    def __init__(self, whole: SealedChunks, dies_at: int) -> None:
        super().__init__(whole.chunks)
        self.dies_at = dies_at

    async def read(self, index: int) -> bytes:
        if index == self.dies_at:
            raise EOFError
        return await super().read(index)


async def test_torn_deposit_holds_up_nobody_and_is_completed_later(
    open_store: Opener, parties: Parties, tmp_path: Path
) -> None:
    torn, torn_chunks = parties.seal(tmp_path)
    whole, whole_chunks = parties.seal(tmp_path)
    sender, recipient = open_store(parties.sender), open_store(parties.recipient)
    with pytest.raises(EOFError):
        await sender.deposit(torn, TornChunks(torn_chunks, 2))
    await sender.deposit(whole, whole_chunks)
    me = parties.recipient.peer_id
    found = [delivery async for delivery in recipient.collect(me)]
    assert [delivery.manifest for delivery in found] == [whole]
    await found[0].ack(parties.receipt(whole))
    await sender.deposit(torn, torn_chunks)
    (delivery,) = [delivery async for delivery in recipient.collect(me)]
    assert await sealed_chunks_of(delivery) == torn_chunks.chunks


async def test_recipient_that_dies_before_its_ack_finds_the_mail_again(
    open_store: Opener, parties: Parties, tmp_path: Path
) -> None:
    manifest, chunks = parties.seal(tmp_path)
    await open_store(parties.sender).deposit(manifest, chunks)
    me = parties.recipient.peer_id
    for _ in range(2):
        recipient = open_store(parties.recipient)
        (delivery,) = [delivery async for delivery in recipient.collect(me)]
        assert await sealed_chunks_of(delivery) == chunks.chunks
        await recipient.close()


async def test_repeated_deposit_is_one_delivery_even_after_its_ack(
    open_store: Opener, parties: Parties, tmp_path: Path
) -> None:
    manifest, chunks = parties.seal(tmp_path)
    sender, recipient = open_store(parties.sender), open_store(parties.recipient)
    me = parties.recipient.peer_id
    await asyncio.gather(*(sender.deposit(manifest, chunks) for _ in range(3)))
    (delivery,) = [delivery async for delivery in recipient.collect(me)]
    await delivery.ack(parties.receipt(manifest))
    await sender.deposit(manifest, chunks)
    assert [delivery async for delivery in recipient.collect(me)] == []


async def test_cancel_that_stands_behind_a_delivery_counts(
    open_store: Opener, parties: Parties, tmp_path: Path
) -> None:
    cancelled, cancelled_chunks = parties.seal(tmp_path)
    kept, kept_chunks = parties.seal(tmp_path)
    sender, recipient = open_store(parties.sender), open_store(parties.recipient)
    await sender.deposit(cancelled, cancelled_chunks)
    await sender.deposit(kept, kept_chunks)
    with pytest.raises(NotPermitted):
        await recipient.cancel(cancelled)
    assert await sender.cancel(cancelled)
    assert not await sender.cancel(cancelled)
    found = [delivery async for delivery in recipient.collect(parties.recipient.peer_id)]
    assert [delivery.manifest for delivery in found] == [kept]


async def test_full_staging_folder_is_emptied_by_acks_while_collecting(
    open_store: Opener, parties: Parties, tmp_path: Path
) -> None:
    sender = open_store(parties.sender)
    deposited = []
    for _ in range(4):
        manifest, chunks = parties.seal(tmp_path)
        await sender.deposit(manifest, chunks)
        deposited.append(manifest)
    recipient = open_store(parties.recipient, RabbitConfig(staging_bytes_max=3_000_000))
    taken = []
    async for delivery in recipient.collect(parties.recipient.peer_id):
        taken.append(delivery.manifest)
        await delivery.ack(parties.receipt(delivery.manifest))
    assert taken == deposited


async def test_full_staging_folder_without_acks_is_told_and_loses_nothing(
    open_store: Opener, parties: Parties, tmp_path: Path
) -> None:
    sender = open_store(parties.sender)
    for _ in range(3):
        await sender.deposit(*parties.seal(tmp_path))
    me = parties.recipient.peer_id
    small = open_store(parties.recipient, RabbitConfig(staging_bytes_max=3_000_000))
    mail = small.collect(me)
    assert [await anext(mail), await anext(mail)]
    with pytest.raises(MailboxFull):
        await anext(mail)
    await small.close()
    large = open_store(parties.recipient)
    assert len([delivery async for delivery in large.collect(me)]) == 3


async def test_queue_that_the_operator_limits_is_a_full_mailbox(
    open_store: Opener, parties: Parties, tmp_path: Path, broker: str
) -> None:
    def declare_limited() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(broker))
        limits = {"x-max-length": 2, "x-overflow": "reject-publish"}
        queue = mail_queue(parties.network_id, parties.recipient.peer_id)
        connection.channel().queue_declare(queue, durable=True, arguments=limits)
        connection.close()

    await asyncio.to_thread(declare_limited)
    sender, recipient = open_store(parties.sender), open_store(parties.recipient)
    with pytest.raises(MailboxFull):
        await sender.deposit(*parties.seal(tmp_path, size=5_000_000))
    assert [found async for found in recipient.collect(parties.recipient.peer_id)] == []
    await sender.deposit(*parties.seal(tmp_path, size=10))
    assert len([found async for found in recipient.collect(parties.recipient.peer_id)]) == 1


async def test_second_reader_of_one_mailbox_is_kept_out(
    open_store: Opener, parties: Parties, tmp_path: Path, broker: str
) -> None:
    await open_store(parties.sender).deposit(*parties.seal(tmp_path))
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    first = await BrokerLink.open(parse_amqp_url(broker), RabbitConfig(prefetch_max=1))
    first.consume(queue)
    assert await first.received(5)
    second = open_store(parties.recipient, QUICK)
    with pytest.raises(Unavailable, match="another process"):
        _ = [delivery async for delivery in second.collect(parties.recipient.peer_id)]
    await first.close()
    assert len([found async for found in second.collect(parties.recipient.peer_id)]) == 1


async def test_receipts_stay_in_the_folder_until_they_were_asked_for(
    open_store: Opener, parties: Parties, tmp_path: Path, broker: str
) -> None:
    manifest, chunks = parties.seal(tmp_path)
    sender, recipient = open_store(parties.sender), open_store(parties.recipient)
    await sender.deposit(manifest, chunks)
    (delivery,) = [found async for found in recipient.collect(parties.recipient.peer_id)]
    await delivery.reject("no room", parties.receipt(manifest))
    me = parties.sender.peer_id
    assert await sender.receipts(me, []) == []
    queue = receipts_queue(parties.network_id, me)
    assert await asyncio.to_thread(messages_on_broker, broker, queue) == []
    await sender.close()
    reopened = open_store(parties.sender)
    assert len(await reopened.receipts(me, [manifest.delivery_id])) == 1


async def test_wrong_password_is_not_permitted_and_stays_secret(broker: str) -> None:
    wrong = broker.replace("guest:guest@", "guest:hunter2@")
    with pytest.raises(NotPermitted) as caught:
        await reachable(wrong)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(NotPermitted):
        await reachable(broker.replace("/%2F", "/no-such-virtual-host"))
    await reachable(broker)


async def test_closed_port_is_unavailable_at_once(parties: Parties, tmp_path: Path) -> None:
    url = parse_amqp_url(f"amqp://127.0.0.1:{free_ports(1)[0]}")
    store = RabbitStore(url, parties.network_id, tmp_path / "staging")
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await store.deposit(*parties.seal(tmp_path))
    with pytest.raises(Unavailable):
        _ = [found async for found in store.collect(parties.recipient.peer_id)]
    assert time.monotonic() - began < 2
    await store.close()


async def test_port_that_says_nothing_is_unavailable_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await reachable(f"amqp://127.0.0.1:{port}", timeout_s=0.5)
    assert time.monotonic() - began < 3
    server.close()
    await server.wait_closed()
