"""The lookup against a plain reference, in networks of dead, slow, lying and crowded peers."""

from __future__ import annotations

import random

from hypothesis import example, given
from hypothesis import strategies as st

from dht.lookup import Candidate, Goal, Lookup, Standing
from tests.dht.worlds import (
    World,
    lookup_of,
    number_of,
    peer_id,
    reference_closest,
    run,
    spread_plainly,
    worlds,
)


def found_by(lookup: Lookup) -> list[int]:
    return [number_of(one) for one in lookup.closest()]


goals = st.sampled_from([Goal.READ, Goal.WRITE])


@given(worlds(with_slow=False), st.integers(1, 8), goals)
def test_one_request_at_a_time_finds_exactly_what_the_reference_finds(
    drawn: tuple[World, list[int]], k: int, goal: Goal
) -> None:
    world, seeds = drawn
    # With hardly a soft timeout nothing runs beside anything: the same order as the reference.
    lookup = world.lookup(
        seeds,
        goal,
        alpha=1,
        k=k,
        soft_timeout_s=2.0,
        requests_max=2000,
        tellers_max=1000,
        fruitless_max=9999,
    )
    run(world, lookup, random.Random(1))
    assert found_by(lookup) == reference_closest(world, seeds, k=k)


@given(worlds(with_slow=True), st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**32), goals)
def test_result_is_the_k_closest_alive_of_all_that_were_named(
    drawn: tuple[World, list[int]], k: int, alpha: int, seed: int, goal: Goal
) -> None:
    world, seeds = drawn
    trustful: dict[str, float] = {"teller_failures_max": 10_000, "block_failures_max": 10_000}
    lookup = world.lookup(
        seeds, goal, alpha=alpha, k=k, linger_s=2.0, requests_max=2000, **trustful
    )
    run(world, lookup, random.Random(seed))
    named = {*seeds}
    for number in world.names:
        if lookup.standing_of(peer_id(number)) is Standing.ANSWERED:
            named |= world.named_by(number, k)
    alive = {
        number for number in named if not world.is_silent(number) and number not in world.malformed
    }
    assert found_by(lookup) == spread_plainly(sorted(alive), k, world.blocks)


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
    found = found_by(lookup)
    assert found == reference_closest(world, seeds, k=k)
    honest = [number for number in live if number not in liars]
    assert set(honest[: k - len([liar for liar in liars if liar in found])]) <= {*found}


@given(worlds(with_slow=True), st.sampled_from(list(Goal)), st.integers(1, 30))
def test_every_lookup_ends_within_its_requests_and_its_time(
    drawn: tuple[World, list[int]], goal: Goal, requests_max: int
) -> None:
    world, seeds = drawn
    lookup = world.lookup(seeds, goal, alpha=3, k=4, requests_max=requests_max)
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
    assert found_by(lookup) == sorted(honest)[:20]


def test_thirty_per_cent_dead_cost_soft_timeouts_and_not_seconds() -> None:
    rng = random.Random(5)
    numbers = rng.sample(range(1, 10_000), 200)
    dead = set(rng.sample(numbers, 60))
    live = [number for number in sorted(numbers) if number not in dead]
    names = {number: live[:12] + rng.sample(numbers, 8) for number in live}
    lookup = lookup_of(rng.sample(numbers, 20))
    took_s = run(World(names, dead), lookup, rng)
    assert took_s < 4.0
    assert found_by(lookup)[:12] == live[:12]


def sybil_world(rng: random.Random, *, blocks_count: int, kind: str) -> tuple[World, list[int]]:
    """Make a network whose target lies amid Sybils: silent, lying or sending us elsewhere.

    Sixty honest peers, each in a block of its own, know each other and the Sybils that answer;
    four hundred Sybils in a few blocks are closer to the target than all of them.
    """
    honest = sorted(rng.sample(range(5_000, 9_000), 60))
    sybils = rng.sample(range(1, 4_000), 400)
    world = World({})
    world.blocks = {number: rng.randrange(blocks_count) for number in sybils}
    world.blocks |= {number: 100 + place for place, number in enumerate(honest)}
    sybils.sort()
    for number in honest:
        told = spread_plainly([*rng.sample(sybils, 40), *honest], 20, world.blocks)
        world.names[number] = [one for one in told if one != number]
    made_up = rng.sample(range(4_000, 5_000), 600)
    for number in made_up:  # addresses cost nothing: those of honest blocks, too
        world.blocks[number] = rng.choice([100 + rng.randrange(60), 1_000 + rng.randrange(5_000)])
    if kind == "silent":
        world.names |= {number: [] for number in sybils}
        world.dead = set(sybils)
        return world, honest[-5:]
    for number in sybils:
        if kind == "lying":
            world.names[number] = rng.sample(made_up, 20)
        else:
            world.names[number] = honest[:20]
            here = world.candidate(number)
            world.moved[number] = {
                one: Candidate(peer_id(one), here.address) for one in honest[:20]
            }
    return world, honest[-5:]


kinds = st.sampled_from(["silent", "lying", "elsewhere"])


@example(2**32, "lying", 4, Goal.READ)  # 163 requests
@given(st.integers(0, 2**32), kinds, st.integers(1, 8), goals)
def test_sybils_in_few_blocks_hide_none_of_the_closest_honest_peers(
    seed: int, kind: str, blocks_count: int, goal: Goal
) -> None:
    rng = random.Random(seed)
    world, seeds = sybil_world(rng, blocks_count=blocks_count, kind=kind)
    lookup = world.lookup(seeds, goal)
    took_s = run(world, lookup, rng)
    closest_honest = sorted(number for number in world.names if number >= 5_000)
    assert set(closest_honest[: 20 - blocks_count]) <= {*found_by(lookup)}
    assert lookup.requests < lookup._config.requests_max, "it ended by itself"
    assert took_s < 9.0


@given(st.integers(0, 2**32), st.integers(1, 21), goals)
def test_network_within_one_public_block_is_found_like_a_private_one(
    seed: int, size: int, goal: Goal
) -> None:
    rng = random.Random(seed)
    numbers = rng.sample(range(1, 500), size)
    names = {number: sorted(set(numbers) - {number})[:20] for number in numbers}
    crowded = World(names, dead=set(rng.sample(numbers, size // 4)))
    crowded.blocks = dict.fromkeys(numbers, 1)
    seeds = sorted(numbers)[:20]
    lookup = crowded.lookup(seeds, goal)
    run(crowded, lookup, rng)
    alive = sorted(number for number in numbers if number not in crowded.dead)
    assert found_by(lookup) == alive[:20]
