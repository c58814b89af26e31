"""Which word keys are hot, for how long, and whom a reader believes about it."""

from hypothesis import given
from hypothesis import strategies as st

from dht import heat
from dht.heat import HOT_MS, Heat, HotKeys, agreed, heat_of_number, needs_shard

KEYS = [bytes([number]) * 20 for number in range(3)]
refusals = st.lists(
    st.tuples(st.sampled_from(KEYS), st.booleans(), st.integers(0, 3 * HOT_MS)), max_size=12
)


@given(refusals, st.integers(0, 4 * HOT_MS))
def test_a_key_is_hot_for_a_day_from_its_last_refusal(
    refused: list[tuple[bytes, bool, int]], now_ms: int
) -> None:
    hot = HotKeys()
    for key, is_long, at_ms in refused:
        hot.refused(key, is_long=is_long, now_ms=at_ms)
    for key in KEYS:
        alive = [
            is_long for each, is_long, at_ms in refused if each == key and now_ms < at_ms + HOT_MS
        ]
        expected = Heat.COOL if not alive else Heat.HOT_LONG if any(alive) else Heat.HOT
        assert hot.heat_of(key, now_ms=now_ms) is expected


def test_marks_are_bounded_and_the_oldest_goes_first() -> None:
    hot = HotKeys()
    keys = [number.to_bytes(20) for number in range(heat.HOT_KEYS_MAX + 1)]
    for key in keys[:-1]:
        hot.refused(key, is_long=False, now_ms=0)
    hot.refused(keys[0], is_long=False, now_ms=1)
    hot.refused(keys[-1], is_long=False, now_ms=2)
    assert len(hot) == heat.HOT_KEYS_MAX
    assert hot.heat_of(keys[0], now_ms=3) is Heat.HOT
    assert hot.heat_of(keys[1], now_ms=3) is Heat.COOL


@given(st.integers(0, 20), st.integers(1, 20), st.sampled_from([Heat.HOT, Heat.HOT_LONG]))
def test_fewer_than_a_quarter_of_the_storers_make_no_key_hot(
    liars: int, honest: int, told: Heat
) -> None:
    heats = [told] * liars + [Heat.COOL] * honest
    assert agreed(heats) is (told if 4 * liars >= len(heats) else Heat.COOL)


@given(st.lists(st.sampled_from(Heat), max_size=20), st.sampled_from(Heat))
def test_one_storer_more_that_tells_of_heat_never_cools(told: list[Heat], more: Heat) -> None:
    before = agreed(told)
    assert agreed([*told, Heat.HOT_LONG]) >= before
    assert agreed([]) is Heat.COOL
    assert agreed([more]) is more


@given(st.integers(0, 20), st.integers(0, 20))
def test_what_is_moved_to_a_shard_is_seen_by_readers_though_a_fifth_of_the_storers_lie(
    refused: int, stored: int
) -> None:
    if not needs_shard(refused, stored):
        return
    liars = (refused + stored) // 5
    heats = [Heat.HOT] * (refused - min(liars, refused)) + [Heat.COOL] * (stored + liars)
    assert agreed(heats[: refused + stored]) is Heat.HOT


def test_a_record_most_storers_took_needs_no_shard() -> None:
    assert not needs_shard(0, 0)
    assert not needs_shard(1, 2)
    assert needs_shard(1, 1)
    assert needs_shard(1, 0)


def test_a_heat_of_a_later_version_asks_for_the_most_care() -> None:
    assert [heat_of_number(number) for number in (0, 1, 2, 3, 255)] == [0, 1, 2, 2, 2]
