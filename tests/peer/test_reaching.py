"""Where a peer is: its own answer counts, whatever contacts and records say."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dht.records import PeerPayload
from identity.address import Address
from identity.network import BootstrapNode
from peer import reaching
from peer.core import Core
from peer.reaching import whereabouts
from rpc.errors import Unreachable
from rpc.listener import RpcListener
from tests.dht.nodes import until
from tests.peer.cores import NETWORK, address_of, cores_of

NOBODY = Address("127.0.0.1", 9)


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[list[Core]]:
    async with cores_of(tmp_path / "homes", "ada", "bob", "cat") as cores:
        await until(lambda: all(len(core.dht.contacts()) == 2 for core in cores))
        yield cores


def record_of(core: Core, *addresses: Address) -> PeerPayload:
    here_until_ms = core.dht.now_ms() + 3_600_000
    return PeerPayload("bob", addresses, b"s" * 32, here_until_ms)


def sent_by(core: Core) -> int:
    return core.dht.counters()["datagrams-sent"]


async def test_contact_heard_of_just_now_is_not_asked_again(trio: list[Core]) -> None:
    ada, bob, _ = trio
    await ada.dht.check()
    before = sent_by(ada)
    assert await ada.locate(bob.identity.peer_id) == (address_of(bob),)
    assert sent_by(ada) == before


async def test_contact_not_heard_of_lately_is_asked(
    trio: list[Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "FRESH_S", 0.0)
    ada, bob, cat = trio
    before = sent_by(ada)
    assert await ada.locate(bob.identity.peer_id) == (address_of(bob),)
    assert sent_by(ada) > before
    gone = address_of(cat)
    await cat.dht.close()
    began = time.monotonic()
    assert await ada.locate(cat.identity.peer_id, [gone]) == ()
    assert time.monotonic() - began < 1.5


async def test_wrong_hints_hide_a_peer_as_little_as_they_name_another(trio: list[Core]) -> None:
    ada, bob, cat = trio
    await bob.dht.publish([record_of(bob, address_of(bob))])
    await ada.dht.close()
    await ada.dht.listen("127.0.0.1", 0)  # it knows nobody but by what it is told
    await ada.dht.hello_address(address_of(cat))
    hints = [NOBODY, address_of(cat)]
    assert await whereabouts(ada.dht, bob.identity.peer_id, hints) == address_of(bob)
    assert await whereabouts(ada.dht, b"n" * 20, hints) is None


async def test_peer_that_moved_is_found_by_its_record_when_its_old_address_refuses(
    trio: list[Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob, cat = trio
    await ada.dht.check()
    stale = ada.dht.contact(bob.identity.peer_id)
    assert stale is not None
    await bob.dht.close()
    await bob.dht.listen("127.0.0.1", 0)
    await bob.dht.hello_address(address_of(cat))
    await bob.dht.publish([record_of(bob, stale.address, address_of(bob))])
    # ada heard of bob at its old address a moment ago, and takes it for being there.
    monkeypatch.setattr(ada.dht, "contact", lambda _peer_id: stale)
    assert await ada.locate(bob.identity.peer_id) == (stale.address,)
    listener = RpcListener(bob.tls, NETWORK)
    await listener.start("127.0.0.1", bob.dht.bound.port)
    try:
        channel = await ada.connect(bob.identity.peer_id)
        assert channel is await ada.channels.connect(bob.identity.peer_id, [address_of(bob)])
    finally:
        await listener.stop(0.1)


async def test_peer_without_a_listener_is_unreachable_and_sought_only_once_more(
    trio: list[Core],
) -> None:
    ada, bob, _ = trio
    await ada.dht.check()
    with pytest.raises(Unreachable):
        await ada.connect(bob.identity.peer_id)


async def test_loopback_in_a_record_is_not_greeted_by_a_peer_that_listens_elsewhere(
    trio: list[Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "FRESH_S", 0.0)
    ada, bob, cat = trio
    asked: list[Address] = []

    async def hello_address(address: Address, timeout_s: float = 2.0) -> None:
        asked.append(address)

    monkeypatch.setattr(ada.dht, "usable", lambda _addresses: [])
    monkeypatch.setattr(ada.dht, "hello_address", hello_address)
    await bob.dht.publish([record_of(bob, address_of(bob))])
    await bob.dht.close()
    assert await ada.locate(bob.identity.peer_id, [address_of(cat)]) == ()
    assert asked == []


async def test_ourselves_are_where_the_hints_say(trio: list[Core]) -> None:
    ada = trio[0]
    assert await ada.locate(ada.identity.peer_id, [NOBODY]) == (NOBODY,)


async def test_lonely_peer_finds_nobody_at_once(tmp_path: Path) -> None:
    async with cores_of(tmp_path, "ada") as [ada]:
        assert await ada.locate(b"n" * 20) == ()
        assert await ada.dht.bootstrap([BootstrapNode(address_of(ada))]) == 0
