"""Large deliveries where there is a broker: a claim there, the chunks with mailbox peers."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.keys import show_peer_id
from queueing.envelope import OuterManifest
from queueing.errors import MailboxFull, NoMailbox
from queueing.rabbitmq import HELD_BY, RabbitStore
from queueing.rabbitmq_claims import ClaimingStore
from queueing.rabbitmq_messages import (
    CLAIM_HOSTS_MAX,
    ClaimMail,
    decode_mail,
    encode_mail,
    mail_queue,
)
from queueing.rabbitmq_url import parse_amqp_url
from queueing.spool import Spool
from queueing.spool_index import SpoolConfig
from queueing.store import ChunkSource, DepositReceipt, StoreKind
from tests.queueing.rabbit_mail import Parties, now_ms
from tests.support.broker import free_ports

HOSTS = tuple(bytes([n]) * 20 for n in range(1, 4))
with tempfile.TemporaryDirectory() as _folder:
    MANIFEST, _ = Parties().seal(Path(_folder), size=10)
SMALL, LARGE = 100_000, 900_000
LIMIT_BYTES = 600_000


class Mailboxes(Spool):
    """Mailbox peers, as far as this store sees them: they keep it, or none of them is there."""

    kind = StoreKind.MAILBOX
    failure: Exception | None = None

    async def deposit(self, manifest: OuterManifest, chunks: ChunkSource) -> DepositReceipt:
        if self.failure is not None:
            raise self.failure
        await super().deposit(manifest, chunks)
        names = tuple(show_peer_id(host) for host in HOSTS)
        return DepositReceipt(self.kind, names, manifest.expires_ms)


class Side:
    """A peer with a broker and mailboxes."""

    def __init__(self, url: str, parties: Parties, folder: Path, mailboxes: Mailboxes) -> None:
        self.told: list[Sequence[bytes]] = []
        self.broker = RabbitStore(parse_amqp_url(url), parties.network_id, folder)
        self.store = ClaimingStore(
            self.broker, mailboxes, whole_bytes_max=LIMIT_BYTES, on_claim=self.told.append
        )

    async def collect(self, parties: Parties) -> list[bytes]:
        me = parties.recipient.peer_id
        return [found.manifest.delivery_id async for found in self.store.collect(me)]


@pytest.fixture
def parties() -> Parties:
    return Parties()


@pytest.fixture
async def mailboxes(parties: Parties, tmp_path: Path) -> AsyncIterator[Mailboxes]:
    spool = await Mailboxes.open(
        tmp_path / "mailboxes", parties.network_id, wall_ms=now_ms, config=SpoolConfig()
    )
    assert isinstance(spool, Mailboxes)
    yield spool
    await spool.close()


@pytest.fixture
async def sides(
    broker: str, parties: Parties, mailboxes: Mailboxes, tmp_path: Path
) -> AsyncIterator[tuple[Side, Side]]:
    sides = [Side(broker, parties, tmp_path / name, mailboxes) for name in ("ada", "bob")]
    yield sides[0], sides[1]
    for side in sides:
        await side.store.close()


async def test_small_delivery_is_whole_on_the_broker_and_a_large_one_a_claim(
    sides: tuple[Side, Side], mailboxes: Mailboxes, parties: Parties, tmp_path: Path
) -> None:
    ada, bob = sides
    small, large = parties.seal(tmp_path, size=SMALL), parties.seal(tmp_path, size=LARGE)
    kept = await ada.store.deposit(*small)
    assert (kept.kind, kept.held_by) == (StoreKind.RABBITMQ, (HELD_BY,))
    kept = await ada.store.deposit(*large)
    assert kept.kind is StoreKind.MAILBOX  # its hosts are audited and replaced like all others
    assert kept.held_by == (*(show_peer_id(host) for host in HOSTS), HELD_BY)
    assert await mailboxes.keeps(large[0].delivery_id)
    assert not await mailboxes.keeps(small[0].delivery_id)
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    assert await ada.broker._publisher.look(queue) == 1 + small[0].count + 1
    assert await bob.collect(parties) == [small[0].delivery_id]
    assert bob.told == [list(HOSTS)]


async def test_claim_is_told_once_a_run_and_again_after_a_restart(
    sides: tuple[Side, Side], broker: str, mailboxes: Mailboxes, parties: Parties, tmp_path: Path
) -> None:
    ada, bob = sides
    await ada.store.deposit(*parties.seal(tmp_path, size=LARGE))
    for _ in range(2):
        assert await bob.collect(parties) == []
    assert len(bob.told) == 1
    await bob.store.close()
    again = Side(broker, parties, tmp_path / "bob", mailboxes)
    await again.collect(parties)
    assert again.told == bob.told
    await again.store.close()


async def test_where_no_peer_keeps_mail_the_broker_gets_the_whole(
    sides: tuple[Side, Side], mailboxes: Mailboxes, parties: Parties, tmp_path: Path
) -> None:
    ada, bob = sides
    large = parties.seal(tmp_path, size=LARGE)
    mailboxes.failure = NoMailbox()
    assert (await ada.store.deposit(*large)).held_by == (HELD_BY,)
    assert await bob.collect(parties) == [large[0].delivery_id]
    mailboxes.failure = MailboxFull()  # they are there, and say no: so does this store
    with pytest.raises(MailboxFull):
        await ada.store.deposit(*parties.seal(tmp_path, size=LARGE))


async def test_large_delivery_is_stored_though_the_broker_is_down(
    parties: Parties, mailboxes: Mailboxes, tmp_path: Path
) -> None:
    down = f"amqp://127.0.0.1:{free_ports(1)[0]}"
    ada = Side(down, parties, tmp_path / "ada", mailboxes)
    kept = await ada.store.deposit(*parties.seal(tmp_path, size=LARGE))
    assert (kept.kind, HELD_BY in kept.held_by) == (StoreKind.MAILBOX, False)
    assert ada.store.claim_failures == 1
    await ada.store.close()


async def test_claim_for_another_or_by_nobody_is_poison_and_tells_nothing(
    sides: tuple[Side, Side], broker: str, parties: Parties, tmp_path: Path
) -> None:
    _, bob = sides
    foreign = Parties()
    manifest, _ = foreign.seal(tmp_path)
    sender = RabbitStore(parse_amqp_url(broker), parties.network_id, tmp_path / "mallory")
    queue = mail_queue(parties.network_id, parties.recipient.peer_id)
    await sender._publisher.publish(
        queue, ClaimMail(manifest, HOSTS), manifest.expires_ms, declare=True
    )
    assert await bob.collect(parties) == []
    assert bob.told == []
    assert bob.broker.counters.poison == 1
    await sender.close()


@given(st.lists(st.binary(min_size=20, max_size=20), min_size=1, max_size=CLAIM_HOSTS_MAX))
def test_claim_reads_back_with_each_host_once(hosts: list[bytes]) -> None:
    encoded = encode_mail(ClaimMail(MANIFEST, tuple(hosts)))
    assert decode_mail(encoded.headers, encoded.body) == ClaimMail(
        MANIFEST, tuple(dict.fromkeys(hosts))
    )


@given(st.binary(max_size=2_000))
def test_claim_of_any_bytes_is_none_or_well_formed(body: bytes) -> None:
    headers = {"shoal": "claim", "delivery": MANIFEST.delivery_id.hex()}
    assert decode_mail(headers, body) is None
    spliced = bytes([len(body) % 17]) + body + MANIFEST.encoded
    claim = decode_mail(headers, spliced)
    assert claim is None or isinstance(claim, ClaimMail)
