"""Whom PEER means, by real processes: nicknames, ids and beginnings of ids, pins and contacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deliveries import inbox_files, send, write_file
from tests.support.processes import PeerProcess, joined


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PeerProcess]]:
    """Ada, who asks, and peers of whom two will call themselves the same."""
    with joined(tmp_path_factory.mktemp("street"), "ada", "bob", "carol") as peers:
        yield peers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_file(tmp_path, "letter.txt", 100)


def network_of(peer: PeerProcess) -> Path:
    return peer.folder.parent / "network.json"


def test_contacts_are_added_listed_and_removed(street: list[PeerProcess]) -> None:
    ada, bob, carol = street
    assert ada.json("contact", "list") == []
    (added,) = ada.json("contact", "add", "my friend", bob.id)
    assert added == {"nickname": "my friend", "id": bob.id, "added": True}
    assert ada.json("contact", "list") == [added]
    (changed,) = ada.json("contact", "add", "my friend", carol.id)
    assert ada.json("contact", "list") == [changed]
    done = ada.run("contact", "list")
    assert done.stdout == f"my friend\t{carol.id}\tyes\n"
    assert ada.json("contact", "remove", "my friend") == [changed]
    assert ada.json("contact", "list") == []
    done = ada.run("contact", "remove", "my friend")
    assert (done.code, done.stdout) == (3, "")


@pytest.mark.parametrize(
    "words", [["nick", "too-short"], ["nick", "0" * 32], ["", "{id}"], ["x" * 65, "{id}"]]
)
def test_contact_that_cannot_be_is_refused(words: list[str], street: list[PeerProcess]) -> None:
    ada, bob, _carol = street
    done = ada.run("contact", "add", *(word.format(id=bob.id) for word in words))
    assert done.code == 2
    assert done.stderr.startswith("shoal: ")
    assert ada.json("contact", "list") == []


def test_contact_means_its_id_under_any_nickname(street: list[PeerProcess], source: Path) -> None:
    ada, bob, _carol = street
    ada.json("contact", "add", "somebody", bob.id)
    assert send(ada, source, "somebody")["to"] == bob.id
    ada.json("contact", "remove", "somebody")
    assert ada.run("put", str(source), "--to", "somebody").code == 3


def test_two_peers_of_one_nickname_are_listed_and_neither_is_followed(
    street: list[PeerProcess], source: Path, tmp_path: Path
) -> None:
    ada = street[0]
    one, other = PeerProcess(tmp_path, "twin"), PeerProcess(ada.folder, "twin")
    with one, other:
        one.join(network=network_of(ada))
        other.join(network=network_of(ada))
        done = ada.run("put", str(source), "--to", "twin")
        assert (done.code, done.stdout) == (10, "")
        assert one.id in done.stderr
        assert other.id in done.stderr
        assert "hint: " in done.stderr
        assert inbox_files(one) == inbox_files(other) == []
        ada.json("contact", "add", "twin", other.id)
        assert send(ada, source, "twin")["to"] == other.id
        assert send(ada, source, one.id[:8])["to"] == one.id


def test_second_id_under_a_nickname_in_use_is_reported_and_never_followed(
    street: list[PeerProcess], source: Path, tmp_path: Path
) -> None:
    ada = street[0]
    first, second = PeerProcess(tmp_path, "eve"), PeerProcess(ada.folder, "eve")
    with first, second:
        first.join(network=network_of(ada))
        sent = send(ada, source, "eve")
        assert (sent["state"], sent["to"]) == ("delivered", first.id)
        first.kill()

        second.join(network=network_of(ada))

        done = ada.run("put", str(source), "--to", "eve")
        assert (done.code, done.stdout) == (10, "")
        assert first.id in done.stderr
        assert second.id in done.stderr
        assert inbox_files(second) == []
        assert send(ada, source, second.id)["to"] == second.id
        seen = {"nickname": "eve", "id": first.id, "added": False}
        assert seen in ada.json("contact", "list")
        ada.json("contact", "add", "eve", second.id)
        assert send(ada, source, "eve")["to"] == second.id
        assert {**seen, "id": second.id, "added": True} in ada.json("contact", "list")


def test_peer_that_left_is_still_known_by_its_nickname(
    street: list[PeerProcess], source: Path, tmp_path: Path
) -> None:
    ada = street[0]
    with PeerProcess(tmp_path, "mallory") as mallory:
        mallory.join(network=network_of(ada))
        assert mallory.terminate() == 0
        sent = send(ada, source, "mallory")
        assert (sent["state"], sent["to"]) == ("stored", mallory.id)
        assert ada.json("outbox", "cancel", sent["delivery_id"])[0]["state"] == "cancelled"
