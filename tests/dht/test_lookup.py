"""The lookup step by step, as transcripts: whom it asks, for whom it waits, when it ends."""

from __future__ import annotations

import msgspec

from dht.lookup import (
    Ask,
    Candidate,
    Done,
    Goal,
    Lookup,
    LookupConfig,
    PassedOver,
    Standing,
    Wait,
)
from identity.address import Address
from tests.dht.worlds import (
    OWN_ID,
    TARGET,
    asked,
    candidate,
    lookup_of,
    number_of,
    peer_id,
)

# One step at a time


def test_alpha_requests_are_in_flight_closest_first() -> None:
    lookup = lookup_of([9, 3, 7, 1, 5], alpha=3)
    assert asked(lookup, 0.0) == [1, 3, 5]
    assert lookup.in_flight == 3
    lookup.on_reply(peer_id(3), [], 0.1)
    assert asked(lookup, 0.1) == [7]


def test_silent_peer_delays_no_other_request() -> None:
    lookup = lookup_of([1, 2], alpha=2, k=5)
    assert asked(lookup, 0.0) == [1, 2]
    # 1 stays silent; a chain of answers goes on beside it at network speed.
    now = 0.0
    for number in range(2, 12):
        now += 0.001
        lookup.on_reply(peer_id(number), [candidate(number + 1)], now)
        if number < 5:
            assert asked(lookup, now) == [number + 1]
    assert now < 0.02


def test_timed_out_peer_frees_its_slot_and_its_late_reply_counts() -> None:
    lookup = lookup_of([1, 2, 3], alpha=1, k=2, soft_timeout_s=0.5)
    assert asked(lookup, 0.0) == [1]
    assert lookup.next(0.49) == Wait(0.5)
    assert asked(lookup, 0.5) == [2]
    assert lookup.standing_of(peer_id(1)) is Standing.LATE
    lookup.on_reply(peer_id(1), [], 0.6)
    assert lookup.standing_of(peer_id(1)) is Standing.ANSWERED
    lookup.on_reply(peer_id(2), [], 0.7)
    assert lookup.next(0.7) == Done()
    assert [number_of(found) for found in lookup.closest()] == [1, 2]


def test_soft_timeout_of_a_known_contact_is_its_own() -> None:
    quick = Candidate(peer_id(1), Address("10.0.0.1", 1), soft_timeout_s=0.05)
    lookup = Lookup(
        TARGET,
        [quick, candidate(2)],
        own_id=OWN_ID,
        goal=Goal.READ,
        config=LookupConfig(alpha=1),
        now=0.0,
    )
    assert asked(lookup, 0.0) == [1]
    assert asked(lookup, 0.05) == [2]


def test_silent_candidate_is_asked_but_holds_up_nobody() -> None:
    mute = Candidate(peer_id(1), Address("10.0.0.1", 1), soft_timeout_s=0.02, linger_s=0.0)
    lookup = Lookup(
        TARGET,
        [mute, candidate(2)],
        own_id=OWN_ID,
        goal=Goal.WRITE,
        config=LookupConfig(linger_s=0.5),
        now=0.0,
    )
    assert asked(lookup, 0.0) == [1, 2]
    lookup.on_reply(peer_id(2), [], 0.001)
    assert lookup.next(0.001) == Wait(0.02)
    assert lookup.next(0.02) == Done()
    assert [number_of(late) for late in lookup.late()] == [1]


def test_whoever_may_replace_a_late_one_is_asked_while_that_is_waited_for() -> None:
    lookup = lookup_of([1, 2, 3, 4], alpha=2, k=2, soft_timeout_s=0.5, linger_s=0.25)
    assert asked(lookup, 0.0) == [1, 2]
    lookup.on_reply(peer_id(2), [], 0.125)
    assert lookup.next(0.125) == Wait(0.5)
    assert asked(lookup, 0.5) == [3], "one for the late one, and no more"
    lookup.on_reply(peer_id(3), [], 0.625)
    assert lookup.next(0.625) == Wait(0.75), "1 may answer yet"
    assert lookup.next(0.75) == Done()
    assert [number_of(found) for found in lookup.closest()] == [2, 3]


