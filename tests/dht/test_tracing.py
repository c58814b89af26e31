from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dht import wire
from dht.collecting import Collector
from dht.lookup import Candidate, PassedOver
from dht.records import ContentPayload, Kind, NamePayload, encode_record, name_key
from dht.tracing import (
    HOPS_MAX,
    NAMED_MAX,
    RECORDS_MAX,
    Account,
    Answered,
    Asked,
    Began,
    Ended,
    Failed,
    Held,
    Outcome,
    Recorder,
    Refused,
    shared_bits,
)
from identity.address import Address
from tests.dht.nodes import CONTENT_ID, NAME, OPEN, address_of, file_payloads, nodes_of, until
from tests.support.records import ALICE, NETWORK_ID, NOW_MS, signed

HERE, THERE = Address("192.0.2.1", 1), Address("192.0.2.2", 2)
ADA, BOB, EVE = (Candidate(letter * 20, HERE) for letter in (b"a", b"b", b"e"))
OLD = signed(ContentPayload(CONTENT_ID), sequence=1)
NEW = signed(ContentPayload(CONTENT_ID), sequence=2)


def account_of(*events: object) -> Account:
    recorder = Recorder()
    for event in events:
        recorder(event)  # type: ignore[arg-type]
    return recorder.account()


def test_each_request_is_a_hop_with_its_time_and_who_named_it() -> None:
    account = account_of(
        Began((ADA,), 9.0),
        Asked(ADA, 10.0),
        Answered(ADA, 10.5, (BOB, EVE)),
        Asked(BOB, 11.0),
        Answered(BOB, 11.25, (EVE, ADA)),
        Asked(EVE, 12.0),
        Ended(13.0, (ADA.peer_id, BOB.peer_id)),
    )
    ada, bob, eve = account.hops
    assert (ada.named_by, ada.asked_s, ada.took_s, ada.contacts) == (None, 1.0, 0.5, 2)
    assert (bob.named_by, bob.asked_s, bob.took_s, bob.contacts) == (ADA.peer_id, 2.0, 0.25, 2)
    assert (eve.named_by, eve.took_s, eve.outcome) == (ADA.peer_id, None, Outcome.WAITING)
    assert account.closest == (ADA.peer_id, BOB.peer_id)
    assert account.took_s == 4.0


def test_what_comes_after_the_end_is_late_and_settles_it() -> None:
    recorder = Recorder()
    for event in (Asked(ADA, 1.0), Asked(BOB, 1.0), Ended(2.0, ())):
        recorder(event)
    assert not recorder.is_settled
    recorder(Answered(ADA, 3.0, ()))
    recorder(Failed(BOB, 4.0, Outcome.SILENT, "no answer"))
    assert recorder.is_settled
    ada, bob = recorder.account().hops
    assert (ada.outcome, ada.took_s) == (Outcome.LATE, 2.0)
    assert (bob.outcome, bob.took_s, bob.text) == (Outcome.SILENT, 3.0, "no answer")


def test_what_a_peer_sent_stands_at_the_address_where_it_answered() -> None:
    elsewhere = msgspec.structs.replace(ADA, address=THERE)
    account = account_of(
        Asked(ADA, 1.0),
        Failed(ADA, 2.0, Outcome.SILENT, ""),
        Asked(elsewhere, 2.0),
        Answered(elsewhere, 3.0, ()),
        Held(ADA.peer_id, NEW),
        Refused(ADA.peer_id, "record-key"),
    )
    wrong, right = account.hops
    assert (wrong.records, wrong.refused) == (0, {})
    assert (right.records, right.refused) == (1, {"record-key": 1})


def test_newer_version_makes_those_who_sent_the_older_one_outdated() -> None:
    a, b = ADA.peer_id, BOB.peer_id
    (copies,) = account_of(Held(a, OLD), Held(None, OLD), Held(b, NEW)).copies
    assert (copies.record, copies.holders, copies.here) == (NEW, (b,), False)
    assert copies.outdated == (a,)
    (copies,) = account_of(Held(a, OLD), Held(b, NEW), Held(a, NEW), Held(None, NEW)).copies
    assert (copies.holders, copies.here, copies.outdated) == ((a, b), True, ())


