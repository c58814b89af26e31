"""When our wall clock counts as wrong, and when it is only in doubt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.clock import AGREEMENT_MS, OFFSET_MIN_MS, SAMPLES_MAX, ClockWatch

HOUR_MS = 3_600_000


def heard(*offsets_ms: int) -> ClockWatch:
    watch = ClockWatch()
    for number, offset_ms in enumerate(offsets_ms):
        watch.heard(bytes([number]) * 20, offset_ms)
    return watch


def test_three_contacts_that_agree_correct_the_clock():
    watch = heard(2 * HOUR_MS, 2 * HOUR_MS + 1000, 2 * HOUR_MS - 1000)
    assert watch.offset_ms == 2 * HOUR_MS
    assert watch.doubt_ms == 0


def test_two_contacts_raise_a_doubt_and_correct_nothing():
    watch = heard(-2 * HOUR_MS, -2 * HOUR_MS + 1000)
    assert watch.offset_ms == 0
    assert watch.doubt_ms == -2 * HOUR_MS


def test_two_contacts_that_contradict_each_other_raise_no_doubt():
    assert heard(2 * HOUR_MS, 0).doubt_ms == 0


def test_one_contact_heard_again_counts_once():
    watch = ClockWatch()
    for _ in range(5):
        watch.heard(bytes(20), 2 * HOUR_MS)
    assert watch.offset_ms == 0


def test_clock_that_is_right_again_is_no_longer_corrected():
    watch = heard(HOUR_MS, HOUR_MS, HOUR_MS)
    for number in range(3):
        watch.heard(bytes([number]) * 20, 10)
    assert (watch.offset_ms, watch.doubt_ms) == (0, 0)


@given(
    honest=st.lists(st.integers(-1000, 1000), min_size=4, max_size=20),
    liars=st.lists(st.integers(-(10**12), 10**12), max_size=3),
)
def test_minority_of_liars_never_moves_a_clock_that_is_right(honest: list[int], liars: list[int]):
    assert heard(*honest, *liars).offset_ms == 0


far_or_near = st.sampled_from([0, OFFSET_MIN_MS - 1, OFFSET_MIN_MS, -OFFSET_MIN_MS, HOUR_MS])


@given(st.lists(st.tuples(st.integers(0, 80), far_or_near), max_size=3 * SAMPLES_MAX))
def test_verdict_depends_on_the_last_samples_alone(said: list[tuple[int, int]]):
    watch = ClockWatch()
    for number, offset_ms in said:
        watch.heard(bytes([number]) * 20, offset_ms)
    anew = heard(*watch.samples_ms)
    assert (watch.offset_ms, watch.doubt_ms) == (anew.offset_ms, anew.doubt_ms)
    if all(abs(each) < OFFSET_MIN_MS for each in watch.samples_ms):
        assert (watch.offset_ms, watch.doubt_ms) == (0, 0)


@given(st.lists(st.integers(-(10**12), 10**12), max_size=2 * SAMPLES_MAX))
def test_correction_lies_near_more_than_half_of_the_samples(offsets: list[int]):
    watch = heard(*offsets)
    if watch.offset_ms:
        kept = offsets[-SAMPLES_MAX:]
        near = sum(abs(each - watch.offset_ms) <= AGREEMENT_MS for each in kept)
        assert near >= 3
        assert 2 * near > len(kept)
        assert abs(watch.offset_ms) >= OFFSET_MIN_MS
