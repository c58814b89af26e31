"""Who is missed is asked again, soon at first and ever more rarely; the list stays bounded."""

import random

from hypothesis import given
from hypothesis import strategies as st

from dht.absent import JITTER, Absent, Absentee
from identity.address import Address

FIRST_S = 10.0
LONGEST_S = 3600.0
HERE = Absentee(Address("192.0.2.1", 4100), b"p" * 20)


def make_absent(absent_max: int = 8, seed: int = 1) -> Absent:
    return Absent(
        random.Random(seed), absent_max=absent_max, retry_min_s=FIRST_S, retry_max_s=LONGEST_S
    )


def questions(absent: Absent, until_s: float) -> list[float]:
    """When whoever is missed is asked, up to a time."""
    asked: list[float] = []
    while (due := absent.next_due()) is not None and due <= until_s:
        asked.extend([due] * len(absent.due(due, 8)))
    return asked


@given(seed=st.integers())
def test_each_wait_is_twice_the_last_up_to_the_longest(seed: int) -> None:
    absent = make_absent(seed=seed)
    absent.missed(HERE, 0.0)
    asked = questions(absent, 20 * LONGEST_S)
    waits = [later - earlier for earlier, later in zip([0.0, *asked], asked, strict=False)]
    for number, wait_s in enumerate(waits):
        expected_s = min(FIRST_S * 2**number, LONGEST_S)
        assert (1 - JITTER) * expected_s <= wait_s <= (1 + JITTER) * expected_s + 1e-6
    assert len(asked) > 20, "it is never given up"


@given(seed=st.integers(), cut_s=st.floats(FIRST_S, LONGEST_S))
def test_after_a_cut_somebody_is_asked_within_about_as_long_as_it_took(
    seed: int, cut_s: float
) -> None:
    absent = make_absent(seed=seed)
    absent.missed(HERE, 0.0)
    next_question = next(at for at in questions(absent, 10 * LONGEST_S) if at >= cut_s)
    assert next_question - cut_s <= 2 * (1 + JITTER) * cut_s


def test_who_answers_leaves_or_is_elsewhere_is_asked_no_more() -> None:
    absent = make_absent()
    elsewhere = Absentee(Address("192.0.2.2", 4100), HERE.peer_id)
    unknown = Absentee(Address("192.0.2.3", 4100))
    for absentee in (HERE, elsewhere, unknown):
        assert absent.missed(absentee, 0.0)
    absent.back(unknown.address)
    assert len(absent) == 2
    assert HERE.peer_id is not None
    absent.left(HERE.peer_id)
    assert absent.next_due() is None
    assert absent.due(1e9, 8) == []


def test_being_missed_again_changes_nothing() -> None:
    absent = make_absent()
    assert absent.missed(HERE, 0.0)
    due = absent.next_due()
    assert not absent.missed(HERE, 5.0)
    assert absent.next_due() == due


def test_longest_due_are_asked_first_and_only_so_many_at_once() -> None:
    absent = make_absent()
    missed = [Absentee(Address("192.0.2.1", port)) for port in range(1, 6)]
    for number, absentee in enumerate(missed):
        absent.missed(absentee, 100.0 * number)
    assert absent.due(1_000.0, 2) == missed[:2]
    assert absent.due(1_000.0, 8) == missed[2:]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["missed", "back", "left", "due"]), st.integers(1, 12), st.floats(0, 50)
        )
    )
)
def test_any_history_keeps_the_list_bounded_and_one_entry_an_address(
    steps: list[tuple[str, int, float]],
) -> None:
    absent, now = make_absent(absent_max=4), 0.0
    for step, port, pause_s in steps:
        now += pause_s
        address, peer_id = Address("192.0.2.1", port), bytes([port % 5]) * 20
        match step:
            case "missed":
                absent.missed(Absentee(address, peer_id), now)
            case "back":
                absent.back(address)
            case "left":
                absent.left(peer_id)
            case _:
                asked = [each.address for each in absent.due(now, 3)]
                assert len(set(asked)) == len(asked) <= 3
                assert absent.next_due() is None or len(absent.due(now, 8)) + len(asked) <= 4
        assert len(absent) <= 4
        due = absent.next_due()
        assert due is None or due <= now + LONGEST_S * (1 + JITTER)
