"""Rates: a flood meets them, real use does not, one source costs another nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.limits import Allowance, DoubleLimit, Limits, Rate, RateLimit, RequestLimits
from identity.address import Address

HOME = Address("127.0.0.1", 4100)
PUBLIC = Address("8.8.8.8", 4100)


@given(
    rate=st.floats(0.1, 1_000.0),
    burst=st.floats(1.0, 1_000.0),
    takings=st.lists(st.tuples(st.floats(0, 10.0), st.floats(0, 50.0)), max_size=60),
)
def test_over_any_time_no_more_than_the_burst_and_the_rate_is_taken(
    rate: float, burst: float, takings: list[tuple[float, float]]
) -> None:
    allowance = Allowance(Rate(rate, burst), 0.0)
    now = taken = 0.0
    for pause_s, amount in takings:
        now += pause_s
        if allowance.takes(Rate(rate, burst), amount, now):
            taken += amount
        assert taken <= burst + rate * now + 1e-6


def test_clock_that_stands_still_or_steps_back_gives_nothing() -> None:
    rate = Rate(10.0, 1.0)
    allowance = Allowance(rate, 100.0)
    assert allowance.takes(rate, 1.0, 100.0)
    assert not allowance.takes(rate, 1.0, 50.0)


def test_giving_back_never_fills_beyond_the_burst() -> None:
    limit = RateLimit(Rate(0.001, 2.0))
    assert limit.allows("a", now=0.0)
    for _ in range(5):
        limit.give_back("a")
    limit.give_back("never seen")
    assert [limit.allows("a", now=0.0) for _ in range(3)] == [True, True, False]


def test_source_over_its_own_rate_takes_nothing_from_the_others() -> None:
    limit = DoubleLimit(Rate(0.001, 2.0), Rate(0.001, 4.0))
    assert [limit.allows("flood", now=0.0) for _ in range(50)].count(True) == 2
    assert limit.allows("quiet", now=0.0)
    assert limit.allows("other", now=0.0)
    assert not limit.allows("late", now=0.0), "all together have had theirs"


def test_real_use_never_meets_the_rates_of_requests() -> None:
    """3,000 requests a second from one peer for a minute, and a burst of 20,000 at once."""
    limits = RequestLimits(Limits())
    assert all(
        limits.request(HOME, b"p" * 20, 900, now=number / 3_000) for number in range(180_000)
    )
    assert all(limits.request(HOME, b"q" * 20, 900, now=60.0) for _ in range(20_000))


def test_flood_meets_them_and_peers_beside_it_on_one_host_do_not() -> None:
    limits = RequestLimits(Limits())
    flood = [limits.request(HOME, b"f" * 20, 100, now=number / 50_000) for number in range(100_000)]
    assert 20_000 <= flood.count(True) <= 20_000 + 2 * 4_000 + 1
    assert limits.request(HOME, b"p" * 20, 100, now=2.0)


def test_bytes_are_limited_where_requests_are_large() -> None:
    limits = RequestLimits(Limits(request_bytes=Rate(1.0, 5_000.0)))
    large = [limits.request(HOME, b"f" * 20, 1_200, now=0.0) for _ in range(10)]
    assert large.count(True) == 4


def test_public_address_block_is_one_source_whatever_its_ids() -> None:
    limits = RequestLimits(Limits(requests=Rate(0.001, 3.0)))
    answered = [limits.request(PUBLIC, bytes([n]) * 20, 100, now=0.0) for n in range(9)]
    assert answered.count(True) == 3


def test_many_ids_together_meet_the_common_rate() -> None:
    limits = RequestLimits(Limits(requests_all=Rate(0.001, 50.0)))
    answered = [limits.request(HOME, n.to_bytes(20, "big"), 100, now=0.0) for n in range(90)]
    assert answered.count(True) == 50


def test_memory_of_sources_is_bounded() -> None:
    limits = RequestLimits(Limits(requests_all=Rate(1e9, 1e9), request_bytes_all=Rate(1e9, 1e9)))
    for number in range(10_000):
        limits.request(HOME, number.to_bytes(20, "big"), 100, now=0.0)
        limits.hello(Address("10.0.0.1", 1 + number), now=0.0)
    assert len(limits) <= 3 * 4_096
