"""Offers rank by holders that answer: those that only signed records count last."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dht.config import DhtConfig
from dht.node import DhtNode
from dht.records import NamePayload, PeerPayload, WordPayload
from identity.address import Address
from identity.keys import Identity
from identity.network import BootstrapNode
from peer import proving
from peer.core import Core
from peer.fetching import Fetching
from peer.finding import Holder, Offer
from peer.proving import Proving
from tests.peer.cores import NETWORK, QUICK, address_of, cores_of

FAKE, WANTED = b"f" * 32, b"w" * 32
NAME = "whale song.ogg"


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[list[Core]]:
    async with cores_of(tmp_path / "homes", "ada", "bob", "cat") as cores:
        yield cores


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as long as ever for holders: a busy machine answers late."""
    monkeypatch.setattr(proving, "ASK_MIN_S", proving.ASK_MAX_S)


@contextlib.asynccontextmanager
async def stranger(entry: Core, content_id: bytes, name: str = NAME) -> AsyncIterator[DhtNode]:
    """A holder that is in nobody's table, as most are in a large network."""
    node = DhtNode(Identity.generate(), NETWORK, nickname="s", config=DhtConfig(client=True))
    await node.listen("127.0.0.1", 0)
    try:
        await node.bootstrap([BootstrapNode(address_of(entry))])
        here = (Address("127.0.0.1", node.bound.port),)
        await node.publish(
            [
                NamePayload(name, content_id, 7),
                WordPayload("whale", name, content_id, 7),
                PeerPayload("s", here, b"s" * 32, node.now_ms() + 3_600_000),
            ]
        )
        yield node
    finally:
        await node.close()


async def forget(core: Core, entry: Core) -> None:
    """Let a peer know nobody but what its next lookups meet."""
    await core.dht.close()
    core.dht = DhtNode(core.identity, NETWORK, nickname="ada", config=QUICK)
    await core.dht.listen("127.0.0.1", 0)
    await core.dht.bootstrap([BootstrapNode(address_of(entry))])


@pytest.mark.usefixtures("patient")
async def test_contents_whose_holders_answer_come_before_those_that_many_only_claim(
    trio: list[Core],
) -> None:
    ada, bob, _ = trio
    for _ in range(3):
        async with stranger(bob, FAKE):
            pass  # published and gone
    async with stranger(bob, WANTED) as holder:
        await forget(ada, bob)
        assert ada.dht.contact(holder.peer_id) is None
        fetching = Fetching(ada)
        for offers in (
            await fetching.search(["whale"], 50),
            await fetching.offers_named(NAME),
        ):
            assert [offer.content_id for offer in offers] == [WANTED, FAKE]
            assert [len(offer.holders) for offer in offers] == [1, 3]
        assert [o.content_id for o in await fetching.search(["whale"], 1)] == [WANTED]


@pytest.mark.usefixtures("patient")
async def test_holder_that_answered_lately_is_not_asked_and_a_silent_one_not_again(
    trio: list[Core],
) -> None:
    ada, bob, cat = trio
    async with stranger(bob, FAKE):
        pass
    await bob.dht.publish([NamePayload(NAME, WANTED, 7)])
    await cat.dht.publish([NamePayload(NAME, WANTED, 7)])
    await forget(ada, bob)
    fetching = Fetching(ada)
    offers = await fetching.offers_named(NAME)
    assert [offer.content_id for offer in offers] == [WANTED, FAKE]
    asked = ada.dht.counters()["datagrams-sent"]
    await ada.dht.find_name(NAME)
    only_found = ada.dht.counters()["datagrams-sent"] - asked
    asked = ada.dht.counters()["datagrams-sent"]
    assert await fetching.offers_named(NAME) == offers
    assert ada.dht.counters()["datagrams-sent"] - asked == only_found


async def test_holder_not_heard_of_lately_is_asked_where_it_was(trio: list[Core]) -> None:
    ada, bob, cat = trio
    await ada.dht.check()
    await cat.dht.close()
    for contact in ada.dht.engine.table.contacts():
        assert contact.last_seen is not None
        contact.last_seen -= 2 * proving.LATELY_S
    offers = [
        Offer(NAME, content_id, 7, (Holder(core.dht.peer_id, ()),))
        for content_id, core in ((FAKE, cat), (WANTED, bob))
    ]
    began = time.monotonic()
    best, worst = await Proving(ada.dht).rank(offers, took_s=0.0)
    assert time.monotonic() - began < proving.ASK_MAX_S
    assert (best.content_id, worst.content_id) == (WANTED, FAKE)


async def test_a_single_content_is_not_ranked_and_nobody_asked_for_it(trio: list[Core]) -> None:
    ada, bob, _ = trio
    async with stranger(bob, WANTED) as holder:
        await forget(ada, bob)
        [offer] = await Fetching(ada).search(["whale"], 50)
        assert offer.content_id == WANTED
        assert ada.dht.contact(holder.peer_id) is None
