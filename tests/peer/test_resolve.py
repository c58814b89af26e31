import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.keys import parse_peer_id, show_peer_id
from peer.contacts import Contacts
from peer.database import Database
from peer.errors import Ambiguous, NotFound
from peer.resolve import Named, full_peer_id, is_prefix, resolve_peer

ADA, BOB, EVE = (bytes([number]) * 20 for number in (1, 2, 3))


@pytest.fixture
def contacts(tmp_path: Path) -> Iterator[Contacts]:
    database = Database(tmp_path / "shoal.db")
    yield Contacts(database)
    database.close()


def resolve(
    contacts: Contacts, text: str, published: list[bytes] | None = None, *known: Named
) -> bytes:
    return resolve_peer(text, contacts, under_nickname=published or [], known=known)


def twin_of(peer_id: bytes) -> bytes:
    """Another id with the same first eight characters (40 bits)."""
    return peer_id[:5] + bytes(byte ^ 0xFF for byte in peer_id[5:])


# Ids


def test_whole_id_is_itself_though_nobody_knows_it(contacts: Contacts) -> None:
    assert resolve(contacts, show_peer_id(ADA)) == ADA
    assert resolve(contacts, show_peer_id(ADA).upper()) == ADA


def test_nickname_that_is_anothers_whole_id_takes_nothing_over(contacts: Contacts) -> None:
    claimed = show_peer_id(ADA)
    assert resolve(contacts, claimed, [EVE], Named(EVE, claimed)) == ADA
    contacts.add(claimed, EVE, may_send=True)
    assert resolve(contacts, claimed, [EVE]) == ADA


@pytest.mark.parametrize("length", [8, 9, 20, 31])
def test_beginning_of_a_known_id_means_that_peer(contacts: Contacts, length: int) -> None:
    text = show_peer_id(ADA)[:length]
    assert resolve(contacts, text, None, Named(ADA, "ada"), Named(BOB, "bob")) == ADA
    assert resolve(contacts, text.upper(), None, Named(ADA, "ada")) == ADA
    assert contacts.pins() == []


def test_beginning_of_a_contacts_id_works_though_it_was_never_seen(contacts: Contacts) -> None:
    contacts.add("ada", ADA, may_send=True)
    assert resolve(contacts, show_peer_id(ADA)[:8]) == ADA


def test_seven_characters_are_too_few(contacts: Contacts) -> None:
    with pytest.raises(NotFound):
        resolve(contacts, show_peer_id(ADA)[:7], None, Named(ADA, "ada"))


def test_beginning_of_two_ids_is_ambiguous_and_lists_both(contacts: Contacts) -> None:
    twin = twin_of(ADA)
    with pytest.raises(Ambiguous) as caught:
        resolve(contacts, show_peer_id(ADA)[:8], None, Named(ADA, "a"), Named(twin, "b"))
    assert show_peer_id(ADA) in str(caught.value)
    assert show_peer_id(twin) in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_whole_id_a_beginning_or_neither(text: str) -> None:
    whole = full_peer_id(text)
    if whole is not None:
        assert show_peer_id(whole) == text.lower()
        assert is_prefix(text)
    with contextlib.suppress(Exception):
        assert (parse_peer_id(text) is not None) == (whole is not None)


# Nicknames


def test_first_id_under_a_nickname_is_remembered(contacts: Contacts) -> None:
    assert resolve(contacts, "bob", [BOB]) == BOB
    pin = contacts.pinned("bob")
    assert pin is not None
    assert (pin.peer_id, pin.may_send) == (BOB, False)
    assert resolve(contacts, "bob") == BOB


def test_peer_seen_before_is_found_by_its_nickname_though_its_record_is_gone(
    contacts: Contacts,
) -> None:
    assert resolve(contacts, "bob", [], Named(BOB, "bob"), Named(ADA, "ada")) == BOB


