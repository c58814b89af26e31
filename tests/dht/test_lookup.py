"""The lookup against a plain reference, in a network of dead, slow and lying peers."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from dht.lookup import Ask, Candidate, Done, Goal, Lookup, LookupConfig, Standing, Wait
from identity.address import Address

OWN_ID = b"\xff" * 20
TARGET = bytes(20)
STEPS_MAX = 20_000


def peer_id(number: int) -> bytes:
    return number.to_bytes(20, "big")


def candidate(number: int, *, port: int | None = None) -> Candidate:
    return Candidate(peer_id(number), Address("10.0.0.1", port or 1 + number))


def number_of(found: Candidate) -> int:
    return int.from_bytes(found.peer_id, "big")


def lookup_of(
    seeds: Sequence[int], *, goal: Goal = Goal.READ, now: float = 0.0, **config: float
) -> Lookup:
    return Lookup(
        TARGET,
        [candidate(number) for number in seeds],
        own_id=OWN_ID,
        goal=goal,
        config=LookupConfig(**config),  # type: ignore[arg-type]
        now=now,
    )


def asked(lookup: Lookup, now: float) -> list[int]:
    """Take all requests that the lookup wants sent now."""
    numbers = []
    while isinstance(step := lookup.next(now), Ask):
        numbers.append(number_of(step.candidate))
    return numbers


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


def test_lookup_in_a_hurry_lingers_no_longer_for_the_late() -> None:
    lookup = lookup_of([1, 2], alpha=2, k=5, linger_s=1.0)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(2), [], 0.001)
    assert lookup.next(0.5) == Wait(1.5)
    lookup.hurry(0.2)
    lookup.hurry(5.0)  # never longer again
    assert lookup.next(0.6) == Wait(0.7)
    assert lookup.next(0.7) == Done()


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
    lookup = lookup_of([1, 5], alpha=2, k=3)
    asked(lookup, 0.0)
    lookup.on_failure(peer_id(1), 0.1)
    lookup.on_reply(peer_id(5), [candidate(1), candidate(1, port=777)], 0.2)
    assert asked(lookup, 0.2) == []
    assert lookup.next(0.2) == Done()
    assert [number_of(found) for found in lookup.closest()] == [5]


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
    both = [candidate(1, port=666), candidate(1)]
    lookup.on_reply(peer_id(8), both, 0.0)
    assert lookup.next(0.0) == Ask(both[0])
    assert lookup.next(0.5) == Ask(both[1])
    lookup.on_failure(peer_id(1), 2.0, both[0].address)
    assert lookup.standing_of(peer_id(1)) is Standing.LATE
    lookup.on_reply(peer_id(1), [], 2.1)
    assert lookup.standing_of(peer_id(1)) is Standing.ANSWERED


def test_addresses_tried_for_one_id_are_bounded() -> None:
    lookup = lookup_of([9], alpha=1, addresses_max=2)
    asked(lookup, 0.0)
    lookup.on_reply(peer_id(9), [candidate(1, port=port) for port in range(1, 11)], 0.0)
    tried = 0
    while isinstance(lookup.next(float(tried)), Ask):
        tried += 1
        lookup.on_failure(peer_id(1), float(tried))
    assert tried == 2


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


# Whole lookups in random networks


@dataclass
class World:
    """A network as a graph: whom each peer names, and how it behaves."""

    names: dict[int, list[int]]
    dead: set[int] = field(default_factory=set)
    slow: set[int] = field(default_factory=set)
    malformed: set[int] = field(default_factory=set)

    def reply(self, number: int) -> list[Candidate]:
        return [candidate(named) for named in self.names.get(number, [])]

    def is_silent(self, number: int) -> bool:
        return number in self.dead or number not in self.names


def run(world: World, lookup: Lookup, rng: random.Random) -> float:
    """Run a lookup on a virtual clock, checking its invariants; return how long it took."""
    now, turn = 0.0, 0
    arrivals: list[tuple[float, int, int]] = []
    for _ in range(STEPS_MAX):
        lookup.validate_state()
        match lookup.next(now):
            case Done():
                return now
            case Ask(sent):
                number = number_of(sent)
                turn += 1
                if not world.is_silent(number):
                    least_s, most_s = (0.6, 1.9) if number in world.slow else (0.001, 0.4)
                    heapq.heappush(arrivals, (now + rng.uniform(least_s, most_s), turn, number))
            case Wait(until_s):
                assert until_s > now, "a wait that does not end"
                if not arrivals or arrivals[0][0] > until_s:
                    assert until_s != float("inf"), "waits for ever"
                    now = until_s
                    continue
                now, _, number = heapq.heappop(arrivals)
                if number in world.malformed:
                    lookup.on_bad(peer_id(number), now)
                else:
                    lookup.on_reply(peer_id(number), world.reply(number), now)
    raise AssertionError("the lookup does not end")


def reference_closest(world: World, seeds: Sequence[int], k: int) -> list[int]:
    """Find the k closest plainly: ask one after the other, with endless patience."""
    known, answered, gone = set(seeds), set[int](), set[int]()
    while True:
        window = sorted(known - gone)[:k]
        unasked = [number for number in window if number not in answered]
        if not unasked:
            return window
        number = unasked[0]
        if world.is_silent(number) or number in world.malformed:
            gone.add(number)
            continue
        answered.add(number)
        known.update([named for named in world.names[number] if named != number][:k])


@st.composite
def worlds(draw: st.DrawFn, *, with_slow: bool) -> tuple[World, list[int]]:
    """Draw any graph: names at random, some of nobody; peers dead, slow, malformed."""
    size = draw(st.integers(1, 40))
    rng = random.Random(draw(st.integers(0, 2**32)))
    numbers = rng.sample(range(1, 4 * size + 1), size)
    nobody = rng.sample(range(1000, 1010), rng.randint(0, 5)) + rng.sample(range(1, 200), 5)
    world = World(
        {
            number: rng.sample([*numbers, *nobody], rng.randint(0, min(size, 12)))
            for number in numbers
        }
    )
    world.dead = {number for number in numbers if rng.random() < 0.2}
    world.malformed = {number for number in numbers if rng.random() < 0.1}
    if with_slow:
        world.slow = {number for number in numbers if rng.random() < 0.2}
    return world, rng.sample(numbers, rng.randint(1, min(size, 5)))


goals = st.sampled_from([Goal.READ, Goal.WRITE])


@given(worlds(with_slow=False), st.integers(1, 8), goals)
def test_one_request_at_a_time_finds_exactly_what_the_reference_finds(
    drawn: tuple[World, list[int]], k: int, goal: Goal
) -> None:
    world, seeds = drawn
    # With hardly a soft timeout nothing runs beside anything: the same order as the reference.
    lookup = lookup_of(seeds, goal=goal, alpha=1, k=k, soft_timeout_s=2.0, requests_max=2000)
    run(world, lookup, random.Random(1))
    assert [number_of(found) for found in lookup.closest()] == reference_closest(world, seeds, k)


@given(worlds(with_slow=True), st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**32), goals)
def test_nobody_alive_that_was_named_is_closer_than_the_result(
    drawn: tuple[World, list[int]], k: int, alpha: int, seed: int, goal: Goal
) -> None:
    world, seeds = drawn
    lookup = lookup_of(seeds, goal=goal, alpha=alpha, k=k, linger_s=2.0, requests_max=2000)
    run(world, lookup, random.Random(seed))
    found = [number_of(one) for one in lookup.closest()]
    named = {*seeds}
    for number in found:
        named.update([name for name in world.names[number] if name != number][:k])
    alive = {
        number for number in named if not world.is_silent(number) and number not in world.malformed
    }
    farthest = found[-1] if len(found) == k else 10**9
    assert {number for number in alive if number < farthest} <= {*found}


@given(
    st.integers(8, 60),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(0, 2**32),
    goals,
)
def test_among_liars_slow_and_dead_both_find_the_true_k_closest_alive(
    size: int, k: int, alpha: int, seed: int, goal: Goal
) -> None:
    rng = random.Random(seed)
    numbers = rng.sample(range(1, 500), size)
    dead = set(rng.sample(numbers, size // 4))
    liars = set(rng.sample(sorted(set(numbers) - dead), size // 5))
    live = sorted(set(numbers) - dead)
    # Honest peers name the k closest living they know of, the liars nobodies close by.
    names = {number: [name for name in live if name != number][:k] for number in live}
    nobodies = [number for number in range(1, 500) if number not in numbers]
    names |= {liar: rng.sample(nobodies, k + 3) for liar in liars}
    world = World(names, dead, slow={number for number in live if rng.random() < 0.2})
    seeds = [*rng.sample(numbers, 3), rng.choice([one for one in live if one not in liars])]
    lookup = lookup_of(
        seeds, goal=goal, alpha=alpha, k=k, linger_s=2.0, requests_max=2000, candidates_max=2000
    )
    run(world, lookup, rng)
    found = [number_of(one) for one in lookup.closest()]
    assert found == reference_closest(world, seeds, k)
    honest = [number for number in live if number not in liars]
    assert set(honest[: k - len([liar for liar in liars if liar in found])]) <= {*found}


@given(worlds(with_slow=True), st.sampled_from(list(Goal)), st.integers(1, 30))
def test_every_lookup_ends_within_its_requests_and_its_time(
    drawn: tuple[World, list[int]], goal: Goal, requests_max: int
) -> None:
    world, seeds = drawn
    lookup = lookup_of(seeds, goal=goal, alpha=3, k=4, requests_max=requests_max)
    took_s = run(world, lookup, random.Random(2))
    assert lookup.requests <= requests_max
    assert took_s <= 0.5 * requests_max + 2.0


@given(st.integers(0, 2**32))
def test_crowd_of_liars_costs_a_bounded_time_and_hides_nobody(seed: int) -> None:
    rng = random.Random(seed)
    honest = rng.sample(range(5_000, 9_000), 30)
    # Twenty liars, each naming twenty others that do not exist and would be closest of all.
    liars = rng.sample(range(9_000, 9_900), 20)
    names: dict[int, list[int]] = {
        number: [name for name in sorted(honest) if name != number][:20] for number in honest
    }
    names |= {liar: rng.sample(range(1, 4_000), 20) for liar in liars}
    world = World(names)
    lookup = lookup_of([*rng.sample(honest, 3), *rng.sample(liars, 5)])
    took_s = run(world, lookup, rng)
    assert took_s < 0.5 * 200 / 8 + 2.0
    assert [number_of(one) for one in lookup.closest()] == sorted(honest)[:20]


def test_thirty_per_cent_dead_cost_soft_timeouts_and_not_seconds() -> None:
    rng = random.Random(5)
    numbers = rng.sample(range(1, 10_000), 200)
    dead = set(rng.sample(numbers, 60))
    live = [number for number in sorted(numbers) if number not in dead]
    names = {number: live[:12] + rng.sample(numbers, 8) for number in live}
    lookup = lookup_of(rng.sample(numbers, 20))
    took_s = run(World(names, dead), lookup, rng)
    assert took_s < 4.0
    assert [number_of(one) for one in lookup.closest()][:12] == live[:12]
