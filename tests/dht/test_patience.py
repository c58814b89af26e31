"""How long somebody waits: generous to the unknown, short with the silent."""

from hypothesis import given
from hypothesis import strategies as st

from dht.lookup import Candidate
from dht.patience import (
    EXPECTED_MIN_S,
    ROUND_TRIPS_MAX,
    SILENT_MAX,
    SILENT_S,
    SILENT_SENDS_MIN,
    WAIT_MIN_S,
    Patience,
)
from identity.address import Address

HERE, THERE = Address("10.0.0.1", 1), Address("10.0.0.2", 2)
PEER = b"p" * 20

bounds = st.none() | st.floats(min_value=0.0, max_value=30.0)


def patience_of(bound_s: float | None) -> Patience:
    return Patience(lambda _peer_id, _address: bound_s)


def wait_s(patience: Patience, *, at_most_s: float = 10.0, now: float = 0.0) -> float:
    return patience.wait_s(PEER, HERE, at_most_s=at_most_s, now=now)


def test_unknown_peer_has_all_the_time_there_is() -> None:
    assert wait_s(patience_of(None), at_most_s=7.0) == 7.0
    assert patience_of(None).resend_s(PEER, HERE, unknown_s=0.6) == 0.6


def test_known_quick_peer_has_a_moment_and_a_known_slow_one_more() -> None:
    assert wait_s(patience_of(0.001)) == WAIT_MIN_S
    assert wait_s(patience_of(0.4)) > 1.0
    assert patience_of(0.001).resend_s(PEER, HERE, unknown_s=0.6) == 0.15
    assert patience_of(0.4).resend_s(PEER, HERE, unknown_s=0.6) == 0.4


def test_silent_peer_has_little_time_until_it_answers() -> None:
    patience = patience_of(0.001)
    patience.silent(HERE, now=0.0)
    assert wait_s(patience) == 0.3
    assert patience.is_silent(HERE, now=1.0)
    assert not patience.is_silent(THERE, now=1.0)
    patience.answered(HERE)
    assert wait_s(patience) == WAIT_MIN_S


def test_silence_is_forgotten_after_a_while() -> None:
    patience = patience_of(None)
    patience.silent(HERE, now=0.0)
    assert patience.is_silent(HERE, now=SILENT_S)
    assert not patience.is_silent(HERE, now=SILENT_S + 1)


def test_silent_addresses_are_bounded_and_the_latest_stay() -> None:
    patience = patience_of(None)
    for port in range(1, SILENT_MAX + 10):
        patience.silent(Address("10.0.0.1", port), now=0.0)
    assert not patience.is_silent(Address("10.0.0.1", 9), now=0.0)
    assert patience.is_silent(Address("10.0.0.1", 10), now=0.0)


def test_lookup_is_told_of_the_silent_only() -> None:
    patience = patience_of(0.3)
    candidate = Candidate(PEER, HERE, soft_timeout_s=0.3)
    assert patience.annotate(candidate, now=0.0) == candidate
    patience.silent(HERE, now=0.0)
    annotated = patience.annotate(candidate, now=0.0)
    assert (annotated.soft_timeout_s, annotated.linger_s) == (0.3, 0.0)


@given(bounds, st.booleans(), st.floats(min_value=0.01, max_value=10.0))
def test_no_wait_is_longer_than_asked_for_and_silence_only_shortens_it(
    bound_s: float | None, silent: bool, at_most_s: float
) -> None:
    patience = patience_of(bound_s)
    before = wait_s(patience, at_most_s=at_most_s)
    if silent:
        patience.silent(HERE, now=0.0)
    after = wait_s(patience, at_most_s=at_most_s)
    assert 0 < after <= at_most_s
    assert after <= before or bound_s is None
    assert patience.resend_s(PEER, HERE, unknown_s=0.6) <= 0.6
    if bound_s is not None:
        assert after >= min(bound_s, at_most_s), "a live peer has time for its round trip"


def test_unknown_peer_is_expected_within_the_round_trips_of_late() -> None:
    patience = patience_of(None)
    assert patience.expected_s(at_most_s=0.5) == 0.5, "nothing is known yet"
    for number in range(100):
        patience.answered(HERE, 0.1 + number / 1000)
    assert 0.2 < patience.expected_s(at_most_s=0.5) < 0.26
    assert patience.expected_s(at_most_s=0.1) == 0.1
    assert 0.2 < patience.resend_s(PEER, THERE, unknown_s=0.6) < 0.26
    for _ in range(ROUND_TRIPS_MAX):
        patience.answered(HERE, 0.0001)
    assert patience.expected_s(at_most_s=0.5) == EXPECTED_MIN_S


def test_candidate_that_stays_silent_is_asked_only_where_others_lack() -> None:
    patience = patience_of(0.3)
    candidate = Candidate(PEER, HERE)
    for sends in range(1, SILENT_SENDS_MIN + 1):
        patience.silent(HERE, now=0.0)
        assert patience.annotate(candidate, now=0.0).is_silent == (sends >= SILENT_SENDS_MIN)
    assert patience.annotate(candidate, now=SILENT_S + 1) == candidate
    patience.answered(HERE)
    patience.silent(HERE, now=1.0)
    assert not patience.annotate(candidate, now=1.0).is_silent, "it answered in between"