def test_another_id_under_a_remembered_nickname_is_told_and_never_followed(
    contacts: Contacts,
) -> None:
    resolve(contacts, "bob", [BOB])
    for published in ([EVE], [EVE, BOB], [BOB, EVE]):
        with pytest.raises(Ambiguous) as caught:
            resolve(contacts, "bob", published)
        assert show_peer_id(BOB) in str(caught.value)
        assert show_peer_id(EVE) in str(caught.value)
        assert "contact add" in caught.value.hint
    pin = contacts.pinned("bob")
    assert pin is not None
    assert pin.peer_id == BOB


def test_what_the_person_said_a_nickname_means_is_not_in_doubt(contacts: Contacts) -> None:
    contacts.add("bob", BOB, may_send=True)
    assert resolve(contacts, "bob", [EVE], Named(EVE, "bob")) == BOB


def test_nickname_of_two_peers_is_ambiguous_and_remembers_neither(contacts: Contacts) -> None:
    with pytest.raises(Ambiguous) as caught:
        resolve(contacts, "bob", [BOB], Named(EVE, "bob"))
    assert show_peer_id(BOB) in str(caught.value)
    assert show_peer_id(EVE) in str(caught.value)
    assert contacts.pinned("bob") is None


def test_nickname_that_begins_anothers_id_is_ambiguous(contacts: Contacts) -> None:
    text = show_peer_id(ADA)[:8]
    with pytest.raises(Ambiguous):
        resolve(contacts, text, [EVE], Named(ADA, "ada"))
    assert contacts.pinned(text) is None


def test_nickname_remembered_before_is_in_doubt_once_it_begins_a_known_id(
    contacts: Contacts,
) -> None:
    text = show_peer_id(ADA)[:8]
    assert resolve(contacts, text, [EVE]) == EVE
    with pytest.raises(Ambiguous) as caught:
        resolve(contacts, text, [EVE], Named(ADA, "ada"))
    assert show_peer_id(ADA) in str(caught.value)


def test_nickname_is_matched_as_it_is_written(contacts: Contacts) -> None:
    with pytest.raises(NotFound):
        resolve(contacts, "BOB", [], Named(BOB, "bob"))


def test_unknown_peer_is_not_found_with_advice(contacts: Contacts) -> None:
    for text in ("bob", "", " ", "🐟", show_peer_id(ADA)[:12]):
        with pytest.raises(NotFound) as caught:
            resolve(contacts, text)
        assert caught.value.hint


@given(
    text=st.sampled_from(["bob", show_peer_id(ADA)[:8], show_peer_id(ADA), "ada"]),
    published=st.lists(st.sampled_from([ADA, BOB, EVE]), max_size=3),
    known=st.lists(
        st.tuples(st.sampled_from([ADA, BOB, EVE]), st.sampled_from(["bob", "ada", "eve"])),
        max_size=4,
    ),
)
def test_an_answer_is_the_only_peer_that_could_be_meant(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    published: list[bytes],
    known: list[tuple[bytes, str]],
) -> None:
    database = Database(tmp_path_factory.mktemp("resolve") / "shoal.db")
    contacts = Contacts(database)
    meant = {*published, *(peer_id for peer_id, nickname in known if nickname == text)}
    if is_prefix(text):
        meant |= {each for each, _ in known if show_peer_id(each).startswith(text)}
    if full_peer_id(text) is not None:
        meant = {ADA}
    peers = [Named(*each) for each in known]
    for _ in range(2):  # what the first call remembers must not change the second's answer
        match sorted(meant):
            case []:
                with pytest.raises(NotFound):
                    resolve(contacts, text, published, *peers)
            case [peer_id]:
                assert resolve(contacts, text, published, *peers) == peer_id
            case several:
                with pytest.raises(Ambiguous) as caught:
                    resolve(contacts, text, published, *peers)
                assert all(show_peer_id(peer_id) in str(caught.value) for peer_id in several)
    database.close()
