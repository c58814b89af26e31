from collections.abc import Iterator
from pathlib import Path

import pytest

from identity.network import Network
from peer.config import Config, InboxAccept, InboxConfig
from peer.contacts import Contacts
from peer.database import Database
from peer.serving import Acceptance

OPEN, PRIVATE = Network("open"), Network("private", b"k" * 32)
FRIEND, STRANGER = b"f" * 20, b"s" * 20


@pytest.fixture
def contacts(tmp_path: Path) -> Iterator[Contacts]:
    database = Database(tmp_path / "shoal.db")
    contacts = Contacts(database)
    contacts.add("friend", FRIEND, may_send=True)
    contacts.pin("stranger", STRANGER)  # merely resolved once
    yield contacts
    database.close()


@pytest.mark.parametrize(
    ("network", "accept", "friend", "stranger"),
    [
        (PRIVATE, None, True, True),
        (OPEN, None, True, False),
        (PRIVATE, InboxAccept.NETWORK, True, True),
        (OPEN, InboxAccept.NETWORK, True, True),
        (PRIVATE, InboxAccept.CONTACTS, True, False),
        (OPEN, InboxAccept.NONE, False, False),
        (PRIVATE, InboxAccept.NONE, False, False),
    ],
)
def test_who_may_send_follows_the_setting_or_the_kind_of_network(
    contacts: Contacts,
    network: Network,
    accept: InboxAccept | None,
    friend: bool,
    stranger: bool,
) -> None:
    acceptance = Acceptance(Config(inbox=InboxConfig(accept=accept)), network, contacts)
    assert (acceptance.refusal(FRIEND) is None) == friend
    assert (acceptance.refusal(STRANGER) is None) == stranger


def test_contact_that_is_added_or_removed_counts_at_once(contacts: Contacts) -> None:
    acceptance = Acceptance(Config(), OPEN, contacts)
    contacts.add("stranger", STRANGER, may_send=True)
    assert acceptance.refusal(STRANGER) is None
    contacts.remove("stranger")
    refusal = acceptance.refusal(STRANGER)
    assert refusal is not None
    assert "contacts" in refusal