def test_lookup_in_a_hurry_asks_all_at_once_and_waits_for_none_of_them_long() -> None:
    lookup = lookup_of([1, 2, 3, 4], alpha=2, k=4, linger_s=1.0)
    assert asked(lookup, 0.0) == [1, 2]
    lookup.on_reply(peer_id(2), [], 0.001)
    lookup.hurry(0.25)
    lookup.hurry(5.0)  # never longer again
    assert asked(lookup, 0.125) == [3, 4]
    assert lookup.next(0.125) == Wait(0.25)
    lookup.on_reply(peer_id(4), [], 0.1875)
    assert lookup.next(0.25) == Wait(0.375), "1 is not waited for any more"
    assert lookup.next(0.375) == Done()
    assert lookup.late() == [], "nor called silent"


def test_all_k_are_asked_at_once_when_nobody_closer_turns_up_any_more() -> None:
    lookup = lookup_of(range(10, 19), alpha=3, k=9, fruitless_max=2)
    assert asked(lookup, 0.0) == [10, 11, 12]
    lookup.on_reply(peer_id(10), [candidate(20)], 0.1)
    assert asked(lookup, 0.1) == [13]
    lookup.on_reply(peer_id(11), [candidate(5)], 0.1)
    assert asked(lookup, 0.1) == [5], "somebody closer: not there yet"
    lookup.on_reply(peer_id(5), [], 0.2)
    lookup.on_reply(peer_id(12), [], 0.2)
    assert asked(lookup, 0.2) == [14, 15, 16, 17]
    lookup.validate_state()


def test_lookup_with_an_answer_ends_without_waiting_for_the_silent() -> None:
    lookup = lookup_of([1, 2, 3], alpha=3, k=20)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(2), [], 0.001)
    lookup.on_reply(peer_id(3), [], 0.001)
    assert lookup.next(0.001) == Wait(0.5)
    assert lookup.next(0.5) == Done()


def test_lookup_without_an_answer_waits_for_the_late_until_the_hard_timeout() -> None:
    lookup = lookup_of([1], alpha=3)
    asked(lookup, 0.0)
    assert lookup.next(0.5) == Wait(2.0)
    assert lookup.next(2.0) == Done()
    assert lookup.closest() == []


def test_reply_after_the_hard_timeout_comes_too_late() -> None:
    lookup = lookup_of([1, 2], alpha=2, k=3)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(1), [candidate(3)], 2.0)
    assert lookup.standing_of(peer_id(1)) is Standing.DEAD
    assert lookup.standing_of(peer_id(3)) is None


def test_dead_peer_is_quarantined_however_often_it_is_named() -> None:
    lookup = lookup_of([1, 5, 6], alpha=3, k=3)
    asked(lookup, 0.0)
    lookup.on_failure(peer_id(1), 0.1)
    lookup.on_reply(peer_id(5), [candidate(1)], 0.2)
    lookup.on_reply(peer_id(6), [candidate(1)], 0.2)
    assert lookup.next(0.2) == Done()
    assert [number_of(found) for found in lookup.closest()] == [5, 6]


def test_peer_that_failed_is_tried_where_others_say_that_it_is() -> None:
    lookup = lookup_of([5, 6], alpha=2, k=3)
    asked(lookup, 0.0)
    # A liar sends us to itself for somebody else, and that fails at once.
    lookup.on_reply(peer_id(5), [candidate(1, port=666)], 0.1)
    assert lookup.next(0.1) == Ask(candidate(1, port=666))
    lookup.on_failure(peer_id(1), 0.2)
    lookup.on_reply(peer_id(6), [candidate(1)], 0.2)
    assert lookup.next(0.2) == Ask(candidate(1))
    lookup.on_reply(peer_id(1), [], 0.3)
    assert lookup.next(0.3) == Done()
    assert [number_of(found) for found in lookup.closest()] == [1, 5, 6]


def test_bad_peer_is_not_tried_again_anywhere() -> None:
    lookup = lookup_of([1, 5], alpha=2, k=3)
    asked(lookup, 0.0)
    lookup.on_bad(peer_id(1), 0.1)
    lookup.on_reply(peer_id(5), [candidate(1, port=777)], 0.2)
    assert lookup.next(0.2) == Done()


def test_address_that_most_tellers_name_is_tried_first() -> None:
    lookup = lookup_of([5, 6, 7], alpha=3, k=4)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(5), [candidate(1, port=666)], 0.1)
    lookup.on_reply(peer_id(6), [candidate(1)], 0.1)
    lookup.on_reply(peer_id(7), [candidate(1)], 0.1)
    assert lookup.next(0.1) == Ask(candidate(1))


