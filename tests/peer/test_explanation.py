from hypothesis import given
from hypothesis import strategies as st

from dht.records import ContentPayload, Kind, NamePayload, PeerPayload, Record, name_key
from dht.tracing import Account, Copies, Hop, Outcome
from identity.address import Address
from identity.keys import show_peer_id
from peer.explanation import (
    RECORDS_SHOWN_MAX,
    Question,
    Reach,
    Surroundings,
    explain_view,
    hop_views,
    places_of,
    publishers_of,
)
from peer.views import ExplainView, to_json
from tests.support.records import (
    ALICE,
    BOB,
    CONTENT_ID,
    DAY_MS,
    HERE,
    NETWORK_ID,
    NOW_MS,
    one_of_each_kind,
    signed,
)

KEY = name_key(NETWORK_ID, "a.txt")
QUESTION = Question("a.txt", "name", KEY, (Kind.NAME,))
NAME = NamePayload("a.txt", CONTENT_ID, 7, (HERE,))
OWN = b"o" * 20
AROUND = Surroundings(OWN, 20, {ALICE.peer_id: "alice"})


def hop(letter: bytes, outcome: Outcome = Outcome.ANSWERED, **changes: object) -> Hop:
    took_s = None if outcome is Outcome.WAITING else 0.25
    values = {"named_by": None, "asked_s": 0.0, "text": "", "contacts": 0, "records": 0}
    return Hop(  # type: ignore[arg-type]
        letter * 20, HERE, took_s=took_s, outcome=outcome, **{**values, "refused": {}, **changes}
    )


def account(
    *hops: Hop, copies: tuple[Copies, ...] = (), closest: tuple[bytes, ...] = ()
) -> Account:
    return Account(hops, copies, closest, 0.5, 0)


def held(record: Record, *holders: bytes, here: bool = False, outdated: int = 0) -> Copies:
    return Copies(record, holders, here, tuple(b"%20d" % n for n in range(outdated)))


def explained(found: Account, reached: dict[bytes, Reach] | None = None) -> ExplainView:
    return explain_view(QUESTION, found, AROUND, reached or {})


ids = st.binary(min_size=20, max_size=20)


@given(st.lists(ids, unique=True, max_size=30), ids, ids, st.integers(1, 20))
def test_places_are_those_of_the_k_closest_with_ourselves_among_them(
    closest: list[bytes], key: bytes, own_id: bytes, k: int
) -> None:
    around = Surroundings(own_id, k, {})
    places = places_of(account(closest=tuple(closest)), key, around)
    everybody = {*closest, own_id}

    def distance(peer_id: bytes) -> int:
        return int.from_bytes(peer_id) ^ int.from_bytes(key)

    assert sorted(places.values()) == list(range(1, min(k, len(everybody)) + 1))
    assert sorted(places, key=lambda peer_id: places[peer_id]) == sorted(places, key=distance)
    farthest = max(distance(peer_id) for peer_id in places)
    assert all(distance(peer_id) > farthest for peer_id in everybody - set(places))


def test_client_is_none_of_the_closest() -> None:
    assert places_of(account(), KEY, Surroundings(None, 20, {})) == {}


def test_hop_tells_who_was_asked_how_near_and_what_came_back() -> None:
    refused = {"record-signature": 2}
    found = account(
        hop(b"a", named_by=b"b" * 20, contacts=3, records=1, refused=refused),
        hop(b"s", Outcome.SILENT, text="no answer"),
        hop(b"w", Outcome.WAITING),
        closest=(b"a" * 20,),
    )
    answered, silent, waiting = hop_views(found, KEY, AROUND)
    assert (answered.hop, answered.id, answered.address) == (1, show_peer_id(b"a" * 20), str(HERE))
    assert answered.named_by == show_peer_id(b"b" * 20)
    assert (answered.took_ms, answered.records, answered.contacts) == (250.0, 1, 3)
    assert answered.rejected == refused
    assert answered.place in (1, 2)
    assert (silent.outcome, silent.place, silent.text) == ("silent", None, "no answer")
    assert (waiting.outcome, waiting.took_ms) == ("waiting", None)


