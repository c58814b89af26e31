"""The queue of due times: no call takes long, however many times have changed."""

import random

from hypothesis import given
from hypothesis import strategies as st

from dht.due import HEAPS, SLACK, STALE_MAX, DueTimes

NAMES = [bytes([number]) * 20 for number in range(2 * HEAPS)]


def held(due: DueTimes) -> int:
    return sum(map(len, due._heaps))


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.none() | st.integers(0, 50)), min_size=1, max_size=300
    ),
    st.integers(0, 50),
)
def test_it_tells_what_a_plain_table_of_times_tells(
    changes: list[tuple[bytes, int | None]], now_ms: int
) -> None:
    due, plain = DueTimes(), dict[bytes, int]()
    for name, time_ms in changes:
        if time_ms is None:
            due.drop(name)
            plain.pop(name, None)
        else:
            due.set(name, time_ms)
            plain[name] = time_ms
        assert due.earliest() == min(plain.values(), default=None)
    over = {name for _ in changes for name in due.over(now_ms, len(changes))}
    assert over == {name for name, time_ms in plain.items() if time_ms <= now_ms}
    assert len(due) == len(plain) - len(over)
    assert due.earliest() == min((each for each in plain.values() if each > now_ms), default=None)


def test_no_call_takes_off_many_and_the_earliest_is_never_told_too_late() -> None:
    rng, due = random.Random(1), DueTimes()
    names = [rng.randbytes(20) for _ in range(20_000)]
    for time_ms in (10, 20, 30):  # planned, held, handed out
        for name in names:
            due.set(name, time_ms)
    before, calls = held(due), 0
    while (told := due.earliest()) != 30:
        assert told is not None
        assert told < 30
        calls += 1
        assert before - held(due) <= STALE_MAX * calls
    assert calls >= 2, "or this shows nothing"


def test_what_does_not_count_stays_bounded_under_endless_changes() -> None:
    due = DueTimes()
    for number in range(10_000):
        due.set(NAMES[0], 1_000 + number)
    assert held(due) <= 2 + SLACK
    assert due.earliest() == 10_999


def test_at_most_so_many_are_over_at_once() -> None:
    due = DueTimes()
    for name in NAMES:
        due.set(name, 5)
    assert len(list(due.over(5, 10))) == 10
    assert len(due) == len(NAMES) - 10
