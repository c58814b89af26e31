"""Whom a lookup doubts: shares of address blocks, and the accounts of blocks and tellers."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dht.candidates import LookupConfig
from dht.doubt import Account, Doubts, Hint, is_spread, spread
from dht.lookup import Ask, Done, Goal, Standing
from tests.dht.worlds import World, asked, candidate, peer_id, run

CONFIG = LookupConfig(teller_failures_max=3, block_failures_max=2)


def hint_of(number: int, *tellers: Account, block: int | None = None) -> Hint:
    found = candidate(number, block=block)
    return Hint(found, found.address.block, not tellers, list(tellers))


# Shares of places


def chosen(blocks: str, count: int, share: int = 1) -> str:
    """Spread letters; lower-case letters are private."""
    return "".join(
        spread(
            blocks,
            count,
            block_of=lambda block: block if block.isupper() else "",
            block_contacts_max=share,
        )
    )


def test_each_block_has_one_place_while_others_are_there() -> None:
    assert chosen("AAAABBCDE", 4) == "ABCD"
    assert chosen("AAAABBCDE", 5, share=2) == "AABBC"


def test_private_addresses_share_no_block() -> None:
    assert chosen("aaaaaAAb", 7) == "aaaaaAb"


def test_places_are_filled_up_by_distance_where_blocks_are_few() -> None:
    assert chosen("AAABB", 4) == "AAAB"
    assert chosen("AAAA", 3) == "AAA"


@given(st.text("ABCDxyz", max_size=40), st.integers(1, 20), st.integers(1, 3))
def test_any_choice_is_full_in_order_and_as_spread_as_it_can_be(
    blocks: str, count: int, share: int
) -> None:
    places = [*enumerate(blocks)]
    result = spread(
        places,
        count,
        block_of=lambda place: place[1] if place[1].isupper() else "",
        block_contacts_max=share,
    )
    assert len(result) == min(count, len(places))
    assert result == sorted(result)
    distinct = sum(
        min(share, blocks.count(each)) if each.isupper() else blocks.count(each)
        for each in set(blocks)
    )
    in_share = sum(
        min(share, kinds) if each.isupper() else kinds
        for each in set(blocks)
        for kinds in [sum(place[1] == each for place in result)]
    )
    assert in_share == min(count, distinct)


@given(st.text("ABCDxyz", max_size=12), st.integers(1, 12), st.integers(1, 3))
def test_the_first_that_are_spread_already_are_the_choice(
    blocks: str, count: int, share: int
) -> None:
    first = [block if block.isupper() else "" for block in blocks[:count]]
    is_within = all(first.count(each) <= share for each in set(first) if each)
    assert is_spread(first, share) == is_within
    if is_within:
        assert chosen(blocks, count, share) == blocks[:count]


# Accounts


def test_teller_is_overdrawn_by_failures_that_outnumber_answers() -> None:
    doubts = Doubts(CONFIG)
    teller = doubts.teller()
    hints = [hint_of(number, teller) for number in range(8)]
    for hint in hints[:2]:
        doubts.failed(hint)
    assert not doubts.is_doubtful(hints[7]), "two failures happen to anybody"
    doubts.failed(hints[2])
    assert doubts.is_doubtful(hints[7])
    for hint in hints[3:6]:
        doubts.answered(hint)
    assert not doubts.is_doubtful(hints[7]), "as many answered as failed"


def test_candidate_that_somebody_else_names_too_is_not_doubtful() -> None:
    doubts = Doubts(CONFIG)
    liar, honest = doubts.teller(), doubts.teller()
    for number in range(5):
        doubts.failed(hint_of(number, liar))
    assert doubts.is_doubtful(hint_of(7, liar))
    assert not doubts.is_doubtful(hint_of(7, liar, honest))
    assert not doubts.is_doubtful(hint_of(7)), "our own contact needs no teller"


def test_late_answer_takes_the_failure_back() -> None:
    doubts = Doubts(CONFIG)
    teller = doubts.teller()
    hints = [hint_of(number, teller, block=1) for number in range(4)]
    for hint in hints[:3]:
        doubts.failed(hint)
        doubts.failed(hint)  # a soft timeout, then the hard one: one failure
    assert (teller.failures, teller.answers) == (3, 0)
    doubts.answered(hints[0])
    doubts.answered(hints[0])
    assert (teller.failures, teller.answers) == (2, 1)
    assert not doubts.is_doubtful(hint_of(9, teller))


def test_malformed_reply_is_no_word_against_who_named_its_sender() -> None:
    doubts = Doubts(CONFIG)
    teller = doubts.teller()
    for number in range(5):
        hint = hint_of(number, teller)
        doubts.failed(hint)
        doubts.bad(hint)
    assert teller.failures == 0


def test_what_happened_before_somebody_named_it_counts_for_the_teller() -> None:
    doubts = Doubts(CONFIG)
    dead, alive = hint_of(1, doubts.teller()), hint_of(2, doubts.teller())
    doubts.failed(dead)
    doubts.answered(alive)
    late = doubts.teller()
    dead.told_by(late, 8)
    alive.told_by(late, 8)
    assert (late.failures, late.answers) == (1, 1)


def test_block_that_failed_waits_unless_more_tellers_name_one_of_it() -> None:
    doubts = Doubts(CONFIG)
    for number in range(2):
        doubts.failed(hint_of(number, doubts.teller(), block=1))
    tellers = [doubts.teller() for _ in range(3)]
    assert doubts.is_doubtful(hint_of(7, *tellers[:2], block=1))
    assert not doubts.is_doubtful(hint_of(7, *tellers, block=1))
    assert not doubts.is_doubtful(hint_of(7, *tellers[:2], block=2))
    assert not doubts.is_doubtful(hint_of(7, *tellers[:2])), "private"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["told", "told", "answered", "failed", "bad"]),
            st.integers(0, 5),
            st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True),
        ),
        max_size=25,
    )
)
def test_what_is_noted_down_until_something_fails_comes_to_the_same(
    events: list[tuple[str, int, list[int]]],
) -> None:
    config = LookupConfig(tellers_max=3)
    noting, at_once = Doubts(config), Doubts(config)
    at_once._enter_notes()
    seen: list[list[tuple[int, int]]] = []
    doubtful: list[list[bool]] = []
    for doubts in (noting, at_once):
        tellers = [doubts.teller() for _ in range(6)]
        hints = [hint_of(number, tellers[number], block=number % 3) for number in range(6)]
        for event, number, others in events:
            if event == "told":
                doubts.told(tellers[number], [hints[each] for each in others])
            else:
                getattr(doubts, event)(hints[number])
        doubtful.append([doubts.is_doubtful(hint) for hint in hints])
        assert [doubts.named(hint) <= 3 for hint in hints] == [True] * 6
        seen.append([(each.failures, each.answers) for each in tellers])
    assert seen[0] == seen[1]
    assert doubtful[0] == doubtful[1]


# In a lookup


def test_window_asks_one_of_each_public_block_and_then_the_others() -> None:
    world = World({}, blocks={1: 1, 2: 1, 3: 1, 4: 2, 5: 3})
    lookup = world.lookup([1, 2, 3, 4, 5], Goal.READ, k=3, alpha=8)
    assert asked(lookup, 0.0) == [1, 4, 5]
    few = world.lookup([1, 2, 3, 4], Goal.READ, k=3, alpha=8)
    assert asked(few, 0.0) == [1, 4, 2], "the places that are left, by distance"


def test_closest_that_answered_are_spread_over_blocks() -> None:
    world = World({}, blocks={1: 1, 2: 1, 3: 2})
    lookup = world.lookup([1, 2, 3], Goal.WRITE, k=2)
    assert asked(lookup, 0.0) == [1, 3]
    for number in (1, 3):
        lookup.on_reply(peer_id(number), [], 0.1)
    assert lookup.next(0.1) == Done()
    assert [each.peer_id for each in lookup.closest()] == [peer_id(1), peer_id(3)]


def test_silent_block_costs_a_bounded_number_of_tries_while_others_wait() -> None:
    sybils, honest = list(range(1, 61)), list(range(200, 214))
    world = World({number: [] for number in honest}, blocks=dict.fromkeys(sybils, 1))
    for place, teller in enumerate(range(300, 310)):
        world.names[teller] = [*sybils[6 * place : 6 * place + 6], *honest]
    lookup = world.lookup(range(300, 310), Goal.READ)
    run(world, lookup, random.Random(3))
    tried = [
        one for one in sybils if lookup.standing_of(peer_id(one)) not in (None, Standing.HEARD)
    ]
    assert 1 <= len(tried) <= 3, "one that is under way when another fails, at most"
    assert len(lookup.closest()) == 20


def test_doubtful_candidates_are_asked_last_and_in_bounded_number() -> None:
    world = World({})
    lookup = world.lookup([900, 901], Goal.READ, k=20, alpha=2, doubtful_requests_max=4)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(900), [candidate(number) for number in range(1, 21)], 0.1)
    lookup.on_reply(peer_id(901), [candidate(500)], 0.1)
    now, order = 0.1, []
    while not isinstance(step := lookup.next(now), Done):
        if isinstance(step, Ask):
            number = int.from_bytes(step.candidate.peer_id, "big")
            order.append(number)
            if number == 500:
                lookup.on_reply(step.candidate.peer_id, [], now)
            continue
        now = step.until_s
    assert order[:4] == [1, 2, 3, 4], "named by one of whom nothing bad is known yet"
    assert order[4] == 500
    assert len(order) <= 5 + 4
    lookup.validate_state()


def test_silent_candidate_is_asked_only_where_others_lack_and_not_waited_for() -> None:
    mute = candidate(1)
    mute = type(mute)(mute.peer_id, mute.address, soft_timeout_s=0.3, linger_s=0.0, is_silent=True)
    world = World({})
    lookup = world.lookup([], Goal.READ, k=2, alpha=4)
    full = world.lookup([2, 3], Goal.READ, k=2, alpha=4)
    for each in (lookup, full):
        each._hear(mute, None)
    full_asked = asked(full, 0.0)
    assert full_asked == [2, 3]
    assert asked(lookup, 0.0) == [1], "nobody else is there"
    lookup._hear(candidate(2), None)
    assert asked(lookup, 0.0) == [2]
    lookup.on_reply(peer_id(2), [], 0.001)
    assert lookup.next(0.001) == Done()