def test_those_who_were_passed_over_come_last_with_the_reason() -> None:
    account = account_of(
        Asked(ADA, 1.0),
        Answered(ADA, 2.0, (BOB,)),
        Ended(3.0, (ADA.peer_id,), ((BOB, PassedOver.CROWDED),)),
    )
    ada, bob = account.hops
    assert ada.outcome is Outcome.ANSWERED
    assert (bob.outcome, bob.text, bob.took_s) == (Outcome.PASSED_OVER, "crowded", None)
    assert bob.named_by == ADA.peer_id


peers = st.integers(0, 5).map(lambda number: Candidate(bytes([number]) * 20, HERE))
times = st.floats(0, 100)
tellers = st.none() | peers.map(lambda peer: peer.peer_id)
events = st.one_of(
    st.builds(Began, st.lists(peers, max_size=3).map(tuple), times),
    st.builds(Asked, peers, times),
    st.builds(Answered, peers, times, st.lists(peers, max_size=3).map(tuple)),
    st.builds(
        Failed, peers, times, st.sampled_from([Outcome.SILENT, Outcome.BAD]), st.just("text")
    ),
    st.builds(Held, tellers, st.sampled_from([OLD, NEW])),
    st.builds(Refused, tellers, st.sampled_from(["record-key", "contact-malformed"])),
    st.builds(Ended, times, st.lists(peers.map(lambda peer: peer.peer_id)).map(tuple)),
)


@given(st.lists(events, max_size=40))
def test_account_of_any_events_is_whole(happened: list[object]) -> None:
    account = account_of(*happened)
    asked = {(event.candidate.peer_id) for event in happened if isinstance(event, Asked)}
    assert {hop.peer_id for hop in account.hops} == asked
    assert len(account.hops) == len(asked)
    for hop in account.hops:
        assert (hop.took_s is None) == (hop.outcome is Outcome.WAITING)
    for copies in account.copies:
        assert not set(copies.holders) & set(copies.outdated)
        senders = {event.teller for event in happened if isinstance(event, Held)}
        holders = {*copies.holders, *copies.outdated, *([None] if copies.here else [])}
        assert holders - {None} == senders - {None}
        newest = NEW if any(isinstance(e, Held) and e.record == NEW for e in happened) else OLD
        assert copies.record == newest


def test_account_is_bounded_and_says_what_it_lacks() -> None:
    strangers = [Candidate(number.to_bytes(20), HERE) for number in range(NAMED_MAX + 9)]
    recorder = Recorder()
    for stranger in strangers[: HOPS_MAX + 2]:
        recorder(Asked(stranger, 0.0))
    recorder(Answered(strangers[0], 1.0, tuple(strangers)))
    for number in range(RECORDS_MAX + 3):
        digest = number.to_bytes(32)
        recorder(Held(None, msgspec.structs.replace(NEW, sub_key=digest)))
    account = recorder.account()
    assert len(account.hops) == HOPS_MAX
    assert len(account.copies) == RECORDS_MAX
    assert account.forgotten == 2 + 1 + 3


def test_shared_bits_count_from_the_left() -> None:
    zero = bytes(20)
    for position in range(160):
        other = (1 << (159 - position)).to_bytes(20)
        assert shared_bits(zero, other) == position
    assert shared_bits(zero, zero) == 160


