"""Regions: whatever they answer without a lookup is what a lookup would have found."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.lookup import Candidate
from dht.regions import ID_BITS, Regions, Survey, _ball
from identity.address import Address

SPACE = 1 << ID_BITS
GAPS_MAX = 4


@dataclass(frozen=True)
class World:
    """Peers that are there, and the exact answers that lookups give."""

    k: int
    peers: tuple[Candidate, ...]

    def closest(self, target: int) -> tuple[Candidate, ...]:
        """One of a block, k in all; where there are fewer, the others fill up."""
        near = self.near(target)
        seen: set[str] = set()
        first: list[Candidate] = []
        for peer in near:
            if peer.address.block not in seen or not peer.address.block:
                first.append(peer)
                seen.add(peer.address.block)
        chosen = first[: self.k]
        others = [peer for peer in near if peer not in first]
        chosen += others[: self.k - len(chosen)]
        return tuple(peer for peer in near if peer in chosen)

    def near(self, target: int) -> list[Candidate]:
        return sorted(self.peers, key=lambda peer: int.from_bytes(peer.peer_id, "big") ^ target)

    def survey(self, target: int, far: int = 0) -> Survey:
        """What a lookup knows at its end; it also met `far` peers farther off."""
        closest = self.closest(target)
        near = self.near(target)
        ball = near[: near.index(closest[-1]) + 1] if closest else []
        met = [*closest, *near[len(ball) : len(ball) + far]]
        crowded = [peer for peer in ball if peer not in closest]
        return Survey(key_of(target), closest, tuple(met), tuple(crowded))

    def is_whole(self) -> bool:
        return len(self.peers) < self.k


def key_of(number: int) -> bytes:
    return number.to_bytes(20, "big")


def peer_at(number: int, host: str = "127.0.0.1") -> Candidate:
    return Candidate(key_of(number), Address(host, 4100))


def random_world(peers: int, k: int = 20, blocks: int = 0, seed: int = 1) -> World:
    rng = random.Random(seed)

    def host() -> str:
        return f"8.8.{rng.randrange(blocks)}.{rng.randrange(1, 255)}" if blocks else "127.0.0.1"

    return World(k, tuple(peer_at(rng.randrange(SPACE), host()) for _ in range(peers)))


def sweep(world: World, keys: Sequence[int]) -> tuple[int, list[tuple[Candidate, ...]]]:
    """Find the storers of all keys in order; return how many lookups that took, and them."""
    regions = Regions(world.k)
    lookups = 0
    storers = []
    for key in sorted(keys):
        for _ in range(GAPS_MAX):
            if (known := regions.closest(key_of(key))) is not None:
                break
            lookups += 1
            gap = int.from_bytes(regions.gap(key_of(key)), "big")
            regions.learn(world.survey(gap), is_whole=world.is_whole())
        if known is None:
            lookups += 1
            regions.learn(world.survey(key), is_whole=world.is_whole())
            known = list(world.closest(key))
        storers.append(tuple(known))
    return lookups, storers


# --- exact --------------------------------------------------------------------------------------

# Few leading bits, so that peers, targets and keys fall into one another's neighbourhoods, and
# some last bits, so that edges are met to the bit.
ids = st.builds(
    lambda high, low: (high << (ID_BITS - 6)) + low, st.integers(0, 63), st.integers(0, 3)
)
hosts = st.sampled_from(["10.0.0.1", "8.8.1.1", "8.8.2.1", "8.8.3.1"])
worlds = st.builds(
    World,
    st.integers(1, 5),
    st.lists(st.builds(peer_at, ids, hosts), max_size=30, unique_by=lambda peer: peer.peer_id).map(
        tuple
    ),
)


@given(worlds, st.lists(st.tuples(ids, st.integers(0, 5)), max_size=8), st.lists(ids, max_size=20))
def test_an_answer_is_what_a_lookup_would_find(
    world: World, lookups: list[tuple[int, int]], keys: list[int]
) -> None:
    regions = Regions(world.k)
    for target, far in lookups:
        regions.learn(world.survey(target, far), is_whole=world.is_whole())
    for key in keys:
        known = regions.closest(key_of(key))
        assert known is None or tuple(known) == world.closest(key)


@given(worlds, st.lists(ids, min_size=1, max_size=8), st.lists(ids, max_size=20), st.data())
def test_it_still_is_after_peers_went_and_were_found_gone(
    world: World, lookups: list[int], keys: list[int], data: st.DataObject
) -> None:
    regions = Regions(world.k)
    for target in lookups:
        regions.learn(world.survey(target), is_whole=world.is_whole())
    crowded = {peer.peer_id for target in lookups for peer in world.survey(target).crowded}
    gone = data.draw(st.sets(st.sampled_from(world.peers)) if world.peers else st.just(set()))
    gone = {peer for peer in gone if peer.peer_id not in crowded}
    for peer in gone:
        regions.vanished(peer.peer_id)
    left = World(world.k, tuple(peer for peer in world.peers if peer not in gone))
    for key in keys:
        known = regions.closest(key_of(key))
        assert known is None or tuple(known) == left.closest(key)


def test_who_was_crowded_out_may_fill_the_place_of_one_that_vanished() -> None:
    top = ID_BITS - 6
    away, first, crowded = (
        peer_at(0, "10.0.0.1"),
        peer_at(1, "8.8.1.1"),
        peer_at(1 << top, "8.8.1.1"),
    )
    far = (peer_at(32 << top, "10.0.0.1"), peer_at(48 << top, "10.0.0.1"))
    world = World(4, (away, first, crowded, *far))
    regions = Regions(world.k)
    for target in (0, 16 << top):
        regions.learn(world.survey(target))
    assert regions.closest(key_of(0)) == [away, first, *far]
    regions.vanished(away.peer_id)
    assert regions.closest(key_of(0)) is None, "a lookup would take the crowded one as well"


@given(ids, st.integers(1, SPACE))
def test_a_ball_is_cut_into_aligned_blocks_of_its_size(target: int, size: int) -> None:
    blocks = list(_ball(target, size))
    assert sum(end - start for start, end in blocks) == size
    for start, end in blocks:
        assert start % (end - start) == 0
        assert start ^ target < size
        assert (end - 1) ^ target < size


# --- frugal -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peers", "lookups_max"), [(10, 1), (25, 6), (100, 16), (400, 64)])
def test_a_sweep_over_many_keys_needs_few_lookups(peers: int, lookups_max: int) -> None:
    world = random_world(peers)
    rng = random.Random(2)
    keys = [rng.randrange(SPACE) for _ in range(2_000)]
    lookups, storers = sweep(world, keys)
    assert lookups <= lookups_max
    for key, found in random.Random(3).sample(list(zip(sorted(keys), storers, strict=True)), 50):
        assert found == world.closest(key)


def test_where_several_peers_share_address_blocks_a_sweep_needs_few_lookups_too() -> None:
    world = random_world(200, k=8, blocks=60)
    rng = random.Random(2)
    keys = [rng.randrange(SPACE) for _ in range(2_000)]
    lookups, storers = sweep(world, keys)
    assert lookups <= 250
    for key, found in zip(sorted(keys), storers, strict=True):
        assert found == world.closest(key)


def test_nothing_is_known_before_the_first_lookup() -> None:
    assert Regions(3).closest(key_of(0)) is None


def test_whole_small_network_is_known_after_one_lookup() -> None:
    world = random_world(5)
    regions = Regions(world.k)
    regions.learn(world.survey(0), is_whole=True)
    assert regions.closest(key_of(SPACE - 1)) == list(world.closest(SPACE - 1))


def test_peer_that_answers_late_counts_from_then_on() -> None:
    world = random_world(5)
    regions = Regions(world.k)
    regions.learn(world.survey(0), is_whole=True)
    late = peer_at(77)
    regions.appeared(late)
    assert regions.closest(key_of(77)) == [late, *world.closest(77)]