def test_one_teller_names_one_address_of_a_peer() -> None:
    lookup = lookup_of([5], alpha=1, k=3)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(5), [candidate(1, port=port) for port in (7, 8, 9)], 0.1)
    assert lookup.next(0.1) == Ask(candidate(1, port=7))
    lookup.on_failure(peer_id(1), 0.2)
    assert lookup.next(0.2) == Done()


def test_one_bad_reply_never_ends_it_and_its_peer_is_left_out() -> None:
    lookup = lookup_of([1, 5], alpha=2, k=2)
    asked(lookup, 0.0)
    lookup.on_bad(peer_id(1), 0.1)
    lookup.on_reply(peer_id(5), [candidate(2)], 0.2)
    assert asked(lookup, 0.2) == [2]
    lookup.on_reply(peer_id(2), [], 0.3)
    assert lookup.next(0.3) == Done()
    assert [number_of(found) for found in lookup.closest()] == [2, 5]


def test_wrong_address_from_a_liar_does_not_hide_the_right_one() -> None:
    lookup = lookup_of([8, 9], alpha=2, k=3)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(8), [candidate(1, port=666)], 0.1)
    lookup.on_reply(peer_id(9), [candidate(1)], 0.1)
    first = lookup.next(0.1)
    assert first == Ask(candidate(1, port=666))
    assert lookup.next(0.6) == Ask(candidate(1)), "the soft timeout is enough"
    lookup.on_reply(peer_id(1), [], 0.7)
    assert lookup.next(0.7) == Done()
    assert peer_id(1) in [found.peer_id for found in lookup.closest()]


def test_failure_of_the_first_address_leaves_the_request_to_the_second_alone() -> None:
    lookup = lookup_of([8], alpha=2, k=3)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(8), [candidate(1, port=666), candidate(9)], 0.0)
    assert lookup.next(0.0) == Ask(candidate(1, port=666))
    assert lookup.next(0.0) == Ask(candidate(9))
    lookup.on_reply(peer_id(9), [candidate(1)], 0.1)
    assert lookup.next(0.5) == Ask(candidate(1))
    lookup.on_failure(peer_id(1), 2.0, candidate(1, port=666).address)
    assert lookup.standing_of(peer_id(1)) is Standing.LATE
    lookup.on_reply(peer_id(1), [], 2.1)
    assert lookup.standing_of(peer_id(1)) is Standing.ANSWERED


def test_addresses_tried_for_one_id_are_bounded() -> None:
    lookup = lookup_of(range(10, 20), alpha=10, addresses_max=2)
    asked(lookup, 0.0)
    for number in range(10, 20):
        lookup.on_reply(peer_id(number), [candidate(1, port=number)], 0.0)
    tried = 0
    while isinstance(lookup.next(float(tried)), Ask):
        tried += 1
        lookup.on_failure(peer_id(1), float(tried))
    assert tried == 2
    lookup.validate_state()


def test_one_reply_adds_k_candidates_at_most_never_its_sender_or_us() -> None:
    lookup = lookup_of([500], alpha=50, k=5, candidates_max=100)
    asked(lookup, 0.0)
    us = Candidate(OWN_ID, Address("10.0.0.1", 1))
    short_id = Candidate(b"short", Address("10.0.0.1", 1))
    names = [candidate(500, port=9), us, short_id, *(candidate(number) for number in range(1, 90))]
    lookup.on_reply(peer_id(500), names, 0.0)
    assert len(asked(lookup, 0.0)) <= 5
    assert lookup.standing_of(OWN_ID) is None
    assert lookup.standing_of(peer_id(6)) is None


def test_candidates_are_bounded_and_the_closest_are_kept() -> None:
    lookup = lookup_of([1000], alpha=1, k=10, candidates_max=12)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(1000), [candidate(number) for number in range(50, 60)], 0.0)
    assert asked(lookup, 0.0) == [50]
    lookup.on_reply(peer_id(50), [candidate(number) for number in range(10, 20)], 0.0)
    lookup.validate_state()
    kept = [number for number in range(1, 100) if lookup.standing_of(peer_id(number))]
    assert kept == [*range(10, 20), 50]


