"""The budget of signature checks: rate, lanes, shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.budget import SHARE_DIVISOR, VerifyBudget

RATE_HZ = 100.0
BURST = 40


def make_budget() -> VerifyBudget:
    return VerifyBudget(rate_hz=RATE_HZ, burst_max=BURST)


def granted(budget: VerifyBudget, caller: str, tries: int, now: float) -> int:
    return sum(budget.allows(caller, now=now) for _ in range(tries))


def test_one_caller_gets_its_share_and_leaves_the_rest_to_others() -> None:
    budget = make_budget()
    assert granted(budget, "greedy", 100, 0.0) == BURST // SHARE_DIVISOR
    assert granted(budget, "modest", 5, 0.0) == 5


def test_callers_together_get_no_more_than_the_bucket_holds() -> None:
    budget = make_budget()
    assert sum(granted(budget, str(number), 10, 0.0) for number in range(50)) == BURST


def test_slow_lane_waits_while_the_quick_one_still_has_its_part() -> None:
    budget = make_budget()
    assert budget.wait_s(30, now=0.0) == 0.0
    for _ in range(30):
        assert budget.spend(now=0.0)
    assert budget.wait_s(1, now=0.0) == pytest.approx(1 / RATE_HZ)
    assert granted(budget, "quick", 1, 0.0) == 1


def test_turn_that_waited_as_long_as_it_was_told_may_go() -> None:
    budget = make_budget()
    for _ in range(BURST):
        budget.spend(now=0.0)
    wait_s = budget.wait_s(20, now=0.0)
    assert budget.wait_s(20, now=wait_s + 1e-9) == 0.0


def test_turn_larger_than_the_bucket_goes_when_it_is_full() -> None:
    budget = make_budget()
    assert budget.wait_s(1_000, now=0.0) == 0.0


def test_clock_that_stands_or_goes_back_gives_nothing() -> None:
    budget = make_budget()
    granted(budget, "a", BURST, 10.0)
    for number in range(BURST):
        granted(budget, str(number), 1, 5.0)
    assert granted(budget, "late", 1, 10.0) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.floats(0, 0.5)), max_size=200)
)
def test_never_more_than_burst_and_rate_allow(steps: list[tuple[str, bool, float]]) -> None:
    budget = make_budget()
    now, given_out, by_caller = 0.0, 0, dict.fromkeys("abcdefgh", 0)
    for caller, is_quick, pause_s in steps:
        now += pause_s
        if is_quick:
            allowed = budget.allows(caller, now=now)
            by_caller[caller] += allowed
        else:
            allowed = budget.wait_s(1, now=now) == 0.0 and budget.spend(now=now)
        given_out += allowed
        assert given_out <= BURST + RATE_HZ * now + 1e-6
        share = (BURST + RATE_HZ * now) / SHARE_DIVISOR
        assert all(count <= share + 1e-6 for count in by_caller.values())