def test_record_says_on_how_many_of_the_closest_it_is() -> None:
    a, b, far = b"a" * 20, b"b" * 20, b"f" * 20
    found = account(copies=(held(signed(NAME), a, far, here=True, outdated=2),), closest=(a, b))
    view = explained(found)
    (record,) = view.records
    assert (view.found, view.closest) == (1, 3)
    assert (record.on_closest, record.outdated_on) == (2, 2)
    assert record.held_by == (show_peer_id(a), show_peer_id(far), show_peer_id(OWN))
    assert (record.name, record.size, record.nickname) == ("a.txt", 7, "alice")
    assert (record.publisher, record.address) == (show_peer_id(ALICE.peer_id), str(HERE))
    assert record.reachable is None


def test_publishers_word_tells_where_it_answers_or_why_not() -> None:
    there = Address("192.0.2.9", 9)
    found = account(copies=(held(signed(NAME)), held(signed(NAME, identity=BOB))))
    reached = {ALICE.peer_id: Reach(True, there), BOB.peer_id: Reach(False, trouble="away")}
    records = {record.publisher: record for record in explained(found, reached).records}
    alice, bob = records[show_peer_id(ALICE.peer_id)], records[show_peer_id(BOB.peer_id)]
    assert (alice.reachable, alice.address, alice.trouble) == (True, str(there), "")
    assert (bob.reachable, bob.address, bob.trouble) == (False, str(HERE), "away")


def test_withdrawn_record_is_shown_last_and_not_found() -> None:
    tombstone, live = signed(NAME, identity=BOB, withdrawn=True), signed(NAME)
    view = explained(account(copies=(held(tombstone, b"a" * 20), held(live))))
    assert (view.found, [record.withdrawn for record in view.records]) == (1, [False, True])
    assert publishers_of([held(tombstone), held(live)]) == {ALICE.peer_id: (HERE,)}


def test_summary_counts_hops_by_outcome_and_adds_up_what_was_rejected() -> None:
    outcomes = [Outcome.ANSWERED, Outcome.LATE, Outcome.SILENT, Outcome.WAITING, Outcome.BAD]
    outcomes.append(Outcome.PASSED_OVER)
    hops = [
        hop(bytes([65 + n]), outcome, refused={"record-key": n})
        for n, outcome in enumerate(outcomes)
    ]
    view = explained(account(*hops))
    assert (view.asked, view.answered, view.late, view.silent, view.bad) == (5, 1, 1, 2, 1)
    assert view.passed_over == 1
    assert view.rejected == {"record-key": 0 + 1 + 2 + 3 + 4 + 5}
    assert view.took_ms == 500.0


def test_every_kind_of_record_can_be_shown_and_the_list_is_bounded() -> None:
    kinds = [held(signed(payload)) for payload in one_of_each_kind()]
    assert len(explained(account(copies=tuple(kinds))).records) == len(kinds)
    many = [
        held(signed(ContentPayload(number.to_bytes(32), ()), expires_ms=NOW_MS + DAY_MS))
        for number in range(RECORDS_SHOWN_MAX + 5)
    ]
    view = explained(account(copies=tuple(many)))
    assert (view.found, len(view.records)) == (RECORDS_SHOWN_MAX + 5, RECORDS_SHOWN_MAX)
    assert to_json(view)["records"][0]["content_id"].startswith("b3:")


def test_addresses_of_all_records_of_a_publisher_are_hints() -> None:
    there = Address("192.0.2.9", 9)
    records = [
        signed(payload)
        for payload in (NAME, PeerPayload("alice", (there, HERE), b"\x44" * 32, NOW_MS))
    ]
    assert publishers_of([held(record) for record in records]) == {ALICE.peer_id: (HERE, there)}
