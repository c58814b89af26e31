"""Who hands records over: the closest few holders, to whoever is new among the k closest."""

from hypothesis import given
from hypothesis import strategies as st

from dht.handing import hands_over, heirs, may_be_close

ids = st.integers(0, 2**20)
networks = st.lists(ids, min_size=1, max_size=60, unique=True)


def nearest(key: int, peers: list[int], k: int) -> list[int]:
    return sorted(peers, key=lambda each: each ^ key)[:k]


def test_the_next_closest_moves_up_for_each_that_has_gone() -> None:
    assert heirs(0, [1, 3, 5, 6], [2, 4], k=4) == [5, 6]
    assert heirs(0, [1, 3, 5, 6], [7, 8], k=4) == [], "they were not among the closest"
    assert heirs(0, [1, 3], [2], k=3) == [], "everybody held the records already"


def test_only_the_closest_holders_hand_over() -> None:
    closest = [1, 2, 9]
    assert hands_over(0, 3, closest, [1], holders=2), "the newcomer holds nothing yet"
    assert not hands_over(0, 3, closest, [9], holders=2)
    assert hands_over(0, 3, closest, [9], holders=3)


@given(ids, networks, st.data(), st.integers(1, 20))
def test_heirs_are_exactly_those_who_were_not_among_the_closest_before(
    key: int, before: list[int], data: st.DataObject, k: int
) -> None:
    departed = data.draw(st.lists(st.sampled_from(before), unique=True))
    left = [each for each in before if each not in departed]
    closest = nearest(key, left, k)
    moved_up = [each for each in closest if each not in nearest(key, before, k)]
    assert heirs(key, closest, departed, k=k) == moved_up


@given(ids, networks, st.integers(1, 20), st.integers(1, 4))
def test_some_holder_hands_each_key_over_and_never_more_than_the_limit(
    key: int, peers: list[int], k: int, holders: int
) -> None:
    receiver, *others = peers
    closest = nearest(key, peers, k)
    givers = [
        each
        for each in others
        if hands_over(
            key, each, [one for one in closest if one != each], [receiver], holders=holders
        )
        and each in closest
    ]
    in_place = [each for each in closest if each != receiver]
    assert givers == [each for each in others if each in in_place[:holders]]


@given(ids, networks, st.integers(1, 20))
def test_whoever_is_passed_over_at_once_is_not_among_the_closest(
    key: int, peers: list[int], k: int
) -> None:
    peer, *others = peers
    if not may_be_close(key, peer, sorted(others), closer_max=k - 1):
        assert peer not in nearest(key, peers, k)


def test_the_crowd_nearer_to_a_key_rules_a_far_peer_out() -> None:
    assert not may_be_close(0b1000, 0b0001, [0b1001, 0b1010, 0b1011], closer_max=2)
    assert may_be_close(0b1000, 0b1100, [0b0011, 0b1001, 0b1010], closer_max=2)