def test_collector_tells_who_sent_which_record_and_why_one_is_refused() -> None:
    heard: list[object] = []
    name = NamePayload("a.txt", CONTENT_ID, 1)
    good, newer = signed(name, sequence=1), signed(name, sequence=2)
    forged = msgspec.structs.replace(signed(name, sequence=3), signature=b"s" * 64)
    unasked = signed(NamePayload("b.txt", CONTENT_ID, 1))
    collector = Collector(
        NETWORK_ID,
        name_key(NETWORK_ID, "a.txt"),
        frozenset({Kind.NAME}),
        records_max=9,
        drops=Counter(),
        on_hit=lambda _: None,
        trace=heard.append,
    )
    news = [
        collector.add(data, now_ms=NOW_MS, teller=teller)
        for teller, data in [
            (None, encode_record(good)),
            (ADA.peer_id, encode_record(good)),
            (BOB.peer_id, encode_record(newer)),
            (ADA.peer_id, encode_record(good)),
            (EVE.peer_id, encode_record(forged)),
            (EVE.peer_id, encode_record(unasked)),
            (EVE.peer_id, b"junk"),
        ]
    ]
    assert news == [True, False, True, False, False, False, False]
    assert heard == [
        Held(None, good),
        Held(ADA.peer_id, good),
        Held(BOB.peer_id, newer),
        Refused(ADA.peer_id, "record-outdated"),
        Refused(EVE.peer_id, "record-signature"),
        Refused(EVE.peer_id, "record-unasked"),
        Refused(EVE.peer_id, "record-malformed"),
    ]


async def test_traced_read_accounts_for_every_storer() -> None:
    async with nodes_of(4) as nodes:
        await nodes[1].publish(file_payloads())
        key, recorder = name_key(OPEN.network_id, NAME), Recorder()
        found = await nodes[0].read(key, (Kind.NAME,), trace=recorder)
        await until(lambda: recorder.is_settled)
        account = recorder.account()
        assert {hop.peer_id for hop in account.hops} == {node.peer_id for node in nodes[1:]}
        assert {hop.outcome for hop in account.hops} == {Outcome.ANSWERED}
        assert [copies.record for copies in account.copies] == [record for record, _ in found]
        (copies,) = account.copies
        assert set(copies.holders) == {node.peer_id for node in nodes[1:]}
        assert copies.here
        assert account.closest == tuple(
            sorted(
                (node.peer_id for node in nodes[1:]),
                key=lambda peer_id: int.from_bytes(peer_id) ^ int.from_bytes(key),
            )
        )


async def test_traced_read_says_who_is_silent_who_lies_and_who_talks_nonsense() -> None:
    async with nodes_of(4) as nodes:
        await until(lambda: all(len(node.engine.table) == 3 for node in nodes))
        await nodes[0].publish(file_payloads())
        await nodes[1].close()
        liar, nonsense = nodes[2], nodes[3]
        now_ms = liar.now_ms()
        forged = signed(
            NamePayload(NAME, b"f" * 32, 1), network_id=OPEN.network_id, issued_ms=now_ms
        )
        forged = msgspec.structs.replace(forged, signature=b"s" * 64)
        nowhere = b"x" * 20 + bytes([4, 0, 0, 0, 0, 1, 1])
        lie = wire.FoundRecords((encode_record(forged),), b"", (nowhere,))
        setattr(liar.engine.desk, "find", lambda *_: lie)  # noqa: B010
        answer = nonsense.engine.protocol._handler.answer

        def garbled(
            request: wire.Request, message_id: bytes, address: Address, size_bytes: int
        ) -> bytes | None:
            reply = answer(request, message_id, address, size_bytes)
            return None if reply is None else reply[:21] + b"\x93\x00\x00\x00"

        nonsense.engine.protocol._handler = type("Garbled", (), {"answer": staticmethod(garbled)})()
        recorder = Recorder()
        key = name_key(OPEN.network_id, NAME)
        found = await nodes[0].read(key, (Kind.NAME,), trace=recorder)
        await until(lambda: recorder.is_settled)
        by_peer = {hop.peer_id: hop for hop in recorder.account().hops}
        assert by_peer[nodes[1].peer_id].outcome is Outcome.SILENT
        assert by_peer[nonsense.peer_id].outcome is Outcome.BAD
        told = by_peer[liar.peer_id]
        assert (told.outcome, told.records, told.address) == (
            Outcome.ANSWERED,
            0,
            address_of(liar),
        )
        assert told.refused == {"record-signature": 1, "contact-unbelievable": 1}
        assert len(found) == 1
        assert ALICE.peer_id not in {record.publisher for record, _ in found}
