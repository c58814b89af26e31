import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer import catalog as catalog_module
from peer import contacts as contacts_module
from peer import parts as parts_module
from peer.catalog import Catalog, Listed, Share
from peer.contacts import Contacts, KnownPeer
from peer.database import Database
from peer.parts import PartJournal
from transfer.download import JournalEntry


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "shoal.db")
    yield database
    database.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the wall clock is a millisecond later than the one before."""
    ticks = iter(range(10**9))
    monkeypatch.setattr("time.time_ns", lambda: next(ticks) * 1_000_000)


def share(name: str = "a.txt", content_id: bytes = b"c" * 32, path: str = "/x/a.txt") -> Share:
    return Share(name, Path(path), content_id, 7, 1_000, 42, b"manifest")


# Shares


def test_share_is_found_by_name_and_by_content(database: Database) -> None:
    catalog = Catalog(database)
    one, other = share(), share("b.txt")
    catalog.add_share(one)
    catalog.add_share(other)
    assert catalog.share("a.txt") == one
    assert catalog.share("A.txt") is None
    assert catalog.shares_of(b"c" * 32) == catalog.shares() == [one, other]
    assert catalog.share_count() == 2


def test_another_file_under_a_name_replaces_the_share(database: Database) -> None:
    catalog = Catalog(database)
    catalog.add_share(share())
    newer = share(content_id=b"d" * 32)
    catalog.add_share(newer)
    assert catalog.shares() == [newer]
    assert catalog.shares_of(b"c" * 32) == []


def test_share_is_removed_once(database: Database) -> None:
    catalog = Catalog(database)
    catalog.add_share(share())
    assert catalog.remove_share(share())
    assert not catalog.remove_share(share())


@pytest.mark.parametrize(
    "change",
    [{"content_id": b"d" * 32}, {"path": Path("/x/b.txt")}, {"mtime_ns": 1_001}, {"inode": 43}],
)
def test_share_that_was_put_anew_is_not_removed_with_the_old_one(
    database: Database, change: dict[str, object]
) -> None:
    catalog = Catalog(database)
    newer = dataclasses.replace(share(), **change)  # type: ignore[arg-type]
    catalog.add_share(newer)
    assert not catalog.remove_share(share())
    assert catalog.shares() == [newer]


# Short content ids


def test_beginning_of_an_id_finds_what_was_listed_or_shared(database: Database) -> None:
    catalog = Catalog(database)
    catalog.add_share(share())
    catalog.remember([Listed(b"\xab" * 32, "seen.txt", 9)])
    assert catalog.listed_with_prefix("abababab") == [Listed(b"\xab" * 32, "seen.txt", 9)]
    assert [each.name for each in catalog.listed_with_prefix((b"c" * 32).hex())] == ["a.txt"]
    assert catalog.listed_with_prefix("abababac") == []


def test_forgotten_contents_are_the_longest_unseen(
    database: Database, monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    monkeypatch.setattr(catalog_module, "LISTED_MAX", 3)
    catalog = Catalog(database)
    for number in (0, 1, 2, 0, 3):
        catalog.remember([Listed(bytes([number]) * 32, "n", number)])
    left = [n for n in range(4) if catalog.listed_with_prefix((bytes([n]) * 4).hex())]
    assert left == [0, 2, 3]


def test_shares_are_not_forgotten_with_what_was_listed(
    database: Database, monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    monkeypatch.setattr(catalog_module, "LISTED_MAX", 2)
    catalog = Catalog(database)
    catalog.add_share(share())
    for number in range(5):
        catalog.remember([Listed(bytes([number]) * 32, "n", 1)])
    assert catalog.shares() == [share()]


# Begun downloads


async def test_begun_downloads_are_bounded_and_the_oldest_go(
    database: Database, monkeypatch: pytest.MonkeyPatch, clock: None
) -> None:
    monkeypatch.setattr(parts_module, "PARTS_MAX", 2)
    journal = PartJournal(database)
    for key in ("a", "b", "a", "c"):
        await journal.save(key, b"c" * 32, b"\x01")
    assert await journal.load("b") is None
    assert await journal.load("a") == JournalEntry(b"c" * 32, b"\x01")
    await journal.forget("a")
    assert await journal.load("a") is None


# Contacts and peers ever seen


def test_nickname_that_is_remembered_stays_until_the_person_says_otherwise(
    database: Database,
) -> None:
    contacts = Contacts(database)
    contacts.pin("bob", b"1" * 20)
    contacts.pin("bob", b"2" * 20)
    pin = contacts.pinned("bob")
    assert pin is not None
    assert (pin.peer_id, pin.may_send) == (b"1" * 20, False)
    contacts.add("bob", b"2" * 20, may_send=True)
    assert contacts.may_send(b"2" * 20)
    assert not contacts.may_send(b"1" * 20)
    assert contacts.remove("bob")
    assert not contacts.remove("bob")
    assert not contacts.may_send(b"2" * 20)


def test_peer_that_was_merely_resolved_may_not_send(database: Database) -> None:
    contacts = Contacts(database)
    contacts.pin("bob", b"1" * 20)
    assert not contacts.may_send(b"1" * 20)


def test_remembered_nicknames_are_bounded_but_the_persons_own_always_fit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contacts_module, "CONTACTS_MAX", 2)
    contacts = Contacts(database)
    for number in range(4):
        contacts.pin(f"n{number}", bytes([number]) * 20)
    contacts.add("mine", b"9" * 20, may_send=True)
    assert [pin.nickname for pin in contacts.pins()] == ["mine", "n0", "n1"]


def test_peers_ever_seen_are_bounded_and_the_longest_unseen_go(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contacts_module, "KNOWN_PEERS_MAX", 3)
    contacts = Contacts(database)
    for seen_ms, number in enumerate([0, 1, 2, 0, 3]):
        contacts.seen([KnownPeer(bytes([number]) * 20, f"n{number}", "127.0.0.1:1", seen_ms)])
    assert [peer.nickname for peer in contacts.known()] == ["n3", "n0", "n2"]
