from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity.keys import show_peer_id
from peer import presence as presence_module
from peer.contacts import KnownPeer
from peer.core import Core
from peer.presence import Presence
from peer.resolve import Named
from peer.views import PeerState
from tests.peer.cores import address_of, cores_of


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[list[Core]]:
    async with cores_of(tmp_path / "homes", "ada", "bob") as cores:
        yield cores


async def test_peer_that_answers_is_active_with_its_round_trip(pair: list[Core]) -> None:
    ada, bob = pair
    (view,) = await Presence(ada).current()
    assert view.id == show_peer_id(bob.identity.peer_id)
    assert (view.nickname, view.address) == ("bob", str(address_of(bob)))
    assert view.state is PeerState.ACTIVE
    assert view.rtt_ms is not None
    assert view.last_seen is not None


async def test_peer_that_was_killed_is_inactive_as_soon_as_somebody_asks(pair: list[Core]) -> None:
    ada, bob = pair
    presence = Presence(ada)
    await presence.current()
    await bob.dht.close()  # without a farewell
    (view,) = await presence.current()
    assert view.state is PeerState.INACTIVE


async def test_peers_of_earlier_runs_are_shown_inactive_and_ourselves_never(
    pair: list[Core],
) -> None:
    ada = pair[0]
    ada.contacts.seen(
        [
            KnownPeer(b"e" * 20, "eve", "192.0.2.9:4100", 1_000),
            KnownPeer(ada.identity.peer_id, "ada", "192.0.2.1:4100", 2_000),
        ]
    )
    first, second = await Presence(ada).current()
    assert (first.nickname, first.state) == ("bob", PeerState.ACTIVE)
    assert (second.nickname, second.state) == ("eve", PeerState.INACTIVE)
    assert (second.last_seen, second.rtt_ms) == ("1970-01-01T00:00:01Z", None)
    assert {each.nickname for each in ada.contacts.known()} == {"ada", "bob", "eve"}


async def test_looking_without_asking_writes_nothing(pair: list[Core]) -> None:
    ada = pair[0]
    assert len(Presence(ada).known()) == 1
    assert ada.contacts.known() == []
    Presence(ada).remember()
    (known,) = ada.contacts.known()
    assert known.nickname == "bob"


async def test_what_is_shown_is_bounded_and_the_active_are_never_cut(
    pair: list[Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "PEERS_SHOWN_MAX", 3)
    ada = pair[0]
    ada.contacts.seen([KnownPeer(bytes([n]) * 20, f"a{n}", "192.0.2.9:4100", n) for n in range(10)])
    views = Presence(ada).known()
    assert len(views) == 3
    assert views[0].nickname == "bob"


async def test_names_hold_the_peers_here_and_those_seen_before_by_their_latest_name(
    pair: list[Core],
) -> None:
    ada, bob = pair
    ada.contacts.seen(
        [
            KnownPeer(bob.identity.peer_id, "robert", "192.0.2.9:4100", 1),
            KnownPeer(b"e" * 20, "eve", "192.0.2.9:4100", 1),
        ]
    )
    assert sorted(Presence(ada).named(), key=lambda each: each.nickname) == [
        Named(bob.identity.peer_id, "bob"),
        Named(b"e" * 20, "eve"),
    ]