def test_refresh_stops_once_the_beta_closest_have_answered() -> None:
    lookup = lookup_of([1, 2, 3, 4, 5], goal=Goal.REFRESH, alpha=4, beta=2)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(1), [], 0.1)
    lookup.on_reply(peer_id(3), [], 0.1)
    assert not isinstance(lookup.next(0.1), Done)
    lookup.on_reply(peer_id(2), [], 0.1)
    assert lookup.next(0.1) == Done()


def test_read_and_write_ask_all_k_closest() -> None:
    for goal in (Goal.READ, Goal.WRITE):
        lookup = lookup_of(range(1, 30), goal=goal, alpha=4, k=20)
        everybody: list[int] = []
        while wave := asked(lookup, 0.0):
            everybody += wave
            for number in wave:
                lookup.on_reply(peer_id(number), [], 0.0)
        assert sorted(everybody) == list(range(1, 21))


def test_input_after_the_end_changes_nothing() -> None:
    lookup = lookup_of([1, 2], goal=Goal.REFRESH, alpha=2, beta=1)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(1), [], 0.1)
    assert lookup.next(0.1) == Done()
    lookup.on_reply(peer_id(2), [candidate(3)], 0.2)
    lookup.on_failure(peer_id(2), 0.3)
    lookup.on_bad(peer_id(1), 0.3)
    assert lookup.next(9.0) == Done()
    assert [number_of(found) for found in lookup.closest()] == [1]


def test_lookup_without_seeds_is_done_at_once() -> None:
    assert lookup_of([]).next(0.0) == Done()


# Who was near enough and yet never asked


def ended(seeds: list[Candidate], answering: list[int], **config: int) -> Lookup:
    """Run a lookup in which only these answer, naming nobody, and the others fail."""
    lookup = Lookup(
        TARGET,
        seeds,
        own_id=OWN_ID,
        goal=Goal.READ,
        config=LookupConfig(**config),  # type: ignore[arg-type]
        now=0.0,
    )
    while isinstance(step := lookup.next(0.0), Ask):
        if number_of(step.candidate) in answering:
            lookup.on_reply(step.candidate.peer_id, [], 0.0, step.candidate.address)
        else:
            lookup.on_failure(step.candidate.peer_id, 0.0, step.candidate.address)
    assert step == Done()
    return lookup


def passed(lookup: Lookup) -> dict[int, PassedOver]:
    return {number_of(candidate): why for candidate, why in lookup.passed_over()}


def test_those_whom_their_block_crowds_out_are_told() -> None:
    seeds = [candidate(number, block=1) for number in (1, 2, 3)]
    seeds += [candidate(number, block=number) for number in (4, 5, 6)]
    lookup = ended(seeds, [1, 2, 3, 4, 5, 6], k=3, block_contacts_max=2)
    assert [number_of(each) for each in lookup.closest()] == [1, 2, 4]
    assert passed(lookup) == {3: PassedOver.CROWDED}, "5 and 6 are farther than the closest"


def test_those_silent_lately_are_told_where_there_are_enough_others() -> None:
    mute = msgspec.structs.replace(candidate(1), is_silent=True)
    assert passed(ended([mute, candidate(2), candidate(3)], [2, 3], k=2)) == {
        1: PassedOver.SILENT_BEFORE
    }
    assert passed(ended([mute, candidate(2)], [2], k=2)) == {}, "it was asked for want of others"


def test_those_beyond_the_limit_of_requests_are_told() -> None:
    lookup = ended([candidate(number) for number in range(1, 5)], [1, 2], k=4, requests_max=2)
    assert passed(lookup) == {3: PassedOver.LIMIT, 4: PassedOver.LIMIT}


def test_those_whose_tellers_named_too_many_dead_are_told() -> None:
    lookup = Lookup(
        TARGET,
        [candidate(50)],
        own_id=OWN_ID,
        goal=Goal.READ,
        config=LookupConfig(k=5, alpha=1, teller_failures_max=2, doubtful_requests_max=1),
        now=0.0,
    )
    assert asked(lookup, 0.0) == [50]
    lookup.on_reply(peer_id(50), [candidate(number) for number in range(1, 6)], 0.0)
    while isinstance(step := lookup.next(0.0), Ask):
        lookup.on_failure(step.candidate.peer_id, 0.0, step.candidate.address)
    assert step == Done()
    assert passed(lookup) == {4: PassedOver.DOUBTED, 5: PassedOver.DOUBTED}
