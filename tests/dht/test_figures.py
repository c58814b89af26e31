import statistics

from hypothesis import given
from hypothesis import strategies as st

from dht.figures import DURATIONS_MAX, Durations, percentile
from tests.dht.nodes import file_payloads, nodes_of

durations = st.floats(0, 1e6)


@given(st.lists(durations, min_size=1), st.integers(1, 100))
def test_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], percent: int
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= len(values) * percent
    assert sum(value < found for value in values) * 100 < len(values) * percent
    assert percentile(values, 100) == max(values)
    assert percentile(values, 50) == statistics.median_low(values)


@given(st.lists(durations, max_size=DURATIONS_MAX + 50))
def test_only_the_last_count_for_times_and_all_for_the_number(values: list[float]) -> None:
    kept = Durations()
    for value in values:
        kept.add(value)
    assert kept.count == len(values)
    assert kept.percentile_s(95) == percentile(values[-DURATIONS_MAX:], 95)


async def test_reads_and_publishes_are_timed() -> None:
    async with nodes_of(3) as nodes:
        await nodes[1].publish(file_payloads())
        assert nodes[1].lookups().count >= 1
        before = nodes[0].lookups().count
        await nodes[0].find_name("nothing")
        assert nodes[0].lookups().count == before + 1
        took_s = nodes[0].lookups().percentile_s(50)
        assert took_s is not None
        assert 0 <= took_s < 5
